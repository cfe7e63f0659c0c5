//! The controllers: one module each, deciding purely from what its caches show, and one runner that carries plans out.
//! Nothing here knows the store or the server; everything is learnt and done through the API.

mod approval;
mod bootstrap_tokens;
mod certificates;
mod claims;
mod cron;
mod daemon;
mod deployment;
mod disruption;
mod endpoints;
mod expectations;
mod finalizers;
mod gc;
mod hpa;
mod job;
#[cfg(test)]
mod lost_answers;
mod manager;
mod meta;
mod namespace;
mod namespace_defaults;
mod node;
mod node_ttl;
mod placement;
mod plan;
mod pod_gc;
mod pod_groups;
mod pods;
mod quota;
mod replicas;
mod resources;
mod revisions;
mod roles;
mod root_bundle;
mod runner;
mod secrets;
mod service_cidr;
mod stateful;
#[cfg(test)]
mod testing;
mod trust_bundles;
mod volumes;

pub use approval::{Subject, SubjectReader};
pub use certificates::{Signer, SigningRequest};
pub use hpa::Timing as AutoscalerTiming;
pub use manager::{Config, ControllerManager, Handle, MANAGER};
pub use root_bundle::RootBundle;
