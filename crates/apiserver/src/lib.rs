//! The Kubernetes API server: one request path for every kind, from the catalogue of `skiff-kinds` to the store.
//!
//! A request is parsed into a `RequestInfo`, authenticated, authorized, and then read (module `read`) or written
//! (module `write`, whose numbered steps are the only way into the store). No kind has a handler of its own; what few
//! subresources need code are in `sub`, and call the same pipeline.

pub mod admission;
mod aggregation;
pub mod alloc;
pub mod audit;
pub mod authn;
pub mod authorities;
pub mod authz;
pub mod bootstrap;
pub mod call;
pub mod codec;
pub mod config;
mod convert;
mod custom;
pub mod discovery;
pub mod encryption;
mod endpoints;
pub mod failure;
pub mod files;
pub mod flow;
pub mod http;
mod identity;
mod metrics;
mod openapi;
mod read;
pub mod runtime_config;
mod serve;
pub mod server;
pub mod storage;
mod sub;
pub mod trust;
mod tunnel;
mod usage;
mod webhook;
mod write;

pub use call::UserInfo;
pub use config::{Config, VersionInfo};
pub use failure::Failure;
pub use http::body::Body;
pub use server::ApiServer;
