//! What goes into and comes out of [`super::step`]: plain data, no behaviour beyond small accessors.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus, ResourceRequirements};
use skiff_base::Timestamp;

/// Which list of the Pod's spec a container comes from, and how it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container with `restartPolicy: Always`: runs beside the others from its turn on.
    Sidecar,
    /// An entry of `spec.containers`.
    Regular,
    /// An entry of `spec.ephemeralContainers`.
    Ephemeral,
}

/// One sandbox as the runtime shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SandboxView {
    /// The runtime's id.
    pub id: String,
    /// How many sandboxes the Pod had before this one.
    pub attempt: u32,
    /// Whether containers can run in it.
    pub ready: bool,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its addresses; empty with the host's network.
    pub ips: Vec<String>,
}

/// The state of one container in the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Made, never started.
    Created,
    /// Its process runs.
    Running,
    /// Its process has ended.
    Exited,
    /// The runtime itself does not know.
    Unknown,
}

/// One container as the runtime shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerView {
    /// The runtime's id.
    pub id: String,
    /// The name in the Pod's spec.
    pub name: String,
    /// How many containers of this name the Pod had before this one.
    pub attempt: u32,
    /// The sandbox it is in.
    pub sandbox_id: String,
    /// What it is doing.
    pub state: RunState,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was started, if it was.
    pub started_at: Option<Timestamp>,
    /// When it ended, if it did.
    pub finished_at: Option<Timestamp>,
    /// Meaningful once it has ended.
    pub exit_code: i32,
    /// Why it ended, in a word (`Completed`, `Error`, `OOMKilled`).
    pub reason: String,
    /// Details, or its termination message.
    pub message: String,
    /// The image as it was asked for.
    pub image: String,
    /// The image as the runtime identifies it.
    pub image_id: String,
    /// Of the spec that it was made from; tells whether the spec has changed since.
    pub hash: String,
    /// The user that its first process has: uid, gid, supplementary groups.
    pub user: Option<(i64, i64, Vec<i64>)>,
}

/// All that is known of a Pod on this node at one moment, and what has been learnt since the last step.
#[derive(Debug, Clone, Default)]
pub struct RuntimeView {
    /// Whether the runtime could be asked; without that nothing is concluded from absence.
    pub known: bool,
    /// The Pod's sandboxes, newest first.
    pub sandboxes: Vec<SandboxView>,
    /// The Pod's containers of all sandboxes, newest first.
    pub containers: Vec<ContainerView>,
    /// What the actions of earlier steps came to.
    pub outcomes: Vec<Outcome>,
    /// Whether the Pod has gone from the API without waiting for this node.
    pub removed: bool,
    /// Why the node does not take the Pod, where it does not: reason and message.
    pub rejection: Option<(String, String)>,
    /// Why the node ends the Pod, where it does: for want of resources, or because it shuts down.
    pub eviction: Option<Eviction>,
    /// Why the resources that the Pod asks for now are not allocated to it: reason and message.
    pub resize_pending: Option<(String, String)>,
    /// The longest wait between restarts, where the node has one of its own.
    pub restart_cap: Option<Duration>,
    /// Whether a ConfigMap, a Secret or a field that the Pod shows in files or needs to start has changed.
    pub objects_changed: bool,
    /// The node's addresses.
    pub host_ips: Vec<String>,
    /// The runtime's name, the scheme of container ids in the status.
    pub runtime_name: String,
}

impl RuntimeView {
    /// Puts the addresses of sandboxes into the order of the node's: one of each family, that of the node's primary one
    /// first, however the runtime tells them.
    pub fn order_addresses(&mut self) {
        let Some(first_is_v6) = self.host_ips.first().map(|ip| is_v6(ip)) else { return };
        for sandbox in &mut self.sandboxes {
            let families = [first_is_v6, !first_is_v6];
            let one_of = |v6: bool| sandbox.ips.iter().find(|ip| is_v6(ip) == v6);
            sandbox.ips = families.into_iter().filter_map(one_of).cloned().collect();
        }
    }
}

fn is_v6(address: &str) -> bool {
    address.contains(':')
}

/// A Pod's end by the node's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Eviction {
    /// The status reason, `Evicted`.
    pub reason: String,
    /// The status message.
    pub message: String,
    /// The most grace that its containers get; the Pod's own where that is not said.
    pub grace_seconds: Option<i64>,
}

