//! The rules of metadata that hold for every kind: what the server sets, what a client may not change, what is valid.

use serde_json::Value;
use skiff_base::ids::Ids;
use skiff_base::{Timestamp, clock};
use skiff_kinds::ResourceDef;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, Object, Status, names};

use crate::failure::Result;

/// How much of a generated name the client chooses: the rest of 63 is the server's suffix.
const MAX_GENERATED_BASE: usize = 58;
/// The letters of a generated name's suffix.
const SUFFIX_LETTERS: usize = 5;
/// The bound on all annotations of an object together, as upstream's.
const MAX_ANNOTATIONS_BYTES: usize = 256 * 1024;

/// Fills in or checks the namespace that the path names.
pub fn settle_namespace(def: &ResourceDef, object: &mut Object, namespace: &str) -> Result<()> {
    object.map_mut(&["metadata"]);
    let own = object.namespace();
    if !def.is_namespaced() {
        if !own.is_empty() {
            object.remove_at(&["metadata", "namespace"]);
        }
        return Ok(());
    }
    if own.is_empty() {
        object.set_at(&["metadata", "namespace"], namespace);
    } else if own != namespace {
        let text = format!(
            "the namespace of the provided object does not match the namespace sent on the request ({own} != {namespace})"
        );
        let text = if namespace.is_empty() {
            text
        } else {
            "the namespace of the provided object does not match the namespace sent on the request".to_owned()
        };
        return Err(Status::bad_request(text).into());
    }
    Ok(())
}

/// A name from `generateName`.
pub fn generate_name(object: &Object, ids: &Ids) -> String {
    let base = object.str_at(&["metadata", "generateName"]);
    let mut end = base.len().min(MAX_GENERATED_BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{}", &base[..end], ids.suffix(SUFFIX_LETTERS))
}

/// Sets what only the server sets on a new object.
pub fn prepare_create(def: &ResourceDef, object: &mut Object, now: Timestamp, ids: &Ids) {
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "resourceVersion", "generation"] {
        object.remove_at(&["metadata", field]);
    }
    object.set_at(&["metadata", "creationTimestamp"], clock::rfc3339(now));
    object.set_at(&["metadata", "uid"], ids.uid());
    if def.has_generation {
        object.set_at(&["metadata", "generation"], 1);
    }
}

/// Carries over what a client may not change of an existing object.
pub fn prepare_update(new: &mut Object, old: &Object) {
    new.remove_at(&["metadata", "selfLink"]);
    for field in ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        // What differs in the immutable ones is an error, found by validation; what is absent is carried over.
        let carried = matches!(field, "generation" | "deletionTimestamp" | "deletionGracePeriodSeconds")
            || new.at(&["metadata", field]).is_none_or(Value::is_null);
        if !carried {
            continue;
        }
        match old.at(&["metadata", field]) {
            Some(value) => new.set_at(&["metadata", field], value.clone()),
            None => {
                new.remove_at(&["metadata", field]);
            }
        }
    }
}

/// Raises the generation where more than metadata and status changed.
pub fn raise_generation(def: &ResourceDef, new: &mut Object, old: &Object) {
    let ignored = |key: &str| matches!(key, "metadata" | "status" | "kind" | "apiVersion");
    let changed = |a: &Object, b: &Object| {
        let fields = a.as_object().into_iter().flatten();
        fields.filter(|(key, _)| !ignored(key)).any(|(key, value)| b.get(key) != Some(value))
    };
    if def.has_generation && (changed(new, old) || changed(old, new)) {
        new.set_at(&["metadata", "generation"], old.generation() + 1);
    }
}

