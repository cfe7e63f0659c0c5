//! How containers live: hooks, ends and what is told of them, probes of every kind, init containers, debug containers,
//! changes of what is wanted.

use serde_json::Value;
use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

use crate::{run_once, said, shell};

/// Pods that live on; each with a name, whether it is started again, and the rest of it.
const LIVING: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: server}
spec: {containers: [{name: main, image: "localhost:5000/hello:v1"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: asked-wrong}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: localhost:5000/hello:v1
    livenessProbe: {grpc: {port: 2333}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: never-ready}
spec:
  containers:
  - name: main
    image: localhost:5000/hello:v1
    readinessProbe: {exec: {command: ["false"]}, periodSeconds: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: init-loop}
spec:
  initContainers:
  - {name: first, image: "localhost:5000/hello:v1", command: ["false"]}
  - {name: second, image: "localhost:5000/hello:v1", command: ["true"]}
  containers: [{name: main, image: "localhost:5000/hello:v1"}]
---
apiVersion: v1
kind: Pod
metadata: {name: init-once}
spec:
  initContainers: [{name: first, image: "localhost:5000/hello:v1", command: ["true"]}]
  containers: [{name: main, image: "localhost:5000/hello:v1"}]
---
apiVersion: v1
kind: Pod
metadata: {name: on-failure}
spec:
  restartPolicy: OnFailure
  containers:
  - name: main
    image: localhost:5000/hello:v1
    command: [sh, -c, "[ -e /scratch/seen ] && exit 0; touch /scratch/seen; exit 1"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: all-again}
spec:
  initContainers:
  - name: first
    image: localhost:5000/hello:v1
    command: [sh, -c, "hostname -i >> /scratch/starts"]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  containers:
  - name: main
    image: localhost:5000/hello:v1
  - name: watcher
    image: localhost:5000/hello:v1
    command: [sh, -c, "[ -e /scratch/seen ] && exec sleep 1000; touch /scratch/seen; exit 42"]
    restartPolicy: Never
    restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {}}]
  terminationGracePeriodSeconds: 1
"#;

/// So often one Pod is changed.
const CHANGES: i64 = 120;

pub fn begin(cluster: &Cluster) {
    cluster.create(LIVING);
    let policy = |policy: &str| format!("    terminationMessagePolicy: {policy}\n");
    let line = "echo from the log; echo -n from the file > /dev/termination-log";
    run_once(cluster, "message-file", &shell(line, &policy("FallbackToLogsOnError")));
    run_once(cluster, "message-none", &shell("echo from the log", &policy("FallbackToLogsOnError")));
    run_once(cluster, "message-log", &shell("echo -n from the log; exit 1", &policy("FallbackToLogsOnError")));
    let own = "    terminationMessagePath: /dev/own-log\n    securityContext: {runAsUser: 1000}\n";
    run_once(cluster, "message-own", &shell("echo -n mine > /dev/own-log", own));
}

pub fn look(cluster: &Cluster) {
    hooks(cluster);
    messages(cluster);
    debugging(cluster);
    starts(cluster);
    all_again(cluster);
    together(cluster);
    generations(cluster);
}

/// What hooks do is seen at a server: it is told to be ill or well.
fn hooks(cluster: &Cluster) {
    cluster.ready("server");
    let address = cluster.get("pod server")["status"]["podIP"].as_str().unwrap().to_owned();
    let asked = |path: &str| cluster.kubectl(&format!("exec server -- wget -q -O - http://{address}:8080{path}")).code;
    eventually("the server listens", || asked("/readyz") == 0 && asked("/healthz") == 0);
    let hooked = format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: hooked}}
spec:
  containers:
  - name: main
    image: localhost:5000/hello:v1
    lifecycle:
      postStart: {{httpGet: {{host: {address}, port: 8080, path: /readyz/fail}}}}
      preStop: {{exec: {{command: [wget, -q, -O, "-", "http://{address}:8080/healthz/fail"]}}}}
  - name: other
    image: localhost:5000/hello:v1
    command: [/hello, --port=8081]
    lifecycle: {{preStop: {{httpGet: {{host: {address}, port: 8080, path: /readyz/mend}}}}}}
  terminationGracePeriodSeconds: 600
"#
    );
    cluster.create(&hooked);
    cluster.ready("hooked");
    assert_ne!(asked("/readyz"), 0, "the hook was called before the container counted as running");
    assert_eq!(asked("/healthz"), 0);
    cluster.kubectl("delete pod hooked").ok();
    assert_eq!(asked("/readyz"), 0, "mended when the second container was to end");
    assert_ne!(asked("/healthz"), 0, "the first one's hook was called too");
}

fn messages(cluster: &Cluster) {
    for (name, code, message) in [
        ("message-file", 0, Some("from the file")),
        ("message-none", 0, None),
        ("message-log", 1, Some("from the log")),
        ("message-own", 0, Some("mine")),
    ] {
        let ended =
            || cluster.get(&format!("pod {name}"))["status"]["containerStatuses"][0]["state"]["terminated"].clone();
        eventually(&format!("{name} ends"), || ended().is_object());
        let ended = ended();
        assert_eq!((ended["exitCode"].as_i64(), ended["message"].as_str()), (Some(code), message), "{name}: {ended}");
        assert_eq!(ended["reason"], if code == 0 { "Completed" } else { "Error" }, "{name}");
    }
    cluster.kubectl("delete pod message-log").ok();
}

