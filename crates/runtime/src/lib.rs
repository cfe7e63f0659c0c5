//! The embedded container runtime: images, snapshots, sandboxes, containers and their shim.

pub mod image;
pub mod streaming;
