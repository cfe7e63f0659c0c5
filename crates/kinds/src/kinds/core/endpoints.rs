//! `v1` Endpoints: the addresses behind a Service, in the old shape.

use crate::base::{BASE, text, texts};
use crate::def::ResourceDef;

/// `endpoints`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("endpoints"),
    singular: text("endpoints"),
    kind: text("Endpoints"),
    list_kind: text("EndpointsList"),
    short_names: texts!["ep"],
    schema: text("io.k8s.api.core.v1.Endpoints"),
    create_on_update: true,
    ..BASE
};
