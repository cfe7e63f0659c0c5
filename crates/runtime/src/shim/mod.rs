//! The shim: a small process, one for each sandbox, that holds its namespaces, starts its containers, writes
//! their logs and learns how they end. It outlives skiff, which finds it again by its socket.
//!
//! It is skiff's own binary, executed anew under another name, and never has a second thread: what it does
//! on behalf of a container (entering namespaces, forking and going on with ordinary code) is only sound so.
//! It holds next to nothing in memory; specifications are read in the child that they are for.

mod containers;
mod execs;
mod logs;
mod process;
pub mod proto;
mod rootfs;
mod server;
mod users;

use std::os::fd::OwnedFd;

use crate::sys;

pub(crate) use containers::{resize, write_exit};

/// The name under which skiff starts itself as a shim.
pub const PROGRAM_NAME: &str = "skiff-shim";
/// The descriptor under which a shim finds the socket to whoever started it.
const CONTROL_DESCRIPTOR: i32 = 0;

/// What a step of setting up a container comes to; the error names the step.
type Step<T> = Result<T, String>;

/// Gives an error of the system the name of the step that it broke.
trait StepContext<T> {
    fn step(self, what: impl FnOnce() -> String) -> Step<T>;
}

impl<T> StepContext<T> for std::io::Result<T> {
    fn step(self, what: impl FnOnce() -> String) -> Step<T> {
        self.map_err(|error| format!("{}: {error}", what()))
    }
}

impl<T> StepContext<T> for rustix::io::Result<T> {
    fn step(self, what: impl FnOnce() -> String) -> Step<T> {
        self.map_err(|error| format!("{}: {error}", what()))
    }
}

/// Sets how eagerly the kernel kills this process for want of memory. Without the capability to lower it,
/// which skiff lacks when it is itself run in a container, it stays as eager as it was.
fn set_oom_score(score: i32) -> Step<()> {
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        result => result.step(|| format!("set oom_score_adj to {score}")),
    }
}

/// Whether this process was started to be a shim. To be asked before anything else is done.
pub fn is_invoked() -> bool {
    let name = std::env::args_os().next().unwrap_or_default();
    std::path::Path::new(&name).file_name().is_some_and(|name| name == PROGRAM_NAME)
}

/// Lives as a shim until told to end. To be called before any thread is made.
pub fn main() -> ! {
    let code = match sys::inherited(CONTROL_DESCRIPTOR).map_err(|error| error.to_string()).and_then(run) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{PROGRAM_NAME}: {error}");
            1
        }
    };
    sys::exit_now(code)
}

fn run(control: OwnedFd) -> Result<(), String> {
    server::Server::new(control)?.run()
}
