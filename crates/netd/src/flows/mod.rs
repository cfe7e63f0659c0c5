//! Flows of UDP that the kernel remembers. They have no end that it could see, so one whose endpoint went, or that is
//! older than the Service it should be led to, would go on into the void for as long as its client sends.

mod kernel;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use kernel::Conntrack;
pub use plan::Answerers;
#[cfg(test)]
use plan::Flow;

use crate::netlink::NetlinkError;

/// Drops flows that lead to nobody, whenever who answers for UDP has changed.
#[derive(Default)]
pub struct FlowKeeper {
    /// Who answers, by the owner's name in the rules.
    owners: BTreeMap<String, Answerers>,
    is_due: bool,
}

impl FlowKeeper {
    /// Takes note of who answers for this owner now.
    pub fn note(&mut self, owner: &str, answerers: Answerers) {
        if answerers.is_empty() {
            // Where there is nobody to go to, flows may stay: they are dropped as soon as there is somebody.
            self.owners.remove(owner);
        } else if self.owners.get(owner) != Some(&answerers) {
            self.owners.insert(owner.to_owned(), answerers);
            self.is_due = true;
        }
    }

    /// Whether there may be flows to drop.
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    /// Drops them; the rules must have been changed before, so that no new one takes their place.
    pub fn clean(&mut self, kernel: &Conntrack) -> Result<usize, NetlinkError> {
        let mut all = Answerers::default();
        self.owners.values().for_each(|answerers| all.add(answerers.clone()));
        let stale = kernel.udp_flows(|flow| all.is_stale(flow))?;
        kernel.remove(&stale)?;
        self.is_due = false;
        Ok(stale.len())
    }
}
