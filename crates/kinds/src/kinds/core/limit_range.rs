//! `v1` LimitRange: defaults and bounds of resources in a namespace.

use serde_json::Value;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, text, texts};
use crate::def::{Context, ResourceDef};
use crate::rules::check::{At, Faults};
use crate::rules::{quota_check, tree};

/// `limitranges`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("limitranges"),
    singular: text("limitrange"),
    kind: text("LimitRange"),
    list_kind: text("LimitRangeList"),
    short_names: texts!["limits"],
    schema: text("io.k8s.api.core.v1.LimitRange"),
    create_on_update: true,
    default: defaults,
    validate,
    ..BASE
};

/// A container's default is its maximum, and its default request its default or else its minimum.
fn defaults(object: &mut Object) {
    for item in tree::items_mut(object, &["spec", "limits"]) {
        if item.str_at(&["type"]) == "Container" {
            fill(item, "default", "max");
            fill(item, "defaultRequest", "default");
            fill(item, "defaultRequest", "min");
        }
    }
}

fn fill(item: &mut Value, field: &str, from: &str) {
    for (resource, quantity) in item.map_at(&[from]).cloned().unwrap_or_default() {
        item.default_at(&[field, &resource], quantity);
    }
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    quota_check::limit_range(&mut faults, &At::top(object, "spec"));
    faults.into_list()
}
