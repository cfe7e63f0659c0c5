//! What a question is answered: a pure function of the question and of what is known.
//! Follows the Kubernetes DNS-Based Service Discovery specification, version 1.1.0.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

use super::names::{EndpointEntry, Names, Port, ServiceEntry, Target};

/// The version of the specification, which is itself a record.
const SPECIFICATION_VERSION: &str = "1.1.0";
const REVERSE_IPV4: &str = ".in-addr.arpa";
const REVERSE_IPV6: &str = ".ip6.arpa";
/// An alias of an alias of an alias is followed so far.
const MAX_ALIASES: usize = 8;

/// The record types that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// An IPv4 address.
    A,
    /// An IPv6 address.
    Aaaa,
    /// Where a port of a service is.
    Srv,
    /// The name of an address.
    Ptr,
    /// Another name for the same.
    Cname,
    /// A text.
    Txt,
    /// The zone's name server.
    Ns,
    /// The zone's start.
    Soa,
    /// Whatever there is.
    Any,
    /// A type that nothing here has.
    Other,
}

/// The content of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// A or AAAA, as the address is.
    Address(IpAddr),
    /// SRV; priority and weight are always the same.
    Srv {
        /// The port.
        port: u16,
        /// Where.
        target: String,
    },
    /// PTR.
    Ptr(String),
    /// CNAME.
    Cname(String),
    /// TXT.
    Txt(String),
    /// NS.
    Ns(String),
    /// SOA.
    Soa,
}

/// A record: whose, and what. Names have no dot at the end.
pub type Record = (String, Data);

/// The answer to a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// These records, and some that the asker will want next.
    Found {
        /// What was asked for.
        answers: Vec<Record>,
        /// What goes with it.
        additionals: Vec<Record>,
    },
    /// An alias (perhaps after others) for a name that is not ours; its records are to be got elsewhere.
    Elsewhere {
        /// The aliases that lead there.
        answers: Vec<Record>,
        /// The name to ask for.
        target: String,
    },
    /// The name exists, but has no record of this type.
    NoData,
    /// There is no such name.
    NoSuchName,
    /// The name is not ours to answer for.
    NotOurs,
}

/// Answers a question. `name` is in lower case and without a dot at the end.
pub fn answer(names: &Names, name: &str, kind: Kind) -> Answer {
    let mut aliases: Vec<Record> = Vec::new();
    let mut asked = name.to_owned();
    loop {
        let found = match look_up(names, &asked, kind) {
            Found::NotOurs if aliases.is_empty() => return Answer::NotOurs,
            Found::NotOurs => return Answer::Elsewhere { answers: aliases, target: asked },
            Found::Nothing if aliases.is_empty() => return Answer::NoSuchName,
            // The alias itself exists, whatever it leads to.
            Found::Nothing => return Answer::Found { answers: aliases, additionals: Vec::new() },
            Found::Records(found) => found,
        };
        match found.first() {
            Some(Data::Cname(target)) if kind != Kind::Cname => {
                let target = target.clone();
                let is_circle = target == asked || aliases.iter().any(|(owner, _)| *owner == target);
                aliases.extend(found.into_iter().map(|data| (asked.clone(), data)));
                if is_circle || aliases.len() >= MAX_ALIASES {
                    return Answer::Found { answers: aliases, additionals: Vec::new() };
                }
                asked = target;
            }
            _ => return finish(names, aliases, asked, found, kind),
        }
    }
}

fn finish(names: &Names, mut answers: Vec<Record>, asked: String, found: Vec<Data>, kind: Kind) -> Answer {
    let matching = found.into_iter().filter(|data| is_of(data, kind));
    answers.extend(matching.map(|data| (asked.clone(), data)));
    if answers.is_empty() {
        return Answer::NoData;
    }
    let mut additionals: Vec<Record> = Vec::new();
    for (_, data) in &answers {
        let (Data::Srv { target, .. } | Data::Ns(target)) = data else { continue };
        if additionals.iter().any(|(owner, _)| owner == target) {
            continue;
        }
        if let Found::Records(found) = look_up(names, target, Kind::A) {
            let addresses = found.into_iter().filter(|data| matches!(data, Data::Address(_)));
            additionals.extend(addresses.map(|data| (target.clone(), data)));
        }
    }
    Answer::Found { answers, additionals }
}

