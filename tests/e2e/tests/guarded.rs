//! What the cluster gives, counts and does not let pass, seen from kubectl: limits, quotas and levels of Pod security.

use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

const BOUNDS: &str = r#"
apiVersion: v1
kind: LimitRange
metadata: {name: usual, namespace: bounded}
spec:
  limits: [{type: Container, defaultRequest: {cpu: 10m, memory: 16Mi}, default: {memory: 64Mi}, max: {memory: 128Mi}}]
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: most, namespace: bounded}
spec: {hard: {pods: "2", requests.cpu: 100m, count/configmaps: "2"}}
"#;

const HARDENED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: hardened}
spec:
  terminationGracePeriodSeconds: 0
  securityContext: {runAsNonRoot: true, runAsUser: 1000, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: c
    image: "localhost:5000/hello:v1"
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"#;

#[test]
fn bounds_are_kept() {
    let cluster = Cluster::up("guarded");
    namespaces_are_bounded(&cluster);
    pods_are_secured(&cluster);
}

fn namespaces_are_bounded(cluster: &Cluster) {
    cluster.kubectl("create namespace bounded").ok();
    cluster.create(BOUNDS);
    let used = |what: &str| {
        let quota = cluster.get("quota most -n bounded");
        quota["status"]["used"][what].as_str().unwrap_or_default().to_owned()
    };
    eventually("the quota counts", || used("count/configmaps") == "1");
    let deployment =
        "create deployment web -n bounded --image=localhost:5000/hello:v1 --replicas=4 -- /hello --port=8080";
    cluster.kubectl(deployment).ok();
    eventually("as many pods run as may", || {
        cluster.get("deployment web -n bounded")["status"]["readyReplicas"].as_i64() == Some(2)
    });
    let pods = cluster.get("pods -n bounded");
    assert_eq!(pods["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(pods["items"][0]["spec"]["containers"][0]["resources"]["limits"]["memory"], "64Mi");
    let told = cluster.kubectl("describe rs -n bounded").ok();
    let refusal = "exceeded quota: most, requested: pods=1, used: pods=2, limited: pods=2";
    assert!(told.contains("FailedCreate") && told.contains(refusal), "{told}");
    cluster.kubectl("scale deployment web -n bounded --replicas=1").ok();
    eventually("what went is given back", || used("pods") == "1" && used("requests.cpu") == "10m");
    cluster.kubectl("create configmap one -n bounded").ok();
    let refused = cluster.kubectl("create configmap two -n bounded").stderr;
    let refusal =
        "exceeded quota: most, requested: count/configmaps=1, used: count/configmaps=2, limited: count/configmaps=2";
    assert!(refused.contains(refusal), "{refused}");
}

fn pods_are_secured(cluster: &Cluster) {
    cluster.kubectl("label namespace default pod-security.kubernetes.io/enforce=restricted").ok();
    eventually("a plain Pod is refused", || {
        let refused = cluster.kubectl("run plain --image=localhost:5000/hello:v1 --dry-run=server").stderr;
        refused.contains(
            "pods \"plain\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"plain\" must set securityContext.allowPrivilegeEscalation=false)",
        )
    });
    let warned = cluster.kubectl("create deployment loose --image=localhost:5000/hello:v1").stderr;
    assert!(warned.starts_with("Warning: would violate PodSecurity \"restricted:latest\""), "{warned}");
    cluster.create(HARDENED);
    cluster.ready("hardened");
}
