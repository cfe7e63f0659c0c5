//! The order in which Pods are ended for a shortage, and the words that the one is told.

use std::cmp::{Ordering, Reverse};

use skiff_base::Quantity;
use skiff_base::quantity::Format;

use super::{Candidate, Observations, Signal, Threshold, shown};
use crate::config::resources::{amount, total};
use crate::pod::spec::spec;

impl Candidate {
    /// What the Pod uses of the resource that the signal is about; `None` where nothing is known.
    fn used(&self, signal: Signal) -> Option<i64> {
        let known = !self.containers.is_empty();
        let sum = |of: fn(&super::ContainerUse) -> i64| self.containers.values().map(of).sum::<i64>();
        let volumes = |of: fn(&(i64, i64)) -> i64| self.volumes.values().map(of).sum::<i64>();
        known.then(|| match signal.resource() {
            "memory" => sum(|container| container.memory),
            "ephemeral-storage" => sum(|container| container.disk) + volumes(|volume| volume.0),
            "inodes" => sum(|container| container.inodes) + volumes(|volume| volume.1),
            _ => self.pids,
        })
    }

    fn requested(&self, signal: Signal) -> i64 {
        match signal.resource() {
            resource @ ("memory" | "ephemeral-storage") => {
                total(&self.pod, false, resource).map_or(0, |amount| amount.value())
            }
            _ => 0,
        }
    }
}

/// Sorts the Pod to end first to the front: those that use more than they asked for, then by priority, then by how much
/// more. Processes are not asked for: there only priority and number count.
pub(super) fn rank(signal: Signal, candidates: &mut [Candidate]) {
    let key = |candidate: &Candidate| {
        let used = candidate.used(signal);
        let over = used.map(|used| used - candidate.requested(signal));
        let exceeds = signal == Signal::PidAvailable || over.is_none_or(|over| over > 0);
        let priority = spec(&candidate.pod).priority.unwrap_or(0);
        (used.is_some(), Reverse(exceeds), priority, Reverse(over.unwrap_or(i64::MAX)))
    };
    candidates.sort_by(|a, b| match key(a).cmp(&key(b)) {
        Ordering::Equal => {
            (&a.pod.metadata.namespace, &a.pod.metadata.name).cmp(&(&b.pod.metadata.namespace, &b.pod.metadata.name))
        }
        order => order,
    });
}

/// What the Pod is told, in upstream's words.
pub(super) fn message(threshold: &Threshold, observations: &Observations, victim: &Candidate) -> String {
    let resource = threshold.signal.resource();
    let mut message = format!("The node was low on resource: {resource}. ");
    if let Some(seen) = observations.get(&threshold.signal) {
        let format = threshold.signal.format();
        let (quantity, available) = (threshold.amount.of(seen.capacity), seen.available);
        message.push_str(&format!(
            "Threshold quantity: {}, available: {}. ",
            shown(quantity, format),
            kibibytes(available, format)
        ));
    }
    for container in &spec(&victim.pod).containers {
        let Some(used) = victim.containers.get(&container.name) else { continue };
        let used = match resource {
            "memory" => used.memory,
            "ephemeral-storage" => used.disk,
            _ => continue,
        };
        let request = amount(container.resources.as_ref(), false, resource).unwrap_or(Quantity::ZERO);
        if used > request.value() {
            message.push_str(&format!(
                "Container {} was using {}, request is {request}, has larger consumption of {resource}. ",
                container.name,
                kibibytes(used, Format::BinarySi)
            ));
        }
    }
    message
}

/// Bytes in whole kibibytes: nobody wants to read the last digits.
fn kibibytes(number: i64, format: Format) -> String {
    let whole = if format == Format::BinarySi { number / 1024 * 1024 } else { number };
    shown(whole, format)
}
