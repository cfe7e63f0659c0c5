//! The resources that the node has allocated to a Pod: what it asked for when it was admitted, and later whatever it asks for
//! that the node can give. Pure; who holds the allocations is the agent.
//! See <https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/>.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use skiff_base::Quantity;

use crate::admission;
use crate::config::resources::total;
use crate::pod::spec::{qos_class, spec};

/// Resources by container, and those of the Pod as a whole.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Allocation {
    containers: BTreeMap<String, Option<ResourceRequirements>>,
    whole: Option<ResourceRequirements>,
}

/// What decides about a resize beyond the Pods themselves.
#[derive(Debug, Clone, Copy)]
pub struct Room<'a> {
    /// What Pods of the node can have in all.
    pub allocatable: &'a BTreeMap<String, Quantity>,
    /// Whether processors are given to containers of Guaranteed Pods for themselves.
    pub static_cpus: bool,
}

/// Why an allocation stays as it is: reason and message.
pub type Refusal = (String, String);

fn resizable(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = spec(pod);
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(sidecars)
}

impl Allocation {
    /// What the Pod asks for.
    pub fn wanted(pod: &Pod) -> Self {
        let containers = resizable(pod).map(|container| (container.name.clone(), container.resources.clone()));
        Self { containers: containers.collect(), whole: spec(pod).resources.clone() }
    }

    /// What was allocated to a Pod that another run of the agent had admitted, as far as its status tells: the requests are
    /// those that were allocated; the limits are the ones asked for, where the requests are, and else those in force.
    pub fn recovered(pod: &Pod) -> Self {
        let mut allocation = Self::wanted(pod);
        let status = pod.status.clone().unwrap_or_default();
        let lists = [status.container_statuses, status.init_container_statuses];
        for told in lists.into_iter().flatten().flatten() {
            let (Some(resources), Some(allocated)) =
                (allocation.containers.get_mut(&told.name), told.allocated_resources)
            else {
                continue;
            };
            let wanted = resources.as_ref().and_then(|resources| resources.requests.clone()).unwrap_or_default();
            if wanted != allocated {
                let limits = told.resources.and_then(|resources| resources.limits);
                *resources = Some(ResourceRequirements { claims: None, limits, requests: Some(allocated) });
            }
        }
        allocation
    }

    /// The Pod as it was allocated.
    pub fn apply(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if Self::wanted(pod) == *self {
            return pod.clone();
        }
        let mut changed = Pod::clone(pod);
        if let Some(spec) = &mut changed.spec {
            let all = spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten());
            for container in all {
                if let Some(resources) = self.containers.get(&container.name) {
                    container.resources = resources.clone();
                }
            }
            spec.resources = self.whole.clone();
        }
        Arc::new(changed)
    }
}

/// Whether the node can give the Pod what it asks for now, beside the other active Pods as they are allocated.
///
/// # Errors
/// It cannot: never (`Infeasible`) or not now (`Deferred`).
pub fn resize(pod: &Pod, others: &[Arc<Pod>], room: Room<'_>) -> Result<(), Refusal> {
    let infeasible = |message: String| Err(("Infeasible".to_owned(), message));
    if admission::is_static(pod) {
        return infeasible("In-place resize of static-pods is not supported".to_owned());
    }
    if room.static_cpus && qos_class(pod) == "Guaranteed" {
        return infeasible("Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy".to_owned());
    }
    for name in ["memory", "cpu"] {
        let number = |quantity: Quantity| if name == "cpu" { quantity.milli_value() } else { quantity.value() };
        let requested = number(total(pod, false, name).unwrap_or(Quantity::ZERO));
        let Some(capacity) = room.allocatable.get(name).copied().map(number) else { continue };
        if requested > capacity {
            return infeasible(format!(
                "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
            ));
        }
    }
    match admission::lacks(pod, others, room.allocatable) {
        None => Ok(()),
        Some(lack) => Err(("Deferred".to_owned(), lack.message())),
    }
}

/// The order in which resizes are settled: first what asks for no more than it has, then by priority, then by class.
pub fn turn(wanted: &Pod, allocated: &Pod) -> (bool, std::cmp::Reverse<i32>, bool) {
    let grows = |name: &str| total(wanted, false, name) > total(allocated, false, name);
    let priority = spec(wanted).priority.unwrap_or(0);
    (grows("cpu") || grows("memory"), std::cmp::Reverse(priority), qos_class(wanted) != "Guaranteed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, cpu: &str) -> Arc<Pod> {
        let yaml = format!(
            "{{metadata: {{name: {name}, uid: {name}}}, spec: {{containers: [{{name: a, resources: {{requests: {{cpu: {cpu}}}}}}}]}}}}"
        );
        Arc::new(serde_saphyr::from_str(&yaml).expect("a valid Pod"))
    }

    #[test]
    fn a_resize_waits_for_room_or_is_refused_for_good() {
        let allocatable = BTreeMap::from([("cpu".to_owned(), Quantity::from_millis(4000))]);
        let check = |cpu: &str, others: &[Arc<Pod>], static_cpus| {
            let room = Room { allocatable: &allocatable, static_cpus };
            resize(&pod("web", cpu), others, room).map_err(|(reason, message)| format!("{reason}: {message}"))
        };
        let other = [pod("other", "3")];
        assert_eq!(check("1", &other, false), Ok(()));
        assert_eq!(
            check("2", &other, false),
            Err("Deferred: Node didn't have enough resource: cpu, requested: 2000, used: 3000, capacity: 4000".into())
        );
        assert_eq!(
            check("5", &[], false),
            Err("Infeasible: Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000".into())
        );
        // Only Guaranteed Pods have processors of their own.
        assert_eq!(check("1", &[], true), Ok(()));
    }

    #[test]
    fn allocations_are_kept_apart_from_wishes_and_found_again() {
        let (old, new) = (pod("web", "1"), pod("web", "2"));
        let allocated = Allocation::wanted(&old).apply(&new);
        assert_eq!(total(&allocated, false, "cpu"), Some(Quantity::from_millis(1000)));
        let mut told = Pod::clone(&new);
        told.status = serde_saphyr::from_str(
            "{containerStatuses: [{name: a, image: '', imageID: '', ready: true, restartCount: 0,
               allocatedResources: {cpu: '1'}, resources: {requests: {cpu: '1'}}}]}",
        )
        .expect("a valid status");
        assert_eq!(Allocation::recovered(&told), Allocation::wanted(&old));
        assert_eq!(Allocation::recovered(&new), Allocation::wanted(&new));
    }
}
