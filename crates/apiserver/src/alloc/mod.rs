//! Cluster IPs and node ports. What a Service takes is written with it, in one transaction: an IPAddress object for each
//! address, as upstream's, and a key for each port. So no two Services, of any number of servers, ever have the same, and
//! there is nothing to give back when a write fails.
//! See <https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/>.

mod families;
mod pick;
mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use skiff_base::cidr::{Cidr, Family, number};
use skiff_base::clock;
use skiff_base::clock::SharedClock;
use skiff_base::ids::Ids;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, Status};
use skiff_store::{Change, Compare, KeyRange, Outcome, Revision, Store, Transaction};

use self::pick::Picker;
use self::pool::Pool;
use crate::admission::kept::Kept;
use crate::codec;
use crate::config::Config;
use crate::failure::Result;
use crate::server::ApiServer;
use crate::storage::keys;
use crate::write::Target;

/// Where the ports that are taken are kept.
const PORT_PREFIX: &str = "/registry/ranges/servicenodeports/";
/// The label by which upstream knows the addresses that the server itself has given.
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
/// The label that tells an address's family.
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// The two kinds of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Number {
    Address(IpAddr),
    Port(u16),
}

impl Number {
    /// What pools count.
    fn bits(self) -> u128 {
        match self {
            Self::Address(address) => number(address),
            Self::Port(port) => port.into(),
        }
    }
}

/// What one Service holds.
type Holding = BTreeSet<Number>;

fn holding(service: &Object) -> Holding {
    if service.str_at(&["spec", "type"]) == "ExternalName" {
        return Holding::new();
    }
    let addresses = service.list_at(&["spec", "clusterIPs"]).iter().filter_map(|ip| ip.as_str()?.parse().ok());
    let ports = service.list_at(&["spec", "ports"]).iter().filter_map(|port| port.int_at(&["nodePort"]));
    let health = service.int_at(&["spec", "healthCheckNodePort"]);
    let ports = ports.chain(health).filter(|port| *port > 0).filter_map(|port| u16::try_from(port).ok());
    addresses.map(Number::Address).chain(ports.map(Number::Port)).collect()
}

/// What a write takes and gives back; its transaction does it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    taken: Holding,
    freed: Holding,
}

impl Claims {
    /// Adds what is claimed for a Service to the transaction that writes it.
    pub(crate) fn add_to(&self, allocators: &Allocators, namespace: &str, name: &str, transaction: &mut Transaction) {
        for number in &self.freed {
            transaction.changes.push(Change::Delete { key: allocators.key(*number) });
        }
        for number in &self.taken {
            let key = allocators.key(*number);
            transaction.compares.push(Compare { key: key.clone(), mod_revision: 0 });
            let value = allocators.value(*number, namespace, name);
            transaction.changes.push(Change::Put { key, value });
        }
    }
}

/// Gives addresses and ports to Services.
pub struct Allocators {
    store: Arc<dyn Store>,
    clock: SharedClock,
    ids: Arc<Ids>,
    ports: Pool,
    /// The ranges that the cluster was set up with, that of the primary family first.
    configured: Vec<Cidr>,
    /// The ranges of each ServiceCIDR that may be given from.
    ranges: Kept<Vec<Cidr>>,
    address_prefix: String,
}

impl Allocators {
    /// The ranges that the configuration names.
    pub fn new(config: &Config) -> Self {
        let (first_port, last_port) = config.node_port_range.clone().into_inner();
        Self {
            store: config.store.clone(),
            clock: config.clock.clone(),
            ids: config.ids.clone(),
            ports: Pool::new(first_port.into()..=last_port.into(), 32, 128),
            configured: config.service_cidrs.clone(),
            ranges: Kept::default(),
            address_prefix: keys::prefix("networking.k8s.io", "ipaddresses"),
        }
    }

    fn key(&self, number: Number) -> Bytes {
        match number {
            Number::Address(address) => keys::object(&self.address_prefix, "", &address.to_string()),
            Number::Port(number) => keys::object(PORT_PREFIX, "", &number.to_string()),
        }
    }

