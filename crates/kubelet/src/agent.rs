//! Which Pods are on the node: a worker for each, woken by the API, by the runtime's events and by a slow look around
//! that catches what was missed. What is found in the runtime and belongs to no Pod is cleared away.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{Node as ApiNode, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use parking_lot::Mutex;
use skiff_client::{Change, Informer};
use skiff_cri::{
    Code, ContainerEventResponse, GetEventsRequest, ListContainersRequest, ListPodSandboxRequest, RuntimeService,
};
use tokio::sync::Notify;

use crate::admission;
use crate::allocation::{self, Room};
use crate::cgroups;
use crate::config::{sandbox, uid};
use crate::executor::Node;
use crate::node::guard::Pressures;
use crate::rotate;
use crate::statics::{self, FullName};
use crate::strays;
use crate::worker::{self, Mailbox};

/// How often the whole runtime is compared with what was seen last; events make it needless, mostly.
const RELIST: Duration = Duration::from_secs(60);
/// How often that is done with a runtime that tells no events.
const RELIST_WITHOUT_EVENTS: Duration = Duration::from_secs(1);
/// How long Pods that come and go are gathered before the shares of their classes are set again: adding up all Pods for each
/// single one would cost the square of their number.
const CLASSES_PAUSE: Duration = Duration::from_millis(100);
/// How long to wait before the runtime's events are asked for again.
const EVENTS_RETRY: Duration = Duration::from_secs(1);
/// The same for a runtime that does not know them; it may be replaced by a newer one.
const EVENTS_RETRY_UNKNOWN: Duration = Duration::from_secs(60);

/// The workers of the node, by the UIDs of their Pods.
pub struct Workers {
    node: Arc<Node>,
    mailboxes: Mutex<HashMap<String, Arc<Mailbox>>>,
    api_node: Informer<ApiNode>,
    hears_events: AtomicBool,
    /// What the node runs short of.
    pressures: Pressures,
    shutting_down: Arc<AtomicBool>,
    /// Woken when static Pods or their mirrors may have changed.
    statics: Arc<Notify>,
    /// Woken when the classes of service may have changed.
    classes: Arc<Notify>,
}

impl Workers {
    /// No workers yet.
    pub fn new(
        node: Arc<Node>,
        api_node: Informer<ApiNode>,
        pressures: Pressures,
        shutting_down: Arc<AtomicBool>,
    ) -> Arc<Self> {
        Arc::new(Self {
            node,
            mailboxes: Mutex::default(),
            api_node,
            hears_events: AtomicBool::new(false),
            pressures,
            shutting_down,
            statics: Arc::default(),
            classes: Arc::default(),
        })
    }

    /// The workers of Pods that still use what they ask for.
    pub fn active(&self) -> Vec<Arc<Mailbox>> {
        self.mailboxes.lock().values().filter(|mailbox| mailbox.is_active()).cloned().collect()
    }

    /// Woken when static Pods or their mirrors may have changed.
    pub fn statics_changed(&self) -> Arc<Notify> {
        self.statics.clone()
    }

    /// The static Pods that the node works for, and the UIDs of those of them that are on their way out.
    pub fn statics(&self) -> (Vec<Arc<Pod>>, BTreeSet<String>) {
        let mailboxes = self.mailboxes.lock();
        let all = mailboxes.values().filter(|mailbox| admission::is_static(&mailbox.pod()));
        let ending = all.clone().filter(|mailbox| mailbox.is_removed());
        let ending = ending.map(|mailbox| uid(&mailbox.pod()).to_owned()).collect();
        (all.map(|mailbox| mailbox.pod()).collect(), ending)
    }

    /// Tells the workers of static Pods which mirrors they have.
    pub fn set_mirrors(&self, mirrors: &BTreeMap<FullName, Arc<Pod>>) {
        for mailbox in self.mailboxes.lock().values() {
            let pod = mailbox.pod();
            if admission::is_static(&pod) {
                mailbox.set_mirror(statics::mirror_uid(mirrors, &pod));
            }
        }
    }

