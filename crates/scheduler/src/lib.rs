//! The scheduler: a snapshot of the cluster, plugins that are pure functions on it, a queue of waiting pods,
//! and one loop that posts bindings. It learns and acts only through the API.

mod budgets;
mod config;
mod core;
mod cycle;
#[cfg(test)]
mod differential;
mod extender;
mod figures;
mod groups;
mod owners;
mod plugins;
mod pod;
mod preempt;
mod profile;
mod queue;
mod ranking;
mod resources;
mod run;
mod selectors;
mod snapshot;
mod spread;
#[cfg(test)]
mod testing;

pub use config::Config;
pub use core::{Consultation, Core, GroupCondition, GroupStep, Placement, Refusal, Rooms, Step};
pub use extender::{Answer, Extender, ExtenderTls, Opinion, Post, Room};
pub use groups::Features;
pub use plugins::Claim;
pub use pod::PodInfo;
pub use profile::Profile;
pub use queue::Backoff;
pub use run::{Handle, Scheduler};
