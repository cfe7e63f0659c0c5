//! Sets of fields: who owns what. A set is a tree of path elements and is written as `FieldsV1`.
//! See <https://kubernetes.io/docs/reference/using-api/server-side-apply/#managers-and-fields>.

use std::cmp::Ordering;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use super::schema::Schema;
use crate::Map;

/// A scalar that tells a list item apart, with an order.
#[derive(Debug, Clone, PartialEq)]
pub struct Scalar(pub Value);

impl Eq for Scalar {}

impl PartialOrd for Scalar {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scalar {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |value: &Value| match value {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            _ => 3,
        };
        match (&self.0, &other.0) {
            (Value::Number(left), Value::Number(right)) => {
                let (left, right) = (left.as_f64().unwrap_or(f64::NAN), right.as_f64().unwrap_or(f64::NAN));
                left.total_cmp(&right)
            }
            (Value::String(left), Value::String(right)) => left.cmp(right),
            (Value::Bool(left), Value::Bool(right)) => left.cmp(right),
            (left, right) => rank(left).cmp(&rank(right)).then_with(|| left.to_string().cmp(&right.to_string())),
        }
    }
}

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// A field of an object, or a key of a map.
    Field(String),
    /// The list item whose keys have these values; sorted by key.
    Key(Vec<(String, Scalar)>),
    /// The item of a set.
    Value(Scalar),
    /// The item at an index.
    Index(u64),
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Key(keys) => {
                let keys: Vec<_> = keys.iter().map(|(name, value)| format!("{name}={}", value.0)).collect();
                write!(f, "[{}]", keys.join(","))
            }
            Self::Value(value) => write!(f, "[={}]", value.0),
            Self::Index(index) => write!(f, "[{index}]"),
        }
    }
}

impl Element {
    /// A field of that name.
    pub fn field(name: &str) -> Self {
        Self::Field(name.to_owned())
    }

    pub(super) fn encode(&self) -> String {
        match self {
            Self::Field(name) => ["f:", name].concat(),
            Self::Key(keys) => {
                let keys: Map = keys.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect();
                format!("k:{}", Value::Object(keys))
            }
            Self::Value(value) => format!("v:{}", value.0),
            Self::Index(index) => format!("i:{index}"),
        }
    }

    fn decode(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        match kind {
            "f" => Some(Self::field(rest)),
            "k" => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(rest).ok()?;
                Some(Self::Key(keys.into_iter().map(|(name, value)| (name, Scalar(value))).collect()))
            }
            "v" => Some(Self::Value(Scalar(serde_json::from_str(rest).ok()?))),
            "i" => Some(Self::Index(rest.parse().ok()?)),
            _ => None,
        }
    }
}

/// A set of fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Set {
    pub(super) members: BTreeSet<Element>,
    pub(super) children: BTreeMap<Element, Set>,
}

