//! Sandboxes: making, stopping and removing them.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::mount::{MountFlags, UnmountFlags};
use skiff_cri::*;

use super::{Inner, blocking, internal};
use crate::client::ShimClient;
use crate::oci::IdMaps;
use crate::records::{self, SandboxRecord};
use crate::shim::proto::{Call, Setup};
use crate::{spec, userns};

/// The size of a sandbox's `/dev/shm`, as upstream's runtimes give it.
const SHM_OPTIONS: &std::ffi::CStr = c"mode=1777,size=65536k";
/// What RuntimeClasses may name: there is one way of running pods, which manifests for other nodes call `runc`.
pub(super) const HANDLERS: [&str; 2] = ["", "runc"];
/// What pods with a network of their own may do unless they say otherwise, as containerd's default is:
/// listen on low ports and ping without being root.
const DEFAULT_SYSCTLS: &[(&str, &str)] =
    &[("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

/// A sandbox.
pub(crate) struct Sandbox {
    pub(crate) id: String,
    pub(crate) config: PodSandboxConfig,
    pub(crate) created_at: i64,
    pub(crate) runtime_handler: String,
    state: Mutex<State>,
}

struct State {
    shim: Option<Arc<ShimClient>>,
    addresses: Vec<String>,
    stopped: bool,
}

impl Sandbox {
    pub(crate) fn new(record: SandboxRecord, shim: Option<Arc<ShimClient>>) -> Self {
        Self {
            id: record.id,
            config: record.config.unwrap_or_default(),
            created_at: record.created_at,
            runtime_handler: record.runtime_handler,
            state: Mutex::new(State { shim, addresses: record.addresses, stopped: record.stopped }),
        }
    }

    fn record(&self) -> SandboxRecord {
        let state = self.state.lock();
        SandboxRecord {
            id: self.id.clone(),
            config: Some(self.config.clone()),
            created_at: self.created_at,
            runtime_handler: self.runtime_handler.clone(),
            addresses: state.addresses.clone(),
            stopped: state.stopped,
        }
    }

    /// The shim, while the sandbox is ready.
    pub(crate) fn shim(&self) -> CriResult<Arc<ShimClient>> {
        let state = self.state.lock();
        let ready = state.shim.as_ref().filter(|_| !state.stopped);
        ready.cloned().ok_or_else(|| CriError::failed_precondition(format!("sandbox {} is not running", self.id)))
    }

    pub(crate) fn is_ready(&self) -> bool {
        let state = self.state.lock();
        state.shim.is_some() && !state.stopped
    }

    /// Whether its shim is gone without its having been stopped.
    pub(crate) fn is_lost(&self) -> bool {
        let state = self.state.lock();
        state.shim.is_none() && !state.stopped
    }

    /// Notes that the shim is gone; false when that was known.
    pub(crate) fn set_lost(&self) -> bool {
        self.state.lock().shim.take().is_some()
    }

    pub(crate) fn namespaces(&self) -> NamespaceOption {
        namespaces_of(Some(&self.config))
    }

    pub(crate) fn on_host_network(&self) -> bool {
        self.namespaces().network == NamespaceMode::Node as i32
    }

    pub(crate) fn on_host_ipc(&self) -> bool {
        self.namespaces().ipc == NamespaceMode::Node as i32
    }

    pub(crate) fn cgroup_parent(&self, default: &str) -> String {
        let parent = self.config.linux.as_ref().map_or("", |linux| linux.cgroup_parent.as_str());
        if parent.is_empty() { format!("{default}/{}", self.id) } else { parent.to_owned() }
    }

    /// The network namespace, by the shim that holds it.
    pub(crate) fn netns(&self) -> Option<PathBuf> {
        let state = self.state.lock();
        state.shim.as_ref().map(|shim| PathBuf::from(format!("/proc/{}/ns/net", shim.pid())))
    }

    pub(crate) fn state_number(&self) -> i32 {
        let state = if self.is_ready() { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready };
        state as i32
    }

    pub(crate) fn status(&self) -> PodSandboxStatus {
        let addresses = self.state.lock().addresses.clone();
        let mut addresses = addresses.into_iter();
        let network = addresses
            .next()
            .map(|ip| PodSandboxNetworkStatus { ip, additional_ips: addresses.map(|ip| PodIp { ip }).collect() });
        PodSandboxStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state_number(),
            created_at: self.created_at,
            network,
            linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options: Some(self.namespaces()) }) }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.runtime_handler.clone(),
        }
    }

    pub(crate) fn summary(&self) -> PodSandbox {
        PodSandbox {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: self.state_number(),
            created_at: self.created_at,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: self.runtime_handler.clone(),
        }
    }
}

fn namespaces_of(config: Option<&PodSandboxConfig>) -> NamespaceOption {
    let security = config.and_then(|config| config.linux.as_ref()?.security_context.as_ref());
    security.and_then(|security| security.namespace_options.clone()).unwrap_or_default()
}

