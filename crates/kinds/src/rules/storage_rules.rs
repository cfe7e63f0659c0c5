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
pub fn check_access_modes(faults: &mut Faults, modes: &At) {
    if modes.is_blank() {
        faults.required(modes, "at least 1 access mode is required");
    }
    let all = modes.items();
    for mode in &all {
        faults.choice(mode, &ACCESS_MODES);
    }
    if all.len() > 1 && all.iter().any(|mode| mode.text() == "ReadWriteOncePod") {
        faults.forbidden(modes, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Checks a claim's specification.
pub fn check_claim(faults: &mut Faults, spec: &At) {
    check_access_modes(faults, &spec.get("accessModes"));
    faults.selector(&spec.get("selector"));
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
    for source in ["dataSource", "dataSourceRef"] {
        let source = spec.get(source);
        if source.is_set() {
            faults.needs(&source.get("name"));
            faults.needs(&source.get("kind"));
            if source.get("apiGroup").is_blank() && source.get("kind").text() != "PersistentVolumeClaim" {
                let kind = source.get("kind").value().clone();
                faults.invalid_as(
                    &source,
                    kind,
                    "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
                );
            }
        }
    }
}

/// Warns of the old way of naming the class.
pub fn warnings(object: &Object) -> Vec<String> {
    let old_way = object.annotation(CLASS_ANNOTATION).is_some();
    let words = "deprecated since v1.8; use \"storageClassName\" attribute instead";
    old_way.then(|| format!("metadata.annotations[{CLASS_ANNOTATION}]: {words}")).into_iter().collect()
}