/// Debug containers come one after the other; the Pod knows all of them.
fn debugging(cluster: &Cluster) {
    for name in ["first", "second"] {
        let line = format!("debug server --image=localhost:5000/hello:v1 -c {name} --profile=general -- echo here");
        cluster.kubectl(&line).ok();
        eventually("the debug container has ended", || {
            cluster.kubectl(&format!("logs server -c {name}")).stdout == "here\n"
        });
    }
    assert_eq!(cluster.get("pod server")["spec"]["ephemeralContainers"].as_array().unwrap().len(), 2);
}

fn starts(cluster: &Cluster) {
    let status = |name: &str| cluster.get(&format!("pod {name}"))["status"].clone();
    cluster.ready("init-once");
    let first = status("init-once")["initContainerStatuses"][0].clone();
    assert_eq!((&first["state"]["terminated"]["exitCode"], &first["restartCount"]), (&0.into(), &0.into()), "{first}");
    eventually("a failed init container is started again", || {
        status("init-loop")["initContainerStatuses"][0]["restartCount"].as_u64().unwrap_or(0) > 0
    });
    let held = status("init-loop");
    assert_eq!(held["phase"], "Pending");
    for waiting in [&held["initContainerStatuses"][1], &held["containerStatuses"][0]] {
        assert_eq!(waiting["state"]["waiting"]["reason"], "PodInitializing", "{waiting}");
        assert_eq!(waiting["restartCount"], 0);
    }
    eventually("who fails is started again until it does not", || status("on-failure")["phase"] == "Succeeded");
    assert_eq!(status("on-failure")["containerStatuses"][0]["restartCount"], 1);
    eventually("who is asked at the wrong port is started again", || {
        status("asked-wrong")["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(0) > 0
    });
    eventually("it is told that the Pod is not ready", || {
        cluster.kubectl("events --for pod/never-ready").stdout.contains("Readiness probe failed")
    });
    let never = status("never-ready")["containerStatuses"][0].clone();
    assert_eq!((&never["ready"], &never["restartCount"]), (&false.into(), &0.into()), "{never}");
}

/// One container's end is a new beginning of all, in the same sandbox and with the same volumes.
fn all_again(cluster: &Cluster) {
    let status = || cluster.get("pod all-again")["status"].clone();
    let restarts = |status: &Value| {
        let lists = [&status["initContainerStatuses"], &status["containerStatuses"]];
        let all = lists.into_iter().flat_map(|list| list.as_array().into_iter().flatten());
        all.map(|one| one["restartCount"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    eventually("all containers are started again", || restarts(&status()) == [1, 1, 1]);
    cluster.ready("all-again");
    let starts = cluster.kubectl("exec all-again -c watcher -- cat /scratch/starts").ok();
    let address = status()["podIP"].as_str().unwrap().to_owned();
    assert_eq!(starts, format!("{address}\n{address}\n"));
    let conditions = status()["conditions"].as_array().unwrap().clone();
    let told = conditions.iter().find(|condition| condition["type"] == "AllContainersRestarting").cloned();
    assert_eq!(told.unwrap()["status"], "False");
    assert_eq!(restarts(&status()), [1, 1, 1], "once is enough");
}

/// Several Pods go by their label.
fn together(cluster: &Cluster) {
    for name in ["one", "two"] {
        run_once(cluster, name, &shell("true", ""));
        cluster.kubectl(&format!("label pod {name} set=both")).ok();
    }
    said(cluster, "one");
    cluster.kubectl("delete pods -l set=both --now").ok();
    assert_eq!(cluster.kubectl("get pods -l set=both -o name").ok(), "");
}

/// Every change of a Pod is counted, and its node says in the end that it knows of all.
fn generations(cluster: &Cluster) {
    let one_of = |change: i64| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: counted}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
             activeDeadlineSeconds: {}\n  containers: [{{name: main, image: \"localhost:5000/hello:v1\"}}]\n",
            10_000 - change
        )
    };
    cluster.kubectl_with("apply -f -", &one_of(0)).ok();
    assert_eq!(cluster.get("pod counted")["metadata"]["generation"], 1);
    let all: String = (1..CHANGES).map(one_of).collect();
    cluster.kubectl_with("apply -f -", &all).ok();
    assert_eq!(cluster.get("pod counted")["metadata"]["generation"], CHANGES);
    eventually("the node has seen the last change", || {
        cluster.get("pod counted")["status"]["observedGeneration"] == CHANGES
    });
    cluster.kubectl_args(&["patch", "pod", "counted", "-p", r#"{"spec":{"activeDeadlineSeconds":1}}"#]).ok();
    eventually("the Pod ends when its time is over", || {
        cluster.get("pod counted")["status"]["reason"] == "DeadlineExceeded"
    });
}
