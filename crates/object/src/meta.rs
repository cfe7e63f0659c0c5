//! Reading and writing the metadata that every object has, on the tree itself.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{Map, Object};

/// Short names for what is read and written all the time. All readers answer for any tree,
/// also a malformed one: what is absent or of another type reads as empty.
pub trait Meta {
    /// The node at a path of field names, or `None`.
    fn at(&self, path: &[&str]) -> Option<&Value>;
    /// The string at a path, or the empty string.
    fn str_at(&self, path: &[&str]) -> &str;
    /// The integer at a path.
    fn int_at(&self, path: &[&str]) -> Option<i64>;
    /// The boolean at a path, or false.
    fn bool_at(&self, path: &[&str]) -> bool;
    /// The list at a path, or an empty one.
    fn list_at(&self, path: &[&str]) -> &[Value];
    /// The map at a path.
    fn map_at(&self, path: &[&str]) -> Option<&Map>;
    /// Sets the node at a path; what is no map on the way becomes one.
    fn set_at(&mut self, path: &[&str], value: impl Into<Value>);
    /// Removes and returns the node at a path.
    fn remove_at(&mut self, path: &[&str]) -> Option<Value>;
    /// Sets the node at a path only where nothing (or null) is there: how defaults are written.
    fn default_at(&mut self, path: &[&str], value: impl Into<Value>);
    /// The map at a path, made where there is none.
    fn map_mut(&mut self, path: &[&str]) -> &mut Map;

    /// `metadata.name`.
    fn name(&self) -> &str {
        self.str_at(&["metadata", "name"])
    }
    /// `metadata.namespace`; empty for what is cluster-scoped.
    fn namespace(&self) -> &str {
        self.str_at(&["metadata", "namespace"])
    }
    /// `metadata.uid`.
    fn uid(&self) -> &str {
        self.str_at(&["metadata", "uid"])
    }
    /// `metadata.resourceVersion`.
    fn resource_version(&self) -> &str {
        self.str_at(&["metadata", "resourceVersion"])
    }
    /// `metadata.generation`, or 0.
    fn generation(&self) -> i64 {
        self.int_at(&["metadata", "generation"]).unwrap_or(0)
    }
    /// Whether `metadata.deletionTimestamp` is set.
    fn is_deleting(&self) -> bool {
        !self.str_at(&["metadata", "deletionTimestamp"]).is_empty()
    }
    /// A label's value.
    fn label(&self, key: &str) -> Option<&str> {
        self.at(&["metadata", "labels", key])?.as_str()
    }
    /// An annotation's value.
    fn annotation(&self, key: &str) -> Option<&str> {
        self.at(&["metadata", "annotations", key])?.as_str()
    }
    /// All labels.
    fn labels(&self) -> BTreeMap<String, String> {
        string_map(self.map_at(&["metadata", "labels"]))
    }
    /// `metadata.finalizers`.
    fn finalizers(&self) -> Vec<&str> {
        self.list_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str).collect()
    }
}

fn string_map(map: Option<&Map>) -> BTreeMap<String, String> {
    let pairs = map.into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

impl Meta for Object {
    fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |node, field| node.get(*field))
    }

    fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or("")
    }

    fn int_at(&self, path: &[&str]) -> Option<i64> {
        self.at(path)?.as_i64()
    }

    fn bool_at(&self, path: &[&str]) -> bool {
        self.at(path).and_then(Value::as_bool).unwrap_or(false)
    }

    fn list_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn map_at(&self, path: &[&str]) -> Option<&Map> {
        self.at(path)?.as_object()
    }

    fn set_at(&mut self, path: &[&str], value: impl Into<Value>) {
        let (last, parents) = path.split_last().expect("a path names at least one field");
        self.map_mut(parents).insert((*last).to_owned(), value.into());
    }

    fn remove_at(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last().expect("a path names at least one field");
        let parent = parents.iter().try_fold(self, |node, field| node.get_mut(*field))?;
        parent.as_object_mut()?.remove(*last)
    }

    fn default_at(&mut self, path: &[&str], value: impl Into<Value>) {
        if self.at(path).is_none_or(Value::is_null) {
            self.set_at(path, value);
        }
    }

    fn map_mut(&mut self, path: &[&str]) -> &mut Map {
        let mut node = as_map(self);
        for field in path {
            node = as_map(node.entry((*field).to_owned()).or_insert(Value::Null));
        }
        node
    }
}

fn as_map(node: &mut Value) -> &mut Map {
    if !node.is_object() {
        *node = Value::Object(Map::new());
    }
    node.as_object_mut().expect("it was made a map just now")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn readers_answer_for_any_tree() {
        let object = json!({"metadata": {"name": "a", "labels": {"x": "y", "bad": 1}}, "spec": 3});
        assert_eq!(object.name(), "a");
        assert_eq!(object.namespace(), "");
        assert_eq!(object.label("x"), Some("y"));
        assert_eq!(object.labels().len(), 1);
        assert_eq!(object.str_at(&["spec", "replicas"]), "");
        assert!(!object.is_deleting());
    }

    #[test]
    fn defaults_do_not_overwrite() {
        let mut object = json!({"spec": {"replicas": 3, "paused": null}});
        object.default_at(&["spec", "replicas"], 1);
        object.default_at(&["spec", "paused"], false);
        object.default_at(&["spec", "strategy", "type"], "RollingUpdate");
        assert_eq!(object, json!({"spec": {"replicas": 3, "paused": false, "strategy": {"type": "RollingUpdate"}}}));
        assert_eq!(object.remove_at(&["spec", "replicas"]), Some(json!(3)));
    }
}
