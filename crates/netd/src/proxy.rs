//! Keeps the kernel's rules in step with Services, EndpointSlices, host ports and NetworkPolicies. Events only say which
//! Service to look at again; what its rules should be is read from the caches at that moment.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_client::slices::{SlicesOfServices, service_of};
use skiff_client::{Informer, Informers, ObjectKey, Recorder};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::family::Family;
use crate::figures::SYNC;
use crate::flows::{Answerers, Conntrack, FlowKeeper};
use crate::health::{HealthChecks, NodeHealth, serve_node_health};
use crate::netlink::NetlinkError;
use crate::pods::HostPortMapping;
use crate::policies::{PodGate, PolicyFollower};
use crate::rules::kernel::KernelRules;
use crate::rules::topology::{Here, zone_of};
use crate::rules::{Fragment, Frame, Ruleset, Transaction, api, service};

/// After one change is applied, others are collected for so long; the first one never waits.
const COALESCING: Duration = Duration::from_millis(3);
/// How long after a refusal by the kernel everything is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How often it is checked that nobody removed our table.
const CHECK: Duration = Duration::from_secs(60);

/// What the service rules are made with.
pub struct NetdConfig {
    /// Where Services, EndpointSlices and this node's own object are read.
    pub informers: Informers,
    /// Who tells of ports that cannot be had.
    pub recorder: Recorder,
    /// For answers about how fresh the rules are.
    pub clock: SharedClock,
    /// Where it is told whether they are, kube-proxy's port 10256.
    pub health_address: SocketAddr,
    /// This node's name.
    pub node_name: String,
    /// The fixed part of the rules.
    pub frame: Frame,
    /// The pods' host ports, from [`crate::PodNetwork::host_ports`].
    pub host_ports: watch::Receiver<Vec<HostPortMapping>>,
}

/// The running service rules. The rules stay in the kernel when it is shut down or dropped, as the pods stay.
pub struct Netd {
    stop: watch::Sender<bool>,
    applied: watch::Receiver<u64>,
    gate: PodGate,
    task: JoinHandle<()>,
}

impl Netd {
    /// Starts to keep the rules of the calling thread's network namespace. Where there are none yet, the fixed part is
    /// there when this returns; rules of an earlier run go on until all Services are known.
    pub fn start(config: NetdConfig) -> Result<Self, NetlinkError> {
        let families = config.frame.families();
        let tables = Table::open_all(&config.frame)?;
        let conntrack = Conntrack::open(families.clone())?;
        let (stop, stopped) = watch::channel(false);
        let (applied_sender, applied) = watch::channel(0);
        let health = Arc::new(NodeHealth::new());
        let pending = Arc::new(Pending::new(config.clock.clone(), health.clone()));
        let services = config.informers.of::<Service>();
        let slices = config.informers.of::<EndpointSlice>();
        let nodes = config.informers.of::<Node>();
        observe(&services, &slices, &pending);
        observe_node(&nodes, &config.node_name, &pending);
        let everywhere = everywhere(&families);
        let (recorder, clock) = (config.recorder.clone(), config.clock.clone());
        let checks = HealthChecks::new(config.node_name.clone(), everywhere, recorder, health.clone(), clock);
        let policies = PolicyFollower::start(&config.informers, &config.node_name, &families, pending.wake.clone());
        let gate = policies.gate();
        let worker = Worker {
            here: Here { node: config.node_name.clone(), zone: None },
            config,
            of_service: SlicesOfServices::new(&slices),
            services,
            slices,
            nodes,
            policies,
            pending,
            tables,
            is_complete: false,
            flows: FlowKeeper::default(),
            conntrack,
            checks,
            health,
            applied: applied_sender,
        };
        Ok(Self { stop, applied, gate, task: tokio::spawn(worker.run(stopped)) })
    }

    /// Where this node's pods wait until the rules know of them.
    pub fn gate(&self) -> PodGate {
        self.gate.clone()
    }

    /// Waits until the rules for all Services known at the start are in the kernel.
    pub async fn ready(&self) {
        self.applied_after(0).await;
    }

    /// Waits until more transactions than these were applied.
    pub async fn applied_after(&self, count: u64) {
        // The other end goes only with the worker, and then there will be no more.
        if self.applied.clone().wait_for(|applied| *applied > count).await.is_err() {
            tracing::debug!("the service rules ended before this was applied");
        }
    }

    /// How many transactions were applied so far.
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Stops following changes; the rules stay.
    pub async fn shutdown(self) {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::warn!(%error, "the service rules ended badly");
        }
    }

    /// Removes all rules from the calling thread's network namespace.
    pub fn clean_up() -> Result<(), NetlinkError> {
        Family::ALL.into_iter().try_for_each(|family| KernelRules::open(family)?.remove())
    }
}

/// The address that stands for all of the node's, of these families.
fn everywhere(families: &[Family]) -> IpAddr {
    let six = families.iter().find(|family| **family == Family::V6);
    six.map_or(Ipv4Addr::UNSPECIFIED.into(), |family| family.unspecified())
}

/// The rules of one family, as they are wanted and as the kernel has them.
struct Table {
    ruleset: Ruleset,
    kernel: KernelRules,
}

