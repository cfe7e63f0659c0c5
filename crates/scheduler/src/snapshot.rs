//! The cluster as decisions see it: nodes with what runs on them, kept up to date change by change.
//! Pods whose binding was decided but not yet seen count as running there (they are *assumed*).
//!
//! Nothing is copied for a decision. Every change of a node is noted in a log, so that whoever keeps conclusions about
//! nodes ([`crate::ranking`]) looks again at those that changed, and at no others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_base::Quantity;

use crate::budgets::Budgets;
use crate::owners::Owners;
use crate::plugins::Storage;
use crate::pod::PodInfo;
use crate::resources::Resources;
use crate::selectors::Labels;

/// The label that names a node's host.
pub const HOSTNAME: &str = "kubernetes.io/hostname";
/// The log of changes is cut when it has this many times more entries than there are nodes.
const LOG_PER_NODE: usize = 4;
/// It is never cut below this.
const LOG_MIN: usize = 4096;

/// One node and what is on it.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// The node itself.
    pub node: Arc<Node>,
    /// What pods may use of it.
    pub allocatable: Resources,
    /// How many pods it takes.
    pub allowed_pods: i64,
    /// Bytes of each image that is there, by each of its names.
    pub images: Arc<HashMap<String, i64>>,
    /// What runs there.
    pub load: Load,
    /// Pods that room was made for here, and that are not here yet.
    pub nominated: Vec<Arc<PodInfo>>,
    /// When anything here changed last; never the same for two states of any nodes.
    pub generation: u64,
    /// When the node itself changed last.
    pub node_generation: u64,
}

/// Pods on one node, with their sums.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// The pods, in no order.
    pub pods: Vec<Arc<PodInfo>>,
    /// The sum of their requests.
    pub requested: Resources,
    /// The sum of CPU and memory with stand-ins for what requests nothing.
    pub scored: (i64, i64),
    /// How many of them have required anti-affinity.
    pub with_anti_affinity: usize,
    /// How many of them have any inter-pod affinity.
    pub with_affinity: usize,
}

impl Load {
    /// Puts a pod on the node.
    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scored.0 += pod.scored.0;
        self.scored.1 += pod.scored.1;
        self.with_anti_affinity += usize::from(!pod.required_anti_affinity.is_empty());
        self.with_affinity += usize::from(pod.has_affinity());
        self.pods.push(pod);
    }

    /// Takes a pod off the node.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|pod| pod.uid == uid)?;
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.requests);
        self.scored.0 -= pod.scored.0;
        self.scored.1 -= pod.scored.1;
        self.with_anti_affinity -= usize::from(!pod.required_anti_affinity.is_empty());
        self.with_affinity -= usize::from(pod.has_affinity());
        Some(pod)
    }
}

impl NodeInfo {
    fn new(node: Arc<Node>) -> Self {
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        let allowed_pods = allocatable
            .and_then(|list| list.get("pods"))
            .and_then(|pods| pods.0.parse::<Quantity>().ok())
            .map_or(0, |pods| pods.value());
        let mut images = HashMap::new();
        for image in status.and_then(|status| status.images.as_ref()).into_iter().flatten() {
            for name in image.names.iter().flatten() {
                images.insert(normalized_image(name), image.size_bytes.unwrap_or(0));
            }
        }
        Self {
            allocatable: Resources::from_list(allocatable),
            allowed_pods,
            images: Arc::new(images),
            load: Load::default(),
            nominated: Vec::new(),
            generation: 0,
            node_generation: 0,
            node,
        }
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        self.node.metadata.name.as_deref().unwrap_or_default()
    }

    /// The node's labels.
    pub fn labels(&self) -> Option<&Labels> {
        self.node.metadata.labels.as_ref()
    }

    /// The value of one label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }

    /// The node as it will be when the pods that room was made for are there, as far as `pod` has to yield to them;
    /// `None` where there are none. Room of its own is taken back before a pod is decided on.
    pub fn with_nominated(&self, pod: &PodInfo) -> Option<Self> {
        let counts = |other: &&Arc<PodInfo>| other.priority >= pod.priority;
        self.nominated.iter().find(counts)?;
        let mut filled = self.clone();
        self.nominated.iter().filter(counts).for_each(|other| filled.load.add(other.clone()));
        Some(filled)
    }

    /// Whether nothing is different that decisions ask of the node itself.
    fn is_same_node(&self, other: &Self) -> bool {
        self.node.spec == other.node.spec
            && self.node.metadata.labels == other.node.metadata.labels
            && self.allocatable == other.allocatable
            && self.allowed_pods == other.allowed_pods
            && self.images == other.images
    }
}

/// An image name with `:latest` where it has neither tag nor digest.
pub fn normalized_image(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || last.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}

