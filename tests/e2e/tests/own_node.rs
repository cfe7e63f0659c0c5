//! The machine's own node, not an isolated one, in namespaces that stand for a machine: what it leaves when it is
//! deleted, also after it was killed.

use std::process::{Command, Stdio};

use skiff_e2e::Cluster;
use skiff_e2e::cluster::{hello_image, skiff_binary};

/// Plays one life of a node and prints what is there while it runs and after it was deleted.
const LIFE: &str = r#"
set -e
mount --make-rprivate /
mkdir -p /run/skiff
mount -t tmpfs tmpfs /run/skiff
mount -t tmpfs tmpfs /var/log
ip link set lo up
trap '"$SKIFF_BIN" delete --data-dir "$DATA"' EXIT
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

#[test]
fn the_machines_own_node_leaves_nothing() {
    let cluster = Cluster::empty("own");
    let image = cluster.folder().join("hello.tar");
    hello_image("v1").save("localhost:5000/hello:v1", &image).unwrap();
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", LIFE])
        .env("SKIFF_BIN", skiff_binary())
        .env("DATA", cluster.folder().join("data"))
        .env("IMAGE", &image)
        .env("HOME", cluster.folder())
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
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
