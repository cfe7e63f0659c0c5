//! `rbac.authorization.k8s.io/v1` ClusterRoleBinding: grants a ClusterRole everywhere.

use skiff_object::names;

use crate::base::{BASE, text};
use crate::def::{ResourceDef, Scope};
use crate::rules::rbac_rules;

/// `clusterrolebindings`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("rbac.authorization.k8s.io"),
    plural: text("clusterrolebindings"),
    singular: text("clusterrolebinding"),
    kind: text("ClusterRoleBinding"),
    list_kind: text("ClusterRoleBindingList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.rbac.v1.ClusterRoleBinding"),
    create_on_update: true,
    name_rule: names::path_segment,
    columns: rbac_rules::BINDING_COLUMNS,
    default: rbac_rules::binding_defaults,
    row: rbac_rules::binding_row,
    ..BASE
};