impl RuntimeView {
    /// The newest container of a name.
    pub fn latest(&self, name: &str) -> Option<&ContainerView> {
        self.containers.iter().filter(|container| container.name == name).max_by_key(|container| container.attempt)
    }

    /// The container before the newest one of a name.
    pub fn previous(&self, name: &str) -> Option<&ContainerView> {
        let latest = self.latest(name)?.attempt;
        let older = self.containers.iter().filter(|c| c.name == name && c.attempt < latest);
        older.max_by_key(|container| container.attempt)
    }

    /// The newest sandbox.
    pub fn sandbox(&self) -> Option<&SandboxView> {
        self.sandboxes.iter().max_by_key(|sandbox| sandbox.attempt)
    }

    /// The newest sandbox, if containers can run in it.
    pub fn ready_sandbox(&self) -> Option<&SandboxView> {
        self.sandbox().filter(|sandbox| sandbox.ready)
    }
}

/// The three probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Restarts the container when it fails.
    Liveness,
    /// Decides whether the Pod takes traffic.
    Readiness,
    /// Holds the other two back until it succeeds.
    Startup,
}

impl ProbeKind {
    /// As events name it at the start of a sentence.
    pub fn title(self) -> &'static str {
        match self {
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Startup => "Startup",
        }
    }

    /// As events name it within a sentence.
    pub fn word(self) -> &'static str {
        match self {
            ProbeKind::Liveness => "liveness",
            ProbeKind::Readiness => "readiness",
            ProbeKind::Startup => "startup",
        }
    }
}

/// The name under which an action is under way: no two of the same name run at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "each is the name of an action, described there")]
pub enum Task {
    Volumes,
    Sandbox,
    Image(String),
    Start(String),
    PostStart(String),
    Kill { id: String, grace_seconds: i64 },
    StopSandbox(String),
    TearDownVolumes,
    RemoveContainer(String),
    RemoveSandbox(String),
    Delete,
    CleanUp,
    Resize,
    Probe(String, ProbeKind),
}

/// One thing that the executor shall do. It makes no choice of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named after what they are")]
pub enum Action {
    /// Make the Pod's folders and mount its volumes.
    SetUpVolumes,
    /// Make the sandbox.
    RunSandbox { attempt: u32 },
    /// Find out whether an image is there.
    InspectImage { name: String, image: String },
    /// Pull an image.
    PullImage { name: String, image: String },
    /// Create and start a container.
    StartContainer {
        kind: Kind,
        name: String,
        attempt: u32,
        sandbox_id: String,
        image_ref: String,
        /// What the runtime calls the images of the volumes that it mounts.
        volume_images: BTreeMap<String, String>,
    },
    /// Change the limits of running containers: their names and ids.
    Resize { containers: Vec<(String, String)> },
    /// Run the postStart hook.
    RunPostStart { name: String, id: String },
    /// Run the preStop hook (where asked), then stop the container within the grace period.
    KillContainer { name: String, id: String, grace_seconds: i64, pre_stop: bool },
    /// Stop a sandbox: its network goes.
    StopSandbox { id: String },
    /// Unmount and remove the volumes.
    TearDownVolumes,
    /// Remove a dead container.
    RemoveContainer { id: String, name: String, attempt: u32 },
    /// Remove a stopped sandbox.
    RemoveSandbox { id: String },
    /// Delete the Pod's object for good, once its last status is written.
    DeletePod,
    /// Remove the Pod's folders and logs; the Pod is then forgotten.
    CleanUp,
    /// Probe a container once.
    Probe { name: String, id: String, probe: ProbeKind, ip: String },
}

impl Action {
    /// The name under which it is under way.
    pub fn task(&self) -> Task {
        match self {
            Action::SetUpVolumes => Task::Volumes,
            Action::RunSandbox { .. } => Task::Sandbox,
            Action::InspectImage { name, .. } | Action::PullImage { name, .. } => Task::Image(name.clone()),
            Action::StartContainer { name, .. } => Task::Start(name.clone()),
            Action::RunPostStart { id, .. } => Task::PostStart(id.clone()),
            Action::KillContainer { id, grace_seconds, .. } => {
                Task::Kill { id: id.clone(), grace_seconds: *grace_seconds }
            }
            Action::StopSandbox { id } => Task::StopSandbox(id.clone()),
            Action::TearDownVolumes => Task::TearDownVolumes,
            Action::RemoveContainer { id, .. } => Task::RemoveContainer(id.clone()),
            Action::RemoveSandbox { id } => Task::RemoveSandbox(id.clone()),
            Action::DeletePod => Task::Delete,
            Action::CleanUp => Task::CleanUp,
            Action::Resize { .. } => Task::Resize,
            Action::Probe { id, probe, .. } => Task::Probe(id.clone(), *probe),
        }
    }
}

