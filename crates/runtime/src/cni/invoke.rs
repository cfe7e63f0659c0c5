//! Runs a plugin: a program that reads what it is to do and says how it went.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A plugin that takes longer does not come back: the node agent tries again.
const LIMIT: Duration = Duration::from_secs(120);

/// What a plugin said.
pub struct Said {
    /// Whether it could do it.
    pub success: bool,
    /// How it ended.
    pub status: String,
    /// What it wrote.
    pub output: Vec<u8>,
}

/// Where the plugin of this type is.
///
/// # Errors
/// Nowhere.
pub fn find(folders: &[PathBuf], kind: &str) -> Result<PathBuf, String> {
    let found = folders.iter().map(|folder| folder.join(kind)).find(|file| file.is_file());
    found.ok_or_else(|| {
        let folders: Vec<_> = folders.iter().map(|folder| folder.display().to_string()).collect();
        format!("failed to find plugin {kind:?} in path [{}]", folders.join(" "))
    })
}

/// Runs it and waits.
///
/// # Errors
/// It cannot be started, or does not end.
pub fn run(program: &Path, environment: Vec<(String, String)>, request: String) -> Result<Said, String> {
    let failed = |error: std::io::Error| format!("run {}: {error}", program.display());
    let mut child = Command::new(program)
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let pid = child.id();
    let mut input = child.stdin.take();
    let (sender, receiver) = mpsc::channel();
    // Whoever reads and writes may have to wait for ever; this thread does not.
    std::thread::spawn(move || {
        let written = input.take().map_or(Ok(()), |mut input| input.write_all(request.as_bytes()));
        let output = child.wait_with_output();
        // A plugin that fails at once may not have read what it was told.
        let outcome = match (written, output) {
            (Err(error), Ok(output)) if output.status.success() => Err(error),
            (_, output) => output,
        };
        // Nobody waits any more where it took too long.
        sender.send(outcome).unwrap_or_default();
    });
    let output = match receiver.recv_timeout(LIMIT) {
        Ok(output) => output.map_err(failed)?,
        Err(_) => {
            let pid = i32::try_from(pid).map_err(|error| error.to_string())?;
            kill(Pid::from_raw(pid), Signal::SIGKILL).map_err(|error| format!("end {}: {error}", program.display()))?;
            return Err(format!("{} did not end within {} s", program.display(), LIMIT.as_secs()));
        }
    };
    let is_silent = output.stdout.is_empty() && !output.status.success();
    Ok(Said {
        success: output.status.success(),
        status: output.status.to_string(),
        output: if is_silent { output.stderr } else { output.stdout },
    })
}
