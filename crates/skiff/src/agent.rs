//! The node agent and the embedded runtime: what the two need of each other, of the network and of the kernel.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};
use skiff_cri::{
    CriError, CriResult, ListContainersRequest, ListPodSandboxRequest, PodSandboxConfig, RuntimeService,
    StopContainerRequest, StopPodSandboxRequest,
};
use skiff_kubelet::{FileSystem, Mounter};
use skiff_netd::{HostPort, NewPod, PodGate, PodNetwork, Transport};
use skiff_runtime::{CniNetwork, NetworkPlugin};

/// Mounts for volumes.
pub struct KernelMounts;

impl Mounter for KernelMounts {
    fn mount_tmpfs(&self, target: &Path, size_bytes: Option<u64>) -> io::Result<()> {
        let options = size_bytes.map_or_else(|| "mode=0777".to_owned(), |size| format!("mode=0777,size={size}"));
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options.as_str()))
            .map_err(named("mount a tmpfs on", target))
    }

    fn mount_huge_pages(&self, target: &Path, page_bytes: u64) -> io::Result<()> {
        let options = format!("mode=0777,pagesize={page_bytes}");
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("nodev"), target, Some("hugetlbfs"), flags, Some(options.as_str()))
            .map_err(named("mount huge pages on", target))
    }

    fn unmount(&self, target: &Path) -> io::Result<bool> {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => Ok(true),
            // Nothing is mounted there.
            Err(nix::errno::Errno::EINVAL) => Ok(false),
            Err(error) => Err(named("unmount", target)(error)),
        }
    }

    fn end_process(&self, pid: i32) {
        match nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(error) => tracing::warn!(pid, %error, "a process cannot be ended"),
        }
    }

    fn mount_nfs(&self, source: &str, target: &Path, options: &[String]) -> io::Result<()> {
        let mut command = Command::new("mount");
        command.args(["-t", "nfs"]);
        if !options.is_empty() {
            command.args(["-o", &options.join(",")]);
        }
        run(command.arg(source).arg(target)).map(drop)
    }

    fn attach_loop(&self, file: &Path) -> io::Result<PathBuf> {
        let known = run(Command::new("losetup").args(["--noheadings", "--output", "NAME", "--associated"]).arg(file))?;
        if let Some(device) = known.lines().map(str::trim).find(|line| !line.is_empty()) {
            return Ok(PathBuf::from(device));
        }
        Ok(PathBuf::from(run(Command::new("losetup").args(["--find", "--show"]).arg(file))?.trim()))
    }

    fn detach_loop(&self, device: &Path) -> io::Result<()> {
        // A device that is still open elsewhere goes when it is closed: that is what the kernel does here.
        run(Command::new("losetup").arg("--detach").arg(device)).map(drop)
    }

    fn bind_below(&self, root: &Path, part: &Path, target: &Path) -> io::Result<PathBuf> {
        let mode = std::fs::metadata(root)?.permissions();
        let root_fd = open(root, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(named("open", root))?;
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let below = |path: &Path| openat2(&root_fd, path, how);
        let mut at = PathBuf::new();
        for name in part.components() {
            let parent = if at.as_os_str().is_empty() { Path::new(".") } else { &at }.to_owned();
            at.push(name);
            match below(&at) {
                Ok(_) => {}
                Err(nix::errno::Errno::ENOENT) => {
                    // Made in the folder that is held, not by its name.
                    let folder = below(&parent).map_err(leads_out(&at))?;
                    mkdirat(&folder, Path::new(name.as_os_str()), Mode::from_bits_truncate(0o750))
                        .map_err(named("make", &at))?;
                    let made = below(&at).map_err(leads_out(&at))?;
                    std::fs::set_permissions(held(&made), mode.clone())?;
                }
                Err(error) => return Err(leads_out(&at)(error)),
            }
        }
        let found = below(part).map_err(leads_out(part))?;
        let is_folder = std::fs::metadata(held(&found))?.is_dir();
        if is_folder {
            std::fs::create_dir_all(target)?;
        } else {
            target.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::File::create(target)?;
        }
        // What is held is mounted: nobody can exchange it any more.
        let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(&held(&found)), target, None::<&str>, flags, None::<&str>)
            .map_err(named("bind-mount on", target))?;
        Ok(target.to_owned())
    }

    fn file_system(&self, path: &Path) -> io::Result<FileSystem> {
        let stat = nix::sys::statvfs::statvfs(path).map_err(named("ask the file system at", path))?;
        let bytes = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.fragment_size())).unwrap_or(i64::MAX);
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Ok(FileSystem {
            total_bytes: bytes(stat.blocks()),
            available_bytes: bytes(stat.blocks_available()),
            inodes: count(stat.files()),
            inodes_free: count(stat.files_available()),
        })
    }

    fn bind(&self, source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
        let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(source), target, None::<&str>, bind, None::<&str>).map_err(named("bind-mount on", target))?;
        if read_only {
            // A bind mount takes its flags only in a second step.
            let flags = bind | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
            mount(None::<&str>, target, None::<&str>, flags, None::<&str>).map_err(named("make read-only", target))?;
        }
        Ok(())
    }
}