/// What an action came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Which action.
    pub task: Task,
    /// How it ended.
    pub result: Ended,
}

/// The reason of volumes that fail only because they are not attached yet.
pub const NOT_ATTACHED: &str = "NotAttached";

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named after what they are")]
pub enum Ended {
    /// It did what it should; the view shows the rest.
    Well,
    /// It failed in a way that the Pod's status and an event tell: a reason (may be empty) and a message.
    Failed { reason: String, message: String },
    /// The image is there.
    ImagePresent { image_ref: String },
    /// The image is not there.
    ImageAbsent,
    /// The image has been pulled.
    ImagePulled { image_ref: String, size_bytes: u64, took: Duration, waited: Duration },
    /// The volumes are in place; tokens in them must be renewed at the given time.
    VolumesReady { refresh_at: Option<Timestamp> },
    /// The container runs.
    Started { id: String },
    /// The probe's answer.
    Probed { result: ProbeResult, message: String },
    /// The action was given up because the Pod no longer wants it.
    Cancelled,
}

/// The answer of one probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    /// The container answered well.
    Success,
    /// The container answered badly or not at all.
    Failure,
    /// The probe itself could not be run: nothing is concluded.
    Unknown,
}

/// One event to be recorded on the Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodEvent {
    /// `Warning` rather than `Normal`.
    pub warning: bool,
    /// The reason, a word.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The part of the Pod, such as `spec.containers{web}`; empty for the whole.
    pub field_path: String,
}

/// Whether the Pod's volumes are in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Volumes {
    /// Not set up since the agent started.
    #[default]
    Unset,
    /// In place.
    Ready,
    /// Taken down again.
    Gone,
}

/// What is known of the image of a container's next attempt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Image {
    /// Not looked for yet.
    #[default]
    Unknown,
    /// Looked for and not found.
    Absent,
    /// On the node.
    Present {
        /// What the runtime calls it.
        image_ref: String,
        /// Whether it was pulled for this attempt, rather than found.
        pulled: bool,
    },
    /// The last pull, or the last look, failed.
    Failed {
        /// The reason of the waiting state.
        reason: String,
        /// The runtime's words.
        message: String,
        /// When it failed.
        at: Timestamp,
        /// How long to wait since then.
        delay: Duration,
    },
}

/// What is remembered of a container name over its restarts.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ContainerMemory {
    /// The restart back-off in force and when it was last raised.
    pub backoff: Option<(Duration, Timestamp)>,
    /// The attempt whose end has been told as a back-off.
    pub backoff_told: Option<u32>,
    /// Why it does not run: reason and message.
    pub waiting: Option<(String, String)>,
    /// Not before this may it be tried again.
    pub retry_at: Option<Timestamp>,
    /// The image of the next attempt.
    pub image: Image,
    /// The image back-off in force.
    pub pull_backoff: Option<Duration>,
    /// The container whose postStart hook has not ended.
    pub post_start: Option<String>,
    /// The container that has been told to stop, and the grace period of the Pod at that time.
    pub killed: Option<(String, i64)>,
    /// The container that another one shall follow whatever code it ends with.
    pub replaced: Option<String>,
    /// The container that was ended together with all others of the Pod, to begin anew.
    pub redone: Option<String>,
    /// The resources in force, and since which attempt.
    pub enacted: Option<(u32, ResourceRequirements)>,
}

/// One probe of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeState {
    /// When it is due.
    pub next_at: Timestamp,
    /// The result that counts.
    pub healthy: bool,
    /// The last answer that counted and how many times in a row it came.
    pub run: (bool, i32),
    /// When it was due for the first time.
    pub first_at: Timestamp,
    /// The pause before the next eager try.
    pub pause: Duration,
}

