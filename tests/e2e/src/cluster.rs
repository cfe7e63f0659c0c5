//! A node in isolation that lives as long as the value that stands for it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::image::{self, Image};

/// How long anything may take that a test waits for.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a test looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A name and its password, which a locked registry asks for.
pub const REGISTRY_LOGIN: &str = "puller:secret";
/// The same, as a registry keeps it.
const REGISTRY_USERS: &str = "puller:$2y$04$XnXihrSZEnzjgN4wCZ3c7uPmRfdQgXOFlX4v3bBKpWQ8vjZ12bXPO\n";

/// Settings by which it does not matter to a test how full the machine's disk is.
pub(crate) const KUBELET_CONFIG: &str = "
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard:
  memory.available: 50Mi
  nodefs.available: 100Mi
  nodefs.inodesFree: 1%
  imagefs.available: 100Mi
";

/// A running node and the folder it lives in; both are gone when the value is dropped.
pub struct Cluster {
    /// The name of the isolated node; of several nodes, that of the server.
    pub name: String,
    /// The name of the cluster, where it has several nodes.
    group: Option<String>,
    data: PathBuf,
    registry: Option<Child>,
}

/// What a command printed.
#[derive(Debug)]
pub struct Answer {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The exit code.
    pub code: i32,
}

impl Answer {
    /// What a command that has ended printed.
    pub fn of(output: Output) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }

    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self.stdout
    }
}

/// The program under test: what `SKIFF_BIN` names.
pub fn skiff_binary() -> PathBuf {
    PathBuf::from(
        std::env::var_os("SKIFF_BIN").expect("SKIFF_BIN names the program under test; cargo xtask test sets it"),
    )
}

fn hello_binary() -> PathBuf {
    PathBuf::from(
        std::env::var_os("SKIFF_HELLO").expect("SKIFF_HELLO names the test program; cargo xtask test sets it"),
    )
}

/// The test image at a version.
pub fn hello_image(version: &str) -> Image {
    image::hello(version, &hello_binary(), Path::new("/bin/busybox")).expect("busybox-static is installed")
}

/// An image that only waits, for runtimes that hold a pod's namespaces by a container.
pub fn pause_image() -> Image {
    image::pause(Path::new("/bin/busybox")).expect("busybox-static is installed")
}

impl Cluster {
    /// A node that is yet to be started.
    pub fn empty(purpose: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{purpose}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let data = std::env::temp_dir().join(format!("skiff-e2e-{name}"));
        std::fs::create_dir_all(&data).expect("a writable temporary folder");
        Self { name, group: None, data, registry: None }
    }

    /// Starts a node and imports `localhost:5000/hello:v1` and `:v2` into it.
    pub fn up(purpose: &str) -> Self {
        let cluster = Self::up_without_images(purpose);
        for version in ["v1", "v2"] {
            let file = cluster.data.join(format!("hello-{version}.tar"));
            hello_image(version).save(&format!("localhost:5000/hello:{version}"), &file).expect("written");
            cluster.skiff(&["image", "import", &file.display().to_string()]).ok();
        }
        cluster
    }

    /// Starts a server and so many agents, and imports `localhost:5000/hello:v1` into all of them.
    pub fn several(purpose: &str, agents: usize) -> Self {
        Self::several_with(purpose, agents, &[], |_| {})
    }

    /// The same; before anything is started, `prepare` may put something where the nodes will be.
    pub fn several_on(purpose: &str, agents: usize, prepare: impl FnOnce(&Self)) -> Self {
        Self::several_with(purpose, agents, &[], prepare)
    }

    /// The same with further options of `skiff cluster create`.
    pub fn several_with(purpose: &str, agents: usize, options: &[&str], prepare: impl FnOnce(&Self)) -> Self {
        let mut cluster = Self::empty(purpose);
        cluster.group = Some(cluster.name.clone());
        cluster.name = format!("{}-server-0", cluster.name);
        prepare(&cluster);
        let config = cluster.kubelet_config(KUBELET_CONFIG).display().to_string();
        let agents = agents.to_string();
        cluster.group(&["create"], &[&["--agents", &agents, "--kubelet-config", &config], options].concat()).ok();
        let file = cluster.data.join("hello-v1.tar");
        hello_image("v1").save("localhost:5000/hello:v1", &file).expect("written");
        cluster.group(&["import"], &[&file.display().to_string()]).ok();
        cluster
    }

