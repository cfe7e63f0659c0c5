//! Restarting all containers of a Pod where one has ended as a rule of its says: all are stopped, then the Pod comes up again
//! from its first init container on. Sandbox and volumes stay.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-all-containers>.

use super::Stepping;
use super::conditions::Verdict;
use super::spec::{self, Spec};
use super::types::{ContainerView, Kind, RunState};

impl Stepping<'_> {
    /// Stops all containers where one has ended so. Returns whether some still have to end; once they have, all of them are
    /// done once more.
    pub(super) fn restart_all(&mut self, sandbox_id: &str) -> bool {
        let view = self.view;
        let latest = |spec: &Spec<'_>| view.latest(spec.name()).filter(|container| container.sandbox_id == sandbox_id);
        let is_trigger = |spec: &Spec<'_>| {
            let ended = latest(spec).filter(|container| container.state == RunState::Exited);
            ended.is_some_and(|ended| spec.restarts_all(ended.exit_code) && !self.is_redone(ended))
        };
        self.state.restarting_all = self.specs.iter().any(is_trigger);
        if !self.state.restarting_all {
            return false;
        }
        let mut left = self.state.is_starting();
        let runs = |container: &&ContainerView| matches!(container.state, RunState::Running | RunState::Unknown);
        for container in view.containers.iter().filter(runs) {
            left = true;
            let why = format!("Stopping container {}", container.name);
            self.kill(&container.name, &container.id, spec::grace_seconds(self.pod), why);
        }
        if left {
            return true;
        }
        for spec in self.specs.iter().filter(|spec| spec.kind != Kind::Ephemeral) {
            if let Some(ended) = latest(spec) {
                self.state.container(spec.name()).redone = Some(ended.id.clone());
            }
        }
        self.state.restarting_all = false;
        false
    }

    /// Whether a container was ended with all others, so that the next one of its name begins anew.
    pub(super) fn is_redone(&self, container: &ContainerView) -> bool {
        let memory = self.state.containers.get(&container.name);
        memory.is_some_and(|memory| memory.redone.as_deref() == Some(container.id.as_str()))
    }

    /// The condition that tells of it, for Pods that have such a rule.
    pub(super) fn restarting_all(&self, phase: &str) -> Option<Verdict> {
        self.specs.iter().any(Spec::may_restart_all).then(|| match phase {
            "Succeeded" => (false, Some("PodCompleted"), None),
            "Failed" => (false, Some("PodFailed"), None),
            _ if self.state.restarting_all => {
                let message = "container exited with restart policy rule".to_owned();
                (true, Some("RestartAllContainersStarted"), Some(message))
            }
            _ => (false, None, None),
        })
    }
}
