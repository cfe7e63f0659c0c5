//! The machine's own shutdown: systemd is asked to wait, and Pods are ended in order of their priority before it goes on.
//! Who goes when is decided purely; systemd is spoken to with its own tools.
//! See <https://kubernetes.io/docs/concepts/cluster-administration/node-shutdown/>.

use std::io::{self, BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, mpsc};

use crate::admission::is_critical;
use crate::agent::Workers;
use crate::config::uid;
use crate::options::Options;
use crate::pod::spec::spec;
use crate::pod::types::Eviction;

/// The status reason and message of Pods that a shutdown ends.
const REASON: &str = "Terminated";
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// The least priority of critical Pods.
const CRITICAL: i32 = 2_000_000_000;
/// Where systemd is, if the machine has it.
const SYSTEMD: &str = "/run/systemd/system";
/// Where systemd's login manager is told to wait longer than its own 5 s; upstream's agent writes the same file.
const LOGIND_CONFIG: &str = "/etc/systemd/logind.conf.d/99-kubelet.conf";
/// Its first line where this program has written it.
const WRITTEN_HERE: &str = "# Written by skiff, for its shutdownGracePeriod.";
/// Holds systemd's delay lock for as long as somebody keeps its standard input open: no longer than this process lives.
const INHIBIT: [&str; 5] =
    ["--what=shutdown", "--mode=delay", "--who=skiff", "--why=Kubelet needs time to handle node shutdown", "cat"];
/// Asks the login manager how long it waits at most, in microseconds.
const DELAY: [&str; 6] = [
    "--system",
    "get-property",
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
    "InhibitDelayMaxUSec",
];
/// Has the login manager read its settings again.
const RELOAD: [&str; 4] = ["kill", "--kill-whom=main", "--signal=HUP", "systemd-logind.service"];
/// Prints a line for each signal of a shutdown.
const MONITOR: [&str; 8] = [
    // It is to end with this process, however that ends.
    "--pdeathsig",
    "TERM",
    "busctl",
    "--system",
    "monitor",
    "--json=short",
    "--match",
    "type='signal',interface='org.freedesktop.login1.Manager',member='PrepareForShutdown'",
];
/// Lines that wait to be read.
const MOST_LINES: usize = 16;
/// How often what changes meanwhile is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// So often the login manager is asked whether it has read its settings.
const MOST_LOOKS: usize = 25;
/// The pause before systemd is asked again.
const RETRY: Duration = Duration::from_secs(30);

/// Pods that end together, and the seconds they have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wave {
    /// Their UIDs.
    pub pods: Vec<String>,
    /// How long they have.
    pub grace_seconds: i64,
}

/// The bounds of priorities with the seconds for each, the lowest first; empty where shutdowns are not waited for.
fn bounds(options: &Options) -> Vec<(i32, i64)> {
    let mut bounds: Vec<(i32, i64)> = options
        .shutdown_grace_period_by_pod_priority
        .iter()
        .map(|bound| (bound.priority, bound.shutdown_grace_period_seconds))
        .collect();
    let total = options.shutdown_grace_period.0;
    if bounds.is_empty() && !total.is_zero() {
        let seconds = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
        let critical = options.shutdown_grace_period_critical_pods.0;
        bounds = vec![(0, seconds(total.saturating_sub(critical))), (CRITICAL, seconds(critical))];
    }
    bounds.sort_unstable();
    bounds
}

