//! One task per Pod, and one for each thing that it has begun: it looks at the runtime, lets the state machine decide, carries out, and looks
//! again. It wakes when the Pod, the runtime or an object that the Pod refers to has changed, when an action has ended, or when a timer is due.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_client::Patch;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};

use crate::allocation::{Allocation, Refusal};
use crate::config::{name, namespace, uid};
use crate::executor::{Node, Subject, execute};
use crate::observe::observe;
use crate::pod::types::{Action, Ended, Eviction, Outcome, PodEvent, PodState, RuntimeView, Step, Task};
use crate::pod::{PASSING_CONDITIONS, spec, step};

/// How long to wait after the runtime or the API could not be reached.
const RETRY: Duration = Duration::from_secs(1);

/// How long a Pod that has just come may keep its first status to itself while it is being started: mostly it runs by then,
/// and one write tells what three would.
const STARTING: Duration = Duration::from_millis(100);

/// The fields of a Pod's status that the node agent writes; all others belong to other parts.
const OWN_FIELDS: [&str; 15] = [
    "phase",
    "conditions",
    "message",
    "reason",
    "hostIP",
    "hostIPs",
    "podIP",
    "podIPs",
    "startTime",
    "qosClass",
    "observedGeneration",
    "containerStatuses",
    "initContainerStatuses",
    "ephemeralContainerStatuses",
    "allocatedResources",
];

/// How others reach a Pod's worker. Nothing is queued: the worker looks at the newest state when it wakes.
pub struct Mailbox {
    pod: Mutex<Arc<Pod>>,
    allocation: Mutex<Allocation>,
    /// Whether the Pod asks for other resources than it was allocated. Kept beside the two, because all Pods of the node are
    /// asked for it whenever one changes.
    wants_resize: AtomicBool,
    resize_pending: Mutex<Option<Refusal>>,
    eviction: Mutex<Option<Eviction>>,
    /// The UID of the mirror of a static Pod.
    mirror: Mutex<Option<String>>,
    rejection: Mutex<Option<(String, String)>>,
    removed: AtomicBool,
    runtime_changed: AtomicBool,
    objects_changed: AtomicBool,
    stop: AtomicBool,
    wake: Notify,
    shown: Mutex<Option<PodStatus>>,
    /// Nobody works for the Pod any longer.
    left: AtomicBool,
    /// Woken at every turn, for those who wait for the Pod to release what it has.
    turned: Notify,
}

impl Mailbox {
    /// For a Pod that has come to the node; `rejection` says why the node does not take it.
    pub fn new(pod: Arc<Pod>, rejection: Option<(String, String)>) -> Self {
        let ran = pod.status.as_ref().is_some_and(|status| status.start_time.is_some());
        let allocation = if ran { Allocation::recovered(&pod) } else { Allocation::wanted(&pod) };
        Self {
            wants_resize: AtomicBool::new(ran && Allocation::wanted(&pod) != allocation),
            pod: Mutex::new(pod),
            allocation: Mutex::new(allocation),
            resize_pending: Mutex::new(None),
            eviction: Mutex::new(None),
            mirror: Mutex::new(None),
            rejection: Mutex::new(rejection),
            removed: AtomicBool::new(false),
            runtime_changed: AtomicBool::new(true),
            objects_changed: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            wake: Notify::new(),
            shown: Mutex::new(None),
            left: AtomicBool::new(false),
            turned: Notify::new(),
        }
    }

    /// The Pod as it was seen last.
    pub fn pod(&self) -> Arc<Pod> {
        self.pod.lock().clone()
    }

    /// The Pod with the resources that the node has allocated to it.
    pub fn allocated_pod(&self) -> Arc<Pod> {
        let pod = self.pod();
        if self.wants_resize() { self.allocation.lock().apply(&pod) } else { pod }
    }

    /// Whether the Pod asks for other resources than it was allocated.
    pub fn wants_resize(&self) -> bool {
        self.wants_resize.load(Ordering::Acquire)
    }

