//! A cluster moves from the node's own folder into an etcd and back, and works on when the etcd is away for a moment.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{Answer, eventually, kill, skiff_binary};

/// Where the etcd listens, in the node's own network.
const ENDPOINT: &str = "http://127.0.0.1:2379";

const SHOP: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 1
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers:
      - {name: hello, image: localhost:5000/hello:v1, command: [/hello, --port=8080]}
"#;

/// An etcd inside the node's network, with what is in its folder.
struct Etcd(Child);

impl Etcd {
    fn start(cluster: &Cluster, folder: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(folder.join("etcd.log"));
        let mut command = cluster.inside(&["etcd", "--data-dir"]);
        command.arg(folder.join("etcd")).args(["--listen-client-urls", ENDPOINT, "--advertise-client-urls", ENDPOINT]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("a writable folder"));
        let etcd = Self(command.spawn().expect("etcd-server is installed"));
        eventually("etcd answers", || {
            let mut asked = cluster.inside(&["curl", "--silent", "--fail", "--max-time", "5"]);
            asked.arg(format!("{ENDPOINT}/health")).output().is_ok_and(|output| output.status.success())
        });
        etcd
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).map(drop).unwrap_or_else(|error| eprintln!("etcd: {error}"));
    }
}

#[test]
fn a_cluster_moves_into_an_etcd_and_back() {
    if Command::new("etcd").arg("--version").output().is_err() {
        return eprintln!("SKIPPED: there is no etcd on this machine; install Debian's etcd-server");
    }
    let cluster = Cluster::up("datastore");
    let (folder, replicas) = (cluster.folder().to_owned(), "get deployment shop -o jsonpath={.status.readyReplicas}");
    let file = |name: &str| folder.join(name).display().to_string();
    cluster.create(SHOP);
    cluster.rollout("shop");
    let uid = cluster.kubectl("get deployment shop -o jsonpath={.metadata.uid}").ok();
    cluster.skiff(&["snapshot", "save", &file("embedded")]).ok();
    kill(cluster.server_pid());

    // The etcd is in the node's network, where whoever restores has to be as well.
    let etcd = Etcd::start(&cluster, &folder);
    let binary = skiff_binary().display().to_string();
    let mut restore = cluster.inside(&[&binary, "snapshot", "restore", &file("embedded"), "--datastore-endpoint"]);
    restore.args([ENDPOINT, "--isolated", &cluster.name, "--data-dir"]).arg(&folder).stdin(Stdio::null());
    Answer::of(restore.output().expect("the program under test can be started")).ok();
    cluster.skiff(&["up"]).ok();
    cluster.kubectl("scale deployment shop --replicas=2").ok();
    cluster.rollout("shop");
    assert_eq!(cluster.kubectl(replicas).ok(), "2");

    // It goes away as by a power cut, and comes back.
    drop(etcd);
    let refused = cluster.kubectl("create configmap lost --request-timeout=5s");
    assert_ne!(refused.code, 0, "{refused:?}");
    let etcd = Etcd::start(&cluster, &folder);
    eventually("the cluster takes changes again", || {
        cluster.kubectl("scale deployment shop --replicas=3 --request-timeout=5s").code == 0
    });
    cluster.rollout("shop");
    assert_eq!(cluster.kubectl(replicas).ok(), "3");

    cluster.skiff(&["snapshot", "save", &file("etcd.snapshot")]).ok();
    kill(cluster.server_pid());
    drop(etcd);
    cluster.skiff(&["snapshot", "restore", &file("etcd.snapshot")]).ok();
    cluster.skiff(&["up"]).ok();
    assert_eq!(cluster.kubectl("get deployment shop -o jsonpath={.metadata.uid}").ok(), uid);
    cluster.rollout("shop");
    assert_eq!(cluster.kubectl(replicas).ok(), "3");
    cluster.kubectl("delete deployment shop --timeout=60s").ok();
}
