//! The pod network of one node: a bridge, an address and a pair of interfaces for each pod, the routes, host ports.

pub(crate) mod addresses;
pub(crate) mod link;
mod network;
mod pool;
pub(crate) mod sysctl;

pub use addresses::{AddressError, Lease};
pub(crate) use network::gateway;
pub use network::{HostPortMapping, PodNetwork, PodNetworkConfig, PodNetworkError};