    fn value(&self, number: Number, namespace: &str, name: &str) -> Bytes {
        let parent = json!({"group": "", "resource": "services", "namespace": namespace, "name": name});
        let Number::Address(address) = number else { return parent.to_string().into() };
        codec::encode_stored(&json!({
            "metadata": {
                "name": address.to_string(),
                "uid": self.ids.uid(),
                "creationTimestamp": clock::rfc3339(self.clock.now()),
                "labels": {(FAMILY): Family::of(address).name(), (MANAGED_BY.0): MANAGED_BY.1},
            },
            "spec": {"parentRef": parent},
        }))
    }

    async fn is_taken(&self, number: Number) -> Result<bool> {
        Ok(self.store.get(&self.key(number), None).await?.1.is_some())
    }

    /// What is taken of addresses or of ports, with the revisions that took it.
    async fn all_taken(&self, prefix: &str, at: Option<Revision>) -> Result<BTreeMap<Number, Revision>> {
        let range = KeyRange::prefix(Bytes::copy_from_slice(prefix.as_bytes()));
        let found = self.store.range(&range, at, 0).await?;
        let number = |key: &[u8]| {
            let text = std::str::from_utf8(key.get(prefix.len()..)?).ok()?;
            text.parse().map(Number::Port).or_else(|_| text.parse().map(Number::Address)).ok()
        };
        Ok(found.items.iter().filter_map(|pair| Some((number(&pair.key)?, pair.mod_revision))).collect())
    }

    /// The families that the cluster has, the primary one first.
    fn families(&self) -> Vec<Family> {
        self.configured.iter().map(|range| range.family()).collect()
    }

    /// The ranges of a family that addresses are given from: those that the ServiceCIDRs say, or what the cluster was set
    /// up with where there is none yet.
    fn ranges(&self, server: &ApiServer, family: Family) -> Vec<Cidr> {
        let all = self.ranges.all(server, "networking.k8s.io", "servicecidrs", usable_ranges);
        let known: Vec<Cidr> = all.iter().flat_map(|ranges| ranges.iter().copied()).collect();
        let ranges = if all.is_empty() { &self.configured } else { &known };
        ranges.iter().copied().filter(|range| range.family() == family).collect()
    }

    /// Makes the keys agree with the Services that the store holds: for data of a version that had none, and as
    /// upstream's repair does.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn repair(&self) -> Result<()> {
        let services = keys::prefix("", "services");
        let range = KeyRange::prefix(Bytes::copy_from_slice(services.as_bytes()));
        let found = self.store.range(&range, None, 0).await?;
        let at = Some(found.revision);
        let mut taken = self.all_taken(&self.address_prefix, at).await?;
        taken.extend(self.all_taken(PORT_PREFIX, at).await?);
        for pair in &found.items {
            let service: Object = serde_json::from_slice(&pair.value).unwrap_or_default();
            let missing = holding(&service).into_iter().filter(|number| taken.remove(number).is_none());
            let claims = Claims { taken: missing.collect(), freed: Holding::new() };
            if claims.taken.is_empty() {
                continue;
            }
            let mut transaction = Transaction::default();
            claims.add_to(self, service.namespace(), service.name(), &mut transaction);
            if let Outcome::Failed { .. } = self.store.commit(transaction).await? {
                tracing::warn!(
                    service = service.name(),
                    "an address or port is taken by two Services, or was just now"
                );
            }
        }
        for (number, mod_revision) in taken {
            self.forget(number, mod_revision).await?;
        }
        Ok(())
    }

    /// Removes a number that no Service holds; an address that somebody else has written stays.
    async fn forget(&self, number: Number, mod_revision: Revision) -> Result<()> {
        let key = self.key(number);
        let (_, found) = self.store.get(&key, None).await?;
        let object: Object = found.and_then(|pair| serde_json::from_slice(&pair.value).ok()).unwrap_or_default();
        let is_own =
            matches!(number, Number::Port(_)) || object.str_at(&["metadata", "labels", MANAGED_BY.0]) == MANAGED_BY.1;
        if is_own {
            let compares = vec![Compare { key: key.clone(), mod_revision }];
            let changes = vec![Change::Delete { key }];
            self.store.commit(Transaction { compares, changes, ..Transaction::default() }).await?;
        }
        Ok(())
    }

    /// What the first Services of a cluster take, for the transaction that writes them.
    pub(crate) fn of_first(service: &Object) -> Claims {
        Claims { taken: holding(service), freed: Holding::new() }
    }

    /// Decides which families of addresses a Service is to have, and writes them into the object.
    pub(crate) fn settle(&self, target: &Target<'_>, new: &mut Object, old: Option<&Object>) -> Result<()> {
        if !concerns(target) || !target.subresource.is_empty() {
            return Ok(());
        }
        let errors = families::settle(&self.families(), new, old);
        refused(target, new, &errors)
    }

    /// Finds what a Service asks for, and writes what it is given into the object; other kinds need nothing.
    pub(crate) async fn begin(&self, target: &Target<'_>, new: &mut Object, old: Option<&Object>) -> Result<Claims> {
        if !concerns(target) {
            return Ok(Claims::default());
        }
        let had = old.map(holding).unwrap_or_default();
        let mut picker = Picker::new(target.server, &had);
        Box::pin(picker.pick(new)).await?;
        let (taken, errors) = picker.end();
        refused(target, new, &errors)?;
        let has = holding(new);
        Ok(Claims { taken, freed: had.difference(&has).copied().collect() })
    }

    /// What a Service gives back that is removed.
    pub(crate) fn end(&self, target: &Target<'_>, object: &Object) -> Claims {
        let freed = if concerns(target) { holding(object) } else { Holding::new() };
        Claims { taken: Holding::new(), freed }
    }
}