/// All nodes, in no order that means anything.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    index: HashMap<String, usize>,
    /// Pods on nodes that are not known (yet, or any more).
    homeless: HashMap<String, Load>,
    /// Which node a pod is on, by UID.
    places: HashMap<String, String>,
    assumed: HashSet<String>,
    /// Pods whose eviction was decided, until they are gone.
    doomed: HashSet<String>,
    /// Which node room was made on for a pod, by UID.
    nominations: HashMap<String, String>,
    /// Positions of nodes in the order in which they changed.
    log: Vec<u32>,
    /// How many changes came before those in the log.
    log_start: u64,
    generation: u64,
    with_anti_affinity: usize,
    images: HashMap<String, usize>,
    hosts: HashMap<String, usize>,
    /// How many nodes tell their host.
    with_host: usize,
    /// Label keys that affinity terms of placed pods ask for. One that was asked for once stays: that nobody does any
    /// more would change no conclusion.
    watched: HashSet<String>,
    watched_generation: u64,
    namespaces_generation: u64,
    /// Claims, volumes and classes.
    pub storage: Storage,
    /// What pods belong together by.
    pub owners: Owners,
    /// Disruption budgets.
    pub budgets: Budgets,
    /// Labels of namespaces, for affinity terms that select them.
    pub namespaces: BTreeMap<String, Labels>,
}

impl Snapshot {
    /// The nodes.
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    /// Where in [`Snapshot::nodes`] a node is.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Whether any pod anywhere has required anti-affinity.
    pub fn has_anti_affinity(&self) -> bool {
        self.with_anti_affinity > 0
    }

    /// On how many nodes an image is.
    pub fn nodes_with_image(&self, image: &str) -> usize {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// Whether no two nodes have the same host name.
    pub fn hosts_are_unique(&self) -> bool {
        self.hosts.len() == self.with_host
    }

    /// Whether an affinity term of a placed pod asks for this label.
    pub fn is_watched(&self, key: &str) -> bool {
        self.watched.contains(key)
    }

    /// When what all conclusions rest on changed last: which labels are asked for, and the labels of namespaces.
    pub fn ground(&self) -> (u64, u64) {
        (self.watched_generation, self.namespaces_generation)
    }

    /// How many changes of nodes there were.
    pub fn changes(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }

    /// Positions of the nodes that changed after the first `seen` changes; `None` where that is too long ago.
    pub fn changed_since(&self, seen: u64) -> Option<&[u32]> {
        let from = usize::try_from(seen.checked_sub(self.log_start)?).ok()?;
        self.log.get(from..)
    }

    fn touch(&mut self, at: usize) {
        self.generation += 1;
        if let Some(node) = self.nodes.get_mut(at) {
            node.generation = self.generation;
        }
        if self.log.len() >= LOG_MIN.max(self.nodes.len() * LOG_PER_NODE) {
            let half = self.log.len() / 2;
            self.log.drain(..half);
            self.log_start += half as u64;
        }
        self.log.push(u32::try_from(at).expect("fewer nodes than that"));
    }

    /// Has all conclusions about nodes drawn anew that hold a pod for which `concerned` says so.
    pub fn touch_where(&mut self, concerned: impl Fn(&PodInfo) -> bool) {
        for at in 0..self.nodes.len() {
            if self.nodes[at].load.pods.iter().any(|pod| concerned(pod)) {
                self.touch(at);
            }
        }
    }

    /// Adds or replaces a node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let mut fresh = NodeInfo::new(node);
        let name = fresh.name().to_owned();
        let at = match self.index.get(&name).copied() {
            Some(at) if self.nodes[at].is_same_node(&fresh) => {
                self.nodes[at].node = fresh.node;
                return;
            }
            Some(at) => {
                self.count_node(at, false);
                fresh.load = std::mem::take(&mut self.nodes[at].load);
                fresh.nominated = std::mem::take(&mut self.nodes[at].nominated);
                self.nodes[at] = fresh;
                at
            }
            None => {
                fresh.load = self.homeless.remove(&name).unwrap_or_default();
                self.index.insert(name, self.nodes.len());
                self.nodes.push(fresh);
                self.nodes.len() - 1
            }
        };
        self.count_node(at, true);
        self.touch(at);
        self.nodes[at].node_generation = self.generation;
    }

