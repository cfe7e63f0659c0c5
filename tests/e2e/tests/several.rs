//! Three nodes, each a world of its own: their pods reach each other unless policies forbid it, Services spread over them,
//! names are known on each, and one that vanishes is replaced and comes back.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;
use skiff_e2e::Cluster;
use skiff_e2e::cluster::{Answer, eventually, http_get, kill};

/// One pod on each node, and one that leaves soon when its node does.
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
      - {name: hello, image: localhost:5000/hello:v1, command: [/hello, --port=8080]}
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec:
  type: NodePort
  selector: {app: each}
  ports: [{port: 80, targetPort: 8080, nodePort: 30080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mover}
spec:
  replicas: 1
  selector: {matchLabels: {app: mover}}
  template:
    metadata: {labels: {app: mover}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      affinity:
        nodeAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - weight: 100
            preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [AGENT]}]}
      containers:
      - {name: hello, image: localhost:5000/hello:v1, command: [/hello, --port=8080]}
"#;

/// A pod: its name and address, by node.
type Pods = BTreeMap<String, (String, String)>;

fn pods(cluster: &Cluster, app: &str) -> Pods {
    let list = cluster.get(&format!("pods -l app={app}"));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = list["items"].as_array().expect("a list").iter();
    let live = items.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    live.map(|pod| {
        let told = (text(&pod["metadata"]["name"]), text(&pod["status"]["podIP"]));
        (text(&pod["spec"]["nodeName"]), told)
    })
    .collect()
}

/// What a pod gets from a web server, without the line's end.
fn fetch(cluster: &Cluster, pod: &str, url: &str) -> String {
    cluster.sh(pod, &format!("wget -q -O - {url}")).stdout.trim().to_owned()
}

fn is_ready(cluster: &Cluster, node: &str) -> bool {
    let path = "{.status.conditions[?(@.type==\"Ready\")].status}";
    cluster.kubectl_args(&["get", "node", node, "-o", &format!("jsonpath={path}")]).stdout == "True"
}

#[test]
fn three_nodes_are_one_cluster() {
    let cluster = Cluster::several_with("several", 2, &["--load-balancer-range", "203.0.113.130/31"], |_| {});
    let agent = cluster.agent(1);
    cluster.create(&MANIFEST.replace("AGENT", &agent));
    cluster.kubectl("rollout status daemonset/each --timeout=60s").ok();
    cluster.rollout("mover");
    let each = pods(&cluster, "each");
    assert_eq!(each.len(), 3, "{each:?}");

    everybody_reaches_everybody(&cluster, &each);
    the_service_spreads(&cluster, &each);
    a_policy_holds_on_every_node(&cluster, &each, &agent);

    // Another node's pod: what it says, what it is asked to do, and who may serve that.
    let (pod, _) = &each[&agent];
    eventually("the node has a certificate to serve by", || cluster.kubectl(&format!("logs {pod}")).code == 0);
    assert_eq!(cluster.kubectl(&format!("logs {pod}")).ok(), "hello v1 listening on 8080\n");
    assert_eq!(cluster.sh(pod, "hostname").ok().trim(), pod);
    let requests = cluster.kubectl("get csr --no-headers").ok();
    assert_eq!(requests.matches("Approved,Issued").count(), 4, "{requests}");

    one_node_answers_for_an_address(&cluster);
    a_node_vanishes_and_comes_back(&cluster, &agent);
}

/// The load balancers' addresses are of a network that the nodes are on beside their own. One node has one of them, and
/// when it moves everyone there knows.
fn one_node_answers_for_an_address(cluster: &Cluster) {
    let nodes = [cluster.name.clone(), cluster.agent(0), cluster.agent(1)];
    let on = |node: &str, line: &str| {
        let mut command = Command::new("nsenter");
        let namespace = format!("--net=/proc/{}/ns/net", cluster.keeper_pid_of(node));
        Answer::of(command.arg(namespace).args(line.split(' ')).output().expect("nsenter is there"))
    };
    for (index, node) in nodes.iter().enumerate() {
        on(node, &format!("ip address add 203.0.113.{}/24 dev eth0", index + 1)).ok();
    }
    let exclude = |node: &str, mark: &str| {
        cluster
            .kubectl(&format!("label node {node} node.kubernetes.io/exclude-from-external-load-balancers{mark}"))
            .ok();
    };
    // The last node only looks.
    let looks = nodes[2].as_str();
    exclude(looks, "=");
    cluster.kubectl("create service loadbalancer each-balanced --tcp=80:8080").ok();
    let holders = || -> Vec<&str> {
        let has = |node: &&String| on(node, "ip -o address show dev eth0").stdout.contains("203.0.113.130/32");
        nodes.iter().filter(has).map(String::as_str).collect()
    };
    eventually("one node answers", || holders().len() == 1);
    let mac = |node: &str| {
        let link = on(node, "ip -o link show dev eth0").ok();
        link.split("link/ether ").nth(1).expect("a hardware address")[..17].to_owned()
    };
    let known = || on(looks, "ip neigh show 203.0.113.130").stdout;
    let first = holders()[0];
    on(looks, "busybox ping -c 1 -W 5 203.0.113.130").ok();
    assert!(known().contains(&mac(first)), "{}", known());
    exclude(first, "=");
    let second = nodes[..2].iter().find(|node| *node != first).expect("there are two");
    eventually("the other one answers", || holders() == [second.as_str()]);
    eventually("everyone knows", || known().contains(&mac(second)));
    exclude(first, "-");
    eventually("the address is back", || holders() == [first]);
    cluster.kubectl("delete service each-balanced").ok();
    eventually("nobody answers", || holders().is_empty());
    exclude(looks, "-");
}

