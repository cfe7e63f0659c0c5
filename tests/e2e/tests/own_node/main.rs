//! The machine's own node, not an isolated one, in namespaces that stand for a machine: what it leaves when it is
//! deleted, also after it was killed; what becomes of it when the machine gets another address; how others on its network
//! reach load balancers' addresses; and servers that are machines of their own. All of them take the machine's own cgroups:
//! so they are one program, whose tests run one after the other.

mod server_keys;

use std::process::{Command, Stdio};

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{hello_image, skiff_binary};

/// Makes namespaces a machine; no node is left on it when a script ends.
const MACHINE: &str = r#"
set -e
mount --make-rprivate /
mkdir -p /run/skiff
mount -t tmpfs tmpfs /run/skiff
mount -t tmpfs tmpfs /var/log
ip link set lo up
trap '"$SKIFF_BIN" delete --data-dir "$DATA"' EXIT
"#;

/// Plays one life of a node and prints what is there while it runs and after it was deleted.
const LIFE: &str = r#"
traces() {
  ip -br link | grep -v '^lo ' | sed 's/^\([a-z]*\).*/\1/; s/^/link /' | sort -u
  nft list tables
  ip route show | grep -v '^local' | sed 's/^/route /' | cut -d' ' -f1,2
  grep -o ' /run/skiff/[^ ]*' /proc/self/mountinfo | sed 's/.*/mount/' | sort -u
  ls -d /sys/fs/cgroup/*/kubepods /sys/fs/cgroup/kubepods /sys/fs/cgroup/*/skiff /sys/fs/cgroup/skiff 2>/dev/null | sed 's,.*/,cgroup ,' | sort -u
  ls /run/skiff /var/log | grep -v ':$' | sed '/^$/d; s/^/file /'
  ls -d "$DATA" 2>/dev/null | sed 's/.*/folder/'
  ps ax -o args | grep -o '^[^ ]*skiff-shim' || true
}
"$SKIFF_BIN" up --data-dir "$DATA" >/dev/null
"$SKIFF_BIN" image import --data-dir "$DATA" "$IMAGE" >/dev/null
kubectl create deployment hello --image=localhost:5000/hello:v1 -- /hello --port=8080 >/dev/null
kubectl expose deployment hello --type=LoadBalancer --port=6443 --target-port=8080 >/dev/null
kubectl rollout status deployment/hello --timeout=60s >/dev/null
kubectl wait --for=jsonpath='{.reason}'=SyncLoadBalancerFailed --timeout=20s event --field-selector reason=SyncLoadBalancerFailed >/dev/null
echo "address $(kubectl get service hello -o jsonpath='{.status.loadBalancer.ingress}')"
traces
kill -9 "$(cut -d' ' -f1 "$DATA/run/server.pid")"
"$SKIFF_BIN" down --data-dir "$DATA"
"$SKIFF_BIN" up --data-dir "$DATA" >/dev/null
kubectl rollout status deployment/hello --timeout=60s >/dev/null
kill -9 "$(cut -d' ' -f1 "$DATA/run/server.pid")"
"$SKIFF_BIN" delete --data-dir "$DATA"
echo deleted
traces
cat "$HOME/.kube/config"
"#;

/// Plays a machine that gets another address while a Pod runs on it, and prints what the cluster knows before and after.
const MOVE: &str = r#"
ip link add uplink type veth peer name outside
ip link set outside up
ip link set uplink up
live_at() {
  ip address flush dev uplink
  ip address add "$1/24" dev uplink
  ip route replace default dev uplink
}
known() {
  kubectl get nodes -o jsonpath='{.items[*].status.addresses[?(@.type=="InternalIP")].address}{"\n"}' &&
  kubectl get endpointslice kubernetes -o jsonpath='{.endpoints[*].addresses[*]}{"\n"}' &&
  kubectl get pods -o jsonpath='{.items[*].status.hostIP} {.items[*].status.containerStatuses[*].containerID}{"\n"}'
}
live_at 10.9.0.1
"$SKIFF_BIN" up --data-dir "$DATA" >/dev/null
"$SKIFF_BIN" image import --data-dir "$DATA" "$IMAGE" >/dev/null
kubectl create deployment hello --image=localhost:5000/hello:v1 -- /hello --port=8080 >/dev/null
kubectl rollout status deployment/hello --timeout=60s >/dev/null
known
live_at 10.9.0.2
for attempt in $(seq 600); do
  known > "$HOME/known" 2> "$HOME/why" && ! grep -q 10.9.0.1 "$HOME/known" && break
  sleep 0.1
done
cat "$HOME/known"
kubectl logs deployment/hello | grep -q listening
"#;

