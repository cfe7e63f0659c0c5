//! The scheduler at work: informers feed snapshot and queue, one loop decides, several bindings are under way at once.
//! The loop makes no choice of its own; it does what [`Core::step`] says.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Binding, Namespace, Node, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, ReplicationController,
    Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Status};
use parking_lot::Mutex;
use serde_json::json;
use skiff_base::clock::{SharedClock, rfc3339};
use skiff_base::figures::Source;
use skiff_client::events::reference;
use skiff_client::volumes::{BOUND_BY_CONTROLLER, SELECTED_NODE, claim_ref};
use skiff_client::{Change, Client, Informers, Kind, Patch, Recorder};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::core::{Core, GroupCondition, GroupStep, Placement, Refusal, Step};
use crate::extender::{self, Extender};
use crate::figures;
use crate::plugins::Claim;
use crate::pod::PodInfo;
use crate::profile::DEFAULT_NAME;

/// Bindings under way at once; more would only queue up in the API server.
const BINDS_IN_FLIGHT: usize = 64;

/// The scheduler.
pub struct Scheduler;

/// A running scheduler; it ends when this is dropped.
pub struct Handle {
    task: JoinHandle<()>,
    /// Tells how many Pods wait, for as long as this is there.
    _pending: Arc<Source>,
}

impl Handle {
    /// Decides nothing more; bindings under way are completed by the server or forgotten.
    pub async fn shutdown(mut self) {
        self.task.abort();
        // An aborted task ends with an error by design; a panic has been reported by the runtime already.
        drop((&mut self.task).await);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    core: Mutex<Core>,
    wake: Notify,
    /// Told of every change of a claim.
    claims: Notify,
    client: Client,
    clock: SharedClock,
    recorder: Recorder,
    extenders: Vec<Extender>,
}

impl Scheduler {
    /// Starts scheduling with the rights of `client`, reading through `informers`.
    pub fn start(client: Client, informers: &Informers, clock: SharedClock, config: Config) -> Handle {
        let recorder = Recorder::start(client.clone(), clock.clone(), DEFAULT_NAME, "");
        let extenders = config.extenders.clone();
        let has_groups = config.groups.groups;
        let core = Mutex::new(Core::new(config));
        let (wake, claims) = (Notify::new(), Notify::new());
        let shared = Arc::new(Shared { core, wake, claims, client, clock, recorder, extenders });
        let weak = Arc::downgrade(&shared);
        let pending: Arc<Source> = Arc::new(move || {
            let counts = weak.upgrade().map(|shared| shared.core.lock().pending());
            counts.into_iter().flatten().map(|(queue, count)| (format!("queue={queue:?}"), count as f64)).collect()
        });
        figures::PENDING.told_by(&pending);
        Handle { task: tokio::spawn(run(shared, informers.clone(), has_groups)), _pending: pending }
    }
}

async fn run(shared: Arc<Shared>, informers: Informers, has_groups: bool) {
    let (namespaces, nodes, pods) = (informers.of::<Namespace>(), informers.of::<Node>(), informers.of::<Pod>());
    feed(&shared, &namespaces, Core::namespace_changed);
    feed(&shared, &nodes, Core::node_changed);
    let (claims, volumes) = (informers.of::<PersistentVolumeClaim>(), informers.of::<PersistentVolume>());
    let (classes, budgets) = (informers.of::<StorageClass>(), informers.of::<PodDisruptionBudget>());
    feed(&shared, &claims, Core::claim_changed);
    feed(&shared, &volumes, Core::volume_changed);
    feed(&shared, &classes, Core::class_changed);
    feed(&shared, &budgets, Core::budget_changed);
    feed(&shared, &informers.of::<Service>(), Core::service_changed);
    feed(&shared, &informers.of::<ReplicaSet>(), Core::replica_set_changed);
    feed(&shared, &informers.of::<StatefulSet>(), Core::stateful_set_changed);
    feed(&shared, &informers.of::<ReplicationController>(), Core::controller_changed);
    let tell = Arc::downgrade(&shared);
    claims.on_change(move |_| tell.upgrade().iter().for_each(|shared| shared.claims.notify_waiters()));
    // Pods are read only when the nodes are known, lest the first ones are found unschedulable for want of a node.
    nodes.synced().await;
    tokio::join!(claims.synced(), volumes.synced(), classes.synced(), budgets.synced());
    namespaces.synced().await;
    if has_groups {
        let groups = informers.of::<PodGroup>();
        feed(&shared, &groups, Core::group_changed);
        groups.synced().await;
    }
    feed(&shared, &pods, Core::pod_changed);
    pods.synced().await;
    decide_for_ever(&shared).await;
}

fn feed<K: Kind>(
    shared: &Arc<Shared>,
    informer: &skiff_client::Informer<K>,
    apply: fn(&mut Core, &Change<K>, Duration) -> bool,
) {
    // The informers outlive the scheduler, so the handler must not keep it alive.
    let shared = Arc::downgrade(shared);
    informer.on_change(move |change| {
        let Some(shared) = shared.upgrade() else { return };
        let now = shared.clock.monotonic();
        if apply(&mut shared.core.lock(), change, now) {
            shared.wake.notify_one();
        }
    });
}

async fn decide_for_ever(shared: &Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(BINDS_IN_FLIGHT));
    loop {
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        let now = shared.clock.monotonic();
        let step = shared.core.lock().step(now);
        let step = ask_extenders(shared, step).await;
        if !matches!(step, Step::Idle { .. } | Step::Held { .. }) {
            figures::decided(shared.clock.monotonic().saturating_sub(now));
        }
        match step {
            Step::Bind(placement) => begin_binding(shared, &permits, Some(permit), placement, now),
            Step::Group(step) => carry_out(shared, &permits, permit, *step, now),
            Step::Held { pod, message } => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    report(&shared, &pod, "Unschedulable", &message, None).await;
                    drop(permit);
                });
            }
            Step::Unschedulable { pod, message, victims, nominated } => {
                figures::tried(pod.scheduler_name(), "unschedulable", shared.clock.monotonic().saturating_sub(now));
                figures::preempted(victims.len());
                let shared = shared.clone();
                tokio::spawn(async move {
                    report(&shared, &pod, "Unschedulable", &message, nominated.as_deref()).await;
                    for victim in victims {
                        evict(&shared, &Preemptor::pod(&pod), &victim).await;
                    }
                    drop(permit);
                });
            }
            Step::Failed { pod, message } => {
                figures::tried(pod.scheduler_name(), "error", shared.clock.monotonic().saturating_sub(now));
                let shared = shared.clone();
                tokio::spawn(async move {
                    report(&shared, &pod, "SchedulerError", &message, None).await;
                    drop(permit);
                });
            }
            Step::Consult(_) | Step::ConsultRooms(_) => unreachable!("extenders have been asked"),
            Step::Idle { until } => wait(shared, now, until).await,
        }
    }
}

