//! Local storage that Pods may use: emptyDir volumes with a size, and the limits of `ephemeral-storage`.
//! See <https://kubernetes.io/docs/concepts/storage/ephemeral-storage/>.

use k8s_openapi::api::core::v1::Pod;
use skiff_base::Quantity;

use super::{Candidate, REASON};
use crate::config::resources::{amount, total};
use crate::pod::spec::{quantity, spec};
use crate::pod::types::Eviction;

/// Whether the Pod's use of the disk must be measured at all.
pub fn is_limited(pod: &Pod) -> bool {
    let spec = spec(pod);
    let volumes = spec.volumes.iter().flatten().filter_map(|volume| volume.empty_dir.as_ref());
    let mut containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    volumes.into_iter().any(|volume| volume.size_limit.is_some())
        || containers.any(|container| amount(container.resources.as_ref(), true, STORAGE).is_some())
}

const STORAGE: &str = "ephemeral-storage";

/// Why the Pod must end for what it has written; `None` where it has kept within its limits.
pub fn excess(candidate: &Candidate) -> Option<Eviction> {
    let message = volume(candidate).or_else(|| whole(candidate)).or_else(|| container(candidate))?;
    Some(Eviction { reason: REASON.to_owned(), message, grace_seconds: Some(0) })
}

fn volume(candidate: &Candidate) -> Option<String> {
    spec(&candidate.pod).volumes.iter().flatten().find_map(|volume| {
        let limit = quantity(volume.empty_dir.as_ref()?.size_limit.as_ref()?);
        let (used, _) = candidate.volumes.get(&volume.name)?;
        let exceeds = !limit.is_zero() && *used > limit.value();
        exceeds
            .then(|| format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.to_string()))
    })
}

/// The Pod's limit is the sum of its containers', where each of them has one.
fn whole(candidate: &Candidate) -> Option<String> {
    let limit = total(&candidate.pod, true, STORAGE).filter(|limit| !limit.is_zero())?;
    let memory_backed = |name: &str| {
        let volumes = spec(&candidate.pod).volumes.iter().flatten();
        let mut named = volumes.filter(|volume| volume.name == name);
        named.any(|volume| volume.empty_dir.as_ref().is_some_and(|dir| dir.medium.as_deref() == Some("Memory")))
    };
    let volumes = candidate.volumes.iter().filter(|(name, _)| !memory_backed(name));
    let used: i64 = candidate.containers.values().map(|container| container.disk).sum::<i64>()
        + volumes.map(|(_, (bytes, _))| bytes).sum::<i64>();
    let exceeds = used > limit.value();
    exceeds.then(|| format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "))
}

fn container(candidate: &Candidate) -> Option<String> {
    spec(&candidate.pod).containers.iter().find_map(|container| {
        let limit: Quantity = amount(container.resources.as_ref(), true, STORAGE).filter(|limit| !limit.is_zero())?;
        let used = candidate.containers.get(&container.name)?.disk;
        let text = || {
            format!("Container {} exceeded its local ephemeral storage limit {:?}. ", container.name, limit.to_string())
        };
        (used > limit.value()).then(text)
    })
}
