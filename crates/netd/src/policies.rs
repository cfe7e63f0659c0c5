//! Follows NetworkPolicies, and the Pods and Namespaces that they speak of. Where nobody has a policy, Pods are not even
//! looked at: a node of a large cluster would keep them all for nothing.
//!
//! A pod of this node is isolated before its first container starts: whoever gave it its address waits at the gate until
//! the rules know of it, and does not wait for the API to tell of the address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use parking_lot::Mutex;
use skiff_client::{Change, Informer, Informers, ObjectKey};
use tokio::sync::{Notify, watch};

use crate::family::Family;
use crate::rules::Fragment;
use crate::rules::policy::{Planner, PodFacts, World, api};

/// How long a pod's start waits for the rules at most. They take milliseconds; when they take so long, the API server
/// cannot be reached, and who may talk to whom is as it was before.
const GATE_PATIENCE: Duration = Duration::from_secs(5);

/// A pod of this node that has been given an address.
#[derive(Debug, Clone)]
pub struct NewPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID: another pod may have the same name soon.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
}

/// Where pods wait until the rules know of them.
#[derive(Clone)]
pub struct PodGate {
    inbox: Arc<Inbox>,
    policies: Informer<NetworkPolicy>,
    handled: watch::Receiver<u64>,
}

impl PodGate {
    /// Returns when the pod is isolated as its policies say; at once where there are none.
    pub async fn admit(&self, pod: NewPod) {
        let key = ObjectKey::new(pod.namespace.as_str(), pod.name.as_str());
        let number = self.inbox.arrive(key.clone(), pod);
        let mut handled = self.handled.clone();
        let known = async {
            self.policies.synced().await;
            if !self.policies.is_empty() {
                self.inbox.wake.notify_one();
                // The rules' worker has ended only where the whole node ends.
                handled.wait_for(|last| *last >= number).await.map(drop).unwrap_or_default();
            }
        };
        if tokio::time::timeout(GATE_PATIENCE, known).await.is_err() {
            tracing::warn!(pod = %key, "starts before the network policies are known to the rules");
        }
    }

    /// Forgets a pod that has lost its address.
    pub fn leave(&self, namespace: &str, name: &str, uid: &str) {
        self.inbox.depart(&ObjectKey::new(namespace, name), |pod| pod.uid == uid);
    }
}

/// What is to be looked at again.
struct Inbox {
    state: Mutex<InboxState>,
    wake: Arc<Notify>,
}

#[derive(Default)]
struct InboxState {
    policies: BTreeSet<ObjectKey>,
    pods: BTreeSet<ObjectKey>,
    namespaces: BTreeSet<String>,
    /// Pods of whose addresses the API does not tell yet.
    arrivals: HashMap<ObjectKey, NewPod>,
    /// How many have arrived since the start.
    arrived: u64,
    /// Somebody plans for pods.
    is_read: bool,
}

impl InboxState {
    /// Before anybody plans, pods would only pile up.
    fn touch(&mut self, pod: &ObjectKey) {
        if self.is_read {
            self.pods.insert(pod.clone());
        }
    }

    fn begin(&mut self) {
        self.is_read = true;
        self.pods.extend(self.arrivals.keys().cloned());
    }
}

impl Inbox {
    fn change(&self, note: impl FnOnce(&mut InboxState)) {
        note(&mut self.state.lock());
        self.wake.notify_one();
    }

    fn arrive(&self, key: ObjectKey, pod: NewPod) -> u64 {
        let mut state = self.state.lock();
        state.touch(&key);
        state.arrivals.insert(key, pod);
        state.arrived += 1;
        state.arrived
    }

    fn depart(&self, key: &ObjectKey, is_it: impl FnOnce(&NewPod) -> bool) {
        let mut state = self.state.lock();
        if state.arrivals.get(key).is_some_and(is_it) {
            state.arrivals.remove(key);
            state.touch(key);
            drop(state);
            self.wake.notify_one();
        }
    }
}

/// The policies' part of the worker.
pub(crate) struct PolicyFollower {
    informers: Informers,
    node_name: String,
    policies: Informer<NetworkPolicy>,
    inbox: Arc<Inbox>,
    cluster: Option<Cluster>,
    /// One for each family.
    planners: Vec<Planner>,
    /// How many arrivals the last plan knew of.
    planned: u64,
    handled: watch::Sender<u64>,
}

impl PolicyFollower {
    /// Begins to follow; `wake` is called when there is something to plan.
    pub(crate) fn start(informers: &Informers, node_name: &str, families: &[Family], wake: Arc<Notify>) -> Self {
        let inbox = Arc::new(Inbox { state: Mutex::default(), wake });
        let policies = informers.of::<NetworkPolicy>();
        let noted = inbox.clone();
        policies.on_change(move |change| {
            let key = ObjectKey::of(&change.object().metadata);
            noted.change(|state| state.policies.extend([key]));
        });
        Self {
            informers: informers.clone(),
            node_name: node_name.to_owned(),
            policies,
            inbox,
            cluster: None,
            planners: families.iter().map(|family| Planner::new(*family)).collect(),
            planned: 0,
            handled: watch::Sender::new(0),
        }
    }

    /// Where pods wait.
    pub(crate) fn gate(&self) -> PodGate {
        PodGate { inbox: self.inbox.clone(), policies: self.policies.clone(), handled: self.handled.subscribe() }
    }

    /// Waits until all is known that the first plan needs.
    pub(crate) async fn synced(&mut self) {
        self.policies.synced().await;
        if !self.policies.is_empty() {
            let (pods, namespaces) = self.follow();
            pods.synced().await;
            namespaces.synced().await;
        }
    }

