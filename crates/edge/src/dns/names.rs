//! What the cluster DNS knows: Services, their endpoints, namespaces, and which addresses belong to whom.
//! Kept up to date object by object; nothing is decided here.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_base::Cidr;
use skiff_client::slices::service_name;

/// The zone that is answered for, and what does not depend on any object.
#[derive(Debug, Clone)]
pub struct Zone {
    /// The cluster's domain, `cluster.local`.
    pub domain: String,
    /// The addresses of this name server, which the zone's own name server record leads to.
    pub servers: Vec<IpAddr>,
    /// Ranges whose reverse names are nobody else's business.
    pub own_ranges: Vec<Cidr>,
}

/// A Service's name and namespace as they stand in the names of the zone, `name.namespace`. Neither has a dot.
pub(super) type ServiceKey = Arc<str>;

/// A port by which a Service or an endpoint is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Port {
    /// Its name, empty if it has none.
    pub(super) name: Box<str>,
    /// `tcp`, `udp` or `sctp`.
    pub(super) protocol: &'static str,
    /// The number.
    pub(super) number: u16,
}

/// What a Service's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// Its cluster addresses.
    Cluster(Box<[IpAddr]>),
    /// Its endpoints.
    Headless,
    /// Another name.
    Alias(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServiceEntry {
    pub(super) target: Target,
    pub(super) ports: Box<[Port]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EndpointEntry {
    /// At least one.
    pub(super) addresses: Box<[IpAddr]>,
    hostname: Option<Box<str>>,
    pub(super) ports: Arc<[Port]>,
}

impl EndpointEntry {
    /// Its name below the Service's: the hostname, or the address with dashes.
    pub(super) fn host(&self) -> Cow<'_, str> {
        match &self.hostname {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(self.addresses[0].to_string().replace(['.', ':'], "-")),
        }
    }
}

/// The endpoints of one slice.
#[derive(Debug)]
struct Slice {
    name: Box<str>,
    endpoints: Box<[EndpointEntry]>,
}

/// What is known under the name of a Service.
#[derive(Debug, Default)]
struct Known {
    /// Nothing where there are only slices yet, or still.
    service: Option<ServiceEntry>,
    /// In the order of their names.
    slices: Vec<Slice>,
}

impl Known {
    fn endpoints(&self) -> impl Iterator<Item = &EndpointEntry> {
        self.slices.iter().flat_map(|slice| &slice.endpoints)
    }

    /// The addresses whose names lead here: its own, or its endpoints' where it has none.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        match self.service.as_ref().map(|service| &service.target) {
            Some(Target::Cluster(own)) => own.iter().copied().collect(),
            Some(Target::Headless) => self.endpoints().flat_map(|entry| entry.addresses.iter().copied()).collect(),
            Some(Target::Alias(_)) | None => BTreeSet::new(),
        }
    }
}

/// Everything that names are answered from. There may be tens of thousands of Services, so each takes little room.
#[derive(Debug)]
pub struct Names {
    pub(super) zone: Zone,
    namespaces: HashSet<String>,
    services: HashMap<ServiceKey, Known>,
    /// Who has an address; mostly one.
    owners: HashMap<IpAddr, Vec<ServiceKey>>,
}

impl Names {
    /// Knows nothing yet.
    pub fn new(zone: Zone) -> Self {
        Self { zone, namespaces: HashSet::new(), services: HashMap::new(), owners: HashMap::new() }
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
        let Some(key) = key_of(&service.metadata, service.metadata.name.as_deref()) else { return };
        self.change(&key, |known| known.service = entry_of(service));
    }

    /// A Service went.
    pub fn forget_service(&mut self, service: &Service) {
        let Some(key) = key_of(&service.metadata, service.metadata.name.as_deref()) else { return };
        self.change(&key, |known| known.service = None);
    }

