//! Which pod has which address: one small file per address, so that nothing is forgotten when the program ends.
//! The longest unused address is given out first, so that a late packet for the last owner rarely finds a new one.

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::model::HostPort;
use crate::prefix::Prefix;

/// The file that names the address given out last.
const LAST_FILE: &str = "last";
/// Where a lease is written before it gets its name, so that no half-written one is ever read.
const STAGING_FILE: &str = "staging";

/// Why no address could be given, or none could be given back.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// Every address of the node's range is taken.
    #[error("no free address is left in the pod range {0}")]
    Exhausted(Prefix),
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
    /// Its address.
    pub address: Ipv4Addr,
    /// The host's ports that lead to it.
    pub host_ports: Vec<HostPort>,
}

/// All leases of this node.
#[derive(Debug)]
pub struct Addresses {
    folder: PathBuf,
    range: Prefix,
    by_sandbox: BTreeMap<String, Lease>,
    free: VecDeque<Ipv4Addr>,
}

impl Addresses {
    /// Reads what was given out before. The first address of the range is the gateway's.
    pub fn open(folder: &Path, range: Prefix) -> Result<Self, AddressError> {
        std::fs::create_dir_all(folder).map_err(failed("make the folder", folder))?;
        let mut by_sandbox = BTreeMap::new();
        let mut last = range.network();
        for entry in std::fs::read_dir(folder).map_err(failed("list", folder))? {
            let path = entry.map_err(failed("list", folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name == LAST_FILE {
                last = read(&path)?.trim().parse().unwrap_or(last);
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
        let taken: Vec<Ipv4Addr> = by_sandbox.values().map(|lease| lease.address).collect();
        let (before, after): (Vec<_>, Vec<_>) =
            range.hosts().skip(1).filter(|address| !taken.contains(address)).partition(|address| *address <= last);
        let free = after.into_iter().chain(before).collect();
        Ok(Self { folder: folder.into(), range, by_sandbox, free })
    }

    /// The sandbox's lease: the one it has, or a new one.
    pub fn reserve(&mut self, sandbox: &str, host_ports: &[HostPort]) -> Result<Lease, AddressError> {
        let known = self.by_sandbox.get(sandbox);
        if let Some(lease) = known.filter(|lease| lease.host_ports == host_ports) {
            return Ok(lease.clone());
        }
        let known = known.map(|lease| lease.address);
        let address = match known {
            Some(address) => address,
            None => *self.free.front().ok_or(AddressError::Exhausted(self.range))?,
        };
        let lease = Lease { sandbox: sandbox.to_owned(), address, host_ports: host_ports.to_vec() };
        self.write(&address.to_string(), &print(&lease))?;
        if known.is_none() {
            self.write(LAST_FILE, &address.to_string())?;
            self.free.pop_front();
        }
        self.by_sandbox.insert(sandbox.to_owned(), lease.clone());
        Ok(lease)
    }

    /// Takes the sandbox's lease back; `None` if it has none.
    pub fn release(&mut self, sandbox: &str) -> Result<Option<Lease>, AddressError> {
        let Some(lease) = self.by_sandbox.get(sandbox) else { return Ok(None) };
        let path = self.folder.join(lease.address.to_string());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("remove", &path)(error)),
            _ => {}
        }
        let lease = self.by_sandbox.remove(sandbox);
        self.free.extend(lease.iter().map(|lease| lease.address));
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

/// The sandbox's id on the first line, one host port on each further line.
fn print(lease: &Lease) -> String {
    let ports = lease.host_ports.iter().map(|port| format!("{port}\n"));
    format!("{}\n", lease.sandbox) + &ports.collect::<String>()
}

fn parse(address: Ipv4Addr, content: &str) -> Option<Lease> {
    let mut lines = content.lines();
    let sandbox = lines.next().filter(|line| !line.is_empty())?.to_owned();
    let host_ports = lines.map(|line| line.parse().ok()).collect::<Option<_>>()?;
    Some(Lease { sandbox, address, host_ports })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;

    fn range(text: &str) -> Prefix {
        text.parse().expect("a range")
    }

    fn give(addresses: &mut Addresses, sandbox: &str) -> String {
        addresses.reserve(sandbox, &[]).expect("there is room").address.to_string()
    }

    #[test]
    fn what_a_power_cut_leaves_of_a_lease_is_no_lease() {
        let folder = TempFolder::new();
        let mut addresses = Addresses::open(folder.path(), range("10.244.0.0/29")).expect("opens");
        give(&mut addresses, "a");
        std::fs::write(folder.path().join("10.244.0.2"), "").expect("written");
        let addresses = Addresses::open(folder.path(), range("10.244.0.0/29")).expect("opens");
        assert_eq!(addresses.all().count(), 0);
        assert!(!folder.path().join("10.244.0.2").exists());
    }

    #[test]
    fn addresses_are_kept_over_a_restart_and_used_again_late() {
        let folder = TempFolder::new();
        let mut addresses = Addresses::open(folder.path(), range("10.244.0.0/29")).expect("opens");
        assert_eq!(give(&mut addresses, "a"), "10.244.0.2");
        assert_eq!(give(&mut addresses, "b"), "10.244.0.3");
        assert_eq!(give(&mut addresses, "a"), "10.244.0.2", "the same sandbox keeps its address");
        addresses.release("a").expect("releases");
        assert_eq!(give(&mut addresses, "c"), "10.244.0.4", "not the one just given back");

        let mut addresses = Addresses::open(folder.path(), range("10.244.0.0/29")).expect("opens");
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
        let mut addresses = Addresses::open(folder.path(), range("10.244.1.0/24")).expect("opens");
        let lease = addresses.reserve("a", &ports).expect("there is room");
        let again = Addresses::open(folder.path(), range("10.244.1.0/24")).expect("opens");
        assert_eq!(again.get("a"), Some(&lease));
        assert_eq!(again.all().count(), 1);
    }
}
