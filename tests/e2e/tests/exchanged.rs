//! The cluster's authority and the key of its tokens are exchanged while everything runs.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

/// A `kubectl get --watch` that ends with the test.
struct Watch(Child);

impl Watch {
    fn start(cluster: &Cluster, kubeconfig: &str) -> (Self, impl Iterator<Item = String> + use<>) {
        let mut command = cluster.kubectl_command(&["get", "configmaps", "--watch", "-o", "name"]);
        let child = command.args(["--kubeconfig", kubeconfig]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("kubectl");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        (Self(child), lines.map_while(Result::ok))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("ending kubectl: {error}");
        }
    }
}

#[test]
fn a_client_goes_on_while_the_cluster_gets_another_authority() {
    let cluster = Cluster::up_without_images("exchanged");
    let server = cluster.server_pid();
    let former = cluster.folder().join("former.kubeconfig").display().to_string();
    std::fs::copy(cluster.kubeconfig(), &former).expect("a copy of the kubeconfig");
    let (mut watch, mut seen) = Watch::start(&cluster, &former);
    assert_eq!(seen.next().as_deref(), Some("configmap/kube-root-ca.crt"));

    for _ in 0..2 {
        cluster.skiff(&["certificate", "rotate", "ca"]).ok();
    }
    let bundle = || cluster.get("configmap kube-root-ca.crt")["data"]["ca.crt"].as_str().unwrap_or("").to_owned();
    eventually("Pods are told of all three", || bundle().matches("BEGIN CERTIFICATE").count() == 3);
    assert_eq!(cluster.skiff(&["status"]).ok().matches("ca (former)").count(), 2);
    cluster.kubectl_args(&["get", "nodes", "--kubeconfig", &former]).ok();
    cluster.kubectl("get nodes").ok();
    // The API server and the node's agent know each other by the new one.
    let agent = format!("get --raw /api/v1/nodes/{}/proxy/healthz", node(&cluster));
    assert_eq!(cluster.kubectl(&agent).ok(), "ok");
    cluster.kubectl("create configmap later").ok();
    assert!(seen.any(|line| line == "configmap/later"), "the watch goes on");

    cluster.skiff(&["certificate", "forget", "ca"]).ok();
    eventually("Pods are told of one", || bundle().matches("BEGIN CERTIFICATE").count() == 1);
    assert_eq!(cluster.kubectl(&agent).ok(), "ok");
    let refused = cluster.kubectl_args(&["get", "nodes", "--kubeconfig", &former]);
    assert!(refused.stderr.contains("certificate signed by unknown authority"), "{refused:?}");
    let is_over = || watch.0.try_wait().expect("kubectl can be asked").is_some();
    eventually("whoever is known by a former one alone is cut off", is_over);

    let keys = || cluster.kubectl("get --raw /openid/v1/jwks").ok().matches("\"kid\"").count();
    assert_eq!(keys(), 1);
    cluster.skiff(&["certificate", "rotate", "service-account-key"]).ok();
    assert_eq!(keys(), 2);
    cluster.skiff(&["certificate", "forget", "service-account-key"]).ok();
    assert_eq!(keys(), 1);
    assert_eq!(cluster.server_pid(), server, "nothing was started again");
}

fn node(cluster: &Cluster) -> String {
    cluster.get("nodes")["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned()
}
