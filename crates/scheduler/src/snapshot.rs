//! The cluster as decisions see it: nodes with what runs on them, kept up to date change by change.
//! Pods whose binding was decided but not yet seen count as running there (they are *assumed*).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use skiff_base::Quantity;

use crate::plugins::Storage;
use crate::pod::PodInfo;
use crate::resources::Resources;
use crate::selectors::Labels;

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
    pub images: HashMap<String, i64>,
    /// What runs there.
    pub load: Load,
}

/// Pods on one node, with their sums.
#[derive(Debug, Clone, Default)]
pub struct Load {
    /// By UID.
    pub pods: HashMap<String, Arc<PodInfo>>,
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
    fn add(&mut self, pod: Arc<PodInfo>) {
        if let Some(old) = self.pods.get(&pod.uid).cloned() {
            self.remove(&old.uid);
        }
        self.requested.add(&pod.requests);
        self.scored.0 += pod.scored.0;
        self.scored.1 += pod.scored.1;
        self.with_anti_affinity += usize::from(!pod.required_anti_affinity.is_empty());
        self.with_affinity += usize::from(pod.has_affinity());
        self.pods.insert(pod.uid.clone(), pod);
    }

    /// Takes a pod off the node.
    pub fn remove(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let pod = self.pods.remove(uid)?;
        self.requested.subtract(&pod.requests);
        self.scored.0 -= pod.scored.0;
        self.scored.1 -= pod.scored.1;
        self.with_anti_affinity -= usize::from(!pod.required_anti_affinity.is_empty());
        self.with_affinity -= usize::from(pod.has_affinity());
        Some(pod)
    }
}

impl NodeInfo {
    fn new(node: Arc<Node>, load: Load) -> Self {
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
        Self { allocatable: Resources::from_list(allocatable), allowed_pods, images, load, node }
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
}

/// An image name with `:latest` where it has neither tag nor digest.
pub fn normalized_image(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    if last.contains(':') || last.contains('@') { name.to_owned() } else { format!("{name}:latest") }
}

/// All nodes, in the order in which they came.
#[derive(Debug, Default, Clone)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    index: HashMap<String, usize>,
    /// Pods on nodes that are not known (yet, or any more).
    homeless: HashMap<String, Load>,
    /// Which node a pod is on, by UID.
    places: HashMap<String, String>,
    assumed: HashSet<String>,
    /// Claims, volumes and classes.
    pub storage: Storage,
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

    /// Whether any pod anywhere has required anti-affinity.
    pub fn has_anti_affinity(&self) -> bool {
        self.nodes.iter().any(|node| node.load.with_anti_affinity > 0)
    }

    /// Adds or replaces a node.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        match self.index.get(&name) {
            Some(at) => {
                let load = std::mem::take(&mut self.nodes[*at].load);
                self.nodes[*at] = NodeInfo::new(node, load);
            }
            None => {
                let load = self.homeless.remove(&name).unwrap_or_default();
                self.index.insert(name, self.nodes.len());
                self.nodes.push(NodeInfo::new(node, load));
            }
        }
    }

    /// Forgets a node; its pods stay known until they go themselves.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else { return };
        let gone = self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.name().to_owned(), at);
        }
        if !gone.load.pods.is_empty() {
            self.homeless.insert(name.to_owned(), gone.load);
        }
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

    /// A pod is gone, or done; gives the node that it was on.
    pub fn remove_pod(&mut self, uid: &str) -> Option<String> {
        self.assumed.remove(uid);
        self.take(uid)
    }

    fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        if self.places.get(&pod.uid).is_some_and(|place| place != node) {
            self.take(&pod.uid);
        }
        self.places.insert(pod.uid.clone(), node.to_owned());
        self.load_mut(node).add(pod);
    }

    fn take(&mut self, uid: &str) -> Option<String> {
        let node = self.places.remove(uid)?;
        self.load_mut(&node).remove(uid);
        if self.homeless.get(&node).is_some_and(|load| load.pods.is_empty()) {
            self.homeless.remove(&node);
        }
        Some(node)
    }

    fn load_mut(&mut self, node: &str) -> &mut Load {
        match self.index.get(node) {
            Some(at) => &mut self.nodes[*at].load,
            None => self.homeless.entry(node.to_owned()).or_default(),
        }
    }
}

/// Whether a pod has come to its end and holds nothing any more.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}
