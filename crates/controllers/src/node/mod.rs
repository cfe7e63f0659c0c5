//! Nodes: whether they are heard of, what taints they carry for it, which pods have to leave them,
//! and the range of addresses that each gives its pods.
//! See <https://kubernetes.io/docs/concepts/architecture/nodes/#node-controller>.

mod eviction;
pub mod health;
mod ranges;
mod zones;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};
use parking_lot::Mutex;
use skiff_base::Timestamp;
use skiff_base::clock::SharedClock;
use skiff_client::events::reference;
use skiff_client::{Change, Index, Informer, ObjectKey};

use crate::plan::{Action, Note, Plan};
use crate::pods::by_node;
use crate::runner::{Controller, Failure, Setup};

pub use ranges::Ranges;
use zones::Zones;

/// Where nodes renew their leases.
const LEASES: &str = "kube-node-lease";
/// A node that is not heard of for this long is not there any more; upstream's default.
const GRACE: Duration = Duration::from_secs(50);

/// When each node was last heard of, by this process's own clock: the nodes' clocks may be wrong.
#[derive(Default)]
struct Heard {
    at: HashMap<String, (String, Duration)>,
}

impl Heard {
    /// Notes a sign of life; the same sign again is none.
    fn note(&mut self, node: &str, sign: String, now: Duration) {
        match self.at.get_mut(node) {
            Some((old, _)) if *old == sign => {}
            _ => {
                self.at.insert(node.to_owned(), (sign, now));
            }
        }
    }

    fn since(&self, node: &str, now: Duration) -> Duration {
        self.at.get(node).map_or(Duration::ZERO, |(_, at)| now.saturating_sub(*at))
    }
}

/// The controller.
pub struct Nodes {
    nodes: Informer<Node>,
    pods: Index<Pod>,
    heard: Arc<Mutex<Heard>>,
    ranges: Arc<Option<Ranges>>,
    clock: SharedClock,
    zones: Arc<Zones>,
    known: Mutex<HashMap<String, ObjectReference>>,
}

impl Nodes {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup, clock: SharedClock, ranges: Option<Ranges>) -> Arc<dyn Controller> {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let nodes = setup.informer::<Node>();
        let (zones, ranges) = (Arc::new(Zones::default()), Arc::new(ranges));
        let (known, book, watch) = (nodes.clone(), heard.clone(), clock.clone());
        let (census, given) = (zones.clone(), ranges.clone());
        setup.on_change::<Node>(move |change| {
            note_status(change, &book, watch.monotonic());
            note_range(change, &given);
            concerned(change, &census, &known)
        });
        let (book, watch) = (heard.clone(), clock.clone());
        let known = nodes.clone();
        setup.selected_in::<Lease>(LEASES, "", move |change| {
            let lease = change.object();
            let name = lease.metadata.name.clone().unwrap_or_default();
            let renewed = lease.spec.as_ref().and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0.to_string());
            book.lock().note(&name, format!("lease {}", renewed.unwrap_or_default()), watch.monotonic());
            // A heartbeat alone changes nothing, but that of a node given up is news.
            let given_up = known.get("", &name).is_some_and(|node| health::is_given_up(&node));
            given_up.then(|| ObjectKey::new("", name)).into_iter().collect()
        });
        let known = nodes.clone();
        setup.on_change::<Pod>(move |change| concerned_node(change, &known));
        Arc::new(Self { nodes, pods: by_node(&setup.informer()), heard, ranges, clock, zones, known: Mutex::default() })
    }
}

impl Controller for Nodes {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let Some(node) = self.nodes.by_key(key) else {
            self.heard.lock().at.remove(&key.name);
            return self.tell_gone(&key.name);
        };
        let mut plan = Plan::nothing();
        self.tell_new(&node, &mut plan);
        let silent = self.heard.lock().since(&key.name, self.clock.monotonic());
        if let Some(ranges) = &*self.ranges {
            ranges.assign(&node, &mut plan);
        }
        let clear = |began| self.zones.clear(&node, began, self.clock.monotonic());
        health::reconcile(&node, silent, GRACE, clear, now, &mut plan);
        if health::lost_readiness(&node, silent, GRACE) {
            eviction::mark_unready(&self.pods_on(&node), now, &mut plan);
        }
        if !eviction::evicting(&node).is_empty() {
            eviction::reconcile(&node, &self.pods_on(&node), now, &mut plan);
        }
        plan
    }
}

