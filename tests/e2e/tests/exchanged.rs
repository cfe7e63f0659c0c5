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

/// How many of a node's own certificates are of an authority that was replaced, as it tells.
fn certificates_of_former(cluster: &Cluster, node: &str) -> usize {
    let status = cluster.skiff_of(node, &["status"]).ok();
    let own: Vec<&str> = status.lines().filter(|line| line.starts_with("kubelet-")).collect();
    assert_eq!(own.len(), 2, "{status}");
    own.iter().filter(|line| line.ends_with("(former)")).count()
}

#[test]
fn an_agent_learns_of_another_authority_and_goes_on() {
    let cluster = Cluster::several("exchanged-agent", 1);
    let agent = cluster.agent(0);
    let process = cluster.server_pid_of(&agent);
    let pod = |name: &str| {
        let container = "{name: hello, image: 'localhost:5000/hello:v1', command: [/hello, --port=8080]}";
        let spec = format!("{{nodeName: {agent}, containers: [{container}]}}");
        format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {spec}\n")
    };
    cluster.create(&pod("before"));
    cluster.ready("before");
    let folder = cluster.folder_of(&agent).join("pki");
    let files = ["kubelet-client.pem", "kubelet-serving.pem"].map(|name| folder.join(name));
    let read = || files.each_ref().map(|file| std::fs::read_to_string(file).expect("a certificate"));
    let former = read();

    cluster.skiff(&["certificate", "rotate", "ca"]).ok();
    let refused = cluster.skiff_of(&agent, &["certificate", "rotate", "ca"]);
    assert!(refused.stderr.contains("do that on a server of its cluster"), "{refused:?}");
    // A connection that is ended meanwhile, because it rests on the former one, is no answer.
    let reload = || cluster.skiff_of(&agent, &["certificate", "reload"]).code == 0;
    eventually("the agent believes both", || {
        reload() && cluster.skiff_of(&agent, &["status"]).ok().contains("ca (former)")
    });
    eventually("the agent has certificates of the new one", || certificates_of_former(&cluster, &agent) == 0);
    let renewed = read();
    assert!(renewed.iter().zip(&former).all(|(renewed, former)| renewed != former), "both are other ones");
    assert_eq!(cluster.sh("before", "echo goes on").stdout.trim(), "goes on");

    cluster.skiff(&["certificate", "forget", "ca"]).ok();
    eventually("the agent believes the new one alone", || {
        reload() && !cluster.skiff_of(&agent, &["status"]).ok().contains("ca (former)")
    });
    assert_eq!(cluster.sh("before", "echo goes on").stdout.trim(), "goes on");
    cluster.create(&pod("after"));
    cluster.ready("after");
    assert_eq!(cluster.sh("after", "echo goes on").stdout.trim(), "goes on");
    assert_eq!(cluster.server_pid_of(&agent), process, "nothing was started again");
}

fn node(cluster: &Cluster) -> String {
    cluster.get("nodes")["items"][0]["metadata"]["name"].as_str().expect("a name").to_owned()
}
