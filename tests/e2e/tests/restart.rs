//! What people do to a node itself: kill it, stop it, start it again, delete it, and tell it nonsense.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, kill, skiff_binary};

#[test]
fn nothing_is_lost_and_nothing_stays() {
    let cluster = Cluster::up("restart");
    let manifest = "create deployment hello --replicas=2 --image=localhost:5000/hello:v1 -- /hello --port=8080";
    cluster.kubectl(manifest).ok();
    cluster.rollout("hello");
    the_node_in_events(&cluster);
    a_killed_server(&cluster);
    a_killed_keeper(&cluster);
    down_and_up(&cluster);
    down_after_a_kill(&cluster);
    cluster.skiff(&["up"]).ok();
    cluster.rollout("hello");
    let traces = Traces::of(&cluster);
    a_namesake(&cluster);
    assert_eq!(traces.left(), traces.expected, "what a running node has on the machine");
    kill(cluster.server_pid());
    cluster.skiff(&["delete"]).ok();
    assert_eq!(traces.left(), Vec::<String>::new(), "what a deleted node left on the machine");
    assert_eq!(cluster.skiff(&["status"]).stdout, "skiff is not running\n");
}

/// What is told of the node itself.
fn the_node_in_events(cluster: &Cluster) {
    let node = cluster.get("nodes")["items"][0]["metadata"]["name"].as_str().unwrap().to_owned();
    cluster.kubectl(&format!("cordon {node}")).ok();
    eventually("the node tells of itself", || {
        let told = cluster.get("events --field-selector involvedObject.kind=Node,source=kubelet").to_string();
        let status = ["HasSufficientMemory", "HasNoDiskPressure", "HasSufficientPID", "Ready", "NotSchedulable"];
        status.iter().all(|what| told.contains(&format!("Node {node} status is now: Node{what}")))
            && told.contains("Starting kubelet.")
            && told.contains("Updated Node Allocatable limit across pods")
    });
    cluster.kubectl(&format!("uncordon {node}")).ok();
}

/// Container ids with their restart counts.
fn containers(cluster: &Cluster) -> Vec<(String, u64)> {
    let pods = cluster.get("pods -l app=hello");
    let mut found = Vec::new();
    for pod in pods["items"].as_array().unwrap() {
        for status in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
            let id = status["containerID"].as_str().unwrap_or_default().to_owned();
            found.push((id, status["restartCount"].as_u64().unwrap()));
        }
    }
    found.sort();
    found
}

fn a_killed_server(cluster: &Cluster) {
    let before = containers(cluster);
    assert_eq!(before.len(), 2);
    let status = cluster.skiff(&["status"]).ok();
    for role in [" server ", " keeper ", " shim "] {
        assert!(status.contains(role), "{status}");
    }
    let pid = cluster.server_pid();
    let environment = std::fs::read_to_string(format!("/proc/{pid}/environ")).expect("it runs");
    for setting in ["MIMALLOC_PURGE_DELAY=", "GLIBC_TUNABLES="] {
        assert!(environment.contains(setting), "libraries of the server have their settings: {environment}");
    }
    cluster.kubectl("create configmap last-words --from-literal=said=yes").ok();
    kill(pid);
    assert_eq!(cluster.skiff(&["status"]).code, 1);
    cluster.skiff(&["up"]).ok();
    assert_ne!(cluster.server_pid(), pid);
    assert_eq!(cluster.get("cm last-words")["data"]["said"], "yes");
    cluster.rollout("hello");
    assert_eq!(containers(cluster), before, "containers live on while the server is away");
    cluster.kubectl("exec deployment/hello -- true").ok();
}

fn a_killed_keeper(cluster: &Cluster) {
    let before = containers(cluster);
    kill(cluster.keeper_pid());
    cluster.skiff(&["up"]).ok();
    comes_back(cluster, &before);
}

fn down_and_up(cluster: &Cluster) {
    let before = containers(cluster);
    cluster.skiff(&["down"]).ok();
    assert!(cluster.skiff(&["down"]).stdout.contains("skiff is not running"));
    cluster.skiff(&["up"]).ok();
    comes_back(cluster, &before);
    assert_eq!(cluster.get("cm last-words")["data"]["said"], "yes");
}

fn down_after_a_kill(cluster: &Cluster) {
    let traces = Traces::of(cluster);
    kill(cluster.server_pid());
    cluster.skiff(&["down"]).ok();
    let folder = traces.folder.display().to_string();
    assert_eq!(traces.left(), [folder], "a stopped node has its folder and nothing else");
}

