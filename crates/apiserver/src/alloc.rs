//! Cluster IPs and node ports: reserved before a Service is written, given back when the write fails or the Service goes.
//! See <https://kubernetes.io/docs/concepts/services-networking/cluster-ip-allocation/>.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::json;
use skiff_base::ids::Ids;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, Object, Status};

use crate::config::{Cidr, Config};
use crate::failure::Result;
use crate::storage::catalogue::Catalogue;
use crate::storage::filter::Filter;
use crate::write::Target;

/// Numbers of one range, with how many of them are in use (a node port may serve two protocols of one Service).
struct Pool {
    first: u32,
    last: u32,
    /// Numbers below this are given only to those who ask for them, while others are left.
    dynamic_from: u32,
    taken: HashMap<u32, u32>,
}

impl Pool {
    /// `share` and `cap` bound the part that is kept for those who ask for a certain number.
    fn new(range: RangeInclusive<u32>, share: u32, cap: u32) -> Self {
        let (first, last) = range.into_inner();
        let size = last.saturating_sub(first) + 1;
        let kept = if size < 16 { 0 } else { (size / share).clamp(16, cap).min(size / 2) };
        Self { first, last, dynamic_from: first + kept, taken: HashMap::new() }
    }

    fn contains(&self, number: u32) -> bool {
        (self.first..=self.last).contains(&number)
    }

    /// Any free number, from the upper part if there is one.
    fn next(&self, ids: &Ids) -> Option<u32> {
        self.free_in(self.dynamic_from, self.last, ids).or_else(|| self.free_in(self.first, self.dynamic_from - 1, ids))
    }

    fn free_in(&self, first: u32, last: u32, ids: &Ids) -> Option<u32> {
        let size = u64::from(last.checked_sub(first)?) + 1;
        let start = ids.next_u64() % size;
        let candidates = (0..size).map(|step| first + ((start + step) % size) as u32);
        candidates.into_iter().find(|number| !self.taken.contains_key(number))
    }

    fn take(&mut self, number: u32) {
        *self.taken.entry(number).or_default() += 1;
    }

    fn give_back(&mut self, number: u32) {
        if let Some(count) = self.taken.get_mut(&number) {
            *count -= 1;
            if *count == 0 {
                self.taken.remove(&number);
            }
        }
    }
}

struct Pools {
    addresses: Pool,
    ports: Pool,
}

/// What Services have taken.
pub struct Allocators {
    pools: Arc<Mutex<Pools>>,
    cidr: Cidr,
}

/// What one Service holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Holding {
    addresses: BTreeSet<u32>,
    ports: BTreeSet<u32>,
}

impl Holding {
    fn of(service: &Object) -> Self {
        if service.str_at(&["spec", "type"]) == "ExternalName" {
            return Self::default();
        }
        let addresses = service.list_at(&["spec", "clusterIPs"]).iter().filter_map(|ip| ip.as_str());
        let ports = service.list_at(&["spec", "ports"]).iter().filter_map(|port| port.int_at(&["nodePort"]));
        let health = service.int_at(&["spec", "healthCheckNodePort"]);
        Self {
            addresses: addresses.filter_map(|ip| ip.parse::<Ipv4Addr>().ok()).map(u32::from).collect(),
            ports: ports.chain(health).filter(|port| *port > 0).filter_map(|port| u32::try_from(port).ok()).collect(),
        }
    }
}

/// What one write has reserved; given back unless the write commits.
pub struct Reservation {
    pools: Arc<Mutex<Pools>>,
    reserved: Holding,
    freed: Holding,
}

impl Reservation {
    /// The write is done: what was reserved stays taken, what the object no longer has is free.
    pub fn commit(mut self) {
        self.reserved = std::mem::take(&mut self.freed);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.reserved != Holding::default() {
            self.pools.lock().give_back(&self.reserved);
        }
    }
}

impl Pools {
    fn give_back(&mut self, holding: &Holding) {
        holding.addresses.iter().for_each(|number| self.addresses.give_back(*number));
        holding.ports.iter().for_each(|number| self.ports.give_back(*number));
    }
}