fn is_of(data: &Data, kind: Kind) -> bool {
    match data {
        Data::Address(IpAddr::V4(_)) => matches!(kind, Kind::A | Kind::Any),
        Data::Address(IpAddr::V6(_)) => matches!(kind, Kind::Aaaa | Kind::Any),
        Data::Srv { .. } => matches!(kind, Kind::Srv | Kind::Any),
        Data::Ptr(_) => matches!(kind, Kind::Ptr | Kind::Any),
        Data::Cname(_) => matches!(kind, Kind::Cname | Kind::Any),
        Data::Txt(_) => matches!(kind, Kind::Txt | Kind::Any),
        Data::Ns(_) => matches!(kind, Kind::Ns | Kind::Any),
        Data::Soa => matches!(kind, Kind::Soa | Kind::Any),
    }
}

/// What there is at a name.
enum Found {
    NotOurs,
    Nothing,
    /// All its records; none, if only longer names have any.
    Records(Vec<Data>),
}

fn look_up(names: &Names, name: &str, kind: Kind) -> Found {
    let domain = names.zone.domain.as_str();
    if name == domain {
        return Found::Records(vec![Data::Soa, Data::Ns(server_name(names))]);
    }
    if let Some(inside) = name.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')) {
        let labels: Vec<&str> = inside.split('.').collect();
        return inside_zone(names, &labels, kind).map_or(Found::Nothing, Found::Records);
    }
    match address_of(name) {
        Some(address) => reverse(names, address),
        None => Found::NotOurs,
    }
}

/// `None` if there is no such name. Records that are dear to make and not of this kind may be missing.
fn inside_zone(names: &Names, labels: &[&str], kind: Kind) -> Option<Vec<Data>> {
    match labels {
        ["svc" | "pod" | "dns"] => Some(Vec::new()),
        ["dns-version"] => Some(vec![Data::Txt(SPECIFICATION_VERSION.into())]),
        ["ns", "dns"] => Some(names.zone.servers.iter().copied().map(Data::Address).collect()),
        [namespace, "svc" | "pod"] => names.has_namespace(namespace).then(Vec::new),
        [address, namespace, "pod"] => pod(names, address, namespace),
        [name, namespace, "svc"] => service(names, &key(name, namespace), kind),
        [below, name, namespace, "svc"] => below_service(names, &key(name, namespace), below),
        [port, protocol, name, namespace, "svc"] => {
            port_of_service(names, &key(name, namespace), port.strip_prefix('_')?, protocol.strip_prefix('_')?)
        }
        _ => None,
    }
}

/// `1-2-3-4.namespace.pod`: any address, in a namespace that exists, as upstream's default has it.
fn pod(names: &Names, dashed: &str, namespace: &str) -> Option<Vec<Data>> {
    if !names.has_namespace(namespace) {
        return None;
    }
    let ipv4 = dashed.replace('-', ".").parse().map(IpAddr::V4);
    let ipv6 = || dashed.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6);
    let address = ipv4.or_else(|_| ipv6()).ok()?;
    Some(vec![Data::Address(address)])
}

/// What Services are found by.
fn key(name: &str, namespace: &str) -> String {
    format!("{name}.{namespace}")
}

fn service(names: &Names, key: &str, kind: Kind) -> Option<Vec<Data>> {
    let entry = names.service(key)?;
    let mut found: Vec<Data> = match &entry.target {
        Target::Alias(target) => return Some(vec![Data::Cname(target.to_string())]),
        Target::Cluster(own) => own.iter().copied().map(Data::Address).collect(),
        Target::Headless => {
            let mut seen = HashSet::new();
            let all = names.endpoints(key).flat_map(|entry| entry.addresses.iter().copied());
            all.filter(|address| seen.insert(*address)).map(Data::Address).collect()
        }
    };
    // A port without a name has no name to ask by, but the Service's own.
    if matches!(kind, Kind::Srv | Kind::Any) {
        found.extend(ports(names, entry, key, |_| true));
    }
    Some(found)
}

