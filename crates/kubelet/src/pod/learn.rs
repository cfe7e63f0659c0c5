//! Folding the outcomes of earlier actions into what is remembered, with the events that upstream tells about them.

use std::time::Duration;

use super::Stepping;
use super::resize::IMAGE_VOLUME;
use super::types::{Ended, Image, NOT_ATTACHED, Outcome, Task, Volumes};

/// The first wait after a failed image pull; doubles up to [`BACKOFF_CAP`].
pub(super) const BACKOFF_INITIAL: Duration = Duration::from_secs(10);
/// The longest wait between container restarts and between image pulls.
pub(super) const BACKOFF_CAP: Duration = Duration::from_secs(300);
/// The first wait after a failed action on volumes or sandboxes.
const RETRY_INITIAL: Duration = Duration::from_millis(500);
/// The longest wait between tries of such an action.
const RETRY_CAP: Duration = Duration::from_secs(120);
/// Volumes that are not attached yet are told of once the waits have grown to this: some two minutes, as upstream.
const TELL_OF_WAITING: Duration = Duration::from_secs(64);
/// How long after an action that succeeded without effect the next try comes.
const REPEAT: Duration = Duration::from_secs(1);
/// How long after a failed start (such as for a missing ConfigMap) the next try comes.
const START_RETRY: Duration = Duration::from_secs(10);