    /// Ends a static Pod.
    pub fn remove(&self, uid: &str) {
        if let Some(mailbox) = self.mailboxes.lock().get(uid) {
            mailbox.remove();
        }
    }

    /// Says that the machine is being shut down, or is not after all.
    pub fn set_shutting_down(&self, down: bool) {
        self.shutting_down.store(down, Ordering::Release);
    }

    /// Keeps the shares of the classes of service as their Pods ask for.
    pub async fn keep_classes(self: Arc<Self>) {
        let Some(layout) = &self.node.cgroups else { return };
        let mut last = BTreeMap::new();
        loop {
            let facts = self.node.facts();
            let pods: Vec<_> = self.active().iter().map(|mailbox| mailbox.allocated_pod()).collect();
            for class in ["Burstable", "BestEffort"] {
                let limits = cgroups::of_class(class, pods.iter().map(|pod| &**pod), facts.memory_qos);
                if last.get(class) == Some(&limits) {
                    continue;
                }
                let path = cgroups::class(&facts.cgroup_root, class, facts.systemd_cgroups);
                match layout.apply(&path, &limits) {
                    Ok(()) => drop(last.insert(class, limits)),
                    Err(error) => tracing::warn!(class, %error, "cannot set the share of a class of service"),
                }
            }
            self.classes.notified().await;
            tokio::time::sleep(CLASSES_PAUSE).await;
        }
    }

