//! Pod network, service rules and network policy: planned purely, applied by small appliers.
//! Everything is said to the kernel by netlink, and to neighbours by frames; no other program is ever started.

mod abilities;
mod announce;
mod balancer;
mod family;
mod figures;
mod flows;
mod health;
mod model;
pub mod netlink;
mod overlay;
pub mod pods;
mod policies;
mod proxy;
pub mod rules;
#[cfg(test)]
mod testing;

pub use abilities::Abilities;
pub use announce::{Announcer, AnnouncerConfig};
pub use balancer::{Balancer, BalancerConfig};
pub use family::Family;
pub use model::{HostPort, HostPortError, Transport};
pub use overlay::{Overlay, OverlayConfig};
pub use pods::{HostPortMapping, PodNetwork, PodNetworkConfig, PodNetworkError};
pub use policies::{NewPod, PodGate};
pub use proxy::{Netd, NetdConfig};