    /// What has changed, for each family.
    pub(crate) fn plan(&mut self) -> Vec<(Family, Vec<(String, Fragment)>)> {
        if self.policies.is_empty() && self.cluster.is_none() {
            return Vec::new();
        }
        self.follow();
        let Some(cluster) = self.cluster.as_ref().filter(|cluster| cluster.is_synced()) else { return Vec::new() };
        let (policies, namespaces, pods) = {
            let mut state = self.inbox.state.lock();
            self.planned = state.arrived;
            let InboxState { policies, namespaces, pods, .. } = &mut *state;
            (std::mem::take(policies), std::mem::take(namespaces), std::mem::take(pods))
        };
        let (mut planned, mut pods) = (Vec::new(), pods);
        let last = self.planners.len().saturating_sub(1);
        for (at, planner) in self.planners.iter_mut().enumerate() {
            let family = planner.family();
            let ours = if at == last { std::mem::take(&mut pods) } else { pods.clone() };
            for key in &policies {
                let policy = self.policies.by_key(key).map(|object| api::policy(&object, &key.namespace, family));
                planner.set_policy(key.clone(), policy);
            }
            for name in &namespaces {
                let labels = cluster.namespaces.get("", name);
                let labels = labels.map(|object| object.metadata.labels.clone().unwrap_or_default());
                planner.set_namespace(name, labels);
            }
            planned.push((family, planner.plan(ours, cluster)));
        }
        planned
    }

    /// Says that the kernel has what was planned.
    pub(crate) fn finish(&self) {
        self.handled.send_if_modified(|handled| std::mem::replace(handled, self.planned) != self.planned);
    }

    /// Begins to follow Pods and Namespaces, where that is not done already.
    fn follow(&mut self) -> (Informer<Pod>, Informer<Namespace>) {
        let cluster = self.cluster.get_or_insert_with(|| {
            let (pods, namespaces) = (self.informers.of::<Pod>(), self.informers.of::<Namespace>());
            self.inbox.state.lock().begin();
            observe(&pods, &namespaces, &self.inbox);
            let (wake, known) = (self.inbox.wake.clone(), (pods.clone(), namespaces.clone()));
            tokio::spawn(async move {
                known.0.synced().await;
                known.1.synced().await;
                wake.notify_one();
            });
            Cluster { pods, namespaces, node_name: self.node_name.clone(), inbox: self.inbox.clone() }
        });
        (cluster.pods.clone(), cluster.namespaces.clone())
    }
}

fn observe(pods: &Informer<Pod>, namespaces: &Informer<Namespace>, inbox: &Arc<Inbox>) {
    let of_namespaces = inbox.clone();
    namespaces.on_change(move |change| {
        let is_news = match change {
            Change::Updated { old, new } => old.metadata.labels != new.metadata.labels,
            _ => true,
        };
        let name = change.object().metadata.name.clone();
        if is_news {
            of_namespaces.change(|state| state.namespaces.extend(name));
        }
    });
    let of_pods = inbox.clone();
    pods.on_change(move |change| {
        // Pods tell of themselves all the time, and mostly nothing that matters here.
        if matches!(change, Change::Updated { old, new } if api::is_same(old, new)) {
            return;
        }
        let pod = change.object();
        let key = ObjectKey::of(&pod.metadata);
        of_pods.change(|state| {
            // What the API tells of need not be known from elsewhere. (A static pod has another UID there.)
            let told: Vec<IpAddr> = api::addresses_of(pod).collect();
            if state.arrivals.get(&key).is_some_and(|new| new.addresses.iter().all(|known| told.contains(known))) {
                state.arrivals.remove(&key);
            }
            state.pods.insert(key);
        });
    });
}

/// The pods as this node knows them.
struct Cluster {
    pods: Informer<Pod>,
    namespaces: Informer<Namespace>,
    node_name: String,
    inbox: Arc<Inbox>,
}

impl Cluster {
    fn is_synced(&self) -> bool {
        self.pods.is_synced() && self.namespaces.is_synced()
    }
}

impl World for Cluster {
    fn pod(&self, key: &ObjectKey, family: Family) -> Option<PodFacts> {
        let arrival = self.inbox.state.lock().arrivals.get(key).cloned();
        let object = self.pods.by_key(key);
        match (object, arrival) {
            (Some(pod), Some(new)) if pod.metadata.uid.as_ref() == Some(&new.uid) => {
                PodFacts::of(&pod, &self.node_name, family, &new.addresses)
            }
            (_, Some(new)) => {
                let address = family.first(new.addresses.iter().copied())?;
                Some(PodFacts::newcomer(new.labels, address))
            }
            (Some(pod), None) => PodFacts::of(&pod, &self.node_name, family, &[]),
            (None, None) => None,
        }
    }

    fn pods_of(&self, namespace: &str) -> Vec<ObjectKey> {
        let mut keys = keys(self.pods.list_namespace(namespace));
        let state = self.inbox.state.lock();
        keys.extend(state.arrivals.keys().filter(|key| key.namespace == namespace).cloned());
        keys
    }

    fn pods(&self) -> Vec<ObjectKey> {
        let mut keys = keys(self.pods.list());
        keys.extend(self.inbox.state.lock().arrivals.keys().cloned());
        keys
    }
}

fn keys(pods: Vec<Arc<Pod>>) -> Vec<ObjectKey> {
    pods.iter().map(|pod| ObjectKey::of(&pod.metadata)).collect()
}
