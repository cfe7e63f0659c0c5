//! Serving a container's log from its file, and following it as it grows.
//! The format is that of the Container Runtime Interface: time, stream, `F` or `P` (a line that goes on), text.

use std::io::SeekFrom;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use skiff_base::Timestamp;
use skiff_cri::{ContainerState, ContainerStatusRequest, RuntimeService};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::sync::mpsc;

use super::{Body, Query, containers, pod_of, text};
use crate::agent::Workers;
use crate::pod::spec;
use crate::pod::types::{ContainerView, RunState};

/// How much is read at a time.
const CHUNK_BYTES: usize = 128 << 10;
/// Chunks that may wait for a slow reader.
const CHUNKS: usize = 4;
/// How often a followed log is looked at; only while somebody follows it.
const POLL: Duration = Duration::from_millis(100);
/// Every so many looks without news the runtime is asked whether the container still runs.
const POLLS_PER_QUESTION: u32 = 5;

/// What of a log is wanted.
#[derive(Debug, Clone, Default)]
struct Options {
    follow: bool,
    timestamps: bool,
    tail_lines: Option<u64>,
    since: Option<Timestamp>,
    limit_bytes: Option<u64>,
    stream: Option<String>,
}

impl Options {
    fn parse(query: &Query, now: Timestamp) -> Result<Self, String> {
        let number = |name: &str| -> Result<Option<u64>, String> {
            let parsed = query.get(name).map(str::parse).transpose();
            parsed.map_err(|_| format!("invalid {name} {:?}: must be a number not below zero", query.get(name)))
        };
        let since = match (number("sinceSeconds")?, query.get("sinceTime")) {
            // Before time began there is nothing either.
            (Some(seconds), _) => Some(now.checked_sub(Duration::from_secs(seconds)).unwrap_or(Timestamp::MIN)),
            (None, Some(time)) => Some(time.parse().map_err(|error| format!("invalid sinceTime {time:?}: {error}"))?),
            (None, None) => None,
        };
        let stream = query.get("stream").filter(|stream| *stream != "All").map(str::to_lowercase);
        Ok(Self {
            follow: query.flag("follow"),
            timestamps: query.flag("timestamps"),
            tail_lines: number("tailLines")?,
            since,
            limit_bytes: number("limitBytes")?,
            stream,
        })
    }
}

/// Answers with a container's log.
pub(super) async fn serve(
    workers: &Arc<Workers>,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &Query,
) -> Response<Body> {
    match try_serve(workers, namespace, pod, container, query).await {
        Ok(response) | Err(response) => response,
    }
}

async fn try_serve(
    workers: &Arc<Workers>,
    namespace: &str,
    pod_name: &str,
    container: &str,
    query: &Query,
) -> Result<Response<Body>, Response<Body>> {
    let bad = |message: String| text(StatusCode::BAD_REQUEST, message);
    let node = workers.node();
    let options = Options::parse(query, node.clock.now()).map_err(bad)?;
    let mailbox = pod_of(workers, namespace, pod_name)?;
    let pod = mailbox.pod_with_status();
    if spec::container(&pod, container).is_none() {
        return Err(bad(format!("container {container:?} not found in pod {pod_name:?}")));
    }
    let all = containers(workers, &mailbox).await?;
    let waiting = waiting(&pod, container);
    let chosen = choose(&all, container, query.flag("previous"), waiting.is_some());
    let Some(chosen) = chosen else {
        return Err(bad(if query.flag("previous") {
            format!("previous terminated container {container:?} in pod {pod_name:?} not found")
        } else {
            let why = waiting.unwrap_or_else(|| "ContainerCreating".to_owned());
            format!("container {container:?} in pod {pod_name:?} is waiting to start: {why}")
        }));
    };
    let path = log_path(&*node.runtime, &chosen.id).await;
    let path = path.unwrap_or_else(|| node.facts().paths.container_log(&pod, container, chosen.attempt));
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let (runtime, id) = (node.runtime.clone(), chosen.id.clone());
    tokio::spawn(async move {
        if let Err(error) = pump(&path, options, &*runtime, &id, &sender).await {
            // The reader learns of it as of a broken connection; if it has gone, nobody minds.
            drop(sender.send(Err(error)).await);
        }
    });
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|item| (item, receiver))
    });
    Ok(Response::new(StreamBody::new(frames.map(|chunk| chunk.map(Frame::data))).boxed_unsync()))
}

