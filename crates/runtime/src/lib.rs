//! The embedded container runtime: images, snapshots, OCI specs, the shim, namespaces and cgroups.
//! It knows sandboxes and containers and implements the CRI's traits; it never sees a Pod.

pub mod cdi;
mod cgroups;
mod client;
mod cni;
mod config;
pub mod confine;
mod devices;
pub mod image;
pub mod images;
pub mod leftovers;
pub mod memory;
pub mod network;
pub mod oci;
pub mod pages;
mod records;
mod runtime;
mod seccomp;
pub mod shim;
mod signals;
pub mod spec;
pub mod streaming;
mod sys;
mod userns;
pub mod users;

pub use cni::{CniConfig, CniNetwork};
pub use config::RuntimeConfig;
pub use images::{ImageConfig, ImageSource, UnpackedImage};
pub use network::NetworkPlugin;
pub use runtime::EmbeddedRuntime;
