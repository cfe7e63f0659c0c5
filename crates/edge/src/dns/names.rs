//! What the cluster DNS knows: Services, their endpoints, namespaces, and which addresses belong to whom.
//! Kept up to date object by object; nothing is decided here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// The zone that is answered for, and what does not depend on any object.
#[derive(Debug, Clone)]
pub struct Zone {
    /// The cluster's domain, `cluster.local`.
    pub domain: String,
    /// The address of this name server, which the zone's own name server record leads to.
    pub server: IpAddr,
    /// Ranges (first address and leading bits) whose reverse names are nobody else's business.
    pub own_ranges: Vec<(Ipv4Addr, u8)>,
}

/// A Service's namespace and name.
pub(super) type ServiceKey = (String, String);

/// A port by which a Service or an endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    /// Its name, empty if it has none.
    pub(super) name: String,
    /// `tcp`, `udp` or `sctp`.
    pub(super) protocol: String,
    /// The number.
    pub(super) number: u16,
}

/// What a Service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Its cluster addresses.
    Cluster(Vec<IpAddr>),
    /// Its endpoints.
    Headless,
    /// Another name.
    Alias(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceEntry {
    pub(super) target: Target,
    pub(super) ports: Vec<Port>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EndpointEntry {
    pub(super) addresses: Vec<IpAddr>,
    /// Its name below the Service's: the hostname, or the address with dashes.
    pub(super) host: String,
    pub(super) ports: Vec<Port>,
}

/// Everything that names are answered from.
#[derive(Debug)]
pub struct Names {
    pub(super) zone: Zone,
    namespaces: HashSet<String>,
    services: HashMap<ServiceKey, ServiceEntry>,
    slices: HashMap<ServiceKey, BTreeMap<String, Vec<EndpointEntry>>>,
    /// Who has an address. Several may, and some of them may be gone from the answer later: it is looked up again.
    owners: HashMap<IpAddr, BTreeSet<ServiceKey>>,
}

impl Names {
    /// Knows nothing yet.
    pub fn new(zone: Zone) -> Self {
        Self {
            zone,
            namespaces: HashSet::new(),
            services: HashMap::new(),
            slices: HashMap::new(),
            owners: HashMap::new(),
        }
    }

    /// A namespace came, or went.
    pub fn put_namespace(&mut self, name: &str, is_there: bool) {
        if is_there {
            self.namespaces.insert(name.to_owned());
        } else {
            self.namespaces.remove(name);
        }
    }

    /// A Service came or changed.
    pub fn put_service(&mut self, service: &Service) {
        let Some(key) = key_of(&service.metadata) else { return };
        self.remove_service(&key);
        let Some(entry) = entry_of(service) else { return };
        if let Target::Cluster(addresses) = &entry.target {
            self.own(&key, addresses.clone());
        }
        self.services.insert(key, entry);
    }

    /// A Service went.
    pub fn forget_service(&mut self, service: &Service) {
        if let Some(key) = key_of(&service.metadata) {
            self.remove_service(&key);
        }
    }

    /// A slice came or changed; what it was before must be forgotten first if its Service changed.
    pub fn put_slice(&mut self, slice: &EndpointSlice) {
        self.forget_slice(slice);
        let Some((service, name)) = slice_key(slice) else { return };
        let ports: Vec<Port> = slice.ports.iter().flatten().filter_map(endpoint_port).collect();
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint));
        let entries: Vec<EndpointEntry> = ready.filter_map(|endpoint| endpoint_entry(endpoint, &ports)).collect();
        self.own(&service, entries.iter().flat_map(|entry| entry.addresses.clone()));
        self.slices.entry(service).or_default().insert(name, entries);
    }

    /// A slice went.
    pub fn forget_slice(&mut self, slice: &EndpointSlice) {
        let Some((service, name)) = slice_key(slice) else { return };
        let Some(slices) = self.slices.get_mut(&service) else { return };
        let gone = slices.remove(&name);
        if slices.is_empty() {
            self.slices.remove(&service);
        }
        let addresses: Vec<IpAddr> = gone.into_iter().flatten().flat_map(|entry| entry.addresses).collect();
        self.disown(&service, addresses);
    }

    pub(super) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    pub(super) fn service(&self, namespace: &str, name: &str) -> Option<&ServiceEntry> {
        self.services.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// The ready endpoints of a Service.
    pub(super) fn endpoints(&self, namespace: &str, name: &str) -> impl Iterator<Item = &EndpointEntry> {
        let slices = self.slices.get(&(namespace.to_owned(), name.to_owned()));
        slices.into_iter().flat_map(BTreeMap::values).flatten()
    }

    /// Services that may have this address, as their own or as an endpoint's.
    pub(super) fn owners(&self, address: IpAddr) -> impl Iterator<Item = &ServiceKey> {
        self.owners.get(&address).into_iter().flatten()
    }

    fn remove_service(&mut self, key: &ServiceKey) {
        if let Some(ServiceEntry { target: Target::Cluster(addresses), .. }) = self.services.remove(key) {
            self.disown(key, addresses);
        }
    }

    fn own(&mut self, key: &ServiceKey, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            self.owners.entry(address).or_default().insert(key.clone());
        }
    }

    /// The Service loses the addresses, except those that it has for another reason still.
    fn disown(&mut self, key: &ServiceKey, addresses: impl IntoIterator<Item = IpAddr>) {
        for address in addresses {
            let is_own = matches!(self.services.get(key), Some(ServiceEntry { target: Target::Cluster(own), .. }) if own.contains(&address));
            if is_own || self.endpoints(&key.0, &key.1).any(|entry| entry.addresses.contains(&address)) {
                continue;
            }
            if let Some(owners) = self.owners.get_mut(&address) {
                owners.remove(key);
                if owners.is_empty() {
                    self.owners.remove(&address);
                }
            }
        }
    }
}