impl Allocators {
    /// Repaired from the Services that the store holds.
    ///
    /// # Errors
    /// A stored Service cannot be read.
    pub fn new(config: &Config, catalogue: &Catalogue) -> Result<Self> {
        let Cidr { base, bits } = config.service_cidr;
        let base = u32::from(base);
        // The first address is the network's, the last one its broadcast address.
        let last = base | (u32::MAX.checked_shr(bits.into()).unwrap_or(0));
        let mut addresses = Pool::new(base + 1..=last.saturating_sub(1), 16, 256);
        let (first, last) = config.node_port_range.clone().into_inner();
        let mut ports = Pool::new(first.into()..=last.into(), 32, 128);
        if let Some(services) = catalogue.cache("", "services") {
            for service in services.objects(&Filter::default())? {
                let holding = Holding::of(&service);
                holding.addresses.iter().for_each(|number| addresses.take(*number));
                holding.ports.iter().for_each(|number| ports.take(*number));
            }
        }
        Ok(Self { pools: Arc::new(Mutex::new(Pools { addresses, ports })), cidr: config.service_cidr })
    }

    fn nothing(&self) -> Reservation {
        Reservation { pools: self.pools.clone(), reserved: Holding::default(), freed: Holding::default() }
    }

    /// Reserves what a Service asks for, and writes what was given to it into the object; other kinds need nothing.
    pub(crate) fn begin(&self, target: &Target<'_>, new: &mut Object, old: Option<&Object>) -> Result<Reservation> {
        let def = &target.served.def;
        let is_service = def.group.is_empty() && def.plural == "services" && target.subresource.is_empty();
        if !is_service {
            return Ok(self.nothing());
        }
        let had = old.map(Holding::of).unwrap_or_default();
        let mut reservation = self.nothing();
        let errors = self.reserve(new, &had, &mut reservation.reserved, target.server.ids());
        if !errors.is_empty() {
            return Err(Status::invalid(&def.group_kind(), new.name(), &errors).into());
        }
        let has = Holding::of(new);
        reservation.freed = Holding {
            addresses: had.addresses.difference(&has.addresses).copied().collect(),
            ports: had.ports.difference(&has.ports).copied().collect(),
        };
        Ok(reservation)
    }

    fn reserve(&self, new: &mut Object, had: &Holding, reserved: &mut Holding, ids: &Ids) -> ErrorList {
        let mut errors = ErrorList::new();
        let kind = new.str_at(&["spec", "type"]).to_owned();
        if kind == "ExternalName" {
            return errors;
        }
        let pools = &mut *self.pools.lock();
        self.address(&mut pools.addresses, new, had, reserved, ids, &mut errors);
        let wants_ports = match kind.as_str() {
            "NodePort" => true,
            "LoadBalancer" => new.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&json!(false)),
            _ => false,
        };
        ports(&mut pools.ports, new, had, wants_ports, reserved, ids, &mut errors);
        errors
    }

    fn address(
        &self,
        pool: &mut Pool,
        new: &mut Object,
        had: &Holding,
        reserved: &mut Holding,
        ids: &Ids,
        errors: &mut ErrorList,
    ) {
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
            return;
        }
        self.check_families(new, errors);
        if let Some(asked) = asked.first() {
            let refuse = |why: String| {
                FieldError::invalid(&path, json!([asked]), format!("failed to allocate IP {asked}: {why}"))
            };
            // What is no address at all was found by validation.
            let Ok(address) = asked.parse::<Ipv4Addr>() else { return };
            let number = u32::from(address);
            if had.addresses.contains(&number) {
                return;
            }
            if !pool.contains(number) {
                let why = format!(
                    "the provided IP ({asked}) is not in the valid range. The range of valid IPs is {}",
                    self.cidr
                );
                errors.push(refuse(why));
            } else if pool.taken.contains_key(&number) {
                errors.push(refuse("provided IP is already allocated".into()));
            } else {
                pool.take(number);
                reserved.addresses.insert(number);
            }
            return;
        }
        match pool.next(ids) {
            Some(number) => {
                pool.take(number);
                reserved.addresses.insert(number);
                let text = Ipv4Addr::from(number).to_string();
                new.set_at(&["spec", "clusterIP"], text.as_str());
                new.set_at(&["spec", "clusterIPs"], json!([text]));
            }
            None => errors.push(FieldError::internal(&path, "failed to allocate a serviceIP: range is full")),
        }
    }

    /// The cluster has one family.
    fn check_families(&self, new: &Object, errors: &mut ErrorList) {
        if new.str_at(&["spec", "ipFamilyPolicy"]) == "RequireDualStack" {
            let path = FieldPath::new("spec.ipFamilyPolicy");
            let text = "this cluster is not configured for dual-stack services";
            errors.push(FieldError::invalid(&path, "RequireDualStack", text));
        }
        for (index, family) in new.list_at(&["spec", "ipFamilies"]).iter().enumerate() {
            if family == "IPv6" {
                let path = FieldPath::new("spec.ipFamilies").index(index);
                errors.push(FieldError::invalid(&path, "IPv6", "not configured on this cluster"));
            }
        }
    }

    /// Gives back what a removed object had.
    pub(crate) fn release(&self, target: &Target<'_>, object: &Object) {
        let def = &target.served.def;
        if def.group.is_empty() && def.plural == "services" {
            self.pools.lock().give_back(&Holding::of(object));
        }
    }
}