/// The name under which this process finds what it holds.
fn held(file: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn leads_out<'a>(path: &'a Path) -> impl Fn(nix::Error) -> io::Error + 'a {
    move |error| match error {
        nix::errno::Errno::EXDEV | nix::errno::Errno::ELOOP => {
            io::Error::other(format!("the path {:?} leads out of the volume", path.display().to_string()))
        }
        error => named("open", path)(error),
    }
}

/// Runs one of the system's own tools; its complaint is the error.
fn run(command: &mut Command) -> io::Result<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| {
        let tool = command.get_program().to_string_lossy().into_owned();
        io::Error::new(error.kind(), format!("{tool}: {error}"))
    })?;
    if !output.status.success() {
        let tool = command.get_program().to_string_lossy().into_owned();
        return Err(io::Error::other(format!("{tool}: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn named<'a>(operation: &'a str, target: &'a Path) -> impl Fn(nix::Error) -> io::Error + 'a {
    move |error| io::Error::new(io::Error::from(error).kind(), format!("{operation} {}: {error}", target.display()))
}

/// The pod network as the runtime's plugin.
pub struct PluggedNetwork {
    /// Addresses and interfaces.
    pub maker: NetworkMaker,
    /// Where a pod waits until network policies hold for it.
    pub gate: PodGate,
}

/// Who makes the pods' network.
pub enum NetworkMaker {
    /// The node.
    Node(Arc<PodNetwork>),
    /// Plugins of others.
    Plugins(CniNetwork),
}

impl NetworkMaker {
    async fn setup(&self, sandbox_id: &str, netns: &Path, config: &PodSandboxConfig) -> CriResult<Vec<IpAddr>> {
        let network = match self {
            Self::Node(network) => network.clone(),
            Self::Plugins(plugins) => return plugins.setup(sandbox_id, netns, config).await,
        };
        let ports = host_ports(config)?;
        // It takes about a millisecond of the kernel's time, but enters a namespace on a thread of its own.
        let (sandbox, netns) = (sandbox_id.to_owned(), netns.to_owned());
        let addresses = tokio::task::spawn_blocking(move || network.setup(&sandbox, &netns, &ports)).await;
        addresses.map_err(internal)?.map_err(internal)
    }

    async fn teardown(&self, sandbox_id: &str, netns: Option<&Path>, config: &PodSandboxConfig) -> CriResult<()> {
        let network = match self {
            Self::Node(network) => network.clone(),
            Self::Plugins(plugins) => return plugins.teardown(sandbox_id, netns, config).await,
        };
        let sandbox = sandbox_id.to_owned();
        tokio::task::spawn_blocking(move || network.teardown(&sandbox)).await.map_err(internal)?.map_err(internal)
    }
}

#[async_trait::async_trait]
impl NetworkPlugin for PluggedNetwork {
    async fn ready(&self) -> Result<(), String> {
        match &self.maker {
            NetworkMaker::Node(_) => Ok(()),
            NetworkMaker::Plugins(plugins) => plugins.ready().await,
        }
    }

    async fn setup(&self, sandbox_id: &str, netns: &Path, config: &PodSandboxConfig) -> CriResult<Vec<IpAddr>> {
        let addresses = self.maker.setup(sandbox_id, netns, config).await?;
        if let Some(pod) = new_pod(config, &addresses) {
            self.gate.admit(pod).await;
        }
        Ok(addresses)
    }

    async fn teardown(&self, sandbox_id: &str, netns: Option<&Path>, config: &PodSandboxConfig) -> CriResult<()> {
        self.maker.teardown(sandbox_id, netns, config).await?;
        if let Some(pod) = &config.metadata {
            self.gate.leave(&pod.namespace, &pod.name, &pod.uid);
        }
        Ok(())
    }
}

fn new_pod(config: &PodSandboxConfig, addresses: &[IpAddr]) -> Option<NewPod> {
    let pod = config.metadata.as_ref()?;
    Some(NewPod {
        namespace: pod.namespace.clone(),
        name: pod.name.clone(),
        uid: pod.uid.clone(),
        labels: config.labels.clone().into_iter().collect(),
        addresses: addresses.to_vec(),
    })
}

fn internal(error: impl std::fmt::Display) -> CriError {
    CriError::internal(error.to_string())
}

fn host_ports(config: &PodSandboxConfig) -> CriResult<Vec<HostPort>> {
    let mut ports = Vec::new();
    for mapping in config.port_mappings.iter().filter(|mapping| mapping.host_port > 0) {
        let port =
            |number: i32| u16::try_from(number).map_err(|_| CriError::invalid_argument(format!("{number} is no port")));
        ports.push(HostPort {
            transport: match mapping.protocol {
                1 => Transport::Udp,
                2 => Transport::Sctp,
                _ => Transport::Tcp,
            },
            host_address: mapping.host_ip.parse().unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()),
            host_port: port(mapping.host_port)?,
            pod_port: port(mapping.container_port)?,
        });
    }
    Ok(ports)
}

/// What `skiff down` gives a container to end by itself; Pods that want longer do not get it here.
const DOWN_GRACE_SECONDS: i64 = 10;
/// The label by which the node agent knows the sandboxes and containers of Pods.
const POD_UID_LABEL: &str = "io.kubernetes.pod.uid";

/// Stops all containers and sandboxes, all at once. Their records stay: the next start finds how each of them ended, as
/// after a reboot, and begins anew what the API server still wants.
///
/// # Errors
/// The runtime does not say what runs.
pub async fn stop_everything(runtime: &Arc<dyn RuntimeService>) -> CriResult<()> {
    // Another runtime may also have containers that are no business of this node.
    let ours = |labels: &HashMap<String, String>| labels.contains_key(POD_UID_LABEL);
    let mut containers = runtime.list_containers(ListContainersRequest::default()).await?.containers;
    containers.retain(|container| ours(&container.labels));
    let mut stops = tokio::task::JoinSet::new();
    for container in containers {
        let runtime = runtime.clone();
        stops.spawn(async move {
            let request = StopContainerRequest { container_id: container.id, timeout: DOWN_GRACE_SECONDS };
            runtime.stop_container(request).await.map(drop)
        });
    }
    finish(stops).await;
    let mut sandboxes = runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.items;
    sandboxes.retain(|sandbox| ours(&sandbox.labels));
    let mut stops = tokio::task::JoinSet::new();
    for sandbox in sandboxes {
        let runtime = runtime.clone();
        stops.spawn(async move {
            runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: sandbox.id }).await.map(drop)
        });
    }
    finish(stops).await;
    Ok(())
}

