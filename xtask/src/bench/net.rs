//! The network of whole nodes, beside nginx and unbound.

use super::{Group, node};
use crate::needs;

pub const GROUP: Group = Group {
    names: &["net", "net-services", "net-traffic", "net-ready", "net-servers", "net-ingress", "net-dns"],
    run: measure,
};

/// The peers. Those that the benchmark runs are in a node's network alone; where packages start services by themselves,
/// one that they start on the machine has no part in it.
const PEERS: [&str; 2] = ["nginx-light", "unbound"];

fn measure(names: &[&str]) -> Result<(), String> {
    needs::install_packages(&PEERS)?;
    node::measure(names)
}
