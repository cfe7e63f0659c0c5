//! Gives every Service of type LoadBalancer an address that works at once on a bare machine: one of a pool that the
//! node answers on, or the node's own addresses when the pool is empty. The service rules do the rest.
//! One of these runs in a cluster; which addresses are given is decided purely.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use serde_json::json;
use skiff_client::{Client, Informer, Informers, ObjectKey, Patch, Recorder, WorkQueue};
use tokio::task::JoinHandle;

use crate::prefix::Prefix;

/// What load balancer addresses are given from.
pub struct BalancerConfig {
    /// Where Services are read.
    pub informers: Informers,
    /// Who writes their status.
    pub client: Client,
    /// Who tells about it.
    pub recorder: Recorder,
    /// Addresses of which each Service gets one for itself.
    pub pool: Vec<Prefix>,
    /// What a Service gets when the pool has none left: the node's addresses, which Services share.
    pub node_addresses: Vec<IpAddr>,
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
            self.given.remove(key);
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
        let addresses = choose(known, wish, &taken, &self.config.pool, &self.config.node_addresses);
        self.given.insert(key.clone(), addresses.clone());
        addresses
    }

    /// A Service that is no load balancer any more loses what it got here, and nothing that others gave it.
    fn take(&mut self, key: &ObjectKey, service: &Service, old: &[IpAddr]) -> Vec<IpAddr> {
        let was_ours =
            self.given.remove(key).is_some() || old.iter().any(|address| in_pool(*address, &self.config.pool));
        if was_ours && !is_foreign(service) { Vec::new() } else { old.to_vec() }
    }
}

/// The addresses of a Service that wants some: those it has, if they are still good; the one it wishes for, if it is
/// free; the first free one of the pool; the node's.
fn choose(
    known: &[IpAddr],
    wish: Option<Ipv4Addr>,
    taken: &BTreeSet<IpAddr>,
    pool: &[Prefix],
    node: &[IpAddr],
) -> Vec<IpAddr> {
    let is_free = |address: &IpAddr| in_pool(*address, pool) && !taken.contains(address);
    if let Some(wish) = wish.map(IpAddr::V4).filter(is_free) {
        return vec![wish];
    }
    if let [address] = known
        && is_free(address)
    {
        return vec![*address];
    }
    let first = pool.iter().flat_map(|range| range.addresses()).map(IpAddr::V4).find(is_free);
    first.map_or_else(|| node.to_vec(), |address| vec![address])
}

fn in_pool(address: IpAddr, pool: &[Prefix]) -> bool {
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
        let pool: Vec<Prefix> = pool.split_whitespace().map(|word| word.parse().expect("a range")).collect();
        let taken = addresses(taken).into_iter().collect();
        let wish = wish.map(|wish| wish.parse().expect("an address"));
        let chosen = choose(&addresses(known), wish, &taken, &pool, &addresses("192.0.2.1"));
        assert_eq!(chosen, addresses(expected), "known {known}, wish {wish:?}, taken {taken:?}");
    }

    #[test]
    fn every_service_gets_an_address_of_its_own_while_there_are_some() {
        let pool = "203.0.113.4/31 203.0.113.6/32";
        check("", None, "", pool, "203.0.113.4");
        check("", None, "203.0.113.4 203.0.113.5", pool, "203.0.113.6");
        check("", None, "203.0.113.4 203.0.113.5 203.0.113.6", pool, "192.0.2.1");
        check("", None, "", "", "192.0.2.1");
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
    fn only_load_balancers_without_a_class_want_one() {
        let parse = |spec: serde_json::Value| -> Service {
            serde_json::from_value(json!({ "spec": spec, "status": {} })).expect("a Service")
        };
        assert!(wants_address(&parse(json!({ "type": "LoadBalancer" }))));
        assert!(!wants_address(&parse(json!({ "type": "LoadBalancer", "loadBalancerClass": "example.com/x" }))));
        assert!(!wants_address(&parse(json!({ "type": "NodePort" }))));
    }
}
