//! The embedded runtime on its CRI socket, as `crictl` speaks to it.

use serde_json::{Value, json};
use skiff_e2e::Cluster;
use skiff_e2e::cluster::{Answer, eventually};

struct Crictl<'a> {
    cluster: &'a Cluster,
    endpoint: String,
}

impl Crictl<'_> {
    fn run(&self, arguments: &[&str]) -> Answer {
        // Streams are served on the node's own loopback.
        let mut command = self.cluster.inside(&["crictl", "--runtime-endpoint", &self.endpoint, "--timeout", "20s"]);
        command.args(arguments).env("HOME", self.cluster.folder());
        Answer::of(command.output().expect("crictl is installed"))
    }

    fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok().trim().to_owned()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.ok(arguments)).expect("crictl prints JSON")
    }

    fn file(&self, name: &str, value: &Value) -> String {
        let path = self.cluster.folder().join(name);
        std::fs::write(&path, value.to_string()).expect("written");
        path.display().to_string()
    }
}

#[test]
fn crictl_speaks_to_the_embedded_runtime() {
    let cluster = Cluster::up("crictl");
    let endpoint = format!("unix:///run/skiff/isolated/{}/cri.sock", cluster.name);
    let crictl = Crictl { cluster: &cluster, endpoint };
    assert!(crictl.ok(&["version"]).contains("RuntimeName:  skiff"));
    assert_eq!(crictl.json(&["info"])["status"]["conditions"][0]["status"], true);
    images(&crictl);
    pods_of_the_cluster(&crictl);
    by_hand(&crictl);
}

fn images(crictl: &Crictl<'_>) {
    assert!(crictl.ok(&["images"]).contains("localhost:5000/hello"));
    let status = crictl.json(&["inspecti", "localhost:5000/hello:v2"]);
    assert_eq!(status["status"]["repoTags"], json!(["localhost:5000/hello:v2"]));
    let missing = crictl.run(&["pull", "localhost:5000/none:v1"]);
    assert!(missing.code != 0 && missing.stderr.contains("connection refused"), "{missing:?}");
    crictl.ok(&["rmi", "localhost:5000/hello:v2"]);
    assert!(!crictl.ok(&["images", "--output", "json"]).contains("hello:v2"));
    assert!(crictl.json(&["imagefsinfo"])["status"]["imageFilesystems"][0]["usedBytes"]["value"] != "0");
}

fn pods_of_the_cluster(crictl: &Crictl<'_>) {
    crictl.cluster.kubectl("run web --image=localhost:5000/hello:v1").ok();
    crictl.cluster.ready("web");
    assert!(crictl.ok(&["pods"]).contains("web"));
    assert!(crictl.ok(&["ps"]).contains("Running"));
    crictl.cluster.kubectl("delete pod web --grace-period=1").ok();
}

fn by_hand(crictl: &Crictl<'_>) {
    let logs = crictl.cluster.folder().join("logs").display().to_string();
    let pod = json!({
        "metadata": {"name": "p", "namespace": "by-hand", "uid": "1", "attempt": 1},
        "hostname": "p", "log_directory": logs, "linux": {},
    });
    let script = "echo out; echo err >&2; while read line; do echo got $line; done; sleep 1000";
    let container = json!({
        "metadata": {"name": "c"}, "image": {"image": "localhost:5000/hello:v1"},
        "command": ["sh", "-c", script], "log_path": "c.log", "stdin": true, "linux": {},
    });
    let (pod, container) = (crictl.file("pod.json", &pod), crictl.file("container.json", &container));
    let sandbox = crictl.ok(&["runp", &pod]);
    let id = crictl.ok(&["create", &sandbox, &container, &pod]);
    crictl.ok(&["start", &id]);
    eventually("the log", || crictl.run(&["logs", &id]).stdout == "out\n");
    assert_eq!(crictl.ok(&["exec", "--sync", &id, "hostname"]), "p");
    assert_eq!(crictl.ok(&["exec", &id, "sh", "-c", "echo streamed"]), "streamed");
    assert_eq!(crictl.ok(&["exec", "--transport", "websocket", &id, "sh", "-c", "echo streamed"]), "streamed");
    assert_eq!(crictl.json(&["inspect", &id])["status"]["state"], "CONTAINER_RUNNING");
    assert_eq!(crictl.json(&["inspectp", &sandbox])["status"]["state"], "SANDBOX_READY");
    assert_eq!(crictl.json(&["stats", "--output", "json", "--id", &id])["stats"][0]["attributes"]["id"], id.as_str());
    let metrics = crictl.ok(&["metricsp"]);
    assert!(metrics.contains("container_memory_working_set_bytes") && metrics.contains(&id), "{metrics}");
    crictl.ok(&["update", "--memory", "33554432", &id]);
    let limit = crictl.json(&["inspect", &id])["status"]["resources"]["linux"]["memoryLimitInBytes"].clone();
    assert_eq!(limit, "33554432");
    let refused = crictl.run(&["checkpoint", "--export", "/tmp/none.tar", &id]);
    assert!(refused.code != 0 && refused.stderr.contains("Unimplemented"), "{refused:?}");
    crictl.ok(&["stop", "--timeout", "0", &id]);
    assert_eq!(crictl.json(&["inspect", &id])["status"]["exitCode"], 137);
    crictl.ok(&["rmp", "--force", &sandbox]);
    assert!(!crictl.ok(&["pods"]).contains("by-hand"));
}
