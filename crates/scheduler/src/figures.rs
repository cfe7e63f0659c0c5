//! What the scheduler tells of itself in `/metrics`, under upstream's names.
//! See <https://kubernetes.io/docs/reference/instrumentation/metrics/>.

use std::time::Duration;

use skiff_base::figures::Family;

static ATTEMPTS: Family = Family::counter(
    "scheduler_schedule_attempts_total",
    "Tries to schedule Pods, by how they ended: unschedulable is that no node can take it, error that something broke.",
);
static ATTEMPT_SECONDS: Family = Family::histogram(
    "scheduler_scheduling_attempt_duration_seconds",
    "How long tries to schedule Pods took, binding included.",
    1_000,
    2,
    15,
);
static ALGORITHM_SECONDS: Family = Family::histogram(
    "scheduler_scheduling_algorithm_duration_seconds",
    "How long it took to choose a node.",
    1_000,
    2,
    15,
);
static POD_ATTEMPTS: Family = Family::histogram(
    "scheduler_pod_scheduling_attempts",
    "How many tries it took to schedule a Pod.",
    1_000_000,
    2,
    5,
);
static POD_SECONDS: Family = Family::histogram(
    "scheduler_pod_scheduling_sli_duration_seconds",
    "How long it took from when a Pod was first seen until it was bound.",
    10_000,
    2,
    20,
);
static PREEMPTIONS: Family =
    Family::counter("scheduler_preemption_attempts_total", "How often Pods were looked for that could go for another.");
static VICTIMS: Family =
    Family::histogram("scheduler_preemption_victims", "How many Pods had to go for another one.", 1_000_000, 2, 7);
static GROUP_ATTEMPTS: Family = Family::counter(
    "scheduler_podgroup_schedule_attempts_total",
    "Tries to schedule groups of Pods, by how they ended: unschedulable is that too few of them have a node, error that something broke.",
);
static GROUP_ATTEMPT_SECONDS: Family = Family::histogram(
    "scheduler_podgroup_scheduling_attempt_duration_seconds",
    "How long tries to schedule groups of Pods took.",
    1_000,
    2,
    15,
);
/// Told by the queue itself when it is asked.
pub static PENDING: Family =
    Family::gauge("scheduler_pending_pods", "Pods that wait, by the part of the queue that they wait in.");

/// A try ended so (`scheduled`, `unschedulable` or `error`) after this time.
pub fn tried(profile: &str, result: &str, took: Duration) {
    let labels = format!("profile={profile:?},result={result:?}");
    ATTEMPTS.with(&labels).inc();
    ATTEMPT_SECONDS.with(&labels).took(took);
}

/// A try of a group ended so (`scheduled`, `unschedulable`, `waiting_on_preemption` or `error`) after this time.
pub fn group_tried(profile: &str, result: &str, took: Duration) {
    let labels = format!("profile={profile:?},result={result:?}");
    GROUP_ATTEMPTS.with(&labels).inc();
    GROUP_ATTEMPT_SECONDS.with(&labels).took(took);
}

/// A decision took so long.
pub fn decided(took: Duration) {
    ALGORITHM_SECONDS.with("").took(took);
}

/// A Pod was bound at its last try, so long after it was first seen.
pub fn bound(attempts: u32, took: Duration) {
    POD_ATTEMPTS.with("").observe(f64::from(attempts));
    // Upstream does not tell more of them apart either.
    const MANY: u32 = 15;
    let attempts = if attempts < MANY { attempts.to_string() } else { format!("{MANY}+") };
    POD_SECONDS.with(&format!("attempts={attempts:?}")).took(took);
}

/// Somebody was looked for who could go, and so many were found.
pub fn preempted(victims: usize) {
    PREEMPTIONS.with("").inc();
    if victims > 0 {
        VICTIMS.with("").observe(victims as f64);
    }
}
