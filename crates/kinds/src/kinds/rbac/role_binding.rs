//! `rbac.authorization.k8s.io/v1` RoleBinding: grants a role in one namespace.

use skiff_object::names;

use crate::base::{BASE, text};
use crate::def::ResourceDef;
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
    ..BASE
};