    /// Forgets a node; its pods stay known until they go themselves.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.get(name).copied() else { return };
        self.count_node(at, false);
        self.index.remove(name);
        let gone = self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.name().to_owned(), at);
            self.touch(at);
        }
        // The position after the last is no node any more.
        self.touch(self.nodes.len());
        gone.nominated.iter().for_each(|pod| drop(self.nominations.remove(&pod.uid)));
        if !gone.load.pods.is_empty() {
            self.homeless.insert(name.to_owned(), gone.load);
        }
    }

    /// Counts the images and the host name of a node, or takes them out of the count.
    fn count_node(&mut self, at: usize, there: bool) {
        let node = &self.nodes[at];
        for image in node.images.keys() {
            count(&mut self.images, image, there);
        }
        if let Some(host) = node.label(HOSTNAME) {
            count(&mut self.hosts, host, there);
            match there {
                true => self.with_host += 1,
                false => self.with_host -= 1,
            }
        }
    }

    /// Learns the labels of a namespace, or that it is gone.
    pub fn set_namespace(&mut self, name: String, labels: Option<Labels>) {
        if self.namespaces.get(&name) == labels.as_ref() {
            return;
        }
        self.namespaces_generation += 1;
        match labels {
            Some(labels) => self.namespaces.insert(name, labels),
            None => self.namespaces.remove(&name),
        };
    }

    /// Counts a pod on the node, as it was seen bound there.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.assumed.remove(&pod.uid);
        self.place(pod, node);
    }

    /// Counts a pod on a node where its binding is on the way.
    pub fn assume(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.assumed.insert(pod.uid.clone());
        self.place(pod, node);
    }

    /// Takes back [`Snapshot::assume`], unless the binding was seen meanwhile.
    pub fn forget(&mut self, uid: &str) {
        if self.assumed.remove(uid) {
            self.take(uid);
        }
    }

    /// Whether the pod's binding is on the way.
    pub fn is_assumed(&self, uid: &str) -> bool {
        self.assumed.contains(uid)
    }

    /// Notes that a pod's eviction was decided, or that nothing came of it.
    pub fn doom(&mut self, uid: &str, doomed: bool) {
        if doomed {
            self.doomed.insert(uid.to_owned());
        } else {
            self.doomed.remove(uid);
        }
    }

    /// Whether a pod is on its way out.
    pub fn is_leaving(&self, pod: &PodInfo) -> bool {
        pod.is_terminating() || self.doomed.contains(&pod.uid)
    }

    /// A pod is gone, or done; gives the node that it was on.
    pub fn remove_pod(&mut self, uid: &str) -> Option<String> {
        self.assumed.remove(uid);
        self.take(uid).map(|(node, _)| node)
    }

    /// A pod that counts as placed, and its node where that is known.
    pub fn placed(&self, uid: &str) -> Option<(&Arc<PodInfo>, Option<&NodeInfo>)> {
        let name = self.places.get(uid)?;
        let node = self.node(name);
        let load = node.map(|node| &node.load).or_else(|| self.homeless.get(name))?;
        load.pods.iter().find(|pod| pod.uid == uid).map(|pod| (pod, node))
    }

    /// Notes that room was made for a pod on a node.
    pub fn nominate(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.denominate(&pod.uid);
        let Some(at) = self.position(node) else { return };
        self.nominations.insert(pod.uid.clone(), node.to_owned());
        self.nodes[at].nominated.push(pod);
        self.touch(at);
    }

    /// The node that room was made on for a pod.
    pub fn nomination(&self, uid: &str) -> Option<&str> {
        self.nominations.get(uid).map(String::as_str)
    }

    /// Forgets that; gives the node.
    pub fn denominate(&mut self, uid: &str) -> Option<String> {
        let node = self.nominations.remove(uid)?;
        let at = self.position(&node)?;
        self.nodes[at].nominated.retain(|pod| pod.uid != uid);
        self.touch(at);
        Some(node)
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.take(&pod.uid);
        if !pod.required_anti_affinity.is_empty() {
            self.with_anti_affinity += 1;
        }
        for key in pod.affinity_keys() {
            if !self.watched.contains(key) {
                self.watched.insert(key.to_owned());
                self.watched_generation += 1;
            }
        }
        self.places.insert(pod.uid.clone(), node.to_owned());
        self.load_mut(node).add(pod);
    }

    fn take(&mut self, uid: &str) -> Option<(String, Arc<PodInfo>)> {
        let node = self.places.remove(uid)?;
        let pod = self.load_mut(&node).remove(uid)?;
        self.with_anti_affinity -= usize::from(!pod.required_anti_affinity.is_empty());
        if self.homeless.get(&node).is_some_and(|load| load.pods.is_empty()) {
            self.homeless.remove(&node);
        }
        Some((node, pod))
    }

    fn load_mut(&mut self, node: &str) -> &mut Load {
        match self.index.get(node).copied() {
            Some(at) => {
                self.touch(at);
                &mut self.nodes[at].load
            }
            None => self.homeless.entry(node.to_owned()).or_default(),
        }
    }
}

fn count(counts: &mut HashMap<String, usize>, key: &str, more: bool) {
    if more {
        match counts.get_mut(key) {
            Some(count) => *count += 1,
            None => drop(counts.insert(key.to_owned(), 1)),
        }
    } else if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// Whether a pod has come to its end and holds nothing any more.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}