fn everybody_reaches_everybody(cluster: &Cluster, each: &Pods) {
    for (from, _) in each.values() {
        for (to, address) in each.values() {
            assert_eq!(fetch(cluster, from, &format!("http://{address}:8080/")), format!("hello v1 from {to}"));
        }
        // The name leads to the same, wherever it is asked for.
        let answer = fetch(cluster, from, "http://each.default.svc.cluster.local/");
        assert!(answer.starts_with("hello v1 from each-"), "{answer}");
    }
}

fn the_service_spreads(cluster: &Cluster, each: &Pods) {
    let all = each.len();
    let (first, _) = each.values().next().expect("there are three");
    let mut seen = std::collections::BTreeSet::new();
    eventually("a Service leads to pods of all nodes", || {
        seen.insert(fetch(cluster, first, "http://each/"));
        seen.len() == all
    });
    // From outside, every node's port leads to all of them.
    for node in each.keys() {
        let path = "jsonpath={.status.addresses[?(@.type==\"InternalIP\")].address}";
        let address = cluster.kubectl_args(&["get", "node", node, "-o", path]).ok();
        let mut seen = std::collections::BTreeSet::new();
        eventually("a node's port leads to pods of all nodes", || {
            seen.extend(http_get(&format!("{address}:30080"), "/"));
            seen.len() == all
        });
    }
}

/// Only one app may come to the pods of each node, and one may not go anywhere from its first moment on.
const POLICIES: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: each}
spec:
  podSelector: {matchLabels: {app: each}}
  ingress: [{from: [{podSelector: {matchLabels: {app: mover}}}], ports: [{port: 8080}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: hasty}
spec: {podSelector: {matchLabels: {app: hasty}}, policyTypes: [Egress]}
"#;
const HASTY: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: hasty, labels: {app: hasty}}
spec:
  nodeName: AGENT
  restartPolicy: Never
  containers:
  - name: hello
    image: localhost:5000/hello:v1
    command: [sh, -c, "timeout 1 wget -q -O - http://TARGET:8080/ || echo kept in"]
"#;

fn a_policy_holds_on_every_node(cluster: &Cluster, each: &Pods, agent: &str) {
    let (mover, mover_address) = pods(cluster, "mover").into_values().next().expect("there is one");
    let reaches = |from: &str, address: &str| {
        cluster.sh(from, &format!("timeout 1 wget -q -O - http://{address}:8080/")).code == 0
    };
    cluster.create(POLICIES);
    for (from, own) in each.values() {
        for (_, address) in each.values().filter(|(_, address)| address != own) {
            eventually("the policy holds", || !reaches(from, address));
        }
        // The one that is allowed comes to it, and it may go anywhere.
        assert_eq!(fetch(cluster, &mover, &format!("http://{own}:8080/")), format!("hello v1 from {from}"));
        assert_eq!(fetch(cluster, from, &format!("http://{mover_address}:8080/")), format!("hello v1 from {mover}"));
    }
    cluster.create(&HASTY.replace("AGENT", agent).replace("TARGET", &mover_address));
    cluster.kubectl("wait --for=jsonpath={.status.phase}=Succeeded pod/hasty --timeout=60s").ok();
    eventually("the node has a certificate to serve by", || cluster.kubectl("logs hasty").code == 0);
    let said = cluster.kubectl("logs hasty").ok();
    assert!(said.contains("kept in"), "{said}");
    cluster.kubectl("delete pod/hasty networkpolicy/each networkpolicy/hasty").ok();
    let (from, _) = each.values().next().expect("there are three");
    for (_, address) in each.values() {
        eventually("nothing is forbidden any more", || reaches(from, address));
    }
}

fn a_node_vanishes_and_comes_back(cluster: &Cluster, agent: &str) {
    let mover = pods(cluster, "mover");
    assert!(mover.contains_key(agent), "it prefers the node: {mover:?}");
    kill(cluster.keeper_pid_of(agent));
    eventually("the node is taken for lost", || !is_ready(cluster, agent));
    eventually("the node is tainted", || {
        let taints = cluster.kubectl_args(&["get", "node", agent, "-o", "jsonpath={.spec.taints[*].key}"]).stdout;
        taints.contains("node.kubernetes.io/unreachable")
    });
    eventually("its pod is replaced", || {
        let now = pods(cluster, "mover");
        now.len() == 1 && !now.contains_key(agent)
    });
    cluster.rollout("mover");

    cluster.skiff_of(agent, &["up"]).ok();
    eventually("the node is Ready again", || is_ready(cluster, agent));
    eventually("what was replaced is gone", || {
        cluster.get("pods -l app=mover")["items"].as_array().map(Vec::len) == Some(1)
    });
    eventually("the node bears no taint", || {
        cluster.kubectl_args(&["get", "node", agent, "-o", "jsonpath={.spec.taints}"]).stdout.is_empty()
    });
    cluster.kubectl("rollout status daemonset/each --timeout=60s").ok();
    let each = pods(cluster, "each");
    assert_eq!(each.len(), 3, "{each:?}");
    everybody_reaches_everybody(cluster, &each);
}
