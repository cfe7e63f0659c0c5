//! `v1` Node: a machine that runs Pods.

use crate::base::{BASE, list, special, text, texts};
use crate::def::{ResourceDef, Scope, Subresource};

/// `nodes`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("nodes"),
    singular: text("node"),
    kind: text("Node"),
    list_kind: text("NodeList"),
    short_names: texts!["no"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.core.v1.Node"),
    subresources: list![
        special("proxy", ("", "v1", "NodeProxyOptions"), texts!["create", "delete", "get", "patch", "update"]),
        Subresource::Status,
    ],
    ..BASE
};
