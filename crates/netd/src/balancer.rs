//! Gives every Service of type LoadBalancer an address that works at once on a bare machine: one of a pool that the
//! node answers on, or the node's own addresses when the pool is empty. It gets one in each family that it has a cluster
//! address of. The service rules do the rest.
//! One of these runs in a cluster; which addresses are given is decided purely.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use skiff_base::{Cidr, Family};
use skiff_client::{Client, Informer, Informers, ObjectKey, Patch, Recorder, WorkQueue};
use tokio::task::JoinHandle;

/// What load balancer addresses are given from.
pub struct BalancerConfig {
    /// Where Services are read.
    pub informers: Informers,
    /// Who writes their status.
    pub client: Client,
    /// Who tells about it.
    pub recorder: Recorder,
    /// Addresses of which each Service gets one for itself.
    pub pool: Vec<Cidr>,
    /// What a Service gets when the pool has none left: the node's addresses. Services share them as long as no two
    /// want the same port; a later one waits then.
    pub node_addresses: Vec<IpAddr>,
    /// TCP ports of the node's addresses that no Service gets: those that the node itself is reached at.
    pub reserved_ports: Vec<u16>,
}

/// The running controller; it ends when this is dropped.
pub struct Balancer {
    queue: Arc<WorkQueue<ObjectKey>>,
    task: JoinHandle<()>,
}

impl Balancer {
    /// Starts to give addresses, to those Services too that wait for one.
    pub fn start(config: BalancerConfig) -> Self {
        let queue = Arc::new(WorkQueue::new());
        let services = config.informers.of::<Service>();
        let to_queue = queue.clone();
        services.on_change(move |change| to_queue.add(ObjectKey::of(&change.object().metadata)));
        let worker = Worker { config, services, queue: queue.clone(), given: BTreeMap::new() };
        Self { queue, task: tokio::spawn(worker.run()) }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        self.queue.close();
        self.task.abort();
    }
}

struct Worker {
    config: BalancerConfig,
    services: Informer<Service>,
    queue: Arc<WorkQueue<ObjectKey>>,
    /// What was given, which the cache may not show yet.
    given: BTreeMap<ObjectKey, Vec<IpAddr>>,
}

impl Worker {
    async fn run(mut self) {
        // Before all are known, an address that some Service has would seem free.
        self.services.synced().await;
        for service in self.services.list() {
            if wants_address(&service) && !current(&service).is_empty() {
                self.given.insert(ObjectKey::of(&service.metadata), current(&service));
            }
        }
        while let Some(key) = self.queue.next().await {
            match self.reconcile(&key).await {
                Ok(()) => self.queue.forget(&key),
                Err(error) => {
                    tracing::warn!(service = %key, %error, "cannot write the load balancer's address");
                    self.queue.retry(key.clone());
                }
            }
            self.queue.done(&key);
        }
    }

