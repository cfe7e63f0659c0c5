//! Custom objects in the version in which they are asked for, though they are stored in another, or were stored under
//! an older schema. Every stored object carries a mark: its version and a fingerprint of the schema that it was written
//! under. Where the mark is the one of the version that is asked for, the stored bytes are sent as they are; otherwise
//! the object is converted (by the definition's webhook, where it has one), pruned and defaulted anew.
//! See <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definition-versioning/>.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use skiff_object::meta::Meta;
use skiff_object::{Object, Reason, Status};
use skiff_store::KeyValue;

use super::schema;
use crate::codec;
use crate::failure::{Failure, Result};
use crate::server::ApiServer;
use crate::storage::cache::Entry;
use crate::storage::catalogue::Served;
use crate::webhook;

/// How long a conversion may take, as upstream's.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Whether stored bytes are what a version shows.
fn is_current(served: &Served, stored: &[u8]) -> bool {
    served.mark.is_empty() || codec::mark(stored) == Some(&*served.mark)
}

/// The version of a mark.
fn version_of(mark: &str) -> &str {
    mark.split('/').next().unwrap_or(mark)
}

/// Stored objects as a version shows them.
pub async fn entries(server: &ApiServer, served: &Served, entries: Vec<Arc<Entry>>) -> Result<Vec<Arc<Entry>>> {
    if entries.iter().all(|entry| is_current(served, &entry.value)) {
        return Ok(entries);
    }
    let stale: Vec<usize> = (0..entries.len()).filter(|index| !is_current(served, &entries[*index].value)).collect();
    let values: Vec<(&[u8], u64)> =
        stale.iter().map(|index| (entries[*index].value.as_ref(), entries[*index].revision)).collect();
    let shown = Box::pin(renewed(server, served, &values)).await?;
    let mut entries = entries;
    for (index, value) in stale.into_iter().zip(shown) {
        let old = &entries[index];
        let pair = KeyValue { key: old.key.clone(), value, create_revision: old.revision, mod_revision: old.revision };
        entries[index] = Arc::new(Entry::new(&served.def, served.cache.prefix.len(), pair));
    }
    Ok(entries)
}

/// An entry with the fields that selectors of this version name.
pub fn extracted(served: &Served, entry: &Arc<Entry>) -> Arc<Entry> {
    let pair = KeyValue {
        key: entry.key.clone(),
        value: entry.value.clone(),
        create_revision: entry.revision,
        mod_revision: entry.revision,
    };
    Arc::new(Entry::new(&served.def, served.cache.prefix.len(), pair))
}

/// A stored object as a version shows it.
pub async fn pair(server: &ApiServer, served: &Served, pair: KeyValue) -> Result<KeyValue> {
    if is_current(served, &pair.value) {
        return Ok(pair);
    }
    let mut shown = Box::pin(renewed(server, served, &[(pair.value.as_ref(), pair.mod_revision)])).await?;
    Ok(KeyValue { value: shown.pop().unwrap_or_default(), ..pair })
}

/// Whether an object lies in the store in another version than it would be written in today, or otherwise than its schema
/// has it; `shown` is what a version makes of it.
pub fn is_outdated(served: &Served, stored: &[u8], shown: &[u8]) -> Result<bool> {
    let Some(custom) = &served.def.custom else { return Ok(false) };
    if codec::mark(stored).map_or("", version_of) != custom.storage_version {
        return Ok(true);
    }
    if custom.storage_version != served.def.version || is_current(served, stored) {
        return Ok(false);
    }
    // Another state of the schema may still leave the object as it is.
    let decode = |value| codec::decode_stored(&served.def, value, 0);
    Ok(decode(stored)? != decode(shown)?)
}

/// What a version shows, as it is stored: in the version of the storage.
pub async fn storable(server: &ApiServer, served: &Served, value: Bytes) -> Result<Bytes> {
    let Some(custom) = served.def.custom.as_ref().filter(|custom| custom.storage_version != served.def.version) else {
        return Ok(value);
    };
    let object = codec::decode_stored(&served.def, &value, 0)?;
    let wanted = custom.storage_version.as_str();
    let object = match &custom.conversion {
        None => object,
        Some(_) => Box::pin(converted(server, served, wanted, vec![object])).await?.pop().unwrap_or_default(),
    };
    // No schema has looked at it in this version: a reader's will.
    Ok(codec::encode_marked(&object, &format!("{wanted}/-")))
}

