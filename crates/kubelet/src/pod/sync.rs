//! The way up: volumes, sandbox, init containers in order, containers, restarts with back-off, and the
//! removal of what earlier attempts left.

use std::time::Duration;

use super::Stepping;
use super::learn::{BACKOFF_CAP, BACKOFF_INITIAL};
use super::resize::IMAGE_VOLUME;
use super::spec::{self, Spec};
use super::types::{Action, ContainerView, Image, Kind, RunState, Task, Volumes};

/// How long a failed pull is shown as itself before it is shown as a back-off.
const BACKOFF_SHOWN_AFTER: Duration = Duration::from_secs(2);
/// How often an image that may not be pulled is looked for.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Dead containers that are kept for each name, for `kubectl logs --previous` and the last state.
const DEAD_KEPT: usize = 1;

impl Stepping<'_> {
    pub(super) fn sync(&mut self) {
        let stale = self.state.refresh_at.is_some_and(|at| at <= self.now) || self.state.volumes_stale;
        if self.state.volumes != Volumes::Ready || stale {
            // What is under way may have read what has changed since: then it is done once more.
            if self.act(Action::SetUpVolumes) {
                self.state.volumes_stale = false;
            }
        } else if let Some(refresh_at) = self.state.refresh_at {
            self.wake(refresh_at);
        }
        self.collect_garbage();
        match self.view.ready_sandbox() {
            Some(sandbox) => {
                let id = sandbox.id.clone();
                self.sync_containers(&id);
            }
            None => self.sync_sandbox(),
        }
    }

    /// Makes a sandbox where a container wants to run and there is none; what still runs in an old one goes first.
    fn sync_sandbox(&mut self) {
        let view = self.view;
        let mut running = false;
        for container in view.containers.iter().filter(|container| container.state == RunState::Running) {
            running = true;
            let why = format!("Stopping container {}", container.name);
            self.kill(&container.name, &container.id, spec::grace_seconds(self.pod), why);
        }
        if running || self.state.volumes != Volumes::Ready || !self.stop_sandboxes() {
            return;
        }
        let newest = view.sandbox();
        let attempt = newest.map_or(0, |sandbox| sandbox.attempt + 1);
        if self.act(Action::RunSandbox { attempt }) {
            if newest.is_some() {
                self.event(false, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.", "");
            }
            // While the sandbox is made, the images can be looked for: it costs nothing and saves a turn.
            let specs = self.specs.clone();
            for spec in specs.iter().filter(|spec| pull_policy(spec) != "Always") {
                self.inspect(spec);
            }
        }
    }

    /// Stops every sandbox that was not stopped yet, also those that have ended: the next one may need their ports. Returns
    /// whether all of them are.
    pub(super) fn stop_sandboxes(&mut self) -> bool {
        let mut stopped = true;
        for sandbox in &self.view.sandboxes {
            if sandbox.ready || !self.state.stopped.contains(&sandbox.id) {
                stopped = false;
                self.act(Action::StopSandbox { id: sandbox.id.clone() });
            }
        }
        stopped
    }

    fn sync_containers(&mut self, sandbox_id: &str) {
        if self.state.volumes != Volumes::Ready {
            return;
        }
        if self.restart_all(sandbox_id) {
            return;
        }
        let specs = std::mem::take(&mut self.specs);
        let view = self.view;
        let in_sandbox = |spec: &Spec<'_>| view.latest(spec.name()).filter(|c| c.sandbox_id == sandbox_id);
        let begun = |spec: &Spec<'_>| in_sandbox(spec).is_some_and(|container| !self.is_redone(container));
        let main_begun = specs.iter().any(|spec| spec.kind == Kind::Regular && begun(spec));
        for spec in &specs {
            let latest = in_sandbox(spec);
            let state = latest.map(|container| container.state);
            self.replace_changed(spec, latest);
            self.replace_resized(spec, latest);
            self.end_unknown(spec, latest);
            match (spec.kind, state) {
                (Kind::Init, _) if main_begun => {}
                (Kind::Init, Some(RunState::Exited))
                    if latest.is_some_and(|c| c.exit_code == 0 && !self.is_redone(c)) => {}
                (Kind::Init, Some(RunState::Running | RunState::Unknown)) => break,
                (Kind::Init, _) => {
                    self.start(spec, sandbox_id);
                    break;
                }
                (Kind::Sidecar, Some(RunState::Running | RunState::Unknown)) => {
                    if !main_begun && latest.is_some_and(|container| !self.is_started(spec, container)) {
                        break;
                    }
                }
                (Kind::Sidecar, _) => {
                    self.start(spec, sandbox_id);
                    if !main_begun {
                        break;
                    }
                }
                (_, Some(RunState::Running | RunState::Unknown)) => {}
                _ => self.start(spec, sandbox_id),
            }
        }
        self.resize(&specs);
        self.specs = specs;
    }

    /// Stops a container whose image in the spec is no longer the one that it was made from.
    fn replace_changed(&mut self, spec: &Spec<'_>, latest: Option<&ContainerView>) {
        let Some(container) = latest.filter(|c| c.state == RunState::Running && spec.kind != Kind::Ephemeral) else {
            return;
        };
        if !container.hash.is_empty() && container.hash != spec.hash() {
            let why = format!("Container {} definition changed, will be restarted", spec.name());
            self.state.container(spec.name()).replaced = Some(container.id.clone());
            self.kill_spec(spec, container, spec::grace_seconds(self.pod), why);
        }
    }

    /// Stops a container of which the runtime does not know how it is, so that another one may follow it.
    fn end_unknown(&mut self, spec: &Spec<'_>, latest: Option<&ContainerView>) {
        if let Some(container) = latest.filter(|container| container.state == RunState::Unknown) {
            let why = "Container is in \"unknown\" state, try killing it before starting a new one".to_owned();
            self.kill_spec(spec, container, spec::grace_seconds(self.pod), why);
        }
    }

    /// As [`Stepping::kill`], while the specs are lent out.
    pub(super) fn kill_spec(&mut self, spec: &Spec<'_>, container: &ContainerView, grace_seconds: i64, why: String) {
        let before = self.events.len();
        self.kill(spec.name(), &container.id, grace_seconds, why);
        for event in &mut self.events[before..] {
            event.field_path = spec.field_path();
        }
    }

    /// Brings a container that does not run nearer to running: waits out its back-off, gets its image, starts it.
    fn start(&mut self, spec: &Spec<'_>, sandbox_id: &str) {
        let name = spec.name().to_owned();
        if self.state.busy(&Task::Start(name.clone())) {
            return;
        }
        if let Some(latest) = self.view.latest(&name) {
            if latest.state == RunState::Created {
                // Its start failed; the name and number are needed again.
                let (id, attempt) = (latest.id.clone(), latest.attempt);
                self.act(Action::RemoveContainer { id, name, attempt });
                return;
            }
            if latest.state == RunState::Exited && self.is_over_or_backing_off(spec, latest, sandbox_id) {
                return;
            }
        }
        let vanished = self.view.latest(&name).is_none() && spec.kind != Kind::Init;
        if vanished && self.exit_code(spec).is_some_and(|code| !spec.restarts(spec::spec(self.pod), code)) {
            return;
        }
        if let Some(retry_at) = self.state.container(&name).retry_at.filter(|at| *at > self.now) {
            return self.wake(retry_at);
        }
        let Some(volume_images) = self.volume_images(spec) else { return };
        let Some(image_ref) = self.image(spec) else { return };
        let attempt = self.next_attempt(&name);
        let now = self.now;
        if self.act(Action::StartContainer {
            kind: spec.kind,
            name: name.clone(),
            attempt,
            sandbox_id: sandbox_id.to_owned(),
            image_ref,
            volume_images,
        }) {
            let resources = spec.container.resources.clone().unwrap_or_default();
            self.state.container(&name).enacted = Some((attempt, resources));
            let restarted = self.view.latest(&name).and_then(|latest| latest.finished_at);
            let cap = self.restart_cap();
            let memory = self.state.container(&name);
            if let Some(finished) = restarted {
                memory.backoff = Some((next_delay(memory.backoff, finished, cap), now));
            }
        }
    }

    /// Whether an ended container stays ended, or must wait before it comes back.
    fn is_over_or_backing_off(&mut self, spec: &Spec<'_>, ended: &ContainerView, sandbox_id: &str) -> bool {
        // In a new sandbox the init containers run once more, whatever they came to in the old one.
        let again = spec.kind == Kind::Init && ended.sandbox_id != sandbox_id;
        if !again && !self.follows(spec, ended) {
            return true;
        }
        let finished = ended.finished_at.unwrap_or(ended.created_at);
        let memory = self.state.container(spec.name());
        let Some((delay, raised)) = memory.backoff else { return false };
        if is_stale(raised, finished) {
            return false;
        }
        let Some(until) = self.ahead(finished, delay) else { return false };
        let pod = spec::pod_ref(self.pod);
        let (name, attempt) = (spec.name(), ended.attempt);
        let memory = self.state.container(name);
        let text = format!("back-off {} restarting failed container={name} pod={pod}", go_backoff(delay));
        memory.waiting = Some(("CrashLoopBackOff".to_owned(), text));
        if memory.backoff_told.replace(attempt) != Some(attempt) {
            let message = format!("Back-off restarting failed container {name} in pod {pod}");
            self.event(true, "BackOff", message, spec.field_path());
        }
        self.wake(until);
        true
    }

    /// Whether another container follows one that has ended.
    pub(super) fn follows(&self, spec: &Spec<'_>, ended: &ContainerView) -> bool {
        let memory = self.state.containers.get(spec.name());
        let replaced = memory.is_some_and(|memory| memory.replaced.as_deref() == Some(ended.id.as_str()));
        replaced || self.is_redone(ended) || spec.restarts(spec::spec(self.pod), ended.exit_code)
    }

    /// The longest wait between restarts.
    fn restart_cap(&self) -> Duration {
        self.view.restart_cap.unwrap_or(BACKOFF_CAP)
    }

    /// The attempt that a container started now would be.
    fn next_attempt(&self, name: &str) -> u32 {
        match self.view.latest(name) {
            Some(latest) => latest.attempt + 1,
            None => self.old_status(name).map_or(0, |old| {
                let ran = old.container_id.as_ref().is_some_and(|id| !id.is_empty());
                u32::try_from(old.restart_count).unwrap_or(0) + u32::from(ran)
            }),
        }
    }

    fn inspect(&mut self, spec: &Spec<'_>) {
        if self.state.container(spec.name()).image == Image::Unknown {
            self.act(Action::InspectImage { name: spec.name().to_owned(), image: spec.image().to_owned() });
        }
    }

    /// The image to start from, once it is there; until then whatever brings it nearer.
    fn image(&mut self, spec: &Spec<'_>) -> Option<String> {
        let (policy, image, name) = (pull_policy(spec), spec.image().to_owned(), spec.name());
        match self.state.container(name).image.clone() {
            Image::Present { image_ref, pulled } if pulled || policy != "Always" => {
                if !pulled {
                    let message =
                        format!("Container image {image:?} already present on machine and can be accessed by the pod");
                    self.event(false, "Pulled", message, spec.field_path());
                }
                Some(image_ref)
            }
            Image::Unknown if policy != "Always" => {
                self.inspect(spec);
                None
            }
            Image::Absent if policy == "Never" => {
                let message = format!("Container image {image:?} is not present with pull policy of Never");
                self.event(true, "ErrImageNeverPull", message.clone(), spec.field_path());
                self.event(true, "Failed", "Error: ErrImageNeverPull", spec.field_path());
                let look_again = self.now + LOOK_AGAIN;
                let memory = self.state.container(name);
                memory.waiting = Some(("ErrImageNeverPull".to_owned(), message));
                memory.retry_at = Some(look_again);
                memory.image = Image::Unknown;
                self.wake(look_again);
                None
            }
            Image::Failed { reason, message, at, delay } => {
                self.image_back_off(spec, &reason, &message, at, delay);
                None
            }
            Image::Unknown | Image::Absent | Image::Present { .. } => {
                self.pull(spec);
                None
            }
        }
    }

    /// The images of the volumes that a container mounts, once they are all there; until then whatever brings them nearer, and
    /// the container shows what keeps them away.
    fn volume_images(&mut self, spec: &Spec<'_>) -> Option<std::collections::BTreeMap<String, String>> {
        let mut all = std::collections::BTreeMap::new();
        let mut missing = false;
        for volume in spec::image_volumes(self.pod, &spec.container) {
            match self.image(&volume) {
                Some(image_ref) => {
                    let pulled = Image::Present { image_ref: image_ref.clone(), pulled: true };
                    self.state.container(volume.name()).image = pulled;
                    let name = volume.name().strip_prefix(IMAGE_VOLUME).unwrap_or(volume.name());
                    all.insert(name.to_owned(), image_ref);
                }
                None => {
                    missing = true;
                    if let Some(waiting) = self.state.container(volume.name()).waiting.clone() {
                        self.state.container(spec.name()).waiting = Some(waiting);
                    }
                }
            }
        }
        (!missing).then_some(all)
    }

    fn pull(&mut self, spec: &Spec<'_>) {
        let (name, image) = (spec.name().to_owned(), spec.image().to_owned());
        let message = format!("Pulling image {image:?}");
        if self.act(Action::PullImage { name, image }) {
            self.event(false, "Pulling", message, spec.field_path());
        }
    }

    fn image_back_off(&mut self, spec: &Spec<'_>, reason: &str, message: &str, at: super::Timestamp, delay: Duration) {
        let Some(until) = self.ahead(at, delay) else {
            // An invalid name is parsed again as well: only another spec mends it, but asking is cheap.
            if self.state.busy(&Task::Image(spec.name().to_owned())) {
                return;
            }
            if pull_policy(spec) == "Always" {
                return self.pull(spec);
            }
            // Somebody may have brought it meanwhile; or it was there, and the runtime could not say so.
            self.state.container(spec.name()).image = Image::Unknown;
            return self.inspect(spec);
        };
        self.wake(until);
        if reason == "InvalidImageName" {
            return;
        }
        if let Some(shown_at) = self.ahead(at, BACKOFF_SHOWN_AFTER) {
            return self.wake(shown_at);
        }
        let text = format!("Back-off pulling image {:?}: {reason}: {message}", spec.image());
        let waiting = Some(("ImagePullBackOff".to_owned(), text));
        let memory = self.state.container(spec.name());
        if memory.waiting != waiting {
            memory.waiting = waiting;
            let told = format!("Back-off pulling image {:?}", spec.image());
            self.event(false, "BackOff", told, spec.field_path());
            self.event(true, "Failed", "Error: ImagePullBackOff", spec.field_path());
        }
    }

    /// Removes dead containers beyond the ones kept, and sandboxes that nothing refers to any more.
    fn collect_garbage(&mut self) {
        let view = self.view;
        for spec in self.specs.clone() {
            let dead = |c: &&ContainerView| c.name == spec.name() && c.state == RunState::Exited;
            let mut dead: Vec<_> = view.containers.iter().filter(dead).collect();
            dead.sort_by_key(|container| std::cmp::Reverse(container.attempt));
            for container in dead.into_iter().skip(DEAD_KEPT) {
                let (id, name, attempt) = (container.id.clone(), container.name.clone(), container.attempt);
                self.act(Action::RemoveContainer { id, name, attempt });
            }
        }
        let newest = view.sandbox().map(|sandbox| sandbox.id.as_str());
        for sandbox in view.sandboxes.iter().filter(|sandbox| Some(sandbox.id.as_str()) != newest) {
            if sandbox.ready {
                self.act(Action::StopSandbox { id: sandbox.id.clone() });
            } else if !view.containers.iter().any(|container| container.sandbox_id == sandbox.id) {
                self.act(Action::RemoveSandbox { id: sandbox.id.clone() });
            }
        }
    }
}

/// When the image is pulled; the API server has written the default into the spec.
fn pull_policy<'a>(spec: &'a Spec<'_>) -> &'a str {
    spec.container.image_pull_policy.as_deref().unwrap_or("IfNotPresent")
}

/// Whether a back-off raised at `raised` is forgotten for a container that ended at `finished`.
fn is_stale(raised: super::Timestamp, finished: super::Timestamp) -> bool {
    finished > raised + BACKOFF_CAP * 2
}

fn next_delay(backoff: Option<(Duration, super::Timestamp)>, finished: super::Timestamp, cap: Duration) -> Duration {
    match backoff {
        Some((delay, raised)) if !is_stale(raised, finished) => (delay * 2).min(cap),
        _ => BACKOFF_INITIAL.min(cap),
    }
}

/// `10s`, `1m20s`, `5m0s`, as Go prints whole seconds.
fn go_backoff(delay: Duration) -> String {
    let (minutes, seconds) = (delay.as_secs() / 60, delay.as_secs() % 60);
    if minutes == 0 { format!("{seconds}s") } else { format!("{minutes}m{seconds}s") }
}