    /// Settles whether the Pod gets what it asks for now; returns whether that changes anything.
    pub fn settle_resize(&self, verdict: Result<(), Refusal>) -> bool {
        let refusal = match verdict {
            Ok(()) => {
                let pod = self.pod.lock();
                *self.allocation.lock() = Allocation::wanted(&pod);
                self.wants_resize.store(false, Ordering::Release);
                None
            }
            Err(refusal) => Some(refusal),
        };
        let before = std::mem::replace(&mut *self.resize_pending.lock(), refusal.clone());
        let changed = refusal.is_none() || before != refusal;
        if changed {
            self.wake.notify_one();
        }
        changed
    }

    /// Sets the UID of the Pod that a static Pod's status is written to.
    pub fn set_mirror(&self, uid: Option<String>) {
        let changed = *self.mirror.lock() != uid;
        if changed {
            *self.mirror.lock() = uid;
            self.wake.notify_one();
        }
    }

    /// Ends the Pod by the node's decision. The first reason counts; a shorter grace does too.
    pub fn evict(&self, eviction: Eviction) {
        let mut held = self.eviction.lock();
        match &mut *held {
            Some(earlier) => earlier.grace_seconds = eviction.grace_seconds.or(earlier.grace_seconds),
            None => *held = Some(eviction),
        }
        drop(held);
        self.wake.notify_one();
    }

    /// Whether the node has decided to end the Pod.
    pub fn is_evicted(&self) -> bool {
        self.eviction.lock().is_some()
    }

    /// The Pod with the newest status that this agent has decided on.
    pub fn pod_with_status(&self) -> Pod {
        let mut pod = Pod::clone(&self.pod());
        if let Some(status) = self.shown.lock().clone() {
            pod.status = Some(status);
        }
        pod
    }

    /// Whether the node has taken the Pod.
    pub fn is_admitted(&self) -> bool {
        self.rejection.lock().is_none()
    }

    /// The node does not take the Pod after all: status reason and message.
    pub fn reject(&self, refusal: (String, String)) {
        *self.rejection.lock() = Some(refusal);
        self.wake.notify_one();
    }