    /// Runs `skiff cluster COMMAND` for a cluster of several nodes.
    pub fn group(&self, command: &[&str], arguments: &[&str]) -> Answer {
        let group = self.group.as_ref().expect("the cluster was made with several nodes");
        let mut skiff = Command::new(skiff_binary());
        skiff.arg("cluster").args(command).arg(group).args(arguments).arg("--data-dir").arg(&self.data);
        Answer::of(skiff.stdin(Stdio::null()).output().expect("the program under test can be started"))
    }

    /// What `skiff cluster list` says.
    pub fn listed(&self) -> String {
        let mut skiff = Command::new(skiff_binary());
        skiff.args(["cluster", "list", "--data-dir"]).arg(&self.data);
        Answer::of(skiff.output().expect("the program under test can be started")).ok()
    }

    /// The ports of the machine that lead into the cluster, `address:port` each, in the order in which they were asked for.
    pub fn machine_ports(&self) -> Vec<String> {
        let list = self.listed();
        let row = list.lines().nth(1).expect("one cluster");
        let written = row.split_whitespace().map(|word| word.trim_end_matches(',')).filter(|word| word.contains('@'));
        let place = |port: &str| {
            let (way, _) = port.split_once('@')?;
            way.rsplit_once(':').map(|(place, _)| place.to_owned())
        };
        written.map(|port| place(port).expect("each has a place")).collect()
    }

    /// The folder of one of the nodes.
    pub fn folder_of(&self, node: &str) -> PathBuf {
        self.data.join("isolated").join(node)
    }

    /// The name of an agent.
    pub fn agent(&self, number: usize) -> String {
        format!("{}-agent-{number}", self.group.as_ref().expect("the cluster was made with several nodes"))
    }

    /// Starts a node that has no images.
    pub fn up_without_images(purpose: &str) -> Self {
        let cluster = Self::empty(purpose);
        cluster.skiff(&["up"]).ok();
        cluster
    }

    /// Creates what a manifest says.
    #[track_caller]
    pub fn create(&self, manifest: &str) {
        self.kubectl_with("create -f -", manifest).ok();
    }

    /// Waits until a Pod is Ready.
    #[track_caller]
    pub fn ready(&self, pod: &str) {
        self.kubectl(&format!("wait --for=condition=Ready pod/{pod} --timeout=60s")).ok();
    }

    /// The result of a shell line inside a Pod.
    pub fn sh(&self, pod: &str, line: &str) -> Answer {
        self.kubectl_args(&["exec", pod, "--", "sh", "-c", line])
    }

    /// Runs `skiff COMMAND` for this node.
    pub fn skiff(&self, command: &[&str]) -> Answer {
        self.skiff_of(&self.name, command)
    }

    /// Runs `skiff COMMAND` for one of several nodes.
    pub fn skiff_of(&self, node: &str, command: &[&str]) -> Answer {
        let mut skiff = Command::new(skiff_binary());
        skiff.args(command);
        if command.first() == Some(&"up") && !command.contains(&"--kubelet-config") {
            skiff.arg("--kubelet-config").arg(self.kubelet_config(KUBELET_CONFIG));
        }
        let output = skiff.args(["--isolated", node, "--data-dir"]).arg(&self.data).stdin(Stdio::null()).output();
        Answer::of(output.expect("the program under test can be started"))
    }

    /// A file with settings of the node agent.
    pub(crate) fn kubelet_config(&self, settings: &str) -> PathBuf {
        let file = self.data.join("kubelet.yaml");
        std::fs::write(&file, settings).expect("a writable folder");
        file
    }

    /// The node's administrator's kubeconfig; of several servers, the one that leads to all of them.
    pub fn kubeconfig(&self) -> PathBuf {
        let of_all = self.group.iter().map(|group| self.data.join("clusters").join(format!("{group}.kubeconfig")));
        if let Some(of_all) = of_all.into_iter().find(|file| file.exists()) {
            return of_all;
        }
        self.data.join("isolated").join(&self.name).join("kubeconfig")
    }

