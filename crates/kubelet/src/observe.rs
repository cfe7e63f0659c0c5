//! What the runtime shows of a Pod, read into plain data.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use futures_util::future::{join_all, try_join};
use skiff_base::Timestamp;
use skiff_cri::{
    ContainerFilter, ContainerState, ContainerStatus, ContainerStatusRequest, CriResult, ListContainersRequest,
    ListPodSandboxRequest, PodSandboxFilter, PodSandboxState, PodSandboxStatusRequest, RuntimeService,
};

use crate::config::{container, sandbox};
use crate::pod::types::{ContainerView, RunState, SandboxView};

/// The longest termination message that is taken from a file.
const MAX_MESSAGE_BYTES: u64 = 4096;
/// The most that is taken from the end of a log in its place.
const MAX_LOG_MESSAGE_BYTES: u64 = 2048;
const MAX_LOG_MESSAGE_LINES: usize = 80;

/// The sandboxes and containers of one Pod, newest first.
///
/// # Errors
/// The runtime could not be asked.
pub async fn observe(
    runtime: &dyn RuntimeService,
    uid: &str,
    log_root: &Path,
) -> CriResult<(Vec<SandboxView>, Vec<ContainerView>)> {
    let of_pod: HashMap<String, String> = [(sandbox::POD_UID.to_owned(), uid.to_owned())].into();
    let sandboxes = runtime.list_pod_sandbox(ListPodSandboxRequest {
        filter: Some(PodSandboxFilter { label_selector: of_pod.clone(), ..PodSandboxFilter::default() }),
    });
    let containers = runtime.list_containers(ListContainersRequest {
        filter: Some(ContainerFilter { label_selector: of_pod, ..ContainerFilter::default() }),
    });
    let (sandboxes, containers) = try_join(sandboxes, containers).await?;
    let mut sandbox_views = Vec::with_capacity(sandboxes.items.len());
    let requests = sandboxes
        .items
        .into_iter()
        .map(|item| runtime.pod_sandbox_status(PodSandboxStatusRequest { pod_sandbox_id: item.id, verbose: false }));
    for response in join_all(requests).await {
        match response {
            Ok(response) => sandbox_views.extend(response.status.map(sandbox_view)),
            // Removed between the two questions.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    let sandbox_of: HashMap<_, _> =
        containers.containers.iter().map(|item| (item.id.clone(), item.pod_sandbox_id.clone())).collect();
    let requests = containers
        .containers
        .into_iter()
        .map(|item| runtime.container_status(ContainerStatusRequest { container_id: item.id, verbose: false }));
    let mut container_views = Vec::new();
    for response in join_all(requests).await {
        match response {
            Ok(response) => container_views.extend(response.status.map(|status| {
                let sandbox_id = sandbox_of.get(&status.id).cloned().unwrap_or_default();
                container_view(status, sandbox_id, log_root)
            })),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    sandbox_views.sort_by_key(|view| std::cmp::Reverse(view.attempt));
    container_views.sort_by_key(|view| std::cmp::Reverse((view.created_at, view.attempt)));
    Ok((sandbox_views, container_views))
}

fn time(nanos: i64) -> Option<Timestamp> {
    (nanos > 0).then(|| Timestamp::from_nanosecond(i128::from(nanos)).ok()).flatten()
}

fn sandbox_view(status: skiff_cri::PodSandboxStatus) -> SandboxView {
    let network = status.network.unwrap_or_default();
    let ips = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|ip| ip.ip));
    SandboxView {
        attempt: status.metadata.map_or(0, |metadata| metadata.attempt),
        ready: status.state == PodSandboxState::SandboxReady as i32,
        created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        ips: ips.filter(|ip| !ip.is_empty()).collect(),
        id: status.id,
    }
}

fn container_view(status: ContainerStatus, sandbox_id: String, log_root: &Path) -> ContainerView {
    let state = match ContainerState::try_from(status.state) {
        Ok(ContainerState::ContainerCreated) => RunState::Created,
        Ok(ContainerState::ContainerRunning) => RunState::Running,
        Ok(ContainerState::ContainerExited) => RunState::Exited,
        _ => RunState::Unknown,
    };
    let message = if state == RunState::Exited { termination_message(&status, log_root) } else { String::new() };
    let metadata = status.metadata.unwrap_or_default();
    let image = status.image.unwrap_or_default();
    let shown = if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image };
    ContainerView {
        id: status.id,
        name: metadata.name,
        attempt: metadata.attempt,
        sandbox_id,
        state,
        created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason,
        message,
        image: shown,
        image_id: if status.image_ref.is_empty() { status.image_id } else { status.image_ref },
        hash: status.annotations.get(container::HASH).cloned().unwrap_or_default(),
        user: status.user.and_then(|user| user.linux).map(|user| (user.uid, user.gid, user.supplemental_groups)),
    }
}

/// What the container left to say: its file, or the end of its log where it asked for that and failed.
fn termination_message(status: &ContainerStatus, log_root: &Path) -> String {
    let path = status.annotations.get(container::MESSAGE_PATH);
    let mount = status.mounts.iter().find(|mount| Some(&mount.container_path) == path);
    let from_file = mount.and_then(|mount| read_end(Path::new(&mount.host_path), MAX_MESSAGE_BYTES));
    if let Some(message) = from_file.filter(|message| !message.is_empty()) {
        return message;
    }
    let falls_back = status.annotations.get(container::MESSAGE_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    if falls_back && status.exit_code != 0 {
        let log = PathBuf::from(&status.log_path);
        // Only logs of Pods are read, whatever the runtime names.
        if log.starts_with(log_root)
            && let Some(text) = read_end(&log, MAX_LOG_MESSAGE_BYTES * 4)
        {
            return log_message(&text);
        }
    }
    status.message.clone()
}

fn read_end(path: &Path, most_bytes: u64) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok().filter(std::fs::Metadata::is_file)?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(most_bytes))).ok()?;
    let mut bytes = Vec::new();
    file.take(most_bytes).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The last lines of a log in the format of the interface, without its time and stream; a line that is only part of one goes
/// on in the next.
fn log_message(text: &str) -> String {
    let entry = |line| {
        let mut parts = str::splitn(line, 4, ' ').skip(2);
        Some((parts.next()?, parts.next()?))
    };
    let lines: Vec<_> = text.lines().filter_map(entry).collect();
    let tail = &lines[lines.len().saturating_sub(MAX_LOG_MESSAGE_LINES)..];
    let ended = |(tag, line): &(&str, &str)| format!("{line}{}", if tag.starts_with('P') { "" } else { "\n" });
    let mut message = tail.iter().map(ended).collect::<String>();
    let most = MAX_LOG_MESSAGE_BYTES as usize;
    if message.len() > most {
        let cut = (message.len() - most..message.len()).find(|at| message.is_char_boundary(*at));
        message = message.split_off(cut.unwrap_or(0));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_from_the_log_is_what_was_said() {
        let log = "2026-01-01T00:00:00Z stderr F first\n2026-01-01T00:00:00Z stdout P sec\n2026-01-01T00:00:00Z stdout F ond\n";
        assert_eq!(log_message(log), "first\nsecond\n");
        assert_eq!(log_message("2026-01-01T00:00:00Z stdout P DONE\n"), "DONE");
    }
}