    /// Nobody works for the Pod from now on.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Release);
        self.turned.notify_waiters();
    }

    /// Waits until the Pod uses nothing any more of what it asked for.
    pub async fn released(&self) {
        loop {
            let mut turned = std::pin::pin!(self.turned.notified());
            turned.as_mut().enable();
            if !self.is_active() || self.left.load(Ordering::Acquire) {
                return;
            }
            turned.await;
        }
    }

    /// Whether the Pod still uses what it asks for.
    pub fn is_active(&self) -> bool {
        if !self.is_admitted() {
            return false;
        }
        let is_over = |status: &PodStatus| Some(matches!(status.phase.as_deref()?, "Succeeded" | "Failed"));
        // All Pods are asked this whenever one comes, so nothing is copied for it.
        let shown = self.shown.lock().as_ref().and_then(is_over);
        !shown.or_else(|| self.pod().status.as_ref().and_then(is_over)).unwrap_or(false)
    }

    /// The Pod has changed.
    pub fn update(&self, pod: Arc<Pod>) {
        let old = {
            let mut held = self.pod.lock();
            let wants = Allocation::wanted(&pod) != *self.allocation.lock();
            self.wants_resize.store(wants, Ordering::Release);
            std::mem::replace(&mut *held, pod.clone())
        };
        let meta = (&old.metadata.labels, &old.metadata.annotations);
        if meta != (&pod.metadata.labels, &pod.metadata.annotations) && crate::volumes::shows_metadata(&pod) {
            self.objects_changed.store(true, Ordering::Release);
        }
        self.wake.notify_one();
    }

    /// Whether the Pod's object is gone.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Acquire)
    }

    /// The Pod's object is gone.
    pub fn remove(&self) {
        self.removed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Something has changed in the runtime.
    pub fn look(&self) {
        self.runtime_changed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Something that the Pod refers to has changed.
    pub fn objects_changed(&self) {
        self.objects_changed.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// The agent ends; the Pod lives on.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake.notify_one();
        self.leave();
    }
}

/// What has come to an end.
enum Done {
    Action(Outcome),
    /// A status was written, or not.
    Status {
        sent: Value,
        written: bool,
    },
}

/// Works for one Pod until nothing of it is left.
pub async fn run(node: Arc<Node>, mailbox: Arc<Mailbox>) {
    let pod = mailbox.pod();
    let mut told = pod.status.as_ref().map(to_value).unwrap_or(Value::Null);
    if let Some(fields) = told.as_object_mut() {
        fields.retain(|field, _| OWN_FIELDS.contains(&field.as_str()));
    }
    let worker = Worker {
        node,
        mailbox,
        state: PodState::default(),
        view: Arc::default(),
        running: JoinSet::new(),
        aborts: HashMap::new(),
        outcomes: Vec::new(),
        held: Vec::new(),
        tokens: Arc::default(),
        told,
        told_to: None,
        wanted: None,
        born: Duration::ZERO,
        writing: false,
        retry_status: false,
    };
    worker.work().await.shutdown().await;
}

struct Worker {
    node: Arc<Node>,
    mailbox: Arc<Mailbox>,
    state: PodState,
    view: Arc<RuntimeView>,
    /// What was begun. Each is a task, so that it goes on while the worker waits for something else: it may be the next in a
    /// line for which the worker waits too.
    running: JoinSet<Done>,
    aborts: HashMap<Task, AbortHandle>,
    outcomes: Vec<Outcome>,
    /// Actions that wait until the last status is written.
    held: Vec<Action>,
    tokens: Arc<Mutex<std::collections::BTreeMap<crate::volumes::TokenSource, crate::executor::HeldToken>>>,
    /// The status that the API has.
    told: Value,
    /// The mirror that has it, for a static Pod.
    told_to: Option<String>,
    /// The status that it shall have.
    wanted: Option<Value>,
    /// When the worker began.
    born: Duration,
    writing: bool,
    retry_status: bool,
}

impl Worker {
    /// Works until it is stopped or nothing is left to do; gives what was not done by then.
    async fn work(mut self) -> JoinSet<Done> {
        self.born = self.node.clock.monotonic();
        loop {
            let pod = self.mailbox.allocated_pod();
            self.look(&pod).await;
            if self.mailbox.stop.load(Ordering::Acquire) {
                return self.running;
            }
            let wake_at = self.turn(&pod);
            if self.state.cleaned {
                return self.running;
            }
            self.wait(wake_at).await;
        }
    }

    /// Brings the view up to date where something may have changed in the runtime.
    async fn look(&mut self, pod: &Pod) {
        let mut view = RuntimeView::clone(&self.view);
        if self.mailbox.runtime_changed.swap(false, Ordering::AcqRel) || !view.known {
            let logs = self.node.facts().paths.logs.clone();
            match observe(&*self.node.runtime, uid(pod), &logs).await {
                Ok((sandboxes, containers)) => {
                    view.known = true;
                    view.sandboxes = sandboxes;
                    view.containers = containers;
                }
                Err(error) => {
                    tracing::warn!(pod = %spec::pod_ref(pod), %error, "cannot look at a Pod in the runtime");
                    view.known = false;
                }
            }
        }
        view.outcomes = std::mem::take(&mut self.outcomes);
        view.removed = self.mailbox.removed.load(Ordering::Acquire);
        view.objects_changed = self.mailbox.objects_changed.swap(false, Ordering::AcqRel);
        view.rejection = self.mailbox.rejection.lock().clone();
        view.eviction = self.mailbox.eviction.lock().clone();
        view.restart_cap = self.node.options.crash_loop_back_off.max_container_restart_period.map(|cap| cap.0);
        view.resize_pending = self.mailbox.resize_pending.lock().clone();
        view.host_ips = self.node.facts().ips.clone();
        view.order_addresses();
        view.runtime_name = self.node.runtime_name.read().clone();
        self.view = Arc::new(view);
    }

    /// One step of the state machine and the beginning of everything that it asks for.
    fn turn(&mut self, pod: &Arc<Pod>) -> Option<Duration> {
        let now = self.node.clock.now();
        let Step { state, actions, status, events, wake_at, cancel } =
            step(pod, &self.view, std::mem::take(&mut self.state), now);
        self.state = state;
        for event in events {
            self.record(pod, event);
        }
        for task in cancel {
            if let Some(abort) = self.aborts.remove(&task) {
                abort.abort();
            }
        }
        let value = to_value(&status);
        let mirror = self.mailbox.mirror.lock().clone();
        if mirror != self.told_to {
            // A mirror that has just been made knows nothing yet.
            self.told = Value::Null;
            self.told_to = mirror;
        }
        let held_for = self.starts_soon(&status);
        *self.mailbox.shown.lock() = Some(status);
        self.mailbox.turned.notify_waiters();
        self.wanted = (value != self.told).then_some(value);
        if held_for.is_none() {
            self.write_status(pod);
        }
        for action in actions {
            if action == Action::DeletePod {
                self.held.push(action);
            } else {
                self.begin(pod, action);
            }
        }
        self.release(pod);
        let delay = wake_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO));
        let retry = (!self.view.known || self.retry_status).then_some(RETRY);
        delay.into_iter().chain(retry).chain(held_for).min()
    }

    /// How much longer the status of a Pod that is just being started is held back.
    fn starts_soon(&self, status: &PodStatus) -> Option<Duration> {
        let starting = |task: &Task| matches!(task, Task::Volumes | Task::Sandbox | Task::Image(_) | Task::Start(_));
        let pending = status.phase.as_deref() == Some("Pending") && self.state.in_flight.iter().any(starting);
        let left = STARTING.checked_sub(self.node.clock.monotonic() - self.born);
        left.filter(|left| pending && !left.is_zero())
    }

    fn record(&self, pod: &Pod, event: PodEvent) {
        let mut reference = skiff_client::events::reference(pod);
        reference.field_path = Some(event.field_path).filter(|path| !path.is_empty());
        self.node.recorder.record(&reference, event.warning, event.reason, event.message);
    }

    fn begin(&mut self, pod: &Arc<Pod>, action: Action) {
        let task = action.task();
        let subject = Subject { pod: pod.clone(), view: self.view.clone(), tokens: self.tokens.clone() };
        let node = self.node.clone();
        let (abort, registration) = AbortHandle::new_pair();
        self.aborts.insert(task.clone(), abort);
        let work = Abortable::new(async move { execute(&node, &subject, &action).await }, registration);
        self.running.spawn(async move {
            let result = work.await.unwrap_or(Ended::Cancelled);
            Done::Action(Outcome { task, result })
        });
    }

    /// Begins what waited for the last status, once that is written.
    fn release(&mut self, pod: &Arc<Pod>) {
        if !self.writing && self.wanted.is_none() {
            for action in std::mem::take(&mut self.held) {
                self.begin(pod, action);
            }
        }
    }

    /// Sends the newest status, one write at a time: what changes meanwhile goes with the next.
    fn write_status(&mut self, pod: &Arc<Pod>) {
        if self.writing || self.mailbox.removed.load(Ordering::Acquire) || self.state.deleted {
            if !self.writing {
                self.wanted = None;
            }
            return;
        }
        let is_static = crate::admission::is_static(pod);
        if is_static && self.told_to.is_none() {
            // Nobody can be told before there is a mirror.
            return;
        }
        let Some(sent) = self.wanted.take() else { return };
        self.writing = true;
        self.retry_status = false;
        let uid = if is_static { self.told_to.clone().unwrap_or_default() } else { uid(pod).to_owned() };
        let patch = json!({"metadata": {"uid": uid}, "status": status_patch(&self.told, &sent)});
        let (node, pod) = (self.node.clone(), pod.clone());
        self.running.spawn(async move {
            let written =
                node.client.patch_raw(&pod_path(&pod), &Patch::Strategic(patch)).await.map(drop).or_else(|error| {
                    // Gone, or another Pod of that name: there is nobody to tell.
                    if error.is_not_found() || error.is_conflict() { Ok(()) } else { Err(error) }
                });
            if let Err(error) = &written {
                tracing::warn!(pod = %spec::pod_ref(&pod), %error, "cannot write a Pod's status");
            }
            Done::Status { sent, written: written.is_ok() }
        });
    }

    /// Waits for the next reason to take a turn.
    async fn wait(&mut self, delay: Option<Duration>) {
        let mailbox = self.mailbox.clone();
        let sleep = async {
            match delay {
                Some(delay) => tokio::time::sleep(delay).await,
                None => std::future::pending().await,
            }
        };
        let done = tokio::select! {
            () = mailbox.wake.notified() => None,
            () = sleep => None,
            Some(done) = self.running.join_next() => Some(done),
        };
        if let Some(done) = done {
            self.take(done);
        }
        // What else has ended meanwhile is part of the same turn.
        while let Some(done) = self.running.try_join_next() {
            self.take(done);
        }
    }

    fn take(&mut self, done: Result<Done, JoinError>) {
        // None is aborted but with all of them; one that panicked takes the worker along.
        match done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())) {
            Done::Action(outcome) => {
                self.aborts.remove(&outcome.task);
                if !matches!(outcome.task, Task::Probe(..) | Task::Image(_) | Task::Volumes | Task::TearDownVolumes) {
                    self.mailbox.runtime_changed.store(true, Ordering::Release);
                }
                self.outcomes.push(outcome);
            }
            Done::Status { sent, written } => {
                self.writing = false;
                self.retry_status = !written;
                if written {
                    self.told = sent;
                }
            }
        }
    }
}