/// Plays a machine and another one on the same network, which reaches a Service by addresses that nobody routes to it.
const NEIGHBOUR: &str = r#"
ip link add uplink type veth peer name outside
unshare --net sleep 1000 &
OTHER=$!
until ip link set outside netns $OTHER 2> /dev/null && ! ip link show outside > /dev/null 2>&1; do sleep 0.1; done
other() { nsenter --net=/proc/$OTHER/ns/net "$@"; }
ip address add 10.9.0.1/24 dev uplink
ip address add fd00:9::1/64 dev uplink nodad
ip link set uplink up
ip route replace default dev uplink
ip -6 route replace default dev uplink
other ip address add 10.9.0.2/24 dev outside
other ip address add fd00:9::2/64 dev outside nodad
other ip link set outside up
"$SKIFF_BIN" up --data-dir "$DATA" --cluster-cidr 10.42.0.0/16,fd00:42::/56 --service-cidr 10.43.0.0/16,fd00:43::/112 \
  --load-balancer-range 10.9.0.240-10.9.0.242,fd00:9::240/126 >/dev/null
"$SKIFF_BIN" image import --data-dir "$DATA" "$IMAGE" >/dev/null
kubectl create deployment hello --image=localhost:5000/hello:v1 -- /hello --port=8080 >/dev/null
kubectl rollout status deployment/hello --timeout=60s >/dev/null
kubectl create -f - >/dev/null << END
apiVersion: v1
kind: Service
metadata: {name: hello}
spec: {type: LoadBalancer, ipFamilyPolicy: PreferDualStack, selector: {app: hello}, ports: [{port: 80, targetPort: 8080}]}
END
kubectl wait --for=jsonpath='{.status.loadBalancer.ingress}' --timeout=20s service/hello > /dev/null
echo "given $(kubectl get service hello -o jsonpath='{.status.loadBalancer.ingress[*].ip}')"
for url in http://10.9.0.240/ "http://[fd00:9::240]/"; do
  for attempt in $(seq 50); do
    said=$(other curl --silent --globoff --max-time 1 "$url") && break
    sleep 0.2
  done
  echo "$url $said" | sed 's/hello-.*/a pod/'
done
echo "node $(kubectl get nodes -o jsonpath='{.items[0].status.addresses[?(@.type=="InternalIP")].address}')"
kubectl delete service hello > /dev/null
for attempt in $(seq 50); do ip address show uplink | grep -q 240 || break; sleep 0.1; done
ip -o address show dev uplink scope global | awk '{print "left", $4}'
kubectl create service loadbalancer again --tcp=80:8080 > /dev/null
for attempt in $(seq 100); do ip address show uplink | grep -q 240 && break; sleep 0.1; done
ip -o address show dev uplink scope global | awk '{print "again", $4}'
"$SKIFF_BIN" down --data-dir "$DATA"
ip -o address show dev uplink scope global | awk '{print "down", $4}'
"#;

/// Runs a script on a machine of its own; gives what it prints.
fn played(name: &str, script: &str) -> String {
    let cluster = Cluster::empty(name);
    let image = cluster.folder().join("hello.tar");
    hello_image("v1").save("localhost:5000/hello:v1", &image).expect("the image is written");
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c"])
        .arg([MACHINE, script].concat())
        .env("SKIFF_BIN", skiff_binary())
        .env("DATA", cluster.folder().join("data"))
        .env("IMAGE", &image)
        .env("HOME", cluster.folder())
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .output()
        .expect("the script is run");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn neighbours_reach_load_balancers() {
    let said = played("neighbour", NEIGHBOUR);
    let expected = "\
given 10.9.0.240 fd00:9::240
http://10.9.0.240/ hello v1 from a pod
http://[fd00:9::240]/ hello v1 from a pod
node 10.9.0.1 fd00:9::1
left 10.9.0.1/24
left fd00:9::1/64
again 10.9.0.1/24
again 10.9.0.240/32
again fd00:9::1/64
down 10.9.0.1/24
down fd00:9::1/64
";
    assert_eq!(said, expected);
}

#[test]
fn a_machine_may_get_another_address() {
    let said = played("moves", MOVE);
    let lines: Vec<_> = said.lines().collect();
    let [before, after] = [&lines[..3], &lines[3..]].map(|part| part.join("\n"));
    assert_eq!(before.matches("10.9.0.1").count(), 3, "{said}");
    assert_eq!(after, before.replace("10.9.0.1", "10.9.0.2"), "no container has been started again");
}

#[test]
fn the_machines_own_node_leaves_nothing() {
    let said = played("own", LIFE);
    let (running, deleted) = said.split_once("deleted\n").unwrap();
    let expected = [
        "address \n",
        "link skiff",
        "table ip skiff",
        "route blackhole",
        "mount",
        "cgroup kubepods",
        "cgroup skiff",
        "file pods",
        "folder",
        "skiff-shim",
    ];
    for trace in expected {
        assert!(running.contains(trace), "{trace}: {running}");
    }
    assert!(deleted.starts_with("apiVersion: v1\n"), "left: {deleted}");
    assert!(!deleted.contains("skiff"), "the context stays: {deleted}");
}