/// Node ports, and the port of the health check where endpoints of other nodes do not count.
fn ports(
    pool: &mut Pool,
    new: &mut Object,
    had: &Holding,
    wants: bool,
    reserved: &mut Holding,
    ids: &Ids,
    errors: &mut ErrorList,
) {
    let mut list = new.list_at(&["spec", "ports"]).to_vec();
    // Two ports of one Service may share a node port where their protocols differ.
    let mut own: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for (index, port) in list.iter_mut().enumerate() {
        let path = FieldPath::new("spec.ports").index(index).child("nodePort");
        let protocol = port.str_at(&["protocol"]).to_owned();
        let asked = port.int_at(&["nodePort"]).filter(|asked| *asked != 0);
        let number = match asked {
            Some(asked) => {
                let number = u32::try_from(asked).unwrap_or(0);
                let shared = own.get(&number).is_some_and(|protocols| !protocols.contains(&protocol));
                if !had.ports.contains(&number) && !shared {
                    match ask(pool, number) {
                        Ok(()) => drop(reserved.ports.insert(number)),
                        Err(why) => errors.push(FieldError::invalid(&path, asked, why)),
                    }
                }
                number
            }
            None if wants => {
                let Some(number) = pool.next(ids) else {
                    errors.push(FieldError::internal(&path, "failed to allocate a nodePort: range is full"));
                    continue;
                };
                pool.take(number);
                reserved.ports.insert(number);
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
    health_check_port(pool, new, had, reserved, ids, errors);
}

fn ask(pool: &mut Pool, number: u32) -> Result<(), String> {
    if !pool.contains(number) {
        let (first, last) = (pool.first, pool.last);
        return Err(format!("provided port is not in the valid range. The range of valid ports is {first}-{last}"));
    }
    if pool.taken.contains_key(&number) {
        return Err("provided port is already allocated".into());
    }
    pool.take(number);
    Ok(())
}

fn health_check_port(
    pool: &mut Pool,
    new: &mut Object,
    had: &Holding,
    reserved: &mut Holding,
    ids: &Ids,
    errors: &mut ErrorList,
) {
    let needs =
        new.str_at(&["spec", "type"]) == "LoadBalancer" && new.str_at(&["spec", "externalTrafficPolicy"]) == "Local";
    if !needs {
        return;
    }
    let path = FieldPath::new("spec.healthCheckNodePort");
    let asked = new.int_at(&["spec", "healthCheckNodePort"]).filter(|asked| *asked != 0);
    let given = match asked {
        Some(asked) if had.ports.contains(&(asked as u32)) => return,
        Some(asked) => ask(pool, u32::try_from(asked).unwrap_or(0)).map(|()| asked as u32),
        None => pool.next(ids).ok_or_else(|| "range is full".to_owned()).inspect(|number| pool.take(*number)),
    };
    match given {
        Ok(number) => {
            reserved.ports.insert(number);
            new.set_at(&["spec", "healthCheckNodePort"], number);
        }
        Err(why) => errors.push(FieldError::invalid(&path, asked.unwrap_or(0), why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_gives_its_upper_part_first_and_all_of_it_in_the_end() {
        let ids = Ids::seeded(1);
        let mut pool = Pool::new(1..=64, 16, 256);
        assert_eq!(pool.dynamic_from, 17);
        let mut given = Vec::new();
        while let Some(number) = pool.next(&ids) {
            pool.take(number);
            given.push(number);
        }
        assert!(given[..48].iter().all(|number| *number >= 17));
        given.sort_unstable();
        assert_eq!(given, (1..=64).collect::<Vec<_>>());
        pool.give_back(5);
        assert_eq!(pool.next(&ids), Some(5));
    }
}
