//! Objects kept in files and changed by hand: apply, edit, patch, diff, wait, selectors, output forms, errors.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {tier: front}}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: "localhost:5000/hello:v1", env: [{name: COLOR, value: blue}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;

#[test]
fn objects_in_files() {
    let cluster = Cluster::up("files");
    applying(&cluster);
    changing(&cluster);
    fields_and_their_owners(&cluster);
    looking(&cluster);
    watching(&cluster);
    mistakes(&cluster);
    namespaces_and_rights(&cluster);
    draining(&cluster);
    deleting(&cluster);
}

fn applying(cluster: &Cluster) {
    let apply = |text: &str| cluster.kubectl_with("apply -f -", text).ok();
    assert_eq!(apply(WEB), "deployment.apps/web created\nservice/web created\n");
    assert_eq!(apply(WEB), "deployment.apps/web unchanged\nservice/web unchanged\n");
    cluster.rollout("web");
    let changed = WEB.replace("replicas: 1", "replicas: 2");
    let diff = cluster.kubectl_with("diff -f -", &changed);
    assert_eq!(diff.code, 1, "{diff:?}");
    assert!(diff.stdout.contains("-  replicas: 1\n+  replicas: 2"), "{}", diff.stdout);
    assert_eq!(apply(&changed), "deployment.apps/web configured\nservice/web unchanged\n");
    assert_eq!(cluster.kubectl_with("diff -f -", &changed).code, 0);
    cluster.rollout("web");
    cluster.kubectl("wait --for=condition=Available deployment/web --timeout=30s").ok();
    // What the file no longer says goes away; what others set stays.
    cluster.kubectl("annotate deployment web by=hand").ok();
    apply(&changed.replace(", env: [{name: COLOR, value: blue}]", ""));
    let deployment = cluster.get("deployment web");
    assert!(deployment["spec"]["template"]["spec"]["containers"][0]["env"].is_null(), "{deployment}");
    assert_eq!(deployment["metadata"]["annotations"]["by"], "hand");
}

fn changing(cluster: &Cluster) {
    let editor = cluster.folder().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/port: 80$/port: 81/' \"$1\"\n").unwrap();
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = cluster.kubectl_command(&["edit", "service", "web"]).env("KUBE_EDITOR", &editor).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "service/web edited\n", "{output:?}");
    assert_eq!(cluster.get("svc web")["spec"]["ports"][0]["port"], 81);
    let text = cluster.kubectl("get svc web -o yaml").ok();
    let replaced = cluster.kubectl_with("replace -f -", &text.replace("port: 81", "port: 82")).ok();
    assert_eq!(replaced, "service/web replaced\n");
    let stale = cluster.kubectl_with("replace -f -", &text.replace("port: 81", "port: 83"));
    assert!(
        stale.stderr.contains("the object has been modified; please apply your changes to the latest version"),
        "{stale:?}"
    );
    let strategic =
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"SIZE","value":"big"}]}]}}}}"#;
    assert_eq!(
        cluster.kubectl_args(&["patch", "deployment", "web", "-p", strategic]).ok(),
        "deployment.apps/web patched\n"
    );
    let container = cluster.get("deployment web")["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!(container["image"], "localhost:5000/hello:v1", "merged by name: {container}");
    assert_eq!(container["env"][0]["value"], "big");
    cluster.rollout("web");
}

fn fields_and_their_owners(cluster: &Cluster) {
    let manifest = |value: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: shared}}\ndata: {{x: \"{value}\"}}\n")
    };
    let first = cluster.kubectl_with("apply --server-side --field-manager=alice -f -", &manifest("1")).ok();
    assert_eq!(first, "configmap/shared serverside-applied\n");
    let conflict = cluster.kubectl_with("apply --server-side --field-manager=bob -f -", &manifest("2"));
    assert_eq!(conflict.code, 1);
    assert!(
        conflict.stderr.starts_with("error: Apply failed with 1 conflict: conflict with \"alice\": .data.x\n"),
        "{}",
        conflict.stderr
    );
    cluster.kubectl_with("apply --server-side --field-manager=bob --force-conflicts -f -", &manifest("2")).ok();
    assert_eq!(cluster.get("cm shared")["data"]["x"], "2");
    assert!(cluster.kubectl("get cm shared -o yaml --show-managed-fields").ok().contains("manager: bob"));
}

fn looking(cluster: &Cluster) {
    assert!(cluster.kubectl("get deployment web -o wide").ok().contains("localhost:5000/hello:v1   app=web"));
    assert!(cluster.kubectl("get deployment web -o yaml").ok().contains("kind: Deployment"));
    assert_eq!(cluster.kubectl("get svc web -o jsonpath={.spec.ports[0].targetPort}").ok(), "8080");
    let columns = cluster.kubectl("get svc web -o custom-columns=WHO:.metadata.name,PORT:.spec.ports[0].port").ok();
    assert_eq!(columns, "WHO   PORT\nweb   82\n");
    eventually("the pods of earlier templates are gone", || {
        let running = "get pods --field-selector=status.phase=Running -l app=web -o name";
        cluster.kubectl(running).stdout.lines().count() == 2
    });
    assert_eq!(cluster.kubectl("get pods --field-selector=status.phase=Failed -o name").ok(), "");
    assert_eq!(cluster.kubectl("get deploy -l tier!=front -o name").ok(), "");
    assert_eq!(
        cluster.kubectl_args(&["get", "deploy", "-l", "tier in (front,back)", "-o", "name"]).ok(),
        "deployment.apps/web\n"
    );
    assert_eq!(
        cluster.kubectl("label deployment web tier=back").stderr,
        "error: 'tier' already has a value (front), and --overwrite is false\n"
    );
    cluster.kubectl("label deployment web tier=back --overwrite").ok();
    cluster.kubectl("annotate deployment web by-").ok();
    assert!(cluster.get("deployment web")["metadata"]["annotations"]["by"].is_null());
    assert!(cluster.kubectl("events --for deployment/web").ok().contains("ScalingReplicaSet"));
    let sorted = cluster.kubectl("get events --sort-by=.metadata.creationTimestamp").ok();
    assert!(sorted.contains("Scheduled"), "{sorted}");
}

