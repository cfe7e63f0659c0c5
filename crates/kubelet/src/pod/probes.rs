//! When probes are due and what their answers mean. The timers are the step's own `wake_at`: an idle probe costs nothing.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/probes/>.

use std::time::Duration;

use k8s_openapi::api::core::v1::Probe;

use super::Stepping;
use super::spec::{self, Spec};
use super::types::{Action, ContainerView, Kind, ProbeKind, ProbeResult, ProbeState, RunState, Task};

/// A container that has just been started mostly answers within moments. While its first period lasts, readiness and startup
/// probes that fail are repeated after these pauses (from the first, doubling to the second) and do not count: the
/// Pod is ready when it is, not at the next full period. Nothing else differs from the documented numbers.
const EAGER: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

const KINDS: [ProbeKind; 3] = [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness];

impl Stepping<'_> {
    /// Whether the container's postStart hook is done and its startup probe has succeeded.
    pub(super) fn is_started(&self, spec: &Spec<'_>, container: &ContainerView) -> bool {
        let memory = self.state.containers.get(spec.name());
        let hooked = memory.is_some_and(|memory| memory.post_start.as_deref() == Some(container.id.as_str()));
        !hooked && self.is_healthy(spec, container, ProbeKind::Startup, false)
    }

    /// Whether the container may take traffic, as far as its own probe says.
    pub(super) fn is_ready(&self, spec: &Spec<'_>, container: &ContainerView) -> bool {
        self.is_started(spec, container) && self.is_healthy(spec, container, ProbeKind::Readiness, false)
    }

    fn is_healthy(&self, spec: &Spec<'_>, container: &ContainerView, kind: ProbeKind, unknown: bool) -> bool {
        if spec.probe(kind).is_none() {
            return true;
        }
        match self.state.probes.get(&(container.id.clone(), kind)) {
            Some(probe) => probe.healthy,
            // After a restart of the agent: what was told before holds until the next answer.
            None => {
                let old = self
                    .old_status(spec.name())
                    .filter(|old| old.container_id.as_ref().is_some_and(|id| id.ends_with(container.id.as_str())));
                match kind {
                    ProbeKind::Startup => old.and_then(|old| old.started).unwrap_or(unknown),
                    _ => old.map_or(unknown, |old| old.ready),
                }
            }
        }
    }

    /// Asks for the probes that are due, and wakes for the next one.
    pub(super) fn schedule_probes(&mut self) {
        if !self.view.known {
            return;
        }
        let view = self.view;
        let alive = |id: &str| view.containers.iter().any(|c| c.id == id && c.state == RunState::Running);
        self.state.probes.retain(|(id, _), _| alive(id));
        let specs = std::mem::take(&mut self.specs);
        for spec in specs.iter().filter(|spec| spec.kind != Kind::Ephemeral) {
            let Some(container) = view.latest(spec.name()).filter(|c| c.state == RunState::Running) else { continue };
            let hooked = self.state.containers.get(spec.name()).is_some_and(|memory| memory.post_start.is_some());
            let killed = self.state.containers.get(spec.name()).and_then(|memory| memory.killed.as_ref());
            let killed = killed.is_some_and(|(id, _)| *id == container.id);
            if hooked || self.state.busy(&Task::Start(spec.name().to_owned())) {
                continue;
            }
            for kind in KINDS {
                let Some(probe) = spec.probe(kind) else { continue };
                let ending = killed || self.state.terminating.is_some();
                let held = match kind {
                    ProbeKind::Startup => self.is_started(spec, container) || ending,
                    ProbeKind::Liveness => !self.is_started(spec, container) || ending,
                    ProbeKind::Readiness => !self.is_started(spec, container),
                };
                if !held {
                    self.schedule(spec, container, kind, probe);
                }
            }
        }
        self.specs = specs;
    }

    fn schedule(&mut self, spec: &Spec<'_>, container: &ContainerView, kind: ProbeKind, probe: &Probe) {
        let key = (container.id.clone(), kind);
        if !self.state.probes.contains_key(&key) {
            let initial_delay = seconds(probe.initial_delay_seconds, 0);
            let started_at = container.started_at.unwrap_or(self.now);
            let healthy = match kind {
                ProbeKind::Liveness => true,
                _ => self.is_healthy(spec, container, kind, false),
            };
            let next_at = self.now.max(started_at + initial_delay);
            self.state.probes.insert(
                key.clone(),
                ProbeState { next_at, healthy, run: (healthy, 0), first_at: next_at, pause: EAGER.0 },
            );
        }
        let next_at = self.state.probes[&key].next_at;
        if next_at > self.now {
            return self.wake(next_at);
        }
        let ip = match self.view.sandbox().and_then(|sandbox| sandbox.ips.first()) {
            Some(ip) if !spec::host_network(self.pod) => ip.clone(),
            _ => self.view.host_ips.first().cloned().unwrap_or_default(),
        };
        let action = Action::Probe { name: spec.name().to_owned(), id: container.id.clone(), probe: kind, ip };
        if self.act(action) {
            let next_at = self.now + seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
            if let Some(state) = self.state.probes.get_mut(&key) {
                state.next_at = next_at;
            }
            self.wake(next_at);
        }
    }

    pub(super) fn learn_probe(&mut self, id: &str, kind: ProbeKind, result: ProbeResult, message: &str) {
        let name = self.name_of(id);
        let Some(position) = self.specs.iter().position(|spec| spec.name() == name) else { return };
        let Some(probe) = self.specs[position].probe(kind).cloned() else { return };
        if kind != ProbeKind::Liveness && result != ProbeResult::Success && self.tries_again_soon(id, kind, &probe) {
            return;
        }
        match result {
            ProbeResult::Success => {}
            ProbeResult::Failure => {
                let text = format!("{} probe failed: {message}", kind.title());
                self.container_event(true, "Unhealthy", text, &name);
            }
            ProbeResult::Unknown => {
                let text = format!("{} probe errored and resulted in unknown state: {message}", kind.title());
                return self.container_event(true, "Unhealthy", text, &name);
            }
        }
        let success = result == ProbeResult::Success;
        let threshold =
            if success { probe.success_threshold.unwrap_or(1) } else { probe.failure_threshold.unwrap_or(3) };
        let Some(state) = self.state.probes.get_mut(&(id.to_owned(), kind)) else { return };
        state.run = if state.run.0 == success { (success, state.run.1 + 1) } else { (success, 1) };
        if state.run.1 < threshold {
            return;
        }
        state.healthy = success;
        if !success && kind != ProbeKind::Readiness {
            state.run.1 = 0;
            let why = format!("Container {name} failed {} probe, will be restarted", kind.word());
            if spec::restart_policy(spec::spec(self.pod)) != "Never" {
                self.state.container(&name).replaced = Some(id.to_owned());
            }
            let grace = probe.termination_grace_period_seconds.unwrap_or_else(|| spec::grace_seconds(self.pod));
            self.kill(&name, id, grace, why);
        }
    }
}

impl Stepping<'_> {
    /// Whether a failed probe is one of the eager first ones; sets when it is tried again.
    fn tries_again_soon(&mut self, id: &str, kind: ProbeKind, probe: &Probe) -> bool {
        let now = self.now;
        let Some(state) = self.state.probes.get_mut(&(id.to_owned(), kind)) else { return false };
        let until = state.first_at + seconds(probe.period_seconds, 10);
        if state.healthy || state.run.1 > 0 || now >= until {
            return false;
        }
        state.next_at = (now + state.pause).min(until);
        state.pause = (state.pause * 2).min(EAGER.1);
        true
    }
}

fn seconds(number: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(number.and_then(|number| u64::try_from(number).ok()).unwrap_or(default))
}
