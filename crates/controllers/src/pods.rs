//! What controllers ask of pods: whether they are active, ready, available, and which of them to lose first.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use skiff_base::Timestamp;
use skiff_client::{Index, Informer};

/// The annotation by which a user says which pods to keep; lower goes first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The pods by the node that they are on.
pub fn by_node(pods: &Informer<Pod>) -> Index<Pod> {
    pods.index("node", |pod| pod.spec.as_ref()?.node_name.as_deref().map(Cow::Borrowed))
}

/// `status.phase`, or the empty string.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// A condition by type.
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == kind)
}

/// Whether the pod has come to its end.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod counts: neither at its end nor on its way out.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// Whether the pod is on its way out and not there yet.
pub fn is_terminating(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_some()
}

/// Whether the Ready condition is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// How long until a ready pod has been so for `min_ready_seconds`: zero when it is available, `None` when it is not ready.
pub fn available_in(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    if !is_ready(pod) {
        return None;
    }
    if min_ready_seconds <= 0 {
        return Some(Duration::ZERO);
    }
    let wait = Duration::from_secs(min_ready_seconds.unsigned_abs().into());
    let been = Duration::try_from(now.duration_since(ready_since(pod)?)).unwrap_or(Duration::ZERO);
    Some(wait.saturating_sub(been))
}

/// Whether the pod has been ready for `min_ready_seconds`.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    available_in(pod, min_ready_seconds, now) == Some(Duration::ZERO)
}

/// What ranking needs of the pod's surroundings.
pub struct Rank {
    /// How many pods of the same owner (and its siblings) are on the node.
    pub crowd: usize,
}

/// Orders pods so that those that are missed least come first:
/// not placed, pending, not ready, cheap, crowded, ready for less long, often restarted, young.
pub fn cheaper_to_lose((a, rank_a): (&Pod, &Rank), (b, rank_b): (&Pod, &Rank)) -> Ordering {
    let placed = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref()).is_some_and(|n| !n.is_empty());
    let progress = |pod: &Pod| match phase(pod) {
        "Running" => 2,
        "Pending" => 0,
        _ => 1,
    };
    let cost = |pod: &Pod| {
        let text = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST));
        text.and_then(|text| text.parse::<i32>().ok()).unwrap_or(0)
    };
    let age = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    placed(a)
        .cmp(&placed(b))
        .then_with(|| progress(a).cmp(&progress(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| rank_b.crowd.cmp(&rank_a.crowd))
        .then_with(|| newest_first(ready_since(a), ready_since(b)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| newest_first(age(a), age(b)))
        .then_with(|| a.metadata.name.cmp(&b.metadata.name))
}

fn newest_first(a: Option<Timestamp>, b: Option<Timestamp>) -> Ordering {
    // What has no time yet is the newest of all.
    match (a, b) {
        (Some(a), Some(b)) => b.cmp(&a),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|status| status.restart_count).max().unwrap_or(0)
}

/// A pod as its template says, owned by `owner`.
pub fn from_template(
    template: &PodTemplateSpec,
    namespace: &str,
    name: String,
    generate_name: Option<String>,
    owner: OwnerReference,
) -> Pod {
    let given = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            generate_name,
            namespace: Some(namespace.to_owned()),
            labels: given.labels,
            annotations: given.annotations,
            finalizers: given.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}