impl Nodes {
    fn tell_new(&self, node: &Node, plan: &mut Plan) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let about = reference(node);
        if self.known.lock().insert(name.clone(), about.clone()).is_none() {
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            plan.then(Action::tell(Note { about, warning: false, reason: "RegisteredNode", message }));
        }
    }

    fn tell_gone(&self, name: &str) -> Plan {
        let mut plan = Plan::nothing();
        if let Some(about) = self.known.lock().remove(name) {
            let message = format!("Node {name} event: Removing Node {name} from Controller");
            plan.then(Action::tell(Note { about, warning: false, reason: "RemovingNode", message }));
        }
        plan
    }

    fn pods_on(&self, node: &Node) -> Vec<Arc<Pod>> {
        self.pods.of(node.metadata.name.as_deref().unwrap_or_default())
    }
}

fn note_status(change: &Change<Node>, heard: &Mutex<Heard>, now: Duration) {
    let node = change.object();
    let beat_of = |node: &Node| {
        let ready = health::condition(node, "Ready");
        ready.and_then(|ready| ready.last_heartbeat_time.as_ref()).map(|time| time.0.to_string()).unwrap_or_default()
    };
    // A node that comes back tells its status before it renews its lease.
    let is_news = matches!(change, Change::Updated { old, new } if beat_of(old) != beat_of(new));
    // Our own Unknown is no sign of life.
    if !health::is_given_up(node) {
        let sign = beat_of(node);
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let mut heard = heard.lock();
        let by_lease = heard.at.get(name).is_some_and(|(sign, _)| sign.starts_with("lease "));
        if !by_lease || is_news {
            heard.note(name, sign, now);
        }
    }
}

/// Ranges that nodes have are nobody else's, and those of nodes that are gone are free.
fn note_range(change: &Change<Node>, ranges: &Option<Ranges>) {
    let Some(ranges) = ranges else { return };
    match change {
        Change::Deleted(node) => ranges.release(node.metadata.name.as_deref().unwrap_or_default()),
        _ => ranges.note(change.object()),
    }
}

/// The node itself; all nodes where the first or last ready one came or went, since then evictions stop or begin.
fn concerned(change: &Change<Node>, zones: &Zones, nodes: &Informer<Node>) -> Vec<ObjectKey> {
    let key = ObjectKey::of(&change.object().metadata);
    let turned = match change {
        Change::Deleted(_) => zones.forget(&key.name),
        _ => zones.note(change.object()),
    };
    if !turned {
        return vec![key];
    }
    let mut keys: Vec<_> = nodes.list().iter().map(|node| ObjectKey::of(&node.metadata)).collect();
    if !keys.contains(&key) {
        keys.push(key);
    }
    keys
}

/// The node of a pod that may have to leave it; also of one whose node is lost, and that was just told not to be ready:
/// the node's key waits to see that before it goes on.
fn concerned_node(change: &Change<Pod>, nodes: &Informer<Node>) -> Vec<ObjectKey> {
    let name_of = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let name = name_of(change.object());
    let news = match change {
        Change::Added(_) => true,
        Change::Updated { old, new } => {
            let tolerations = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.tolerations.clone());
            name_of(old) != name || tolerations(old) != tolerations(new)
        }
        Change::Deleted(_) => false,
    };
    let node = if name.is_empty() { None } else { nodes.get("", &name) };
    let evicts = || node.as_ref().is_some_and(|node| !eviction::evicting(node).is_empty());
    let told = matches!(change, Change::Updated { old, new } if readiness(old) != readiness(new))
        && node.as_ref().is_some_and(|node| health::is_given_up(node));
    (told || (news && evicts())).then(|| ObjectKey::new("", name)).into_iter().collect()
}

fn readiness(pod: &Pod) -> Option<&str> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == "Ready").map(|condition| condition.status.as_str())
}
