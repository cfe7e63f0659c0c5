//! `v1` Service: a stable name and address for a set of Pods.

use skiff_object::names;

use crate::base::{BASE, list, special, text, texts};
use crate::def::{ResourceDef, Subresource};

/// `services`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("services"),
    singular: text("service"),
    kind: text("Service"),
    list_kind: text("ServiceList"),
    short_names: texts!["svc"],
    categories: texts!["all"],
    schema: text("io.k8s.api.core.v1.Service"),
    subresources: list![
        special("proxy", ("", "v1", "ServiceProxyOptions"), texts!["create", "delete", "get", "patch", "update"]),
        Subresource::Status,
    ],
    create_on_update: true,
    name_rule: names::dns_1035_label,
    ..BASE
};