    /// What the node runs for.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The mailbox of a Pod by namespace and name.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Mailbox>> {
        let mailboxes = self.mailboxes.lock();
        let wanted = |mailbox: &&Arc<Mailbox>| {
            let pod = mailbox.pod();
            crate::config::namespace(&pod) == namespace && crate::config::name(&pod) == name
        };
        // Of two Pods of one name, an old one on its way out and a new one, the newest is meant.
        let newest =
            |mailbox: &&Arc<Mailbox>| (!mailbox.is_removed(), mailbox.pod().metadata.creation_timestamp.clone());
        mailboxes.values().filter(wanted).max_by_key(newest).cloned()
    }

    /// All Pods with their newest status.
    pub fn pods(&self) -> Vec<Pod> {
        let mailboxes: Vec<_> = self.mailboxes.lock().values().cloned().collect();
        let mut pods: Vec<_> = mailboxes.iter().map(|mailbox| mailbox.pod_with_status()).collect();
        pods.sort_by(|a, b| (&a.metadata.namespace, &a.metadata.name).cmp(&(&b.metadata.namespace, &b.metadata.name)));
        pods
    }

    /// Follows the Pods of the node from now on.
    pub fn follow(self: &Arc<Self>, pods: &Informer<Pod>) {
        let workers = Arc::downgrade(self);
        pods.on_change(move |change| {
            let Some(workers) = workers.upgrade() else { return };
            if admission::is_mirror(change.object()) {
                // What it stands for runs by itself.
                return;
            }
            match change {
                Change::Added(pod) => workers.add(pod.clone()),
                Change::Updated { new, .. } => workers.add(new.clone()),
                Change::Deleted(pod) => {
                    if let Some(mailbox) = workers.mailboxes.lock().get(uid(pod)) {
                        mailbox.update(pod.clone());
                        mailbox.remove();
                    }
                }
            }
        });
    }

    /// Begins to work for a Pod, or tells its worker how it is now.
    pub fn add(self: &Arc<Self>, pod: Arc<Pod>) {
        let mut mailboxes = self.mailboxes.lock();
        if let Some(mailbox) = mailboxes.get(uid(&pod)) {
            mailbox.update(pod);
            drop(mailboxes);
            return self.settle_resizes();
        }
        let (rejection, victims) = match self.admit(&pod, &mailboxes) {
            Ok(victims) => (None, victims),
            Err(refusal) => (Some(refusal), vec![]),
        };
        let mailbox = Arc::new(Mailbox::new(pod.clone(), rejection));
        mailboxes.insert(uid(&pod).to_owned(), mailbox.clone());
        drop(mailboxes);
        self.start(uid(&pod).to_owned(), mailbox, victims);
        self.classes.notify_one();
        self.settle_resizes();
    }

    /// Gives Pods that ask for other resources what the node can give: first those that ask for less, then by priority.
    pub fn settle_resizes(&self) {
        let mailboxes = self.mailboxes.lock();
        let mut wanting: Vec<_> = mailboxes.values().filter(|m| m.is_active() && m.wants_resize()).cloned().collect();
        if wanting.is_empty() {
            return;
        }
        wanting.sort_by_key(|mailbox| allocation::turn(&mailbox.pod(), &mailbox.allocated_pod()));
        let facts = self.node.facts();
        let room = Room { allocatable: &facts.allocatable, static_cpus: facts.static_cpus };
        for mailbox in wanting {
            let pod = mailbox.pod();
            let others = mailboxes.values().filter(|other| other.is_active() && !Arc::ptr_eq(other, &mailbox));
            let others: Vec<_> = others.map(|other| other.allocated_pod()).collect();
            if mailbox.settle_resize(allocation::resize(&pod, &others, room)) {
                self.classes.notify_one();
            }
        }
    }

    /// Whether the node takes the Pod: those that end for it, or why not. A Pod that it has taken before stays.
    fn admit(
        &self,
        pod: &Pod,
        mailboxes: &HashMap<String, Arc<Mailbox>>,
    ) -> Result<Vec<Arc<Mailbox>>, (String, String)> {
        if was_admitted(pod) {
            return Ok(vec![]);
        }
        let others: Vec<_> =
            mailboxes.values().filter(|mailbox| mailbox.is_active()).map(|mailbox| mailbox.allocated_pod()).collect();
        let facts = self.node.facts();
        let api_node = self.api_node.get("", &facts.name);
        let labels = api_node.as_ref().and_then(|node| node.metadata.labels.as_ref());
        let state = admission::NodeState {
            allocatable: &facts.allocatable,
            labels: labels.filter(|_| !admission::is_static(pod)),
            pressures: &self.pressures.lock().clone(),
            shutting_down: self.shutting_down.load(Ordering::Acquire),
            unsafe_sysctls: &self.node.options.allowed_unsafe_sysctls,
            apparmor: facts.apparmor,
        };
        let verdict = admission::admit(pod, &others, &state);
        let victims = match verdict {
            admission::Verdict::Taken => vec![],
            admission::Verdict::Rejected(reason, message) => return Err((reason, message)),
            admission::Verdict::TakenInsteadOf(victims) => victims,
        };
        self.node.devices.assign(pod).and_then(|()| self.node.parts.assign(pod))?;
        let victims: Vec<_> = victims.iter().filter_map(|uid| mailboxes.get(uid).cloned()).collect();
        victims.iter().for_each(|mailbox| mailbox.evict(admission::preempted()));
        Ok(victims)
    }

    /// Works for a Pod from when the `victims` have released what it is to have.
    fn start(self: &Arc<Self>, uid: String, mailbox: Arc<Mailbox>, victims: Vec<Arc<Mailbox>>) {
        let workers = self.clone();
        tokio::spawn(async move {
            for victim in victims {
                victim.released().await;
            }
            let pod = mailbox.pod();
            if mailbox.is_admitted()
                && !was_admitted(&pod)
                && let Err(refusal) = workers.node.devices.allocate(&pod).await
            {
                mailbox.reject(refusal);
            }
            worker::run(workers.node.clone(), mailbox.clone()).await;
            mailbox.leave();
            workers.mailboxes.lock().remove(&uid);
            workers.node.parts.retain(|other| other != uid);
            workers.node.devices.retain(|other| other != uid);
            workers.settle_resizes();
            workers.classes.notify_one();
            workers.statics.notify_one();
        });
    }

    /// Ends all workers; their Pods live on.
    pub fn stop(&self) {
        self.mailboxes.lock().values().for_each(|mailbox| mailbox.stop());
    }

    /// Wakes the worker of a Pod to look at the runtime.
    pub fn look(&self, uid: &str) {
        if let Some(mailbox) = self.mailboxes.lock().get(uid) {
            mailbox.look();
        }
    }

    /// Wakes the worker of a Pod because an object that it refers to has changed.
    pub fn objects_changed(&self, uid: &str) {
        if let Some(mailbox) = self.mailboxes.lock().get(uid) {
            mailbox.objects_changed();
        }
    }

    /// Wakes the Pods that wait for volumes whenever the Node's status tells others to be attached, or to be used.
    pub fn wake_where_attached(self: &Arc<Self>) {
        let workers = Arc::downgrade(self);
        self.api_node.on_change(move |change| {
            let told = |node: &ApiNode| {
                node.status.as_ref().map(|status| (status.volumes_attached.clone(), status.volumes_in_use.clone()))
            };
            let same = matches!(change, Change::Updated { old, new } if told(old) == told(new));
            let Some(workers) = workers.upgrade().filter(|_| !same) else { return };
            workers.node.drivers.take_waiting().iter().for_each(|uid| workers.objects_changed(uid));
        });
    }

    /// Clears away what the runtime and the disk have of Pods that the API knows no more.
    async fn clear_orphans(self: &Arc<Self>, pods: &Informer<Pod>) {
        pods.synced().await;
        let known: HashSet<String> = pods.list().iter().map(|pod| uid(pod).to_owned()).collect();
        let mut orphans: HashMap<String, Pod> = HashMap::new();
        match self.node.runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await {
            Ok(found) => {
                for item in found.items.iter().filter(|item| item.labels.contains_key(sandbox::POD_UID)) {
                    let pod = orphan(|key| item.labels.get(key).cloned(), &self.node);
                    orphans.insert(uid(&pod).to_owned(), pod);
                }
            }
            Err(error) => tracing::warn!(%error, "cannot list the sandboxes of the runtime"),
        }
        for (uid, pod) in folders(&self.node) {
            orphans.entry(uid).or_insert(pod);
        }
        for (uid, pod) in orphans.into_iter().filter(|(uid, _)| !known.contains(uid)) {
            let mut mailboxes = self.mailboxes.lock();
            if mailboxes.contains_key(&uid) {
                continue;
            }
            tracing::info!(pod = %crate::pod::spec::pod_ref(&pod), "clearing away a Pod that is gone");
            let mailbox = Arc::new(Mailbox::new(Arc::new(pod), None));
            mailbox.remove();
            mailboxes.insert(uid.clone(), mailbox.clone());
            drop(mailboxes);
            self.start(uid, mailbox, vec![]);
        }
    }
}

