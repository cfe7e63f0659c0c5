//! Every built-in kind, declared once, one file per kind. [`def::ResourceDef`] is the one shape;
//! [`known`] is the only registration, and everything else (paths, discovery, OpenAPI, Tables, RBAC names,
//! strict decoding, patches) derives from it. Nothing here awaits, and nothing here does I/O.

pub mod base;
pub mod bootstrap;
pub mod catalogue;
pub mod convert;
pub mod decode;
pub mod def;
pub mod gated;
pub mod kinds;
pub mod openapi;
pub mod protobuf;
pub mod quota;
pub mod rules;
pub mod scalar;
pub mod schema;

pub use catalogue::{builtin, by_kind, by_resource, known, subresource_kinds};
pub use def::{Column, ResourceDef, Scope, Subresource};
