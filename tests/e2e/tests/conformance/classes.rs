//! Pods of a RuntimeClass: what it adds to them, and what becomes of them when it goes.

use serde_json::Value;
use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

const CLASS: &str = "
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: native}
handler: runc
overhead: {podFixed: {cpu: 10m, memory: 1Mi}}
";

/// One that runs, and is started again where it stands; one that is held back until its class is gone.
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: classed}
spec:
  runtimeClassName: native
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: localhost:5000/hello:v1
    command: [sh, -c, "while ! [ -e /scratch/end ]; do sleep 0.1; done; rm /scratch/end"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: held-back}
spec:
  runtimeClassName: native
  schedulingGates: [{name: test/gate}]
  containers: [{name: main, image: "localhost:5000/hello:v1"}]
"#;

const STRANGER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: stranger}
spec:
  runtimeClassName: native
  containers: [{name: main, image: "localhost:5000/hello:v1"}]
"#;

pub fn begin(cluster: &Cluster) {
    cluster.create(CLASS);
    cluster.create(PODS);
}

pub fn look(cluster: &Cluster) {
    cluster.ready("classed");
    let status = || cluster.get("pod classed");
    assert_eq!(status()["spec"]["overhead"], serde_json::json!({"cpu": "10m", "memory": "1Mi"}));
    cluster.kubectl("delete runtimeclass native").ok();
    let refused = cluster.kubectl_with("create -f -", STRANGER);
    let why = "pods \"stranger\" is forbidden: pod rejected: RuntimeClass \"native\" not found";
    assert!(refused.code != 0 && refused.stderr.contains(why), "{refused:?}");
    runs_on(cluster, &status);
    waits(cluster);
}

/// Who has a sandbox keeps it: its container comes back in it.
fn runs_on(cluster: &Cluster, status: &dyn Fn() -> Value) {
    let address = status()["status"]["podIP"].clone();
    cluster.sh("classed", "touch /scratch/end").ok();
    eventually("the container has come back", || {
        let container = status()["status"]["containerStatuses"][0].clone();
        container["restartCount"] == 1 && container["ready"] == true
    });
    assert_eq!(status()["status"]["podIP"], address);
}

/// Who has none gets none, is told why, and runs when the class is there again.
fn waits(cluster: &Cluster) {
    let gates = r#"[{"op": "remove", "path": "/spec/schedulingGates"}]"#;
    cluster.kubectl_args(&["patch", "pod", "held-back", "--type", "json", "-p", gates]).ok();
    eventually("the Pod is told what it lacks", || {
        let events = cluster.kubectl("get events --field-selector reason=FailedCreatePodSandBox").stdout;
        events.contains("Failed to create pod sandbox: runtimeclass.node.k8s.io \"native\" not found")
    });
    assert_eq!(cluster.get("pod held-back")["status"]["phase"], "Pending");
    cluster.create(CLASS);
    cluster.ready("held-back");
    cluster.kubectl("delete pod classed held-back --now").ok();
}
