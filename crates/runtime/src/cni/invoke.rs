//! Runs a plugin: a program that reads what it is to do and says how it went.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// A plugin that takes longer does not come back: the node agent tries again.
const LIMIT: Duration = Duration::from_secs(120);
/// How often it is looked whether it has ended; most take some milliseconds.
const LOOK: Duration = Duration::from_millis(1);
/// How long its output is waited for when it has ended.
const AFTER_ITS_END: Duration = Duration::from_secs(5);
/// No result is longer.
const MOST_BYTES: u64 = 1 << 20;

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
    let failed = |error: io::Error| format!("run {}: {error}", program.display());
    let mut child = Command::new(program)
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    // Whoever reads and writes may have to wait for ever; this thread does not.
    if let Some(mut input) = child.stdin.take() {
        // One that reads nothing may still answer; who misses something says so.
        std::thread::spawn(move || input.write_all(request.as_bytes()).unwrap_or_default());
    }
    let (output, errors) = (child.stdout.take().map(hear), child.stderr.take().map(hear));
    let Some(status) = ended(&mut child).map_err(failed)? else {
        child.kill().and_then(|()| child.wait()).map_err(failed)?;
        return Err(format!("{} did not end within {} s", program.display(), LIMIT.as_secs()));
    };
    let output = heard(output).map_err(failed)?;
    let is_silent = output.is_empty() && !status.success();
    Ok(Said {
        success: status.success(),
        status: status.to_string(),
        output: if is_silent { heard(errors).map_err(failed)? } else { output },
    })
}

/// Waits for a program's end; none if that takes too long.
fn ended(child: &mut Child) -> io::Result<Option<ExitStatus>> {
    for _ in 0..LIMIT.as_millis() / LOOK.as_millis() {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(LOOK);
    }
    Ok(None)
}

type Words = mpsc::Receiver<io::Result<Vec<u8>>>;

/// Reads what a program says, on a thread of its own, and no more than anybody has to say.
fn hear(pipe: impl Read + Send + 'static) -> Words {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut said = Vec::new();
        let outcome = pipe.take(MOST_BYTES).read_to_end(&mut said).map(|_| said);
        // Nobody waits any more where it took too long.
        sender.send(outcome).unwrap_or_default();
    });
    receiver
}

/// What a program that has ended had said. What it has left running may hold its output open for ever.
fn heard(words: Option<Words>) -> io::Result<Vec<u8>> {
    let Some(words) = words else { return Ok(Vec::new()) };
    words.recv_timeout(AFTER_ITS_END).unwrap_or_else(|_| Err(io::Error::other("its output does not end")))
}
