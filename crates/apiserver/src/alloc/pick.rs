//! Finds the numbers of one Service: those that it asks for, or any that are free.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::json;
use skiff_base::cidr::{Cidr, Family, number};
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, Object};

use super::pool::Pool;
use super::{Allocators, Holding, Number, PORT_PREFIX};
use crate::failure::Result;
use crate::server::ApiServer;

/// How often a number is guessed before all that are taken are read.
const GUESSES: usize = 16;

/// Picks the numbers of one Service.
pub(super) struct Picker<'a> {
    server: &'a ApiServer,
    allocators: &'a Allocators,
    had: &'a Holding,
    taken: Holding,
    errors: ErrorList,
}

impl<'a> Picker<'a> {
    /// For a Service that has so much already.
    pub(super) fn new(server: &'a ApiServer, had: &'a Holding) -> Self {
        Self { server, allocators: &server.allocators, had, taken: Holding::new(), errors: ErrorList::new() }
    }

    /// What was taken, and what could not be.
    pub(super) fn end(self) -> (Holding, ErrorList) {
        (self.taken, self.errors)
    }

    /// Takes what the Service asks for, and writes into it what it is given.
    pub(super) async fn pick(&mut self, new: &mut Object) -> Result<()> {
        let kind = new.str_at(&["spec", "type"]).to_owned();
        if kind == "ExternalName" {
            return Ok(());
        }
        self.addresses(new).await?;
        let wants_ports = match kind.as_str() {
            "NodePort" => true,
            "LoadBalancer" => new.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&json!(false)),
            _ => false,
        };
        self.ports(new, wants_ports).await?;
        self.health_check_port(new).await
    }

    /// Takes a number that nobody has; `None` where there is none left.
    async fn any(&mut self, pool: &Pool, prefix: &str, number: impl Fn(u128) -> Number) -> Result<Option<Number>> {
        let ids = &self.allocators.ids;
        for _ in 0..GUESSES {
            let guess = number(pool.guess(ids));
            if !self.taken.contains(&guess) && !self.allocators.is_taken(guess).await? {
                self.taken.insert(guess);
                return Ok(Some(guess));
            }
        }
        let mut all: BTreeSet<Number> = self.allocators.all_taken(prefix, None).await?.into_keys().collect();
        all.extend(&self.taken);
        // Others than those of the pool's kind and family would be of other numbers, were they made from them.
        let numbers = all.iter().map(|taken| (taken.bits(), *taken)).filter(|(bits, taken)| number(*bits) == *taken);
        let found = pool.free(&numbers.map(|(bits, _)| bits).collect(), ids).map(number);
        self.taken.extend(found);
        Ok(found)
    }

    async fn any_port(&mut self) -> Result<Option<u16>> {
        let port = |number: u128| Number::Port(number as u16);
        Ok(match self.any(&self.allocators.ports, PORT_PREFIX, port).await? {
            Some(Number::Port(port)) => Some(port),
            _ => None,
        })
    }

    /// An address of each family that the Service has, the first ones as it asks for them.
    async fn addresses(&mut self, new: &mut Object) -> Result<()> {
        let mut addresses: Vec<String> = match new.list_at(&["spec", "clusterIPs"]) {
            [] => [new.str_at(&["spec", "clusterIP"])]
                .iter()
                .filter(|ip| !ip.is_empty())
                .map(ToString::to_string)
                .collect(),
            given => given.iter().filter_map(|ip| ip.as_str()).map(str::to_owned).collect(),
        };
        if addresses.first().is_some_and(|ip| ip == "None") {
            return Ok(());
        }
        for asked in &addresses {
            self.asked_address(asked, &addresses).await?;
        }
        let families: Vec<Family> =
            new.list_at(&["spec", "ipFamilies"]).iter().filter_map(|name| Family::parse(name.as_str()?)).collect();
        for family in families.into_iter().skip(addresses.len()) {
            match self.any_address(family).await? {
                Some(address) => addresses.push(address.to_string()),
                None => {
                    let text = "failed to allocate a serviceIP: range is full";
                    self.errors.push(FieldError::internal(&FieldPath::new("spec.clusterIPs"), text));
                    return Ok(());
                }
            }
        }
        if let Some(first) = addresses.first() {
            new.set_at(&["spec", "clusterIP"], first.as_str());
            new.set_at(&["spec", "clusterIPs"], json!(addresses));
        }
        Ok(())
    }

    async fn any_address(&mut self, family: Family) -> Result<Option<IpAddr>> {
        let ranges = self.allocators.ranges(self.server, family);
        for pool in ranges.into_iter().filter_map(Pool::of_range) {
            let address = |number: u128| Number::Address(family.address(number));
            if let Some(Number::Address(found)) = self.any(&pool, &self.allocators.address_prefix, address).await? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    async fn asked_address(&mut self, asked: &str, all: &[String]) -> Result<()> {
        let path = FieldPath::new("spec.clusterIPs");
        // What is no address at all was found by validation.
        let Ok(address) = asked.parse::<IpAddr>() else { return Ok(()) };
        let claim = Number::Address(address);
        if self.had.contains(&claim) {
            return Ok(());
        }
        let ranges = self.allocators.ranges(self.server, Family::of(address));
        let mut pools = ranges.iter().filter_map(|range| Pool::of_range(*range));
        let why = if !pools.any(|pool| pool.contains(number(address))) {
            let ranges: Vec<String> = ranges.iter().map(Cidr::to_string).collect();
            let ranges = ranges.join(",");
            format!("the provided IP ({asked}) is not in the valid range. The range of valid IPs is {ranges}")
        } else if self.taken.contains(&claim) || self.allocators.is_taken(claim).await? {
            "provided IP is already allocated".into()
        } else {
            self.taken.insert(claim);
            return Ok(());
        };
        self.errors.push(FieldError::invalid(&path, json!(all), format!("failed to allocate IP {asked}: {why}")));
        Ok(())
    }

    /// Takes this port, or tells why it cannot be had.
    async fn asked_port(&mut self, number: u16) -> Result<Result<(), String>> {
        let pool = &self.allocators.ports;
        if !pool.contains(number.into()) {
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
        let mut own: BTreeMap<u16, Vec<String>> = BTreeMap::new();
        for (index, port) in list.iter_mut().enumerate() {
            let path = FieldPath::new("spec.ports").index(index).child("nodePort");
            let protocol = port.str_at(&["protocol"]).to_owned();
            let number = match port.int_at(&["nodePort"]).filter(|asked| *asked != 0) {
                Some(asked) => {
                    let number = u16::try_from(asked).unwrap_or(0);
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
                    let Some(number) = self.any_port().await? else {
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
            Some(asked) => {
                let number = u16::try_from(asked).unwrap_or(0);
                if self.had.contains(&Number::Port(number)) {
                    return Ok(());
                }
                self.asked_port(number).await?.map(|()| number)
            }
            None => {
                let found = self.any_port().await?;
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