fn to_value(status: &PodStatus) -> Value {
    serde_json::to_value(status).expect("a status has only string keys and finite numbers")
}

fn pod_path(pod: &Pod) -> String {
    format!("/api/v1/namespaces/{}/pods/{}/status", namespace(pod), name(pod))
}

/// The change from one status to another: fields that are gone become null, and lists that are merged by key are replaced
/// where an entry is gone.
fn status_patch(told: &Value, wanted: &Value) -> Value {
    let mut patch = wanted.clone();
    let (Some(fields), Some(old)) = (patch.as_object_mut(), told.as_object()) else { return patch };
    fields.retain(|field, value| old.get(field) != Some(value));
    for field in old.keys() {
        if wanted.get(field).is_none() {
            fields.insert(field.clone(), Value::Null);
        }
    }
    // Conditions that only pass are taken away one by one: those of others must stay.
    let kinds = |status: &Value| -> Vec<String> {
        let all = status["conditions"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|condition| condition["type"].as_str().map(str::to_owned)).collect()
    };
    let left = kinds(wanted);
    let gone =
        kinds(told).into_iter().filter(|kind| PASSING_CONDITIONS.contains(&kind.as_str()) && !left.contains(kind));
    if let Some(Value::Array(conditions)) = fields.get_mut("conditions") {
        for condition in conditions.iter_mut() {
            forget_what_is_gone(condition, &told["conditions"]);
        }
        conditions.extend(gone.map(|kind| json!({"$patch": "delete", "type": kind})));
    }
    for field in ["podIPs", "hostIPs"] {
        if let (Some(Value::Array(ips)), true) = (fields.get_mut(field), old.contains_key(field)) {
            ips.insert(0, json!({"$patch": "replace"}));
        }
    }
    patch
}

