//! Which pod has which addresses: one small file per pod, so that nothing is forgotten when the program ends.
//! The longest unused address is given out first, so that a late packet for the last owner rarely finds a new one.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use skiff_base::{Cidr, Family};

use super::pool::Pool;
use crate::model::HostPort;

/// The file that names the addresses given out last, one of each family.
const LAST_FILE: &str = "last";
/// Where a lease is written before it gets its name, so that no half-written one is ever read.
const STAGING_FILE: &str = "staging";
/// What a further address of a lease is written behind.
const ALSO: &str = "also ";

/// Why no address could be given, or none could be given back.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Every address of the node's range is taken.
    #[error("no free address is left in the pod range {0}")]
    Exhausted(Cidr),
    /// The leases cannot be kept.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

/// What one pod sandbox holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The sandbox.
    pub sandbox: String,
    /// Its addresses, one of a family, in the order in which it was given them. The first one names the lease's file.
    pub addresses: Vec<IpAddr>,
    /// The host's ports that lead to it.
    pub host_ports: Vec<HostPort>,
}

impl Lease {
    fn has(&self, family: Family) -> bool {
        family.first(self.addresses.iter().copied()).is_some()
    }
}

/// All leases of this node.
#[derive(Debug)]
pub struct Addresses {
    folder: PathBuf,
    by_sandbox: BTreeMap<String, Lease>,
    /// One for each family.
    pools: Vec<Pool>,
    /// The address given out last of each pool.
    last: Vec<Option<IpAddr>>,
}