impl Stepping<'_> {
    pub(super) fn learn(&mut self) {
        if self.view.objects_changed {
            self.state.volumes_stale = true;
            // What failed for want of an object may now succeed.
            self.state.retries.remove(&Task::Volumes);
            self.state.containers.values_mut().for_each(|memory| memory.retry_at = None);
        }
        for outcome in &self.view.outcomes {
            self.state.in_flight.remove(&outcome.task);
            self.learn_one(outcome);
        }
    }

    fn learn_one(&mut self, outcome: &Outcome) {
        match &outcome.task {
            Task::Resize => return self.learn_resize(&outcome.result),
            Task::Image(name) => return self.learn_image(name, &outcome.result),
            Task::Start(name) => return self.learn_start(name, &outcome.result),
            Task::PostStart(id) => return self.learn_post_start(id, &outcome.result),
            Task::Probe(id, kind) => {
                if let Ended::Probed { result, message } = &outcome.result {
                    self.learn_probe(id, *kind, *result, message);
                }
                return;
            }
            _ => {}
        }
        match &outcome.result {
            Ended::Failed { reason, message } => self.learn_failure(&outcome.task, reason, message),
            _ => {
                self.note_success(&outcome.task);
                match outcome.task {
                    Task::Volumes => {
                        self.state.volumes = Volumes::Ready;
                        self.state.refresh_at = match outcome.result {
                            Ended::VolumesReady { refresh_at } => refresh_at,
                            _ => None,
                        };
                    }
                    Task::TearDownVolumes => self.state.volumes = Volumes::Gone,
                    Task::Delete => self.state.deleted = true,
                    Task::CleanUp => self.state.cleaned = true,
                    _ => {}
                }
            }
        }
    }

    /// What succeeded shows in the view and is not asked for again. Should the runtime say otherwise, the action is repeated at
    /// a bounded rate.
    fn note_success(&mut self, task: &Task) {
        self.state.retries.retain(|other, (at, _)| other != task && *at + RETRY_CAP > self.now);
        match task {
            Task::StopSandbox(id) => drop(self.state.stopped.insert(id.clone())),
            Task::RemoveSandbox(id) => drop(self.state.stopped.remove(id)),
            _ => {}
        }
        let shows = matches!(
            task,
            Task::Sandbox
                | Task::Kill { .. }
                | Task::StopSandbox(_)
                | Task::RemoveContainer(_)
                | Task::RemoveSandbox(_)
        );
        if shows {
            self.state.retries.insert(task.clone(), (self.now + REPEAT, RETRY_INITIAL));
        }
    }

    /// A failed action is tried again after a growing delay, and told where a person can mend the cause.
    pub(super) fn learn_failure(&mut self, task: &Task, reason: &str, message: &str) {
        let before = self.state.retries.get(task).map(|(_, delay)| *delay);
        let waited = before.unwrap_or(Duration::ZERO);
        self.state.volumes_stale |= *task == Task::Volumes;
        match task {
            // To be attached takes its time, and somebody else tells what goes wrong with it.
            Task::Volumes if reason == NOT_ATTACHED && waited < TELL_OF_WAITING => {}
            Task::Volumes => self.event(true, "FailedMount", message, ""),
            Task::Sandbox => {
                self.event(true, "FailedCreatePodSandBox", format!("Failed to create pod sandbox: {message}"), "")
            }
            Task::Kill { id, .. } => {
                let name = self.name_of(id);
                if reason == "FailedPreStopHook" {
                    // The container has been stopped all the same.
                    return self.container_event(true, "FailedPreStopHook", "PreStopHook failed", &name);
                }
                self.event(true, "FailedKillPod", format!("error killing pod: {message}"), "");
            }
            _ => {}
        }
        let delay = before.map_or(RETRY_INITIAL, |delay| (delay * 2).min(RETRY_CAP));
        self.state.retries.insert(task.clone(), (self.now + delay, delay));
        self.wake(self.now + delay);
    }

    fn learn_image(&mut self, name: &str, result: &Ended) {
        let Some(image) = self.image_named(name) else { return };
        let now = self.now;
        match result {
            Ended::ImagePresent { image_ref } => {
                let memory = self.state.container(name);
                memory.image = Image::Present { image_ref: image_ref.clone(), pulled: false };
                if memory.pull_backoff.take().is_some() {
                    memory.waiting = None;
                }
            }
            Ended::ImageAbsent => self.state.container(name).image = Image::Absent,
            Ended::ImagePulled { image_ref, size_bytes, took, waited } => {
                let memory = self.state.container(name);
                memory.image = Image::Present { image_ref: image_ref.clone(), pulled: true };
                memory.pull_backoff = None;
                memory.waiting = None;
                let (took, waited) = (go_duration(*took), go_duration(*waited));
                let message = format!(
                    "Successfully pulled image {image:?} in {took} ({waited} including waiting). Image size: {size_bytes} bytes."
                );
                self.container_event(false, "Pulled", message, name);
            }
            Ended::Failed { reason, message } => {
                let memory = self.state.container(name);
                let delay = memory.pull_backoff.map_or(BACKOFF_INITIAL, |delay| (delay * 2).min(BACKOFF_CAP));
                memory.pull_backoff = Some(delay);
                memory.image = Image::Failed { reason: reason.clone(), message: message.clone(), at: now, delay };
                memory.waiting = Some((reason.clone(), message.clone()));
                let told = match reason.as_str() {
                    "InvalidImageName" => ("InspectFailed", message.clone()),
                    "ImageInspectError" => ("InspectFailed", format!("Failed to inspect image {image:?}: {message}")),
                    _ => ("Failed", format!("Failed to pull image {image:?}: {message}")),
                };
                self.container_event(true, told.0, told.1, name);
                self.container_event(true, "Failed", format!("Error: {reason}"), name);
            }
            _ => self.state.container(name).image = Image::Unknown,
        }
    }

    /// The image of a container, or of a volume.
    fn image_named(&self, name: &str) -> Option<String> {
        if let Some(volume) = name.strip_prefix(IMAGE_VOLUME) {
            let volumes = super::spec::spec(self.pod).volumes.iter().flatten();
            let volume = volumes.into_iter().find(|other| other.name == volume)?;
            return volume.image.as_ref()?.reference.clone();
        }
        self.specs.iter().find(|spec| spec.name() == name).map(|spec| spec.image().to_owned())
    }

    fn learn_start(&mut self, name: &str, result: &Ended) {
        let now = self.now;
        match result {
            Ended::Started { id } => {
                let hook = self.specs.iter().any(|spec| spec.name() == name && spec.has_post_start());
                let memory = self.state.container(name);
                memory.image = Image::Unknown;
                memory.waiting = None;
                memory.retry_at = None;
                memory.post_start = hook.then(|| id.clone());
                self.container_event(false, "Created", "Container created", name);
                self.container_event(false, "Started", "Container started", name);
                if hook {
                    self.act(super::Action::RunPostStart { name: name.to_owned(), id: id.clone() });
                }
            }
            Ended::Failed { reason, message } => {
                // The image of a volume may be what is missing.
                let volumes = self.state.containers.iter_mut().filter(|(name, _)| name.starts_with(IMAGE_VOLUME));
                volumes.for_each(|(_, memory)| memory.image = Image::Unknown);
                let memory = self.state.container(name);
                memory.image = Image::Unknown;
                memory.waiting = Some((reason.clone(), message.clone()));
                memory.retry_at = Some(now + START_RETRY);
                if reason == "RunContainerError" {
                    self.container_event(false, "Created", "Container created", name);
                }
                self.container_event(true, "Failed", format!("Error: {message}"), name);
            }
            _ => self.state.container(name).image = Image::Unknown,
        }
    }

    fn learn_post_start(&mut self, id: &str, result: &Ended) {
        let name = self.name_of(id);
        let memory = self.state.container(&name);
        if memory.post_start.as_deref() == Some(id) {
            memory.post_start = None;
        }
        if let Ended::Failed { message, .. } = result {
            memory.waiting = Some(("PostStartHookError".to_owned(), message.clone()));
            self.container_event(true, "FailedPostStartHook", "PostStartHook failed", &name);
            let grace = super::spec::grace_seconds(self.pod);
            self.kill(&name, id, grace, "FailedPostStartHook".to_owned());
        }
    }

    /// The name of the container with an id; the id itself where the runtime no longer has it.
    pub(super) fn name_of(&self, id: &str) -> String {
        let container = self.view.containers.iter().find(|container| container.id == id);
        let remembered = || {
            let holds = |id: &str, memory: &super::types::ContainerMemory| {
                memory.post_start.as_deref() == Some(id) || memory.killed.as_ref().is_some_and(|(k, _)| k == id)
            };
            self.state.containers.iter().find(|(_, memory)| holds(id, memory)).map(|(name, _)| name.clone())
        };
        container.map(|container| container.name.clone()).or_else(remembered).unwrap_or_else(|| id.to_owned())
    }
}

/// A duration as Go prints it, rounded to milliseconds: `85ms`, `1.317s`, `1m5.2s`.
fn go_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let (minutes, rest) = (millis / 60_000, millis % 60_000);
    let fraction = format!("{:03}", rest % 1000);
    let fraction = fraction.trim_end_matches('0');
    let dot = if fraction.is_empty() { "" } else { "." };
    let seconds = format!("{}{dot}{fraction}s", rest / 1000);
    if minutes == 0 { seconds } else { format!("{minutes}m{seconds}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_gos() {
        for (millis, text) in [(85, "85ms"), (1000, "1s"), (1317, "1.317s"), (65_200, "1m5.2s")] {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
