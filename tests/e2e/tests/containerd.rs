//! Another runtime behind a CRI socket: Debian's containerd with runc and the CNI plugins does what the embedded
//! runtime does, seen from kubectl.

use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;
use skiff_e2e::containerd::Containerd;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: first, image: "localhost:5000/hello:v1", command: [sh, -c, "echo prepared > /data/file"], volumeMounts: [{name: data, mountPath: /data}]}
  containers:
  - name: web
    image: localhost:5000/hello:v1
    readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1}
    livenessProbe: {exec: {command: [test, -f, /data/file]}, periodSeconds: 1, failureThreshold: 1}
    volumeMounts: [{name: data, mountPath: /data}]
    resources: {limits: {memory: 64Mi, cpu: 500m}}
  volumes: [{name: data, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;

#[test]
fn containerd_is_the_runtime() {
    let (cluster, mut containerd) = Containerd::cluster("ctrd");
    let runtime = cluster.get("node")["items"][0]["status"]["nodeInfo"]["containerRuntimeVersion"].clone();
    assert!(runtime.as_str().unwrap_or_default().starts_with("containerd://1."), "{runtime}");
    assert!(cluster.skiff(&["image", "list"]).ok().contains("localhost:5000/hello:v1"));
    let import = cluster.skiff(&["image", "import", "/dev/null"]);
    assert!(import.stderr.contains("ctr --namespace k8s.io images import"), "{import:?}");
    cluster.create(POD);
    cluster.ready("web");
    a_pod_lives(&cluster);
    the_daemon_may_crash(&cluster, &mut containerd);
    a_failed_probe_restarts(&cluster);
    cluster.kubectl("delete pod web --timeout=60s").ok();
    eventually("nothing is left in containerd", || containerd.ctr(&["containers", "list", "--quiet"]).ok().is_empty());
}

fn a_pod_lives(cluster: &Cluster) {
    let id = cluster.get("pod web")["status"]["containerStatuses"][0]["containerID"].clone();
    assert!(id.as_str().unwrap_or_default().starts_with("containerd://"), "{id}");
    assert_eq!(cluster.sh("web", "cat /data/file").ok(), "prepared\n");
    let failed = cluster.sh("web", "echo no >&2; exit 7");
    assert_eq!((failed.code, failed.stderr.contains("no")), (7, true), "{failed:?}");
    let said = cluster.sh("web", "wget -q -O - http://web.default.svc.cluster.local/");
    assert!(said.ok().contains("v1"));
    cluster
        .kubectl_args(&["run", "talk", "--image=localhost:5000/hello:v1", "--restart=Never", "--", "echo", "spoken"])
        .ok();
    eventually("its log is read", || cluster.kubectl("logs talk").stdout == "spoken\n");
    eventually("it ends", || cluster.kubectl("get pod talk").stdout.contains("Completed"));
    cluster.kubectl("delete pod talk --timeout=60s").ok();
}

fn the_daemon_may_crash(cluster: &Cluster, containerd: &mut Containerd) {
    let before = cluster.get("pod web")["status"]["containerStatuses"][0].clone();
    containerd.crash();
    eventually("the daemon is back", || containerd.ctr(&["version"]).code == 0);
    eventually("exec works again", || cluster.sh("web", "true").code == 0);
    let after = cluster.get("pod web")["status"]["containerStatuses"][0].clone();
    assert_eq!(before["containerID"], after["containerID"]);
    assert_eq!(after["restartCount"], 0, "{after}");
}

fn a_failed_probe_restarts(cluster: &Cluster) {
    cluster.sh("web", "rm /data/file").ok();
    eventually("the container is started again", || {
        cluster.get("pod web")["status"]["containerStatuses"][0]["restartCount"].as_u64() >= Some(1)
    });
}
