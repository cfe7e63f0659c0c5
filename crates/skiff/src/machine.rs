//! The machine as a node: what every part on it is told, on servers and agents alike.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use skiff_base::clock::SharedClock;
use skiff_base::ids::Ids;
use skiff_base::{Family, SystemClock};

use crate::cli::MachineOptions;
use crate::commands::CommandError;
use crate::isolation::{self, Link};
use crate::paths::{NodeFacts, Paths, named};
use crate::ranges::Ranges;

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
    /// The node's own address, of the cluster's primary family where it has one of that.
    pub address: IpAddr,
    /// All of them, one of each family, the same one first.
    pub addresses: Vec<IpAddr>,
}

impl Machine {
    /// Looks at the machine.
    ///
    /// # Errors
    /// It was told addresses that it cannot have together.
    pub fn new(paths: Paths, facts: NodeFacts, options: MachineOptions) -> Result<Self, CommandError> {
        let addresses = node_addresses(&facts, &options)?;
        let (clock, ids) = (SystemClock::shared(), Arc::new(Ids::random()));
        Ok(Self { paths, facts, options, clock, ids, address: addresses[0], addresses })
    }

    /// Keeps what an agent has learnt of its cluster's ranges, and has the addresses that the cluster wants.
    ///
    /// # Errors
    /// It cannot be kept, or the link takes no address.
    pub async fn settle(&mut self, ranges: Ranges) -> Result<(), CommandError> {
        self.facts.ranges = Some(ranges);
        self.facts.save(&self.paths)?;
        if self.facts.link > 0 && self.facts.ranges().has_v6() {
            isolation::add_inner_v6(Link::of(&self.facts)).await?;
        }
        self.addresses = node_addresses(&self.facts, &self.options)?;
        self.address = self.addresses[0];
        Ok(())
    }

    /// Waits until the machine has another address, and not the node's; for ever where the node was told its address.
    pub async fn moved(&self) -> IpAddr {
        if !self.options.node_ip.is_empty() || self.facts.link > 0 {
            return std::future::pending().await;
        }
        let mut last = self.address;
        loop {
            tokio::time::sleep(ADDRESS_LOOKS).await;
            let here = is_here(self.address);
            let now = if here { self.address } else { outgoing_address(Family::of(self.address)) };
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

/// The node's own addresses: given, the link's, or those that outgoing connections have. At least one.
fn node_addresses(facts: &NodeFacts, options: &MachineOptions) -> Result<Vec<IpAddr>, CommandError> {
    let families = facts.ranges().families();
    let mut found = options.node_ip.clone();
    if let [one, other, ..] = found[..]
        && (found.len() > 2 || Family::of(one) == Family::of(other))
    {
        return Err("--node-ip may have one address of each family".into());
    }
    if found.is_empty() {
        let link = Link::of(facts);
        found = families
            .iter()
            .filter_map(|family| match (facts.link, family) {
                (0, family) => Some(outgoing_address(*family)).filter(|address| !address.is_loopback()),
                (_, Family::V4) => Some(link.node().into()),
                (_, Family::V6) => Some(link.node_v6().into()),
            })
            .collect();
    }
    if found.is_empty() {
        found.extend(families.first().map(|family| loopback(*family)));
    }
    found.sort_by_key(|address| {
        families.iter().position(|family| *family == Family::of(*address)).unwrap_or(families.len())
    });
    Ok(found)
}

fn loopback(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::LOCALHOST.into(),
        Family::V6 => Ipv6Addr::LOCALHOST.into(),
    }
}

/// The address that outgoing connections have; the machine's own name for itself where there are none.
fn outgoing_address(family: Family) -> IpAddr {
    let (any, somewhere) = match family {
        Family::V4 => ("0.0.0.0:0", "192.0.2.1:9"),
        Family::V6 => ("[::]:0", "[2001:db8::1]:9"),
    };
    // Connecting a datagram socket sends nothing; it only makes the kernel choose a source address.
    let chosen = UdpSocket::bind(any).and_then(|socket| {
        socket.connect(somewhere)?;
        socket.local_addr()
    });
    // One that holds on its link alone is none for others.
    let is_for_others = |address: &IpAddr| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    chosen.ok().map(|address| address.ip()).filter(is_for_others).unwrap_or(loopback(family))
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
    #[test]
    fn addresses_are_in_the_order_of_the_clusters_families() {
        let ranges = |pods: &str, services: &str| {
            let list = |text: &str| crate::ranges::parse(text).expect("ranges");
            Ranges::chosen(&list(pods), &list(services)).expect("a cluster")
        };
        let both = ranges("fd00:42::/56,10.42.0.0/16", "fd00:43::/112,10.43.0.0/16");
        let check = |ranges: &Ranges, link: u8, given: &[&str]| {
            let facts = NodeFacts { link, ranges: Some(ranges.clone()), ..NodeFacts::new("n") };
            let node_ip = given.iter().map(|text| text.parse().expect("an address")).collect();
            let found = node_addresses(&facts, &MachineOptions { node_ip, ..MachineOptions::default() });
            found.map_err(|error| error.to_string()).map(|all| all.iter().map(IpAddr::to_string).collect::<Vec<_>>())
        };
        let told = |texts: &[&str]| Ok(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        assert_eq!(check(&both, 0, &["192.0.2.1", "2001:db8::1"]), told(&["2001:db8::1", "192.0.2.1"]));
        assert_eq!(check(&both, 0, &["192.0.2.1"]), told(&["192.0.2.1"]));
        assert_eq!(check(&both, 3, &[]), told(&["fd00:c612:3::2", "198.18.3.2"]));
        assert_eq!(check(&Ranges::default(), 3, &[]), told(&["198.18.3.2"]));
        let refused = Err("--node-ip may have one address of each family".to_owned());
        assert_eq!(check(&both, 0, &["192.0.2.1", "192.0.2.2"]), refused);
        assert_eq!(check(&both, 0, &["192.0.2.1", "2001:db8::1", "::2"]), refused);
    }
}
