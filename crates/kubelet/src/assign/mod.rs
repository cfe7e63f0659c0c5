//! Processors and memory that containers of Guaranteed Pods get for themselves, and where on the machine: decided purely from
//! what is free, remembered in a file so that it holds over restarts of the agent.
//! See <https://kubernetes.io/docs/tasks/administer-cluster/cpu-management-policies/>,
//! <https://kubernetes.io/docs/tasks/administer-cluster/memory-manager/> and
//! <https://kubernetes.io/docs/tasks/administer-cluster/topology-manager/>.

pub mod cpus;
pub mod keeper;
#[cfg(test)]
mod tests;
pub mod topology;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod};
use serde::{Deserialize, Serialize};
use skiff_base::Quantity;

use self::cpus::{Cpus, Topology};
use self::topology::{Hint, Policy};
use crate::config::resources::{amount, total};
use crate::config::uid;
use crate::options::Options;
use crate::pod::spec::{qos_class, spec};

/// Why a Pod is not taken: status reason and message.
pub type Refusal = (String, String);

/// What one container has for itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Processors; none where it uses the shared ones.
    pub cpus: Option<Cpus>,
    /// NUMA nodes that its memory comes from, and how many bytes; none where it comes from anywhere.
    pub memory: Option<(Vec<u32>, i64)>,
}

/// The machine, as far as it is given out in parts.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Machine {
    /// Its processors.
    pub topology: Topology,
    /// Memory of each NUMA node that Pods can have, in bytes.
    pub memory: BTreeMap<u32, i64>,
}

/// How parts are given out.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Whether processors are.
    pub static_cpus: bool,
    /// Only whole cores.
    pub full_cores: bool,
    /// Processors that are never given to one container.
    pub reserved: Cpus,
    /// Whether memory is.
    pub static_memory: bool,
    /// How strictly all parts come from one place.
    pub policy: Policy,
    /// Whether that counts for the Pod as a whole rather than for each container.
    pub whole_pod: bool,
}

/// Who has what.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Assignments {
    /// By the UID of the Pod and the name of the container.
    entries: BTreeMap<String, BTreeMap<String, Share>>,
}

impl Rules {
    /// As the options say.
    ///
    /// # Errors
    /// The options contradict each other or the machine.
    pub fn of(options: &Options, machine: &Machine) -> Result<Self, String> {
        let static_cpus = options.cpu_manager_policy == "static";
        let mut reserved = cpus::parse(&options.reserved_system_cpus).ok_or("reservedSystemCPUs is no set of CPUs")?;
        if static_cpus && reserved.is_empty() {
            let millis = options.reserved("cpu").milli_value();
            if millis <= 0 {
                return Err("the static CPU manager policy needs a CPU reservation: systemReserved, kubeReserved or reservedSystemCPUs".to_owned());
            }
            let number = usize::try_from((millis + 999) / 1000).unwrap_or(usize::MAX);
            let all = machine.topology.keys().copied().collect();
            reserved = cpus::take(&all, number, &machine.topology).ok_or("more CPUs are reserved than there are")?;
        }
        for option in options.cpu_manager_policy_options.keys() {
            if option != "full-pcpus-only" {
                return Err(format!("CPU manager policy option {option:?} is not known to this node"));
            }
        }
        let full = options.cpu_manager_policy_options.get("full-pcpus-only");
        Ok(Self {
            static_cpus,
            full_cores: full.is_some_and(|value| value == "true"),
            reserved,
            static_memory: options.memory_manager_policy == "Static",
            policy: Policy::parse(&options.topology_manager_policy),
            whole_pod: options.topology_manager_scope == "pod",
        })
    }

    /// Whether anything is given out at all.
    pub fn is_idle(&self) -> bool {
        !self.static_cpus && !self.static_memory
    }
}

/// The processors that a container gets for itself: a whole number of a Guaranteed Pod.
fn wanted_cpus(pod: &Pod, container: &Container, rules: &Rules) -> usize {
    let millis = amount(container.resources.as_ref(), false, "cpu").map_or(0, |cpu| cpu.milli_value());
    let whole = rules.static_cpus && qos_class(pod) == "Guaranteed" && millis % 1000 == 0;
    if whole { usize::try_from(millis / 1000).unwrap_or(0) } else { 0 }
}

