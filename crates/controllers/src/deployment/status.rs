//! What a Deployment tells of itself: counts, and the conditions Available, Progressing and ReplicaFailure.

use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus};
use skiff_base::Timestamp;

use super::numbers::{max_unavailable, size, wanted};
use crate::meta::{nonzero, time};

/// The condition that tells whether enough pods are available.
pub const AVAILABLE: &str = "Available";
/// The condition that tells how the rollout goes.
pub const PROGRESSING: &str = "Progressing";
/// The condition that tells that pods cannot be created.
pub const REPLICA_FAILURE: &str = "ReplicaFailure";
/// Progressing: the newest ReplicaSet is fully available.
pub const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
/// Progressing: nothing went on for too long.
pub const TIMED_OUT: &str = "ProgressDeadlineExceeded";
/// Progressing: nothing is expected to go on.
pub const PAUSED: &str = "DeploymentPaused";
/// Progressing: something is expected to go on again.
pub const RESUMED: &str = "DeploymentResumed";

/// A condition by type.
pub fn condition<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Adds or replaces a condition unless it says the same already (the message may differ).
pub fn set_condition(
    status: &mut DeploymentStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let old = condition(status, kind);
    if old.is_some_and(|old| old.status == value && old.reason.as_deref() == Some(reason)) {
        return;
    }
    replace_condition(status, kind, value, reason, message, now);
}

/// Adds or replaces a condition even if it says the same, which renews its time of update.
fn replace_condition(
    status: &mut DeploymentStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let since =
        condition(status, kind).filter(|old| old.status == value).and_then(|old| old.last_transition_time.clone());
    let new = DeploymentCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_update_time: Some(time(now)),
        last_transition_time: since.or_else(|| Some(time(now))),
    };
    remove_condition(status, kind);
    status.conditions.get_or_insert_default().push(new);
}

fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != kind);
        if conditions.is_empty() {
            status.conditions = None;
        }
    }
}

/// The deadline, if progress is watched at all.
pub fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref().and_then(|spec| spec.progress_deadline_seconds)?;
    (seconds != i32::MAX).then(|| Duration::from_secs(seconds.unsigned_abs().into()))
}

/// The sums over all ReplicaSets, and the condition Available. `base` carries the conditions so far.
pub fn counted(
    deployment: &Deployment,
    base: &DeploymentStatus,
    sets: &[ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let of = |set: &ReplicaSet, field: fn(&ReplicaSetStatus) -> i32| set.status.as_ref().map_or(0, field);
    let sum = |field: fn(&ReplicaSetStatus) -> i32| sets.iter().map(|set| of(set, field)).sum::<i32>();
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let total: i32 = sets.iter().map(size).sum();
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: nonzero(sum(|status| status.replicas)),
        updated_replicas: nonzero(new.map_or(0, |set| of(set, |status| status.replicas))),
        ready_replicas: nonzero(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: nonzero(available),
        unavailable_replicas: nonzero((total - available).max(0)),
        terminating_replicas: terminating(sets),
        collision_count: base.collision_count,
        conditions: base.conditions.clone(),
    };
    if available >= wanted(deployment) - max_unavailable(deployment) {
        let text = "Deployment has minimum availability.".to_owned();
        set_condition(&mut status, AVAILABLE, "True", "MinimumReplicasAvailable", text, now);
    } else {
        let text = "Deployment does not have minimum availability.".to_owned();
        set_condition(&mut status, AVAILABLE, "False", "MinimumReplicasUnavailable", text, now);
    }
    status
}

/// Known only when every ReplicaSet has told.
fn terminating(sets: &[ReplicaSet]) -> Option<i32> {
    let told = |set: &ReplicaSet| set.status.as_ref().and_then(|status| status.terminating_replicas);
    sets.iter().map(told).sum()
}

/// Whether the rollout has reached its end.
pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = wanted(deployment);
    let is = |number: Option<i32>| number.unwrap_or(0) == wanted;
    is(status.updated_replicas)
        && is(status.replicas)
        && is(status.available_replicas)
        && status.observed_generation >= deployment.metadata.generation
}

