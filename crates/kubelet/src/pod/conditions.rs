//! The phase and the conditions, from the statuses of the containers.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-phase>.

use k8s_openapi::api::core::v1::{ContainerStatus, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::Stepping;
use super::spec;
use super::types::{Kind, status_of};

/// The conditions that the node agent owns, in the order in which upstream writes them.
const OWN: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];
/// Those that it writes only while they hold.
pub const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];
const DISRUPTION: &str = "DisruptionTarget";
const RESTARTING_ALL: &str = "AllContainersRestarting";

/// A condition's status, reason and message.
pub(super) type Verdict = (bool, Option<&'static str>, Option<String>);

#[derive(Default)]
struct Count {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
    unknown: usize,
}

impl Stepping<'_> {
    /// The phase that the statuses amount to.
    pub(super) fn phase(&self, status: &PodStatus) -> &'static str {
        let told = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        match told {
            Some("Succeeded") => return "Succeeded",
            Some("Failed") => return "Failed",
            _ => {}
        }
        let ending = self.state.terminating.as_ref();
        if ending.is_some_and(|ending| ending.cause.is_some()) {
            return "Failed";
        }
        let (mut pending_init, mut failed_init) = (false, false);
        for spec in self.specs.iter().filter(|spec| matches!(spec.kind, Kind::Init | Kind::Sidecar)) {
            let (pending, failed) = init_progress(spec.kind, status_of(&status.init_container_statuses, spec.name()));
            pending_init |= pending;
            failed_init |= failed.is_some();
            if failed.is_some_and(|code| !spec.restarts(spec::spec(self.pod), code)) {
                return "Failed";
            }
        }
        let count = self.count(status);
        let main_begun = count.running + count.stopped > 0;
        if ((pending_init || failed_init) && !main_begun) || count.waiting > 0 {
            return "Pending";
        }
        if count.unknown > 0 {
            return if count.running > 0 { "Running" } else { "Pending" };
        }
        if count.running > 0 {
            return "Running";
        }
        if count.stopped == 0 {
            return "Pending";
        }
        let all_well = count.stopped == count.succeeded;
        match all_well {
            // What the runtime does not tell right now may well run on.
            _ if ending.is_none() && (!self.view.known || !self.is_finished()) => "Running",
            true => "Succeeded",
            false => "Failed",
        }
    }

    fn count(&self, status: &PodStatus) -> Count {
        let mut count = Count::default();
        for spec in self.specs.iter().filter(|spec| spec.kind == Kind::Regular) {
            let status = status_of(&status.container_statuses, spec.name());
            let Some(state) = status.and_then(|status| status.state.as_ref()) else {
                count.unknown += 1;
                continue;
            };
            if state.running.is_some() {
                count.running += 1;
            } else if let Some(ended) = &state.terminated {
                count.stopped += 1;
                count.succeeded += usize::from(ended.exit_code == 0);
            } else if status.and_then(|s| s.last_state.as_ref()).is_some_and(|last| last.terminated.is_some()) {
                count.stopped += 1;
            } else {
                count.waiting += 1;
            }
        }
        count
    }

    /// All conditions: the agent's own, and those of others as they are.
    pub(super) fn conditions(&self, status: &PodStatus) -> Vec<PodCondition> {
        let old = self.old().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let phase = status.phase.as_deref().unwrap_or("");
        let ready = self.containers_ready(status, phase);
        let verdicts = [
            (self.view.ready_sandbox().is_some() && self.has_network(), None, None),
            self.initialized(status, phase),
            self.ready(&ready, phase),
            ready,
            (true, None, None),
        ];
        let own = OWN.iter().zip(verdicts).map(|(kind, verdict)| self.condition(kind, verdict, &old));
        let mut all: Vec<_> = own.collect();
        if let Some((reason, message)) = &self.view.resize_pending {
            let pending = self.condition(PASSING[0], (true, None, Some(message.clone())), &old);
            all.push(PodCondition { reason: Some(reason.clone()), ..pending });
        }
        if let Some(error) = &self.state.resize {
            let reason = error.as_ref().map(|_| "Error");
            all.push(self.condition(PASSING[1], (true, reason, error.clone()), &old));
        }
        let evicted = self.view.eviction.as_ref().map(|eviction| &eviction.message);
        if let Some(message) = evicted.filter(|_| self.state.terminating.is_some()) {
            let reason = Some("TerminationByKubelet");
            all.push(self.condition(DISRUPTION, (true, reason, Some(message.clone())), &old));
        }
        all.extend(self.restarting_all(phase).map(|verdict| self.condition(RESTARTING_ALL, verdict, &old)));
        let api = self.pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let known: Vec<_> = all.iter().map(|condition| condition.type_.clone()).collect();
        let others = api.into_iter().filter(|condition| !PASSING.contains(&condition.type_.as_str()));
        all.extend(others.filter(|condition| !known.contains(&condition.type_)));
        all
    }

    fn has_network(&self) -> bool {
        spec::host_network(self.pod) || self.view.ready_sandbox().is_some_and(|sandbox| !sandbox.ips.is_empty())
    }

    fn condition(&self, kind: &str, (holds, reason, message): Verdict, old: &[PodCondition]) -> PodCondition {
        let status = if holds { "True" } else { "False" };
        let before = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
        let since = before.and_then(|condition| condition.last_transition_time.clone());
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message,
            last_probe_time: None,
            last_transition_time: Some(since.unwrap_or(Time(super::status::whole_seconds(self.now)))),
            observed_generation: self.pod.metadata.generation,
        }
    }

    fn initialized(&self, status: &PodStatus, phase: &str) -> Verdict {
        if phase == "Succeeded" {
            return (true, Some("PodCompleted"), None);
        }
        let mut incomplete = Vec::new();
        for spec in self.specs.iter().filter(|spec| matches!(spec.kind, Kind::Init | Kind::Sidecar)) {
            let status = status_of(&status.init_container_statuses, spec.name());
            let done = match spec.kind {
                Kind::Sidecar => status.and_then(|status| status.started) == Some(true),
                _ => status.is_some_and(|status| status.ready),
            };
            if !done {
                incomplete.push(spec.name());
            }
        }
        // Once a container of the Pod has run, its init containers are done for good, also where a sidecar restarts.
        let begun = self.count(status);
        if incomplete.is_empty() || begun.running + begun.stopped > 0 {
            return (true, None, None);
        }
        let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
        (false, Some("ContainersNotInitialized"), Some(message))
    }

    fn containers_ready(&self, status: &PodStatus, phase: &str) -> Verdict {
        match phase {
            "Succeeded" => return (false, Some("PodCompleted"), None),
            "Failed" => return (false, Some("PodFailed"), None),
            _ => {}
        }
        let (mut unknown, mut unready) = (Vec::new(), Vec::new());
        for spec in self.specs.iter().filter(|spec| matches!(spec.kind, Kind::Regular | Kind::Sidecar)) {
            let list =
                if spec.kind == Kind::Regular { &status.container_statuses } else { &status.init_container_statuses };
            match status_of(list, spec.name()) {
                None => unknown.push(spec.name()),
                Some(status) if !status.ready => unready.push(spec.name()),
                Some(_) => {}
            }
        }
        let mut messages = Vec::new();
        if !unknown.is_empty() {
            messages.push(format!("containers with unknown status: [{}]", unknown.join(" ")));
        }
        if !unready.is_empty() {
            messages.push(format!("containers with unready status: [{}]", unready.join(" ")));
        }
        if messages.is_empty() {
            return (true, None, None);
        }
        (false, Some("ContainersNotReady"), Some(messages.join(", ")))
    }

    fn ready(&self, containers: &Verdict, _phase: &str) -> Verdict {
        if !containers.0 {
            return containers.clone();
        }
        let api = self.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
        let mut messages = Vec::new();
        for gate in spec::spec(self.pod).readiness_gates.iter().flatten() {
            let kind = &gate.condition_type;
            match api.into_iter().flatten().find(|condition| condition.type_ == *kind) {
                None => {
                    messages.push(format!("corresponding condition of pod readiness gate {kind:?} does not exist."))
                }
                Some(condition) if condition.status != "True" => messages.push(format!(
                    "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                    condition.status
                )),
                Some(_) => {}
            }
        }
        if messages.is_empty() {
            return (true, None, None);
        }
        (false, Some("ReadinessGatesNotReady"), Some(messages.join(", ")))
    }
}

/// Whether an init container keeps the Pod pending, and the code with which it has failed.
fn init_progress(kind: Kind, status: Option<&ContainerStatus>) -> (bool, Option<i32>) {
    let Some(status) = status else { return (true, None) };
    if kind == Kind::Sidecar {
        return (status.started != Some(true), None);
    }
    let ended = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().and_then(|state| state.terminated.as_ref()).map(|ended| ended.exit_code)
    };
    let waiting = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
    let last = if waiting { ended(&status.last_state) } else { None };
    match ended(&status.state).or(last) {
        Some(0) => (waiting, None),
        Some(code) => (false, Some(code)),
        None => (true, None),
    }
}
