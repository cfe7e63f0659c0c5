//! Load balancers' addresses on the local network: one node answers for each, by ARP and NDP, and another one where that one
//! is gone. The node has the address on the link of its network, where the kernel answers for it; everyone there is told
//! when it moves. Which node it is follows from what all of them know, so that they need not talk about it.

mod apply;
mod frames;
mod plan;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use skiff_client::{Change, Index, Informer, Informers, ObjectKey};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::netlink::NetlinkError;
use apply::Applier;
use plan::{Candidate, Wanted};

/// After one change is applied, others are collected for so long.
const COALESCING: Duration = Duration::from_millis(20);
/// How long after a refusal by the kernel it is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often everything is looked at, whether or not something is known to have changed.
const CHECK: Duration = Duration::from_secs(60);
/// Who is told of an address that has moved may miss it: it is told so often, with this pause.
const TELLINGS: u32 = 3;
const BETWEEN_TELLINGS: Duration = Duration::from_secs(1);
/// Of which Service a slice is.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Under which the Services with addresses to answer for are found.
const BALANCED: &str = "balanced";

/// What addresses are announced with.
pub struct AnnouncerConfig {
    /// Where Services, EndpointSlices and Nodes are read.
    pub informers: Informers,
    /// This node's name.
    pub node_name: String,
}

/// The running announcer. Addresses stay when it is dropped, as the rules of their Services stay.
pub struct Announcer {
    task: JoinHandle<()>,
}

impl Announcer {
    /// Starts to answer for addresses in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel cannot be talked to.
    pub fn start(config: AnnouncerConfig) -> Result<Self, NetlinkError> {
        let changed = Arc::new(Notify::new());
        let local = Arc::new(Mutex::new(BTreeSet::new()));
        let (services, nodes) = (config.informers.of::<Service>(), config.informers.of::<Node>());
        let slices = config.informers.of::<EndpointSlice>();
        let wake = changed.clone();
        services.on_change(move |change| {
            if is_news(change, plan::wanted) {
                wake.notify_one();
            }
        });
        let wake = changed.clone();
        nodes.on_change(move |change| {
            if is_news(change, plan::candidate) {
                wake.notify_one();
            }
        });
        let (wake, of_local) = (changed.clone(), local.clone());
        slices.on_change(move |change| {
            if service_of(change.object()).is_some_and(|service| of_local.lock().contains(&service)) {
                wake.notify_one();
            }
        });
        let keeper = Keeper {
            node_name: config.node_name,
            applier: Applier::open()?,
            balanced: services.index(BALANCED, |service| plan::wanted(service).map(|_| Cow::Borrowed(BALANCED))),
            services,
            nodes,
            slices,
            changed,
            local,
        };
        Ok(Self { task: tokio::spawn(keeper.run()) })
    }

    /// Gives up all addresses, in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clean_up() -> Result<(), NetlinkError> {
        apply::clean_up()
    }
}

impl Drop for Announcer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whether a change is one of what matters of an object.
fn is_news<K, T: PartialEq>(change: &Change<K>, matters: impl Fn(&K) -> Option<T>) -> bool {
    match change {
        Change::Updated { old, new } => matters(old) != matters(new),
        other => matters(other.object()).is_some(),
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(slice.metadata.namespace.as_deref()?, name.as_str()))
}

struct Keeper {
    node_name: String,
    applier: Applier,
    services: Informer<Service>,
    balanced: Index<Service>,
    nodes: Informer<Node>,
    slices: Informer<EndpointSlice>,
    changed: Arc<Notify>,
    /// Services for which only nodes with endpoints of theirs answer.
    local: Arc<Mutex<BTreeSet<ObjectKey>>>,
}

impl Keeper {
    async fn run(mut self) {
        self.services.synced().await;
        self.nodes.synced().await;
        self.slices.synced().await;
        loop {
            let pause = match self.step() {
                Ok(()) => {
                    tokio::time::sleep(COALESCING).await;
                    CHECK
                }
                Err(error) => {
                    tracing::error!(%error, "the addresses of load balancers cannot be brought up to date");
                    RETRY
                }
            };
            let changed = self.changed.clone();
            if tokio::time::timeout(pause, changed.notified()).await.is_err() {
                tracing::trace!("looking at the addresses of load balancers again");
            }
        }
    }

    fn step(&mut self) -> Result<(), NetlinkError> {
        let wanted = self.wanted();
        let networks = if wanted.is_empty() { Vec::new() } else { self.applier.networks()? };
        let nodes: Vec<Candidate> = self.nodes.list().iter().filter_map(|node| plan::candidate(node)).collect();
        let own = plan::own(&self.node_name, &networks, &nodes, &wanted);
        for (address, link) in self.applier.apply(&own)? {
            tracing::info!(%address, "this node answers for a load balancer's address");
            tokio::spawn(tell(address, link));
        }
        Ok(())
    }

    fn wanted(&self) -> Vec<Wanted> {
        let services = self.balanced.of(BALANCED);
        let mut all: Vec<Wanted> = services.iter().filter_map(|service| plan::wanted(service)).collect();
        let keys = all.iter().filter(|wanted| wanted.is_local).map(|wanted| wanted.service.clone());
        *self.local.lock() = keys.collect();
        for one in all.iter_mut().filter(|wanted| wanted.is_local) {
            let slices = self.slices.list_namespace(&one.service.namespace);
            let slices = slices.iter().filter(|slice| service_of(slice).as_ref() == Some(&one.service));
            one.nodes = slices.flat_map(|slice| plan::nodes_of(slice)).collect();
        }
        all
    }
}

/// Tells everyone on the network where an address is now.
async fn tell(address: IpAddr, link: u32) {
    for _ in 0..TELLINGS {
        if let Err(error) = apply::tell(address, link) {
            // Others learn it when they ask again.
            tracing::warn!(%address, %error, "nobody is told where a load balancer's address is");
            return;
        }
        tokio::time::sleep(BETWEEN_TELLINGS).await;
    }
}