/// A node of another data folder that has the same name does no harm.
fn a_namesake(cluster: &Cluster) {
    let folder = cluster.folder().join("elsewhere").display().to_string();
    let other = |command: &str| {
        let target = [command, "--isolated", &cluster.name, "--data-dir", &folder];
        Command::new(skiff_binary()).args(target).output().unwrap()
    };
    assert!(other("delete").status.success(), "there is nothing to delete");
    let refused = other("up");
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("another node is called"), "{said}");
    cluster.kubectl("exec deployment/hello -- true").ok();
}

/// Waits until none of the containers of before is left and all Pods are Ready again.
fn comes_back(cluster: &Cluster, before: &[(String, u64)]) {
    eventually("the containers are new ones and Ready", || {
        let now = containers(cluster);
        let is_new =
            now.len() == 2 && now.iter().all(|one| !one.0.is_empty() && before.iter().all(|old| old.0 != one.0));
        is_new && cluster.get("deployment hello")["status"]["readyReplicas"] == 2
    });
    cluster.kubectl("exec deployment/hello -- true").ok();
}

/// The places where a node would leave something.
struct Traces {
    name: String,
    folder: PathBuf,
    interface: String,
    expected: Vec<String>,
}

impl Traces {
    /// The places of a node that runs.
    fn of(cluster: &Cluster) -> Self {
        let folder = cluster.folder().join("isolated").join(&cluster.name);
        let facts: serde_json::Value =
            serde_json::from_slice(&std::fs::read(folder.join("node.json")).unwrap()).unwrap();
        let interface = format!("skiff-i{}", facts["link"]);
        let mut traces = Self { name: cluster.name.clone(), folder, interface, expected: Vec::new() };
        traces.expected = traces.left();
        for sign in ["/sys/class/net/", "/run/skiff/", "process ", "/sys/fs/cgroup/"] {
            assert!(traces.expected.iter().any(|trace| trace.starts_with(sign)), "{sign}: {:?}", traces.expected);
        }
        traces
    }

    /// What is there now.
    fn left(&self) -> Vec<String> {
        let mut places = vec![
            self.folder.clone(),
            Path::new("/sys/class/net").join(&self.interface),
            Path::new("/run/skiff/isolated").join(&self.name),
        ];
        let cgroups = Path::new("/sys/fs/cgroup");
        places.push(cgroups.join(format!("skiff-{}", self.name)));
        for hierarchy in std::fs::read_dir(cgroups).unwrap().flatten() {
            places.push(hierarchy.path().join(format!("skiff-{}", self.name)));
        }
        places.sort();
        let mut left: Vec<String> =
            places.iter().filter(|place| place.exists()).map(|place| place.display().to_string()).collect();
        left.extend(self.mounts());
        left.extend(self.processes());
        left
    }

    fn mounts(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        mounts.lines().filter(|line| line.contains(&self.name)).map(|line| format!("mount {line}")).collect()
    }

    /// Server and keeper name the folder on their command lines, containers and shims their cgroup.
    fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let cgroups = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let is_ours = cgroups.contains(&format!("/skiff-{}", self.name))
                || command.contains(&format!("keeper {}", self.folder.display()))
                || command.contains(&format!("--isolated {} --inside", self.name));
            if is_ours && pid != std::process::id() {
                found.push(format!("process {pid}: {command}"));
            }
        }
        found.sort();
        found
    }
}

#[test]
fn bad_input_is_told_in_words() {
    let cluster = Cluster::empty("input");
    let fails = |command: &[&str], words: &[&str]| {
        let answer = cluster.skiff(command);
        assert_ne!(answer.code, 0, "{command:?}: {answer:?}");
        for word in words {
            assert!(answer.stderr.contains(word), "{command:?} should say {word:?}: {answer:?}");
        }
    };
    let status = cluster.skiff(&["status"]);
    assert_eq!((status.code, status.stdout.as_str()), (1, "skiff is not running\n"));
    fails(&["up", "--no-such-flag"], &["--no-such-flag"]);
    fails(&["image", "list"], &["skiff is not running"]);
    fails(&["kubeconfig"], &["kubeconfig"]);
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    fails(&["up", "--api-port", &port], &[&port, "in use", "--api-port"]);
    drop(taken);
    cluster.skiff(&["up", "--api-port", &port]).ok();
    let broken = cluster.folder().join("broken.tar");
    std::fs::write(&broken, "this is no archive").unwrap();
    fails(&["image", "import", &broken.display().to_string()], &["broken.tar"]);
    fails(&["image", "import", "/no/such/file.tar"], &["/no/such/file.tar", "No such file"]);
    fails(&["image", "rm", "localhost:5000/nope:v1"], &["nope"]);
    assert_eq!(cluster.skiff(&["status"]).code, 0);
}