/// The container whose log is meant. Of a container that waits to be restarted, the one that ended last is both the present
/// one and the previous one.
fn choose<'a>(all: &'a [ContainerView], name: &str, previous: bool, waits: bool) -> Option<&'a ContainerView> {
    let mut of_name: Vec<_> = all.iter().filter(|c| c.name == name && c.state != RunState::Created).collect();
    of_name.sort_by_key(|container| std::cmp::Reverse(container.attempt));
    let newest = of_name.first().copied();
    if !previous || (waits && newest.is_some_and(|container| container.state == RunState::Exited)) {
        return newest;
    }
    of_name.into_iter().skip(1).find(|container| container.state == RunState::Exited)
}

/// Why the container does not run, where it waits.
fn waiting(pod: &k8s_openapi::api::core::v1::Pod, container: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let found = lists.into_iter().find_map(|list| crate::pod::types::status_of(list, container));
    let waiting = found?.state.as_ref()?.waiting.as_ref()?;
    waiting.message.clone().or(waiting.reason.clone())
}

async fn log_path(runtime: &dyn RuntimeService, id: &str) -> Option<PathBuf> {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let status = runtime.container_status(request).await.ok()?.status?;
    Some(PathBuf::from(status.log_path)).filter(|path| path.is_absolute())
}

async fn is_running(runtime: &dyn RuntimeService, id: &str) -> bool {
    let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
    let status = runtime.container_status(request).await.ok().and_then(|response| response.status);
    status.is_some_and(|status| status.state == ContainerState::ContainerRunning as i32)
}

