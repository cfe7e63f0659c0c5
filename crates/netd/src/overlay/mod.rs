//! The way between the pods of different nodes: plain routes where nodes share a network, VXLAN otherwise.

mod apply;
mod messages;
mod plan;
mod run;
#[cfg(test)]
mod tests;

pub use run::{Overlay, OverlayConfig};