/// Binds a pod, beside whatever is decided next. Without a permit it waits for one.
fn begin_binding(
    shared: &Arc<Shared>,
    permits: &Arc<Semaphore>,
    mut permit: Option<OwnedSemaphorePermit>,
    placement: Placement,
    now: Duration,
) {
    let Placement { pod, node, claims, volumes_limit, history: (attempts, since) } = placement;
    let (shared, permits) = (shared.clone(), permits.clone());
    tokio::spawn(async move {
        if !claims.is_empty() {
            // Volumes may take minutes to be made: other pods must not wait for them.
            permit = None;
            if let Err(why) = provide(&shared, &claims, &node, volumes_limit).await {
                figures::tried(pod.scheduler_name(), "error", shared.clock.monotonic().saturating_sub(now));
                return unprovided(&shared, &pod, &claims, &why);
            }
        }
        if permit.is_none() {
            permit = permits.acquire_owned().await.ok();
        }
        let is_bound = bind(&shared, &pod, &node).await;
        let end = shared.clock.monotonic();
        let result = if is_bound { "scheduled" } else { "error" };
        figures::tried(pod.scheduler_name(), result, end.saturating_sub(now));
        if is_bound {
            figures::bound(attempts, end.saturating_sub(since));
        }
        drop(permit);
    });
}

/// Does what was decided about a group.
fn carry_out(
    shared: &Arc<Shared>,
    permits: &Arc<Semaphore>,
    permit: OwnedSemaphorePermit,
    step: GroupStep,
    now: Duration,
) {
    let GroupStep { placements, refusals, going, uid, condition, result, profile } = step;
    figures::group_tried(&profile, result, shared.clock.monotonic().saturating_sub(now));
    for placement in placements {
        begin_binding(shared, permits, None, placement, now);
    }
    let (shared, permits) = (shared.clone(), permits.clone());
    tokio::spawn(async move {
        if let Some(condition) = condition {
            tell_of_group(&shared, &condition).await;
        }
        if !going.is_empty() {
            figures::preempted(going.len());
        }
        let by = Preemptor { scheduler: &profile, kind: "podgroup", uid: &uid };
        for victim in going {
            evict(&shared, &by, &victim).await;
        }
        let mut permit = Some(permit);
        for refusal in refusals {
            let permit = match permit.take() {
                Some(permit) => permit,
                None => permits.clone().acquire_owned().await.expect("the semaphore is never closed"),
            };
            tokio::spawn(refuse(shared.clone(), permit, refusal, now));
        }
    });
}

