//! What PersistentVolumes, their claims and templates of claims share.

use serde_json::{Value, json};
use skiff_object::meta::Meta;
use skiff_object::{Object, names};

use crate::rules::check::{At, Faults};
use crate::rules::tree::{default_text, is_blank, made_mut};

/// An older way of naming the class.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

/// Sets a claim's defaults.
pub fn claim_defaults(claim: &mut Object) {
    default_text(claim, &["status", "phase"], "Pending");
    default_text(made_mut(claim, &["spec"]), &["volumeMode"], "Filesystem");
}

/// `dataSource` is the old way of writing `dataSourceRef`; whichever was written, both are kept the same.
pub fn same_sources(spec: &mut Value) {
    let (old, new) = (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned());
    match (old, new) {
        (Some(old), None) => spec.set_at(&["dataSourceRef"], old),
        (None, Some(new)) if is_blank(new.get("namespace")) && is_old_style(&new) => {
            let old = ["apiGroup", "kind", "name"]
                .into_iter()
                .filter_map(|field| Some((field.to_owned(), new.get(field)?.clone())));
            spec.set_at(&["dataSource"], old.collect::<Value>());
        }
        _ => {}
    }
}

/// The old field knows claims and snapshots only.
fn is_old_style(source: &Value) -> bool {
    matches!(
        (source.str_at(&["apiGroup"]), source.str_at(&["kind"])),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    )
}

/// The name of the storage class.
pub fn class_name(object: &Object) -> &str {
    object.annotation(CLASS_ANNOTATION).unwrap_or_else(|| object.str_at(&["spec", "storageClassName"]))
}

/// `RWO,ROX,RWX,RWOP`, in this order.
pub fn access_modes_text(modes: &[Value]) -> String {
    const SHORT: [(&str, &str); 4] =
        [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
    let shown = SHORT.iter().filter(|(name, _)| modes.contains(&json!(name))).map(|(_, short)| *short);
    shown.collect::<Vec<_>>().join(",")
}

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// Checks access modes: at least one, known, and `ReadWriteOncePod` alone.
pub fn access_modes(faults: &mut Faults, modes: &At, missing: &str) {
    if modes.is_blank() {
        faults.required(modes, missing);
    }
    let all = modes.texts();
    for mode in all.iter().filter(|mode| !ACCESS_MODES.contains(mode)) {
        faults.not_supported_as(modes, *mode, &ACCESS_MODES);
    }
    let others = all.iter().any(|mode| *mode != "ReadWriteOncePod" && ACCESS_MODES.contains(mode));
    if others && all.contains(&"ReadWriteOncePod") {
        faults.forbidden(modes, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Checks a claim's specification.
pub fn check_claim(faults: &mut Faults, spec: &At) {
    let modes = spec.get("accessModes");
    if modes.is_blank() {
        faults.required(&modes, "at least 1 access mode is required");
    }
    faults.selector(&spec.get("selector"));
    if !modes.is_blank() {
        access_modes(faults, &modes, "");
    }
    let resources = spec.get("resources");
    let storage = spec.walk(&["resources", "requests", "storage"]).renamed(resources.path().key("storage"));
    match storage.quantity() {
        None => faults.required(&storage, ""),
        Some(quantity) if quantity <= skiff_base::Quantity::ZERO => {
            faults.invalid(&storage, "must be greater than zero")
        }
        Some(_) => {}
    }
    faults.name(&spec.get("storageClassName"), names::check_dns_subdomain);
    faults.choice(&spec.get("volumeMode"), &["Block", "Filesystem"]);
    for source in ["dataSource", "dataSourceRef"].map(|field| spec.get(field)) {
        if source.is_set() {
            data_source(faults, &source);
        }
    }
    let (old, new) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    let told = old.path().to_string();
    let same = ["apiGroup", "kind", "name"].iter().all(|field| old.get(field).text() == new.get(field).text());
    match (old.is_set() && new.is_set(), new.get("namespace").is_blank()) {
        (true, false) => {
            faults.invalid_as(spec, told, "may not be specified when dataSourceRef.namespace is specified");
        }
        (true, true) if !same => faults.invalid_as(spec, told, "must match dataSourceRef"),
        _ => {}
    }
    faults.name(&spec.get("volumeAttributesClassName"), names::check_dns_subdomain);
}

fn data_source(faults: &mut Faults, source: &At) {
    let (group, kind) = (source.get("apiGroup"), source.get("kind"));
    faults.needs(&source.get("name"));
    faults.needs(&kind);
    if group.is_blank() && kind.text() != "PersistentVolumeClaim" {
        let words = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        faults.invalid_as(source, kind.text(), words);
    }
    faults.name(&group, names::check_dns_subdomain);
    faults.name(&source.get("namespace"), names::check_dns_label);
}

/// Warns of the old way of naming the class.
pub fn warnings(object: &Object) -> Vec<String> {
    let old_way = object.annotation(CLASS_ANNOTATION).is_some();
    let words = "deprecated since v1.8; use \"storageClassName\" attribute instead";
    old_way.then(|| format!("metadata.annotations[{CLASS_ANNOTATION}]: {words}")).into_iter().collect()
}

/// The most parameters of a class, and how much they may say.
const PARAMETERS_LIMIT: usize = 512;
const PARAMETERS_LIMIT_BYTES: usize = 256 * 1024;

/// Checks the parameters of a class.
pub fn parameters(faults: &mut Faults, parameters: &At, may_be_empty: bool) {
    let all = parameters.entries();
    if all.len() > PARAMETERS_LIMIT {
        faults.too_long(parameters, PARAMETERS_LIMIT);
        return;
    }
    for (key, _) in all.iter().filter(|(key, _)| key.is_empty()) {
        faults.invalid_as(parameters, *key, "field can not be empty.");
    }
    let size_bytes: usize = all.iter().map(|(key, value)| key.len() + value.text().len()).sum();
    if size_bytes > PARAMETERS_LIMIT_BYTES {
        faults.too_long(parameters, PARAMETERS_LIMIT_BYTES);
    }
    if all.is_empty() && !may_be_empty {
        faults.required(parameters, "must contain at least one key/value pair");
    }
}

/// The shortest and the longest life of a token.
const TOKEN_MIN_SECONDS: i64 = 10 * 60;
const TOKEN_MAX_SECONDS: i64 = 1 << 32;

/// Checks how long a token is to live.
pub fn token_seconds(faults: &mut Faults, seconds: &At) {
    if seconds.int().is_some_and(|seconds| seconds < TOKEN_MIN_SECONDS) {
        faults.invalid(seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds.int().is_some_and(|seconds| seconds > TOKEN_MAX_SECONDS) {
        faults.invalid(seconds, "may not specify a duration larger than 2^32 seconds");
    }
}
