//! Cluster IPs and node ports. What a Service takes is written with it, in one transaction: an IPAddress object for each
//! address, as upstream's, and a key for each port. So no two Services, of any number of servers, ever have the same, and
//! there is nothing to give back when a write fails.
//! See <https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/>.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use skiff_base::clock;
use skiff_base::clock::SharedClock;
use skiff_base::ids::Ids;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, Object, Status};
use skiff_store::{Change, Compare, KeyRange, Outcome, Revision, Store, Transaction};

use crate::codec;
use crate::config::{Cidr, Config};
use crate::failure::Result;
use crate::storage::keys;
use crate::write::Target;

/// How often a number is guessed before all that are taken are read.
const GUESSES: usize = 16;
/// Where the ports that are taken are kept.
const PORT_PREFIX: &str = "/registry/ranges/servicenodeports/";
/// The label by which upstream knows the addresses that the server itself has given.
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");

/// Numbers of one range.
#[derive(Debug, Clone)]
struct Pool {
    first: u32,
    last: u32,
    /// Numbers below this are given only to those who ask for them, while others are left.
    dynamic_from: u32,
}

impl Pool {
    /// `share` and `cap` bound the part that is kept for those who ask for a certain number.
    fn new(range: RangeInclusive<u32>, share: u32, cap: u32) -> Self {
        let (first, last) = range.into_inner();
        let size = last.saturating_sub(first) + 1;
        let kept = if size < 16 { 0 } else { (size / share).clamp(16, cap).min(size / 2) };
        Self { first, last, dynamic_from: first + kept }
    }

    fn contains(&self, number: u32) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// A number of the upper part, free or not.
    fn guess(&self, ids: &Ids) -> u32 {
        let size = u64::from(self.last.saturating_sub(self.dynamic_from)) + 1;
        self.dynamic_from + (ids.next_u64() % size) as u32
    }

    /// Any free number, from the upper part if there is one.
    fn free(&self, taken: &BTreeSet<u32>, ids: &Ids) -> Option<u32> {
        let free_in = |first: u32, last: u32| {
            let size = u64::from(last.checked_sub(first)?) + 1;
            let start = ids.next_u64() % size;
            let mut candidates = (0..size).map(|step| first + ((start + step) % size) as u32);
            candidates.find(|number| !taken.contains(number))
        };
        free_in(self.dynamic_from, self.last).or_else(|| free_in(self.first, self.dynamic_from - 1))
    }
}

/// The two kinds of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Number {
    Address(u32),
    Port(u32),
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
    let ports = ports.chain(health).filter(|port| *port > 0).filter_map(|port| u32::try_from(port).ok());
    addresses.map(|ip: Ipv4Addr| Number::Address(ip.into())).chain(ports.map(Number::Port)).collect()
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
    addresses: Pool,
    ports: Pool,
    cidr: Cidr,
    address_prefix: String,
}

impl Allocators {
    /// The ranges that the configuration names.
    pub fn new(config: &Config) -> Self {
        let Cidr { base, bits } = config.service_cidr;
        let base = u32::from(base);
        // The first address is the network's, the last one its broadcast address.
        let last = base | (u32::MAX.checked_shr(bits.into()).unwrap_or(0));
        let (first_port, last_port) = config.node_port_range.clone().into_inner();
        Self {
            store: config.store.clone(),
            clock: config.clock.clone(),
            ids: config.ids.clone(),
            addresses: Pool::new(base + 1..=last.saturating_sub(1), 16, 256),
            ports: Pool::new(first_port.into()..=last_port.into(), 32, 128),
            cidr: config.service_cidr,
            address_prefix: keys::prefix("networking.k8s.io", "ipaddresses"),
        }
    }

    fn key(&self, number: Number) -> Bytes {
        match number {
            Number::Address(number) => keys::object(&self.address_prefix, "", &Ipv4Addr::from(number).to_string()),
            Number::Port(number) => keys::object(PORT_PREFIX, "", &number.to_string()),
        }
    }