/// Tells why a pod of a group was not placed, and evicts who has to go for it.
async fn refuse(shared: Arc<Shared>, permit: OwnedSemaphorePermit, refusal: Refusal, now: Duration) {
    let Refusal { pod, reason, message, victims, nominated } = refusal;
    let result = if reason == "Unschedulable" { "unschedulable" } else { "error" };
    figures::tried(pod.scheduler_name(), result, shared.clock.monotonic().saturating_sub(now));
    if !victims.is_empty() {
        figures::preempted(victims.len());
    }
    report(&shared, &pod, reason, &message, nominated.as_deref()).await;
    for victim in victims {
        evict(&shared, &Preemptor::pod(&pod), &victim).await;
    }
    drop(permit);
}

/// Writes the condition PodGroupScheduled.
async fn tell_of_group(shared: &Shared, told: &GroupCondition) {
    let group = &told.group;
    let status = if told.is_scheduled { "True" } else { "False" };
    let conditions = group.status.as_ref().and_then(|status| status.conditions.as_ref());
    let same = |old: &&Condition| old.type_ == "PodGroupScheduled" && old.status == status;
    let since = conditions.into_iter().flatten().find(same).map(|old| old.last_transition_time.0);
    let mut condition = json!({
        "type": "PodGroupScheduled", "status": status, "reason": told.reason, "message": told.message,
        "lastTransitionTime": rfc3339(since.unwrap_or_else(|| shared.clock.now())),
    });
    if let Some(generation) = group.metadata.generation {
        condition["observedGeneration"] = json!(generation);
    }
    let (namespace, name) = (group.metadata.namespace.as_deref(), group.metadata.name.as_deref());
    let (namespace, name) = (namespace.unwrap_or_default(), name.unwrap_or_default());
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    match shared.client.patch::<PodGroup>(namespace, name, "status", &patch).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => tracing::warn!(group = name, %error, "condition PodGroupScheduled not written"),
    }
}

/// Asks extenders where they have a say, until it is known what is to be done. Nothing else is decided meanwhile.
async fn ask_extenders(shared: &Shared, mut step: Step) -> Step {
    loop {
        step = match step {
            Step::Consult(asked) => {
                let said = extender::consult(&shared.extenders, &asked.pod, &asked.nodes).await;
                shared.core.lock().consulted(*asked, said, shared.clock.monotonic())
            }
            Step::ConsultRooms(asked) => {
                let left = extender::consult_rooms(&shared.extenders, &asked.pod, asked.rooms.clone()).await;
                shared.core.lock().rooms_consulted(*asked, left, shared.clock.monotonic())
            }
            known => return known,
        };
    }
}

async fn wait(shared: &Shared, now: Duration, until: Option<Duration>) {
    match until {
        Some(until) => {
            tokio::select! {
                () = shared.wake.notified() => {}
                () = tokio::time::sleep(until.saturating_sub(now)) => {}
            }
        }
        None => shared.wake.notified().await,
    }
}

