//! What may be wrong with ConfigMaps and Secrets.

use serde_json::Value;
use skiff_object::meta::Meta;
use skiff_object::{FieldError, FieldPath, Object, names};

use crate::rules::check::{At, Faults};

/// How much a ConfigMap or Secret holds.
pub const SIZE_LIMIT_BYTES: usize = 1024 * 1024;

/// Checks a map's keys.
pub fn keys(faults: &mut Faults, map: &At) {
    for (key, entry) in map.entries() {
        for words in names::check_config_key(key) {
            faults.invalid_as(&entry, key, words);
        }
    }
}

/// How many bytes the texts of a map have.
pub fn text_bytes(object: &Object, field: &str) -> usize {
    let map = object.map_at(&[field]).into_iter().flatten();
    map.map(|(_, value)| value.as_str().map_or(0, str::len)).sum()
}

/// How many bytes the base64 texts of a map stand for.
pub fn encoded_bytes(object: &Object, field: &str) -> usize {
    let map = object.map_at(&[field]).into_iter().flatten();
    map.map(|(_, value)| value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4)).sum()
}

/// Says that the object holds too much.
pub fn too_large(faults: &mut Faults, path: &str) {
    faults.extend([FieldError::too_long(&FieldPath::new(path), SIZE_LIMIT_BYTES)]);
}

/// What is immutable stays so, with all that it holds.
pub fn immutable(faults: &mut Faults, new: &Object, old: &Object, fields: &[&str]) {
    if !old.bool_at(&["immutable"]) {
        return;
    }
    let words = "field is immutable when `immutable` is set";
    if !new.bool_at(&["immutable"]) {
        faults.forbidden(&At::top(new, "immutable"), words);
    }
    for field in fields {
        let entries = |object: &Object| object.get(*field).cloned().filter(|value| value != &Value::Null);
        if entries(new).unwrap_or_default() != entries(old).unwrap_or_default() {
            faults.forbidden(&At::top(new, field), words);
        }
    }
}
