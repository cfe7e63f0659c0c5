//! Keeping logs from filling the disk: a container's log that has grown too large is put aside, the runtime opens a new one,
//! and only a few old ones are kept.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use skiff_cri::ReopenContainerLogRequest;

use crate::agent::Workers;
use crate::config::paths::Paths;

/// How often logs are looked at; upstream's number.
const PERIOD: Duration = Duration::from_secs(10);

/// Looks after the logs for ever.
pub async fn keep(workers: Arc<Workers>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let node = workers.node();
        let most_bytes = node.options.container_log_max_bytes().unwrap_or(u64::MAX);
        for log in workers.pods().iter().flat_map(|pod| running_logs(pod, &node.facts().paths)) {
            if !tokio::fs::metadata(&log.path).await.is_ok_and(|meta| meta.len() > most_bytes) {
                continue;
            }
            if let Err(error) = rotate(&workers, &log).await {
                tracing::warn!(log = %log.path.display(), %error, "cannot rotate a container's log");
            }
        }
    }
}

struct Log {
    path: PathBuf,
    id: String,
}

/// The logs that are being written.
fn running_logs(pod: &Pod, paths: &Paths) -> Vec<Log> {
    let Some(status) = &pod.status else { return vec![] };
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let all = lists.into_iter().flat_map(|list| list.iter().flatten());
    let running = all.filter(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()));
    running
        .filter_map(|status| {
            let attempt = u32::try_from(status.restart_count).ok()?;
            let (_, id) = status.container_id.as_ref()?.split_once("://")?;
            Some(Log { path: paths.container_log(pod, &status.name, attempt), id: id.to_owned() })
        })
        .collect()
}

async fn rotate(workers: &Workers, log: &Log) -> io::Result<()> {
    let node = workers.node();
    let aside = PathBuf::from(format!("{}.{}", log.path.display(), node.clock.now().strftime("%Y%m%d-%H%M%S")));
    std::fs::rename(&log.path, &aside)?;
    let request = ReopenContainerLogRequest { container_id: log.id.clone() };
    if let Err(error) = node.runtime.reopen_container_log(request).await {
        // The runtime still writes to the old file, so that is the log.
        std::fs::rename(&aside, &log.path)?;
        return Err(io::Error::other(error));
    }
    remove_oldest(&log.path, node.options.container_log_max_files)
}

/// Keeps the newest of the files that were put aside.
fn remove_oldest(log: &Path, most_files: usize) -> io::Result<()> {
    let old = put_aside(log)?;
    let surplus = old.len().saturating_sub(most_files.saturating_sub(1));
    old.iter().take(surplus).try_for_each(std::fs::remove_file)
}

/// Removes a log that is written no more, with all that was put aside.
///
/// # Errors
/// A file cannot be removed.
pub fn remove(log: &Path) -> io::Result<()> {
    for path in put_aside(log)?.iter().map(PathBuf::as_path).chain([log]) {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The files that a log was put aside to, the oldest first: their names tell their age.
fn put_aside(log: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return Ok(vec![]);
    };
    let prefix = format!("{name}.");
    let mut old = Vec::new();
    if !folder.exists() {
        return Ok(old);
    }
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(&prefix)) {
            old.push(entry.path());
        }
    }
    old.sort();
    Ok(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_old_logs_are_kept() {
        let folder = std::env::temp_dir().join(format!("skiff-rotate-{}", skiff_base::ids::Ids::random().suffix(10)));
        std::fs::create_dir_all(&folder).expect("a folder for the test");
        let log = folder.join("0.log");
        for day in 1..=6 {
            std::fs::write(folder.join(format!("0.log.2026010{day}-000000")), "x").expect("a file");
        }
        std::fs::write(&log, "x").expect("a file");
        remove_oldest(&log, 5).expect("they can be removed");
        let mut left: Vec<_> =
            std::fs::read_dir(&folder).expect("it is there").flatten().map(|e| e.file_name()).collect();
        left.sort();
        let expected = [
            "0.log",
            "0.log.20260103-000000",
            "0.log.20260104-000000",
            "0.log.20260105-000000",
            "0.log.20260106-000000",
        ];
        assert_eq!(left, expected);
        remove(&log).expect("all can be removed");
        assert_eq!(std::fs::read_dir(&folder).expect("it is there").count(), 0);
        std::fs::remove_dir_all(&folder).expect("the test's own folder");
    }
}