fn key_of(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<ServiceKey> {
    Some((metadata.namespace.clone()?, metadata.name.clone()?))
}

/// The Service that a slice belongs to, and the slice's name.
fn slice_key(slice: &EndpointSlice) -> Option<(ServiceKey, String)> {
    let service = slice.metadata.labels.as_ref()?.get("kubernetes.io/service-name")?.clone();
    Some(((slice.metadata.namespace.clone()?, service), slice.metadata.name.clone()?))
}

fn entry_of(service: &Service) -> Option<ServiceEntry> {
    let spec = service.spec.as_ref()?;
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let number = u16::try_from(port.port).ok()?;
        Some(Port { name: port.name.clone().unwrap_or_default(), protocol: protocol(port.protocol.as_deref()), number })
    });
    let ports = ports.collect();
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.as_deref()?.trim_end_matches('.').to_ascii_lowercase();
        return Some(ServiceEntry { target: Target::Alias(name), ports });
    }
    let listed = spec.cluster_ips.iter().flatten();
    let texts: Vec<&String> =
        if spec.cluster_ips.is_some() { listed.collect() } else { spec.cluster_ip.iter().collect() };
    if texts.iter().any(|text| *text == "None") {
        return Some(ServiceEntry { target: Target::Headless, ports });
    }
    let addresses: Vec<IpAddr> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    // Without an address yet, it has no name yet.
    (!addresses.is_empty()).then_some(ServiceEntry { target: Target::Cluster(addresses), ports })
}

/// A missing condition means ready. Services that publish what is not ready have slices that say so.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn endpoint_entry(endpoint: &Endpoint, ports: &[Port]) -> Option<EndpointEntry> {
    let addresses: Vec<IpAddr> = endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect();
    let first = addresses.first()?;
    let host = endpoint.hostname.clone().unwrap_or_else(|| first.to_string().replace(['.', ':'], "-"));
    Some(EndpointEntry { addresses, host, ports: ports.to_vec() })
}

fn endpoint_port(port: &k8s_openapi::api::discovery::v1::EndpointPort) -> Option<Port> {
    let number = u16::try_from(port.port?).ok()?;
    Some(Port { name: port.name.clone().unwrap_or_default(), protocol: protocol(port.protocol.as_deref()), number })
}

fn protocol(text: Option<&str>) -> String {
    text.unwrap_or("TCP").to_ascii_lowercase()
}
