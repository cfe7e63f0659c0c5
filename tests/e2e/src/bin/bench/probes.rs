//! What probes cost: idle Pods, each with a readiness and a liveness probe of the default numbers, against the same Pods without.

use std::time::{Duration, Instant};

use skiff_e2e::Cluster;

use crate::traces::cost_of;
use crate::{SETTLE, report};

const PODS: usize = 100;
const SECONDS: u64 = 60;
const PROBES: &str =
    r#"readinessProbe: {httpGet: {path: /, port: 8080}}, livenessProbe: {httpGet: {path: /, port: 8080}}"#;

/// The agent's processor time with and without probes.
pub fn probes() {
    let with = share_of_a_core(PROBES);
    let without = share_of_a_core("stdin: false");
    report(&format!("CPU with {PODS} idle pods, no probes"), "1 % of a core", "%", vec![without]);
    report(&format!("CPU with {PODS} idle pods, default probes"), "2 % of a core", "%", vec![with]);
}

fn share_of_a_core(fields: &str) -> f64 {
    let cluster = Cluster::up("bench-probes");
    cluster.create(&format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: idle}}
spec:
  replicas: {PODS}
  selector: {{matchLabels: {{app: idle}}}}
  template:
    metadata: {{labels: {{app: idle}}}}
    spec: {{containers: [{{name: app, image: "localhost:5000/hello:v1", {fields}}}]}}
"#
    ));
    cluster.kubectl("rollout status deployment/idle --timeout=300s").ok();
    std::thread::sleep(SETTLE);
    // The server alone: shims and containers are not the agent.
    let server = cluster.server_pid();
    let used = || cost_of([server]).cpu_seconds;
    let (before, start) = (used(), Instant::now());
    std::thread::sleep(Duration::from_secs(SECONDS));
    (used() - before) / start.elapsed().as_secs_f64() * 100.0
}