impl Table {
    /// One for each family of the frame, with at least the fixed part in the kernel. One of a family that is none of the
    /// frame's any more goes.
    fn open_all(frame: &Frame) -> Result<Vec<Self>, NetlinkError> {
        let families = frame.families();
        for family in Family::ALL.into_iter().filter(|family| !families.contains(family)) {
            KernelRules::open(family)?.remove()?;
        }
        let open = |family: Family| {
            let table = Self { ruleset: Ruleset::new(frame.clone(), family), kernel: KernelRules::open(family)? };
            if !table.kernel.exist()? {
                table.kernel.recreate(&table.ruleset)?;
            }
            Ok(table)
        };
        families.into_iter().map(open).collect()
    }

    fn update(&self, transaction: &Transaction) -> bool {
        let outcome = self.kernel.update(transaction);
        if let Err(error) = &outcome {
            tracing::warn!(%error, "the kernel refused a change of the service rules; making all of them anew");
        }
        outcome.is_ok()
    }

    fn recreate(&self) -> bool {
        let outcome = self.kernel.recreate(&self.ruleset);
        if let Err(error) = &outcome {
            tracing::error!(%error, "the service rules cannot be brought up to date");
        }
        outcome.is_ok()
    }
}

/// What is planned, for each table.
struct Plans(Vec<Vec<(String, Fragment)>>);

/// The Services that are to be looked at again.
struct Pending {
    services: Mutex<HashSet<ObjectKey>>,
    wake: Arc<Notify>,
    clock: SharedClock,
    health: Arc<NodeHealth>,
}

impl Pending {
    fn new(clock: SharedClock, health: Arc<NodeHealth>) -> Self {
        Self { services: Mutex::default(), wake: Arc::default(), clock, health }
    }

    fn touch(&self, service: ObjectKey) {
        self.health.queued(self.clock.now());
        self.services.lock().insert(service);
        self.wake.notify_one();
    }

    fn take(&self) -> HashSet<ObjectKey> {
        std::mem::take(&mut *self.services.lock())
    }

    fn touch_service_of(&self, slice: &EndpointSlice) {
        service_of(slice).into_iter().for_each(|service| self.touch(service));
    }
}

fn observe(services: &Informer<Service>, slices: &Informer<EndpointSlice>, pending: &Arc<Pending>) {
    use skiff_client::Change;
    let of_services = pending.clone();
    services.on_change(move |change| of_services.touch(ObjectKey::of(&change.object().metadata)));
    let of_slices = pending.clone();
    slices.on_change(move |change| {
        // Its label may have moved it to another Service.
        if let Change::Updated { old, new } = change
            && service_of(old) != service_of(new)
        {
            of_slices.touch_service_of(old);
        }
        of_slices.touch_service_of(change.object());
    });
}

/// A node tells of itself all the time, and of its zone or its end almost never.
fn observe_node(nodes: &Informer<Node>, name: &str, pending: &Arc<Pending>) {
    let (name, pending) = (name.to_owned(), pending.clone());
    nodes.on_change(move |change| {
        let node = change.object();
        if node.metadata.name.as_deref() == Some(&name) {
            pending.health.observe_node((!matches!(change, skiff_client::Change::Deleted(_))).then_some(node));
            let is_news = match change {
                skiff_client::Change::Updated { old, new } => zone_of(old) != zone_of(new),
                _ => true,
            };
            if is_news {
                pending.wake.notify_one();
            }
        }
    });
}

struct Worker {
    config: NetdConfig,
    here: Here,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    of_service: SlicesOfServices,
    nodes: Informer<Node>,
    policies: PolicyFollower,
    pending: Arc<Pending>,
    tables: Vec<Table>,
    /// The kernel has all that the rulesets say; otherwise the next step makes everything anew.
    is_complete: bool,
    flows: FlowKeeper,
    conntrack: Conntrack,
    checks: HealthChecks,
    health: Arc<NodeHealth>,
    applied: watch::Sender<u64>,
}

impl Worker {
    async fn run(self, mut stopped: watch::Receiver<bool>) {
        let node_health = serve_node_health(self.config.health_address, self.health.clone(), self.config.clock.clone());
        tokio::select! {
            () = node_health => {}
            () = self.follow(stopped.clone()) => {}
            _ = stopped.wait_for(|stop| *stop) => {}
        }
    }

