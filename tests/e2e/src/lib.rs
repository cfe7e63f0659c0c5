//! What the end-to-end tests stand on: a node in isolation that is gone when the test ends, images built from
//! the test program and busybox, a registry inside the node's network, and kubectl.

#![allow(clippy::disallowed_methods, reason = "a whole node lives in real time, and so does who waits for it")]

pub mod cluster;
pub mod containerd;
pub mod image;
pub mod rolling;
pub mod socket;

pub use cluster::{Answer, Cluster};
