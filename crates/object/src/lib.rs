//! The dynamic object tree and everything that can be said of an object without knowing its kind:
//! names, metadata, selectors, field errors, `Status`, patches and codecs.
//! No kind is known here by name, and nothing here does I/O.

pub mod apply;
pub mod field;
pub mod gvk;
pub mod meta;
pub mod names;
pub mod node;
pub mod patch;
pub mod pem;
pub mod selector;
pub mod status;
pub mod validate;
pub mod yaml;

/// The tree that every object is while its kind does not matter.
pub type Object = serde_json::Value;
/// A JSON object, as the tree's inner nodes are.
pub type Map = serde_json::Map<String, serde_json::Value>;

pub use field::{ErrorList, FieldError, FieldPath};
pub use gvk::{GroupKind, GroupResource, GroupVersion, GroupVersionKind, GroupVersionResource};
pub use selector::{FieldSelector, LabelSelector};
pub use status::{Reason, Status};