    fn value(&self, number: Number, namespace: &str, name: &str) -> Bytes {
        let parent = json!({"group": "", "resource": "services", "namespace": namespace, "name": name});
        let Number::Address(number) = number else { return parent.to_string().into() };
        codec::encode_stored(&json!({
            "metadata": {
                "name": Ipv4Addr::from(number).to_string(),
                "uid": self.ids.uid(),
                "creationTimestamp": clock::rfc3339(self.clock.now()),
                "labels": {"ipaddress.kubernetes.io/ip-family": "IPv4", (MANAGED_BY.0): MANAGED_BY.1},
            },
            "spec": {"parentRef": parent},
        }))
    }

    async fn is_taken(&self, number: Number) -> Result<bool> {
        Ok(self.store.get(&self.key(number), None).await?.1.is_some())
    }

    /// What is taken of a range, with the revisions that took it.
    async fn all_taken(&self, prefix: &str, at: Option<Revision>) -> Result<BTreeMap<u32, Revision>> {
        let range = KeyRange::prefix(Bytes::copy_from_slice(prefix.as_bytes()));
        let found = self.store.range(&range, at, 0).await?;
        let number = |key: &[u8]| {
            let text = std::str::from_utf8(key.get(prefix.len()..)?).ok()?;
            text.parse().ok().or_else(|| text.parse::<Ipv4Addr>().ok().map(u32::from))
        };
        Ok(found.items.iter().filter_map(|pair| Some((number(&pair.key)?, pair.mod_revision))).collect())
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
        let addresses = self.all_taken(&self.address_prefix, at).await?.into_iter();
        let ports = self.all_taken(PORT_PREFIX, at).await?.into_iter();
        let mut taken: BTreeMap<Number, Revision> = addresses.map(|(n, at)| (Number::Address(n), at)).collect();
        taken.extend(ports.map(|(n, at)| (Number::Port(n), at)));
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

    /// Finds what a Service asks for, and writes what it is given into the object; other kinds need nothing.
    pub(crate) async fn begin(&self, target: &Target<'_>, new: &mut Object, old: Option<&Object>) -> Result<Claims> {
        if !concerns(target) {
            return Ok(Claims::default());
        }
        let had = old.map(holding).unwrap_or_default();
        let mut picker = Picker { allocators: self, had: &had, taken: Holding::new(), errors: ErrorList::new() };
        Box::pin(picker.pick(new)).await?;
        if !picker.errors.is_empty() {
            return Err(Status::invalid(&target.served.def.group_kind(), new.name(), &picker.errors).into());
        }
        let has = holding(new);
        Ok(Claims { taken: picker.taken, freed: had.difference(&has).copied().collect() })
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

/// Picks the numbers of one Service.
struct Picker<'a> {
    allocators: &'a Allocators,
    had: &'a Holding,
    taken: Holding,
    errors: ErrorList,
}

impl Picker<'_> {
    async fn pick(&mut self, new: &mut Object) -> Result<()> {
        let kind = new.str_at(&["spec", "type"]).to_owned();
        if kind == "ExternalName" {
            return Ok(());
        }
        self.address(new).await?;
        let wants_ports = match kind.as_str() {
            "NodePort" => true,
            "LoadBalancer" => new.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&json!(false)),
            _ => false,
        };
        self.ports(new, wants_ports).await?;
        self.health_check_port(new).await
    }

    /// Takes a number that nobody has; `None` where there is none left.
    async fn any(&mut self, pool: &Pool, prefix: &str, number: fn(u32) -> Number) -> Result<Option<u32>> {
        let ids = &self.allocators.ids;
        for _ in 0..GUESSES {
            let guess = pool.guess(ids);
            if !self.taken.contains(&number(guess)) && !self.allocators.is_taken(number(guess)).await? {
                self.taken.insert(number(guess));
                return Ok(Some(guess));
            }
        }
        let mut all: BTreeSet<u32> = self.allocators.all_taken(prefix, None).await?.into_keys().collect();
        all.extend(self.taken.iter().map(|(Number::Address(number) | Number::Port(number))| *number));
        let found = pool.free(&all, ids);
        self.taken.extend(found.map(number));
        Ok(found)
    }