fn wanted_memory(pod: &Pod, container: &Container, rules: &Rules) -> i64 {
    let bytes = amount(container.resources.as_ref(), false, "memory").map_or(0, |memory| memory.value());
    if rules.static_memory && qos_class(pod) == "Guaranteed" { bytes } else { 0 }
}

impl Assignments {
    /// The processors that nobody has for themselves.
    pub fn shared(&self, machine: &Machine) -> Cpus {
        let taken: Cpus = self.all().filter_map(|share| share.cpus.as_ref()).flatten().copied().collect();
        machine.topology.keys().copied().filter(|cpu| !taken.contains(cpu)).collect()
    }

    fn all(&self) -> impl Iterator<Item = &Share> {
        self.entries.values().flat_map(BTreeMap::values)
    }

    /// What a container has for itself.
    pub fn share(&self, uid: &str, container: &str) -> Share {
        self.entries.get(uid).and_then(|shares| shares.get(container)).cloned().unwrap_or_default()
    }

    /// Memory that is free on each NUMA node, in bytes.
    fn free_memory(&self, machine: &Machine) -> BTreeMap<u32, i64> {
        let mut free = machine.memory.clone();
        for (nodes, bytes) in self.all().filter_map(|share| share.memory.as_ref()) {
            take_memory(&mut free, nodes, *bytes);
        }
        free
    }

    /// Gives a Pod's containers what they shall have for themselves.
    ///
    /// # Errors
    /// Not enough is free, or not in one place.
    pub fn assign(&self, pod: &Pod, rules: &Rules, machine: &Machine) -> Result<Self, Refusal> {
        let mut next = self.clone();
        if rules.is_idle() || next.entries.contains_key(uid(pod)) {
            return Ok(next);
        }
        let spec = spec(pod);
        let whole = rules.whole_pod.then(|| whole(pod, rules));
        let mut reusable = Cpus::new();
        let init = spec.init_containers.iter().flatten().map(|container| {
            let passing = container.restart_policy.as_deref() != Some("Always");
            (container, passing)
        });
        for (container, passing) in init.chain(spec.containers.iter().map(|container| (container, false))) {
            let (cpus, memory) = (wanted_cpus(pod, container, rules), wanted_memory(pod, container, rules));
            let hint = next.place(whole.unwrap_or((cpus, memory)), rules, machine)?;
            let share = Share {
                cpus: if cpus == 0 { None } else { Some(next.take(cpus, &hint, &reusable, rules, machine)?) },
                memory: if memory == 0 { None } else { Some((next.nodes(memory, &hint, machine)?, memory)) },
            };
            for cpu in share.cpus.iter().flatten() {
                // What an init container had, the ones after it can have.
                if passing {
                    reusable.insert(*cpu)
                } else {
                    reusable.remove(cpu)
                };
            }
            if share != Share::default() {
                next.entries.entry(uid(pod).to_owned()).or_default().insert(container.name.clone(), share);
            }
        }
        Ok(next)
    }

    /// Where on the machine the parts shall come from.
    fn place(&self, (cpus, memory): (usize, i64), rules: &Rules, machine: &Machine) -> Result<Hint, Refusal> {
        let per_node = |set: &Cpus| -> BTreeMap<u32, i64> {
            let mut count: BTreeMap<u32, i64> = machine.topology.values().map(|seat| (seat.numa, 0)).collect();
            for seat in set.iter().filter_map(|cpu| machine.topology.get(cpu)) {
                *count.entry(seat.numa).or_default() += 1;
            }
            count
        };
        let mut hints = Vec::new();
        if cpus > 0 {
            let all: Cpus = machine.topology.keys().copied().filter(|cpu| !rules.reserved.contains(cpu)).collect();
            let free = &self.shared(machine) - &rules.reserved;
            let number = i64::try_from(cpus).unwrap_or(i64::MAX);
            hints.push(topology::hints(&per_node(&free), &per_node(&all), number));
        }
        if memory > 0 {
            hints.push(topology::hints(&self.free_memory(machine), &machine.memory, memory));
        }
        let best = topology::merge(&hints, &per_node(&Cpus::new()).into_keys().collect::<Vec<_>>());
        if rules.policy.admits(&best) {
            return Ok(best);
        }
        let message = "Resources cannot be allocated with Topology locality";
        Err(("TopologyAffinityError".to_owned(), message.to_owned()))
    }

