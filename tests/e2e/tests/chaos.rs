//! Faults under churn: the server, shims, containers' first processes and containerd are killed at random while pods come
//! and go. In the end every pod has what it needs, once, and nothing else is left: no container, mount, cgroup, namespace,
//! link, address or rule. Rounds follow from a seed, which is printed.
//!
//! `cargo xtask test chaos` plays 200 rounds on each runtime instead of the usual few (`SKIFF_CHAOS_ROUNDS`), or those of another seed
//! (`SKIFF_CHAOS_SEED`).
#![allow(clippy::disallowed_methods, reason = "a whole node lives in real time")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use skiff_e2e::Cluster;
use skiff_e2e::containerd::Containerd;

/// Half a minute for each runtime, mostly.
const USUAL_ROUNDS: u64 = 12;
/// After so many rounds everything is looked at, and not only in the end.
const LOOK_EVERY: u64 = 12;
/// A container that was killed several times is started again only after a back-off of up to five minutes.
const PATIENCE: Duration = Duration::from_secs(400);
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// What containerd has neither started nor cleared away for so long, it never will.
const TIME_TO_SETTLE: Duration = Duration::from_secs(20);
const STEADY: usize = 3;
const MOST_PODS: usize = 6;

#[test]
fn no_fault_loses_or_doubles_anything() {
    play(&Cluster::up("chaos"), None);
}

#[test]
fn no_fault_of_another_runtime_does_either() {
    let (cluster, containerd) = Containerd::cluster("chaosd");
    play(&cluster, Some(containerd));
}

/// Plays all rounds and looks at everything, now and then and in the end.
fn play(cluster: &Cluster, containerd: Option<Containerd>) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let (rounds, seed) =
        (number("SKIFF_CHAOS_ROUNDS").unwrap_or(USUAL_ROUNDS), number("SKIFF_CHAOS_SEED").unwrap_or(1));
    println!("{rounds} rounds, seed {seed}");
    let empty = Left::of(cluster);
    let steady = format!("create deployment steady --replicas={STEADY} --image=localhost:5000/hello:v1");
    cluster.kubectl(&steady).ok();
    cluster.rollout("steady");
    cluster.kubectl("expose deployment steady --port=80 --target-port=8080").ok();
    let mut chaos = Chaos { cluster, containerd, random: Random(seed), pods: BTreeSet::new(), next: 0 };
    for round in 1..=rounds {
        let done = chaos.round();
        println!("round {round}: {done}");
        if round % LOOK_EVERY == 0 || round == rounds {
            chaos.all_is_well();
            // New pods have no back-off behind them.
            cluster.kubectl("delete pods -l app=steady --grace-period=0 --wait=false").ok();
        }
    }
    cluster.kubectl("delete service,deployment steady --grace-period=0").ok();
    cluster.kubectl("delete pods --all --grace-period=0 --force").ok();
    let look = || {
        let mut left = Left::of(cluster);
        if chaos.containerd.is_some() {
            // One that was being started when containerd was killed is known to nobody, which is containerd's to mend.
            left.shims = empty.shims;
        }
        left
    };
    chaos.until(|| {
        let left = look();
        if left == empty { Ok(()) } else { Err(format!("{left:?} is left, and there was {empty:?}")) }
    });
}

/// Numbers that follow from a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % limit as u64).unwrap()
    }
}

struct Chaos<'a> {
    cluster: &'a Cluster,
    /// The runtime, where it is not the node's own.
    containerd: Option<Containerd>,
    random: Random,
    pods: BTreeSet<String>,
    next: u64,
}

