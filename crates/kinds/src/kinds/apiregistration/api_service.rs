//! `apiregistration.k8s.io/v1` APIService: a group and version, and who serves it.

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Scope, Subresource};

/// `apiservices`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apiregistration.k8s.io"),
    plural: text("apiservices"),
    singular: text("apiservice"),
    kind: text("APIService"),
    list_kind: text("APIServiceList"),
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService"),
    subresources: list![Subresource::Status],
    unconditional_update: false,
    ..BASE
};
