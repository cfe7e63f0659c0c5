//! `rbac.authorization.k8s.io/v1` Role: permissions in one namespace.

use skiff_object::names;

use crate::base::{BASE, text};
use crate::def::ResourceDef;

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
    ..BASE
};
