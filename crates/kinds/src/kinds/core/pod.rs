//! `v1` Pod: containers that run together on a node.

use crate::base::{BASE, list, special, text, texts};
use crate::def::{Deletion, ResourceDef, Subresource};

/// `pods`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("pods"),
    singular: text("pod"),
    kind: text("Pod"),
    list_kind: text("PodList"),
    short_names: texts!["po"],
    categories: texts!["all"],
    schema: text("io.k8s.api.core.v1.Pod"),
    subresources: list![
        special("attach", ("", "v1", "PodAttachOptions"), texts!["create", "get"]),
        special("binding", ("", "v1", "Binding"), texts!["create"]),
        special("ephemeralcontainers", ("", "v1", "Pod"), texts!["get", "patch", "update"]),
        special("eviction", ("policy", "v1", "Eviction"), texts!["create"]),
        special("exec", ("", "v1", "PodExecOptions"), texts!["create", "get"]),
        special("log", ("", "v1", "Pod"), texts!["get"]),
        special("portforward", ("", "v1", "PodPortForwardOptions"), texts!["create", "get"]),
        special("proxy", ("", "v1", "PodProxyOptions"), texts!["create", "delete", "get", "patch", "update"]),
        special("resize", ("", "v1", "Pod"), texts!["get", "patch", "update"]),
        Subresource::Status,
    ],
    has_generation: true,
    deletion: Deletion::GracefulPod,
    ..BASE
};
