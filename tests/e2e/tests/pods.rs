//! What a node does with single Pods: static ones, resources that change in place, debug containers, files beyond their limit,
//! volumes from claims and from images, users of their own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: sized}
spec:
  containers:
  - name: app
    image: "localhost:5000/hello:v1"
    resources: {requests: {cpu: 50m, memory: 64Mi}, limits: {cpu: 200m, memory: 64Mi}}
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
---
apiVersion: v1
kind: Pod
metadata: {name: hog}
spec:
  restartPolicy: Never
  containers:
  - name: app
    image: "localhost:5000/hello:v1"
    command: [sh, -c, "dd if=/dev/zero of=/scratch/file bs=1M count=20; sleep 1000"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {sizeLimit: 5Mi}}]
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}, storageClassName: "", volumeName: data}
---
apiVersion: v1
kind: Pod
metadata: {name: claimer}
spec:
  securityContext: {fsGroup: 4321}
  containers:
  - name: app
    image: "localhost:5000/hello:v1"
    command: [sh, -c, "ls -ldn /data; echo hello > /data/file; sleep 1000"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
"#;

#[test]
fn pods_and_their_node() {
    let cluster = Cluster::up("pods");
    cluster.create(PODS);
    static_pods(&cluster);
    debugging(&cluster);
    resizing(&cluster);
    claims(&cluster);
    images_and_users(&cluster);
    too_much_written(&cluster);
}

fn static_pods(cluster: &Cluster) {
    let folder = cluster.kubeconfig().with_file_name("manifests");
    std::fs::create_dir_all(&folder).unwrap();
    let manifest = r#"
apiVersion: v1
kind: Pod
metadata: {name: still}
spec: {containers: [{name: app, image: "localhost:5000/hello:v1"}]}
"#;
    std::fs::write(folder.join("still.yaml"), manifest).unwrap();
    let pod = format!("still-{}", cluster.name);
    let has_mirror = || cluster.kubectl(&format!("get pod {pod}")).code == 0;
    eventually("the mirror is made", has_mirror);
    cluster.ready(&pod);
    // A mirror that is deleted comes back; the container did not notice.
    let container = || cluster.get(&format!("pod {pod}"))["status"]["containerStatuses"][0]["containerID"].clone();
    let before = container();
    cluster.kubectl(&format!("delete pod {pod} --wait=false")).ok();
    eventually("the mirror is made anew", || has_mirror() && container() == before);
    std::fs::remove_file(folder.join("still.yaml")).unwrap();
    eventually("the Pod goes with its manifest", || !has_mirror());
}

fn debugging(cluster: &Cluster) {
    cluster.ready("sized");
    let line = "debug sized --image=localhost:5000/hello:v1 --target=app -c debugger --profile=general -- sh -c";
    let mut words: Vec<&str> = line.split_whitespace().collect();
    words.push("ps; echo done");
    cluster.kubectl_args(&words).ok();
    let log = || cluster.kubectl("logs sized -c debugger").stdout;
    eventually("the debug container has ended", || log().contains("done"));
    assert!(log().contains("/hello"), "it sees the target's processes: {}", log());
}

fn resizing(cluster: &Cluster) {
    let resize = |resources: &str| {
        let patch = format!(r#"{{"spec":{{"containers":[{{"name":"app","resources":{resources}}}]}}}}"#);
        cluster.kubectl_args(&["patch", "pod", "sized", "--subresource", "resize", "--patch", &patch]).ok()
    };
    let status = || cluster.get("pod sized")["status"].clone();
    resize(r#"{"limits":{"cpu":"400m"}}"#);
    eventually("the limit is in force", || status()["containerStatuses"][0]["resources"]["limits"]["cpu"] == "400m");
    assert_eq!(status()["containerStatuses"][0]["restartCount"], 0);
    let quota =
        cluster.sh("sized", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null").stdout;
    assert!(quota.starts_with("40000"), "{quota}");
    resize(r#"{"requests":{"memory":"128Mi"},"limits":{"memory":"128Mi"}}"#);
    eventually("the container starts anew for its memory", || {
        let container = status()["containerStatuses"][0].clone();
        container["restartCount"] == 1 && container["resources"]["limits"]["memory"] == "128Mi"
    });
    resize(r#"{"requests":{"cpu":"900"},"limits":{"cpu":"1000"}}"#);
    eventually("what can never be given is refused", || {
        let conditions = status()["conditions"].clone();
        let mut conditions = conditions.as_array().unwrap().iter();
        conditions.any(|condition| condition["type"] == "PodResizePending" && condition["reason"] == "Infeasible")
    });
}

fn claims(cluster: &Cluster) {
    eventually("it is told that the claim is not bound", || {
        let told = cluster.kubectl("get events --field-selector reason=FailedScheduling").stdout;
        told.contains("pod has unbound immediate PersistentVolumeClaims")
    });
    let folder = cluster.folder().join("volume");
    std::fs::create_dir_all(&folder).unwrap();
    cluster.create(&format!(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {{name: data}}
spec:
  capacity: {{storage: 1Gi}}
  accessModes: [ReadWriteOnce]
  storageClassName: ""
  local: {{path: {}}}
  claimRef: {{name: data, namespace: default}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/os, operator: Exists}}]}}]}}}}
"#,
        folder.display()
    ));
    cluster.ready("claimer");
    assert!(cluster.kubectl("logs claimer").ok().contains(" 4321 "), "the folder belongs to the group");
    assert_eq!(std::fs::read_to_string(folder.join("file")).unwrap(), "hello\n");
    cluster.kubectl("delete pod claimer --now").ok();
    assert!(folder.join("file").exists(), "data outlives the Pod");
}

fn images_and_users(cluster: &Cluster) {
    cluster.create(
        r#"
apiVersion: v1
kind: Pod
metadata: {name: imaged}
spec:
  hostUsers: false
  containers:
  - name: app
    image: "localhost:5000/hello:v1"
    command: [sh, -c, "ls /image; echo mine > /own/file; sleep 1000"]
    volumeMounts: [{name: image, mountPath: /image}, {name: own, mountPath: /own}]
  volumes:
  - {name: image, image: {reference: "localhost:5000/hello:v2", pullPolicy: IfNotPresent}}
  - {name: own, emptyDir: {}}
"#,
    );
    cluster.ready("imaged");
    assert!(cluster.kubectl("logs imaged").ok().contains("hello"), "the other image's files are there");
    assert_ne!(cluster.sh("imaged", "touch /image/x").code, 0, "and cannot be written");
    let map = cluster.sh("imaged", "cat /proc/self/uid_map").ok();
    let fields: Vec<&str> = map.split_whitespace().collect();
    assert_eq!((fields[0], fields[2]), ("0", "65536"), "its users are others on the node: {map}");
    assert_ne!(fields[1], "0");
    assert_eq!(cluster.sh("imaged", "ls -ln /own/file | tr -s ' ' | cut -d' ' -f3").ok().trim(), "0");
}

fn too_much_written(cluster: &Cluster) {
    eventually("the Pod that wrote too much is ended", || cluster.get("pod hog")["status"]["reason"] == "Evicted");
    let hog = cluster.get("pod hog")["status"].clone();
    assert_eq!(hog["phase"], "Failed");
    assert_eq!(hog["message"], "Usage of EmptyDir volume \"scratch\" exceeds the limit \"5Mi\". ");
    let conditions = hog["conditions"].as_array().unwrap();
    let disrupted = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!(disrupted["reason"], "TerminationByKubelet");
}