/// Whether an earlier run of the agent has taken the Pod.
fn was_admitted(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

/// As much of a Pod as its sandbox remembers, deleted.
fn orphan(label: impl Fn(&str) -> Option<String>, node: &Node) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: label(sandbox::POD_NAME),
            namespace: label(sandbox::POD_NAMESPACE),
            uid: label(sandbox::POD_UID),
            deletion_timestamp: Some(Time(node.clock.now())),
            ..ObjectMeta::default()
        },
        ..Pod::default()
    }
}

/// The Pods that have a folder of volumes or logs, by UID.
fn folders(node: &Node) -> Vec<(String, Pod)> {
    let facts = node.facts();
    let names = |path: std::path::PathBuf| -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(path) else { return vec![] };
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    };
    let mut found: HashMap<String, (String, String)> = HashMap::new();
    for uid in names(facts.paths.pods()) {
        found.insert(uid, (String::new(), String::new()));
    }
    for folder in names(facts.paths.logs.join("pods")) {
        let parts: Vec<_> = folder.splitn(3, '_').collect();
        if let [namespace, name, uid] = parts[..] {
            found.insert(uid.to_owned(), (namespace.to_owned(), name.to_owned()));
        }
    }
    let pods = found.into_iter().map(|(uid, (namespace, name))| {
        let label = |key: &str| match key {
            sandbox::POD_NAME => Some(name.clone()),
            sandbox::POD_NAMESPACE => Some(namespace.clone()),
            _ => Some(uid.clone()),
        };
        (uid.clone(), orphan(label, node))
    });
    pods.collect()
}

