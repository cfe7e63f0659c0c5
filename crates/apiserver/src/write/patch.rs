//! Step 4: patches. See <https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-apply>.

use serde_json::Value;
use skiff_object::{Object, Status};

use crate::call::Call;
use crate::failure::Result;
use crate::http::answer::Answer;
use crate::http::negotiate::content_type;
use crate::server::ApiServer;
use crate::write::{Target, decode, update};

/// The patch types that are understood.
pub const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

/// Answers a patch.
pub async fn patch(server: &ApiServer, call: &Call, body: &[u8]) -> Result<Answer> {
    let target = Target::of(server, call)?;
    let patch = decode::parse_patch(call, body)?;
    let kind = content_type(&call.headers);
    let custom = call.served.def.inline_schema.is_some();
    let schema = (!custom).then_some(call.served.def.schema.as_ref());
    let written = update::change(&target, |old| decode::recheck(&target, patched_tree(kind, &patch, old, schema)?));
    written.await?.answer(call)
}

/// The tree that a patch makes of another; strategic merges need the name of a schema.
pub fn patched_tree(kind: &str, patch: &Value, old: &Object, schema: Option<&str>) -> Result<Object> {
    let mut new = old.clone();
    match (kind, schema) {
        ("application/merge-patch+json", _) => merge(&mut new, patch),
        _ => return Err(Status::unsupported_media_type(&PATCH_TYPES).into()),
    }
    Ok(new)
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Default::default());
    }
    let map = target.as_object_mut().expect("it was made a map just now");
    for (key, value) in fields {
        if value.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
