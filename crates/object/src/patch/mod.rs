//! The ways to change an object by a patch. Server-side apply will have its own module beside these.
//! See <https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-apply>.

mod json;
mod strategic;

use serde_json::Value;

pub use json::json_patch;
pub use strategic::{FieldMerge, MergeSchema, strategic_merge};

use crate::{Object, Reason, Status};

/// Which way a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902: a list of operations.
    Json,
    /// RFC 7386: a part of the object, nulls delete.
    Merge,
    /// A part of the object, with lists merged as their types say.
    Strategic,
    /// Server-side apply: the part of the object that the caller means to own.
    Apply,
}

impl PatchType {
    /// All of them, in the order in which upstream lists their media types.
    pub const ALL: [Self; 4] = [Self::Json, Self::Merge, Self::Strategic, Self::Apply];

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json-patch+json",
            Self::Merge => "application/merge-patch+json",
            Self::Strategic => "application/strategic-merge-patch+json",
            Self::Apply => "application/apply-patch+yaml",
        }
    }

    /// Reads a Content-Type header; parameters after a semicolon do not matter.
    pub fn from_content_type(header: &str) -> Option<Self> {
        let media_type = header.split(';').next().unwrap_or("").trim();
        Self::ALL.into_iter().find(|patch| patch.media_type() == media_type)
    }
}

/// Applies a JSON merge patch (RFC 7386).
pub fn merge_patch(object: Object, patch: Value) -> Object {
    let Value::Object(patch) = patch else { return patch };
    let mut map = match object {
        Value::Object(map) => map,
        _ => crate::Map::new(),
    };
    for (key, value) in patch {
        if value.is_null() {
            map.remove(&key);
            continue;
        }
        let old = map.remove(&key).unwrap_or(Value::Null);
        map.insert(key, merge_patch(old, value));
    }
    Value::Object(map)
}

/// 422 without further words, as upstream answers to a patch that cannot be applied.
fn unprocessable() -> Status {
    let words = "the server rejected our request due to an error in our request";
    let mut status = Status::failure(422, Reason::Invalid, words);
    status.details = Some(crate::status::Details::default());
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_patches() {
        let check = |object: Value, patch: Value, want: Value| assert_eq!(merge_patch(object, patch), want);
        check(json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null, "d": 3}}), json!({"a": {"c": 2, "d": 3}}));
        check(json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]}));
        check(json!({"a": "x"}), json!({"a": {"b": null, "c": {"d": null}}}), json!({"a": {"c": {}}}));
        check(json!({}), json!({"a": null}), json!({}));
    }

    #[test]
    fn media_types() {
        let header = "application/strategic-merge-patch+json; charset=utf-8";
        assert_eq!(PatchType::from_content_type(header), Some(PatchType::Strategic));
        assert_eq!(PatchType::from_content_type("application/json"), None);
    }
}
