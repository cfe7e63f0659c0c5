//! `rbac.authorization.k8s.io/v1` RoleBinding: grants a role in one namespace.

use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, text};
use crate::def::{Context, ResourceDef};
use crate::rules::check::Faults;
use crate::rules::rbac_rules;

/// `rolebindings`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("rbac.authorization.k8s.io"),
    plural: text("rolebindings"),
    singular: text("rolebinding"),
    kind: text("RoleBinding"),
    list_kind: text("RoleBindingList"),
    schema: text("io.k8s.api.rbac.v1.RoleBinding"),
    create_on_update: true,
    name_rule: names::path_segment,
    columns: rbac_rules::BINDING_COLUMNS,
    default: rbac_rules::binding_defaults,
    row: rbac_rules::binding_row,
    validate,
    validate_update,
    ..BASE
};

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    rbac_rules::check_binding(&mut faults, object, true);
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    rbac_rules::check_binding_update(&mut faults, new, old);
    faults.into_list()
}
