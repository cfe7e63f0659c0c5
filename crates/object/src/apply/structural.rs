//! How the types of custom kinds merge: what their structural schemas say in `x-kubernetes-map-type`,
//! `x-kubernetes-list-type` and `x-kubernetes-list-map-keys`.
//! See <https://kubernetes.io/docs/reference/using-api/server-side-apply/#custom-resources>.

use std::sync::Arc;

use serde_json::Value;

use super::schema::{ListSchema, MapSchema, Schema};
use crate::meta::Meta;

/// A custom kind: its own schema, and that of the metadata, which the schema need not describe.
#[derive(Clone)]
pub struct Custom {
    /// The structural schema.
    pub schema: Arc<Value>,
    /// How `metadata` merges.
    pub metadata: Schema<'static>,
}

/// How a value of a structural schema merges.
fn of_schema(schema: &Value) -> Schema<'_> {
    if schema.bool_at(&["x-kubernetes-int-or-string"]) {
        return Schema::Scalar;
    }
    match schema.str_at(&["type"]) {
        "object" if schema.str_at(&["x-kubernetes-map-type"]) == "atomic" => Schema::Atomic,
        "object" if schema.map_at(&["properties"]).is_some() || schema.get("additionalProperties").is_some() => {
            Schema::Map(schema)
        }
        "array" => match schema.str_at(&["x-kubernetes-list-type"]) {
            "map" | "set" => Schema::List(schema),
            _ => Schema::Atomic,
        },
        "object" | "" => Schema::Deduced,
        _ => Schema::Scalar,
    }
}

impl MapSchema for Value {
    fn is_declared(&self, name: &str) -> bool {
        self.at(&["properties", name]).is_some()
    }

    fn is_closed(&self) -> bool {
        !self.bool_at(&["x-kubernetes-preserve-unknown-fields"]) && self.get("additionalProperties").is_none()
    }

    fn field(&self, name: &str) -> Schema<'_> {
        let further = || self.get("additionalProperties").filter(|further| further.is_object());
        self.at(&["properties", name]).or_else(further).map_or(Schema::Deduced, of_schema)
    }
}

impl ListSchema for Value {
    fn keys(&self) -> Vec<&str> {
        let is_map = self.str_at(&["x-kubernetes-list-type"]) == "map";
        let keys = self.list_at(&["x-kubernetes-list-map-keys"]).iter().filter_map(Value::as_str);
        keys.filter(|_| is_map).collect()
    }

    fn key_default(&self, key: &str) -> Option<Value> {
        self.at(&["items", "properties", key, "default"]).cloned()
    }

    fn item(&self) -> Schema<'_> {
        self.get("items").map_or(Schema::Deduced, of_schema)
    }
}

impl MapSchema for Custom {
    fn is_declared(&self, name: &str) -> bool {
        matches!(name, "apiVersion" | "kind" | "metadata") || self.schema.is_declared(name)
    }

    fn is_closed(&self) -> bool {
        self.schema.is_closed() && self.schema.map_at(&["properties"]).is_some()
    }

    fn field(&self, name: &str) -> Schema<'_> {
        match name {
            "metadata" => self.metadata,
            "apiVersion" | "kind" => Schema::Scalar,
            _ => self.schema.field(name),
        }
    }
}
