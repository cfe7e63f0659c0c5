//! A runtime in folders and cgroups of its own, gone without a trace when it is dropped.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use skiff_base::SystemClock;
use skiff_cri::*;
use skiff_runtime::{EmbeddedRuntime, ImageConfig, ImageSource, NetworkPlugin, RuntimeConfig, UnpackedImage};

/// How long something may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(120);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// An image with busybox and some users.
struct TestImage {
    layers: Vec<PathBuf>,
}

#[async_trait]
impl ImageSource for TestImage {
    async fn unpacked(&self, image: &str) -> CriResult<UnpackedImage> {
        if image != "busybox" {
            return Err(CriError::not_found(format!("image {image:?} not found")));
        }
        let config = ImageConfig { cmd: vec!["sh".into()], env: vec!["FROM=image".into()], ..ImageConfig::default() };
        let reference = "localhost/busybox@sha256:0".to_owned();
        Ok(UnpackedImage { id: "sha256:1".into(), reference, layers: self.layers.clone(), config })
    }
}

/// A network that gives every sandbox the same address and no interface.
struct NoNetwork;

#[async_trait]
impl NetworkPlugin for NoNetwork {
    async fn setup(&self, _: &str, netns: &Path, _: &PodSandboxConfig) -> CriResult<Vec<IpAddr>> {
        std::fs::metadata(netns).map_err(|error| CriError::internal(error.to_string()))?;
        Ok(vec![IpAddr::from([10, 244, 0, 7])])
    }

    async fn teardown(&self, _: &str, _: Option<&Path>, _: &PodSandboxConfig) -> CriResult<()> {
        Ok(())
    }
}

pub struct World {
    pub folder: PathBuf,
    pub cgroup: String,
    cgroup2_root: Option<PathBuf>,
    runtime: Option<EmbeddedRuntime>,
}

impl World {
    pub async fn new() -> Self {
        let name = format!("skiff-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(&name);
        make_image(&folder);
        let mut world = Self { folder, cgroup: format!("/{name}"), cgroup2_root: None, runtime: None };
        world.start().await;
        world
    }

    /// The same on cgroup v2, wherever the machine has it mounted.
    pub async fn on_cgroup_v2() -> Self {
        let mut world = Self::new().await;
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let unified = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let point = fields.next()?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(point))
        });
        world.cgroup2_root = Some(unified.expect("the machine has cgroup v2"));
        world.forget();
        world.start().await;
        world
    }

    pub async fn start(&mut self) {
        let mut config = RuntimeConfig::new(self.folder.join("root"), self.folder.join("run")).expect("a program");
        config.default_cgroup_parent = self.cgroup.clone();
        config.cgroup2_root = self.cgroup2_root.clone();
        config.shim_cgroup = Some(format!("{}/shims", self.cgroup));
        let image = TestImage { layers: vec![self.folder.join("layers/base"), self.folder.join("layers/users")] };
        let started = EmbeddedRuntime::start(config, Arc::new(image), Arc::new(NoNetwork), SystemClock::shared()).await;
        self.runtime = Some(started.expect("the runtime starts"));
    }

    /// Forgets the runtime as if skiff had been killed; its shims live on.
    pub fn forget(&mut self) {
        self.runtime = None;
    }

    pub fn runtime(&self) -> &EmbeddedRuntime {
        self.runtime.as_ref().expect("the runtime runs")
    }

    pub fn sandbox_config(&self) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: "pod".into(),
                uid: "1".into(),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: "pod".into(),
            log_directory: self.folder.join("logs").display().to_string(),
            labels: [("app".to_owned(), "test".to_owned())].into(),
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/pod", self.cgroup),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(own_pids()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    pub async fn sandbox(&self, config: &PodSandboxConfig) -> String {
        let request = RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
        self.runtime().run_pod_sandbox(request).await.expect("a sandbox").pod_sandbox_id
    }

    /// Makes a container that runs a shell script.
    pub async fn create(&self, sandbox: &str, config: ContainerConfig) -> CriResult<String> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(self.sandbox_config()),
        };
        Ok(self.runtime().create_container(request).await?.container_id)
    }

    pub async fn start_container(&self, id: &str) -> CriResult<()> {
        self.runtime().start_container(StartContainerRequest { container_id: id.to_owned() }).await.map(drop)
    }

    pub async fn run(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.create(sandbox, config).await.expect("a container");
        self.start_container(&id).await.expect("starts");
        id
    }

    /// Runs a script in a container to its end: what it wrote, and how it ended.
    pub async fn output(&self, sandbox: &str, config: ContainerConfig) -> (String, ContainerStatus) {
        let id = self.run(sandbox, config).await;
        let status = self.wait_exit(&id).await;
        (text_of_log(&status.log_path), status)
    }

    pub async fn status(&self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.runtime().container_status(request).await.expect("a status").status.expect("is set")
    }

    /// What a container has said so far.
    pub async fn log(&self, id: &str) -> String {
        text_of_log(&self.status(id).await.log_path)
    }

    /// Waits for the end of a container by the runtime's own events.
    pub async fn wait_exit(&self, id: &str) -> ContainerStatus {
        use futures_util::StreamExt;
        let mut events = self.runtime().get_container_events(GetEventsRequest {}).await.expect("events");
        let wait = async {
            loop {
                let status = self.status(id).await;
                if status.state == ContainerState::ContainerExited as i32 {
                    return status;
                }
                events.next().await.expect("an event").expect("no error");
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("the container ends in time")
    }

    pub async fn exec(&self, id: &str, script: &str) -> (i32, String, String) {
        let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: 10 };
        let response = self.runtime().exec_sync(request).await.expect("runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (response.exit_code, text(response.stdout), text(response.stderr))
    }

    pub async fn stop_and_remove(&self, sandbox: &str) {
        let pod_sandbox_id = sandbox.to_owned();
        let stop = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        self.runtime().stop_pod_sandbox(stop).await.expect("stops");
        self.runtime().remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await.expect("is removed");
    }

    /// What a sandbox leaves on the machine: mounts, cgroups, files.
    pub fn traces(&self) -> Vec<String> {
        let folder = self.folder.display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let mut traces: Vec<String> = mounts.lines().filter(|line| line.contains(&folder)).map(str::to_owned).collect();
        for cgroup in self.cgroup_folders() {
            traces.push(format!("cgroup {}", cgroup.join("pod").display()));
        }
        traces.retain(|trace| !trace.starts_with("cgroup ") || Path::new(&trace["cgroup ".len()..]).exists());
        for part in ["root/sandboxes", "run"] {
            let entries = std::fs::read_dir(self.folder.join(part)).expect("is there");
            traces.extend(entries.flatten().map(|entry| entry.path().display().to_string()));
        }
        traces
    }

    fn cgroup_folders(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let mut roots = vec![root.to_path_buf()];
        roots.extend(std::fs::read_dir(root).expect("cgroups").flatten().map(|entry| entry.path()));
        let own = |root: PathBuf| root.join(self.cgroup.trim_start_matches('/'));
        roots.into_iter().map(own).filter(|folder| folder.exists()).collect()
    }
}

impl Drop for World {
    /// Ends the shims that this world started (they are found by its own cgroup) and removes every trace.
    fn drop(&mut self) {
        self.runtime = None;
        for folder in self.cgroup_folders() {
            end_all(&folder);
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let folder = self.folder.display().to_string();
        for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| point.starts_with(&folder))
        {
            if let Err(error) = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH) {
                eprintln!("{point} stays mounted: {error}");
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            eprintln!("{} stays: {error}", self.folder.display());
        }
        for folder in self.cgroup_folders() {
            remove_cgroup(&folder);
        }
    }
}

fn end_all(cgroup: &Path) {
    let entries = std::fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_dir()).for_each(|entry| end_all(&entry.path()));
    let members = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|pid| pid.parse().ok()).filter_map(rustix::process::Pid::from_raw) {
        // One that has ended meanwhile is no loss.
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap_or_default();
    }
}