impl Inner {
    pub(crate) async fn run_sandbox(self: &Arc<Self>, request: RunPodSandboxRequest) -> CriResult<String> {
        let config = request.config.ok_or_else(|| CriError::invalid_argument("sandbox config must be set"))?;
        if config.metadata.is_none() {
            return Err(CriError::invalid_argument("sandbox config must include metadata"));
        }
        if !HANDLERS.contains(&request.runtime_handler.as_str()) {
            return Err(CriError::invalid_argument(format!(
                "no runtime for {:?} is configured",
                request.runtime_handler
            )));
        }
        let id = self.ids.hex(64);
        let record = SandboxRecord {
            id: id.clone(),
            config: Some(config),
            created_at: self.now(),
            runtime_handler: request.runtime_handler,
            ..SandboxRecord::default()
        };
        let result = self.make_sandbox(record).await;
        if let Err(error) = &result {
            tracing::debug!(sandbox = id, %error, "sandbox could not be made");
            self.sandboxes.lock().remove(&id);
            self.remove_sandbox_files(&id)?;
        }
        result.map(|()| id)
    }

    async fn make_sandbox(self: &Arc<Self>, record: SandboxRecord) -> CriResult<()> {
        let user_namespace = spec::user_namespace(&namespaces_of(record.config.as_ref()))?;
        if user_namespace.is_some() {
            userns::supported().map_err(CriError::failed_precondition)?;
        }
        let id = record.id.clone();
        let (root, run) = (self.sandbox_root(&id), self.sandbox_run(&id));
        for folder in [root.join("containers"), run.clone()] {
            std::fs::create_dir_all(&folder).map_err(internal(format_args!("make {}", folder.display())))?;
        }
        let shim = ShimClient::spawn(&self.shim_program, &id, &run.join("shim.log"), self.shim_events.clone())
            .map_err(internal("start the sandbox's shim"))?;
        let sandbox = Arc::new(Sandbox::new(record, Some(shim.clone())));
        let set_up = shim.call(Call::Setup(setup(&sandbox, &run, user_namespace)));
        // The shim makes the namespaces while the files are written here.
        let (answer, files) = tokio::join!(set_up, async { write_files(&sandbox, &root, &run) });
        let outcome = match answer.and(files) {
            Ok(()) => self.plug_in(&sandbox).await,
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            self.discard_shim(&shim).await;
            return Err(error);
        }
        records::save(&root, &sandbox.record()).map_err(internal(format_args!("save sandbox {id}")))?;
        self.sandboxes.lock().insert(id.clone(), sandbox);
        self.tell(&id, &id, ContainerEventType::ContainerCreatedEvent);
        self.tell(&id, &id, ContainerEventType::ContainerStartedEvent);
        Ok(())
    }

    async fn plug_in(&self, sandbox: &Sandbox) -> CriResult<()> {
        if sandbox.on_host_network() {
            return Ok(());
        }
        let netns = sandbox.netns().ok_or_else(|| CriError::internal("the sandbox's shim is gone"))?;
        match self.network.setup(&sandbox.id, &netns, &sandbox.config).await {
            Ok(addresses) => {
                sandbox.state.lock().addresses = addresses.iter().map(IpAddr::to_string).collect();
                Ok(())
            }
            Err(error) => {
                self.unplug(sandbox, Some(&netns)).await;
                let why = format!("failed to setup network for sandbox {:?}: {}", sandbox.id, error.message);
                Err(CriError { code: error.code, message: why })
            }
        }
    }

    async fn unplug(&self, sandbox: &Sandbox, netns: Option<&Path>) {
        if let Err(error) = self.network.teardown(&sandbox.id, netns, &sandbox.config).await {
            tracing::warn!(sandbox = sandbox.id, %error, "what is left of a failed sandbox's network stays behind");
        }
    }

    async fn discard_shim(&self, shim: &ShimClient) {
        if let Err(error) = shim.call(Call::Shutdown).await {
            tracing::debug!(%error, "the shim was gone already");
        }
    }

    pub(crate) async fn stop_sandbox(self: &Arc<Self>, id: &str) -> CriResult<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        for container in self.containers_of(id) {
            self.stop(&container, 0).await?;
        }
        if sandbox.state.lock().stopped {
            return Ok(());
        }
        if !sandbox.on_host_network() {
            self.network.teardown(id, sandbox.netns().as_deref(), &sandbox.config).await.map_err(|error| CriError {
                code: error.code,
                message: format!("failed to destroy network for sandbox {id:?}: {}", error.message),
            })?;
        }
        let shim = {
            let mut state = sandbox.state.lock();
            state.stopped = true;
            state.shim.take()
        };
        if let Some(shim) = shim {
            self.discard_shim(&shim).await;
        }
        let (root, run, record) = (self.sandbox_root(id), self.sandbox_run(id), sandbox.record());
        blocking(move || {
            unmount_shm(&run)?;
            records::save(&root, &record).map_err(internal(format_args!("save sandbox {}", record.id)))
        })
        .await?;
        self.tell(id, id, ContainerEventType::ContainerStoppedEvent);
        Ok(())
    }

    pub(crate) async fn remove_sandbox(self: &Arc<Self>, id: &str) -> CriResult<()> {
        let Ok(sandbox) = self.sandbox(id) else { return Ok(()) };
        self.stop_sandbox(id).await?;
        for container in self.containers_of(id) {
            self.remove(&container).await?;
        }
        let inner = self.clone();
        blocking(move || {
            inner.remove_sandbox_files(&sandbox.id)?;
            inner.cgroups.remove_if_empty(&sandbox.cgroup_parent(&inner.config.default_cgroup_parent));
            Ok(())
        })
        .await?;
        self.tell(id, id, ContainerEventType::ContainerDeletedEvent);
        self.sandboxes.lock().remove(id);
        Ok(())
    }

    pub(crate) fn remove_sandbox_files(&self, id: &str) -> CriResult<()> {
        unmount_shm(&self.sandbox_run(id))?;
        for folder in [self.sandbox_run(id), self.sandbox_root(id)] {
            remove_tree(&folder)?;
        }
        Ok(())
    }
}