    async fn reconcile(&mut self, key: &ObjectKey) -> Result<(), skiff_client::Error> {
        let Some(service) = self.services.by_key(key) else {
            self.give_back(key);
            return Ok(());
        };
        let old = current(&service);
        let new = if wants_address(&service) { self.give(key, &service, &old) } else { self.take(key, &service, &old) };
        if new == old {
            return Ok(());
        }
        let ingress: Vec<_> = new.iter().map(|address| json!({ "ip": address, "ipMode": "VIP" })).collect();
        let ingress = if ingress.is_empty() { serde_json::Value::Null } else { ingress.into() };
        let patch = Patch::Merge(json!({ "status": { "loadBalancer": { "ingress": ingress } } }));
        let written = self.config.client.patch::<Service>(&key.namespace, &key.name, "status", &patch).await;
        match written {
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                if !new.is_empty() {
                    self.config.recorder.normal(&*service, "EnsuredLoadBalancer", "Ensured load balancer");
                }
                Ok(())
            }
        }
    }

    fn give(&mut self, key: &ObjectKey, service: &Service, old: &[IpAddr]) -> Vec<IpAddr> {
        let others = self.given.iter().filter(|(other, _)| *other != key);
        let taken: BTreeSet<IpAddr> = others.flat_map(|(_, addresses)| addresses).copied().collect();
        let wish = service.spec.as_ref().and_then(|spec| spec.load_balancer_ip.as_ref()?.parse().ok());
        let known = self.given.get(key).map_or(old, Vec::as_slice);
        let mut addresses = Vec::new();
        for family in families(service) {
            match choose(known, wish, &taken, &self.config.pool, family) {
                Some(address) => addresses.push(address),
                None => addresses.extend(self.nodes_own(key, service, family)),
            }
        }
        if addresses != known {
            self.give_back(key);
        }
        self.given.insert(key.clone(), addresses.clone());
        addresses
    }

    /// The node's addresses of a family, if this Service can have them.
    fn nodes_own(&self, key: &ObjectKey, service: &Service, family: Family) -> Vec<IpAddr> {
        let own = self.config.node_addresses.iter().copied();
        let own: Vec<IpAddr> = own.filter(|address| Family::of(*address) == family).collect();
        match self.obstacle(key, service) {
            None => own,
            Some(obstacle) => {
                let message = format!("Error syncing load balancer: {obstacle}");
                self.config.recorder.warning(service, "SyncLoadBalancerFailed", message);
                Vec::new()
            }
        }
    }

    /// Why this Service cannot have the node's addresses.
    fn obstacle(&self, key: &ObjectKey, service: &Service) -> Option<String> {
        if let Some(port) = reserved_port(service, &self.config.reserved_ports) {
            return Some(format!("port {port} of the node is the node's own"));
        }
        self.port_sharer(key, service).map(|other| format!("service {other} has a port of the node already"))
    }

    /// Another Service that has the node's addresses and a port that this one wants there.
    fn port_sharer(&self, key: &ObjectKey, service: &Service) -> Option<ObjectKey> {
        let wanted = ports(service);
        let has_node = |addresses: &Vec<IpAddr>| addresses.iter().any(|it| self.config.node_addresses.contains(it));
        let others = self.given.iter().filter(|(other, addresses)| *other != key && has_node(addresses));
        let clashes =
            |other: &ObjectKey| self.services.by_key(other).is_some_and(|it| !ports(&it).is_disjoint(&wanted));
        others.map(|(other, _)| other).find(|other| clashes(other)).cloned()
    }

    /// Forgets what the Service was given; those that wait for some may have it.
    fn give_back(&mut self, key: &ObjectKey) {
        if self.given.remove(key).is_none_or(|addresses| addresses.is_empty()) {
            return;
        }
        for (waiting, _) in self.given.iter().filter(|(_, addresses)| addresses.is_empty()) {
            self.queue.add(waiting.clone());
        }
    }

    /// A Service that is no load balancer any more loses what it got here, and nothing that others gave it.
    fn take(&mut self, key: &ObjectKey, service: &Service, old: &[IpAddr]) -> Vec<IpAddr> {
        let was_ours =
            self.given.remove(key).is_some() || old.iter().any(|address| in_pool(*address, &self.config.pool));
        if was_ours && !is_foreign(service) { Vec::new() } else { old.to_vec() }
    }
}

/// The families of the Service's cluster addresses, in their order.
fn families(service: &Service) -> Vec<Family> {
    let spec = service.spec.iter();
    let texts = spec.flat_map(|spec| spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip));
    let mut families = Vec::new();
    for family in texts.filter_map(|text| text.parse().ok()).map(Family::of) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}

/// The address of a Service that wants one of this family: the one it wishes for, if it is free; the one it has, if it
/// is still good; the first free one of the pool. `None` if the pool has none left.
fn choose(
    known: &[IpAddr],
    wish: Option<IpAddr>,
    taken: &BTreeSet<IpAddr>,
    pool: &[Cidr],
    family: Family,
) -> Option<IpAddr> {
    let is_free =
        |address: &IpAddr| Family::of(*address) == family && in_pool(*address, pool) && !taken.contains(address);
    let wish = wish.filter(is_free);
    let own = || {
        let mut ours = known.iter().copied().filter(|address| Family::of(*address) == family);
        ours.next().filter(|first| ours.next().is_none() && is_free(first))
    };
    let first =
        || pool.iter().filter(|range| range.family() == family).flat_map(|range| range.addresses()).find(is_free);
    wish.or_else(own).or_else(first)
}

fn ports(service: &Service) -> BTreeSet<(String, i32)> {
    let ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    ports.map(|port| (port.protocol.clone().unwrap_or_else(|| "TCP".into()), port.port)).collect()
}

/// A port that the Service wants of the node and that the node keeps for itself.
fn reserved_port(service: &Service, reserved: &[u16]) -> Option<u16> {
    let wanted = ports(service);
    reserved.iter().copied().find(|port| wanted.contains(&("TCP".to_owned(), i32::from(*port))))
}

