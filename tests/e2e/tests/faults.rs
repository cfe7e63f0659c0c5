//! Pods that take more than is theirs: the node holds them, says so, and everybody else goes on.

use serde_json::Value;
use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, hello_image, kill};

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
            return eprintln!("{} stays mounted", self.0.display());
        }
        // While a disk was mounted in it, the cluster's folder could not go with the cluster.
        let whole = self.0.ancestors().take_while(|folder| *folder != std::env::temp_dir()).last();
        let whole = whole.unwrap_or(&self.0);
        std::fs::remove_dir_all(whole).unwrap_or_else(|error| eprintln!("{}: {error}", whole.display()));
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
    let (filler, words) = (cluster.folder().join("filler"), cluster.folder().join("words"));
    // As much as the store makes room for ahead: small ones would be kept for a long time.
    std::fs::write(&words, "word".repeat(64 << 10)).expect("there is room");
    let note = |number: usize| {
        let (name, words) = (format!("note-{number}"), format!("--from-file={}", words.display()));
        cluster.kubectl_args(&["create", "configmap", &name, &words])
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

/// A disk of its own in a folder, which can be made to fail, for as long as the value lives.
struct FailingDisk {
    folder: std::path::PathBuf,
    image: std::path::PathBuf,
}

impl FailingDisk {
    const SIZE_BYTES: u64 = 2 << 30;

    fn mount(folder: &std::path::Path, image: std::path::PathBuf) -> Self {
        let disk = Self { folder: folder.to_owned(), image };
        let image = std::fs::File::create(&disk.image).and_then(|file| file.set_len(Self::SIZE_BYTES));
        image.expect("a writable folder");
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=1", &disk.image.display().to_string()]);
        // Nodes of others that are started meanwhile have what is mounted too: on a shared folder it is unmounted for all.
        run("mount", &["--bind", &disk.target(), &disk.target()]);
        run("mount", &["--make-shared", &disk.target()]);
        disk.attach();
        disk
    }

    fn attach(&self) {
        run("mount", &["-o", "loop,errors=remount-ro", &self.image.display().to_string(), &self.target()]);
    }

    fn target(&self) -> String {
        self.folder.display().to_string()
    }

    /// What the kernel does to a file system whose disk fails: from now on nothing is written, whoever has files open.
    fn fail(&self) {
        run("mount", &["-o", "remount,abort", &self.target()]);
    }

    /// What a machine does when it is started again: nobody has files open any more, and what is damaged is mended.
    fn mend(&self) {
        let unmount = || std::process::Command::new("umount").arg(&self.folder).output().expect("umount is there");
        eventually("nobody uses the disk any more", || unmount().status.success());
        let checked =
            std::process::Command::new("e2fsck").arg("-fy").arg(&self.image).output().expect("e2fsck is there");
        assert!(checked.status.code().is_some_and(|code| code < 2), "{checked:?}");
        self.attach();
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        let gone = std::process::Command::new("umount").arg("--lazy").arg(&self.folder).status();
        if !gone.is_ok_and(|status| status.success()) {
            eprintln!("{} stays mounted", self.folder.display());
        }
        drop(SmallDisk(self.folder.clone()));
        std::fs::remove_file(&self.image).unwrap_or_else(|error| eprintln!("{}: {error}", self.image.display()));
    }
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) {
    let done = std::process::Command::new(program).args(arguments).output();
    let done = done.unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

const TALKER: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: app
    image: localhost:5000/hello:v1
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
  - name: beside
    image: localhost:5000/hello:v1
    command: [sh, -c, "while true; do echo talk; echo $((n=n+1)) > /memory/count; sleep 0.05; done"]
    volumeMounts: [{name: memory, mountPath: /memory}]
  volumes: [{name: memory, emptyDir: {medium: Memory}}]
"#;

#[test]
fn a_disk_that_turns_read_only_is_told_and_survived() {
    // Declared first, so that it goes last.
    let disk;
    let cluster = Cluster::empty("failing");
    disk = FailingDisk::mount(cluster.folder(), cluster.folder().with_extension("img"));
    cluster.skiff(&["up"]).ok();
    let image = cluster.folder().join("hello.tar");
    hello_image("v1").save("localhost:5000/hello:v1", &image).expect("a writable folder");
    cluster.skiff(&["image", "import", &image.display().to_string()]).ok();
    cluster.create(TALKER);
    cluster.ready("talker");
    let note = |name: &str| cluster.kubectl_args(&["create", "configmap", name, "--from-literal=a=b"]);
    note("kept").ok();
    disk.fail();
    // What cannot be kept is refused with the reason, by a server that lives on and shows all that it has.
    let refused = note("lost");
    assert!(refused.code != 0 && refused.stderr.contains("Read-only file system"), "{refused:?}");
    let server = cluster.server_pid();
    let containers = || cluster.get("pod talker")["status"]["containerStatuses"].clone();
    let before = containers();
    // Containers run on, and are not held up by what they say and cannot be kept.
    let count = || -> u64 {
        let said = cluster.kubectl("exec talker -c beside -- cat /memory/count").ok();
        said.trim().parse().unwrap_or_default()
    };
    let from = count();
    eventually("the talker talks on", || count() > from + 20);
    assert!(cluster.kubectl("exec talker -c app -- wget -q -O - http://127.0.0.1:8080/").ok().contains("v1"));
    assert_eq!((containers(), cluster.server_pid()), (before, server));
    // The machine is started again, and its disk mended: everything that was kept is there.
    kill(cluster.keeper_pid());
    disk.mend();
    cluster.skiff(&["up"]).ok();
    cluster.kubectl("get configmap kept").ok();
    note("later").ok();
    eventually("the containers run again", || {
        let containers = containers();
        let mut all = containers.as_array().into_iter().flatten();
        all.clone().count() == 2 && all.all(|one| one["ready"] == true && one["restartCount"].as_u64() >= Some(1))
    });
    drop(cluster);
    drop(disk);
}

#[test]
fn an_agents_disk_that_turns_read_only_is_told_by_its_node() {
    // Declared first, so that it goes last.
    let mut disk = None;
    let cluster = Cluster::several_on("rodisk", 1, |cluster| {
        let folder = cluster.folder_of(&cluster.agent(0));
        std::fs::create_dir_all(&folder).expect("a writable folder");
        disk = Some(FailingDisk::mount(&folder, cluster.folder().with_extension("img")));
    });
    let disk = disk.as_ref().expect("it was mounted");
    let agent = cluster.agent(0);
    cluster.create(&TALKER.replace("spec:\n", &format!("spec:\n  nodeName: {agent}\n")));
    cluster.ready("talker");
    let condition = |kind: &str| {
        let path = format!("jsonpath={{.status.conditions[?(@.type==\"{kind}\")].status}}");
        cluster.kubectl_args(&["get", "node", &agent, "-o", &path]).stdout
    };
    assert_eq!(condition("DiskPressure"), "False");
    disk.fail();
    // Nothing more is placed here, and somebody can read why; what runs may run on.
    eventually("the node says that it has no room", || condition("DiskPressure") == "True");
    eventually("the node is tainted", || {
        let taints = cluster.kubectl_args(&["get", "node", &agent, "-o", "jsonpath={.spec.taints[*].key}"]).stdout;
        taints.contains("node.kubernetes.io/disk-pressure")
    });
    let events = || cluster.kubectl("get events -A --field-selector reason=FilesystemIsReadOnly").stdout;
    eventually("the node tells of it", || events().contains("is read-only"));
    assert_eq!(condition("Ready"), "True");
    let talker = || cluster.get("pod talker")["status"].clone();
    let status = talker();
    let restarts = status["containerStatuses"].as_array().expect("containers").iter().map(|one| &one["restartCount"]);
    assert_eq!((&status["phase"], restarts.collect::<Vec<_>>()), (&"Running".into(), vec![&Value::from(0); 2]));
    kill(cluster.keeper_pid_of(&agent));
    disk.mend();
    cluster.skiff_of(&agent, &["up"]).ok();
    eventually("there is room again", || condition("DiskPressure") == "False" && condition("Ready") == "True");
    eventually("the containers run again", || {
        let status = talker();
        let mut all = status["containerStatuses"].as_array().into_iter().flatten();
        all.all(|one| one["ready"] == true && one["restartCount"].as_u64() >= Some(1))
    });
    drop(cluster);
}

/// Takes all room that is left.
fn fill(path: &std::path::Path) {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).expect("a file");
    for size in [64 << 10, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}
