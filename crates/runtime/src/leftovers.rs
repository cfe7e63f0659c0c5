//! What a runtime that is gone left on the machine, for whoever clears up after it: its shims, its containers'
//! processes and cgroups. Nothing here needs the runtime to run, nor a tokio runtime.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cgroups::Layout;
use crate::records::{self, ContainerRecord};
use crate::shim::proto::SOCKET_NAME;

/// A killed process is gone after this long, unless the kernel holds it in a call.
const END_LIMIT: Duration = Duration::from_secs(10);

/// The shims that hold a sandbox now, by the records in `root` and the sockets in the folder of volatile files.
/// Others' shims in that folder are not among them.
pub fn shim_pids(root: &Path, run: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> = sandbox_ids(root).iter().filter_map(|id| shim_at(&run.join(id)).ok()).collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The sandboxes that the folder knows of, finished or not.
pub fn sandbox_ids(root: &Path) -> Vec<OsString> {
    folder_names(&root.join("sandboxes"))
}

/// Who listens on the socket in this folder. The connection is closed again at once, which a shim does not mind.
fn shim_at(folder: &Path) -> io::Result<i32> {
    let folder = rustix::fs::openat(CWD, folder, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    // By way of the descriptor, because a socket's path may have 108 letters only.
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/{SOCKET_NAME}", folder.as_raw_fd()))?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &address)?;
    Ok(rustix::net::sockopt::socket_peercred(&socket)?.pid.as_raw_nonzero().get())
}

/// Ends all shims and containers that the two folders know of, at once, and removes the containers' cgroups.
/// Says whether there were any.
///
/// # Errors
/// A process does not end, or a cgroup cannot be removed.
pub fn end_everything(root: &Path, run: &Path) -> io::Result<bool> {
    let layout = Layout::detect()?;
    let cgroups = container_cgroups(root);
    let shims = shim_pids(root, run);
    let mut members: BTreeSet<i32> = shims.iter().copied().collect();
    // Shims first, so that none starts or restarts anything meanwhile.
    kill_all(&shims)?;
    for cgroup in &cgroups {
        let below = layout.processes_below(cgroup);
        kill_all(&below)?;
        members.extend(below);
    }
    for cgroup in &cgroups {
        layout.remove_below(cgroup)?;
    }
    Ok(!members.is_empty())
}

/// Removes a cgroup with all that is below it, from every hierarchy, and ends the processes in it.
///
/// # Errors
/// A process does not end, or a cgroup cannot be removed.
pub fn remove_cgroup(cgroup: &str) -> io::Result<()> {
    let layout = Layout::detect()?;
    kill_all(&layout.processes_below(cgroup))?;
    layout.remove_below(cgroup)
}

/// Whether a process is in the cgroup or in one below it.
///
/// # Errors
/// The machine has no cgroups.
pub fn is_cgroup_in_use(cgroup: &str) -> io::Result<bool> {
    Ok(!Layout::detect()?.processes_below(cgroup).is_empty())
}

/// Removes those cgroups at and below this one that have no processes.
///
/// # Errors
/// The machine has no cgroups.
pub fn remove_empty_cgroups(cgroup: &str) -> io::Result<()> {
    Layout::detect()?.remove_empty_below(cgroup);
    Ok(())
}

fn container_cgroups(root: &Path) -> Vec<String> {
    let sandboxes = root.join("sandboxes");
    let mut cgroups = Vec::new();
    for sandbox in sandbox_ids(root) {
        let containers = sandboxes.join(sandbox).join("containers");
        for container in folder_names(&containers) {
            // What has no record yet has no process either: the record is written before the start.
            let record = records::load::<ContainerRecord>(&containers.join(container)).ok();
            cgroups.extend(record.map(|record| record.cgroup).filter(|cgroup| !cgroup.trim_matches('/').is_empty()));
        }
    }
    cgroups
}

fn folder_names(folder: &Path) -> Vec<OsString> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect()
}

/// Kills processes and waits until they are gone.
fn kill_all(pids: &[i32]) -> io::Result<()> {
    let mut processes = Vec::new();
    for pid in pids {
        // The descriptor stays with this process, whoever gets the number next.
        let Some(process) = Pid::from_raw(*pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            continue;
        };
        match pidfd_send_signal(&process, Signal::KILL) {
            Ok(()) => processes.push((pid, process)),
            Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(io::Error::other(format!("end process {pid}: {error}"))),
        }
    }
    let limit = rustix::event::Timespec { tv_sec: END_LIMIT.as_secs() as i64, tv_nsec: 0 };
    for (pid, process) in &processes {
        let mut ended = [rustix::event::PollFd::new(process, rustix::event::PollFlags::IN)];
        if rustix::event::poll(&mut ended, Some(&limit))? == 0 {
            return Err(io::Error::other(format!("process {pid} does not end")));
        }
    }
    Ok(())
}