fn watching(cluster: &Cluster) {
    let words = ["get", "cm", "shared", "--watch", "--no-headers", "--output-watch-events"];
    let mut kubectl = cluster.kubectl_command(&words).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(kubectl.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap().split_whitespace().take(3).collect::<Vec<_>>().join(" ");
    assert_eq!(next(), "ADDED shared 1");
    cluster.kubectl_args(&["patch", "cm", "shared", "-p", r#"{"data":{"y":"2"}}"#]).ok();
    assert_eq!(next(), "MODIFIED shared 2");
    cluster.kubectl("delete cm shared").ok();
    assert_eq!(next(), "DELETED shared 2");
    cluster.kubectl("create configmap shared --from-literal=x=1").ok();
    assert_eq!(next(), "ADDED shared 1");
    kubectl.kill().unwrap();
    kubectl.wait().unwrap();
}

fn mistakes(cluster: &Cluster) {
    let unknown = cluster.kubectl_with("apply -f -", &WEB.replace("replicas:", "replicsa:"));
    assert!(unknown.stderr.contains(r#"unknown field "spec.replicsa""#), "{unknown:?}");
    let mistyped = cluster.kubectl_with("apply -f -", &WEB.replace("replicas: 1", "replicas: many"));
    assert!(mistyped.code == 1 && mistyped.stderr.contains("replicas"), "{mistyped:?}");
    let kind = cluster.kubectl_with("create -f -", "apiVersion: v1\nkind: Confgmap\nmetadata: {name: u}\n");
    assert!(kind.stderr.contains(r#"no matches for kind "Confgmap" in version "v1""#), "{kind:?}");
    for (line, said) in [
        ("get foos", "error: the server doesn't have a resource type \"foos\"\n"),
        ("get pod nope", "Error from server (NotFound): pods \"nope\" not found\n"),
        ("scale deployment web --replicas=1 --current-replicas=9", "error: Expected replicas to be 9, was 2\n"),
        ("create configmap shared", "error: failed to create configmap: configmaps \"shared\" already exists\n"),
    ] {
        assert_eq!(cluster.kubectl(line).stderr, said, "{line}");
    }
    let moved = cluster.kubectl_args(&["patch", "svc", "web", "-p", r#"{"spec":{"clusterIP":"10.96.7.7"}}"#]);
    assert!(moved.stderr.contains("may not change once set"), "{moved:?}");
}

fn namespaces_and_rights(cluster: &Cluster) {
    cluster.kubectl("create namespace room").ok();
    cluster.kubectl("-n room create configmap thing --from-literal=a=b").ok();
    eventually("the namespace has its account", || cluster.kubectl("-n room get sa default").code == 0);
    assert!(cluster.kubectl("-n room get cm").ok().contains("kube-root-ca.crt"));
    assert_eq!(cluster.kubectl("auth can-i create pods").ok(), "yes\n");
    let account = "--as=system:serviceaccount:room:default";
    assert_eq!(cluster.kubectl(&format!("auth can-i create pods {account}")).stdout, "no\n");
    let forbidden = cluster.kubectl(&format!("-n room get pods {account}"));
    assert!(
        forbidden.stderr.contains(r#"cannot list resource "pods" in API group "" in the namespace "room""#),
        "{forbidden:?}"
    );
    cluster.kubectl("-n room create rolebinding see --clusterrole=view --serviceaccount=room:default").ok();
    eventually("the binding counts", || cluster.kubectl(&format!("-n room get pods {account}")).code == 0);
    let token = cluster.kubectl("-n room create token default").ok();
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    cluster.kubectl("delete namespace room --timeout=30s").ok();
    assert_eq!(cluster.kubectl("get namespace room").code, 1);
    assert!(cluster.kubectl("-n room get cm -o name").ok().is_empty());
}

fn draining(cluster: &Cluster) {
    let node = cluster.kubectl("get nodes -o name").ok().trim().to_owned();
    cluster.kubectl(&format!("cordon {node}")).ok();
    assert!(cluster.kubectl("get nodes").ok().contains("Ready,SchedulingDisabled"));
    let before = cluster.kubectl("get pods -l app=web -o name").ok();
    let drained = cluster.kubectl(&format!("drain {node} --ignore-daemonsets --timeout=60s")).ok();
    assert!(drained.contains("evicted") && drained.contains("drained"), "{drained}");
    eventually("the new pods wait", || {
        let pods = cluster.kubectl("get pods -l app=web").stdout;
        pods.matches("Pending").count() == 2 && !before.lines().any(|old| pods.contains(old.trim_start_matches("pod/")))
    });
    cluster.kubectl(&format!("uncordon {node}")).ok();
    cluster.rollout("web");
}

fn deleting(cluster: &Cluster) {
    let deleted = cluster.kubectl_with("delete -f -", WEB).ok();
    assert!(
        deleted.contains(r#"deployment.apps "web" deleted"#) && deleted.contains(r#"service "web" deleted"#),
        "{deleted}"
    );
    cluster.kubectl("wait --for=delete pod -l app=web --timeout=30s").ok();
    eventually("nothing of it is left", || {
        cluster.kubectl("get rs,pods,endpointslices -l app=web -o name").stdout.is_empty()
    });
}
