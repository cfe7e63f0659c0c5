//! The world of a scenario: it carries out actions at once, unless the script says how they fail.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skiff_base::Timestamp;

use crate::pod::spec;
use crate::pod::step;
use crate::pod::types::*;

/// Steps after which a scenario that does not come to rest is given up.
const MOST_STEPS: usize = 50;
/// Conditions that are shown while they hold, beside the passing ones.
const TOLD: [&str; 2] = ["DisruptionTarget", "AllContainersRestarting"];

pub(super) struct World {
    pub(super) pod: Pod,
    pub(super) view: RuntimeView,
    state: PodState,
    now: Timestamp,
    start: Timestamp,
    log: String,
    shown: String,
    images: BTreeSet<String>,
    /// What the next action of a name comes to.
    fail: BTreeMap<String, Ended>,
    /// Actions that do not end.
    pub(super) stuck: BTreeSet<String>,
    probes: BTreeMap<ProbeKind, ProbeResult>,
    next_id: usize,
    wake_at: Option<Timestamp>,
}

/// Plays a script and compares what happened.
pub(super) fn check(yaml: &str, script: impl FnOnce(&mut World), expected: expect_test::Expect) {
    let mut world = World::new(yaml);
    world.run();
    script(&mut world);
    expected.assert_eq(&world.log);
}

impl World {
    fn new(yaml: &str) -> Self {
        let mut pod: Pod = serde_saphyr::from_str(yaml).expect("the scenario's Pod is valid YAML");
        let meta = &mut pod.metadata;
        meta.namespace = Some("default".into());
        meta.uid = Some("uid".into());
        meta.generation = Some(1);
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a valid time");
        let view = RuntimeView {
            known: true,
            host_ips: vec!["192.0.2.1".into()],
            runtime_name: "fake".into(),
            ..RuntimeView::default()
        };
        let images = spec::containers(&pod).iter().map(|spec| spec.image().to_owned()).collect();
        World {
            pod,
            view,
            state: PodState::default(),
            now: start,
            start,
            log: String::new(),
            shown: String::new(),
            images,
            fail: BTreeMap::new(),
            stuck: BTreeSet::new(),
            probes: BTreeMap::new(),
            next_id: 0,
            wake_at: None,
        }
    }

    /// Steps until nothing happens any more.
    pub(super) fn run(&mut self) {
        for _ in 0..MOST_STEPS {
            let step = step(&self.pod, &self.view, std::mem::take(&mut self.state), self.now);
            self.state = step.state;
            self.wake_at = step.wake_at;
            self.view.outcomes.clear();
            self.view.objects_changed = false;
            for event in &step.events {
                let kind = if event.warning { "!" } else { "" };
                self.say(&format!("  event {kind}{}: {}", event.reason, event.message));
            }
            self.show(&step.status);
            if step.actions.is_empty() {
                return;
            }
            for action in step.actions {
                self.carry_out(action);
            }
        }
        panic!("the scenario does not come to rest:\n{}", self.log);
    }

