//! The embedded runtime: sandboxes and containers by id, kept in step with their shims and with the disk.

mod containers;
mod exec;
mod metrics;
mod restore;
mod sandboxes;
mod service;
mod stats;

use std::collections::{BTreeMap, HashSet};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_base::ids::Ids;
use skiff_cri::{ContainerEventResponse, ContainerEventType, CriError, CriResult};
use tokio::sync::{broadcast, mpsc};

use crate::cgroups::{Birthplace, Layout};
use crate::client::{ShimEvent, ShimProgram};
use crate::config::RuntimeConfig;
use crate::confine;
use crate::images::ImageSource;
use crate::network::NetworkPlugin;
use crate::shim::proto::Exit;
use crate::streaming::{StreamBackend, StreamingServer};
use containers::Container;
use sandboxes::Sandbox;

/// Containers' files are nobody else's on the node.
const PRIVATE_FOLDER: u32 = 0o700;
/// How many events a listener may be behind before it is told that it missed some.
const EVENTS_BEHIND: usize = 1024;

/// The runtime behind the CRI's traits. Clones share everything.
#[derive(Clone)]
pub struct EmbeddedRuntime {
    inner: Arc<Inner>,
    streams: Arc<StreamingServer>,
}

pub(crate) struct Inner {
    config: RuntimeConfig,
    images: Arc<dyn ImageSource>,
    network: Arc<dyn NetworkPlugin>,
    clock: SharedClock,
    ids: Ids,
    cgroups: Layout,
    /// What the kernel enforces, looked at when the first container comes.
    modules: OnceLock<confine::Modules>,
    shim_program: ShimProgram,
    sandboxes: Mutex<BTreeMap<String, Arc<Sandbox>>>,
    containers: Mutex<BTreeMap<String, Arc<Container>>>,
    shim_events: mpsc::UnboundedSender<ShimEvent>,
    events: broadcast::Sender<ContainerEventResponse>,
}

impl EmbeddedRuntime {
    /// Starts the runtime: finds what is left of its last life and the shims that live on.
    /// To be called inside a tokio runtime.
    pub async fn start(
        config: RuntimeConfig,
        images: Arc<dyn ImageSource>,
        network: Arc<dyn NetworkPlugin>,
        clock: SharedClock,
    ) -> CriResult<Self> {
        let mut config = config;
        // Shims live in another folder, where relative paths would mean something else.
        for folder in [&mut config.root, &mut config.run] {
            *folder = std::path::absolute(&*folder).map_err(internal("find the runtime's folders"))?;
        }
        for folder in [config.root.join("sandboxes"), config.run.clone()] {
            std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::set_permissions(&folder, Permissions::from_mode(PRIVATE_FOLDER)))
                .map_err(internal(format_args!("make {}", folder.display())))?;
        }
        let cgroups = match &config.cgroup2_root {
            Some(root) => Ok(Layout::V2 { root: root.clone() }),
            None => Layout::detect(),
        };
        let cgroups = cgroups.map_err(|error| CriError::internal(format!("look at cgroups: {error}")))?;
        let birthplace = match &config.shim_cgroup {
            Some(cgroup) => cgroups.create_for_shims(cgroup).map_err(|error| CriError::internal(error.to_string()))?,
            None => Birthplace::default(),
        };
        let shim_program = ShimProgram::open(&config.shim_program, birthplace).map_err(|error| {
            CriError::internal(format!("open {} for shims: {error}", config.shim_program.display()))
        })?;
        let (shim_events, heard) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            config,
            images,
            network,
            clock,
            ids: Ids::random(),
            cgroups,
            modules: OnceLock::new(),
            shim_program,
            sandboxes: Mutex::default(),
            containers: Mutex::default(),
            shim_events,
            events: broadcast::channel(EVENTS_BEHIND).0,
        });
        inner.restore().await?;
        let weak = Arc::downgrade(&inner);
        inner
            .images
            .watch_usage(Arc::new(move || weak.upgrade().map(|inner| inner.layers_in_use()).unwrap_or_default()));
        tokio::spawn(hear_shims(Arc::downgrade(&inner), heard));
        let streams = StreamingServer::start(inner.clone())
            .await
            .map_err(|error| CriError::internal(format!("start the streaming server: {error}")))?;
        Ok(Self { inner, streams })
    }

    /// The sandboxes with a network of their own, and where that is while they run.
    pub fn networks(&self) -> Vec<(String, Option<PathBuf>)> {
        let sandboxes = self.inner.sandboxes.lock();
        let own = sandboxes.values().filter(|sandbox| !sandbox.on_host_network());
        own.map(|sandbox| (sandbox.id.clone(), sandbox.netns().filter(|_| sandbox.is_ready()))).collect()
    }

    /// What serves exec, attach and port-forward without the way over a URL.
    pub fn stream_backend(&self) -> Arc<dyn StreamBackend> {
        self.inner.clone()
    }
}