impl Chaos<'_> {
    /// One change and one fault, the fault in the middle of what the change sets off.
    fn round(&mut self) -> String {
        let change = if self.pods.len() < MOST_PODS && self.random.below(2) == 0 { self.add() } else { self.remove() };
        let pause = self.random.below(300) as u64;
        std::thread::sleep(Duration::from_millis(pause));
        let fault = match self.random.below(if self.containerd.is_some() { 5 } else { 4 }) {
            0 => self.kill_server(),
            1 => self.kill_one("shim", shims(self.cluster)),
            2 => self.kill_one("container", containers(self.cluster)),
            3 => self.exec(),
            _ => self.kill_containerd(),
        };
        format!("{change}, {fault} after {pause} ms")
    }

    fn add(&mut self) -> String {
        self.next += 1;
        let name = format!("churn-{}", self.next);
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
                "containers": [{
                    // Each has a rule of its own.
                    "ports": [{"containerPort": 8080, "hostPort": 20_000 + self.next}],
                    "name": "c", "image": "localhost:5000/hello:v1", "command": ["sleep", "100000"],
                    "volumeMounts": [{"name": "memory", "mountPath": "/memory"}],
                }],
            },
        });
        self.cluster.create(&pod.to_string());
        self.pods.insert(name.clone());
        format!("add {name}")
    }

    fn remove(&mut self) -> String {
        let Some(name) = self.pods.pop_first() else { return self.add() };
        let grace = self.random.below(2);
        self.cluster.kubectl(&format!("delete pod {name} --wait=false --grace-period={grace}")).ok();
        format!("remove {name}")
    }

    fn kill_server(&mut self) -> String {
        kill(self.cluster.server_pid());
        // Sometimes somebody dies while nobody watches.
        let beside = match self.random.below(4) {
            0 | 1 => self.kill_one("shim", shims(self.cluster)),
            2 if self.containerd.is_some() => self.kill_containerd(),
            _ => String::new(),
        };
        let endpoint = self.containerd.as_ref().map(Containerd::endpoint);
        let mut up = vec!["up"];
        up.extend(endpoint.iter().flat_map(|endpoint| ["--container-runtime-endpoint", endpoint]));
        self.cluster.skiff(&up).ok();
        format!("kill server {beside}")
    }

    fn kill_containerd(&mut self) -> String {
        self.containerd.as_mut().unwrap().crash();
        "kill containerd".to_owned()
    }

    fn kill_one(&mut self, what: &str, candidates: Vec<u32>) -> String {
        if candidates.is_empty() {
            return format!("no {what} to kill");
        }
        let pid = candidates[self.random.below(candidates.len())];
        kill(pid);
        format!("kill {what} {pid}")
    }

    /// A command in some pod; whether it comes to run depends on what else happens.
    fn exec(&mut self) -> String {
        let answer = self.cluster.kubectl("exec deployment/steady -- true");
        format!("exec ended with {}", answer.code)
    }

    fn all_is_well(&self) {
        let mut last = String::new();
        let all = || {
            let pods = self.cluster.get("pods");
            let pods = pods["items"].as_array().unwrap();
            let names: BTreeSet<&str> = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).collect();
            let expected = self.pods.len() + STEADY;
            // Another runtime holds each pod's namespaces by a container.
            let containers = if self.containerd.is_some() { 2 * expected } else { expected };
            let left = Left::of(self.cluster);
            let seen = format!("{} of {expected} pods, {left:?}", pods.len());
            if seen != last {
                println!("{seen}");
                last = seen;
            }
            let is_well = pods.iter().all(is_ready)
                && pods.len() == expected
                && self.pods.iter().all(|name| names.contains(name.as_str()))
                && (self.containerd.is_some() || left.shims == expected)
                && left.containers == containers
                // What containerd's own shim leaves when it is killed too early goes with its pod.
                && (self.containerd.is_some() || left.cgroups == containers)
                && left.pod_cgroups == expected
                && left.namespaces == expected + 1
                && left.logs == expected
                && left.rules
                    == pods.iter().filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned)).collect()
                && left.links == expected
                && left.addresses == expected
                && left.shared_memory == expected
                && left.volumes == pods.iter().map(volumes).sum::<usize>();
            if is_well { Ok(()) } else { Err(format!("not every pod runs, or something else does: {last}")) }
        };
        self.until(all);
        self.cluster.kubectl("exec deployment/steady -- true").ok();
    }

    /// Looks until all is as it should be; what is not is told in the end.
    fn until(&self, mut look: impl FnMut() -> Result<(), String>) {
        let start = Instant::now();
        let (mut lost, mut looked) = (BTreeSet::new(), start);
        while let Err(wrong) = look() {
            assert!(start.elapsed() < PATIENCE, "{wrong}");
            if let Some(containerd) = self.containerd.as_ref().filter(|_| looked.elapsed() > TIME_TO_SETTLE) {
                (lost, looked) = (containerd.end_lost(&lost), Instant::now());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.filter(|one| one["type"] == "Ready").all(|one| one["status"] == "True");
    ready && pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null()
}

/// The volumes of a pod that are mounts: the token of its service account, and memory.
fn volumes(pod: &Value) -> usize {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.filter(|volume| volume["projected"].is_object() || volume["emptyDir"]["medium"] == "Memory").count()
}

fn kill(pid: u32) {
    // It may have ended by itself meanwhile.
    Command::new("kill").args(["-9", &pid.to_string()]).stderr(std::process::Stdio::null()).status().unwrap();
}

/// The processes of the node, by their arguments.
fn processes(cluster: &Cluster) -> Vec<(u32, String)> {
    let namespace = std::fs::read_link(format!("/proc/{}/ns/pid", cluster.keeper_pid())).unwrap();
    let of_node = |entry: std::fs::DirEntry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        (std::fs::read_link(entry.path().join("ns/pid")).ok()? == namespace).then_some(())?;
        let command = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
        Some((pid, command))
    };
    std::fs::read_dir("/proc").unwrap().flatten().filter_map(of_node).collect()
}

fn shims(cluster: &Cluster) -> Vec<u32> {
    let is_shim = |command: &str| {
        command.starts_with("skiff-shim\0") || command.starts_with("/usr/bin/containerd-shim-runc-v2\0")
    };
    let shims = processes(cluster).into_iter().filter(|(_, command)| is_shim(command));
    // A child on its way into a container still has its shim's arguments.
    let is_child = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent: Option<u32> = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)?.parse().ok());
        let parent = parent.and_then(|parent| std::fs::read_to_string(format!("/proc/{parent}/cmdline")).ok());
        parent.is_some_and(|command| command.starts_with("skiff-shim\0"))
    };
    shims.map(|(pid, _)| pid).filter(|&pid| !is_child(pid)).collect()
}

