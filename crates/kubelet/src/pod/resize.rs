//! Changing the resources of running containers in place. The specs that are stepped through carry what the node has allocated;
//! here it is compared with what is in force.
//! See <https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/>.

use k8s_openapi::api::core::v1::ResourceRequirements;

use super::Stepping;
use super::spec::{self, Spec, quantity};
use super::types::{Action, ContainerView, Ended, Kind, RunState, Task};

/// Before the name of a volume whose image is brought to the node as a container's is.
pub(super) const IMAGE_VOLUME: &str = "volume:";
/// The resources that can be changed in place.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];

impl Stepping<'_> {
    /// The resources in force for the container that runs; `None` where none does.
    pub(super) fn enacted(&self, spec: &Spec<'_>) -> Option<ResourceRequirements> {
        let running = self.view.latest(spec.name()).filter(|latest| latest.state == RunState::Running)?;
        let remembered = self.state.containers.get(spec.name()).and_then(|memory| memory.enacted.as_ref());
        if let Some((_, resources)) = remembered.filter(|(attempt, _)| *attempt == running.attempt) {
            return Some(resources.clone());
        }
        // After a restart of the agent: what was told last.
        let old = self.old_status(spec.name())?;
        let same = old.container_id.as_ref().is_some_and(|id| id.ends_with(running.id.as_str()));
        same.then(|| old.resources.clone()).flatten()
    }

    /// The resources that a running container still lacks, by name.
    fn lacking(&self, spec: &Spec<'_>) -> Vec<&'static str> {
        if !matches!(spec.kind, Kind::Regular | Kind::Sidecar) {
            return vec![];
        }
        let Some(enacted) = self.enacted(spec) else { return vec![] };
        let wanted = spec.container.resources.clone().unwrap_or_default();
        RESIZABLE.into_iter().filter(|name| !same(&enacted, &wanted, name)).collect()
    }

    /// Stops a container that takes a changed resource only by starting anew.
    pub(super) fn replace_resized(&mut self, spec: &Spec<'_>, latest: Option<&ContainerView>) {
        let Some(container) = latest.filter(|container| container.state == RunState::Running) else { return };
        let lacking = self.lacking(spec);
        let mut policies = spec.container.resize_policy.iter().flatten();
        let restarts = policies.any(|policy| {
            policy.restart_policy == "RestartContainer" && lacking.contains(&policy.resource_name.as_str())
        });
        if restarts {
            self.state.container(spec.name()).replaced = Some(container.id.clone());
            let why = format!("Container {} resize requires restart", spec.name());
            self.kill_spec(spec, container, spec::grace_seconds(self.pod), why);
        }
    }

    /// Gives running containers what has been allocated to them, and notes how far that is.
    pub(super) fn resize(&mut self, specs: &[Spec<'_>]) {
        let being_stopped = |state: &super::types::PodState, name: &str, id: &str| {
            let killed = state.containers.get(name).and_then(|memory| memory.killed.as_ref());
            killed.is_some_and(|(killed, _)| killed == id)
        };
        let mut waiting = false;
        let mut containers = Vec::new();
        let mut resizing = std::collections::BTreeMap::new();
        for spec in specs.iter().filter(|spec| !self.lacking(spec).is_empty()) {
            waiting = true;
            let Some(container) = self.view.latest(spec.name()) else { continue };
            if !being_stopped(&self.state, spec.name(), &container.id) {
                containers.push((spec.name().to_owned(), container.id.clone()));
                let resources = spec.container.resources.clone().unwrap_or_default();
                resizing.insert(spec.name().to_owned(), (container.attempt, resources));
            }
        }
        // One that starts anew for its resources has them once it runs again.
        waiting |= self.state.resize.is_some() && specs.iter().any(|spec| self.comes_back(spec));
        match (waiting, self.state.resize.is_some()) {
            (true, false) => {
                self.state.resize = Some(None);
                self.event(false, "ResizeStarted", format!("Pod resize started: {}", self.in_short()), "");
            }
            (false, true) if !self.state.busy(&Task::Resize) => {
                self.state.resize = None;
                self.event(false, "ResizeCompleted", format!("Pod resize completed: {}", self.in_short()), "");
            }
            _ => {}
        }
        if !containers.is_empty() && self.act(Action::Resize { containers }) {
            self.state.resizing = resizing;
        }
        self.tell_pending();
    }

    /// Whether a container has ended that another one follows whatever its exit code.
    fn comes_back(&self, spec: &Spec<'_>) -> bool {
        let ended = self.view.latest(spec.name()).filter(|latest| latest.state != RunState::Running);
        let replaced = self.state.containers.get(spec.name()).and_then(|memory| memory.replaced.as_ref());
        ended.is_some_and(|ended| replaced == Some(&ended.id))
    }

    /// An event for each new refusal.
    fn tell_pending(&mut self) {
        let pending = self.view.resize_pending.clone();
        if pending == self.state.resize_told {
            return;
        }
        if let Some((reason, message)) = &pending {
            let event = if reason == "Infeasible" { "ResizeInfeasible" } else { "ResizeDeferred" };
            let text = format!("Pod resize {reason}: {}, {message}", self.in_short());
            self.event(true, event, text, "");
        }
        self.state.resize_told = pending;
    }

    /// The containers' resources as events tell them.
    fn in_short(&self) -> String {
        let all =
            spec::containers(self.pod).into_iter().filter(|spec| matches!(spec.kind, Kind::Regular | Kind::Sidecar));
        let containers: Vec<_> =
            all.map(|spec| serde_json::json!({"name": spec.name(), "resources": spec.container.resources})).collect();
        serde_json::json!({"containers": containers, "generation": self.pod.metadata.generation}).to_string()
    }

    pub(super) fn learn_resize(&mut self, result: &Ended) {
        let resizing = std::mem::take(&mut self.state.resizing);
        match result {
            Ended::Failed { message, .. } => {
                if self.state.resize.as_ref().is_some_and(|told| told.as_ref() != Some(message)) {
                    self.event(true, "ResizeError", format!("Pod resize error: {message}"), "");
                }
                self.state.resize = Some(Some(message.clone()));
                self.learn_failure(&Task::Resize, "", message);
            }
            _ => {
                self.state.retries.remove(&Task::Resize);
                if self.state.resize.is_some() {
                    self.state.resize = Some(None);
                }
                for (name, enacted) in resizing {
                    self.state.container(&name).enacted = Some(enacted);
                }
            }
        }
    }
}

/// Whether two specifications ask for the same of one resource.
fn same(a: &ResourceRequirements, b: &ResourceRequirements, name: &str) -> bool {
    let of =
        |list: &Option<std::collections::BTreeMap<_, _>>| list.as_ref().and_then(|list| list.get(name).map(quantity));
    of(&a.requests) == of(&b.requests) && of(&a.limits) == of(&b.limits)
}
