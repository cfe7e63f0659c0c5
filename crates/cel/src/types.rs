//! The types of values, and declarations: a type with what is known of how large its values are.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

/// A type.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Any type; it is looked at when the value is there.
    Dyn,
    /// What is wrong already and needs no second complaint.
    Error,
    /// `null_type`
    Null,
    /// `bool`
    Bool,
    /// `int`
    Int,
    /// `uint`
    Uint,
    /// `double`
    Double,
    /// `string`
    String,
    /// `bytes`
    Bytes,
    /// `google.protobuf.Timestamp`
    Timestamp,
    /// `google.protobuf.Duration`
    Duration,
    /// `list(T)`
    List(Arc<Type>),
    /// `map(K, V)`
    Map(Arc<Type>, Arc<Type>),
    /// `optional_type(T)`
    Optional(Arc<Type>),
    /// `type(T)`
    Type(Arc<Type>),
    /// An object with declared fields.
    Object(Arc<ObjectType>),
    /// A type of a library, by name: `net.IP`.
    Opaque(&'static str),
    /// A parameter of a function's signature.
    Param(&'static str),
    /// What is still to be found out, by number.
    Free(u32),
}

/// An object with declared fields.
#[derive(Debug)]
pub struct ObjectType {
    /// Its name.
    pub name: String,
    /// Its fields.
    pub fields: BTreeMap<String, Arc<Decl>>,
    /// Whether it has any further field, of any type.
    pub open: bool,
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Type {
    /// `list(T)`
    pub fn list(item: Type) -> Self {
        Self::List(Arc::new(item))
    }

    /// `map(K, V)`
    pub fn map(key: Type, value: Type) -> Self {
        Self::Map(Arc::new(key), Arc::new(value))
    }

    /// `optional_type(T)`
    pub fn optional(of: Type) -> Self {
        Self::Optional(Arc::new(of))
    }

    /// Whether it is one of those whose values have a fixed size.
    pub fn is_scalar(&self) -> bool {
        matches!(self, Self::Bool | Self::Int | Self::Uint | Self::Double | Self::Timestamp | Self::Duration)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("google.protobuf.Timestamp"),
            Self::Duration => f.write_str("google.protobuf.Duration"),
            Self::List(item) => write!(f, "list({item})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Type(of) => write!(f, "type({of})"),
            Self::Object(object) => f.write_str(&object.name),
            Self::Opaque(name) | Self::Param(name) => f.write_str(name),
            Self::Free(number) => write!(f, "_var{number}"),
        }
    }
}

/// A type, and how large its values may be.
#[derive(Debug)]
pub struct Decl {
    /// The type.
    pub ty: Type,
    /// The most letters, bytes, items or entries a value has; 0 where that says nothing.
    pub most: u64,
    /// The fewest bytes that a value takes in JSON.
    pub least_bytes: u64,
    /// Of a list the items, of a map the values.
    pub item: Option<Arc<Decl>>,
}

impl Decl {
    /// A type of which no size is known.
    pub fn of(ty: Type) -> Arc<Self> {
        Arc::new(Self { ty, most: 0, least_bytes: 0, item: None })
    }

    /// An object with these fields.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (&'static str, Arc<Decl>)>) -> Arc<Self> {
        let fields = fields.into_iter().map(|(name, decl)| (name.to_owned(), decl)).collect();
        Self::of(Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields, open: false })))
    }

    /// A list of these items.
    pub fn list(item: Arc<Decl>) -> Arc<Self> {
        Arc::new(Self { ty: Type::list(item.ty.clone()), most: u64::MAX, least_bytes: 2, item: Some(item) })
    }

    /// A map from text to these values.
    pub fn map(value: Arc<Decl>) -> Arc<Self> {
        let ty = Type::map(Type::String, value.ty.clone());
        Arc::new(Self { ty, most: u64::MAX, least_bytes: 2, item: Some(value) })
    }

    /// The declaration of a field, where it is an object with that field.
    pub fn field(&self, name: &str) -> Option<&Arc<Decl>> {
        match &self.ty {
            Type::Object(object) => object.fields.get(name),
            _ => None,
        }
    }
}

/// `string`
pub fn string() -> Arc<Decl> {
    static STRING: LazyLock<Arc<Decl>> = LazyLock::new(|| Decl::of(Type::String));
    STRING.clone()
}

/// `dyn`
pub fn any() -> Arc<Decl> {
    static ANY: LazyLock<Arc<Decl>> = LazyLock::new(|| Decl::of(Type::Dyn));
    ANY.clone()
}