/// Removes a folder; one that is gone already is fine.
pub(crate) fn remove_tree(folder: &Path) -> CriResult<()> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(internal(format_args!("remove {}", folder.display()))(error))
        }
        _ => Ok(()),
    }
}

fn unmount_shm(run: &Path) -> CriResult<()> {
    match rustix::mount::unmount(run.join("shm"), UnmountFlags::DETACH) {
        Ok(()) | Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => Ok(()),
        Err(error) => Err(CriError::internal(format!("unmount {}/shm: {error}", run.display()))),
    }
}

fn setup(sandbox: &Sandbox, run: &Path, user_namespace: Option<IdMaps>) -> Setup {
    let own_network = !sandbox.on_host_network();
    let asked = sandbox.config.linux.as_ref().map(|linux| linux.sysctls.clone()).unwrap_or_default();
    let defaults = DEFAULT_SYSCTLS.iter().filter(|(name, _)| own_network && !asked.contains_key(*name));
    let mut sysctls: Vec<(String, String)> =
        defaults.map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
    sysctls.extend(asked.clone());
    sysctls.sort();
    Setup {
        dir: run.display().to_string(),
        new_network: own_network,
        new_ipc: !sandbox.on_host_ipc(),
        hostname: own_network.then(|| sandbox.config.hostname.clone()),
        sysctls: sysctls.into_iter().map(|(name, value)| (sysctl_path(&name), value)).collect(),
        share_pid: sandbox.namespaces().pid == NamespaceMode::Pod as i32,
        user_namespace,
    }
}

/// The path of a kernel setting: names are parted by dots or by slashes, whichever comes first.
fn sysctl_path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => name
            .chars()
            .map(|letter| {
                if letter == '.' {
                    '/'
                } else if letter == '/' {
                    '.'
                } else {
                    letter
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

fn write_files(sandbox: &Sandbox, root: &Path, run: &Path) -> CriResult<()> {
    let write = |name: &str, text: &str| {
        let path = root.join(name);
        std::fs::write(&path, text).map_err(internal(format_args!("write {}", path.display())))
    };
    write("resolv.conf", &resolv_conf(sandbox.config.dns_config.as_ref()))?;
    let hostname = match sandbox.config.hostname.as_str() {
        "" => std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        given => given.to_owned(),
    };
    write("hostname", &format!("{hostname}\n"))?;
    if sandbox.on_host_ipc() {
        return Ok(());
    }
    let shm = run.join("shm");
    std::fs::create_dir_all(&shm).map_err(internal(format_args!("make {}", shm.display())))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("shm", &shm, "tmpfs", flags, Some(SHM_OPTIONS))
        .map_err(|error| CriError::internal(format!("mount {}: {error}", shm.display())))
}

/// The resolver's file: what the pod asks for, or the node's own.
fn resolv_conf(dns: Option<&DnsConfig>) -> String {
    let Some(dns) = dns else { return std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default() };
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolver_files_say_what_the_pod_asks_for() {
        let dns = DnsConfig {
            servers: vec!["10.96.0.10".into()],
            searches: vec!["default.svc.cluster.local".into(), "svc.cluster.local".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(Some(&dns)),
            "search default.svc.cluster.local svc.cluster.local\nnameserver 10.96.0.10\noptions ndots:5\n"
        );
    }

    #[test]
    fn kernel_settings_become_paths() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.100/rp_filter"), "net/ipv4/conf/eth0.100/rp_filter");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/100.rp_filter"), "net/ipv4/conf/eth0.100/rp_filter");
    }

    #[test]
    fn a_sandbox_on_the_host_has_no_namespaces_of_its_own() {
        let on_host = NamespaceOption {
            network: NamespaceMode::Node as i32,
            ipc: NamespaceMode::Node as i32,
            pid: 1,
            ..Default::default()
        };
        let config = PodSandboxConfig {
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(on_host),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let sandbox = Sandbox::new(SandboxRecord { config: Some(config), ..Default::default() }, None);
        let expected = Setup { dir: "/run/x".into(), ..Setup::default() };
        assert_eq!(setup(&sandbox, Path::new("/run/x"), None), expected);
    }
}