/// What is wrong with an object's metadata.
pub fn validate(def: &ResourceDef, object: &Object) -> ErrorList {
    let (path, mut errors) = (FieldPath::new("metadata"), ErrorList::new());
    let prefix = object.str_at(&["metadata", "generateName"]);
    if !prefix.is_empty() {
        for text in (def.name_rule)(prefix, true) {
            errors.push(FieldError::invalid(&path.child("generateName"), prefix, text));
        }
    }
    if object.name().is_empty() {
        errors.push(FieldError::required(&path.child("name"), "name or generateName is required"));
    } else {
        for text in (def.name_rule)(object.name(), false) {
            errors.push(FieldError::invalid(&path.child("name"), object.name(), text));
        }
    }
    if def.is_namespaced() {
        for text in names::dns_label(object.namespace(), false) {
            errors.push(FieldError::invalid(&path.child("namespace"), object.namespace(), text));
        }
    }
    if object.generation() < 0 {
        errors.push(FieldError::invalid(
            &path.child("generation"),
            object.generation(),
            "must be greater than or equal to 0",
        ));
    }
    validate_labels(object, &path.child("labels"), &mut errors);
    validate_annotations(object, &path.child("annotations"), &mut errors);
    validate_owners(object, &path.child("ownerReferences"), &mut errors);
    for (index, finalizer) in object.finalizers().into_iter().enumerate() {
        let item = path.child("finalizers").index(index);
        for text in names::check_label_key(finalizer) {
            errors.push(FieldError::invalid(&item, finalizer, text));
        }
        if !finalizer.contains('/') && !matches!(finalizer, "orphan" | "foregroundDeletion" | "kubernetes") {
            let text = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(&item, finalizer, text));
        }
    }
    errors
}

fn validate_labels(object: &Object, path: &FieldPath, errors: &mut ErrorList) {
    for (key, value) in object.map_at(&["metadata", "labels"]).into_iter().flatten() {
        for text in names::check_label_key(key) {
            errors.push(FieldError::invalid(path, key.as_str(), text));
        }
        let value = value.as_str().unwrap_or("");
        for text in names::check_label_value(value) {
            errors.push(FieldError::invalid(path, value, text));
        }
    }
}

fn validate_annotations(object: &Object, path: &FieldPath, errors: &mut ErrorList) {
    let mut size = 0;
    for (key, value) in object.map_at(&["metadata", "annotations"]).into_iter().flatten() {
        for text in names::check_label_key(&key.to_ascii_lowercase()) {
            errors.push(FieldError::invalid(path, key.as_str(), text));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS_BYTES {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS_BYTES));
    }
}

fn validate_owners(object: &Object, path: &FieldPath, errors: &mut ErrorList) {
    let mut controllers = 0;
    for (index, owner) in object.list_at(&["metadata", "ownerReferences"]).iter().enumerate() {
        let item = path.index(index);
        if owner.str_at(&["apiVersion"]).is_empty() {
            errors.push(FieldError::invalid(&item.child("apiVersion"), "", "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if owner.str_at(&[field]).is_empty() {
                errors.push(FieldError::invalid(&item.child(field), "", "must not be empty"));
            }
        }
        controllers += usize::from(owner.bool_at(&["controller"]));
    }
    if controllers > 1 {
        let text = "Only one reference can have Controller set to true";
        let value = object.at(&["metadata", "ownerReferences"]).cloned().unwrap_or_default();
        errors.push(FieldError::invalid(path, value, text));
    }
}

/// What is wrong with the change of an object's metadata.
pub fn validate_update(new: &Object, old: &Object) -> ErrorList {
    let (path, mut errors) = (FieldPath::new("metadata"), ErrorList::new());
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        let (now, before) = (new.str_at(&["metadata", field]), old.str_at(&["metadata", field]));
        if now != before {
            errors.push(FieldError::invalid(&path.child(field), now, "field is immutable"));
        }
    }
    if old.is_deleting() {
        let before = old.finalizers();
        let added: Vec<_> = new.finalizers().into_iter().filter(|finalizer| !before.contains(finalizer)).collect();
        if !added.is_empty() {
            let quoted: Vec<_> = added.iter().map(|finalizer| format!("{finalizer:?}")).collect();
            let text = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                quoted.join(", ")
            );
            errors.push(FieldError::forbidden(&path.child("finalizers"), text));
        }
    }
    errors
}
