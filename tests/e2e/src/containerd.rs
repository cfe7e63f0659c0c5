//! Debian's containerd as a node's runtime: started inside the node's namespaces, on a socket in the node's folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cluster::{Answer, Cluster, KUBELET_CONFIG, eventually, hello_image, pause_image, skiff_binary};

/// Where the CNI plugins remember what they were told, whoever runs them.
const CNI_CACHE: &str = "/var/lib/cni";
/// How often, and how many times, it is looked whether the daemon is there.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
const LOOKS: usize = 100;
const PAUSE: &str = "localhost:5000/pause:v1";

/// A containerd that runs as long as the value lives.
pub struct Containerd {
    folder: PathBuf,
    /// Where the addresses of its sandboxes are given out.
    addresses: PathBuf,
    keeper: u32,
    child: Child,
}

impl Containerd {
    /// A node with containerd as its runtime, and the test images in it.
    pub fn cluster(purpose: &str) -> (Cluster, Self) {
        Self::cluster_with(purpose, KUBELET_CONFIG, &[])
    }

    /// The same with other settings of the node agent, and further flags of the node.
    pub fn cluster_with(purpose: &str, settings: &str, flags: &[&str]) -> (Cluster, Self) {
        let cluster = Cluster::empty(purpose);
        let folder = cluster.folder().join("containerd");
        std::fs::create_dir_all(&folder).expect("a writable folder");
        let endpoint = format!("unix://{}", folder.join("s").display());
        // The node waits for its runtime, and the runtime for the node's namespaces.
        let up = Command::new(skiff_binary())
            .args(["up", "--isolated", &cluster.name, "--data-dir"])
            .arg(cluster.folder())
            .args(["--container-runtime-endpoint", &endpoint, "--kubelet-config"])
            .arg(cluster.kubelet_config(settings))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program under test can be started");
        let conf = cluster.folder().join("isolated").join(&cluster.name).join("cni");
        eventually("the node asks for its runtime", || conf.join("10-skiff.conflist").exists());
        let keeper = cluster.keeper_pid();
        std::fs::write(folder.join("config.toml"), config(&folder, &conf)).expect("written");
        let child = start(&folder, keeper);
        let runtime = Self { folder, addresses: conf.with_file_name("cni-addresses"), keeper, child };
        let up = Answer::of(up.wait_with_output().expect("it ends"));
        let said = std::fs::read_to_string(runtime.folder.join("log")).unwrap_or_default();
        assert_eq!(up.code, 0, "{}\n{said}", up.stderr);
        for version in ["v1", "v2"] {
            runtime.import(&format!("localhost:5000/hello:{version}"), &hello_image(version));
        }
        runtime.import(PAUSE, &pause_image());
        (cluster, runtime)
    }

    fn import(&self, name: &str, image: &crate::image::Image) {
        let file = self.folder.join("image.tar");
        image.save(name, &file).expect("written");
        self.ctr(&["images", "import", &file.display().to_string()]).ok();
    }

