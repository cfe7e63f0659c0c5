//! The node agent: the Pod state machine, probes, volumes, status and the kubelet API.
//! It knows the traits of the Container Runtime Interface and never which runtime is behind them.
//! Deciding is in [`pod`] (what to do with a Pod), `config` (what the runtime is told) and `node::object` (what the Node
//! object says), all of them pure; the rest carries out.

mod admission;
mod agent;
mod allocation;
mod assign;
mod cgroups;
mod collect;
mod config;
mod credentials;
mod csi;
mod devices;
mod dial;
mod evict;
mod executor;
mod hooks;
mod images;
mod kubelet;
mod local_path;
mod node;
mod observe;
pub mod options;
pub mod pod;
mod probe;
mod rotate;
mod server;
mod sources;
mod statics;
mod strays;
mod userns;
mod volumes;
mod worker;

pub use credentials::Providers as CredentialProviders;
pub use kubelet::{Config, DEFAULT_MAX_PODS, DEFAULT_PORT, Kubelet, check_options};
pub use local_path::{LocalPaths, PROVISIONER as LOCAL_PATH_PROVISIONER};
pub use node::shutdown::forget_delay as forget_shutdown_delay;
pub use options::Options;
pub use server::ServerConfig;
pub use volumes::{FileSystem, Mounter, NoMounts};

#[cfg(test)]
mod tests;