async fn finish(mut stops: tokio::task::JoinSet<CriResult<()>>) {
    while let Some(stopped) = stops.join_next().await {
        match stopped {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "stopping"),
            Err(error) => tracing::warn!(%error, "stopping"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Often enough that a check and a use apart from each other would be caught.
    const ROUNDS: usize = 400;

    /// Runs in a mount namespace of its own, so that nobody else sees what is mounted.
    fn apart(test: impl FnOnce() + Send) {
        let enter = || -> nix::Result<()> {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        };
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                enter().expect("root may have a mount namespace");
                test();
            });
            thread.join().expect("the test holds");
        });
    }

    /// Exchanges a folder of a volume for a link to the outside and back, until it is told to stop.
    fn exchange(volume: &Path, stop: &AtomicBool) {
        use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
        while !stop.load(Ordering::Relaxed) {
            let (one, other) = (volume.join("part"), volume.join("link"));
            renameat2(AT_FDCWD, &one, AT_FDCWD, &other, RenameFlags::RENAME_EXCHANGE).expect("both are there");
        }
    }

    #[test]
    fn a_sub_path_never_leads_out_however_fast_links_are_exchanged() {
        let folder = std::env::temp_dir().join(format!("skiff-race-{}", std::process::id()));
        let (volume, outside, target) = (folder.join("volume"), folder.join("outside"), folder.join("target"));
        for (place, text) in [(volume.join("part/deep"), "inside"), (outside.join("deep"), "outside")] {
            std::fs::create_dir_all(&place).expect("a folder");
            std::fs::write(place.join("file"), text).expect("a file");
        }
        std::os::unix::fs::symlink("../outside", volume.join("link")).expect("a link");
        apart(|| {
            let read = |part: &str| -> Result<String, String> {
                let at =
                    KernelMounts.bind_below(&volume, Path::new(part), &target).map_err(|error| error.to_string())?;
                let text = std::fs::read_to_string(at.join("file")).unwrap_or_default();
                assert!(KernelMounts.unmount(&at).expect("it can be unmounted"), "it was mounted");
                Ok(text)
            };
            assert_eq!(read("part/deep"), Ok("inside".to_owned()));
            assert!(read("link/deep").expect_err("it is refused").contains("leads out of the volume"));
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| exchange(&volume, &stop));
                for round in 0..ROUNDS {
                    for part in ["part/deep".to_owned(), format!("part/new-{round}")] {
                        match read(&part) {
                            Ok(text) => assert_ne!(text, "outside", "{part}"),
                            Err(error) => assert!(error.contains("leads out of the volume"), "{part}: {error}"),
                        }
                    }
                }
                stop.store(true, Ordering::Relaxed);
            });
        });
        let made = std::fs::read_dir(&outside).expect("it is there").count();
        std::fs::remove_dir_all(&folder).expect("it goes");
        assert_eq!(made, 1, "nothing was made outside");
    }
}