    async fn address(&mut self, new: &mut Object) -> Result<()> {
        let path = FieldPath::new("spec.clusterIPs");
        let asked: Vec<String> = match new.list_at(&["spec", "clusterIPs"]) {
            [] => [new.str_at(&["spec", "clusterIP"])]
                .iter()
                .filter(|ip| !ip.is_empty())
                .map(ToString::to_string)
                .collect(),
            given => given.iter().filter_map(|ip| ip.as_str()).map(str::to_owned).collect(),
        };
        if asked.first().is_some_and(|ip| ip == "None") {
            return Ok(());
        }
        self.check_families(new);
        if let Some(asked) = asked.first() {
            return self.asked_address(asked).await;
        }
        let (pool, prefix) = (&self.allocators.addresses, &self.allocators.address_prefix);
        match self.any(pool, prefix, Number::Address).await? {
            Some(number) => {
                let text = Ipv4Addr::from(number).to_string();
                new.set_at(&["spec", "clusterIP"], text.as_str());
                new.set_at(&["spec", "clusterIPs"], json!([text]));
            }
            None => self.errors.push(FieldError::internal(&path, "failed to allocate a serviceIP: range is full")),
        }
        Ok(())
    }

    async fn asked_address(&mut self, asked: &str) -> Result<()> {
        let path = FieldPath::new("spec.clusterIPs");
        // What is no address at all was found by validation.
        let Ok(address) = asked.parse::<Ipv4Addr>() else { return Ok(()) };
        let number = u32::from(address);
        if self.had.contains(&Number::Address(number)) {
            return Ok(());
        }
        let why = if !self.allocators.addresses.contains(number) {
            let cidr = self.allocators.cidr;
            format!("the provided IP ({asked}) is not in the valid range. The range of valid IPs is {cidr}")
        } else if self.allocators.is_taken(Number::Address(number)).await? {
            "provided IP is already allocated".into()
        } else {
            self.taken.insert(Number::Address(number));
            return Ok(());
        };
        self.errors.push(FieldError::invalid(&path, json!([asked]), format!("failed to allocate IP {asked}: {why}")));
        Ok(())
    }

    /// The cluster has one family.
    fn check_families(&mut self, new: &Object) {
        if new.str_at(&["spec", "ipFamilyPolicy"]) == "RequireDualStack" {
            let path = FieldPath::new("spec.ipFamilyPolicy");
            let text = "this cluster is not configured for dual-stack services";
            self.errors.push(FieldError::invalid(&path, "RequireDualStack", text));
        }
        for (index, family) in new.list_at(&["spec", "ipFamilies"]).iter().enumerate() {
            if family == "IPv6" {
                let path = FieldPath::new("spec.ipFamilies").index(index);
                self.errors.push(FieldError::invalid(&path, "IPv6", "not configured on this cluster"));
            }
        }
    }

