//! Pods that take more than is theirs: the node holds them, says so, and everybody else goes on.

use serde_json::Value;
use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, hello_image};

/// Few processes for each Pod, so that a fork bomb is soon at its end.
const SETTINGS: &str = "
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
podPidsLimit: 100
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 50Mi, nodefs.available: 100Mi, imagefs.available: 100Mi}
";

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: neighbour}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: app, image: "localhost:5000/hello:v1", readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}}
---
apiVersion: v1
kind: Pod
metadata: {name: bomb}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: localhost:5000/hello:v1
    command: [sh, -c, "bomb() { bomb | bomb & }; bomb; sleep 100000"]
---
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - name: app
    image: localhost:5000/hello:v1
    command: [sh, -c, "dd if=/dev/zero of=/dev/null bs=512M count=1"]
    resources: {limits: {memory: 32Mi}}
  - {name: beside, image: "localhost:5000/hello:v1", command: [sleep, "100000"]}
"#;

#[test]
fn bombs_and_hogs_stay_in_their_pods() {
    let cluster = Cluster::empty("faults");
    let settings = cluster.folder().join("settings.yaml");
    std::fs::write(&settings, SETTINGS).expect("a writable folder");
    cluster.skiff(&["up", "--kubelet-config", &settings.display().to_string()]).ok();
    let image = cluster.folder().join("hello.tar");
    hello_image("v1").save("localhost:5000/hello:v1", &image).expect("a writable folder");
    cluster.skiff(&["image", "import", &image.display().to_string()]).ok();
    cluster.create(PODS);
    cluster.ready("neighbour");
    eventually("the bomb is at its end", || cluster.kubectl("logs bomb --tail=5").stdout.contains("can't fork"));
    let state = |pod: &Value, index: usize| pod["status"]["containerStatuses"][index]["state"].clone();
    eventually("the hog is ended", || state(&cluster.get("pod hog"), 0)["terminated"]["reason"] == "OOMKilled");
    let hog = cluster.get("pod hog");
    assert_eq!(state(&hog, 0)["terminated"]["exitCode"], 137);
    assert!(state(&hog, 1)["running"].is_object(), "{}", hog["status"]);
    // Beside them life goes on: new Pods come, old ones answer, and nobody was started again.
    cluster.kubectl_args(&["run", "late", "--image=localhost:5000/hello:v1", "--grace-period=0"]).ok();
    cluster.ready("late");
    let neighbour = cluster.get("pod neighbour");
    let status = &neighbour["status"]["containerStatuses"][0];
    assert_eq!((&status["restartCount"], &status["ready"]), (&Value::from(0), &Value::from(true)));
    cluster.kubectl("delete pod bomb hog neighbour late --timeout=30s").ok();
    let root = cluster.folder().join("isolated").join(&cluster.name);
    eventually("nothing of them is left", || {
        std::fs::read_dir(root.join("kubelet/pods")).is_ok_and(|pods| pods.count() == 0)
    });
    let ready = cluster.kubectl("get nodes --no-headers").ok();
    assert!(ready.contains(" Ready "), "{ready}");
}
