//! Devices that plugins offer: which there are and who has which, decided purely. The plugins are spoken to by [`keeper`].
//! See <https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/>.

pub mod keeper;
mod messages;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};
use skiff_base::Timestamp;

use crate::config::resources::amount;
use crate::config::uid;
use crate::pod::spec::spec;

/// How long the devices of a plugin that is gone are still shown as the node's, though nobody can have them; upstream's number.
const GONE_SECONDS: i64 = 300;

/// The devices of one resource.
#[derive(Debug, Clone, Default, PartialEq)]
struct Offer {
    /// Whether each is well.
    devices: BTreeMap<String, bool>,
    /// Since when the plugin is gone.
    gone_since: Option<Timestamp>,
}

/// The devices that one container has, by resource.
pub type Taken = BTreeMap<String, Vec<String>>;

/// All devices of the node.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    #[serde(skip)]
    offers: BTreeMap<String, Offer>,
    /// By the UID of the Pod and the name of the container.
    taken: BTreeMap<String, BTreeMap<String, Taken>>,
}

impl Inventory {
    /// A plugin says which devices it has.
    pub fn offer(&mut self, resource: &str, devices: BTreeMap<String, bool>) {
        self.offers.insert(resource.to_owned(), Offer { devices, gone_since: None });
    }

    /// A plugin has gone.
    pub fn withdraw(&mut self, resource: &str, now: Timestamp) {
        if let Some(offer) = self.offers.get_mut(resource) {
            offer.devices.values_mut().for_each(|well| *well = false);
            offer.gone_since.get_or_insert(now);
        }
    }

    /// Forgets what has been gone for long.
    pub fn forget(&mut self, now: Timestamp) {
        let long = |since: Timestamp| now.duration_since(since).as_secs() >= GONE_SECONDS;
        self.offers.retain(|_, offer| !offer.gone_since.is_some_and(long));
    }

    /// How many devices of each resource there are, and how many of them are well.
    pub fn counts(&self) -> BTreeMap<String, (i64, i64)> {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let counts = self.offers.iter().map(|(resource, offer)| {
            let well = offer.devices.values().filter(|well| **well).count();
            (resource.clone(), (number(offer.devices.len()), number(well)))
        });
        counts.collect()
    }

    /// The devices of a Pod's containers, by their names.
    pub fn of_pod(&self, uid: &str) -> BTreeMap<String, Taken> {
        self.taken.get(uid).cloned().unwrap_or_default()
    }

    /// The devices of a container.
    pub fn taken(&self, uid: &str, container: &str) -> Taken {
        self.taken.get(uid).and_then(|containers| containers.get(container)).cloned().unwrap_or_default()
    }

    /// Gives a Pod's containers the devices that they ask for. What an init container had, later ones can have.
    ///
    /// # Errors
    /// There are too few: status reason and message.
    pub fn assign(&self, pod: &Pod) -> Result<Self, (String, String)> {
        let mut next = self.clone();
        if next.taken.contains_key(uid(pod)) {
            return Ok(next);
        }
        let spec = spec(pod);
        let mut reusable: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        let init = spec.init_containers.iter().flatten().map(|container| {
            let passing = container.restart_policy.as_deref() != Some("Always");
            (container, passing)
        });
        for (container, passing) in init.chain(spec.containers.iter().map(|container| (container, false))) {
            for (resource, number) in self.wanted(container) {
                let own = reusable.entry(resource.clone()).or_default();
                let devices = next.choose(&resource, number, own)?;
                for device in &devices {
                    if passing {
                        own.insert(device.clone())
                    } else {
                        own.remove(device)
                    };
                }
                let of_pod = next.taken.entry(uid(pod).to_owned()).or_default();
                of_pod.entry(container.name.clone()).or_default().insert(resource, devices);
            }
        }
        Ok(next)
    }

    fn wanted(&self, container: &Container) -> Vec<(String, usize)> {
        let wanted = self.offers.keys().filter_map(|resource| {
            let number = amount(container.resources.as_ref(), true, resource)?.value();
            Some((resource.clone(), usize::try_from(number).ok().filter(|number| *number > 0)?))
        });
        wanted.collect()
    }

    fn choose(
        &self,
        resource: &str,
        number: usize,
        reusable: &BTreeSet<String>,
    ) -> Result<Vec<String>, (String, String)> {
        let held: BTreeSet<&String> =
            self.taken.values().flat_map(BTreeMap::values).filter_map(|taken| taken.get(resource)).flatten().collect();
        let devices = self.offers.get(resource).map(|offer| &offer.devices);
        let free = devices.into_iter().flatten().filter(|(id, well)| **well && !held.contains(id)).map(|(id, _)| id);
        let chosen: Vec<String> = reusable.iter().chain(free).take(number).cloned().collect();
        if chosen.len() < number {
            let message = format!(
                "Allocate failed due to requested number of devices unavailable for {resource}. Requested: {number}, Available: {}, which is unexpected",
                chosen.len()
            );
            return Err(("UnexpectedAdmissionError".to_owned(), message));
        }
        Ok(chosen)
    }

    /// Takes back what Pods had that are no longer there; returns whether anything was.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) -> bool {
        let before = self.taken.len();
        self.taken.retain(|uid, _| is_there(uid));
        self.taken.len() != before
    }
}