/// `_tcp.name.namespace.svc`, which has longer names only, or an endpoint's name.
fn below_service(names: &Names, key: &str, below: &str) -> Option<Vec<Data>> {
    let entry = names.service(key)?;
    if let Some(protocol) = below.strip_prefix('_') {
        return entry.ports.iter().any(|port| port.protocol == protocol).then(Vec::new);
    }
    let here = |entry: &&EndpointEntry| entry.host() == below;
    let endpoints: Vec<&EndpointEntry> = names.endpoints(key).filter(here).collect();
    if endpoints.is_empty() {
        return None;
    }
    let mut addresses: Vec<IpAddr> = endpoints.iter().flat_map(|entry| entry.addresses.iter().copied()).collect();
    addresses.sort();
    addresses.dedup();
    Some(addresses.into_iter().map(Data::Address).collect())
}

fn port_of_service(names: &Names, key: &str, port_name: &str, protocol: &str) -> Option<Vec<Data>> {
    let entry = names.service(key)?;
    let wanted = |port: &Port| *port.name == *port_name && port.protocol == protocol;
    let found = ports(names, entry, key, wanted);
    let exists = !found.is_empty() || entry.ports.iter().any(wanted);
    exists.then_some(found)
}

fn ports(names: &Names, entry: &ServiceEntry, key: &str, wanted: impl Fn(&Port) -> bool) -> Vec<Data> {
    let own_name = format!("{key}.svc.{}", names.zone.domain);
    let mut found: Vec<Data> = Vec::new();
    match &entry.target {
        Target::Alias(_) => {}
        Target::Cluster(_) => {
            let wanted = entry.ports.iter().filter(|port| wanted(port));
            found.extend(wanted.map(|port| Data::Srv { port: port.number, target: own_name.clone() }));
        }
        Target::Headless => {
            for endpoint in names.endpoints(key) {
                let target = format!("{}.{own_name}", endpoint.host());
                let wanted = endpoint.ports.iter().filter(|port| wanted(port));
                let found_here = wanted.map(|port| Data::Srv { port: port.number, target: target.clone() });
                for data in found_here {
                    if !found.contains(&data) {
                        found.push(data);
                    }
                }
            }
        }
    }
    found
}

/// The names of an address. One that is in our ranges and that nobody has is nobody's; others are not ours to know.
fn reverse(names: &Names, address: IpAddr) -> Found {
    let domain = &names.zone.domain;
    let mut found = Vec::new();
    for key in names.owners(address) {
        let own_name = format!("{key}.svc.{domain}");
        match names.service(key).map(|entry| &entry.target) {
            Some(Target::Cluster(own)) if own.contains(&address) => found.push(Data::Ptr(own_name)),
            Some(Target::Headless) => {
                let here = names.endpoints(key).filter(|entry| entry.addresses.contains(&address));
                for data in here.map(|entry| Data::Ptr(format!("{}.{own_name}", entry.host()))) {
                    if !found.contains(&data) {
                        found.push(data);
                    }
                }
            }
            _ => {}
        }
    }
    if !found.is_empty() {
        return Found::Records(found);
    }
    let is_ours = names.zone.own_ranges.iter().any(|range| range.contains(address));
    if is_ours { Found::Nothing } else { Found::NotOurs }
}

/// The address whose reverse name this is.
fn address_of(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(REVERSE_IPV4) {
        let octets: Vec<&str> = digits.rsplit('.').collect();
        return octets.join(".").parse().ok().map(IpAddr::V4);
    }
    let nibbles = name.strip_suffix(REVERSE_IPV6)?;
    let mut bits: u128 = 0;
    let mut count = 0;
    for nibble in nibbles.rsplit('.') {
        let [digit] = nibble.as_bytes() else { return None };
        bits = bits << 4 | u128::from(char::from(*digit).to_digit(16)?);
        count += 1;
    }
    (count == 32).then(|| IpAddr::V6(bits.into()))
}

fn server_name(names: &Names) -> String {
    format!("ns.dns.{}", names.zone.domain)
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