/// Objects of other marks in the version's own shape, encoded as if they had been stored in it.
async fn renewed(server: &ApiServer, served: &Served, values: &[(&[u8], u64)]) -> Result<Vec<Bytes>> {
    let mut objects = Vec::with_capacity(values.len());
    let mut foreign = Vec::new();
    let webhook = served.def.custom.as_ref().is_some_and(|custom| custom.conversion.is_some());
    for (index, (value, revision)) in values.iter().enumerate() {
        let mut object = codec::decode_stored(&served.def, value, *revision)?;
        let stored = codec::mark(value).map_or("", version_of);
        if webhook && !stored.is_empty() && stored != served.def.version {
            object["apiVersion"] = format!("{}/{stored}", served.def.group).into();
            foreign.push(index);
        }
        objects.push(object);
    }
    if !foreign.is_empty() {
        let asked = foreign.iter().map(|index| objects[*index].clone()).collect();
        let done = converted(server, served, &served.def.version, asked).await?;
        for (index, object) in foreign.into_iter().zip(done) {
            objects[index] = object;
        }
    }
    let finished = objects.into_iter().map(|mut object| {
        if let Some(own) = &served.def.inline_schema {
            schema::prune(own, &mut object);
            schema::default(own, &mut object);
        }
        codec::encode_marked(&object, &served.mark)
    });
    Ok(finished.collect())
}

/// An object of one version in another.
pub async fn between(server: &ApiServer, served: &Served, object: Object, version: &str) -> Result<Object> {
    Ok(Box::pin(converted(server, served, version, vec![object])).await?.pop().unwrap_or_default())
}

/// Objects in another version, by the definition's webhook.
async fn converted(server: &ApiServer, served: &Served, version: &str, objects: Vec<Object>) -> Result<Vec<Object>> {
    let def = &served.def;
    let Some(conversion) = def.custom.as_ref().and_then(|custom| custom.conversion.as_ref()) else {
        return Ok(objects);
    };
    let failed = |why: &str| -> Failure {
        let text = format!("conversion webhook for {}, Kind={} failed: {why}", def.group_version(), def.kind);
        Status::failure(500, Reason::InternalError, text).into()
    };
    let wanted = format!("{}/{version}", def.group);
    let uid = server.ids().uid();
    let review = json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1",
        "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}});
    let config = conversion.get("clientConfig").unwrap_or(&Value::Null);
    let answer = webhook::post(server, config, &review, TIMEOUT).await.map_err(|why| failed(&why))?;
    let response = answer.get("response").ok_or_else(|| failed("no response"))?;
    if response.str_at(&["uid"]) != uid {
        return Err(failed("expected response.uid to be the one of the request"));
    }
    if response.str_at(&["result", "status"]) != "Success" {
        let message = response.str_at(&["result", "message"]);
        return Err(failed(if message.is_empty() { "unknown error" } else { message }));
    }
    let made = response.list_at(&["convertedObjects"]);
    if made.len() != objects.len() {
        let (expected, got) = (objects.len(), made.len());
        return Err(failed(&format!("expected {expected} converted objects, got {got}")));
    }
    let mut all = Vec::with_capacity(made.len());
    for (before, after) in objects.iter().zip(made) {
        if after.str_at(&["apiVersion"]) != wanted {
            let got = after.str_at(&["apiVersion"]);
            return Err(failed(&format!("returned object has apiVersion {got:?}, expected {wanted:?}")));
        }
        let kept = |field: &str| before.at(&["metadata", field]) == after.at(&["metadata", field]);
        if let Some(field) = ["name", "namespace", "uid"].into_iter().find(|field| !kept(field)) {
            return Err(failed(&format!("returned object has changed metadata.{field}")));
        }
        let mut after = after.clone();
        // Of the metadata only labels and annotations may be converted.
        let mut metadata = before.get("metadata").cloned().unwrap_or_default();
        for field in ["labels", "annotations"] {
            match after.at(&["metadata", field]) {
                Some(own) => metadata[field] = own.clone(),
                None => drop(metadata.remove_at(&[field])),
            }
        }
        after["metadata"] = metadata;
        all.push(after);
    }
    Ok(all)
}
