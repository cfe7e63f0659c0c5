//! `apiextensions.k8s.io/v1` CustomResourceDefinition: a kind that a user defines.

use crate::base::{BASE, list, text, texts};
use crate::def::{ResourceDef, Scope, Subresource};

/// `customresourcedefinitions`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apiextensions.k8s.io"),
    plural: text("customresourcedefinitions"),
    singular: text("customresourcedefinition"),
    kind: text("CustomResourceDefinition"),
    list_kind: text("CustomResourceDefinitionList"),
    short_names: texts!["crd", "crds"],
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition"),
    subresources: list![Subresource::Status],
    has_generation: true,
    unconditional_update: false,
    ..BASE
};
