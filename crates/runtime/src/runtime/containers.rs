//! Containers: making, starting, stopping and removing them.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use skiff_cri::*;
use tokio::sync::watch;

use super::sandboxes::{Sandbox, remove_tree};
use super::{Inner, blocking, internal};
use crate::images::UnpackedImage;
use crate::oci::{Bundle, Device, IdMaps, Rootfs};
use crate::records::{self, ContainerRecord};
use crate::shim::proto::{Call, EXIT_FILE, Exit, PidNamespace, Start};
use crate::spec::{self, GrantedDevice, SpecInput};
use crate::users::UserDb;
use crate::{cdi, confine, signals};

/// The exit code of a container that could not be started, and its reason, as containerd gives them.
const START_ERROR_CODE: i32 = 128;
/// The exit code of a container whose end nobody saw.
const UNKNOWN_CODE: i32 = 255;
/// What an agent grants to whom nothing was granted (a Pod that is deleted by force). Who does not hear the signal is not
/// waited for then.
const LEAST_GRACE_SECONDS: u64 = 1;
/// How long a killed container may take to be gone.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// The longest user file of an image that is read.
const MAX_USER_FILE_BYTES: u64 = 4 << 20;

/// A container.
pub(crate) struct Container {
    pub(crate) record: ContainerRecord,
    state: Mutex<State>,
    ended: watch::Sender<bool>,
}

#[derive(Debug, Clone, Default)]
struct State {
    phase: Phase,
    pid: u32,
    started_at: i64,
    exit: Option<Exit>,
    resources: Option<LinuxContainerResources>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Created,
    Starting,
    Running,
    Ended,
}

impl Container {
    pub(crate) fn new(record: ContainerRecord) -> Self {
        let state = State { resources: record.resources.clone(), ..State::default() };
        Self { record, state: Mutex::new(state), ended: watch::Sender::new(false) }
    }

    pub(crate) fn config(&self) -> &ContainerConfig {
        self.record.config.as_ref().expect("a record is only made with a configuration")
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(self.state.lock().phase, Phase::Running | Phase::Starting)
    }

    fn has_ended(&self) -> bool {
        self.state.lock().phase == Phase::Ended
    }

    /// Notes the start; one that has ended meanwhile stays ended.
    pub(crate) fn set_running(&self, pid: u32, started_at: i64) {
        let mut state = self.state.lock();
        if state.phase != Phase::Ended {
            state.phase = Phase::Running;
        }
        state.pid = pid;
        state.started_at = started_at;
    }

    /// Notes the end; false when it was known.
    pub(crate) fn set_ended(&self, exit: Exit) -> bool {
        {
            let mut state = self.state.lock();
            if state.phase == Phase::Ended {
                return false;
            }
            state.phase = Phase::Ended;
            state.started_at = exit.started_at;
            state.exit = Some(exit);
        }
        self.ended.send_replace(true);
        true
    }

    fn begin_start(&self) -> CriResult<()> {
        let mut state = self.state.lock();
        if state.phase != Phase::Created {
            let name = if state.phase == Phase::Ended { "CONTAINER_EXITED" } else { "CONTAINER_RUNNING" };
            return Err(CriError::failed_precondition(format!("container {:?} is in {name} state", self.record.id)));
        }
        state.phase = Phase::Starting;
        Ok(())
    }