impl Set {
    /// A set of paths of field names.
    pub fn of_fields(paths: &[&[&str]]) -> Self {
        let mut set = Self::default();
        for path in paths {
            set.insert(&path.iter().map(|name| Element::field(name)).collect::<Vec<_>>());
        }
        set
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Self::is_empty)
    }

    /// Adds a path; nobody owns the whole object, so that the empty path is left out.
    pub fn insert(&mut self, path: &[Element]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [first, rest @ ..] => self.children.entry(first.clone()).or_default().insert(rest),
        }
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut out = self.clone();
        out.extend(other.clone());
        out
    }

    /// Adds what is in the other.
    pub(super) fn extend(&mut self, mut other: Self) {
        self.members.append(&mut other.members);
        if self.children.is_empty() {
            self.children = other.children;
            return;
        }
        for (element, theirs) in other.children {
            match self.children.entry(element) {
                Entry::Vacant(place) => drop(place.insert(theirs)),
                Entry::Occupied(mut ours) => ours.get_mut().extend(theirs),
            }
        }
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let children = self.children.iter().filter_map(|(element, ours)| {
            let both = ours.intersection(other.children.get(element)?);
            (!both.is_empty()).then(|| (element.clone(), both))
        });
        Self { members: &self.members & &other.members, children: children.collect() }
    }

    /// What is in this and not in the other; of a field that the other owns, its own children stay.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.without(other, false)
    }

    /// What is in this and not below anything in the other.
    #[must_use]
    pub fn recursive_difference(&self, other: &Self) -> Self {
        self.without(other, true)
    }

    fn without(&self, other: &Self, recursive: bool) -> Self {
        let mut left = self.clone();
        left.subtract(other, recursive);
        left
    }

    /// Takes away what is in the other, or (if `recursive`) below anything in it.
    pub(super) fn subtract(&mut self, other: &Self, recursive: bool) {
        if !self.members.is_empty() && !other.members.is_empty() {
            self.members.retain(|element| !other.members.contains(element));
        }
        if other.children.is_empty() && (!recursive || other.members.is_empty()) {
            return;
        }
        self.children.retain(|element, ours| {
            if recursive && other.members.contains(element) {
                return false;
            }
            let Some(theirs) = other.children.get(element) else { return true };
            ours.subtract(theirs, recursive);
            !ours.is_empty()
        });
    }

    /// Whether a set that is written as `FieldsV1` has anything in common with this one.
    pub(super) fn touches(&self, fields: &Value) -> bool {
        let is_member = |element: &Element| {
            let entry = fields.get(element.encode()).and_then(Value::as_object);
            entry.is_some_and(|entry| entry.is_empty() || entry.contains_key("."))
        };
        self.members.iter().any(is_member)
            || self.children.iter().any(|(element, set)| fields.get(element.encode()).is_some_and(|it| set.touches(it)))
    }

    /// Calls back with every path in the set.
    pub fn for_each(&self, visit: &mut impl FnMut(&[Element])) {
        self.visit(&mut Vec::new(), visit);
    }

    fn visit(&self, path: &mut Vec<Element>, visit: &mut impl FnMut(&[Element])) {
        for element in &self.members {
            path.push(element.clone());
            visit(path);
            path.pop();
        }
        for (element, set) in &self.children {
            path.push(element.clone());
            set.visit(path, visit);
            path.pop();
        }
    }

    /// The set, with every field of a struct that leads to a member made a member itself.
    #[must_use]
    pub(super) fn with_named_fields(&self, schema: Schema<'_>) -> Self {
        let mut out = Self { members: self.members.clone(), children: BTreeMap::new() };
        for (element, set) in &self.children {
            let inner = match (element, schema) {
                (Element::Field(name), Schema::Map(map)) => {
                    if map.is_declared(name) {
                        out.members.insert(element.clone());
                    }
                    map.field(name)
                }
                (Element::Key(_), Schema::List(list)) => list.item(),
                _ => Schema::Deduced,
            };
            out.children.insert(element.clone(), set.with_named_fields(inner));
        }
        out
    }

    /// The set as `FieldsV1`.
    pub fn encode(&self) -> Value {
        let mut map = Map::new();
        for element in self.members.iter().filter(|element| !self.children.contains_key(element)) {
            map.insert(element.encode(), Value::Object(Map::new()));
        }
        for (element, set) in &self.children {
            let mut inner = set.encode();
            if let (true, Some(inner)) = (self.members.contains(element), inner.as_object_mut()) {
                inner.insert(".".to_owned(), Value::Object(Map::new()));
            }
            map.insert(element.encode(), inner);
        }
        Value::Object(map)
    }

    /// Reads `FieldsV1`; `None` where it is malformed.
    pub fn decode(fields: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (text, inner) in fields.as_object()? {
            if text == "." {
                continue;
            }
            let element = Element::decode(text)?;
            let entries = inner.as_object()?;
            if entries.is_empty() || entries.contains_key(".") {
                set.members.insert(element.clone());
            }
            let children = Self::decode(inner)?;
            if !children.is_empty() {
                set.children.insert(element, children);
            }
        }
        Some(set)
    }
}

/// A path as conflicts show it: `.spec.containers[name="a"].image`.
pub(super) fn path_text(path: &[Element]) -> String {
    path.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sets_are_written_and_read() {
        let fields = json!({"f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            "f:spec": {"f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
                "f:finalizers": {"v:\"x\"": {}, "i:3": {}}}});
        let set = Set::decode(&fields).expect("well formed");
        assert_eq!(set.encode(), fields);
        let mut paths = Vec::new();
        set.for_each(&mut |path| paths.push(path_text(path)));
        assert_eq!(
            paths,
            [
                ".metadata.labels",
                ".metadata.labels.a",
                r#".spec.finalizers[="x"]"#,
                ".spec.finalizers[3]",
                r#".spec.ports[port=80,protocol="TCP"]"#,
                r#".spec.ports[port=80,protocol="TCP"].port"#,
            ]
        );
        assert!(Set::decode(&json!({"x:y": {}})).is_none());
        assert!(Set::decode(&json!({"f:y": 3})).is_none());
    }

    #[test]
    fn set_algebra() {
        let set = |paths: &[&[&str]]| Set::of_fields(paths);
        let left = set(&[&["a"], &["a", "b"], &["c", "d"]]);
        let right = set(&[&["a"], &["c", "d"], &["e"]]);
        assert_eq!(left.intersection(&right), set(&[&["a"], &["c", "d"]]));
        assert_eq!(left.difference(&right), set(&[&["a", "b"]]));
        assert_eq!(left.recursive_difference(&right), Set::default());
        assert_eq!(left.union(&right), set(&[&["a"], &["a", "b"], &["c", "d"], &["e"]]));
        assert!(left.difference(&left).is_empty());
    }
}
