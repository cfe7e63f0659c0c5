//! `apiextensions.k8s.io/v1` CustomResourceDefinition: a kind that a user defines.

use serde_json::json;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Scope, Subresource};
use crate::rules::check::Faults;
use crate::rules::{crd_check, prepare, tree};

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
    default: defaults,
    prepare_create,
    prepare_update,
    validate,
    validate_update,
    ..BASE
};

const HTTPS_PORT: i64 = 443;

fn defaults(object: &mut Object) {
    let spec = tree::made_mut(object, &["spec"]);
    let kind = spec.str_at(&["names", "kind"]).to_owned();
    if !kind.is_empty() {
        tree::default_text(spec, &["names", "singular"], &kind.to_lowercase());
        tree::default_text(spec, &["names", "listKind"], &format!("{kind}List"));
    }
    tree::default_text(spec, &["conversion", "strategy"], "None");
    let service = tree::node_mut(spec, &["conversion", "webhook", "clientConfig", "service"]);
    if let Some(service) = service.filter(|node| node.is_object()) {
        service.default_at(&["port"], HTTPS_PORT);
    }
}

fn prepare_create(context: &Context, object: &mut Object) {
    let status = json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": []});
    prepare::create_with_status(context, object, status);
    remember_stored_version(object);
}

fn prepare_update(context: &Context, new: &mut Object, old: &Object) {
    prepare::update(context, new, old);
    if context.subresource != "status" {
        remember_stored_version(new);
    }
}

/// Objects are written in this version from now on, so that it must not be forgotten.
fn remember_stored_version(object: &mut Object) {
    let versions = object.list_at(&["spec", "versions"]).iter();
    let stored: Vec<_> = versions
        .filter(|version| version.bool_at(&["storage"]))
        .map(|version| json!(version.str_at(&["name"])))
        .collect();
    let mut known = object.list_at(&["status", "storedVersions"]).to_vec();
    for version in stored {
        if !known.contains(&version) {
            known.push(version);
        }
    }
    object.set_at(&["status", "storedVersions"], known);
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    crd_check::definition(&mut faults, object);
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    crd_check::update(&mut faults, new, old);
    faults.into_list()
}