fn in_pool(address: IpAddr, pool: &[Cidr]) -> bool {
    pool.iter().any(|range| range.contains(address))
}

fn wants_address(service: &Service) -> bool {
    let is_balanced = service.spec.as_ref().is_some_and(|spec| spec.type_.as_deref() == Some("LoadBalancer"));
    is_balanced && !is_foreign(service) && service.metadata.deletion_timestamp.is_none()
}

/// A class names another implementation, which alone may touch the Service.
fn is_foreign(service: &Service) -> bool {
    service.spec.as_ref().is_some_and(|spec| spec.load_balancer_class.is_some())
}

fn current(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    ingress.filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(text: &str) -> Vec<IpAddr> {
        text.split_whitespace().map(|word| word.parse().expect("an address")).collect()
    }

    fn check(known: &str, wish: Option<&str>, taken: &str, pool: &str, expected: &str) {
        let pool: Vec<Cidr> = pool.split_whitespace().map(|word| word.parse().expect("a range")).collect();
        let taken = addresses(taken).into_iter().collect();
        let wish = wish.map(|wish| wish.parse().expect("an address"));
        let family = pool.first().map_or(Family::V4, |range| range.family());
        let chosen = choose(&addresses(known), wish, &taken, &pool, family);
        assert_eq!(chosen, addresses(expected).first().copied(), "known {known}, wish {wish:?}, taken {taken:?}");
    }

    #[test]
    fn every_service_gets_an_address_of_its_own_while_there_are_some() {
        let pool = "203.0.113.4/31 203.0.113.6/32";
        check("", None, "", pool, "203.0.113.4");
        check("", None, "203.0.113.4 203.0.113.5", pool, "203.0.113.6");
        check("", None, "203.0.113.4 203.0.113.5 203.0.113.6", pool, "");
        check("", None, "", "", "");
    }

    #[test]
    fn what_a_service_has_it_keeps_and_what_it_wishes_for_it_gets() {
        let pool = "203.0.113.0/24";
        check("203.0.113.9", None, "203.0.113.0", pool, "203.0.113.9");
        check("203.0.113.9", None, "203.0.113.9", pool, "203.0.113.0");
        check("198.51.100.1", None, "", pool, "203.0.113.0");
        check("203.0.113.9", Some("203.0.113.7"), "", pool, "203.0.113.7");
        check("203.0.113.9", Some("203.0.113.7"), "203.0.113.7", pool, "203.0.113.9");
        check("203.0.113.9", Some("8.8.8.8"), "", pool, "203.0.113.9");
    }

    #[test]
    fn each_family_has_its_own_addresses() {
        let pool = "fd00:203::/64 203.0.113.0/24";
        check("", None, "", pool, "fd00:203::");
        check("203.0.113.9 fd00:203::9", None, "", pool, "fd00:203::9");
        check("203.0.113.9", Some("203.0.113.7"), "fd00:203::", pool, "fd00:203::1");
        let service = |spec| serde_json::from_value(json!({ "spec": spec })).expect("a Service");
        let both = json!({ "clusterIP": "fd00:96::1", "clusterIPs": ["fd00:96::1", "10.96.0.1"] });
        assert_eq!(families(&service(both)), [Family::V6, Family::V4]);
        assert_eq!(families(&service(json!({ "clusterIP": "10.96.0.1" }))), [Family::V4]);
    }

    #[test]
    fn the_node_keeps_its_own_ports() {
        let port = |ports: serde_json::Value| {
            let service = serde_json::from_value(json!({ "spec": { "ports": ports } })).expect("a Service");
            reserved_port(&service, &[22, 6443])
        };
        assert_eq!(port(json!([{ "port": 80 }, { "port": 6443 }])), Some(6443));
        assert_eq!(port(json!([{ "port": 22, "protocol": "UDP" }, { "port": 80 }])), None);
    }

    #[test]
    fn only_load_balancers_without_a_class_want_one() {
        let parse = |spec: serde_json::Value| -> Service {
            serde_json::from_value(json!({ "spec": spec, "status": {} })).expect("a Service")
        };
        assert!(wants_address(&parse(json!({ "type": "LoadBalancer" }))));
        assert!(!wants_address(&parse(json!({ "type": "LoadBalancer", "loadBalancerClass": "example.com/x" }))));
        assert!(!wants_address(&parse(json!({ "type": "NodePort" }))));
    }
}
