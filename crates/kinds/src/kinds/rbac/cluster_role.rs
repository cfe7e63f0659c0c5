//! `rbac.authorization.k8s.io/v1` ClusterRole: permissions, for the cluster or for any namespace.

use skiff_object::names;

use crate::base::{BASE, text};
use crate::def::{ResourceDef, Scope};

/// `clusterroles`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("rbac.authorization.k8s.io"),
    plural: text("clusterroles"),
    singular: text("clusterrole"),
    kind: text("ClusterRole"),
    list_kind: text("ClusterRoleList"),
    scope: Scope::Cluster,
    schema: text("io.k8s.api.rbac.v1.ClusterRole"),
    create_on_update: true,
    name_rule: names::path_segment,
    ..BASE
};
