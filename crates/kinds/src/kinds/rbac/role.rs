//! `rbac.authorization.k8s.io/v1` Role: permissions in one namespace.

use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, text};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::rbac_rules;

/// `roles`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("rbac.authorization.k8s.io"),
    plural: text("roles"),
    singular: text("role"),
    kind: text("Role"),
    list_kind: text("RoleList"),
    schema: text("io.k8s.api.rbac.v1.Role"),
    create_on_update: true,
    name_rule: names::path_segment,
    validate,
    ..BASE
};

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    rbac_rules::check_rules(&mut faults, &At::top(object, "rules"), true);
    faults.into_list()
}
