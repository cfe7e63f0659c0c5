//! A parsed document before its meaning is known: unlike an [`Object`] it still shows keys that were written twice.
//! JSON and YAML both become this, so that one check for unknown, duplicate and mistyped fields serves both.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use crate::Object;

/// A node of a document.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys and values as they were written; a key may stand there twice.
    Map(Vec<(String, Node)>),
}

/// Which notation a body is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    Json,
    /// `application/yaml`
    Yaml,
}

impl Node {
    /// Reads a document.
    ///
    /// # Errors
    /// The text is not of that format, or it is nested too deeply; the message is for people.
    pub fn parse(body: &[u8], format: Format) -> Result<Self, String> {
        match format {
            Format::Json => serde_json::from_slice(body).map_err(|error| error.to_string()),
            Format::Yaml => crate::yaml::parse(body),
        }
    }

    /// The plain tree; of a key that was written twice, the last value counts.
    pub fn into_value(self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Number(value) => Value::Number(value),
            Self::Text(value) => Value::String(value),
            Self::List(items) => Value::Array(items.into_iter().map(Self::into_value).collect()),
            Self::Map(entries) => {
                Value::Object(entries.into_iter().map(|(key, value)| (key, value.into_value())).collect())
            }
        }
    }

    /// The value under a key of a map (the last one, where it was written twice).
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(entries) => entries.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Whether a key is written twice in any of its maps.
    pub fn has_duplicates(&self) -> bool {
        match self {
            Self::List(items) => items.iter().any(Self::has_duplicates),
            Self::Map(entries) => {
                let mut known = std::collections::HashSet::with_capacity(entries.len());
                entries.iter().any(|(key, value)| !known.insert(key.as_str()) || value.has_duplicates())
            }
            _ => false,
        }
    }

    /// The text, where it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

impl From<Object> for Node {
    fn from(value: Object) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(value),
            Value::Number(value) => Self::Number(value),
            Value::String(value) => Self::Text(value),
            Value::Array(items) => Self::List(items.into_iter().map(Self::from).collect()),
            Value::Object(map) => Self::Map(map.into_iter().map(|(key, value)| (key, value.into())).collect()),
        }
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Number::from_f64(value).map_or(Node::Null, Node::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Node, E> {
        Ok(Node::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Node::Map(entries))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_kept_until_the_tree_is_made() {
        let node = Node::parse(br#"{"a":1,"b":[null,true,"x",1.5],"a":2}"#, Format::Json).unwrap();
        let Node::Map(entries) = &node else { panic!("a map was written") };
        assert_eq!(entries.len(), 3);
        assert_eq!(node.get("a"), Some(&Node::Number(2.into())));
        assert_eq!(node.into_value(), serde_json::json!({"a": 2, "b": [null, true, "x", 1.5]}));
    }

    #[test]
    fn what_is_too_deep_is_refused() {
        let deep = "[".repeat(100_000);
        assert!(Node::parse(deep.as_bytes(), Format::Json).is_err());
    }
}