fn remove_cgroup(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().is_dir()).for_each(|entry| remove_cgroup(&entry.path()));
    for _ in 0..50 {
        if std::fs::remove_dir(folder).is_ok() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Two layers: busybox under its many names, and users on top.
fn make_image(folder: &Path) {
    let bin = folder.join("layers/base/bin");
    for path in [bin.clone(), folder.join("layers/base/tmp"), folder.join("layers/users/etc")] {
        std::fs::create_dir_all(path).expect("a folder");
    }
    std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox is installed (apt-get install busybox-static)");
    let names = "sh sleep echo cat id env ls mount hostname true false kill ps stat head dd mkdir touch nc readlink wc tr grep stty mknod mkfifo unshare";
    for name in names.split(' ') {
        std::os::unix::fs::symlink("busybox", bin.join(name)).expect("a link");
    }
    let etc = folder.join("layers/users/etc");
    std::fs::write(etc.join("passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n").expect("passwd");
    std::fs::write(etc.join("group"), "root:x:0:\nwww:x:34:\nlogs:x:50:web\n").expect("group");
    // As many images have it: a link to something that is only there on a running system.
    std::os::unix::fs::symlink("../run/resolv.conf", etc.join("resolv.conf")).expect("a link");
}

pub fn own_pids() -> NamespaceOption {
    NamespaceOption { pid: NamespaceMode::Container as i32, ..Default::default() }
}

pub fn script(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: "busybox".into(), ..Default::default() }),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}/0.log"),
        linux: Some(LinuxContainerConfig {
            resources: None,
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(own_pids()),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

/// The lines of a log without times: `stdout F text`.
pub fn text_of_log(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let untimed = text.lines().map(|line| line.split_once(' ').map_or(line, |(_, rest)| rest));
    untimed.map(|line| format!("{line}\n")).collect()
}
