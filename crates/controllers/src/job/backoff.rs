//! How long a Job waits after failures before it starts the next pod. Pure: it is read off the pods themselves.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-backoff-failure-policy>.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::Pod;
use skiff_base::Timestamp;

use super::tally::{End, end_of};
use crate::pods::condition;

/// A failed pod is followed by the next one after this long, twice as long each time.
const INITIAL: Duration = Duration::from_secs(10);
const CAP: Duration = Duration::from_secs(600);
/// Doubling more often than this is beyond the cap.
const MAX_DOUBLINGS: u32 = 16;

/// What is left of the wait after the failures since the last success.
pub fn left(spec: &JobSpec, pods: &[Arc<Pod>], now: Timestamp) -> Duration {
    let mut ended: Vec<_> = pods.iter().filter_map(|pod| Some((ended_at(pod), end_of(spec, pod)?))).collect();
    ended.sort_by_key(|(at, end)| (*at, *end == End::Failed));
    let failures = ended.iter().rev().take_while(|(_, end)| *end == End::Failed).count();
    match ended.last() {
        Some((last, End::Failed)) => left_after(failures, *last, now),
        _ => Duration::ZERO,
    }
}

/// What is left of the wait after so many failures, of which the last was then.
pub fn left_after(failures: usize, last: Timestamp, now: Timestamp) -> Duration {
    let doublings = u32::try_from(failures.saturating_sub(1)).unwrap_or(MAX_DOUBLINGS).min(MAX_DOUBLINGS);
    let delay = INITIAL.saturating_mul(1 << doublings).min(CAP);
    delay.saturating_sub(Duration::try_from(now.duration_since(last)).unwrap_or_default())
}

/// When a pod ended: when its last container did, else as well as it can be told.
pub fn ended_at(pod: &Pod) -> Timestamp {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let ends: Option<Vec<_>> = statuses.filter(|statuses| !statuses.is_empty()).and_then(|statuses| {
        let end = |status: &k8s_openapi::api::core::v1::ContainerStatus| {
            Some(status.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)
        };
        statuses.iter().map(end).collect()
    });
    if let Some(last) = ends.and_then(|ends| ends.into_iter().max()) {
        return last;
    }
    let unready = condition(pod, "Ready").filter(|ready| ready.status == "False");
    if let Some(at) = unready.and_then(|ready| ready.last_transition_time.as_ref()) {
        return at.0;
    }
    if let Some(deleted) = &pod.metadata.deletion_timestamp {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0).unsigned_abs();
        return deleted.0.checked_sub(Duration::from_secs(grace)).unwrap_or(deleted.0);
    }
    pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}