/// Follows the runtime for ever.
pub async fn follow_runtime(workers: Arc<Workers>, pods: Informer<Pod>) {
    workers.clear_orphans(&pods).await;
    let classes = workers.clone().keep_classes();
    let parts = workers.node.parts.keep(&workers);
    tokio::join!(
        follow_events(workers.clone()),
        relist(workers.clone()),
        rotate::keep(workers.clone()),
        strays::keep(workers.clone()),
        classes,
        parts
    );
}

async fn follow_events(workers: Arc<Workers>) {
    let runtime = workers.node.runtime.clone();
    loop {
        match runtime.get_container_events(GetEventsRequest {}).await {
            Ok(mut events) => {
                workers.hears_events.store(true, Ordering::Relaxed);
                // What happened before the stream began was not told.
                let all: Vec<_> = workers.mailboxes.lock().values().cloned().collect();
                all.iter().for_each(|mailbox| mailbox.look());
                while let Some(event) = events.next().await {
                    match event {
                        Ok(event) => tell(&workers, &event),
                        Err(error) => {
                            tracing::warn!(%error, "the runtime's events broke off");
                            break;
                        }
                    }
                }
            }
            Err(error) => {
                workers.hears_events.store(false, Ordering::Relaxed);
                if error.code == Code::Unimplemented {
                    tokio::time::sleep(EVENTS_RETRY_UNKNOWN).await;
                } else {
                    tracing::warn!(%error, "the runtime gives no events");
                }
            }
        }
        tokio::time::sleep(EVENTS_RETRY).await;
    }
}

fn tell(workers: &Workers, event: &ContainerEventResponse) {
    let metadata = event.pod_sandbox_status.as_ref().and_then(|status| status.metadata.as_ref());
    if let Some(metadata) = metadata {
        workers.look(&metadata.uid);
    }
}

/// The slow way to notice changes.
async fn relist(workers: Arc<Workers>) {
    let mut seen = HashMap::new();
    loop {
        let hears = workers.hears_events.load(Ordering::Relaxed);
        tokio::time::sleep(if hears { RELIST } else { RELIST_WITHOUT_EVENTS }).await;
        match snapshot(&*workers.node.runtime).await {
            Ok(now) => {
                let changed = now.iter().filter(|(uid, state)| seen.get(*uid) != Some(*state));
                changed.for_each(|(uid, _)| workers.look(uid));
                seen.keys().filter(|uid| !now.contains_key(*uid)).for_each(|uid: &String| workers.look(uid));
                seen = now;
            }
            Err(error) => tracing::warn!(%error, "cannot list the containers of the runtime"),
        }
    }
}

type Seen = Vec<(String, i32)>;

/// The ids and states of all sandboxes and containers, by Pod.
async fn snapshot(runtime: &dyn RuntimeService) -> Result<HashMap<String, Seen>, skiff_cri::CriError> {
    let sandboxes = runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?;
    let containers = runtime.list_containers(ListContainersRequest::default()).await?;
    let of = |labels: &HashMap<String, String>| labels.get(sandbox::POD_UID).cloned();
    let sandboxes = sandboxes.items.into_iter().filter_map(|item| Some((of(&item.labels)?, (item.id, item.state))));
    let containers =
        containers.containers.into_iter().filter_map(|item| Some((of(&item.labels)?, (item.id, item.state))));
    let mut all: HashMap<String, Seen> = HashMap::new();
    for (uid, state) in sandboxes.chain(containers) {
        all.entry(uid).or_default().push(state);
    }
    all.values_mut().for_each(|seen| seen.sort());
    Ok(all)
}
