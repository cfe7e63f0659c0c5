//! The types of the API: what fields there are, of which type, how they merge, and what they are for.
//! The facts stand in `data/types.txt` and are read one definition at a time, when it is first asked for;
//! descriptions are compressed, and nothing of them stays in memory.

pub mod apply;
pub mod descriptions;
mod merge;
mod table;

use serde_json::Value;
use skiff_object::GroupVersionKind;

pub use table::{definition, names};

/// A number that changes with the facts and the descriptions.
pub fn fingerprint() -> u64 {
    static FINGERPRINT: std::sync::LazyLock<u64> = std::sync::LazyLock::new(|| {
        let mut hash = crate::openapi::Fnv::default();
        hash.add(table::FACTS.as_bytes());
        hash.add(descriptions::TABLE);
        hash.0
    });
    *FINGERPRINT
}

/// What a value is.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// A text.
    String,
    /// Base64 of bytes.
    Bytes,
    /// A whole number of 32 bits.
    Int32,
    /// A whole number of 64 bits.
    Int64,
    /// `true` or `false`.
    Bool,
    /// A floating-point number.
    Double,
    /// A list.
    List(Box<Type>),
    /// A map with string keys.
    Map(Box<Type>),
    /// Another definition, as an index that [`Type::definition`] resolves.
    Ref(usize),
}

impl Type {
    /// The definition that this type refers to.
    pub fn definition(&self) -> Option<&'static Definition> {
        match self {
            Self::Ref(index) => Some(table::definition_at(*index)),
            _ => None,
        }
    }
}

/// What a definition is, apart from its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// An object with fields.
    Struct,
    /// `100m`, `1Gi`
    Quantity,
    /// A whole number or a text.
    IntOrString,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// Any object, kept as it is.
    Raw,
    /// Any value, kept as it is.
    Any,
}

/// What becomes of an empty value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It is left out, even where it was given.
    OmitEmpty,
    /// It is kept where it was given.
    Pointer,
    /// It is written even where it was not given, as an empty value.
    Always,
    /// It is written even where it was not given, as null.
    Nullable,
}

/// How a list merges in server-side apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListType {
    /// As a whole.
    Atomic,
    /// By value.
    Set,
    /// By the values of these keys of its items.
    Map(Vec<&'static str>),
}

/// How a map or an object merges in server-side apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapType {
    /// As a whole.
    Atomic,
    /// Entry by entry.
    Granular,
}

/// One field of a definition.
#[derive(Debug, Clone)]
pub struct Field {
    /// As it is written in JSON.
    pub name: &'static str,
    /// Its type.
    pub ty: Type,
    /// What becomes of an empty value.
    pub presence: Presence,
    /// Whether OpenAPI calls it required.
    pub required: bool,
    /// The default that OpenAPI states.
    pub default: Option<Value>,
    /// The values that it may have.
    pub allowed: Vec<String>,
    /// How it merges, where it is a list.
    pub list: Option<ListType>,
    /// How it merges, where it is a map or an object and its type does not say it already.
    pub map: Option<MapType>,
    /// Strategic merge patch: lists are merged (by [`Field::merge_key`] or by value), not replaced.
    pub merge: bool,
    /// Strategic merge patch: an object is replaced, not merged.
    pub replace: bool,
    /// Strategic merge patch: keys that the patch does not name are dropped where it says so.
    pub retain_keys: bool,
    /// The key that tells list items apart in a strategic merge patch.
    pub merge_key: Option<&'static str>,
    /// Its number in protobuf, behind those of the messages that it is embedded in.
    pub numbers: Vec<u32>,
    /// The Go structs that the field is embedded through, which error messages name.
    pub via: Option<&'static str>,
    /// The Go type in error messages, where it does not follow from [`Field::ty`].
    pub go: Option<&'static str>,
}

/// One type of the API.
#[derive(Debug)]
pub struct Definition {
    /// `io.k8s.api.apps.v1.Deployment`
    pub name: &'static str,
    /// What it is.
    pub shape: Shape,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// The places of the fields that protobuf has, in the order of their numbers.
    pub wire_order: Vec<usize>,
    /// The kinds whose objects it describes.
    pub kinds: Vec<GroupVersionKind>,
    /// Whether it merges as a whole in server-side apply.
    pub atomic: bool,
    /// `x-kubernetes-unions`
    pub unions: Option<Value>,
}

impl Definition {
    /// The field of that name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let index = self.fields.binary_search_by(|field| field.name.cmp(name)).ok()?;
        Some(&self.fields[index])
    }

    /// `Deployment`
    pub fn short_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }

    /// `io.k8s.api.apps.v1`
    pub fn package(&self) -> &'static str {
        self.name.rsplit_once('.').map_or("", |(package, _)| package)
    }

    /// The Go type in error messages, `v1.Deployment`.
    pub fn go_type(&self) -> String {
        let package = self.package().rsplit('.').next().unwrap_or("");
        format!("{package}.{}", self.short_name())
    }
}
