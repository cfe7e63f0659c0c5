//! `v1` Namespace: a scope for names.

use skiff_object::names;

use crate::base::{BASE, list, special, text, texts};
use crate::def::{Deletion, ResourceDef, Scope, Subresource};

/// `namespaces`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("namespaces"),
    singular: text("namespace"),
    kind: text("Namespace"),
    list_kind: text("NamespaceList"),
    short_names: texts!["ns"],
    scope: Scope::Cluster,
    verbs: texts!["create", "delete", "get", "list", "patch", "update", "watch"],
    schema: text("io.k8s.api.core.v1.Namespace"),
    subresources: list![special("finalize", ("", "v1", "Namespace"), texts!["update"]), Subresource::Status,],
    deletion: Deletion::Namespace,
    name_rule: names::dns_label,
    ..BASE
};