    /// Lets time pass, waking when the state machine asked for it.
    pub(super) fn pass(&mut self, seconds: u64) {
        let until = self.now + Duration::from_secs(seconds);
        while let Some(at) = self.wake_at.filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.run();
            assert!(self.wake_at.is_none_or(|next| next > at), "it asks to be woken at {at} for ever:\n{}", self.log);
        }
        self.now = until;
        self.run();
    }

    pub(super) fn exit(&mut self, name: &str, code: i32) {
        let now = self.now;
        let container = self.newest(name);
        container.state = RunState::Exited;
        container.exit_code = code;
        container.finished_at = Some(now);
        self.say(&format!("* {name} exits with {code}"));
        self.run();
    }

    /// Forgets what has happened so far.
    pub(super) fn take_log(&mut self) -> String {
        std::mem::take(&mut self.log)
    }

    /// The node allocates another amount of a resource, request and limit.
    pub(super) fn allocate(&mut self, name: &str, resource: &str, amount: &str) {
        let spec = self.pod.spec.as_mut().expect("the scenario's Pod has a spec");
        let container = spec.containers.iter_mut().find(|container| container.name == name);
        let resources = container.expect("the Pod has such a container").resources.get_or_insert_default();
        for list in [&mut resources.requests, &mut resources.limits] {
            let amount = k8s_openapi::apimachinery::pkg::api::resource::Quantity(amount.to_owned());
            list.get_or_insert_default().insert(resource.to_owned(), amount);
        }
        self.say(&format!("* {resource} of {name} becomes {amount}"));
        self.run();
    }

    pub(super) fn newest(&mut self, name: &str) -> &mut ContainerView {
        let found = self.view.containers.iter_mut().filter(|container| container.name == name);
        found.max_by_key(|container| container.attempt).expect("the scenario has such a container")
    }

    pub(super) fn delete(&mut self, grace_seconds: i64) {
        self.pod.metadata.deletion_timestamp = Some(Time(self.now + Duration::from_secs(grace_seconds as u64)));
        self.pod.metadata.deletion_grace_period_seconds = Some(grace_seconds);
        self.say(&format!("* deleted with a grace of {grace_seconds}s"));
        self.run();
    }

    pub(super) fn fail(&mut self, action: &str, reason: &str, message: &str) {
        self.fail.insert(action.into(), Ended::Failed { reason: reason.into(), message: message.into() });
    }

    pub(super) fn lose_image(&mut self, image: &str) {
        self.images.remove(image);
    }

    pub(super) fn answer(&mut self, kind: ProbeKind, result: ProbeResult) {
        self.probes.insert(kind, result);
    }

    /// Something that the Pod refers to changes.
    pub(super) fn change_objects(&mut self) {
        self.say("* objects change");
        self.view.objects_changed = true;
        self.run();
    }

    /// Ends an action that was stuck.
    pub(super) fn finish(&mut self, task: Task, result: Ended) {
        self.view.outcomes.push(Outcome { task, result });
        self.run();
    }

    /// The agent starts anew: it remembers nothing and has the status that the API has.
    pub(super) fn restart_agent(&mut self) {
        self.pod.status = self.state.status.take();
        self.state = PodState::default();
        self.shown.clear();
        self.say("* the agent starts anew");
        self.run();
    }

    /// The runtime cannot be asked any more, or can again.
    pub(super) fn reach_runtime(&mut self, reached: bool) {
        self.view.known = reached;
        self.say(if reached { "* the runtime answers" } else { "* the runtime does not answer" });
        self.run();
    }

    /// The runtime forgets everything, as when its state was removed while the agent was down.
    pub(super) fn vanish(&mut self) {
        self.view.sandboxes.clear();
        self.view.containers.clear();
        self.say("* the runtime has lost all");
        self.restart_agent();
    }

    pub(super) fn reboot(&mut self) {
        let now = self.now;
        self.view.sandboxes.iter_mut().for_each(|sandbox| sandbox.ready = false);
        for container in self.view.containers.iter_mut().filter(|c| c.state == RunState::Running) {
            container.state = RunState::Exited;
            container.exit_code = 255;
            container.finished_at = Some(now);
        }
        self.say("* the machine reboots");
        self.restart_agent();
    }

    fn say(&mut self, text: &str) {
        let seconds = self.now.duration_since(self.start).as_secs();
        let time = format!("{seconds}s");
        writeln!(self.log, "{time:<5} {text}").expect("writing to a string cannot fail");
    }

    fn show(&mut self, status: &PodStatus) {
        let text = summary(status);
        if text != self.shown {
            self.say(&format!("  status {text}"));
            self.shown = text;
        }
    }

    fn carry_out(&mut self, action: Action) {
        let task = action.task();
        let (name, text) = describe(&action);
        if !matches!(action, Action::Probe { .. } | Action::InspectImage { .. }) {
            self.say(&text);
        }
        if self.stuck.contains(name) {
            return;
        }
        let result = match self.fail.remove(name) {
            Some(failure) => failure,
            None => self.result(&action),
        };
        self.view.outcomes.push(Outcome { task, result });
    }

    fn result(&mut self, action: &Action) -> Ended {
        let now = self.now;
        match action {
            Action::SetUpVolumes => return Ended::VolumesReady { refresh_at: None },
            Action::RunSandbox { attempt } => self.view.sandboxes.push(SandboxView {
                id: format!("sandbox-{attempt}"),
                attempt: *attempt,
                ready: true,
                created_at: now,
                ips: vec![format!("10.244.0.{}", attempt + 2)],
            }),
            Action::InspectImage { image, .. } if self.images.contains(image) => {
                return Ended::ImagePresent { image_ref: format!("ref-{image}") };
            }
            Action::InspectImage { .. } => return Ended::ImageAbsent,
            Action::Resize { .. } => return Ended::Well,
            Action::PullImage { image, .. } => {
                self.images.insert(image.clone());
                let took = Duration::from_millis(1317);
                return Ended::ImagePulled { image_ref: format!("ref-{image}"), size_bytes: 5, took, waited: took };
            }
            Action::StartContainer { name, attempt, sandbox_id, image_ref, .. } => {
                self.next_id += 1;
                let id = format!("id-{}", self.next_id);
                let spec = spec::container(&self.pod, name).expect("the action names a container of the Pod");
                self.view.containers.push(ContainerView {
                    id: id.clone(),
                    name: name.clone(),
                    attempt: *attempt,
                    sandbox_id: sandbox_id.clone(),
                    state: RunState::Running,
                    created_at: now,
                    started_at: Some(now),
                    finished_at: None,
                    exit_code: 0,
                    reason: String::new(),
                    message: String::new(),
                    image: spec.image().to_owned(),
                    image_id: image_ref.clone(),
                    hash: spec.hash(),
                    user: None,
                });
                return Ended::Started { id };
            }
            Action::KillContainer { id, .. } => {
                let container = self.view.containers.iter_mut().find(|container| container.id == *id);
                if let Some(container) = container.filter(|container| container.state != RunState::Exited) {
                    container.state = RunState::Exited;
                    container.exit_code = 143;
                    container.finished_at = Some(now);
                }
            }
            Action::StopSandbox { id } => {
                self.view.sandboxes.iter_mut().filter(|sandbox| sandbox.id == *id).for_each(|s| s.ready = false);
            }
            Action::RemoveContainer { id, .. } => self.view.containers.retain(|container| container.id != *id),
            Action::RemoveSandbox { id } => {
                self.view.sandboxes.retain(|sandbox| sandbox.id != *id);
                self.view.containers.retain(|container| container.sandbox_id != *id);
            }
            Action::Probe { probe, .. } => {
                let result = self.probes.get(probe).copied().unwrap_or(ProbeResult::Success);
                return Ended::Probed { result, message: "HTTP probe failed with statuscode: 500".into() };
            }
            _ => {}
        }
        Ended::Well
    }
}

