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

/// A node whose disk is small, and soon full. What it looks for is looked for often, and what is over is over soon.
const SMALL: &str = "
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
imageMinimumGCAge: 0s
evictionPressureTransitionPeriod: 1s
evictionHard: {nodefs.available: 800Mi, imagefs.available: 800Mi}
";

const WRITERS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: quiet}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: app, image: "localhost:5000/hello:v1", command: [sleep, "100000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - name: app
    image: localhost:5000/hello:v1
    command: [sh, -c, "until [ -e /data/go ]; do sleep 0.1; done; dd if=/dev/zero of=/data/file bs=1M count=400; sleep 100000"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
"#;

/// A small disk in a folder, for as long as the value lives.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(folder: &std::path::Path) -> Self {
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=1100M,mode=755", "disk"])
            .arg(folder)
            .status()
            .expect("mount is there");
        assert!(mounted.success(), "a disk on {}", folder.display());
        Self(folder.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let gone = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
        if !gone.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.0.display());
        }
        std::fs::remove_dir(&self.0).unwrap_or_else(|error| eprintln!("{}: {error}", self.0.display()));
    }
}

#[test]
fn a_full_disk_is_told_cleared_and_survived() {
    // Declared first, so that it goes last.
    let disk;
    let cluster = Cluster::empty("disk");
    disk = SmallDisk::mount(cluster.folder());
    let settings = cluster.folder().join("settings.yaml");
    std::fs::write(&settings, SMALL).expect("a writable folder");
    cluster.skiff(&["up", "--kubelet-config", &settings.display().to_string()]).ok();
    for version in ["v1", "v2"] {
        let image = cluster.folder().join("hello.tar");
        hello_image(version).save(&format!("localhost:5000/hello:{version}"), &image).expect("a writable folder");
        cluster.skiff(&["image", "import", &image.display().to_string()]).ok();
        std::fs::remove_file(image).expect("it was written");
    }
    cluster.create(WRITERS);
    cluster.ready("quiet");
    cluster.ready("greedy");
    cluster.sh("greedy", "touch /data/go").ok();
    eventually("the greedy Pod is evicted", || cluster.get("pod greedy")["status"]["reason"] == "Evicted");
    let status = cluster.get("pod greedy")["status"].clone();
    let told = status["message"].as_str().unwrap_or_default();
    assert!(told.starts_with("The node was low on resource: ephemeral-storage."), "{status}");
    let events = || cluster.kubectl("get events -A").ok();
    eventually("the node tells of it", || events().contains("EvictionThresholdMet"));
    // What nobody uses went first; it did not suffice.
    let images = cluster.skiff(&["image", "list"]).ok();
    assert!(images.contains("v1") && !images.contains("v2"), "{images}");
    // Who wrote nothing runs on, and when there is room again others come.
    cluster.kubectl("delete pod greedy --timeout=30s").ok();
    let pressure = || {
        let node = cluster.get("nodes")["items"][0].clone();
        let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().find(|one| one["type"] == "DiskPressure").map(|one| one["status"].clone())
    };
    eventually("there is room again", || pressure() == Some("False".into()));
    cluster.kubectl_args(&["run", "late", "--image=localhost:5000/hello:v1", "--grace-period=0"]).ok();
    cluster.ready("late");
    let quiet = cluster.get("pod quiet")["status"].clone();
    assert_eq!((&quiet["phase"], &quiet["containerStatuses"][0]["restartCount"]), (&"Running".into(), &0.into()));
    // To the last byte: what cannot be kept is refused, with the reason, and all can be read. What was not written whole is
    // no longer written to before a new start.
    let filler = cluster.folder().join("filler");
    let note = |number: usize| {
        let name = format!("note-{number}");
        cluster.kubectl_args(&["create", "configmap", &name, "--from-literal=a=b"])
    };
    let mut number = 0;
    eventually("a write is refused", || {
        // What the node clears away meanwhile is room again.
        fill(&filler);
        number += 1;
        note(number).stderr.contains("No space left on device")
    });
    cluster.kubectl("get nodes").ok();
    std::fs::remove_file(&filler).expect("it was written");
    cluster.skiff(&["down"]).ok();
    cluster.skiff(&["up", "--kubelet-config", &settings.display().to_string()]).ok();
    note(number + 1).ok();
    eventually("there is room once more", || pressure() == Some("False".into()));
    drop(cluster);
    drop(disk);
}

/// Takes all room that is left.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).expect("a file");
    for size in [64 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
