//! Processes that join a running container: same namespaces, cgroup, rights and user as its first one.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::containers::status_pair;
use super::process::{self, Stdio, UserNamespace};
use super::proto::*;
use super::server::{Joined, open_namespace};
use super::{Step, StepContext};
use crate::oci::Process;
use crate::sys;

/// A joined process as the shim knows it.
pub struct Running {
    id: String,
    pid: i32,
    connection: u32,
    number: u32,
    status: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
}

/// The other side of the fork.
pub struct Child {
    target: i32,
    exec: Exec,
    process: OwnedFd,
    stdio: Stdio,
    status: OwnedFd,
    user_namespace: Option<OwnedFd>,
}

impl Child {
    /// On v2, the cgroup to be made in.
    pub fn cgroup_folder(&self) -> Option<&str> {
        self.exec.cgroup_folder.as_deref()
    }

    /// Becomes the process; never comes back.
    pub fn run(self, joined: Joined) -> ! {
        let Self { target, exec, process, stdio, status, user_namespace } = self;
        let namespace = user_namespace.as_ref().map(AsFd::as_fd);
        let user_namespace = namespace.map(|namespace| UserNamespace { namespace, with_mounts: false });
        let outcome =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| match join(target, &exec, process, joined) {
                Ok(process) => process::become_process(&process, stdio, user_namespace),
                Err(error) => error,
            }));
        let error = outcome.unwrap_or_else(|_| "the process panicked on its way into the container".to_owned());
        // If nobody listens any more there is nobody to tell.
        drop(sys::send_packet(status.as_fd(), format!("E{error}").as_bytes(), &[]));
        sys::exit_now(1)
    }
}

fn join(target: i32, exec: &Exec, process: OwnedFd, joined: Joined) -> Step<Process> {
    let mut text = Vec::new();
    std::fs::File::from(process).read_to_end(&mut text).step(|| "read the process".into())?;
    let process: Process = serde_json::from_slice(&text).map_err(|error| format!("read the process: {error}"))?;
    for file in exec.cgroup_files.iter().filter(|_| !joined.0) {
        std::fs::write(file, "0").step(|| format!("join {file}"))?;
    }
    super::set_oom_score(process.oom_score_adj.unwrap_or(0))?;
    let target = target.to_string();
    let (cgroup, mount) = (open_namespace(&target, "cgroup")?, open_namespace(&target, "mnt")?);
    sys::setns(cgroup.as_fd(), libc::CLONE_NEWCGROUP).step(|| "join cgroup namespace".into())?;
    // Last, since it changes what every path means. The sandbox's other namespaces are the shim's own.
    sys::setns(mount.as_fd(), libc::CLONE_NEWNS).step(|| "join mount namespace".into())?;
    Ok(process)
}

impl Running {
    /// Sorts the descriptors that came with the request; the caller forks.
    pub fn prepare(
        connection: u32,
        number: u32,
        target: i32,
        exec: Exec,
        descriptors: Vec<OwnedFd>,
        user_namespace: Option<OwnedFd>,
    ) -> Step<(Self, Child)> {
        let mut descriptors = descriptors.into_iter();
        let process = descriptors.next().ok_or("the process to run is missing")?;
        let (status, child_status) = status_pair()?;
        let stdio = if exec.tty {
            Stdio::Terminal(child_status.try_clone().step(|| "keep the status socket".into())?)
        } else {
            let mut next = |wanted: bool| match if wanted { descriptors.next() } else { None } {
                Some(fd) => Ok(fd),
                None => rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                    .step(|| "open /dev/null".into()),
            };
            let streams = exec.streams;
            Stdio::Files([next(streams.stdin)?, next(streams.stdout)?, next(streams.stderr)?])
        };
        let running = Self { id: exec.id.clone(), pid: 0, connection, number, status: Some(status), terminal: None };
        Ok((running, Child { target, exec, process, stdio, status: child_status, user_namespace }))
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Told once, after the fork.
    pub fn set_pid(&mut self, pid: i32) {
        self.pid = pid;
    }

    /// Who started it.
    pub fn connection(&self) -> u32 {
        self.connection
    }

    /// The socket to wait for while it is starting.
    pub fn status(&self) -> Option<BorrowedFd<'_>> {
        self.status.as_ref().map(AsFd::as_fd)
    }

    /// Reads how the start goes; answers it, with the terminal if there is one, when it has come to an end.
    pub fn read_status(&mut self) -> Option<(u32, Reply, Option<OwnedFd>)> {
        let mut buffer = [0; 4096];
        let outcome = loop {
            match sys::receive_packet(self.status.as_ref()?.as_fd(), &mut buffer) {
                Ok((0, _)) => break Ok(()),
                Ok((_, descriptors)) if buffer[0] == b'T' => self.terminal = descriptors.into_iter().next(),
                Ok((length, _)) => break Err(String::from_utf8_lossy(&buffer[1..length]).into_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(error) => break Err(format!("hear from the process: {error}")),
            }
        };
        self.status = None;
        let answer = |()| Answer { pid: self.pid.unsigned_abs(), at: sys::wall_nanoseconds(), containers: Vec::new() };
        Some((self.connection, Reply { number: self.number, result: outcome.map(answer) }, self.terminal.take()))
    }
}
