//! What nodes and Pods use, as the cluster itself tells it, and a Deployment that grows and shrinks by it.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: localhost:5000/hello:v1
        resources: {requests: {cpu: 50m}, limits: {cpu: 200m}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 2
  maxReplicas: 4
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 60}}}]
  behavior:
    scaleUp: {stabilizationWindowSeconds: 0}
    scaleDown: {stabilizationWindowSeconds: 15}
"#;

fn replicas(cluster: &Cluster) -> u64 {
    cluster.get("deployment web")["spec"]["replicas"].as_u64().unwrap()
}

#[test]
fn a_deployment_follows_its_load() {
    let cluster = Cluster::up("autoscale");
    cluster.create(MANIFEST);
    cluster.rollout("web");
    eventually("kubectl top shows the node", || {
        let line = cluster.kubectl("top node --no-headers").stdout;
        line.split_whitespace().nth(1).is_some_and(|cpu| cpu.ends_with('m'))
    });
    eventually("kubectl top shows both Pods' containers", || {
        let lines = cluster.kubectl("top pod --containers --no-headers -l app=web").stdout;
        lines.lines().filter(|line| line.split_whitespace().nth(1) == Some("main")).count() == 2
    });
    let answer = cluster.kubectl("get --raw /apis/metrics.k8s.io/v1beta1/nodes").ok();
    assert!(answer.contains(r#""kind":"NodeMetricsList""#), "{answer}");
    assert_eq!(cluster.get("apiservice v1beta1.metrics.k8s.io")["status"]["conditions"][0]["reason"], "Local");
    let missing = cluster.kubectl("top pod nobody");
    assert!(missing.stderr.contains(r#"podmetrics.metrics.k8s.io "default/nobody" not found"#), "{}", missing.stderr);
    // Work in every Pod that there is; those that come later have none.
    let names = cluster.kubectl("get pods -l app=web -o name").ok();
    for pod in names.lines() {
        let pod = pod.trim_start_matches("pod/");
        cluster.sh(pod, "(while :; do :; done) >/dev/null 2>&1 & echo $! > /tmp/load").ok();
    }
    eventually("more replicas under load", || replicas(&cluster) > 2);
    let events = cluster.kubectl("events --for hpa/web").ok();
    assert!(events.contains("cpu resource utilization (percentage of request) above target"), "{events}");
    for pod in names.lines() {
        let pod = pod.trim_start_matches("pod/");
        cluster.sh(pod, "kill $(cat /tmp/load)").ok();
    }
    eventually("as few as before without it", || replicas(&cluster) == 2);
    let hpa = cluster.get("hpa web");
    let conditions: Vec<_> = hpa["status"]["conditions"].as_array().unwrap().iter().map(|c| &c["type"]).collect();
    assert_eq!(conditions, ["AbleToScale", "ScalingActive", "ScalingLimited"]);
}