/// The Pod on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terminating {
    /// When it began.
    pub since: Timestamp,
    /// The grace period that its containers were given.
    pub grace_seconds: i64,
    /// Status reason and message, where the Pod fails for one of the node's own reasons.
    pub cause: Option<(String, String)>,
}

/// All that the state machine remembers between steps. Everything in it can be lost: a new agent
/// finds the rest in the runtime and in the Pod's last status.
#[derive(Debug, Clone, Default)]
pub struct PodState {
    /// Actions under way.
    pub in_flight: BTreeSet<Task>,
    /// The volumes.
    pub volumes: Volumes,
    /// When tokens in the volumes must be renewed.
    pub refresh_at: Option<Timestamp>,
    /// Something that the volumes show has changed since they were last begun to be set up.
    pub volumes_stale: bool,
    /// Containers by name.
    pub containers: BTreeMap<String, ContainerMemory>,
    /// Actions that failed: when to try again, and the delay that led there.
    pub retries: BTreeMap<Task, (Timestamp, Duration)>,
    /// Sandboxes that were stopped. One that ended by itself may hold its address and its ports until it is.
    pub stopped: BTreeSet<String>,
    /// Probes by container id and kind.
    pub probes: BTreeMap<(String, ProbeKind), ProbeState>,
    /// Set once the Pod shall end.
    pub terminating: Option<Terminating>,
    /// The resources that a resize under way gives its containers.
    pub resizing: BTreeMap<String, (u32, ResourceRequirements)>,
    /// Whether a resize is in progress, and why it does not succeed where it does not.
    pub resize: Option<Option<String>>,
    /// The refusal of a resize that was told last.
    pub resize_told: Option<(String, String)>,
    /// Whether all containers are being ended, to begin anew.
    pub restarting_all: bool,
    /// Whether the Pod's object has been deleted.
    pub deleted: bool,
    /// Whether all is gone from the node.
    pub cleaned: bool,
    /// The status of the last step.
    pub status: Option<PodStatus>,
    /// When the agent first saw the Pod, where the API does not tell.
    pub start_time: Option<Timestamp>,
}

impl PodState {
    /// What is remembered of a container.
    pub fn container(&mut self, name: &str) -> &mut ContainerMemory {
        if !self.containers.contains_key(name) {
            self.containers.insert(name.to_owned(), ContainerMemory::default());
        }
        self.containers.get_mut(name).expect("it was put there just now")
    }

    /// Whether an action of this name is under way.
    pub fn busy(&self, task: &Task) -> bool {
        self.in_flight.contains(task)
    }

    /// Whether anything is under way that could still make or start something.
    pub fn is_starting(&self) -> bool {
        self.in_flight.iter().any(|task| matches!(task, Task::Volumes | Task::Sandbox | Task::Start(_)))
    }
}

/// What one step decides.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// The memory for the next step.
    pub state: PodState,
    /// What to do.
    pub actions: Vec<Action>,
    /// What to show.
    pub status: PodStatus,
    /// What to record.
    pub events: Vec<PodEvent>,
    /// When to step again, if nothing happens before.
    pub wake_at: Option<Timestamp>,
    /// Tasks to give up.
    pub cancel: Vec<Task>,
}

/// The statuses of a list, by container name.
pub fn status_of<'a>(statuses: &'a Option<Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    statuses.iter().flatten().find(|status| status.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_in_the_order_of_the_nodes() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        for (host, told, ordered) in [
            (vec!["192.0.2.1"], vec!["10.0.0.1", "fd00::1"], vec!["10.0.0.1", "fd00::1"]),
            (vec!["2001:db8::1", "192.0.2.1"], vec!["10.0.0.1", "10.0.0.2", "fd00::1"], vec!["fd00::1", "10.0.0.1"]),
            (vec!["2001:db8::1"], vec!["10.0.0.1"], vec!["10.0.0.1"]),
            (vec![], vec!["fd00::1", "10.0.0.1"], vec!["fd00::1", "10.0.0.1"]),
        ] {
            let sandboxes = vec![SandboxView { ips: texts(&told), ..SandboxView::default() }];
            let mut view = RuntimeView { host_ips: texts(&host), sandboxes, ..RuntimeView::default() };
            view.order_addresses();
            assert_eq!(view.sandboxes[0].ips, ordered, "{host:?} {told:?}");
        }
    }
}