    fn take(
        &self,
        number: usize,
        hint: &Hint,
        reusable: &Cpus,
        rules: &Rules,
        machine: &Machine,
    ) -> Result<Cpus, Refusal> {
        let topology = &machine.topology;
        let threads =
            topology.values().filter(|seat| topology.values().next().is_some_and(|first| first.core == seat.core));
        let threads = threads.count().max(1);
        if rules.full_cores && !number.is_multiple_of(threads) {
            let message =
                format!("SMT Alignment Error: requested {number} cpus not multiple cpus per core = {threads}");
            return Err(("SMTAlignmentError".to_owned(), message));
        }
        let free = &(&self.shared(machine) - &rules.reserved) | reusable;
        let near: Cpus = free
            .iter()
            .copied()
            .filter(|cpu| {
                hint.nodes.is_empty() || topology.get(cpu).is_some_and(|seat| hint.nodes.contains(&seat.numa))
            })
            .collect();
        // First what is there already, then from near, then from anywhere.
        let mut taken: Cpus = reusable.iter().copied().take(number).collect();
        for pool in [&near, &free] {
            let left = pool - &taken;
            let missing = number - taken.len();
            if missing > 0
                && let Some(more) = cpus::take(&left, missing.min(left.len()), topology)
            {
                taken.extend(more);
            }
        }
        if taken.len() < number {
            let message = format!(
                "Allocate failed due to not enough cpus available to satisfy request: requested={number}, available={}, which is unexpected",
                free.len()
            );
            return Err((UNEXPECTED.to_owned(), message));
        }
        Ok(taken)
    }

    fn nodes(&self, bytes: i64, hint: &Hint, machine: &Machine) -> Result<Vec<u32>, Refusal> {
        let free = self.free_memory(machine);
        let fits = |nodes: &[u32]| nodes.iter().filter_map(|node| free.get(node)).sum::<i64>() >= bytes;
        let near: Vec<u32> = hint.nodes.iter().copied().collect();
        if !near.is_empty() && fits(&near) {
            return Ok(near);
        }
        let hints = topology::hints(&free, &machine.memory, bytes);
        let best = topology::merge(&[hints], &machine.memory.keys().copied().collect::<Vec<_>>());
        let nodes: Vec<u32> = best.nodes.into_iter().collect();
        if fits(&nodes) {
            return Ok(nodes);
        }
        let message = "Allocate failed due to [memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available, which is unexpected";
        Err((UNEXPECTED.to_owned(), message.to_owned()))
    }

    /// Takes back what Pods had that are no longer there; returns whether anything was.
    pub fn retain(&mut self, is_there: impl Fn(&str) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(|uid, _| is_there(uid));
        self.entries.len() != before
    }
}

const UNEXPECTED: &str = "UnexpectedAdmissionError";

fn take_memory(free: &mut BTreeMap<u32, i64>, nodes: &[u32], bytes: i64) {
    let mut left = bytes;
    for node in nodes {
        if let Some(own) = free.get_mut(node) {
            let part = left.min(*own);
            *own -= part;
            left -= part;
        }
    }
}

/// What a Pod wants as a whole.
fn whole(pod: &Pod, rules: &Rules) -> (usize, i64) {
    let containers = &spec(pod).containers;
    let any = containers.iter().any(|container| wanted_cpus(pod, container, rules) > 0);
    let cpus = total(pod, false, "cpu").filter(|_| any).map_or(0, |cpu| cpu.milli_value() / 1000);
    let memory = total(pod, false, "memory").unwrap_or(Quantity::ZERO).value();
    let memory = if rules.static_memory && qos_class(pod) == "Guaranteed" { memory } else { 0 };
    (usize::try_from(cpus).unwrap_or(0), memory)
}