/// How long a shutdown is held up at most.
pub fn total(options: &Options) -> Duration {
    let seconds: i64 = bounds(options).iter().map(|(_, seconds)| seconds).sum();
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// Who goes when: the Pods of the lowest priorities first.
pub fn plan(options: &Options, pods: &[Arc<Pod>]) -> Vec<Wave> {
    let bounds = bounds(options);
    let mut waves: Vec<Wave> =
        bounds.iter().map(|(_, seconds)| Wave { pods: Vec::new(), grace_seconds: *seconds }).collect();
    for pod in pods {
        let own = spec(pod).priority.unwrap_or(0);
        let priority = if is_critical(pod) { own.max(CRITICAL) } else { own };
        let at = bounds.iter().rposition(|(least, _)| *least <= priority).unwrap_or(0);
        if let Some(wave) = waves.get_mut(at) {
            wave.pods.push(uid(pod).to_owned());
        }
    }
    waves.retain(|wave| !wave.pods.is_empty());
    waves
}

/// Ends the node's Pods wave by wave. Returns when all have ended or their time is over.
pub async fn end_pods(workers: &Workers, options: &Options) {
    let pods: Vec<_> = workers.active().iter().map(|mailbox| mailbox.pod()).collect();
    for wave in plan(options, &pods) {
        tracing::info!(pods = wave.pods.len(), seconds = wave.grace_seconds, "ending Pods for the machine's shutdown");
        for mailbox in workers.active().iter().filter(|mailbox| wave.pods.iter().any(|pod| pod == uid(&mailbox.pod())))
        {
            mailbox.evict(Eviction {
                reason: REASON.to_owned(),
                message: MESSAGE.to_owned(),
                grace_seconds: Some(wave.grace_seconds),
            });
        }
        let clock = &workers.node().clock;
        let until = clock.monotonic() + Duration::from_secs(u64::try_from(wave.grace_seconds).unwrap_or(0));
        let left = || workers.active().iter().any(|mailbox| wave.pods.iter().any(|pod| pod == uid(&mailbox.pod())));
        while left() && clock.monotonic() < until {
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Waits for the machine's shutdown for ever, holding it up for as long as the options say.
pub async fn keep(workers: Arc<Workers>, options: Arc<Options>, changed: Arc<Notify>) {
    if total(&options).is_zero() || !Path::new(SYSTEMD).exists() {
        return;
    }
    loop {
        if let Err(error) = wait_once(&workers, &options, &changed).await {
            tracing::warn!(error, "the machine's shutdown cannot be waited for");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn wait_once(workers: &Workers, options: &Options, changed: &Notify) -> Result<(), String> {
    let wanted = total(options);
    let asked = tokio::task::spawn_blocking(move || lengthen_delay(wanted)).await;
    if let Err(error) = asked.map_err(|error| error.to_string()).flatten() {
        tracing::warn!(error, seconds = wanted.as_secs(), "the machine's shutdown may not be held up for so long");
    }
    let lock = Helper::start("systemd-inhibit", &INHIBIT)?;
    let mut monitor = Helper::start("setpriv", &MONITOR)?;
    let output = monitor.0.stdout.take().ok_or("busctl has no output")?;
    let (sender, mut lines) = mpsc::channel(MOST_LINES);
    // The thread ends with the helper, whose output it reads.
    let reader = tokio::task::spawn_blocking(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = lines.recv().await {
        match begins(&line) {
            Some(true) => {
                workers.set_shutting_down(true);
                changed.notify_one();
                end_pods(workers, options).await;
                drop(lock);
                return Ok(());
            }
            Some(false) => {
                workers.set_shutting_down(false);
                changed.notify_one();
            }
            None => {}
        }
    }
    drop(monitor);
    reader.await.map_err(|error| error.to_string())?;
    Err("busctl ended".to_owned())
}

/// Has the login manager wait for at least so long.
fn lengthen_delay(wanted: Duration) -> Result<(), String> {
    let delay = || microseconds(&run("busctl", &DELAY)?).ok_or_else(|| "busctl gives no number".to_owned());
    let micros = wanted.as_micros();
    if delay()? >= micros {
        return Ok(());
    }
    let text = format!("{WRITTEN_HERE}\n[Login]\nInhibitDelayMaxSec={}\n", wanted.as_secs());
    let folder = Path::new(LOGIND_CONFIG).parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(LOGIND_CONFIG, text))
        .map_err(|error| format!("{LOGIND_CONFIG}: {error}"))?;
    run("systemctl", &RELOAD)?;
    for _ in 0..MOST_LOOKS {
        if delay()? >= micros {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
    Err("systemd-logind waits as long as before".to_owned())
}

/// Takes back what the login manager was told to wait, as the node is deleted: it waits as long as before at once.
///
/// # Errors
/// The file is there and cannot be removed.
pub fn forget_delay() -> io::Result<()> {
    if !forget(Path::new(LOGIND_CONFIG))? || !Path::new(SYSTEMD).exists() {
        return Ok(());
    }
    if let Err(error) = run("systemctl", &RELOAD) {
        tracing::warn!(error, "systemd-logind waits for so long until it is started again");
    }
    Ok(())
}

/// Removes a file that this program has written, with its folder if nothing else is in that; says whether it was there.
fn forget(file: &Path) -> io::Result<bool> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    match std::fs::read_to_string(file) {
        Ok(text) if text.starts_with(WRITTEN_HERE) => std::fs::remove_file(file).map_err(named)?,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => return Ok(false),
    }
    if let Err(error) = file.parent().map_or(Ok(()), std::fs::remove_dir) {
        tracing::debug!(%error, "the login manager has other settings too");
    }
    Ok(true)
}

/// The number in a property that busctl prints: its type, then itself.
fn microseconds(property: &str) -> Option<u128> {
    property.trim().strip_prefix("t ")?.parse().ok()
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// A helper program that lives as long as the value.
struct Helper(Child);

impl Helper {
    fn start(program: &str, arguments: &[&str]) -> Result<Self, String> {
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        Ok(Self(child))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        if let Err(error) = ended {
            tracing::debug!(%error, "a helper had ended already");
        }
    }
}

/// Whether a line of the monitor says that a shutdown begins (or is called off).
fn begins(line: &str) -> Option<bool> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    if message["member"] != "PrepareForShutdown" {
        return None;
    }
    message["payload"]["data"][0].as_bool()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i32) -> Arc<Pod> {
        let yaml = format!("{{metadata: {{uid: {uid}}}, spec: {{priority: {priority}, containers: []}}}}");
        Arc::new(serde_saphyr::from_str(&yaml).expect("a valid Pod"))
    }

    #[test]
    fn only_the_delay_that_was_written_here_is_forgotten() {
        let folder = std::env::temp_dir().join(format!("skiff-logind-{}", std::process::id()));
        let file = folder.join("99-kubelet.conf");
        let check = |text: &str, other: bool| {
            std::fs::create_dir_all(&folder).expect("a writable folder");
            std::fs::write(&file, text).expect("written");
            if other {
                std::fs::write(folder.join("other.conf"), "").expect("written");
            }
            (forget(&file).expect("it can be removed"), file.exists(), folder.exists())
        };
        let own = format!("{WRITTEN_HERE}\n[Login]\nInhibitDelayMaxSec=30\n");
        assert_eq!(check("[Login]\nInhibitDelayMaxSec=30\n", false), (false, true, true));
        assert_eq!(check(&own, false), (true, false, false));
        assert_eq!(check(&own, true), (true, false, true));
        assert!(!forget(&file).expect("there is nothing to remove"));
        std::fs::remove_dir_all(&folder).expect("it goes");
    }

    #[test]
    fn properties_are_read() {
        assert_eq!(microseconds("t 5000000\n"), Some(5_000_000));
        assert_eq!(microseconds("u 5"), None);
        assert_eq!(microseconds(""), None);
    }

    fn check(yaml: &str, expected: &[(&[&str], i64)]) {
        let options = Options::parse(yaml.as_bytes()).expect("valid options");
        let pods = [pod("low", -5), pod("web", 0), pod("dear", 1000), pod("critical", CRITICAL)];
        let waves: Vec<_> = plan(&options, &pods).into_iter().map(|wave| (wave.pods, wave.grace_seconds)).collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(pods, seconds)| (pods.iter().map(|pod| (*pod).to_owned()).collect::<Vec<_>>(), *seconds))
            .collect();
        assert_eq!(waves, expected);
    }

    #[test]
    fn critical_pods_go_last() {
        check(
            "{shutdownGracePeriod: 30s, shutdownGracePeriodCriticalPods: 10s}",
            &[(&["low", "web", "dear"], 20), (&["critical"], 10)],
        );
        check("{}", &[]);
    }

    #[test]
    fn each_range_of_priorities_has_its_time() {
        check(
            "shutdownGracePeriodByPodPriority: [{priority: 1000, shutdownGracePeriodSeconds: 5}, {priority: 0, shutdownGracePeriodSeconds: 7}]",
            &[(&["low", "web"], 7), (&["dear", "critical"], 5)],
        );
    }

    #[test]
    fn the_monitor_tells_of_shutdowns() {
        let line = r#"{"type":"signal","member":"PrepareForShutdown","payload":{"type":"b","data":[true]}}"#;
        assert_eq!(begins(line), Some(true));
        assert_eq!(begins("{}"), None);
    }
}