    async fn asked_port(&mut self, number: u32) -> Result<Result<(), String>> {
        let pool = &self.allocators.ports;
        if !pool.contains(number) {
            let (first, last) = (pool.first, pool.last);
            return Ok(Err(format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            )));
        }
        if self.taken.contains(&Number::Port(number)) || self.allocators.is_taken(Number::Port(number)).await? {
            return Ok(Err("provided port is already allocated".into()));
        }
        self.taken.insert(Number::Port(number));
        Ok(Ok(()))
    }

    async fn ports(&mut self, new: &mut Object, wants: bool) -> Result<()> {
        let mut list = new.list_at(&["spec", "ports"]).to_vec();
        // Two ports of one Service may share a node port where their protocols differ.
        let mut own: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for (index, port) in list.iter_mut().enumerate() {
            let path = FieldPath::new("spec.ports").index(index).child("nodePort");
            let protocol = port.str_at(&["protocol"]).to_owned();
            let number = match port.int_at(&["nodePort"]).filter(|asked| *asked != 0) {
                Some(asked) => {
                    let number = u32::try_from(asked).unwrap_or(0);
                    let shared = own.get(&number).is_some_and(|protocols| !protocols.contains(&protocol));
                    if !self.had.contains(&Number::Port(number))
                        && !shared
                        && let Err(why) = self.asked_port(number).await?
                    {
                        self.errors.push(FieldError::invalid(&path, asked, why));
                    }
                    number
                }
                None if wants => {
                    let Some(number) = self.any(&self.allocators.ports, PORT_PREFIX, Number::Port).await? else {
                        let text = "failed to allocate a nodePort: range is full";
                        self.errors.push(FieldError::internal(&path, text));
                        continue;
                    };
                    port.set_at(&["nodePort"], number);
                    number
                }
                None => continue,
            };
            own.entry(number).or_default().push(protocol);
        }
        if !list.is_empty() {
            new.set_at(&["spec", "ports"], list);
        }
        Ok(())
    }

    /// The port of the health check where endpoints of other nodes do not count.
    async fn health_check_port(&mut self, new: &mut Object) -> Result<()> {
        let needs = new.str_at(&["spec", "type"]) == "LoadBalancer"
            && new.str_at(&["spec", "externalTrafficPolicy"]) == "Local";
        if !needs {
            return Ok(());
        }
        let path = FieldPath::new("spec.healthCheckNodePort");
        let asked = new.int_at(&["spec", "healthCheckNodePort"]).filter(|asked| *asked != 0);
        let given = match asked {
            Some(asked) if self.had.contains(&Number::Port(asked as u32)) => return Ok(()),
            Some(asked) => {
                let number = u32::try_from(asked).unwrap_or(0);
                self.asked_port(number).await?.map(|()| number)
            }
            None => {
                let found = self.any(&self.allocators.ports, PORT_PREFIX, Number::Port).await?;
                found.ok_or_else(|| "range is full".to_owned())
            }
        };
        match given {
            Ok(number) => new.set_at(&["spec", "healthCheckNodePort"], number),
            Err(why) => self.errors.push(FieldError::invalid(&path, asked.unwrap_or(0), why)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_gives_its_upper_part_first_and_all_of_it_in_the_end() {
        let ids = Ids::seeded(1);
        let pool = Pool::new(1..=64, 16, 256);
        assert_eq!(pool.dynamic_from, 17);
        assert!((0..1000).all(|_| (17..=64).contains(&pool.guess(&ids))));
        let (mut taken, mut given) = (BTreeSet::new(), Vec::new());
        while let Some(number) = pool.free(&taken, &ids) {
            taken.insert(number);
            given.push(number);
        }
        assert!(given[..48].iter().all(|number| *number >= 17));
        given.sort_unstable();
        assert_eq!(given, (1..=64).collect::<Vec<_>>());
        taken.remove(&5);
        assert_eq!(pool.free(&taken, &ids), Some(5));
    }

    #[test]
    fn a_service_holds_its_addresses_and_all_its_ports() {
        let service = json!({"spec": {"type": "LoadBalancer", "clusterIPs": ["10.96.0.7"], "healthCheckNodePort": 30002,
            "ports": [{"nodePort": 30001, "protocol": "TCP"}, {"nodePort": 30001, "protocol": "UDP"}, {"port": 1}]}});
        let address = Number::Address(u32::from(Ipv4Addr::new(10, 96, 0, 7)));
        assert_eq!(holding(&service), Holding::from([address, Number::Port(30001), Number::Port(30002)]));
        assert!(holding(&json!({"spec": {"clusterIPs": ["None"]}})).is_empty());
    }
}