impl Addresses {
    /// Reads what was given out before. The first address of each range, of which there is one of a family, is the gateway's.
    pub fn open(folder: &Path, ranges: &[Cidr]) -> Result<Self, AddressError> {
        std::fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
        let mut by_sandbox = BTreeMap::new();
        let mut given_last: Vec<IpAddr> = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(failed("list", folder))? {
            let path = entry.map_err(failed("list", folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name == LAST_FILE {
                given_last = read(&path)?.lines().filter_map(|line| line.trim().parse().ok()).collect();
            } else if let Ok(address) = name.parse() {
                match parse(address, &read(&path)?) {
                    Some(lease) => {
                        by_sandbox.insert(lease.sandbox.clone(), lease);
                    }
                    // Only a power cut leaves such a one, and no pod has survived that.
                    None => {
                        tracing::warn!(%address, "what is left of a lease says nothing: the address is free");
                        std::fs::remove_file(&path).map_err(failed("remove", &path))?;
                    }
                }
            }
        }
        let taken: Vec<IpAddr> = by_sandbox.values().flat_map(|lease: &Lease| lease.addresses.clone()).collect();
        let last_of = |range: &Cidr| given_last.iter().copied().find(|address| range.contains(*address));
        let last: Vec<Option<IpAddr>> = ranges.iter().map(last_of).collect();
        let pools = ranges.iter().zip(&last).map(|(range, last)| Pool::new(*range, taken.iter().copied(), *last));
        Ok(Self { folder: folder.into(), by_sandbox, pools: pools.collect(), last })
    }

    /// The sandbox's lease: the one it has, or a new one. One that is from a time when there was one family less gets
    /// an address of the other.
    pub fn reserve(&mut self, sandbox: &str, host_ports: &[HostPort]) -> Result<Lease, AddressError> {
        let known = self.by_sandbox.get(sandbox).cloned();
        let has = |family| known.as_ref().is_some_and(|lease| lease.has(family));
        let missing: Vec<usize> = (0..self.pools.len()).filter(|at| !has(self.pools[*at].range().family())).collect();
        if let Some(lease) = known.as_ref().filter(|lease| missing.is_empty() && lease.host_ports == host_ports) {
            return Ok(lease.clone());
        }
        let mut addresses = known.map(|lease| lease.addresses).unwrap_or_default();
        let mut last = self.last.clone();
        for at in &missing {
            let pool = &self.pools[*at];
            let address = pool.first().ok_or_else(|| AddressError::Exhausted(pool.range()))?;
            addresses.push(address);
            last[*at] = Some(address);
        }
        let lease = Lease { sandbox: sandbox.to_owned(), addresses, host_ports: host_ports.to_vec() };
        self.write(&file_name(&lease), &print(&lease))?;
        if !missing.is_empty() {
            let texts: Vec<String> = last.iter().flatten().map(ToString::to_string).collect();
            self.write(LAST_FILE, &texts.join("\n"))?;
            self.last = last;
            missing.iter().for_each(|at| self.pools[*at].take_first());
        }
        self.by_sandbox.insert(sandbox.to_owned(), lease.clone());
        Ok(lease)
    }

    /// Takes the sandbox's lease back; `None` if it has none.
    pub fn release(&mut self, sandbox: &str) -> Result<Option<Lease>, AddressError> {
        let Some(lease) = self.by_sandbox.get(sandbox) else { return Ok(None) };
        let path = self.folder.join(file_name(lease));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
            _ => {}
        }
        let lease = self.by_sandbox.remove(sandbox);
        for address in lease.iter().flat_map(|lease| &lease.addresses) {
            self.pools.iter_mut().for_each(|pool| pool.give_back(*address));
        }
        Ok(lease)
    }

    /// The sandbox's lease.
    pub fn get(&self, sandbox: &str) -> Option<&Lease> {
        self.by_sandbox.get(sandbox)
    }

    /// Every lease.
    pub fn all(&self) -> impl Iterator<Item = &Lease> {
        self.by_sandbox.values()
    }

    /// Written aside and renamed: a crash leaves the old state or the new one. It need not survive a power cut, which no pod survives either.
    fn write(&self, name: &str, content: &str) -> Result<(), AddressError> {
        let staging = self.folder.join(STAGING_FILE);
        let mut file = std::fs::File::create(&staging).map_err(failed("create", &staging))?;
        file.write_all(content.as_bytes()).map_err(failed("write", &staging))?;
        let path = self.folder.join(name);
        std::fs::rename(&staging, &path).map_err(failed("write", &path))
    }
}

fn read(path: &Path) -> Result<String, AddressError> {
    std::fs::read_to_string(path).map_err(failed("read", path))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> AddressError {
    let path = path.to_owned();
    move |source| AddressError::File { what, path, source }
}

fn file_name(lease: &Lease) -> String {
    lease.addresses.first().map(ToString::to_string).unwrap_or_default()
}

/// The sandbox's id on the first line, one further address or host port on each other line.
fn print(lease: &Lease) -> String {
    let further = lease.addresses.iter().skip(1).map(|address| format!("{ALSO}{address}\n"));
    let ports = lease.host_ports.iter().map(|port| format!("{port}\n"));
    format!("{}\n", lease.sandbox) + &further.chain(ports).collect::<String>()
}

fn parse(address: IpAddr, content: &str) -> Option<Lease> {
    let mut lines = content.lines();
    let sandbox = lines.next().filter(|line| !line.is_empty())?.to_owned();
    let (mut addresses, mut host_ports) = (vec![address], Vec::new());
    for line in lines {
        match line.strip_prefix(ALSO) {
            Some(further) => addresses.push(further.parse().ok()?),
            None => host_ports.push(line.parse().ok()?),
        }
    }
    Some(Lease { sandbox, addresses, host_ports })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;

    fn ranges(text: &str) -> Vec<Cidr> {
        text.split(' ').map(|text| text.parse().expect("a range")).collect()
    }

    fn give(addresses: &mut Addresses, sandbox: &str) -> String {
        let lease = addresses.reserve(sandbox, &[]).expect("there is room");
        lease.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_a_power_cut_leaves_of_a_lease_is_no_lease() {
        let folder = TempFolder::new();
        let mut addresses = Addresses::open(folder.path(), &ranges("10.244.0.0/29")).expect("opens");
        give(&mut addresses, "a");
        std::fs::write(folder.path().join("10.244.0.2"), "").expect("written");
        let addresses = Addresses::open(folder.path(), &ranges("10.244.0.0/29")).expect("opens");
        assert_eq!(addresses.all().count(), 0);
        assert!(!folder.path().join("10.244.0.2").exists());
    }

    #[test]
    fn addresses_are_kept_over_a_restart_and_used_again_late() {
        let folder = TempFolder::new();
        let mut addresses = Addresses::open(folder.path(), &ranges("10.244.0.0/29")).expect("opens");
        assert_eq!(give(&mut addresses, "a"), "10.244.0.2");
        assert_eq!(give(&mut addresses, "b"), "10.244.0.3");
        assert_eq!(give(&mut addresses, "a"), "10.244.0.2", "the same sandbox keeps its address");
        addresses.release("a").expect("releases");
        assert_eq!(give(&mut addresses, "c"), "10.244.0.4", "not the one just given back");

        let mut addresses = Addresses::open(folder.path(), &ranges("10.244.0.0/29")).expect("opens");
        assert_eq!(give(&mut addresses, "b"), "10.244.0.3");
        assert_eq!(give(&mut addresses, "d"), "10.244.0.5");
        assert_eq!(give(&mut addresses, "e"), "10.244.0.6");
        assert_eq!(give(&mut addresses, "f"), "10.244.0.2", "the oldest one comes round again");
        let error = addresses.reserve("g", &[]).expect_err("all are taken");
        assert_eq!(error.to_string(), "no free address is left in the pod range 10.244.0.0/29");
        assert_eq!(addresses.release("unknown").expect("is no error"), None);
    }

    #[test]
    fn host_ports_are_kept_with_the_lease() {
        let folder = TempFolder::new();
        let ports: Vec<HostPort> = vec!["tcp 0.0.0.0 8080 80".parse().expect("a host port")];
        let mut addresses = Addresses::open(folder.path(), &ranges("10.244.1.0/24")).expect("opens");
        let lease = addresses.reserve("a", &ports).expect("there is room");
        let again = Addresses::open(folder.path(), &ranges("10.244.1.0/24")).expect("opens");
        assert_eq!(again.get("a"), Some(&lease));
        assert_eq!(again.all().count(), 1);
    }

    #[test]
    fn a_pod_has_an_address_of_each_family() {
        let folder = TempFolder::new();
        let both = ranges("fd00:10:244::/64 10.244.0.0/29");
        let mut addresses = Addresses::open(folder.path(), &both).expect("opens");
        assert_eq!(give(&mut addresses, "a"), "fd00:10:244::2 10.244.0.2");
        assert_eq!(give(&mut addresses, "b"), "fd00:10:244::3 10.244.0.3");
        assert_eq!(give(&mut addresses, "a"), "fd00:10:244::2 10.244.0.2");
        addresses.release("a").expect("releases");
        let mut addresses = Addresses::open(folder.path(), &both).expect("opens");
        assert_eq!(addresses.all().count(), 1);
        assert_eq!(give(&mut addresses, "b"), "fd00:10:244::3 10.244.0.3");
        for sandbox in ["c", "d", "e", "f"] {
            give(&mut addresses, sandbox);
        }
        let error = addresses.reserve("g", &[]).expect_err("all of one family are taken");
        assert_eq!(error.to_string(), "no free address is left in the pod range 10.244.0.0/29");
        assert_eq!(addresses.all().count(), 5, "and none of the other family is lost to it");
        addresses.release("c").expect("releases");
        assert_eq!(give(&mut addresses, "g"), "fd00:10:244::8 10.244.0.4");
    }

    /// As one that knew one family has left them.
    #[test]
    fn leases_of_earlier_versions_stay() {
        let folder = TempFolder::new();
        let file = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).expect("written");
        file("10.244.0.4", "a\ntcp 0.0.0.0 8080 80\n");
        file("last", "10.244.0.4");
        let ports: Vec<HostPort> = vec!["tcp 0.0.0.0 8080 80".parse().expect("a host port")];
        let mut addresses = Addresses::open(folder.path(), &ranges("10.244.0.0/24")).expect("opens");
        let lease = addresses.reserve("a", &ports).expect("is known");
        assert_eq!((lease.addresses.len(), &lease.host_ports), (1, &ports));
        assert_eq!(give(&mut addresses, "b"), "10.244.0.5");

        let both = ranges("10.244.0.0/24 fd00:10:244::/64");
        let mut addresses = Addresses::open(folder.path(), &both).expect("opens");
        assert_eq!(give(&mut addresses, "c"), "10.244.0.6 fd00:10:244::2");
        assert_eq!(give(&mut addresses, "b"), "10.244.0.5 fd00:10:244::3", "what it had it keeps");
        let again = Addresses::open(folder.path(), &both).expect("opens");
        let known: Vec<usize> = again.all().map(|lease| lease.addresses.len()).collect();
        assert_eq!(known, [1, 2, 2]);
        assert_eq!(again.get("a").map(|lease| &lease.host_ports), Some(&ports));
    }
}
