//! The way down: why a Pod ends, how its containers are stopped, and what is cleared away afterwards.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-termination>.

use std::time::Duration;

use super::Stepping;
use super::spec;
use super::status::LOST_EXIT_CODE;
use super::types::{Action, ContainerView, Kind, RunState, Task, Terminating, Volumes};

/// The least grace a container gets, also when its Pod is deleted by force.
const MINIMUM_GRACE_SECONDS: i64 = 1;

impl Stepping<'_> {
    /// Begins the end of the Pod where there is a reason to, or shortens it.
    pub(super) fn notice_end(&mut self) {
        let deleting = self.pod.metadata.deletion_timestamp.is_some() || self.view.removed;
        // Nobody waits for a Pod that is gone from the API: it was deleted by force.
        let by_force = self.view.removed && !crate::admission::is_static(self.pod);
        let grace_seconds = if by_force { 0 } else { spec::grace_seconds(self.pod) };
        let most = self.view.eviction.as_ref().and_then(|eviction| eviction.grace_seconds);
        let grace_seconds = grace_seconds.min(most.unwrap_or(i64::MAX)).max(MINIMUM_GRACE_SECONDS);
        if let Some(ending) = &mut self.state.terminating {
            if (deleting || most.is_some()) && grace_seconds < ending.grace_seconds {
                ending.grace_seconds = grace_seconds;
                ending.since = self.now;
            }
            return;
        }
        let cause = self.cause_of_end();
        if cause.is_none() && !deleting && !self.is_terminal() {
            return;
        }
        if cause.as_ref().is_some_and(|(reason, _)| reason == "DeadlineExceeded") {
            let message = "Pod was active on the node longer than the specified deadline";
            self.event(false, "DeadlineExceeded", message, "");
        }
        if let Some(eviction) = self.view.eviction.as_ref().filter(|_| cause.is_some()) {
            match eviction.reason.as_str() {
                "Evicted" => self.event(true, "Evicted", eviction.message.clone(), ""),
                "Preempting" => self.event(true, "Preempting", eviction.message.clone(), ""),
                _ => {}
            }
        }
        let pulls = self.state.in_flight.iter().filter(|task| matches!(task, Task::Image(_)));
        self.cancel = pulls.cloned().collect();
        self.state.terminating = Some(Terminating { since: self.now, grace_seconds, cause });
    }

    /// Whether the Pod has come to its end by itself, or had done so before this agent started.
    fn is_terminal(&self) -> bool {
        let told = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(told, Some("Succeeded" | "Failed")) || (self.view.known && self.is_finished())
    }

    /// A reason of the node's own to end the Pod.
    fn cause_of_end(&mut self) -> Option<(String, String)> {
        let begun = self.view.sandbox().is_some();
        if let Some(rejection) = self.view.rejection.as_ref().filter(|_| !begun) {
            return Some(rejection.clone());
        }
        if let Some(eviction) = &self.view.eviction {
            return Some((eviction.reason.clone(), eviction.message.clone()));
        }
        let seconds = spec::spec(self.pod).active_deadline_seconds?;
        let deadline = self.state.start_time? + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        if deadline > self.now {
            self.wake(deadline);
            return None;
        }
        let message = "Pod was active on the node longer than the specified deadline";
        Some(("DeadlineExceeded".to_owned(), message.to_owned()))
    }

    /// Whether no container of the Pod will ever run again.
    pub(super) fn is_finished(&self) -> bool {
        if self.state.is_starting() {
            return false;
        }
        let pod = spec::spec(self.pod);
        let replaced = |spec: &spec::Spec<'_>| {
            let latest = self.view.latest(spec.name()).filter(|latest| latest.state == RunState::Exited);
            latest.is_some_and(|latest| self.follows(spec, latest))
        };
        let over = |spec: &spec::Spec<'_>| {
            self.exit_code(spec).is_some_and(|code| !spec.restarts(pod, code)) && !replaced(spec)
        };
        let regular = || self.specs.iter().filter(|spec| spec.kind == Kind::Regular);
        let init_failed = || {
            let failed = |spec: &spec::Spec<'_>| {
                let latest = self.view.latest(spec.name());
                latest.is_some() && over(spec) && self.exit_code(spec).is_some_and(|code| code != 0)
            };
            self.specs.iter().any(|spec| spec.kind == Kind::Init && failed(spec))
                && regular().all(|spec| self.view.latest(spec.name()).is_none())
        };
        regular().all(over) || init_failed()
    }

    /// How the newest container of a spec ended, if it has. One that the runtime no longer has ended as was told last,
    /// and if it was running then, it was lost.
    pub(super) fn exit_code(&self, spec: &spec::Spec<'_>) -> Option<i32> {
        if let Some(latest) = self.view.latest(spec.name()) {
            return (latest.state == RunState::Exited).then_some(latest.exit_code);
        }
        let state = self.old_status(spec.name())?.state.as_ref()?;
        let lost = state.running.as_ref().map(|_| LOST_EXIT_CODE);
        state.terminated.as_ref().map(|ended| ended.exit_code).or(lost)
    }

    pub(super) fn terminate(&mut self) {
        if !self.view.known || self.state.cleaned {
            return;
        }
        if self.stop_containers() || self.state.is_starting() {
            return;
        }
        let view = self.view;
        let mut stopped = self.stop_sandboxes();
        if self.state.volumes != Volumes::Gone {
            stopped = false;
            self.act(Action::TearDownVolumes);
        }
        if !stopped {
            return;
        }
        if view.removed || self.state.deleted {
            self.clear_away();
        } else if self.pod.metadata.deletion_timestamp.is_some() {
            self.act(Action::DeletePod);
        }
    }

    /// Stops what runs: first everything but the sidecars, then the sidecars, last one first. Returns whether something still runs.
    fn stop_containers(&mut self) -> bool {
        let view = self.view;
        let runs = |container: &&ContainerView| matches!(container.state, RunState::Running | RunState::Unknown);
        let running: Vec<_> = view.containers.iter().filter(runs).collect();
        let sidecar_rank = |name: &str| {
            let place = self.specs.iter().position(|spec| spec.name() == name && spec.kind == Kind::Sidecar);
            place.map_or(0, |index| self.specs.len() - index)
        };
        let ranks: Vec<_> = running.iter().map(|container| sidecar_rank(&container.name)).collect();
        let turn = ranks.iter().min().copied();
        let Some(ending) = self.state.terminating.clone() else { return !running.is_empty() };
        let passed = self.now.duration_since(ending.since).as_secs();
        let left = (ending.grace_seconds - passed).max(MINIMUM_GRACE_SECONDS);
        for (container, rank) in running.iter().zip(ranks) {
            if Some(rank) == turn {
                let why = format!("Stopping container {}", container.name);
                self.kill(&container.name, &container.id, left, why);
            }
        }
        !running.is_empty()
    }

    /// Removes what is left in the runtime and on the disk, once nobody can ask for it any more.
    fn clear_away(&mut self) {
        if self.view.sandboxes.is_empty() && self.view.containers.is_empty() {
            self.act(Action::CleanUp);
            return;
        }
        for sandbox in &self.view.sandboxes {
            self.act(Action::RemoveSandbox { id: sandbox.id.clone() });
        }
        for container in &self.view.containers {
            if !self.view.sandboxes.iter().any(|sandbox| sandbox.id == container.sandbox_id) {
                let (id, name, attempt) = (container.id.clone(), container.name.clone(), container.attempt);
                self.act(Action::RemoveContainer { id, name, attempt });
            }
        }
    }
}
