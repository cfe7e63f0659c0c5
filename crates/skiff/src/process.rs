//! Processes of this program that are known by a file: who they are, whether they live, how to end them.
//! A pid file names the start time too, so that a pid that was given to somebody else is never taken for ours.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::paths::{named, write_atomically};

/// A process that was alive when it was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its id in this program's process namespace.
    pub pid: i32,
    start: u64,
}

impl Process {
    /// The process `pid`, if it is there.
    pub fn of(pid: i32) -> Option<Self> {
        start_time(pid).map(|start| Self { pid, start })
    }

    /// The process `pid` as the process file system behind `proc` numbers it.
    pub fn of_in(proc: &File, pid: i32) -> Option<Self> {
        let path = format!("{pid}/stat");
        let fd = openat(proc, path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).ok()?;
        let mut stat = String::new();
        File::from(fd).read_to_string(&mut stat).ok()?;
        start_time_of(&stat).map(|start| Self { pid, start })
    }

    /// The process that the file names, if it still lives.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(named(path, "read", error)),
        };
        let mut words = text.split_whitespace().map(str::parse::<u64>);
        let (Some(Ok(pid)), Some(Ok(start))) = (words.next(), words.next()) else { return Ok(None) };
        Ok(i32::try_from(pid).ok().and_then(Self::of).filter(|process| process.start == start))
    }

    /// Writes the file that [`Process::read`] reads.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        write_atomically(path, format!("{} {}\n", self.pid, self.start).as_bytes(), 0o644)
    }

    /// Whether it still lives.
    pub fn is_alive(&self) -> bool {
        start_time(self.pid) == Some(self.start)
    }

    /// Sends a signal, unless it is gone.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(io::Error::other(format!("send {signal} to process {}: {error}", self.pid))),
        }
    }

    /// Waits until it is gone, at most `limit`; says whether it is.
    pub fn wait_gone(&self, limit: Duration) -> bool {
        const STEP: Duration = Duration::from_millis(5);
        for _ in 0..limit.as_millis() / STEP.as_millis() {
            if !self.is_alive() {
                return true;
            }
            std::thread::sleep(STEP);
        }
        !self.is_alive()
    }

    /// The memory that is this process' own share, in bytes (PSS); `None` once it is gone. Every process of one program takes a
    /// part of its pages, also the one that asks.
    pub fn pss_bytes(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
    }
}

/// When a process started, in clock ticks since boot; `None` if it is not there or is a zombie.
fn start_time(pid: i32) -> Option<u64> {
    start_time_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn start_time_of(stat: &str) -> Option<u64> {
    // The name in parentheses may hold spaces and parentheses itself.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// All processes whose root of ancestry is `pid`, itself first.
pub fn descendants(pid: i32) -> Vec<i32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<i32>().ok());
        parents.extend(parent.map(|parent| (parent, child)));
    }
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        found.extend(parents.iter().filter(|(of, _)| *of == parent).map(|(_, child)| *child));
        next += 1;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_another_start_time_is_another_process() {
        let me = Process::of(std::process::id() as i32).expect("alive");
        assert!(me.is_alive());
        assert!(me.pss_bytes().expect("readable") > 0);
        assert!(!Process { start: me.start + 1, ..me }.is_alive());
        assert_eq!(Process::of(i32::MAX), None);
    }
}