    /// A slice came or changed; what it was before must be forgotten first if its Service changed.
    pub fn put_slice(&mut self, slice: &EndpointSlice) {
        let Some((service, name)) = slice_key(slice) else { return };
        let ports: Arc<[Port]> = slice.ports.iter().flatten().filter_map(endpoint_port).collect();
        let ready = slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint));
        let endpoints = ready.filter_map(|endpoint| endpoint_entry(endpoint, &ports)).collect();
        let slice = Slice { name: name.into(), endpoints };
        self.change(&service, |known| match known.slices.binary_search_by(|other| (*other.name).cmp(name)) {
            Ok(at) => known.slices[at] = slice,
            Err(at) => {
                known.slices.reserve_exact(1);
                known.slices.insert(at, slice);
            }
        });
    }

    /// A slice went.
    pub fn forget_slice(&mut self, slice: &EndpointSlice) {
        let Some((service, name)) = slice_key(slice) else { return };
        self.change(&service, |known| known.slices.retain(|slice| *slice.name != *name));
    }

    pub(super) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// The Service of this `name.namespace`.
    pub(super) fn service(&self, key: &str) -> Option<&ServiceEntry> {
        self.services.get(key)?.service.as_ref()
    }

    /// The ready endpoints of a Service.
    pub(super) fn endpoints(&self, key: &str) -> impl Iterator<Item = &EndpointEntry> {
        self.services.get(key).into_iter().flat_map(Known::endpoints)
    }

    /// Services that have this address, as their own or as an endpoint's, in the order of their names.
    pub(super) fn owners(&self, address: IpAddr) -> &[ServiceKey] {
        self.owners.get(&address).map(Vec::as_slice).unwrap_or_default()
    }

    /// Changes what is known of a Service, and who has the addresses that this concerns.
    fn change(&mut self, key: &str, change: impl FnOnce(&mut Known)) {
        let (key, mut known) = self.services.remove_entry(key).unwrap_or_else(|| (key.into(), Known::default()));
        let before = known.addresses();
        change(&mut known);
        let after = known.addresses();
        for address in before.difference(&after) {
            if let Some(owners) = self.owners.get_mut(address) {
                owners.retain(|owner| *owner != key);
                if owners.is_empty() {
                    self.owners.remove(address);
                }
            }
        }
        for address in after.difference(&before) {
            let owners = self.owners.entry(*address).or_default();
            if let Err(at) = owners.binary_search(&key) {
                owners.reserve_exact(1);
                owners.insert(at, key.clone());
            }
        }
        if known.service.is_some() || !known.slices.is_empty() {
            self.services.insert(key, known);
        }
    }
}

fn key_of(metadata: &ObjectMeta, service: Option<&str>) -> Option<String> {
    Some(format!("{}.{}", service?, metadata.namespace.as_deref()?))
}

/// The Service that a slice belongs to, and the slice's name.
fn slice_key(slice: &EndpointSlice) -> Option<(String, &str)> {
    Some((key_of(&slice.metadata, service_name(slice))?, slice.metadata.name.as_deref()?))
}

fn entry_of(service: &Service) -> Option<ServiceEntry> {
    let spec = service.spec.as_ref()?;
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let number = u16::try_from(port.port).ok()?;
        let name = port.name.as_deref().unwrap_or_default().into();
        Some(Port { name, protocol: protocol(port.protocol.as_deref())?, number })
    });
    let ports = ports.collect();
    if spec.type_.as_deref() == Some("ExternalName") {
        let name = spec.external_name.as_deref()?.trim_end_matches('.').to_ascii_lowercase();
        return Some(ServiceEntry { target: Target::Alias(name.into()), ports });
    }
    let listed = spec.cluster_ips.iter().flatten();
    let texts: Vec<&String> =
        if spec.cluster_ips.is_some() { listed.collect() } else { spec.cluster_ip.iter().collect() };
    if texts.iter().any(|text| *text == "None") {
        return Some(ServiceEntry { target: Target::Headless, ports });
    }
    let addresses: Box<[IpAddr]> = texts.iter().filter_map(|text| text.parse().ok()).collect();
    // Without an address yet, it has no name yet.
    (!addresses.is_empty()).then_some(ServiceEntry { target: Target::Cluster(addresses), ports })
}

/// A missing condition means ready. Services that publish what is not ready have slices that say so.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn endpoint_entry(endpoint: &Endpoint, ports: &Arc<[Port]>) -> Option<EndpointEntry> {
    let addresses: Box<[IpAddr]> = endpoint.addresses.iter().filter_map(|text| text.parse().ok()).collect();
    let hostname = endpoint.hostname.as_deref().map(Box::from);
    (!addresses.is_empty()).then(|| EndpointEntry { addresses, hostname, ports: ports.clone() })
}

fn endpoint_port(port: &EndpointPort) -> Option<Port> {
    let number = u16::try_from(port.port?).ok()?;
    let name = port.name.as_deref().unwrap_or_default().into();
    Some(Port { name, protocol: protocol(port.protocol.as_deref())?, number })
}

/// As it stands in names; nothing for what the API knows no name of.
fn protocol(text: Option<&str>) -> Option<&'static str> {
    match text {
        None | Some("TCP") => Some("tcp"),
        Some("UDP") => Some("udp"),
        Some("SCTP") => Some("sctp"),
        Some(_) => None,
    }
}
