//! The scheduler: a snapshot of the cluster, plugins that are pure functions on it, a queue of waiting pods,
//! and one loop that posts bindings. It learns and acts only through the API.

mod core;
mod cycle;
mod plugins;
mod pod;
mod preempt;
mod queue;
mod resources;
mod run;
mod selectors;
mod snapshot;
#[cfg(test)]
mod testing;

pub use run::{Config, Handle, Scheduler};
