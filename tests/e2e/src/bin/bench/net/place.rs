//! Programs in network namespaces, each on a core of its own, and ended with the value that stands for them.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;
use skiff_e2e::Cluster;

use super::inside::INSIDE;

/// The core of the server that is measured.
pub const SERVER_CORE: usize = 0;
/// The core of the load, and of servers behind the one that is measured.
pub const LOAD_CORE: usize = 1;

/// A network namespace.
#[derive(Clone)]
pub struct Place(PathBuf);

impl Place {
    /// That of one of the nodes.
    pub fn of_node(cluster: &Cluster, node: &str) -> Self {
        Self(format!("/proc/{}/ns/net", cluster.keeper_pid_of(node)).into())
    }

    /// That of a pod: the one of the process that has the same namespace as the pod says that it has.
    pub fn of_pod(cluster: &Cluster, pod: &str) -> Self {
        let name = cluster.sh(pod, "readlink /proc/self/ns/net").ok();
        let is_it = |path: &Path| std::fs::read_link(path).is_ok_and(|link| link == Path::new(name.trim()));
        let processes = std::fs::read_dir("/proc").expect("a mounted /proc").flatten();
        let mut places = processes.map(|entry| entry.path().join("ns/net"));
        Self(places.find(|path| is_it(path)).expect("a process in the pod"))
    }

    /// A program in it, on one core.
    pub fn command(&self, core: usize, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &core.to_string(), "nsenter"]).arg(format!("--net={}", self.0.display()));
        command.arg(program).args(arguments);
        command
    }

    fn inside(&self, core: usize, arguments: &[&str]) -> Command {
        let program = std::env::current_exe().expect("this program has a place");
        let mut command = self.command(core, &program.display().to_string(), &[INSIDE]);
        command.args(arguments);
        command
    }

    /// Runs a load on the load's core; what it measured.
    #[track_caller]
    pub fn load(&self, arguments: &[&str]) -> Value {
        self.try_load(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
    }

    /// The same where it may fail.
    ///
    /// # Errors
    /// What the load fails with.
    pub fn try_load(&self, arguments: &[&str]) -> Result<Value, String> {
        let output = self.inside(LOAD_CORE, arguments).stdin(Stdio::null()).output().expect("taskset is installed");
        let said: Value = serde_json::from_slice(&output.stdout).map_err(|_| format!("{output:?}"))?;
        if said["failed"].is_null() { Ok(said) } else { Err(said["failed"].to_string()) }
    }

    /// Starts one of the programs that are told what to do by lines, and waits until it is ready.
    pub fn start(&self, core: usize, arguments: &[&str]) -> Talker {
        let mut command = self.inside(core, arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("taskset is installed");
        let (stdin, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut talker = Talker { child: Running(child), stdin, stdout: BufReader::new(stdout) };
        assert_eq!(talker.hear(), "ready", "{arguments:?}");
        talker
    }
}

/// A program that is told what to do.
pub struct Talker {
    /// It ends first, and so has nobody left to tell anything.
    #[expect(dead_code, reason = "it ends with this value")]
    child: Running,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Talker {
    /// Tells it something.
    pub fn say(&mut self, word: &str) {
        writeln!(self.stdin, "{word}").expect("the program listens");
    }

    /// What it says next.
    #[track_caller]
    pub fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the program speaks");
        let said: Value = serde_json::from_str(&line).unwrap_or_default();
        assert!(!said.is_null() && said["failed"].is_null(), "the program says {line:?}");
        said
    }
}

/// A child that is ended, by its number, with this value: asked first, so that it ends its own children.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let asked = Command::new("kill").arg(self.0.id().to_string()).status();
        let ended = asked.and_then(|_| self.0.wait());
        ended.map(drop).unwrap_or_else(|error| eprintln!("a program of the benchmark: {error}"));
    }
}

/// Starts something that has one core for itself and all that it starts, and knows that it has no other.
pub fn on_core<T>(core: usize, start: impl FnOnce() -> T) -> T {
    let own = std::fs::read_to_string("/proc/thread-self/status").expect("a mounted /proc");
    let cores = own.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a thread has cores");
    pin(&core.to_string());
    let started = start();
    pin(cores.trim());
    started
}

/// Lets this process and what it will start run on these cores alone.
fn pin(cores: &str) {
    let mut taskset = Command::new("taskset");
    taskset.args(["--all-tasks", "--cpu-list", "--pid", cores, &std::process::id().to_string()]);
    assert!(taskset.stdout(Stdio::null()).status().expect("taskset is installed").success(), "cores can be chosen");
}
