//! What the watch cache reads out of a stored object: labels, the fields that selectors may name, and whether it is on its
//! way out. All else is skipped without making anything of it: this is done for every write.

use serde_json::Value;
use skiff_kinds::ResourceDef;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::codec;
use crate::storage::parts::Wanted;

/// What every object is asked for.
const LABELS: &str = "metadata.labels";
const DELETION: &str = "metadata.deletionTimestamp";

/// Labels and their values.
pub type Labels = Box<[(Box<str>, Box<str>)]>;

/// What is read of a stored object.
#[derive(Debug, Default, PartialEq)]
pub struct Facts {
    /// Its labels.
    pub labels: Labels,
    /// The values of the kind's selectable fields.
    pub fields: Box<[Box<str>]>,
    /// Whether it is on its way out.
    pub is_deleting: bool,
}

impl Facts {
    /// Reads stored bytes; of what is no object nothing is known.
    pub fn of(def: &ResourceDef, stored: &[u8]) -> Self {
        let object = if def.selectable.is_empty() {
            // Only the metadata is read, which stands first; what follows may be large.
            let wanted = Wanted::new([LABELS, DELETION]).within("metadata");
            let metadata = codec::stored_metadata(stored).map(|metadata| wanted.of(metadata));
            Value::Object(metadata.map(|metadata| ("metadata".to_owned(), metadata)).into_iter().collect())
        } else {
            let fields = def.selectable.iter().flat_map(|field| match &field.read {
                Some((paths, _)) => paths.to_vec(),
                None => vec![field.path.as_ref()],
            });
            Wanted::new([LABELS, DELETION].into_iter().chain(fields)).of(stored)
        };
        let fields = def.selectable.iter().map(|field| match field.read {
            Some((_, read)) => read(&object).into(),
            None => text_at(&object, &field.path).into(),
        });
        let labels = object.labels().into_iter().map(|(key, value)| (key.into(), value.into()));
        Self { labels: labels.collect(), fields: fields.collect(), is_deleting: object.is_deleting() }
    }
}

/// The scalar at a dotted path, as selectors compare it.
fn text_at(object: &Object, path: &str) -> String {
    let node = path.trim_start_matches('.').split('.').try_fold(object, |node, field| node.get(field));
    match node {
        Some(Value::String(text)) => text.clone(),
        Some(node @ (Value::Bool(_) | Value::Number(_))) => node.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_object::GroupVersionResource;

    use super::*;

    /// The facts by way of the whole tree.
    fn expected(def: &ResourceDef, object: &Object) -> Facts {
        let field = |field: &skiff_kinds::def::SelectableField| match field.read {
            Some((_, read)) => read(object).into(),
            None => text_at(object, &field.path).into(),
        };
        let labels = object.labels().into_iter().map(|(key, value)| (key.into(), value.into())).collect();
        Facts { labels, fields: def.selectable.iter().map(field).collect(), is_deleting: object.is_deleting() }
    }

    #[test]
    fn facts_are_those_of_the_whole_object() {
        let metadata =
            json!({"name": "x\"", "labels": {"a": "1", "b\n": "2", "bad": 3}, "annotations": {"labels": "no"}});
        let leaving = json!({"deletionTimestamp": "2026-01-31T12:00:00Z"});
        let objects = [
            json!({"metadata": metadata, "spec": {"nodeName": "n", "hostNetwork": true, "containers": [{"nodeName": "no"}],
                "unschedulable": true, "schedulerName": "s"}, "reason": "Why", "type": "Normal",
                "status": {"phase": "Running", "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd::1"}],
                    "succeeded": 3, "conditions": [{"phase": "no"}]}}),
            json!({"metadata": leaving, "spec": "text", "status": [1, {"phase": "no"}], "reportingComponent": "c",
                "involvedObject": {"kind": "Pod", "uid": null, "name": 7}}),
            json!({"metadata": {}, "source": {"component": "kubelet"}, "spec": {"nodeName": {"deep": 1}}, "status": null}),
        ];
        let kinds = [
            ("", "v1", "pods"),
            ("", "v1", "nodes"),
            ("", "v1", "events"),
            ("batch", "v1", "jobs"),
            ("", "v1", "services"),
        ];
        for (group, version, plural) in kinds {
            let def = skiff_kinds::by_resource(&GroupVersionResource::new(group, version, plural)).expect(plural);
            for object in &objects {
                let stored = codec::encode_stored(object);
                assert_eq!(Facts::of(def, &stored), expected(def, object), "{plural} {object}");
                // As another program may have written it.
                let spaced = serde_json::to_string_pretty(object).expect("a tree can be written");
                if !def.selectable.is_empty() {
                    assert_eq!(Facts::of(def, spaced.as_bytes()), expected(def, object), "{plural} {object}");
                }
            }
            assert_eq!(Facts::of(def, b"k8s:enc:"), expected(def, &Value::Null), "{plural}");
        }
    }
}
