//! What the Pod's status says: containers, addresses, phase and conditions. What the runtime cannot tell stays as it was
//! told last, or is unknown; nothing is made up.

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_base::Timestamp;

use super::Stepping;
use super::spec::{self, Spec};
use super::types::{ContainerView, Kind, RunState};

/// The exit code of a container that vanished: as if it had been killed.
pub(super) const LOST_EXIT_CODE: i32 = 137;
const LOST_REASON: &str = "ContainerStatusUnknown";
const LOST_MESSAGE: &str =
    "The container could not be located when the pod was deleted.  The container used to be Running";

/// The precision in which the API keeps times.
pub(super) fn whole_seconds(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn time(at: Timestamp) -> Option<Time> {
    Some(Time(whole_seconds(at)))
}

impl Stepping<'_> {
    /// The status as it was told last: by this agent, else as the API has it.
    pub(super) fn old(&self) -> Option<&PodStatus> {
        self.state.status.as_ref().or(self.pod.status.as_ref())
    }

    pub(super) fn old_status(&self, name: &str) -> Option<&ContainerStatus> {
        let old = self.old()?;
        let lists = [&old.container_statuses, &old.init_container_statuses, &old.ephemeral_container_statuses];
        lists.into_iter().find_map(|list| super::types::status_of(list, name))
    }

    pub(super) fn status(&self) -> PodStatus {
        let mut status = PodStatus {
            qos_class: Some(spec::qos_class(self.pod).to_owned()),
            start_time: self.state.start_time.and_then(time),
            observed_generation: self.pod.metadata.generation,
            nominated_node_name: None,
            ..PodStatus::default()
        };
        self.addresses(&mut status);
        let rejected = self.state.terminating.as_ref().is_some_and(|ending| ending.cause.is_some())
            && self.view.sandbox().is_none();
        if !rejected {
            self.container_statuses(&mut status);
        }
        status.phase = Some(self.phase(&status).to_owned());
        let told = self.pod.status.as_ref();
        match self.state.terminating.as_ref().and_then(|ending| ending.cause.clone()) {
            Some((reason, message)) => {
                status.message = Some(message);
                status.reason = Some(reason);
            }
            // A reason that another part has written (an eviction, say) stays.
            None => {
                status.reason = told.and_then(|told| told.reason.clone());
                status.message = told.and_then(|told| told.message.clone());
            }
        }
        if self.is_over() {
            self.close(&mut status);
        } else if self.state.terminating.is_some() {
            self.hold_back(&mut status);
        }
        status.conditions = Some(self.conditions(&status));
        status
    }

    fn addresses(&self, status: &mut PodStatus) {
        let host = &self.view.host_ips;
        status.host_ip = host.first().cloned();
        status.host_ips = Some(host.iter().map(|ip| HostIP { ip: ip.clone() }).collect());
        let mut ips: Vec<String> = match self.view.ready_sandbox() {
            Some(_) if spec::host_network(self.pod) => host.clone(),
            Some(sandbox) => sandbox.ips.clone(),
            None => Vec::new(),
        };
        if ips.is_empty() && (self.state.terminating.is_some() || !self.view.known) {
            // An ended Pod keeps the address that it had.
            let old = self.old().and_then(|old| old.pod_ips.clone()).unwrap_or_default();
            ips = old.into_iter().map(|pod_ip| pod_ip.ip).collect();
        }
        status.pod_ip = ips.first().cloned();
        status.pod_ips = (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect());
    }

    fn container_statuses(&self, status: &mut PodStatus) {
        let (mut init, mut regular, mut ephemeral) = (Vec::new(), Vec::new(), Vec::new());
        for spec in &self.specs {
            let list = match spec.kind {
                Kind::Init | Kind::Sidecar => &mut init,
                Kind::Regular => &mut regular,
                Kind::Ephemeral => &mut ephemeral,
            };
            list.push(self.container_status(spec));
        }
        regular.sort_by(|a, b| a.name.cmp(&b.name));
        let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
        status.init_container_statuses = some(init);
        status.container_statuses = some(regular);
        status.ephemeral_container_statuses = some(ephemeral);
    }

    fn container_status(&self, spec: &Spec<'_>) -> ContainerStatus {
        let old = self.old_status(spec.name());
        if !self.view.known
            && let Some(old) = old
        {
            return old.clone();
        }
        // A container that was made and not started has nothing to show yet.
        let made = self.view.containers.iter().filter(|c| c.name == spec.name() && c.state != RunState::Created);
        let starting = self.hooked(spec);
        let shown = made.filter(|c| starting != Some(c.id.as_str())).max_by_key(|container| container.attempt);
        let mut status = self.blank(spec);
        match shown {
            Some(container) => self.fill(&mut status, spec, container),
            None => self.fill_absent(&mut status, spec, old),
        }
        status
    }

    /// The container whose postStart hook runs: it is not shown as running before that has ended.
    fn hooked(&self, spec: &Spec<'_>) -> Option<&str> {
        self.state.containers.get(spec.name())?.post_start.as_deref()
    }

    fn blank(&self, spec: &Spec<'_>) -> ContainerStatus {
        let resources = spec.container.resources.clone().unwrap_or_default();
        let allocated = resources.requests.clone().filter(|requests| !requests.is_empty());
        let mounts = spec.container.volume_mounts.iter().flatten().map(|mount| VolumeMountStatus {
            mount_path: mount.mount_path.clone(),
            name: mount.name.clone(),
            read_only: mount.read_only.filter(|read_only| *read_only),
            recursive_read_only: (mount.read_only == Some(true)).then(|| {
                let wanted = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
                // What is possible is known once the container is made; the runtimes that are spoken to here can.
                if wanted == "IfPossible" { "Enabled".to_owned() } else { wanted.to_owned() }
            }),
            volume_status: None,
        });
        let mounts: Vec<_> = mounts.collect();
        ContainerStatus {
            name: spec.name().to_owned(),
            image: spec.image().to_owned(),
            image_id: String::new(),
            ready: false,
            started: (spec.kind != Kind::Ephemeral).then_some(false),
            state: Some(self.waiting(spec)),
            last_state: Some(ContainerState::default()),
            allocated_resources: allocated,
            resources: (spec.kind != Kind::Ephemeral).then(|| self.enacted(spec).unwrap_or(resources)),
            stop_signal: spec.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
            volume_mounts: (!mounts.is_empty()).then_some(mounts),
            ..ContainerStatus::default()
        }
    }

    fn waiting(&self, spec: &Spec<'_>) -> ContainerState {
        let memory = self.state.containers.get(spec.name());
        let known = memory.and_then(|memory| memory.waiting.clone());
        let (reason, message) = match known {
            Some((reason, message)) => (reason, Some(message).filter(|message| !message.is_empty())),
            None => (self.waiting_reason(spec).to_owned(), None),
        };
        let waiting = ContainerStateWaiting { reason: Some(reason), message };
        ContainerState { waiting: Some(waiting), ..ContainerState::default() }
    }

    fn waiting_reason(&self, spec: &Spec<'_>) -> &'static str {
        let has_init = self.specs.iter().any(|other| matches!(other.kind, Kind::Init | Kind::Sidecar));
        let begun = self.specs.iter().any(|s| s.kind == Kind::Regular && self.view.latest(s.name()).is_some());
        match spec.kind {
            Kind::Init | Kind::Sidecar => "PodInitializing",
            Kind::Regular if has_init && !begun && !self.init_done() => "PodInitializing",
            _ => "ContainerCreating",
        }
    }

    fn init_done(&self) -> bool {
        self.specs.iter().all(|spec| {
            let latest = self.view.latest(spec.name());
            match spec.kind {
                Kind::Init => latest.is_some_and(|c| c.state == RunState::Exited && c.exit_code == 0),
                Kind::Sidecar => latest.is_some_and(|c| c.state == RunState::Running && self.is_started(spec, c)),
                _ => true,
            }
        })
    }

    fn fill(&self, status: &mut ContainerStatus, spec: &Spec<'_>, container: &ContainerView) {
        status.restart_count = i32::try_from(container.attempt).unwrap_or(i32::MAX);
        status.container_id = Some(self.full_id(&container.id));
        status.image_id = container.image_id.clone();
        if !container.image.is_empty() {
            status.image = container.image.clone();
        }
        status.user = container.user.as_ref().map(|(uid, gid, groups)| ContainerUser {
            linux: Some(LinuxContainerUser { uid: *uid, gid: *gid, supplemental_groups: Some(groups.clone()) }),
        });
        let previous =
            self.view.containers.iter().filter(|c| c.name == container.name && c.attempt < container.attempt);
        let previous = previous.filter(|c| c.state == RunState::Exited).max_by_key(|c| c.attempt);
        let last = previous.map(|container| self.terminated(container));
        let remembered = || {
            let old = self.old_status(&container.name)?;
            // After the dead one is gone from the runtime too, its end stays told.
            (old.restart_count == status.restart_count).then(|| old.last_state.clone()).flatten()
        };
        status.last_state = last.or_else(remembered).or_else(|| Some(ContainerState::default()));
        match container.state {
            RunState::Running => {
                let started_at = container.started_at.and_then(time);
                let running = Some(ContainerStateRunning { started_at });
                status.state = Some(ContainerState { running, ..ContainerState::default() });
                if spec.kind != Kind::Ephemeral {
                    status.started = Some(self.is_started(spec, container));
                    status.ready = self.is_ready(spec, container) && spec.kind != Kind::Init;
                }
            }
            RunState::Exited => {
                let ended = self.terminated(container);
                let waits = self.is_redone(container)
                    || self.state.containers.get(spec.name()).is_some_and(|memory| memory.waiting.is_some());
                let restarts = self.follows(spec, container);
                if waits && restarts && self.state.terminating.is_none() {
                    status.last_state = Some(ended);
                } else {
                    status.ready = spec.kind == Kind::Init && container.exit_code == 0;
                    status.state = Some(ended);
                }
            }
            RunState::Unknown | RunState::Created => {
                if self.old_status(spec.name()).is_some_and(is_running) {
                    status.state = Some(lost(self.full_id(&container.id), LOST_MESSAGE));
                }
            }
        }
    }

    /// The runtime has no such container: it was never made, or it was made and is gone.
    fn fill_absent(&self, status: &mut ContainerStatus, spec: &Spec<'_>, old: Option<&ContainerStatus>) {
        let Some(old) = old else { return };
        status.restart_count = old.restart_count;
        status.last_state = old.last_state.clone().or_else(|| Some(ContainerState::default()));
        let ended = old.state.as_ref().is_some_and(|state| state.terminated.is_some());
        let init_over = spec.kind == Kind::Init && old.ready;
        let pod = spec::spec(self.pod);
        let for_good = spec.kind != Kind::Init && self.exit_code(spec).is_some_and(|code| !spec.restarts(pod, code));
        if for_good && !ended {
            let id = old.container_id.clone().unwrap_or_default();
            status.container_id = old.container_id.clone();
            status.image_id = old.image_id.clone();
            status.state = Some(lost(id, LOST_MESSAGE));
        } else if ended && (init_over || for_good || self.state.terminating.is_some()) {
            *status = ContainerStatus { resources: status.resources.clone(), ..old.clone() };
        } else if is_running(old) && self.hooked(spec).is_none() {
            let id = old.container_id.clone().unwrap_or_default();
            let message =
                "The container could not be located when the pod was deleted.  The container used to be Running";
            status.last_state = Some(lost(id, message));
            status.restart_count += 1;
        } else if ended {
            status.last_state = old.state.clone();
        }
    }

    fn full_id(&self, id: &str) -> String {
        format!("{}://{id}", self.view.runtime_name)
    }

    fn terminated(&self, container: &ContainerView) -> ContainerState {
        let reason = match (container.reason.as_str(), container.exit_code) {
            ("", 0) => "Completed",
            ("", _) => "Error",
            (reason, _) => reason,
        };
        ContainerState {
            terminated: Some(ContainerStateTerminated {
                container_id: Some(self.full_id(&container.id)),
                exit_code: container.exit_code,
                reason: Some(reason.to_owned()),
                message: Some(container.message.clone()).filter(|message| !message.is_empty()),
                started_at: container.started_at.and_then(time),
                finished_at: container.finished_at.and_then(time),
                signal: None,
            }),
            ..ContainerState::default()
        }
    }

    /// Whether the Pod is ending and nothing of it runs or will run.
    fn is_over(&self) -> bool {
        let runs = |container: &ContainerView| matches!(container.state, RunState::Running | RunState::Unknown);
        self.state.terminating.is_some()
            && self.view.known
            && !self.state.is_starting()
            && !self.view.containers.iter().any(runs)
    }

    /// A phase is final only once nothing runs any more.
    fn hold_back(&self, status: &mut PodStatus) {
        let told = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(told, Some("Succeeded" | "Failed"))
            || !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
        {
            return;
        }
        let before = self.old().and_then(|old| old.phase.clone()).filter(|phase| phase == "Running");
        status.phase = Some(before.unwrap_or_else(|| "Pending".to_owned()));
        status.reason = None;
        status.message = None;
    }

    /// The last word: no container stays running or waiting, and the phase is final.
    fn close(&self, status: &mut PodStatus) {
        let lists = [&mut status.container_statuses, &mut status.init_container_statuses];
        let has_init = self.specs.iter().any(|spec| matches!(spec.kind, Kind::Init | Kind::Sidecar));
        let main_begun = self.specs.iter().any(|s| s.kind == Kind::Regular && self.view.latest(s.name()).is_some());
        let begun = !has_init || main_begun || self.init_done();
        for container in lists.into_iter().flat_map(|list| list.iter_mut().flatten()) {
            container.ready &=
                !is_running(container) && container.state.as_ref().is_some_and(|s| s.terminated.is_some());
            container.started = container.started.map(|_| false);
            let ended = container.state.as_ref().is_some_and(|state| state.terminated.is_some());
            if !ended && begun {
                let message = "The container could not be located when the pod was terminated";
                container.state = Some(lost(container.container_id.clone().unwrap_or_default(), message));
            }
        }
        if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            status.phase = Some(self.phase(status).to_owned());
        }
        if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            status.phase = Some("Failed".to_owned());
        }
    }
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn lost(container_id: String, message: &str) -> ContainerState {
    ContainerState {
        terminated: Some(ContainerStateTerminated {
            container_id: Some(container_id).filter(|id| !id.is_empty()),
            exit_code: LOST_EXIT_CODE,
            reason: Some(LOST_REASON.to_owned()),
            message: Some(message.to_owned()),
            ..ContainerStateTerminated::default()
        }),
        ..ContainerState::default()
    }
}
