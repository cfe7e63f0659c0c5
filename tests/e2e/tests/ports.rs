//! What a cluster is made with. Ports of this machine lead into it: to all nodes in turn, past those that are gone, or to one
//! node; they come back with the cluster and go with it. So do features that are switched on.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, http_get, kill};

/// A pod on each node, and ports of nodes that lead to their own pod alone, so that it is seen which node was reached.
const MANIFEST: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: hello
        image: localhost:5000/hello:v1
        command: [/hello, --port=8080, --udp]
        readinessProbe: {httpGet: {path: /readyz, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec:
  type: NodePort
  externalTrafficPolicy: Local
  selector: {app: each}
  ports:
  - {name: tcp, port: 80, targetPort: 8080, nodePort: 30080}
  - {name: udp, port: 80, targetPort: 8080, nodePort: 30080, protocol: UDP}
"#;

/// The ports that the cluster is made with.
const ASKED: [&str; 3] =
    ["127.0.0.1::30080@loadbalancer", "127.0.0.1::30080@agent:1", "127.0.0.1::30080/udp@loadbalancer"];

/// Features that it is made with.
const FEATURES: [&str; 4] =
    ["--feature-gates", "ClusterTrustBundle=true", "--runtime-config", "certificates.k8s.io/v1beta1=true"];

/// The pod of each node, by the node's name.
fn pod_on(cluster: &Cluster, node: &str) -> String {
    let selector = format!("--field-selector=spec.nodeName={node}");
    let path = "jsonpath={.items[0].metadata.name}";
    cluster.kubectl_args(&["get", "pods", "-l", "app=each", &selector, "-o", path]).ok()
}

/// What is answered to a datagram, from a port of its own.
fn ask_by_datagram(address: &str) -> std::io::Result<String> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(address)?;
    socket.send(b"ping")?;
    let mut buffer = [0; 256];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

#[test]
fn ports_of_the_machine_lead_into_a_cluster() {
    let options: Vec<_> = ASKED.iter().flat_map(|port| ["--port", *port]).chain(FEATURES).collect();
    let cluster = Cluster::several_with("ports", 2, &options, what_cannot_be_is_refused);
    cluster.kubectl("get clustertrustbundles").ok();
    cluster.create(MANIFEST);
    cluster.kubectl("rollout status daemonset/each --timeout=60s").ok();
    let places = cluster.machine_ports();
    let [all, one, datagrams] = places.as_slice() else { panic!("three ports: {places:?}") };
    let status = cluster.skiff(&["status"]).ok();
    assert!(status.contains(all.as_str()) && !status.contains(one.as_str()), "{status}");
    let (agent, other) = (cluster.agent(0), cluster.agent(1));
    assert!(cluster.skiff_of(&other, &["status"]).ok().contains(one.as_str()));

    everybody_is_reached(all, 3);
    let own = format!("hello v1 from {}", pod_on(&cluster, &other));
    eventually("a port leads to its node", || http_get(one, "/").is_ok_and(|said| said.trim() == own));
    let mut seen = BTreeSet::new();
    eventually("datagrams reach pods of all nodes", || {
        seen.extend(ask_by_datagram(datagrams));
        seen.len() == 3
    });
    assert!(seen.iter().all(|said| said.starts_with("each-") && said.ends_with(" ping")), "{seen:?}");

    a_node_that_is_gone_is_passed_over(&cluster, &agent, all, datagrams);

    cluster.group(&["stop"], &[]).ok();
    assert!(TcpStream::connect(all.as_str()).is_err(), "nobody listens any more");
    cluster.group(&["start"], &[]).ok();
    assert_eq!(cluster.machine_ports(), places);
    cluster.kubectl("get clustertrustbundles").ok();
    everybody_is_reached(all, 3);

    // A node that is removed is not asked any more.
    cluster.group(&["node", "remove"], &[&agent]).ok();
    let mut seen = BTreeSet::new();
    eventually("the nodes that are left answer", || {
        seen.extend(http_get(all, "/"));
        seen.len() == 2
    });
    let places = places.clone();
    drop(cluster);
    assert!(places[..2].iter().all(|place| TcpStream::connect(place.as_str()).is_err()), "the ports went with it");
}

fn what_cannot_be_is_refused(cluster: &Cluster) {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = format!("127.0.0.1:{}:80@loadbalancer", taken.local_addr().expect("bound").port());
    let refused = cluster.group(&["create"], &["--port", &port]);
    assert!(refused.code != 0 && refused.stderr.contains("another program uses it"), "{refused:?}");
    let refused = cluster.group(&["create"], &["--agents", "1", "--port", "127.0.0.1::80@agent:1"]);
    assert!(refused.code != 0 && refused.stderr.contains("agent:1, which the cluster has not"), "{refused:?}");
    let refused = cluster.group(&["create"], &["--feature-gates", "ClusterTrustBundleProjection=true"]);
    assert!(refused.code != 0 && refused.stderr.contains("depends on features that are disabled"), "{refused:?}");
    let refused = cluster.group(&["create"], &["--runtime-config", "certificates.k8s.io/v7=true"]);
    assert!(refused.code != 0 && refused.stderr.contains("--runtime-config: "), "{refused:?}");
    assert_eq!(cluster.listed().lines().count(), 1, "nothing was made");
    assert!(!cluster.folder().join("isolated").exists(), "nothing was made");
}

fn everybody_is_reached(address: &str, nodes: usize) {
    let mut seen = BTreeSet::new();
    eventually("a port leads to pods of all nodes", || {
        seen.extend(http_get(address, "/"));
        seen.len() == nodes
    });
}

fn a_node_that_is_gone_is_passed_over(cluster: &Cluster, agent: &str, all: &str, datagrams: &str) {
    kill(cluster.keeper_pid_of(agent));
    for _ in 0..6 {
        http_get(all, "/").expect("the other nodes answer");
        ask_by_datagram(datagrams).expect("the other nodes answer");
    }
}
