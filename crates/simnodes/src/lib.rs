//! Simulated nodes: each has a Node object, a Lease that it renews and Pods that it says to run, and nothing behind them.
//! They speak the real API, so that schedulers, controllers and API servers of any make can be tried at sizes that no
//! machine has. What is to be done is decided in [`fleet`], which is pure; `run` carries it out.

mod config;
mod fleet;
mod objects;
mod run;
mod seen;

pub use config::{Config, Delay, Network, SIMULATED, Taint};
pub use run::{Counts, SimNodes};
