//! The Pod state machine: [`step`] decides, from what is known of a Pod at one moment, what to do next and what to show.
//! Nothing here does I/O, reads a clock or knows a runtime. The executor carries the actions out, and their results
//! come back only as outcomes and as the next view.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/>.

mod conditions;
mod learn;
mod probes;
mod resize;
mod restart_all;
pub mod spec;
mod status;
mod sync;
mod terminate;
pub mod types;

pub use conditions::PASSING as PASSING_CONDITIONS;

#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skiff_base::Timestamp;

use spec::Spec;
use types::{Action, PodEvent, PodState, RuntimeView, Step, Task};

/// One step of a Pod's life: pure, total, and idempotent (the same input twice asks for nothing twice,
/// because what is under way is remembered in the state).
pub fn step(pod: &Pod, view: &RuntimeView, state: PodState, now: Timestamp) -> Step {
    let mut stepping = Stepping {
        pod,
        view,
        now,
        specs: spec::containers(pod),
        state,
        actions: Vec::new(),
        events: Vec::new(),
        wake_at: None,
        cancel: Vec::new(),
    };
    stepping.learn();
    stepping.decide();
    let status = stepping.status();
    stepping.state.status = Some(status.clone());
    Step {
        state: stepping.state,
        actions: stepping.actions,
        status,
        events: stepping.events,
        wake_at: stepping.wake_at,
        cancel: stepping.cancel,
    }
}

/// The step while it is made.
struct Stepping<'a> {
    pod: &'a Pod,
    view: &'a RuntimeView,
    now: Timestamp,
    specs: Vec<Spec<'a>>,
    state: PodState,
    actions: Vec<Action>,
    events: Vec<PodEvent>,
    wake_at: Option<Timestamp>,
    cancel: Vec<Task>,
}

impl<'a> Stepping<'a> {
    fn decide(&mut self) {
        if self.state.start_time.is_none() {
            let known = self.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
            self.state.start_time = Some(known.map_or(self.now, |time| time.0));
        }
        self.notice_end();
        if self.state.terminating.is_some() {
            self.terminate();
        } else if self.view.known {
            self.sync();
        }
        self.schedule_probes();
    }

    /// Asks for an action, unless it is under way or must wait after a failure.
    fn act(&mut self, action: Action) -> bool {
        let task = action.task();
        if self.state.busy(&task) {
            return false;
        }
        if let Some((retry_at, _)) = self.state.retries.get(&task)
            && *retry_at > self.now
        {
            let retry_at = *retry_at;
            self.wake(retry_at);
            return false;
        }
        self.state.in_flight.insert(task);
        self.actions.push(action);
        true
    }

    /// Asks for another step at `at`, or before.
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    fn event(
        &mut self,
        warning: bool,
        reason: &'static str,
        message: impl Into<String>,
        field_path: impl Into<String>,
    ) {
        self.events.push(PodEvent { warning, reason, message: message.into(), field_path: field_path.into() });
    }

    /// An event about one container.
    fn container_event(&mut self, warning: bool, reason: &'static str, message: impl Into<String>, name: &str) {
        let path = self.specs.iter().find(|spec| spec.name() == name).map(Spec::field_path);
        self.event(warning, reason, message, path.unwrap_or_default());
    }

    /// Stops a container, tells why, and remembers it: one container is told to stop once per grace period.
    fn kill(&mut self, name: &str, id: &str, grace_seconds: i64, why: String) {
        let budget = self.state.terminating.as_ref().map_or(grace_seconds, |ending| ending.grace_seconds);
        let told_before = match &self.state.container(name).killed {
            Some((killed, under)) if killed == id => {
                let stopping = |task: &Task| matches!(task, Task::Kill { id: other, .. } if other == id);
                if *under <= budget && self.state.in_flight.iter().any(stopping) {
                    return;
                }
                true
            }
            _ => false,
        };
        // Where all containers are restarted, upstream runs no hooks.
        let pre_stop = !told_before && !self.state.restarting_all;
        let kill = Action::KillContainer { name: name.to_owned(), id: id.to_owned(), grace_seconds, pre_stop };
        if self.act(kill) {
            self.state.container(name).killed = Some((id.to_owned(), budget));
            if !told_before {
                self.container_event(false, "Killing", why, name);
            }
        }
    }

    /// Until when it is that `delay` has passed since `since`, if that lies ahead.
    fn ahead(&self, since: Timestamp, delay: Duration) -> Option<Timestamp> {
        let until = since + delay;
        (until > self.now).then_some(until)
    }
}