/// Conditions are merged field by field: a reason that no longer holds has to be taken away by name.
fn forget_what_is_gone(condition: &mut Value, told: &Value) {
    let mut earlier = told.as_array().into_iter().flatten();
    let earlier = earlier.find(|earlier| earlier["type"] == condition["type"]).and_then(Value::as_object);
    let (Some(earlier), Some(fields)) = (earlier, condition.as_object_mut()) else { return };
    for field in earlier.keys() {
        fields.entry(field).or_insert(Value::Null);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_says_only_what_changes() {
        let told = json!({"phase": "Pending", "message": "m", "podIPs": [{"ip": "1"}], "qosClass": "BestEffort"});
        let wanted = json!({"phase": "Running", "podIPs": [{"ip": "2"}], "qosClass": "BestEffort"});
        let resizing = json!({"conditions": [{"type": "Ready"}, {"type": "PodResizePending"}]});
        assert_eq!(
            status_patch(&resizing, &json!({"conditions": [{"type": "Ready"}]})),
            json!({"conditions": [{"type": "Ready"}, {"$patch": "delete", "type": "PodResizePending"}]})
        );
        let unready = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "r", "message": "m"}]});
        assert_eq!(
            status_patch(&unready, &json!({"conditions": [{"type": "Ready", "status": "True"}]})),
            json!({"conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}]})
        );
        assert_eq!(
            status_patch(&told, &wanted),
            json!({"phase": "Running", "message": null, "podIPs": [{"$patch": "replace"}, {"ip": "2"}]})
        );
    }
}