    /// The folder for files that the test makes.
    pub fn folder(&self) -> &Path {
        &self.data
    }

    /// A kubectl command that is yet to be run.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", &self.data).args(arguments);
        // Stands in for a person at an editor.
        command.env("KUBE_EDITOR", "sed -i s/before-edit/after-edit/");
        command
    }

    /// Runs kubectl with the words of a line, split at spaces.
    pub fn kubectl(&self, line: &str) -> Answer {
        self.kubectl_args(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs kubectl with arguments that have spaces in them.
    pub fn kubectl_args(&self, arguments: &[&str]) -> Answer {
        let output = self.kubectl_command(arguments).stdin(Stdio::null()).output();
        Answer::of(output.expect("kubectl is installed"))
    }

    /// Runs kubectl with a manifest on its standard input.
    pub fn kubectl_with(&self, line: &str, input: &str) -> Answer {
        self.kubectl_args_with(&line.split_whitespace().collect::<Vec<_>>(), input)
    }

    /// Runs kubectl with arguments that have spaces in them, and with something on its standard input.
    pub fn kubectl_args_with(&self, arguments: &[&str], input: &str) -> Answer {
        let mut child = self
            .kubectl_command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is installed");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("kubectl reads its input");
        Answer::of(child.wait_with_output().expect("kubectl ends"))
    }

    /// An object, or a list of them, as JSON.
    pub fn get(&self, line: &str) -> Value {
        let text = self.kubectl(&format!("get {line} -o json")).ok();
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// Waits until all replicas of a Deployment are there.
    pub fn rollout(&self, deployment: &str) {
        self.kubectl(&format!("rollout status deployment/{deployment} --timeout=60s")).ok();
    }

    /// Runs a program inside the node's network.
    pub fn inside(&self, program: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.keeper_pid())).args(program);
        command
    }

    /// The process id of the first process of the node on the host.
    pub fn keeper_pid(&self) -> u32 {
        self.pid_in(&self.name, "keeper.pid")
    }

    /// The same of one of several nodes.
    pub fn keeper_pid_of(&self, node: &str) -> u32 {
        self.pid_in(node, "keeper.pid")
    }

    /// The server's process id on the host.
    pub fn server_pid(&self) -> u32 {
        self.pid_in(&self.name, "server.pid")
    }

    /// The same of one of several nodes.
    pub fn server_pid_of(&self, node: &str) -> u32 {
        self.pid_in(node, "server.pid")
    }

    /// The name of a server.
    pub fn server(&self, number: usize) -> String {
        format!("{}-server-{number}", self.group.as_ref().expect("the cluster was made with several nodes"))
    }

    fn pid_in(&self, node: &str, file: &str) -> u32 {
        let path = self.data.join("isolated").join(node).join("run").join(file);
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        text.split_whitespace().next().and_then(|pid| pid.parse().ok()).expect("the file holds a process id")
    }

    /// Starts a registry at localhost:5000 of the node's network, with the test images in it.
    pub fn start_registry(&mut self) {
        self.serve_registry("");
        for version in ["v1", "v2", "locked"] {
            self.push(&hello_image(version), "hello", version);
        }
    }

    /// From now on the registry asks everyone for [`REGISTRY_LOGIN`].
    pub fn lock_registry(&mut self) {
        let file = self.data.join("registry.users");
        std::fs::write(&file, REGISTRY_USERS).expect("written");
        self.stop_registry();
        self.serve_registry(&format!("auth: {{htpasswd: {{realm: tests, path: {}}}}}\n", file.display()));
    }

    fn serve_registry(&mut self, settings: &str) {
        let config = self.data.join("registry.yml");
        let root = self.data.join("registry");
        let text = format!(
            "version: 0.1\nlog: {{level: warn}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:5000\"}}\n{settings}",
            root.display()
        );
        std::fs::write(&config, text).expect("written");
        let mut command = self.inside(&["docker-registry", "serve"]);
        command.arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.registry = Some(command.spawn().expect("docker-registry is installed"));
        eventually("the registry answers", || self.curl(&["http://127.0.0.1:5000/v2/"]).code == 0);
    }

    /// Takes the registry away; connections to it are refused from then on.
    pub fn stop_registry(&mut self) {
        let mut registry = self.registry.take().expect("a registry that runs");
        registry.kill().and_then(|()| registry.wait()).expect("it was a child of this process");
    }

    fn curl(&self, arguments: &[&str]) -> Answer {
        let mut command = self.inside(&["curl", "--silent", "--show-error", "--fail", "--max-time", "20"]);
        command.args(["--user", REGISTRY_LOGIN]);
        Answer::of(command.args(arguments).output().expect("curl is installed"))
    }

    fn push(&self, image: &Image, repository: &str, tag: &str) {
        let staged = self.data.join("push");
        let base = format!("http://127.0.0.1:5000/v2/{repository}");
        let file = format!("@{}", staged.display());
        for digest in &image.parts {
            std::fs::write(&staged, &image.blobs[digest]).expect("written");
            let headers =
                self.curl(&["-X", "POST", "-D", "-", "-o", "/dev/null", &format!("{base}/blobs/uploads/")]).ok();
            let location = headers.lines().find_map(|line| line.strip_prefix("Location: ")).expect("a place to put it");
            let place = format!("{}&digest={digest}", location.trim());
            self.curl(&["-X", "PUT", "-H", "Content-Type: application/octet-stream", "--data-binary", &file, &place])
                .ok();
        }
        std::fs::write(&staged, &image.blobs[&image.manifest]).expect("written");
        let media = "Content-Type: application/vnd.oci.image.manifest.v1+json";
        self.curl(&["-X", "PUT", "-H", media, "--data-binary", &file, &format!("{base}/manifests/{tag}")]).ok();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut registry) = self.registry.take() {
            registry
                .kill()
                .and_then(|()| registry.wait())
                .map(drop)
                .unwrap_or_else(|error| eprintln!("registry: {error}"));
        }
        if std::thread::panicking() {
            const ROWS: usize = 40;
            for what in ["get events -A --sort-by=.lastTimestamp", "get pods -A -o wide"] {
                let text = self.kubectl(what).stdout;
                let rows: Vec<_> = text.lines().collect();
                eprintln!("{}", rows[rows.len().saturating_sub(ROWS)..].join("\n"));
            }
            let log = self.data.join("isolated").join(&self.name).join("skiff.log");
            let text = std::fs::read_to_string(log).unwrap_or_default();
            let lines: Vec<_> = text.lines().collect();
            eprintln!("{}", lines[lines.len().saturating_sub(60)..].join("\n"));
        }
        let answer = if self.group.is_some() { self.group(&["delete"], &[]) } else { self.skiff(&["delete"]) };
        if answer.code != 0 {
            eprintln!("delete: {}", answer.stderr);
        }
        std::fs::remove_dir_all(&self.data).unwrap_or_else(|error| eprintln!("{}: {error}", self.data.display()));
    }
}

/// Looks until `seen` says yes, and fails the test when it does not in time.
#[track_caller]
pub fn eventually(what: &str, mut seen: impl FnMut() -> bool) {
    let start = Instant::now();
    while !seen() {
        assert!(start.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Ends a process as a power cut would, and waits until nothing of it is left: it lets go of its files and ports after its
/// memory.
#[track_caller]
pub fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().expect("there is a kill").success());
    eventually("the process is gone", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
    });
}

/// One request to a web server, on a connection of its own; the answer's body.
///
/// # Errors
/// Nobody answers, or the answer is no success.
pub fn http_get(address: &str, path: &str) -> std::io::Result<String> {
    use std::io::Read;
    const LIMIT: Duration = Duration::from_secs(5);
    let address: std::net::SocketAddr = address.parse().map_err(std::io::Error::other)?;
    let mut stream = std::net::TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(|| std::io::Error::other("the answer broke off"))?;
    if head.starts_with("HTTP/1.1 200") { Ok(body.to_owned()) } else { Err(std::io::Error::other(head.to_owned())) }
}
