//! `v1` ResourceQuota: bounds on what a namespace may use.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{quota_check, table};

/// `resourcequotas`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("resourcequotas"),
    singular: text("resourcequota"),
    kind: text("ResourceQuota"),
    list_kind: text("ResourceQuotaList"),
    short_names: texts!["quota"],
    schema: text("io.k8s.api.core.v1.ResourceQuota"),
    subresources: list![Subresource::Status],
    columns: list![
        NAME,
        column("Request", "string", "What is requested, of what may be."),
        column("Limit", "string", "The sum of the limits, of what it may be."),
        AGE,
    ],
    row,
    validate,
    validate_update,
    ..BASE
};

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let mut hard: Vec<_> = object.map_at(&["status", "hard"]).into_iter().flatten().collect();
    hard.sort_by_key(|(resource, _)| resource.as_str());
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (resource, hard) in hard {
        let used = object.at(&["status", "used", resource]).and_then(Value::as_str).unwrap_or("0");
        let text = format!("{resource}: {used}/{}", hard.as_str().unwrap_or_default());
        if resource.starts_with("limits") { limits.push(text) } else { requests.push(text) }
    }
    cells![object.name(), requests.join(", "), limits.join(", "), table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    quota_check::quota(&mut faults, &At::top(object, "spec"));
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let scopes = |object| At::top(object, "spec").get("scopes");
    faults.immutable(&scopes(new), &scopes(old));
    faults.into_list()
}
