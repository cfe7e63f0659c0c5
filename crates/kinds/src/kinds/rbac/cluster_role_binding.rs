//! `rbac.authorization.k8s.io/v1` ClusterRoleBinding: grants a ClusterRole everywhere.

use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, text};
use crate::def::{Context, ResourceDef, Scope};
use crate::rules::check::Faults;
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
    validate,
    validate_update,
    ..BASE
};

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    rbac_rules::check_binding(&mut faults, object, false);
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    rbac_rules::check_binding_update(&mut faults, new, old);
    faults.into_list()
}
