//! How much one container can say, and whether all of it is kept.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::Node;
use crate::pod;

const LOG_LINE: &str = "a line of a log that is as long as such lines are, with a word or two at its end to tell it by";
/// The writer is done when the log has not grown for so long.
const SILENCE: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The first line is there after this time.
const FIRST_LINE: Duration = Duration::from_secs(30);
/// A writer that is not done by then is slower than any target.
const PATIENCE: Duration = Duration::from_secs(180);

/// One container writes as fast as it can; counted is what lies in its log in the end. First one that costs next to nothing
/// itself, then the shell's tools, which take two thirds of the processor time.
pub fn measure(node: &Node<'_>) {
    let log_bytes = node.size.log_bytes;
    let lines = log_bytes / (LOG_LINE.len() as u64 + 1);
    let says = json!(["/hello", format!("--say={LOG_LINE}"), format!("--times={lines}")]);
    let script = format!("yes '{LOG_LINE}' | head -n {lines}; sleep 100000");
    // The program also says that it listens.
    for (name, figure, command, more) in [
        ("talker", "log throughput of one container", says, 1),
        ("shell", "the same, of lines that the shell's tools make", json!(["sh", "-c", script]), 0),
    ] {
        let mut talker = pod(name);
        talker["spec"]["containers"][0]["command"] = command;
        node.proxy.run_pods(&[talker]);
        let root = node.cluster.folder().join("isolated").join(&node.cluster.name).join("log/pods");
        let folder = folder_of(&root, name);
        let seconds = written_within(&folder).as_secs_f64();
        let rate = log_bytes as f64 / 1e6 / seconds;
        let found = lines_below(&folder) - more;
        node.line(figure, &format!("{rate:.0} MB/s of output, {found} of {lines} lines"));
        node.proxy.delete_pods();
    }
}

/// Where a pod's logs are.
fn folder_of(root: &Path, pod: &str) -> PathBuf {
    let folders = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    let beginning = format!("default_{pod}_");
    let is_wanted =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&beginning));
    folders.into_iter().find(is_wanted).expect("a pod that runs has a folder of logs")
}

/// How long a log grows, from the first byte that is seen.
fn written_within(root: &Path) -> Duration {
    let began = Instant::now();
    while bytes_below(root) == 0 {
        assert!(began.elapsed() < FIRST_LINE, "the container says nothing");
        std::thread::sleep(LOOK_AGAIN);
    }
    let (start, mut last, mut written) = (Instant::now(), Instant::now(), 0);
    while last.elapsed() < SILENCE {
        let now = bytes_below(root);
        if now != written {
            (written, last) = (now, Instant::now());
        }
        assert!(start.elapsed() < PATIENCE, "the log still grows after {PATIENCE:?}");
        std::thread::sleep(LOOK_AGAIN);
    }
    last - start
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found
}

fn bytes_below(folder: &Path) -> u64 {
    files_below(folder).iter().filter_map(|file| Some(file.metadata().ok()?.len())).sum()
}

fn lines_below(folder: &Path) -> u64 {
    let mut count = 0;
    let mut buffer = vec![0; 1 << 20];
    for file in files_below(folder) {
        let mut file = std::fs::File::open(file).expect("a log that is there");
        while let Ok(length @ 1..) = file.read(&mut buffer) {
            count += buffer[..length].iter().filter(|byte| **byte == b'\n').count() as u64;
        }
    }
    count
}
