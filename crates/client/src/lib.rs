//! The client of the API: requests over any [`Transport`] (in-process or HTTPS), shared informers,
//! work queues and events. What a kind means is not known here; kinds come as `k8s-openapi` types or as
//! a [`Resource`] chosen at run time.

pub mod bundles;
mod cache;
mod client;
mod compact;
mod definition;
mod election;
mod error;
pub mod events;
mod https;
mod informer;
mod login;
mod outline;
mod queue;
mod resource;
pub mod selectors;
pub mod slices;
mod transport;
pub mod volumes;
mod wire;

pub use cache::IndexOf;
pub use client::{Client, DeleteOptions, ListOptions, ObjectList, Patch, WatchOptions, WatchStream};
pub use definition::Definition;
pub use election::Election;
pub use error::Error;
pub use events::Recorder;
pub use https::{HttpsTransport, Servers};
pub use informer::{Change, Index, Informer, Informers, ObjectKey, PartialObject};
pub use login::{Login, LoginError};
pub use outline::{Happened, Outline, Outlines};
pub use queue::WorkQueue;
pub use resource::{Kind, Resource};
pub use transport::{Body, InProcess, Transport, TransportError};
pub use wire::{Revision, WatchEvent};
