//! The rules of metadata that hold for every kind: what the server sets, what a client may not change, what is valid.

use serde_json::Value;
use skiff_base::ids::Ids;
use skiff_base::{Timestamp, clock};
use skiff_kinds::ResourceDef;
use skiff_object::meta::Meta;
use skiff_object::validate::{self, MetaRules};
use skiff_object::{ErrorList, Object, Status};

use crate::failure::Result;

/// How much of a generated name the client chooses: the rest of 63 is the server's suffix.
const MAX_GENERATED_BASE: usize = 58;
/// The letters of a generated name's suffix.
const SUFFIX_LETTERS: usize = 5;

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

/// What is wrong with an object's metadata.
pub fn validate(def: &ResourceDef, object: &Object) -> ErrorList {
    // The two groups that extend the API take any qualified finalizer, as upstream's servers of them do.
    let extends = matches!(def.group.as_ref(), "apiextensions.k8s.io" | "apiregistration.k8s.io");
    let builtin = def.inline_schema.is_none() && !extends;
    validate::metadata(object, MetaRules { namespaced: def.is_namespaced(), name: def.name_rule, builtin })
}