/// The cgroups of containers: their folders are named by ids.
fn cgroups(cluster: &Cluster) -> Vec<PathBuf> {
    named_cgroups(cluster, |name| name.len() == 64 && name.bytes().all(|c| c.is_ascii_hexdigit()))
}

/// The network namespaces of the node's processes, and those that are held by mounts.
fn namespaces(cluster: &Cluster, mounts: &str) -> usize {
    let of_process = |(pid, _): (u32, String)| {
        std::fs::read_link(format!("/proc/{pid}/ns/net")).ok().map(|link| link.display().to_string())
    };
    let mut found: BTreeSet<String> = processes(cluster).into_iter().filter_map(of_process).collect();
    let held = mounts.lines().filter_map(|line| line.split(' ').find(|part| part.starts_with("net:[")));
    found.extend(held.map(str::to_owned));
    found.len()
}

/// The pods' addresses that the node's rules lead to.
fn rules(cluster: &Cluster) -> BTreeSet<String> {
    let listed = cluster.inside(&["nft", "list", "ruleset"]).output().unwrap();
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let words = text.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '/'));
    words.filter(|word| word.starts_with("10.244.") && !word.contains('/')).map(str::to_owned).collect()
}

fn named_cgroups(cluster: &Cluster, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    fn below(folder: &Path, is_wanted: &dyn Fn(&str) -> bool, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                let name = entry.file_name().to_string_lossy().into_owned();
                if is_wanted(&name) {
                    found.push(path.clone());
                }
                below(&path, is_wanted, found);
            }
        }
    }
    let root =
        ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"].map(|root| Path::new(root).join(format!("skiff-{}", cluster.name)));
    let mut found = Vec::new();
    below(root.iter().find(|root| root.exists()).unwrap(), &is_wanted, &mut found);
    found
}

/// The first processes of containers. What containerd had made and not started when it was killed is known to nobody, runs
/// nothing and goes with its pod.
fn containers(cluster: &Cluster) -> Vec<u32> {
    let first = |cgroup: PathBuf| -> Option<u32> {
        std::fs::read_to_string(cgroup.join("cgroup.procs")).ok()?.lines().next()?.parse().ok()
    };
    let is_started = |pid: &u32| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        !command.starts_with("runc\0init\0")
    };
    cgroups(cluster).into_iter().filter_map(first).filter(is_started).collect()
}

/// The addresses that are given out: files named by them.
fn addresses(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let count = |entry: std::fs::DirEntry| {
        if entry.path().is_dir() {
            return addresses(&entry.path());
        }
        usize::from(entry.file_name().to_string_lossy().parse::<std::net::Ipv4Addr>().is_ok())
    };
    entries.map(count).sum()
}

/// What pods leave on a machine while they live.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    shims: usize,
    containers: usize,
    cgroups: usize,
    links: usize,
    addresses: usize,
    shared_memory: usize,
    volumes: usize,
    pod_cgroups: usize,
    namespaces: usize,
    logs: usize,
    rules: BTreeSet<String>,
}

impl Left {
    fn of(cluster: &Cluster) -> Self {
        let links = cluster.inside(&["ip", "-oneline", "link", "show", "type", "veth"]).output().unwrap();
        let links = String::from_utf8_lossy(&links.stdout).lines().filter(|line| line.contains("master")).count();
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", cluster.keeper_pid())).unwrap();
        let mounted =
            |part: &str| mounts.lines().filter(|line| line.contains(&cluster.name) && line.contains(part)).count();
        let root = cluster.folder().join("isolated").join(&cluster.name);
        let logs = std::fs::read_dir(root.join("log/pods")).map_or(0, Iterator::count);
        Self {
            namespaces: namespaces(cluster, &mounts),
            pod_cgroups: named_cgroups(cluster, |name| name.starts_with("pod")).len(),
            logs,
            rules: rules(cluster),
            shims: shims(cluster).len(),
            containers: containers(cluster).len(),
            cgroups: cgroups(cluster).len(),
            links,
            addresses: addresses(&root.join("network")) + addresses(&root.join("cni-addresses")),
            shared_memory: mounted("/shm "),
            volumes: mounted("/volumes/"),
        }
    }
}
