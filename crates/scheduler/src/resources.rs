//! What a pod asks for and what a node has, as plain numbers.
//! Follows the documented effective request: containers and sidecars together, or the largest step of the init sequence.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/init-containers/#resource-sharing-within-containers>.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use skiff_base::Quantity;

/// What a container that requests no CPU counts as when nodes are scored.
pub const DEFAULT_CPU_MILLIS: i64 = 100;
/// What a container that requests no memory counts as when nodes are scored.
pub const DEFAULT_MEMORY_BYTES: i64 = 200 * 1024 * 1024;

/// Amounts of the resources that every node has, and of named others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// Thousandths of a CPU.
    pub cpu_millis: i64,
    /// Bytes of memory.
    pub memory_bytes: i64,
    /// Bytes of local storage.
    pub storage_bytes: i64,
    /// Everything else: extended resources, huge pages, ...
    pub others: BTreeMap<String, i64>,
}

impl Resources {
    /// Reads a resource list; a quantity that does not parse counts as zero (the API server let none through).
    pub fn from_list(list: Option<&BTreeMap<String, RawQuantity>>) -> Self {
        let mut result = Self::default();
        for (name, quantity) in list.into_iter().flatten() {
            let quantity: Quantity = quantity.0.parse().unwrap_or(Quantity::ZERO);
            match name.as_str() {
                "cpu" => result.cpu_millis = quantity.milli_value(),
                "memory" => result.memory_bytes = quantity.value(),
                "ephemeral-storage" => result.storage_bytes = quantity.value(),
                "pods" => {}
                _ => {
                    result.others.insert(name.clone(), quantity.value());
                }
            }
        }
        result
    }

    /// The amount of one resource by its name; CPU in thousandths.
    pub fn amount(&self, name: &str) -> i64 {
        match name {
            "cpu" => self.cpu_millis,
            "memory" => self.memory_bytes,
            "ephemeral-storage" => self.storage_bytes,
            _ => self.others.get(name).copied().unwrap_or(0),
        }
    }

    /// Adds all amounts.
    pub fn add(&mut self, other: &Self) {
        self.cpu_millis += other.cpu_millis;
        self.memory_bytes += other.memory_bytes;
        self.storage_bytes += other.storage_bytes;
        for (name, amount) in &other.others {
            *self.others.entry(name.clone()).or_default() += amount;
        }
    }

    /// Takes all amounts away.
    pub fn subtract(&mut self, other: &Self) {
        self.cpu_millis -= other.cpu_millis;
        self.memory_bytes -= other.memory_bytes;
        self.storage_bytes -= other.storage_bytes;
        for (name, amount) in &other.others {
            if let Some(mine) = self.others.get_mut(name) {
                *mine -= amount;
            }
        }
    }

    fn raise_to(&mut self, other: &Self) {
        self.cpu_millis = self.cpu_millis.max(other.cpu_millis);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        self.storage_bytes = self.storage_bytes.max(other.storage_bytes);
        for (name, amount) in &other.others {
            let mine = self.others.entry(name.clone()).or_default();
            *mine = (*mine).max(*amount);
        }
    }

    /// Overwrites with what a pod-level request names.
    fn override_with(&mut self, list: &BTreeMap<String, RawQuantity>) {
        let given = Self::from_list(Some(list));
        if list.contains_key("cpu") {
            self.cpu_millis = given.cpu_millis;
        }
        if list.contains_key("memory") {
            self.memory_bytes = given.memory_bytes;
        }
        self.others.extend(given.others);
    }
}

/// What a pod asks of a node: what filters compare.
pub fn pod_requests(pod: &Pod) -> Resources {
    effective(pod, |container| Resources::from_list(container.resources.as_ref().and_then(|r| r.requests.as_ref())))
}

/// The same with a small stand-in for containers that ask for nothing: what scores compare.
pub fn pod_scored_requests(pod: &Pod) -> (i64, i64) {
    let requests = effective(pod, |container| {
        let list = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let has = |name: &str| list.is_some_and(|list| list.contains_key(name));
        let mut requests = Resources::from_list(list);
        requests.others.clear();
        if !has("cpu") {
            requests.cpu_millis = DEFAULT_CPU_MILLIS;
        }
        if !has("memory") {
            requests.memory_bytes = DEFAULT_MEMORY_BYTES;
        }
        requests
    });
    (requests.cpu_millis, requests.memory_bytes)
}

fn effective(pod: &Pod, of: impl Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut total = sidecars(spec, &of);
    for container in &spec.containers {
        total.add(&of(container));
    }
    total.raise_to(&init_peak(spec, &of));
    if let Some(list) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        total.override_with(list);
    }
    if let Some(overhead) = &spec.overhead {
        total.add(&Resources::from_list(Some(overhead)));
    }
    total
}

fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

fn sidecars(spec: &PodSpec, of: &impl Fn(&Container) -> Resources) -> Resources {
    let mut sum = Resources::default();
    for container in spec.init_containers.iter().flatten().filter(|container| is_sidecar(container)) {
        sum.add(&of(container));
    }
    sum
}

/// The largest need of any moment of the init sequence: the init container of that moment beside the sidecars already up.
fn init_peak(spec: &PodSpec, of: &impl Fn(&Container) -> Resources) -> Resources {
    let (mut peak, mut up) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if is_sidecar(container) {
            up.add(&moment);
            moment = up.clone();
        } else {
            moment.add(&up);
        }
        peak.raise_to(&moment);
    }
    peak
}