/// Writes what the pod's claims need, and waits until they have their volumes.
async fn provide(shared: &Shared, claims: &[Claim], node: &str, limit: Duration) -> Result<(), String> {
    if claims.is_empty() {
        return Ok(());
    }
    for needed in claims {
        let written = match needed {
            Claim::Take(claim, volume) => {
                let mut volume = PersistentVolume::clone(volume);
                if claim_ref(&volume).is_none() {
                    let by_us = (BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
                    volume.metadata.annotations.get_or_insert_default().extend([by_us]);
                }
                volume.spec.get_or_insert_default().claim_ref = Some(reference(&**claim));
                shared.client.update(&volume).await.map(drop)
            }
            Claim::Make(claim) => {
                let mut claim = PersistentVolumeClaim::clone(claim);
                let chosen = (SELECTED_NODE.to_owned(), node.to_owned());
                claim.metadata.annotations.get_or_insert_default().extend([chosen]);
                shared.client.update(&claim).await.map(drop)
            }
            Claim::Wait(_) => Ok(()),
        };
        written.map_err(|error| error.to_string())?;
    }
    let bound = async {
        loop {
            let changed = shared.claims.notified();
            tokio::pin!(changed);
            // Enabled before the look, so that a change in between is not missed.
            changed.as_mut().enable();
            if shared.core.lock().are_bound(claims) {
                return;
            }
            changed.await;
        }
    };
    tokio::time::timeout(limit, bound).await.map_err(|_| "context deadline exceeded".to_owned())
}

fn unprovided(shared: &Shared, pod: &PodInfo, claims: &[Claim], why: &str) {
    let mut core = shared.core.lock();
    core.claims_failed(claims);
    core.bind_failed(&pod.uid, shared.clock.monotonic());
    drop(core);
    shared.wake.notify_one();
    let text = format!("running PreBind plugin \"VolumeBinding\": binding volumes: {why}");
    shared.recorder.warning(&*pod.pod, "FailedScheduling", text);
}

/// Whether the pod was bound, by an extender or by the server; what it came to is told.
async fn bind(shared: &Shared, pod: &PodInfo, node: &str) -> bool {
    let outcome = match extender::bind(&shared.extenders, pod, node).await {
        Ok(true) => Ok(()),
        Ok(false) => ask_to_bind(shared, pod, node).await,
        Err(error) => Err(Some(error)),
    };
    match outcome {
        Ok(()) => {
            let text = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
            shared.recorder.normal(&*pod.pod, "Scheduled", text);
            true
        }
        Err(why) => {
            shared.core.lock().bind_failed(&pod.uid, shared.clock.monotonic());
            shared.wake.notify_one();
            if let Some(why) = why {
                shared.recorder.warning(&*pod.pod, "FailedScheduling", format!("binding rejected: {why}"));
            }
            false
        }
    }
}

/// Asks the server to bind the pod; why it does not, where that is worth telling.
async fn ask_to_bind(shared: &Shared, pod: &PodInfo, node: &str) -> Result<(), Option<String>> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name().to_owned()),
            namespace: Some(pod.namespace().to_owned()),
            uid: Some(pod.uid.clone()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let path = Pod::resource().object_path(pod.namespace(), pod.name(), "binding");
    match shared.client.send_json::<Status>(http::Method::POST, &path, &binding).await {
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::debug!(pod = pod.name(), node, %error, "binding failed");
            Err((!error.is_not_found() && !error.is_conflict()).then(|| error.to_string()))
        }
    }
}

/// Tells why the pod waits, as event and as condition; the latter only where it says something new.
async fn report(shared: &Shared, pod: &PodInfo, reason: &str, message: &str, nominated: Option<&str>) {
    shared.recorder.warning(&*pod.pod, "FailedScheduling", message);
    let conditions = pod.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let old = conditions.into_iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    let says =
        |c: &&k8s_openapi::api::core::v1::PodCondition| c.status == "False" && c.reason.as_deref() == Some(reason);
    if nominated.is_none() && old.filter(says).is_some_and(|condition| condition.message.as_deref() == Some(message)) {
        return;
    }
    let since = old.filter(says).and_then(|condition| condition.last_transition_time.clone());
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastTransitionTime": rfc3339(since.map_or_else(|| shared.clock.now(), |since| since.0)),
        "observedGeneration": pod.pod.metadata.generation, "lastProbeTime": null,
    });
    let mut status = json!({"conditions": [condition]});
    if let Some(node) = nominated {
        status["nominatedNodeName"] = if node.is_empty() { json!(null) } else { json!(node) };
    }
    let patch = Patch::Strategic(json!({"status": status}));
    match shared.client.patch::<Pod>(pod.namespace(), pod.name(), "status", &patch).await {
        Ok(_) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => tracing::warn!(pod = pod.name(), %error, "condition PodScheduled not written"),
    }
}

/// Whom room is made for.
struct Preemptor<'a> {
    scheduler: &'a str,
    /// `pod` or `podgroup`.
    kind: &'static str,
    uid: &'a str,
}

impl<'a> Preemptor<'a> {
    fn pod(pod: &'a PodInfo) -> Self {
        Self { scheduler: pod.scheduler_name(), kind: "pod", uid: &pod.uid }
    }
}

/// Deletes a pod to make room, after having said so in its conditions.
async fn evict(shared: &Shared, preemptor: &Preemptor<'_>, victim: &PodInfo) {
    let Preemptor { scheduler, kind, uid } = preemptor;
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
        "message": format!("{scheduler}: preempting to accommodate a higher priority {kind}"),
        "lastTransitionTime": rfc3339(shared.clock.now()),
    });
    let patch = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
    let options = skiff_client::DeleteOptions::of_uid(victim.uid.clone());
    let done = async {
        shared.client.patch::<Pod>(victim.namespace(), victim.name(), "status", &patch).await?;
        shared.client.delete::<Pod>(victim.namespace(), victim.name(), &options).await
    };
    match done.await {
        Ok(()) => {
            let node = if *kind == "pod" { victim.node_name() } else { "cluster" };
            let text = format!("Preempted by {kind} {uid} on node {node}");
            shared.recorder.normal(&*victim.pod, "Preempted", text);
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => {
            shared.core.lock().evict_failed(&victim.uid);
            tracing::warn!(pod = victim.name(), %error, "pod not preempted");
        }
    }
}