fn describe(action: &Action) -> (&'static str, String) {
    match action {
        Action::SetUpVolumes => ("volumes", "set up volumes".into()),
        Action::RunSandbox { attempt } => ("sandbox", format!("run sandbox #{attempt}")),
        Action::InspectImage { name, .. } => ("inspect", format!("inspect image of {name}")),
        Action::PullImage { name, image } => ("pull", format!("pull {image} for {name}")),
        Action::StartContainer { name, attempt, .. } => ("start", format!("start {name} #{attempt}")),
        Action::RunPostStart { name, .. } => ("postStart", format!("run postStart of {name}")),
        Action::KillContainer { name, grace_seconds, pre_stop, .. } => {
            let hook = if *pre_stop { "" } else { ", without hook" };
            ("kill", format!("stop {name} within {grace_seconds}s{hook}"))
        }
        Action::StopSandbox { id } => ("stop", format!("stop {id}")),
        Action::TearDownVolumes => ("teardown", "tear down volumes".into()),
        Action::RemoveContainer { name, attempt, .. } => ("remove", format!("remove {name} #{attempt}")),
        Action::RemoveSandbox { id } => ("removeSandbox", format!("remove {id}")),
        Action::DeletePod => ("delete", "delete the Pod's object".into()),
        Action::CleanUp => ("cleanup", "clean up".into()),
        Action::Resize { containers } => {
            let names: Vec<_> = containers.iter().map(|(name, _)| name.as_str()).collect();
            ("resize", format!("resize {}", names.join(", ")))
        }
        Action::Probe { name, probe, .. } => ("probe", format!("{} probe of {name}", probe.word())),
    }
}

fn summary(status: &PodStatus) -> String {
    let mut text = status.phase.clone().unwrap_or_default();
    if let Some(reason) = &status.reason {
        write!(text, " ({reason}: {})", status.message.as_deref().unwrap_or("")).expect("writes to a string");
    }
    let all = status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
    for container in all {
        write!(text, " | {}", container_summary(container)).expect("writes to a string");
    }
    let short = [("PodReadyToStartContainers", 'S'), ("Initialized", 'I'), ("Ready", 'R'), ("ContainersReady", 'C')];
    let holds = |kind: &str| status.conditions.iter().flatten().any(|c| c.type_ == kind && c.status == "True");
    let letters: String = short.iter().map(|(kind, letter)| if holds(kind) { *letter } else { '-' }).collect();
    write!(text, " | {letters}").expect("writes to a string");
    for condition in status.conditions.iter().flatten().filter(|c| {
        crate::pod::PASSING_CONDITIONS.contains(&c.type_.as_str())
            || (TOLD.contains(&c.type_.as_str()) && c.status == "True")
    }) {
        write!(text, " | {}", condition.type_).expect("writes to a string");
        if let Some(reason) = &condition.reason {
            write!(text, " ({reason}: {})", condition.message.as_deref().unwrap_or("")).expect("writes to a string");
        }
    }
    for status in status.container_statuses.iter().flatten() {
        let cpu = status.resources.as_ref().and_then(|resources| resources.requests.as_ref()?.get("cpu"));
        if let Some(cpu) = cpu {
            write!(text, " | {} has {} cpu", status.name, cpu.0).expect("writes to a string");
        }
    }
    text
}

fn container_summary(status: &ContainerStatus) -> String {
    let mut text = format!("{} {}", status.name, state(status.state.as_ref()));
    if status.last_state.as_ref().is_some_and(|last| last.terminated.is_some()) {
        write!(text, ", was {}", state(status.last_state.as_ref())).expect("writes to a string");
    }
    if status.restart_count > 0 {
        write!(text, ", restarts {}", status.restart_count).expect("writes to a string");
    }
    if status.started == Some(true) {
        text.push_str(", started");
    }
    if status.ready {
        text.push_str(", ready");
    }
    text
}

fn state(state: Option<&ContainerState>) -> String {
    let Some(state) = state else { return "?".into() };
    if state.running.is_some() {
        return "running".into();
    }
    if let Some(ended) = &state.terminated {
        return format!("ended {} {}", ended.exit_code, ended.reason.as_deref().unwrap_or(""));
    }
    state.waiting.as_ref().map_or("?".into(), |waiting| {
        let message = waiting.message.as_ref().map(|message| format!(" ({message})")).unwrap_or_default();
        format!("{}{message}", waiting.reason.as_deref().unwrap_or("?"))
    })
}
