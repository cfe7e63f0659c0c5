//! Every built-in kind, declared once, one file per kind. [`def::ResourceDef`] is the one shape;
//! [`builtin`] is the only registration, and everything else (paths, discovery, OpenAPI, Tables, RBAC names,
//! strict decoding, patches) derives from it. Nothing here awaits, and nothing here does I/O.

pub mod def;

pub use def::{Column, ResourceDef, Scope, Subresource};

/// Every built-in kind.
pub fn builtin() -> &'static [&'static ResourceDef] {
    &[]
}
