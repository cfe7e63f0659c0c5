//! A collector of logs that knows nothing of this node: Debian's rsyslog follows what lies in `containers`, as collectors
//! do, and gets every line once, also while logs are put aside.

#![allow(clippy::disallowed_methods, reason = "a whole node lives in real time")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, hello_image};

/// Logs are put aside as soon as they have grown at all.
const SETTINGS: &str = "
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerLogMaxSize: 64Ki
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 50Mi, nodefs.available: 100Mi, imagefs.available: 100Mi}
";
/// Lines that are said at once, before and after a log was put aside.
const LINES: usize = 5000;

struct Collector(Child);

impl Collector {
    /// Follows a folder of links to logs, and writes each line behind the name of its link.
    fn start(folder: &Path, links: &Path, output: &Path) -> Self {
        let (state, config) = (folder.join("collector"), folder.join("collector.conf"));
        std::fs::create_dir_all(&state).expect("a writable folder");
        let text = format!(
            r#"global(workDirectory="{}")
module(load="imfile" mode="inotify")
template(name="line" type="string" string="%$!metadata!filename% %msg%\n")
input(type="imfile" File="{}/*.log" Tag="pods" addMetadata="on" ruleset="keep")
ruleset(name="keep") {{ action(type="omfile" file="{}" template="line") }}
"#,
            state.display(),
            links.display(),
            output.display()
        );
        std::fs::write(&config, text).expect("written");
        let pid = folder.join("collector.pid");
        let mut command = Command::new("rsyslogd");
        command.arg("-n").arg("-f").arg(&config).arg("-i").arg(&pid);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Self(child.expect("rsyslog is installed"))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).map(drop).unwrap_or_else(|error| eprintln!("collector: {error}"));
    }
}

#[test]
fn a_collector_gets_every_line_once() {
    let cluster = Cluster::empty("collector");
    let settings = cluster.folder().join("settings.yaml");
    std::fs::write(&settings, SETTINGS).expect("a writable folder");
    cluster.skiff(&["up", "--kubelet-config", &settings.display().to_string()]).ok();
    let image = cluster.folder().join("hello.tar");
    hello_image("v1").save("localhost:5000/hello:v1", &image).expect("a writable folder");
    cluster.skiff(&["image", "import", &image.display().to_string()]).ok();
    let logs = cluster.folder().join("isolated").join(&cluster.name).join("log");
    let output = cluster.folder().join("collected");
    let links = logs.join("containers");
    std::fs::create_dir_all(&links).expect("a writable folder");
    let _collector = Collector::start(cluster.folder(), &links, &output);
    let say = "say() { seq $1 $2 | sed 's/^/line /'; }";
    let script = format!(
        "{say}; say 1 {LINES}; while ! test -e /more; do sleep 0.1; done; say {} {}; echo end >&2; sleep 100000",
        LINES + 1,
        2 * LINES
    );
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "talker"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "c", "image": "localhost:5000/hello:v1", "command": ["sh", "-c", script]}],
        },
    });
    cluster.create(&pod.to_string());
    cluster.ready("talker");
    eventually("the log was put aside", || aside(&logs).len() > 1);
    cluster.sh("talker", "touch /more").ok();
    let text = || std::fs::read_to_string(&output).unwrap_or_default();
    eventually("everything is collected", || text().contains(" stderr F end\n"));
    let uid = cluster.get("pod talker")["status"]["containerStatuses"][0]["containerID"].clone();
    let id = uid.as_str().and_then(|id| id.split_once("://")).expect("an id").1.to_owned();
    let link = links.join(format!("talker_default_c-{id}.log"));
    // File, time, stream, mark and what was said: the form that collectors read.
    let numbers: Vec<usize> = text()
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let [file, time, "stdout", "F", "line", number] = words[..] else { return None };
            assert_eq!(Path::new(file), link);
            assert!(time.len() > 20 && time.contains('T'), "{line}");
            number.parse().ok()
        })
        .collect();
    assert_eq!(numbers, (1..=2 * LINES).collect::<Vec<_>>());
}

/// The files of the container's log.
fn aside(logs: &Path) -> Vec<PathBuf> {
    let Ok(pods) = std::fs::read_dir(logs.join("pods")) else { return vec![] };
    let folders = pods.flatten().map(|pod| pod.path().join("c"));
    folders
        .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|file| file.path())
        .collect()
}