/// Reads the log from where the options say and sends it on, to its end or for as long as the container runs.
async fn pump(
    path: &Path,
    options: Options,
    runtime: &dyn RuntimeService,
    id: &str,
    sender: &mpsc::Sender<std::io::Result<Bytes>>,
) -> std::io::Result<()> {
    let mut file = File::open(path).await?;
    if let Some(lines) = options.tail_lines {
        let from = tail_start(&mut file, lines).await?;
        file.seek(SeekFrom::Start(from)).await?;
    }
    let mut writer = Formatter { options: options.clone(), begun_line: false, left: options.limit_bytes };
    let (mut rest, mut chunk, mut quiet) = (Vec::new(), vec![0; CHUNK_BYTES], 0);
    let mut last_round = !options.follow;
    let mut next_file: Option<File> = None;
    loop {
        let read = file.read(&mut chunk).await?;
        if read > 0 {
            quiet = 0;
            rest.extend_from_slice(&chunk[..read]);
            let (out, used) = writer.format(&rest);
            rest.drain(..used);
            if !out.is_empty() && sender.send(Ok(out.into())).await.is_err() {
                return Ok(());
            }
            if writer.left == Some(0) {
                return Ok(());
            }
            continue;
        }
        if last_round || sender.is_closed() {
            return Ok(());
        }
        if let Some(next) = next_file.take() {
            file = next;
            continue;
        }
        if let Some(next) = rotated(path, &file).await {
            // The old file is complete now, but perhaps not yet read to its end.
            next_file = Some(next);
            continue;
        }
        quiet += 1;
        if quiet % POLLS_PER_QUESTION == 0 && !is_running(runtime, id).await {
            // What it wrote last may have come after the last look.
            last_round = true;
            continue;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The file that has taken the place of the one being read.
async fn rotated(path: &Path, file: &File) -> Option<File> {
    let (old, new) = (file.metadata().await.ok()?, tokio::fs::metadata(path).await.ok()?);
    if (old.dev(), old.ino()) == (new.dev(), new.ino()) { None } else { File::open(path).await.ok() }
}

/// Where the last `lines` lines begin.
async fn tail_start(file: &mut File, lines: u64) -> std::io::Result<u64> {
    let length = file.metadata().await?.len();
    let (mut end, mut found) = (length, 0);
    let mut chunk = vec![0; CHUNK_BYTES];
    while end > 0 && lines > 0 {
        let start = end.saturating_sub(CHUNK_BYTES as u64);
        let part = &mut chunk[..(end - start) as usize];
        file.seek(SeekFrom::Start(start)).await?;
        file.read_exact(part).await?;
        for (at, _) in part.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let after = start + at as u64 + 1;
            // The end of the last line begins no other.
            if after < length {
                found += 1;
                if found == lines {
                    return Ok(after);
                }
            }
        }
        end = start;
    }
    Ok(if lines == 0 { length } else { 0 })
}

/// Turns lines of the file into what the reader wants to see.
struct Formatter {
    options: Options,
    /// Whether the line that was written last goes on.
    begun_line: bool,
    left: Option<u64>,
}

impl Formatter {
    /// The text of all whole lines, and how many bytes they took.
    fn format(&mut self, bytes: &[u8]) -> (Vec<u8>, usize) {
        let (mut out, mut used) = (Vec::with_capacity(bytes.len()), 0);
        while let Some(end) = bytes[used..].iter().position(|byte| *byte == b'\n') {
            self.line(&bytes[used..used + end], &mut out);
            used += end + 1;
        }
        if let Some(left) = &mut self.left {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        (out, used)
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(stream), Some(tags)) = (parts.next(), parts.next(), parts.next()) else { return };
        let message = parts.next().unwrap_or(b"");
        if self.options.stream.as_ref().is_some_and(|wanted| wanted.as_bytes() != stream) {
            return;
        }
        if let Some(since) = self.options.since {
            let at = std::str::from_utf8(time).ok().and_then(|time| time.parse::<Timestamp>().ok());
            if at.is_some_and(|at| at < since) {
                return;
            }
        }
        if self.options.timestamps && !self.begun_line {
            out.extend_from_slice(time);
            out.push(b' ');
        }
        out.extend_from_slice(message);
        let partial = tags.split(|byte| *byte == b':').next() == Some(b"P".as_slice());
        if !partial {
            out.push(b'\n');
        }
        self.begun_line = partial;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &[u8] = b"2026-01-01T00:00:00.000000001Z stdout F one\n\
        2026-01-01T00:00:01.000000002Z stderr P two \n\
        2026-01-01T00:00:02.000000003Z stderr F goes on\n\
        2026-01-01T00:00:03Z stdout F three\n";

    fn formatted(query: &str) -> String {
        let now = "2026-01-01T00:00:04Z".parse().expect("a valid time");
        let options = Options::parse(&Query::parse(query), now).expect("valid options");
        let mut writer = Formatter { left: options.limit_bytes, options, begun_line: false };
        String::from_utf8(writer.format(LOG).0).expect("valid UTF-8")
    }

    #[test]
    fn a_log_is_shown_as_asked_for() {
        assert_eq!(formatted(""), "one\ntwo goes on\nthree\n");
        assert_eq!(formatted("stream=Stdout"), "one\nthree\n");
        assert_eq!(formatted("sinceSeconds=2"), "goes on\nthree\n");
        assert_eq!(formatted(&format!("sinceSeconds={}", i64::MAX)), formatted(""));
        assert_eq!(formatted("sinceTime=2026-01-01T00:00:03Z"), "three\n");
        assert_eq!(formatted("limitBytes=6"), "one\ntw");
        assert_eq!(formatted("timestamps=true&stream=Stderr"), "2026-01-01T00:00:01.000000002Z two goes on\n");
    }

    #[tokio::test]
    async fn the_tail_is_found_from_the_end() {
        let folder = std::env::temp_dir().join(format!("skiff-kubelet-tail-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        let path = folder.join("0.log");
        std::fs::write(&path, LOG).expect("a file for the test");
        let mut file = File::open(&path).await.expect("the file just written");
        for (lines, expected) in [(0, LOG.len()), (1, LOG.len() - 36), (4, 0), (9, 0)] {
            assert_eq!(tail_start(&mut file, lines).await.expect("it can be read"), expected as u64, "{lines}");
        }
        std::fs::remove_dir_all(&folder).expect("the test's own folder");
    }
}