/// Takes in what shims tell, in order, until the runtime is dropped.
async fn hear_shims(inner: std::sync::Weak<Inner>, mut heard: mpsc::UnboundedReceiver<ShimEvent>) {
    while let Some(event) = heard.recv().await {
        let Some(inner) = inner.upgrade() else { return };
        match event {
            ShimEvent::Exited(report) => {
                let container = inner.containers.lock().get(&report.id).cloned();
                if let (Some(container), Some(exit)) = (container, report.exit) {
                    inner.container_ended(&container, exit);
                }
            }
            ShimEvent::Lost(sandbox) => inner.shim_lost(&sandbox),
        }
    }
}

impl Inner {
    fn now(&self) -> i64 {
        i64::try_from(self.clock.now().as_nanosecond()).expect("the clock shows a year before 2262")
    }

    fn sandbox_root(&self, id: &str) -> PathBuf {
        self.config.root.join("sandboxes").join(id)
    }

    fn sandbox_run(&self, id: &str) -> PathBuf {
        self.config.run.join(id)
    }

    fn container_root(&self, sandbox: &str, id: &str) -> PathBuf {
        self.sandbox_root(sandbox).join("containers").join(id)
    }

    fn sandbox(&self, id: &str) -> CriResult<Arc<Sandbox>> {
        self.sandboxes.lock().get(id).cloned().ok_or_else(|| CriError::not_found(format!("sandbox {id:?} not found")))
    }

    fn container(&self, id: &str) -> CriResult<Arc<Container>> {
        self.containers
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| CriError::not_found(format!("container {id:?} not found")))
    }

    fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        self.containers.lock().values().filter(|container| container.record.sandbox == sandbox).cloned().collect()
    }

    fn layers_in_use(&self) -> HashSet<PathBuf> {
        let containers = self.containers.lock();
        containers.values().flat_map(|container| container.record.layers.iter().map(PathBuf::from)).collect()
    }

    /// Tells everyone who listens that something happened to a container or a sandbox.
    fn tell(&self, id: &str, sandbox: &str, kind: ContainerEventType) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let pod_sandbox_status = self.sandboxes.lock().get(sandbox).cloned().map(|sandbox| sandbox.status());
        let containers_statuses = self.containers_of(sandbox).iter().map(|container| container.status()).collect();
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: self.now(),
            pod_sandbox_status,
            containers_statuses,
        };
        if self.events.send(event).is_err() {
            tracing::debug!("the last listener left");
        }
    }

    /// A container has ended, by the word of its shim or of its file.
    fn container_ended(self: &Arc<Self>, container: &Arc<Container>, exit: Exit) {
        if !container.set_ended(exit) {
            return;
        }
        let (inner, cgroup) = (self.clone(), container.record.cgroup.clone());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = inner.cgroups.remove(&cgroup) {
                tracing::warn!(cgroup, %error, "cgroup of an ended container stays behind");
            }
        });
        self.tell(&container.record.id, &container.record.sandbox, ContainerEventType::ContainerStoppedEvent);
    }

    /// The shim of a sandbox is gone, and with it the namespaces; whatever it held has ended.
    fn shim_lost(self: &Arc<Self>, sandbox_id: &str) {
        let Ok(sandbox) = self.sandbox(sandbox_id) else { return };
        if !sandbox.set_lost() {
            return;
        }
        tracing::warn!(sandbox = sandbox_id, "the shim of this sandbox is gone");
        for container in self.containers_of(sandbox_id) {
            self.settle_without_shim(&container);
        }
        self.tell(sandbox_id, sandbox_id, ContainerEventType::ContainerStoppedEvent);
        let (inner, id) = (self.clone(), sandbox_id.to_owned());
        tokio::spawn(async move { inner.release(&id).await });
    }

    /// Gives back what a sandbox without a shim still holds: it never becomes ready again, and whoever asked for it may
    /// keep it for long, for the sake of its containers' logs.
    async fn release(self: &Arc<Self>, sandbox_id: &str) {
        if let Err(error) = self.stop_sandbox(sandbox_id).await {
            tracing::warn!(sandbox = sandbox_id, %error, "a sandbox without a shim keeps its network");
        }
    }

    /// Ends what is left of a container that no shim answers for. How it ended is known if the shim left word.
    fn settle_without_shim(self: &Arc<Self>, container: &Arc<Container>) {
        if !container.is_running() {
            return;
        }
        self.cgroups.kill(&container.record.cgroup);
        let exit = container.exit_on_disk(self).unwrap_or_else(|| container.unknown_exit(self.now()));
        self.container_ended(container, exit);
    }
}

fn internal(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> CriError {
    move |error| CriError::internal(format!("{what}: {error}"))
}

/// Runs what may block for a while off the asynchronous threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> CriResult<T> + Send + 'static) -> CriResult<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(CriError::internal(format!("task failed: {error}"))))
}