    pub(crate) fn exit_on_disk(&self, inner: &Inner) -> Option<Exit> {
        let text = std::fs::read(inner.container_root(&self.record.sandbox, &self.record.id).join(EXIT_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    pub(crate) fn unknown_exit(&self, now: i64) -> Exit {
        Exit { code: UNKNOWN_CODE, at: now, started_at: self.state.lock().started_at, unknown: true, ..Exit::default() }
    }

    pub(crate) fn state_number(&self) -> i32 {
        let state = match self.state.lock().phase {
            Phase::Created | Phase::Starting => ContainerState::ContainerCreated,
            Phase::Running => ContainerState::ContainerRunning,
            Phase::Ended => ContainerState::ContainerExited,
        };
        state as i32
    }

    pub(crate) fn status(&self) -> ContainerStatus {
        let state = self.state.lock().clone();
        let config = self.config();
        let exit = state.exit.clone().unwrap_or_default();
        let reason = state.exit.as_ref().map_or("", reason);
        ContainerStatus {
            id: self.record.id.clone(),
            metadata: config.metadata.clone(),
            state: self.state_number(),
            created_at: self.record.created_at,
            started_at: state.started_at,
            finished_at: exit.at,
            exit_code: exit.code,
            image: config.image.clone(),
            image_ref: self.record.image_ref.clone(),
            reason: reason.to_owned(),
            message: exit.message,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: self.record.log_path.clone(),
            resources: Some(ContainerResources { linux: state.resources }),
            image_id: self.record.image_id.clone(),
            user: Some(ContainerUser { linux: self.record.user.clone() }),
            stop_signal: config.stop_signal,
        }
    }

    pub(crate) fn summary(&self) -> skiff_cri::Container {
        let config = self.config();
        skiff_cri::Container {
            id: self.record.id.clone(),
            pod_sandbox_id: self.record.sandbox.clone(),
            metadata: config.metadata.clone(),
            image: config.image.clone(),
            image_ref: self.record.image_ref.clone(),
            state: self.state_number(),
            created_at: self.record.created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            image_id: self.record.image_id.clone(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.state.lock().pid
    }

    /// Waits until the container is over.
    pub(crate) async fn wait_end(&self) {
        let mut ended = self.ended.subscribe();
        if ended.wait_for(|ended| *ended).await.is_err() {
            tracing::debug!(container = self.record.id, "container was dropped");
        }
    }

    async fn wait_ended(&self, patience: Duration) -> bool {
        let mut ended = self.ended.subscribe();
        let waited = tokio::time::timeout(patience, ended.wait_for(|ended| *ended)).await;
        matches!(waited, Ok(Ok(_)))
    }
}

/// The layers of images that are mounted as volumes, by where they are mounted.
type ImageVolumes = BTreeMap<String, Vec<String>>;

/// What was made ready for a specification.
struct Prepared<'a> {
    folder: &'a Path,
    cgroup: &'a str,
    volumes: ImageVolumes,
    user_namespace: Option<IdMaps>,
}

fn reason(exit: &Exit) -> &'static str {
    match exit {
        _ if !exit.message.is_empty() => "StartError",
        _ if exit.unknown => "Unknown",
        _ if exit.oom => "OOMKilled",
        Exit { code: 0, .. } => "Completed",
        _ => "Error",
    }
}

impl Inner {
    pub(crate) async fn create(self: &Arc<Self>, request: CreateContainerRequest) -> CriResult<String> {
        let config = request.config.ok_or_else(|| CriError::invalid_argument("container config must be set"))?;
        if config.metadata.is_none() {
            return Err(CriError::invalid_argument("container config must include metadata"));
        }
        let sandbox = self.sandbox(&request.pod_sandbox_id)?;
        // Nothing can be started in a sandbox whose shim is gone.
        sandbox.shim()?;
        let wanted = config.image.as_ref().map_or("", |image| image.image.as_str());
        let image = self.images.unpacked(wanted).await?;
        let volumes = self.image_volumes(&config).await?;
        let id = self.ids.hex(64);
        let inner = self.clone();
        let container = {
            let id = id.clone();
            blocking(move || inner.prepare(&id, &sandbox, config, image, volumes)).await
        };
        match container {
            Ok(container) => {
                let sandbox = container.record.sandbox.clone();
                self.containers.lock().insert(id.clone(), Arc::new(container));
                self.tell(&id, &sandbox, ContainerEventType::ContainerCreatedEvent);
                Ok(id)
            }
            Err(error) => {
                remove_tree(&self.container_root(&request.pod_sandbox_id, &id))?;
                Err(error)
            }
        }
    }

    /// The layers of the images that the container mounts as volumes.
    async fn image_volumes(&self, config: &ContainerConfig) -> CriResult<ImageVolumes> {
        let mut volumes = ImageVolumes::new();
        for mount in &config.mounts {
            if let Some(image) = &mount.image {
                let unpacked = self.images.unpacked(&image.image).await?;
                let layers = unpacked.layers.iter().map(|layer| layer.display().to_string()).collect();
                volumes.insert(mount.container_path.clone(), layers);
            }
        }
        Ok(volumes)
    }

    /// Makes the container's folder: its bundle, its writable layer, its record.
    fn prepare(
        &self,
        id: &str,
        sandbox: &Sandbox,
        config: ContainerConfig,
        image: UnpackedImage,
        volumes: ImageVolumes,
    ) -> CriResult<Container> {
        let folder = self.container_root(&sandbox.id, id);
        let user_namespace = spec::user_namespace(&sandbox.namespaces())?;
        for name in ["upper", "work", "rootfs"] {
            let path = folder.join(name);
            std::fs::create_dir_all(&path).map_err(internal(format_args!("make {}", path.display())))?;
        }
        // It gives the container's root its mode, whatever skiff's own mask is.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.join("upper"), open).map_err(internal("open the container's root"))?;
        if let Some((uid, gid)) = user_namespace.as_ref().and_then(|maps| maps.outside(0, 0)) {
            std::os::unix::fs::chown(folder.join("upper"), Some(uid), Some(gid))
                .map_err(internal("give the container its root"))?;
        }
        let cgroup = format!("{}/{id}", sandbox.cgroup_parent(&self.config.default_cgroup_parent));
        let volume_layers: Vec<String> = volumes.values().flatten().cloned().collect();
        let mut config = config;
        if !config.cdi_devices.is_empty() {
            cdi::Registry::read(&cdi::FOLDERS).inject(&mut config)?;
        }
        let spec = self.specification(
            sandbox,
            &config,
            &image,
            Prepared { folder: &folder, cgroup: &cgroup, volumes, user_namespace },
        )?;
        confine::check_loaded(&spec.process.apparmor_profile)?;
        relabel(&spec, &config)?;
        let layers: Vec<String> = image.layers.iter().map(|layer| layer.display().to_string()).collect();
        let user = &spec.process.user;
        let record = ContainerRecord {
            id: id.to_owned(),
            sandbox: sandbox.id.clone(),
            created_at: self.now(),
            image_id: image.id,
            image_ref: image.reference,
            user: Some(LinuxContainerUser {
                uid: i64::from(user.uid),
                gid: i64::from(user.gid),
                supplemental_groups: user.additional_gids.iter().map(|&group| i64::from(group)).collect(),
            }),
            resources: config.linux.as_ref().and_then(|linux| linux.resources.clone()),
            stop_signal: stop_signal(&config, &image.config.stop_signal)?,
            log_path: log_path(&sandbox.config, &config),
            config: Some(config),
            cgroup: cgroup.clone(),
            layers: layers.iter().cloned().chain(volume_layers).collect(),
        };
        let text = |name: &str| folder.join(name).display().to_string();
        let bundle = Bundle {
            spec,
            rootfs: Rootfs { layers, upper: text("upper"), work: text("work") },
            cgroup_mounts: self.cgroups.mounts(&cgroup),
        };
        let bytes = serde_json::to_vec(&bundle).expect("a bundle is plain data");
        std::fs::write(folder.join("bundle.json"), bytes).map_err(internal("write the container's bundle"))?;
        records::save(&folder, &record).map_err(internal(format_args!("save container {id}")))?;
        Ok(Container::new(record))
    }

    fn specification(
        &self,
        sandbox: &Sandbox,
        config: &ContainerConfig,
        image: &UnpackedImage,
        prepared: Prepared<'_>,
    ) -> CriResult<crate::oci::Spec> {
        let Prepared { folder, cgroup, volumes, user_namespace } = prepared;
        let root = self.sandbox_root(&sandbox.id);
        let file = |name: &str| root.join(name).display().to_string();
        let shm = if sandbox.on_host_ipc() {
            "/dev/shm".to_owned()
        } else {
            self.sandbox_run(&sandbox.id).join("shm").display().to_string()
        };
        let (passwd, group) = (file_of_image(&image.layers, "etc/passwd"), file_of_image(&image.layers, "etc/group"));
        let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let privileged = security.is_some_and(|security| security.privileged);
        let joins = !matches!(pid_namespace(config), PidNamespace::Own | PidNamespace::Host);
        spec::generate(&SpecInput {
            container: config.clone(),
            sandbox: sandbox.config.clone(),
            image: image.config.clone(),
            users: UserDb { passwd: &passwd, group: &group },
            rootfs: folder.join("rootfs").display().to_string(),
            shm,
            files: vec![("/etc/resolv.conf", file("resolv.conf")), ("/etc/hostname", file("hostname"))],
            // The shim joins it before the container's first process exists; here it only must not be a new one.
            pid_namespace: joins.then(|| "sandbox".to_owned()),
            cgroups_path: cgroup.to_owned(),
            devices: if privileged { host_devices() } else { granted_devices(&config.devices)? },
            cgroup_v2: self.cgroups.is_v2(),
            modules: *self.modules.get_or_init(confine::Modules::look),
            image_volumes: volumes,
            user_namespace,
            seccomp_profile: spec::localhost_seccomp(config).map(read_profile).transpose()?.unwrap_or_default(),
        })
    }

    pub(crate) async fn start(self: &Arc<Self>, id: &str) -> CriResult<()> {
        let container = self.container(id)?;
        let shim = self.sandbox(&container.record.sandbox)?.shim()?;
        container.begin_start()?;
        let started = match self.make_ready_to_start(&container).await {
            Ok(start) => shim.call(Call::Start(start)).await,
            Err(error) => Err(error),
        };
        match started {
            Ok(answer) => {
                container.set_running(answer.pid, answer.at);
                self.tell(id, &container.record.sandbox, ContainerEventType::ContainerStartedEvent);
                Ok(())
            }
            Err(error) => {
                let message = format!("failed to start container {id:?}: {}", error.message);
                let exit = Exit { code: START_ERROR_CODE, at: self.now(), message: message.clone(), ..Exit::default() };
                let folder = self.container_root(&container.record.sandbox, id);
                if let Err(error) = crate::shim::write_exit(&folder.display().to_string(), &exit) {
                    tracing::warn!(container = id, %error, "the failed start could not be noted on disk");
                }
                self.container_ended(&container, exit);
                Err(CriError { code: error.code, message })
            }
        }
    }

    async fn make_ready_to_start(self: &Arc<Self>, container: &Arc<Container>) -> CriResult<Start> {
        let (inner, container) = (self.clone(), container.clone());
        blocking(move || {
            let (record, config) = (&container.record, container.config());
            let mut resources = spec::limits(&record.resources.clone().unwrap_or_default());
            let folder = inner.container_root(&record.sandbox, &record.id);
            resources.devices = device_rules(&folder)?;
            inner.cgroups.create(&record.cgroup, &resources).map_err(|error| CriError::internal(error.to_string()))?;
            if let Some(parent) = Path::new(&record.log_path).parent().filter(|_| !record.log_path.is_empty()) {
                std::fs::create_dir_all(parent).map_err(internal(format_args!("make {}", parent.display())))?;
            }
            Ok(Start {
                id: record.id.clone(),
                dir: folder.display().to_string(),
                log: Some(record.log_path.clone()).filter(|path| !path.is_empty()),
                tty: config.tty,
                stdin: config.stdin,
                stdin_once: config.stdin_once,
                pid_namespace: pid_namespace(config),
                cgroup_files: inner.cgroups.join_files(&record.cgroup),
                cgroup_folder: inner.cgroups.birth_folder(&record.cgroup),
                oom_file: inner.cgroups.oom_file(&record.cgroup),
            })
        })
        .await
    }

    pub(crate) async fn stop(self: &Arc<Self>, container: &Arc<Container>, grace_seconds: i64) -> CriResult<()> {
        if !container.is_running() {
            return Ok(());
        }
        let Ok(shim) = self.sandbox(&container.record.sandbox).and_then(|sandbox| sandbox.shim()) else {
            self.settle_without_shim(container);
            return Ok(());
        };
        let id = container.record.id.clone();
        let grace = u64::try_from(grace_seconds).unwrap_or(0);
        if grace > 0 {
            let signal = container.record.stop_signal;
            shim.call(Call::Signal { id: id.clone(), signal }).await?;
            let is_deaf = grace <= LEAST_GRACE_SECONDS && signals::is_dropped(container.pid(), signal);
            if !is_deaf && container.wait_ended(Duration::from_secs(grace)).await {
                return Ok(());
            }
        }
        shim.call(Call::Signal { id: id.clone(), signal: libc::SIGKILL }).await?;
        if container.wait_ended(KILL_PATIENCE).await || container.has_ended() {
            return Ok(());
        }
        Err(CriError::deadline_exceeded(format!(
            "container {id:?} is still there {} s after it was killed",
            KILL_PATIENCE.as_secs()
        )))
    }

    pub(crate) async fn remove(self: &Arc<Self>, container: &Arc<Container>) -> CriResult<()> {
        self.stop(container, 0).await?;
        let record = &container.record;
        if let Ok(shim) = self.sandbox(&record.sandbox).and_then(|sandbox| sandbox.shim()) {
            shim.call(Call::Forget { id: record.id.clone() }).await?;
        }
        let (inner, removed) = (self.clone(), container.clone());
        blocking(move || {
            inner.cgroups.remove(&removed.record.cgroup).map_err(|error| CriError::internal(error.to_string()))?;
            remove_tree(&inner.container_root(&removed.record.sandbox, &removed.record.id))
        })
        .await?;
        if self.containers.lock().remove(&record.id).is_some() {
            self.tell(&record.id, &record.sandbox, ContainerEventType::ContainerDeletedEvent);
        }
        Ok(())
    }

    pub(crate) async fn update_resources(self: &Arc<Self>, request: UpdateContainerResourcesRequest) -> CriResult<()> {
        let container = self.container(&request.container_id)?;
        let wanted = request.linux.ok_or_else(|| CriError::invalid_argument("no Linux resources are given"))?;
        let merged = merge(container.state.lock().resources.clone().unwrap_or_default(), wanted);
        if container.is_running() {
            let (inner, container, limits) = (self.clone(), container.clone(), spec::limits(&merged));
            blocking(move || {
                inner
                    .cgroups
                    .apply(&container.record.cgroup, &limits)
                    .map_err(|error| CriError::internal(error.to_string()))
            })
            .await?;
        }
        container.state.lock().resources = Some(merged.clone());
        let record = ContainerRecord { resources: Some(merged), ..container.record.clone() };
        records::save(&self.container_root(&record.sandbox, &record.id), &record)
            .map_err(internal("save the container"))
    }
}

/// What an update leaves at zero stays as it was.
fn merge(old: LinuxContainerResources, new: LinuxContainerResources) -> LinuxContainerResources {
    let number = |old: i64, new: i64| if new == 0 { old } else { new };
    let text = |old: String, new: String| if new.is_empty() { old } else { new };
    let mut unified = old.unified;
    unified.extend(new.unified);
    LinuxContainerResources {
        cpu_period: number(old.cpu_period, new.cpu_period),
        cpu_quota: number(old.cpu_quota, new.cpu_quota),
        cpu_shares: number(old.cpu_shares, new.cpu_shares),
        memory_limit_in_bytes: number(old.memory_limit_in_bytes, new.memory_limit_in_bytes),
        oom_score_adj: number(old.oom_score_adj, new.oom_score_adj),
        cpuset_cpus: text(old.cpuset_cpus, new.cpuset_cpus),
        cpuset_mems: text(old.cpuset_mems, new.cpuset_mems),
        hugepage_limits: if new.hugepage_limits.is_empty() { old.hugepage_limits } else { new.hugepage_limits },
        unified,
        memory_swap_limit_in_bytes: number(old.memory_swap_limit_in_bytes, new.memory_swap_limit_in_bytes),
    }
}

fn device_rules(folder: &Path) -> CriResult<Vec<crate::oci::DeviceRule>> {
    let text = std::fs::read(folder.join("bundle.json")).map_err(internal("read the container's bundle"))?;
    let bundle: Bundle = serde_json::from_slice(&text)
        .map_err(|error| CriError::internal(format!("read the container's bundle: {error}")))?;
    Ok(bundle.spec.linux.resources.devices)
}

pub(crate) fn pid_namespace(config: &ContainerConfig) -> PidNamespace {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let options = security.and_then(|security| security.namespace_options.clone()).unwrap_or_default();
    match NamespaceMode::try_from(options.pid) {
        Ok(NamespaceMode::Node) => PidNamespace::Host,
        Ok(NamespaceMode::Target) => PidNamespace::Container(options.target_id),
        Ok(NamespaceMode::Pod) => PidNamespace::Sandbox,
        _ => PidNamespace::Own,
    }
}

fn log_path(sandbox: &PodSandboxConfig, config: &ContainerConfig) -> String {
    if sandbox.log_directory.is_empty() || config.log_path.is_empty() {
        return String::new();
    }
    PathBuf::from(&sandbox.log_directory).join(&config.log_path).display().to_string()
}

/// The signal that asks a container to end: the pod's choice, else the image's, else SIGTERM.
fn stop_signal(config: &ContainerConfig, of_image: &str) -> CriResult<i32> {
    let name = match Signal::try_from(config.stop_signal) {
        Ok(Signal::RuntimeDefault) | Err(_) => of_image.to_owned(),
        Ok(signal) => format!("{signal:?}").to_ascii_uppercase().replace("PLUS", "+").replace("MINUS", "-"),
    };
    if name.is_empty() {
        return Ok(libc::SIGTERM);
    }
    signal_number(&name).ok_or_else(|| CriError::invalid_argument(format!("unknown stop signal {name:?}")))
}

/// The number of a signal given by number or by name, with or without `SIG`.
fn signal_number(name: &str) -> Option<i32> {
    const REALTIME: (i32, i32) = (34, 64);
    if let Ok(number) = name.parse::<i32>() {
        return (1..=REALTIME.1).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<i32>().ok() };
    let number = match short {
        "CLD" => libc::SIGCHLD,
        "IOT" => libc::SIGABRT,
        "POLL" => libc::SIGIO,
        _ if short.starts_with("RTMIN") => REALTIME.0 + offset(&short["RTMIN".len()..])?,
        _ if short.starts_with("RTMAX") => REALTIME.1 + offset(&short["RTMAX".len()..])?,
        _ => format!("SIG{short}").parse::<nix::sys::signal::Signal>().ok()? as i32,
    };
    (1..=REALTIME.1).contains(&number).then_some(number)
}

/// Labels what belongs to the container alone: the sandbox's files and the volumes that the agent made for it.
fn relabel(spec: &crate::oci::Spec, config: &ContainerConfig) -> CriResult<()> {
    let label = &spec.linux.mount_label;
    if label.is_empty() {
        return Ok(());
    }
    let volumes = config.mounts.iter().filter(|mount| mount.selinux_relabel).map(|mount| &mount.host_path);
    let is_own = |mount: &&crate::oci::Mount| {
        mount.kind == "bind"
            && mount.source != "/dev/shm"
            && !config.mounts.iter().any(|one| one.host_path == mount.source)
    };
    let own = spec.mounts.iter().filter(is_own).map(|mount| &mount.source);
    for path in volumes.chain(own) {
        confine::relabel(Path::new(path), label).map_err(internal(format_args!("relabel {path} with {label}")))?;
    }
    Ok(())
}

fn read_profile(file: &str) -> CriResult<String> {
    std::fs::read_to_string(file)
        .map_err(|error| CriError::invalid_argument(format!("cannot load seccomp profile {file:?}: {error}")))
}

/// A file of an image, read through its layers from the top. No link may lead out of a layer.
fn file_of_image(layers: &[PathBuf], path: &str) -> String {
    use std::io::Read;
    for layer in layers.iter().rev() {
        let open = || -> rustix::io::Result<std::fs::File> {
            let root = rustix::fs::open(layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let flags = OFlags::RDONLY | OFlags::NONBLOCK;
            let file = crate::sys::open_inside(root.as_fd(), path, flags)?;
            Ok(file.into())
        };
        let Ok(file) = open() else { continue };
        if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
            // A device: the file was removed in this layer.
            return String::new();
        }
        let mut bytes = Vec::new();
        if file.take(MAX_USER_FILE_BYTES).read_to_end(&mut bytes).is_ok() {
            return String::from_utf8_lossy(&bytes).into_owned();
        }
    }
    String::new()
}

fn granted_devices(wanted: &[skiff_cri::Device]) -> CriResult<Vec<GrantedDevice>> {
    let mut granted = Vec::new();
    for device in wanted {
        let node = device_node(Path::new(&device.host_path), &device.container_path)
            .ok_or_else(|| CriError::invalid_argument(format!("{} is not a device", device.host_path)))?;
        let access = if device.permissions.is_empty() { "rwm".to_owned() } else { device.permissions.clone() };
        granted.push(GrantedDevice { node, access });
    }
    Ok(granted)
}

fn device_node(host_path: &Path, container_path: &str) -> Option<Device> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let metadata = std::fs::metadata(host_path).ok()?;
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return None,
    };
    Some(Device {
        path: container_path.to_owned(),
        kind: kind.to_owned(),
        major: i64::from(rustix::fs::major(metadata.rdev())),
        minor: i64::from(rustix::fs::minor(metadata.rdev())),
        file_mode: metadata.mode() & 0o777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// Every device of the host, for privileged containers; terminals and shared memory are the container's own.
fn host_devices() -> Vec<GrantedDevice> {
    let mut devices = Vec::new();
    let mut folders = vec![PathBuf::from("/dev")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                if !matches!(name.to_str(), Some("pts" | "shm" | "fd" | "mqueue" | ".lxc" | ".lxd-mounts" | ".udev")) {
                    folders.push(path);
                }
            } else if !kind.is_symlink() && name != "console" && name != "ptmx" {
                let path_text = path.display().to_string();
                devices.extend(
                    device_node(&path, &path_text).map(|node| GrantedDevice { node, access: "rwm".to_owned() }),
                );
            }
        }
    }
    devices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_numbers_and_many_names() {
        let check = |name| signal_number(name);
        assert_eq!(check("SIGQUIT"), Some(3));
        assert_eq!(check("term"), Some(15));
        assert_eq!(check("9"), Some(9));
        assert_eq!(check("SIGRTMIN+3"), Some(37));
        assert_eq!(check("SIGRTMAX-1"), Some(63));
        assert_eq!(check("SIGNONE"), None);
        assert_eq!(check("0"), None);
    }

    #[test]
    fn the_pods_stop_signal_wins_over_the_images() {
        let config = |signal: Signal| ContainerConfig { stop_signal: signal as i32, ..Default::default() };
        assert_eq!(stop_signal(&config(Signal::RuntimeDefault), ""), Ok(15));
        assert_eq!(stop_signal(&config(Signal::RuntimeDefault), "SIGQUIT"), Ok(3));
        assert_eq!(stop_signal(&config(Signal::Sigusr1), "SIGQUIT"), Ok(10));
        assert_eq!(stop_signal(&config(Signal::Sigrtminplus1), ""), Ok(35));
        assert!(stop_signal(&config(Signal::RuntimeDefault), "SIGWHAT").is_err());
    }

    #[test]
    fn ends_have_reasons() {
        let exit = |code, oom, message: &str| Exit {
            code,
            oom,
            message: message.into(),
            started_at: 1,
            at: 2,
            unknown: false,
        };
        assert_eq!(reason(&exit(0, false, "")), "Completed");
        assert_eq!(reason(&exit(1, false, "")), "Error");
        assert_eq!(reason(&exit(137, true, "")), "OOMKilled");
        assert_eq!(reason(&exit(128, false, "no such file")), "StartError");
        assert_eq!(reason(&Exit { code: 255, unknown: true, ..Exit::default() }), "Unknown");
    }

    #[test]
    fn an_update_changes_only_what_it_names() {
        let old = LinuxContainerResources { cpu_shares: 100, memory_limit_in_bytes: 1 << 20, ..Default::default() };
        let merged = merge(old, LinuxContainerResources { cpu_shares: 200, ..Default::default() });
        assert_eq!((merged.cpu_shares, merged.memory_limit_in_bytes), (200, 1 << 20));
    }
}
