//! `apps/v1` Deployment: declares Pods and rolls changes out over ReplicaSets.

use crate::base::{BASE, list, scale, text, texts};
use crate::def::{ResourceDef, Subresource};

/// `deployments`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apps"),
    plural: text("deployments"),
    singular: text("deployment"),
    kind: text("Deployment"),
    list_kind: text("DeploymentList"),
    short_names: texts!["deploy"],
    categories: texts!["all"],
    schema: text("io.k8s.api.apps.v1.Deployment"),
    subresources: list![scale(".spec.selector"), Subresource::Status,],
    has_generation: true,
    ..BASE
};