    async fn follow(mut self, mut stopped: watch::Receiver<bool>) {
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => return,
            () = self.synced() => {}
        }
        loop {
            let pause = if self.step() { COALESCING } else { RETRY };
            self.checks.apply().await;
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(pause) => {}
            }
            let wake = self.pending.clone();
            tokio::select! {
                _ = stopped.wait_for(|stop| *stop) => return,
                () = wake.wake.notified(), if self.is_complete => {}
                Ok(()) = self.config.host_ports.changed() => {}
                () = tokio::time::sleep(CHECK) => self.check(),
                () = std::future::ready(()), if !self.is_complete => {}
            }
        }
    }

    async fn synced(&mut self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.nodes.synced().await;
        self.policies.synced().await;
    }

    /// Brings rules and kernel up to date; false if the kernel refused.
    fn step(&mut self) -> bool {
        let began = self.config.clock.now();
        let start = self.config.clock.monotonic();
        self.find_zone();
        let mut plans = Plans(self.tables.iter().map(|_| Vec::new()).collect());
        for key in self.pending.take() {
            self.plan(&key, &mut plans);
        }
        self.plan_host_ports(&mut plans);
        for (family, fragments) in self.policies.plan() {
            if let Some(at) = self.tables.iter().position(|table| table.ruleset.family() == family) {
                plans.0[at].extend(fragments);
            }
        }
        let replaced = self.tables.iter_mut().zip(plans.0).map(|(table, plan)| table.ruleset.replace(plan));
        let transactions: Vec<Transaction> = replaced.collect();
        if !self.is_complete || !transactions.iter().all(Transaction::is_empty) {
            self.is_complete = self.apply(&transactions);
            if self.is_complete {
                SYNC.took(self.config.clock.monotonic().saturating_sub(start));
                self.applied.send_modify(|count| *count += 1);
            }
        }
        if self.is_complete {
            self.policies.finish();
            self.clean_flows();
            self.health.updated(began);
        }
        self.is_complete
    }

    /// Where this node is in another zone than before, every Service may have other endpoints for it.
    fn find_zone(&mut self) {
        let node = self.nodes.get("", &self.here.node);
        let zone = node.as_deref().and_then(zone_of).map(str::to_owned);
        if zone != self.here.zone {
            self.here.zone = zone;
            for service in self.services.list() {
                self.pending.touch(ObjectKey::of(&service.metadata));
            }
        }
    }

    fn clean_flows(&mut self) {
        if self.flows.is_due() {
            match self.flows.clean(&self.conntrack) {
                Ok(0) => {}
                Ok(count) => tracing::debug!(count, "dropped flows of UDP that led to nobody"),
                Err(error) => tracing::warn!(%error, "cannot drop flows of UDP that lead to nobody"),
            }
        }
    }

    /// Brings every table up to date that is not.
    fn apply(&self, transactions: &[Transaction]) -> bool {
        let mut is_complete = true;
        for (table, transaction) in self.tables.iter().zip(transactions) {
            let is_small = self.is_complete && (transaction.is_empty() || table.update(transaction));
            is_complete &= is_small || table.recreate();
        }
        is_complete
    }

    fn plan(&mut self, key: &ObjectKey, plans: &mut Plans) {
        let owner = service::owner(&key.namespace, &key.name);
        let object = self.services.by_key(key);
        let mut answerers = Answerers::default();
        let mut slices = None;
        let mut is_checked = false;
        for (table, plan) in self.tables.iter().zip(&mut plans.0) {
            let family = table.ruleset.family();
            let Some(wanted) = object.as_deref().and_then(|object| api::service(object, family)) else {
                plan.push((owner.clone(), Fragment::default()));
                continue;
            };
            let slices = slices.get_or_insert_with(|| self.of_service.of(key));
            let backends = api::backends(slices.iter().map(Arc::as_ref), &self.here, family);
            answerers.add(Answerers::of_service(&wanted, &backends));
            // An endpoint has an address in each family, and is asked for once.
            if !std::mem::replace(&mut is_checked, true) {
                self.checks.note(key, object.as_deref(), &backends);
            }
            let before = table.ruleset.fragment(&owner);
            plan.push((owner.clone(), service::fragment(&wanted, &backends, &self.config.frame, before)));
        }
        if !is_checked {
            self.checks.note(key, None, &[]);
        }
        self.flows.note(&owner, answerers);
    }

    /// The fragments of all host ports, and empty ones for those that are gone.
    fn plan_host_ports(&mut self, plans: &mut Plans) {
        let mappings = self.config.host_ports.borrow_and_update().clone();
        for mapping in &mappings {
            self.flows.note(&service::host_port_owner(mapping), Answerers::of_host_port(mapping));
        }
        for (table, plan) in self.tables.iter().zip(&mut plans.0) {
            let ours = mappings.iter().filter(|mapping| Family::of(mapping.pod) == table.ruleset.family());
            let named =
                |mapping: &HostPortMapping| (service::host_port_owner(mapping), service::host_port_fragment(mapping));
            let mut fragments: HashMap<String, Fragment> = ours.map(named).collect();
            let known = table.ruleset.owners_within(service::HOST_PORT_OWNERS);
            let gone: Vec<String> = known.filter(|owner| !fragments.contains_key(*owner)).map(str::to_owned).collect();
            gone.iter().for_each(|owner| self.flows.note(owner, Answerers::default()));
            fragments.extend(gone.into_iter().map(|owner| (owner, Fragment::default())));
            plan.extend(fragments);
        }
    }

    fn check(&mut self) {
        for table in &self.tables {
            match table.kernel.exist() {
                Ok(true) => {}
                Ok(false) => {
                    tracing::warn!("the service rules are gone from the kernel; making them anew");
                    self.is_complete = false;
                }
                Err(error) => tracing::warn!(%error, "cannot look for the service rules"),
            }
        }
    }
}