/// Whether a write may claim anything.
pub(crate) fn concerns(target: &Target<'_>) -> bool {
    let def = &target.served.def;
    def.group.is_empty() && def.plural == "services" && matches!(target.subresource.as_str(), "" | "status")
}

fn refused(target: &Target<'_>, service: &Object, errors: &ErrorList) -> Result<()> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&target.served.def.group_kind(), service.name(), errors).into())
}

/// What may be given from a ServiceCIDR: nothing of one that goes, or that is said not to be ready.
fn usable_ranges(service_cidr: &Object) -> Vec<Cidr> {
    let conditions = service_cidr.list_at(&["status", "conditions"]);
    let ready = conditions.iter().find(|condition| condition.str_at(&["type"]) == "Ready");
    if service_cidr.is_deleting() || ready.is_some_and(|condition| condition.str_at(&["status"]) != "True") {
        return Vec::new();
    }
    service_cidr.list_at(&["spec", "cidrs"]).iter().filter_map(|range| range.as_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_holds_its_addresses_and_all_its_ports() {
        let service = json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.7", "FD00:0::7"],
            "healthCheckNodePort": 30002,
            "ports": [{"nodePort": 30001, "protocol": "TCP"}, {"nodePort": 30001, "protocol": "UDP"}, {"port": 1}]}});
        let address = |text: &str| Number::Address(text.parse().expect("an address"));
        let ports = [Number::Port(30001), Number::Port(30002)];
        let all = [address("10.96.0.7"), address("fd00::7")].into_iter().chain(ports);
        assert_eq!(holding(&service), all.collect::<Holding>());
        assert!(holding(&json!({"spec": {"clusterIPs": ["None"]}})).is_empty());
    }

    #[test]
    fn ranges_on_their_way_out_are_not_given_from() {
        let ranges = |more: &str| {
            let text =
                format!("{{\"metadata\": {{{more}}}, \"spec\": {{\"cidrs\": [\"10.0.0.0/24\", \"fd00::/112\"]}}}}");
            usable_ranges(&serde_json::from_str(&text).expect("an object")).len()
        };
        assert_eq!((ranges(""), ranges("\"deletionTimestamp\": \"2026-01-31T12:00:00Z\"")), (2, 0));
        let ready = |status: &str| {
            usable_ranges(&json!({"spec": {"cidrs": ["fd00::/112"]},
                "status": {"conditions": [{"type": "Ready", "status": status}]}}))
            .len()
        };
        assert_eq!((ready("True"), ready("False")), (1, 0));
    }
}
