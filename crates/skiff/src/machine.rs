//! The machine as a node: what every part on it is told, on servers and agents alike.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use skiff_base::SystemClock;
use skiff_base::clock::SharedClock;
use skiff_base::ids::Ids;

use crate::cli::MachineOptions;
use crate::commands::CommandError;
use crate::isolation::Link;
use crate::paths::{NodeFacts, Paths, named};

/// How often it is looked whether the machine still has the node's address. It takes two looks to believe that it has not:
/// where a lease is renewed, an address may be gone for a moment.
const ADDRESS_LOOKS: Duration = Duration::from_secs(5);

/// Why a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Somebody wants it to.
    Asked,
    /// The machine has this address now, and not the node's any more: the node starts again with it.
    Moved(IpAddr),
}

/// What every part is told of the machine.
#[derive(Clone)]
pub struct Machine {
    /// Where everything is.
    pub paths: Paths,
    /// What the node decided at its first start.
    pub facts: NodeFacts,
    /// What it was told.
    pub options: MachineOptions,
    /// The time.
    pub clock: SharedClock,
    /// Names and UIDs.
    pub ids: Arc<Ids>,
    /// The node's own address.
    pub address: IpAddr,
}

impl Machine {
    /// Looks at the machine.
    ///
    /// # Errors
    /// It has no address.
    pub fn new(paths: Paths, facts: NodeFacts, options: MachineOptions) -> Result<Self, CommandError> {
        let address = node_address(&facts, &options)?;
        Ok(Self { paths, facts, options, clock: SystemClock::shared(), ids: Arc::new(Ids::random()), address })
    }

    /// Waits until the machine has another address, and not the node's; for ever where the node was told its address.
    pub async fn moved(&self) -> IpAddr {
        if self.options.node_ip.is_some() || self.facts.link > 0 {
            return std::future::pending().await;
        }
        let mut last = self.address;
        loop {
            tokio::time::sleep(ADDRESS_LOOKS).await;
            let now = if is_here(self.address) { self.address } else { outgoing_address() };
            if has_moved(self.address, last, now) {
                return now;
            }
            last = now;
        }
    }

    /// What the user's KubeletConfiguration says, or the defaults.
    ///
    /// # Errors
    /// The file cannot be read, or asks for what cannot be.
    pub fn kubelet_options(&self) -> Result<skiff_kubelet::Options, CommandError> {
        let mut found = match &self.options.kubelet_config {
            Some(path) => {
                let text = std::fs::read(path).map_err(|error| named(path, "read", error))?;
                skiff_kubelet::Options::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?
            }
            None if self.paths.isolated.is_some() => trial_options(),
            None => skiff_kubelet::Options::default(),
        };
        skiff_kubelet::check_options(&found)?;
        if let Some(path) = &self.options.pod_manifest_path {
            found.static_pod_path = Some(path.clone());
        }
        Ok(found)
    }

    /// The programs that give credentials of registries, if the user names some.
    ///
    /// # Errors
    /// Their configuration makes no sense, or one is not there.
    pub fn credential_providers(&self) -> Result<skiff_kubelet::CredentialProviders, CommandError> {
        let (options, clock) = (&self.options, self.clock.clone());
        match (&options.image_credential_provider_config, &options.image_credential_provider_bin_dir) {
            (Some(config), Some(folder)) => Ok(skiff_kubelet::CredentialProviders::read(config, folder, clock)?),
            (None, None) => Ok(skiff_kubelet::CredentialProviders::none(clock)),
            _ => {
                Err("--image-credential-provider-config and --image-credential-provider-bin-dir need each other".into())
            }
        }
    }

    /// The size of the file system that holds the node's state.
    pub fn disk_bytes(&self) -> Option<i64> {
        let stat = nix::sys::statvfs::statvfs(&self.paths.root).ok()?;
        i64::try_from(stat.blocks() * stat.fragment_size()).ok()
    }
}

/// The disk under an isolated node is mostly full of what is not its own: ending Pods and removing images would free
/// little there, so it does so only when it is told to.
fn trial_options() -> skiff_kubelet::Options {
    let mut options = skiff_kubelet::Options::default();
    options.eviction_hard.retain(|signal, _| signal.starts_with("memory."));
    options.image_gc_high_threshold_percent = 100;
    options
}

/// The node's own address: given, the link's, or the one that outgoing connections have.
fn node_address(facts: &NodeFacts, options: &MachineOptions) -> Result<IpAddr, CommandError> {
    if let Some(address) = options.node_ip {
        return Ok(address);
    }
    if facts.link > 0 {
        return Ok(Link::of(facts).node().into());
    }
    Ok(outgoing_address())
}

/// The address that outgoing connections have; the machine's own name for itself where there are none.
fn outgoing_address() -> IpAddr {
    // Connecting a datagram socket sends nothing; it only makes the kernel choose a source address.
    let chosen = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    chosen.map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}

/// Whether a node of address `own` is at another one, by what two looks saw. A machine without any address waits for one.
fn has_moved(own: IpAddr, last: IpAddr, now: IpAddr) -> bool {
    now != own && now == last && !now.is_loopback()
}

/// Whether a node may go on with an address: the machine has it, and others may reach it by it.
fn is_here(address: IpAddr) -> bool {
    !address.is_loopback() && UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_looks_tell_that_a_machine_has_moved() {
        let [own, other, third] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|text| text.parse().expect("an address"));
        let nowhere = Ipv4Addr::LOCALHOST.into();
        assert!(has_moved(own, other, other));
        for (last, now) in [(own, own), (own, other), (other, own), (other, third), (nowhere, nowhere)] {
            assert!(!has_moved(own, last, now), "{last} {now}");
        }
    }
}
