//! Follows the Nodes and keeps the ways to their pods.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use skiff_base::Cidr;
use skiff_client::{Informer, Informers};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::apply::{self, Applier, Site};
use super::plan::{Place, peer, ways};
use crate::netlink::NetlinkError;

/// After one change is applied, others are collected for so long.
const COALESCING: Duration = Duration::from_millis(10);
/// How long after a refusal by the kernel everything is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often everything is looked at, whether or not something is known to have changed.
const CHECK: Duration = Duration::from_secs(60);

/// What the ways are made with.
pub struct OverlayConfig {
    /// Where Nodes are read.
    pub informers: Informers,
    /// This node's name.
    pub node_name: String,
    /// Its addresses, one of a family at most. Where nodes are on different networks, packets for pods travel inside of
    /// others with the first one.
    pub addresses: Vec<IpAddr>,
    /// Its pods' addresses, one range of a family.
    pub node_ranges: Vec<Cidr>,
    /// The pod ranges of the whole cluster.
    pub pod_ranges: Vec<Cidr>,
    /// Whether also nodes on the same network are reached through the tunnel: some networks carry no packets of
    /// addresses that they do not know.
    pub always_tunnel: bool,
}

/// The running overlay. The ways stay in the kernel when it is dropped, as the pods stay.
pub struct Overlay {
    task: JoinHandle<()>,
    applied: watch::Receiver<u64>,
}

impl Overlay {
    /// Starts to keep the ways in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel cannot be talked to.
    pub fn start(config: OverlayConfig) -> Result<Self, NetlinkError> {
        let site = Site { addresses: config.addresses.clone(), ranges: config.node_ranges.clone() };
        let applier = Applier::open(site)?;
        let nodes = config.informers.of::<Node>();
        let changed = Arc::new(Notify::new());
        let wake = changed.clone();
        // Nodes tell of themselves all the time, and mostly nothing that matters here.
        nodes.on_change(move |change| {
            let is_news = match change {
                skiff_client::Change::Updated { old, new } => peer(old) != peer(new),
                _ => true,
            };
            if is_news {
                wake.notify_one();
            }
        });
        let (sender, applied) = watch::channel(0);
        let keeper = Keeper { config, applier, nodes, changed, applied: sender };
        Ok(Self { task: tokio::spawn(keeper.run()), applied })
    }

    /// Waits until the ways to all Nodes known at the start are there.
    pub async fn ready(&self) {
        if self.applied.clone().wait_for(|count| *count > 0).await.is_err() {
            tracing::debug!("the overlay ended before it was ready");
        }
    }

    /// Removes everything of it from the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn clean_up() -> Result<(), NetlinkError> {
        apply::clean_up()
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Keeper {
    config: OverlayConfig,
    applier: Applier,
    nodes: Informer<Node>,
    changed: Arc<Notify>,
    applied: watch::Sender<u64>,
}

impl Keeper {
    async fn run(mut self) {
        self.nodes.synced().await;
        let mut anew = true;
        loop {
            let pause = match self.step(anew) {
                Ok(()) => {
                    self.applied.send_modify(|count| *count += 1);
                    anew = false;
                    COALESCING
                }
                Err(error) => {
                    tracing::error!(%error, "the ways to other nodes' pods cannot be brought up to date");
                    anew = true;
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
            if !anew {
                let changed = self.changed.clone();
                anew = tokio::time::timeout(CHECK, changed.notified()).await.is_err();
            }
        }
    }

    fn step(&mut self, anew: bool) -> Result<(), NetlinkError> {
        let networks = if self.config.always_tunnel { Vec::new() } else { self.applier.networks()? };
        let site = self.applier.site();
        let place = Place {
            name: self.config.node_name.clone(),
            ranges: site.ranges.clone(),
            pod_ranges: self.config.pod_ranges.clone(),
            tunnel: site.tunnel(),
            networks,
        };
        let nodes = self.nodes.list();
        self.applier.apply(&ways(&place, nodes.iter().map(Arc::as_ref)), anew)
    }
}
