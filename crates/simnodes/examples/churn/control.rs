//! The control plane under measurement: `skiff` without an agent, or upstream's programs (`tests/upstream`) in a network
//! that has nothing but loopback.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use super::Fallible;

/// Where upstream's programs are, if they are to be measured.
const UPSTREAM: &str = "SKIFF_UPSTREAM";
/// The network is new: nobody else has a port.
const UPSTREAM_PORT: &str = "6443";
const LOOPBACK: [&str; 5] = ["ip", "link", "set", "lo", "up"];

/// Whose control plane it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Ours,
    Upstreams,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Self::Ours { "skiff" } else { "upstream" })
    }
}

impl Whose {
    /// Who is measured, in turns in which each is as often first.
    pub fn turns() -> Vec<Self> {
        let (ours, upstreams) = (Self::Ours, Self::Upstreams);
        if std::env::var_os(UPSTREAM).is_some() { vec![ours, upstreams, upstreams, ours] } else { vec![ours] }
    }

    /// Does something where the control plane is to run and can be reached.
    pub fn within<T: Send>(self, work: impl AsyncFnOnce() -> Fallible<T> + Send) -> Fallible<T> {
        let enter = move || -> Fallible<T> {
            if self == Self::Upstreams {
                // What this thread starts is in its network: other threads, and programs.
                unshare(CloneFlags::CLONE_NEWNET)?;
                succeed(Command::new("busybox").args(LOOPBACK))?;
            }
            tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work())
        };
        std::thread::scope(|scope| scope.spawn(enter).join().map_err(|_| "a measurement panicked")?)
    }
}

/// The control plane; it is gone when this is dropped.
pub enum Control {
    Ours { name: String, data: PathBuf, server: u32 },
    Upstreams { serve: Child, data: PathBuf },
}

impl Control {
    /// Starts it with a folder of its own. Upstream's is not ready yet.
    pub fn start(whose: Whose, name: String, data: PathBuf) -> Fallible<Self> {
        match whose {
            Whose::Ours => Self::start_ours(name, data),
            Whose::Upstreams => {
                let programs = std::env::var_os(UPSTREAM).ok_or("upstream's programs are not there")?;
                let serve = Command::new(Path::new(&programs).join("kubernetes"))
                    .arg("serve")
                    .arg(&data)
                    .args([UPSTREAM_PORT, "whole"])
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .spawn()?;
                Ok(Self::Upstreams { serve, data })
            }
        }
    }

    fn start_ours(name: String, data: PathBuf) -> Fallible<Self> {
        let mut up = skiff("up", &name, &data)?;
        succeed(up.arg("--disable-agent"))?;
        let status = skiff("status", &name, &data)?.args(["-o", "json"]).output()?;
        let status: Value = serde_json::from_slice(&status.stdout)?;
        let processes = status["processes"].as_array().cloned().unwrap_or_default();
        let server = processes.iter().find(|process| process["role"] == "server").ok_or("no server runs")?;
        let server = u32::try_from(server["pid"].as_u64().unwrap_or(0))?;
        Ok(Self::Ours { name, data, server })
    }

    /// How the administrator gets in, once the file is there.
    pub fn kubeconfig(&self) -> PathBuf {
        match self {
            Self::Ours { name, data, .. } => data.join("isolated").join(name).join("kubeconfig"),
            Self::Upstreams { data, .. } => data.join("admin.kubeconfig"),
        }
    }

    /// Its processes: upstream's are an etcd, the API server, the scheduler and the controllers.
    pub fn processes(&self) -> Vec<u32> {
        match self {
            Self::Ours { server, .. } => vec![*server],
            Self::Upstreams { serve, .. } => children(serve.id()),
        }
    }

    fn end(&mut self) -> Fallible<()> {
        let data = match self {
            Self::Ours { name, data, .. } => {
                succeed(&mut skiff("delete", name, data)?)?;
                data
            }
            Self::Upstreams { serve, data } => {
                // Its input ends here, and so does it, after those that it has started.
                serve.wait()?;
                data
            }
        };
        Ok(std::fs::remove_dir_all(data)?)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("cleaning up: {error}");
        }
    }
}

/// The program that is measured.
pub fn program() -> Fallible<String> {
    Ok(std::env::var("SKIFF_BIN").map_err(|_| "SKIFF_BIN names no program")?)
}

fn skiff(what: &str, name: &str, data: &Path) -> Fallible<Command> {
    let mut command = Command::new(program()?);
    command.args([what, "--isolated", name, "--data-dir"]).arg(data);
    Ok(command)
}

fn succeed(command: &mut Command) -> Fallible<()> {
    let done = command.output()?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into_owned().into()) }
}

/// What a process has started.
fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}