    /// Runs `ctr` in the namespace of Kubernetes.
    pub fn ctr(&self, arguments: &[&str]) -> Answer {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.folder.join("s")).args(["--namespace", "k8s.io"]).args(arguments);
        Answer::of(command.stdin(Stdio::null()).output().expect("containerd is installed"))
    }

    /// Ends what containerd lost sight of when it was killed, and mends only when it is told: what it had created and not
    /// started, which nobody can start any more; what ended meanwhile, which it holds for stopped and its CRI for running, so
    /// that neither it nor its sandbox can be removed; and networks, addresses and shared memory that it had made for sandboxes of
    /// which it knows nothing.
    /// What was there at the last look is `known`; returned is what is there now.
    pub fn end_lost(&self, known: &BTreeSet<String>) -> BTreeSet<String> {
        let listed = self.ctr(&["tasks", "list"]).stdout;
        let is_lost = |line: &&str| ["CREATED", "STOPPED"].into_iter().any(|state| line.trim_end().ends_with(state));
        let tasks = listed.lines().filter(is_lost).filter_map(|line| line.split(' ').next().map(str::to_owned));
        let lost: BTreeSet<String> = tasks.chain(self.empty_networks()).chain(self.of_nobody()).collect();
        for one in lost.intersection(known) {
            let ended = if Path::new(one).starts_with(&self.addresses) {
                Answer::of(Command::new("rm").arg(one).output().expect("it is always there"))
            } else if one.starts_with('/') {
                let target = self.keeper.to_string();
                // It looks itself up in the node's /proc.
                let enter = ["--target", &target, "--mount", "--pid", "umount", one];
                let unmount = Command::new("nsenter").args(enter).output();
                Answer::of(unmount.expect("nsenter is installed"))
            } else {
                self.ctr(&["tasks", "delete", "--force", one])
            };
            println!("ending {one}, which containerd lost: {ended:?}");
        }
        lost
    }

    /// The network namespaces in its folder that no process is in.
    fn empty_networks(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.keeper)).unwrap_or_default();
        let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let used: BTreeSet<PathBuf> =
            processes.filter_map(|process| std::fs::read_link(process.path().join("ns/net")).ok()).collect();
        let empty = |line: &str| {
            let mut fields = line.split(' ').skip(3);
            let (namespace, point) = (fields.next()?, fields.next()?);
            let is_empty = namespace.starts_with("net:[") && !used.contains(Path::new(namespace));
            (is_empty && Path::new(point).starts_with(&self.folder)).then(|| point.to_owned())
        };
        mounts.lines().filter_map(empty).collect()
    }

    /// The addresses and the shared memory that belong to none of its containers.
    fn of_nobody(&self) -> Vec<String> {
        let containers = self.ctr(&["containers", "list", "--quiet"]);
        let is_known = |id: &str| containers.code != 0 || containers.stdout.lines().any(|known| known == id);
        let networks = std::fs::read_dir(&self.addresses).into_iter().flatten().flatten();
        let files = networks.flat_map(|network| std::fs::read_dir(network.path()).into_iter().flatten().flatten());
        let addresses = files.filter_map(|file| {
            file.file_name().to_str()?.parse::<std::net::IpAddr>().ok()?;
            let owner = std::fs::read_to_string(file.path()).ok()?;
            (!is_known(owner.lines().next()?.trim())).then(|| file.path().display().to_string())
        });
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.keeper)).unwrap_or_default();
        let memory = mounts.lines().filter_map(|line| {
            let point = Path::new(line.split(' ').nth(4)?);
            let sandbox = point.parent().filter(|_| point.starts_with(&self.folder) && point.ends_with("shm"))?;
            (!is_known(sandbox.file_name()?.to_str()?)).then(|| point.display().to_string())
        });
        addresses.chain(memory).collect()
    }

    /// Where it is spoken to.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.folder.join("s").display())
    }

    /// The daemon itself, which is a child of the process that has entered the node's namespaces for it.
    pub fn pid(&self) -> Option<u32> {
        let entered = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{entered}/task/{entered}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Ends the daemon without warning and starts it again; its containers run on.
    pub fn crash(&mut self) {
        self.end().expect("it was a child of this process");
        self.child = start(&self.folder, self.keeper);
    }

    fn end(&mut self) -> std::io::Result<()> {
        // One that was started a moment ago may not be there yet.
        let daemon = (0..LOOKS).find_map(|_| {
            self.pid().or_else(|| {
                std::thread::sleep(LOOK_AGAIN);
                None
            })
        });
        match daemon {
            // Who has entered the namespaces ends with it.
            Some(daemon) => drop(Command::new("kill").args(["-9", &daemon.to_string()]).status()?),
            None => self.child.kill()?,
        }
        self.child.wait().map(drop)
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Its shims end with the node's process namespace.
        if let Err(error) = self.end() {
            eprintln!("containerd: {error}");
        }
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.folder.join("log")).unwrap_or_default());
        }
    }
}

fn start(folder: &Path, keeper: u32) -> Child {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).expect("a writable folder");
    // It keeps its own cgroup: a cgroup namespace would hide the paths that the node agent names. What its plugins remember
    // of pods is the node's own too.
    let own = folder.join("cni-cache");
    std::fs::create_dir_all(&own).and_then(|()| std::fs::create_dir_all(CNI_CACHE)).expect("writable folders");
    let run = r#"mountpoint -q "$1" || mount --bind "$0" "$1"; exec containerd --config "$2""#;
    Command::new("nsenter")
        .args(["--target", &keeper.to_string(), "--mount", "--net", "--uts", "--ipc", "--pid", "--"])
        .args(["sh", "-c", run])
        .args([own.as_path(), Path::new(CNI_CACHE), &folder.join("config.toml")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("nsenter is installed")
}

fn config(folder: &Path, cni: &Path) -> String {
    let (folder, cni) = (folder.display(), cni.display());
    format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[debug]
  level = "warn"
[grpc]
  address = "{folder}/s"
[ttrpc]
  address = "{folder}/t"
[plugins."io.containerd.grpc.v1.cri"]
  # Where the tests are themselves run in a container, the score cannot be lowered.
  restrict_oom_score_adj = true
  # What holds network namespaces goes with the folder, and is not left on the machine when a test fails.
  netns_mounts_under_state_dir = true
  sandbox_image = "{PAUSE}"
  stream_server_address = "127.0.0.1"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{cni}"
"#
    )
}