fn progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |number: Option<i32>| number.unwrap_or(0);
    let outdated = |status: &DeploymentStatus| n(status.replicas) - n(status.updated_replicas);
    n(new.updated_replicas) > n(old.updated_replicas)
        || outdated(new) < outdated(old)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

fn timed_out(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> bool {
    let Some(current) = condition(status, PROGRESSING) else { return false };
    match current.reason.as_deref() {
        // What has been available once does not run against the clock again.
        Some(NEW_SET_AVAILABLE) => false,
        Some(TIMED_OUT) => true,
        _ => deadline(deployment).zip(current.last_update_time.as_ref()).is_some_and(|(deadline, from)| {
            Duration::try_from(now.duration_since(from.0)).is_ok_and(|since| since > deadline)
        }),
    }
}

/// Writes the conditions Progressing and ReplicaFailure of a rollout into `status`, which has been [`counted`].
pub fn judge(
    deployment: &Deployment,
    base: &DeploymentStatus,
    status: &mut DeploymentStatus,
    sets: &[ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    if deadline(deployment).is_none() {
        remove_condition(status, PROGRESSING);
    } else {
        judge_progress(deployment, base, status, new, now);
    }
    promote_failure(status, sets, new);
}

fn judge_progress(
    deployment: &Deployment,
    base: &DeploymentStatus,
    status: &mut DeploymentStatus,
    new: Option<&ReplicaSet>,
    now: Timestamp,
) {
    let settled = condition(status, PROGRESSING).is_some_and(|c| c.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    if settled && status.replicas == status.updated_replicas {
        return;
    }
    let subject = match new {
        Some(set) => format!("ReplicaSet {:?}", set.metadata.name.as_deref().unwrap_or_default()),
        None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or_default()),
    };
    if is_complete(deployment, status) {
        let text = format!("{subject} has successfully progressed.");
        set_condition(status, PROGRESSING, "True", NEW_SET_AVAILABLE, text, now);
    } else if progressed(base, status) {
        replace_condition(status, PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."), now);
    } else if timed_out(deployment, status, now) {
        let text = format!("{subject} has timed out progressing.");
        set_condition(status, PROGRESSING, "False", TIMED_OUT, text, now);
    }
}

/// A failure of a ReplicaSet, rather the new one's, becomes the Deployment's.
fn promote_failure(status: &mut DeploymentStatus, sets: &[ReplicaSet], new: Option<&ReplicaSet>) {
    let failure = new.into_iter().chain(sets).find_map(|set| {
        let conditions = set.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == REPLICA_FAILURE)
    });
    let Some(failure) = failure else { return remove_condition(status, REPLICA_FAILURE) };
    let told =
        condition(status, REPLICA_FAILURE).is_some_and(|c| c.status == failure.status && c.reason == failure.reason);
    if !told {
        remove_condition(status, REPLICA_FAILURE);
        status.conditions.get_or_insert_default().push(DeploymentCondition {
            type_: failure.type_.clone(),
            status: failure.status.clone(),
            reason: failure.reason.clone(),
            message: failure.message.clone(),
            last_update_time: failure.last_transition_time.clone(),
            last_transition_time: failure.last_transition_time.clone(),
        });
    }
}

/// When the deadline has to be looked at again though nothing changes.
pub fn next_look(deployment: &Deployment, status: &DeploymentStatus, now: Timestamp) -> Option<Duration> {
    let (deadline, current) = (deadline(deployment)?, condition(status, PROGRESSING)?);
    if is_complete(deployment, status) || current.reason.as_deref() == Some(TIMED_OUT) {
        return None;
    }
    if current.reason.as_deref() == Some(NEW_SET_AVAILABLE) {
        return None;
    }
    let since = Duration::try_from(now.duration_since(current.last_update_time.as_ref()?.0)).unwrap_or_default();
    // A second more, because times in conditions are whole seconds.
    Some(deadline.saturating_sub(since) + Duration::from_secs(1))
}
