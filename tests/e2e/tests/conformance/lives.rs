//! How containers live: hooks, ends and what is told of them, probes of every kind, init containers, debug containers,
//! sizes that change.

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
metadata: {name: three}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: a, image: "localhost:5000/hello:v1", command: [sleep, "1000"], resources: {limits: {cpu: 100m, memory: 64Mi}}}
  - {name: b, image: "localhost:5000/hello:v1", command: [sleep, "1000"], resources: {limits: {cpu: 200m, memory: 96Mi}}}
  - {name: c, image: "localhost:5000/hello:v1", command: [sleep, "1000"], resources: {limits: {cpu: 300m, memory: 96Mi}}}
"#;

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
    sizes(cluster);
    debugging(cluster);
    starts(cluster);
    together(cluster);
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

/// One container grows while the others shrink, through the door for sizes, without a restart.
fn sizes(cluster: &Cluster) {
    cluster.ready("three");
    assert_eq!(cluster.get("pod three")["status"]["qosClass"], "Guaranteed");
    let sizes = [("a", "250m", "96Mi"), ("b", "100m", "64Mi"), ("c", "150m", "64Mi")];
    let containers: Vec<_> = sizes
        .iter()
        .map(|(name, cpu, memory)| {
            let all = serde_json::json!({"cpu": cpu, "memory": memory});
            serde_json::json!({"name": name, "resources": {"requests": all, "limits": all}})
        })
        .collect();
    let patch = serde_json::json!({"spec": {"containers": containers}}).to_string();
    cluster.kubectl_args(&["patch", "pod", "three", "--subresource", "resize", "--patch", &patch]).ok();
    for (name, cpu, memory) in sizes {
        eventually(&format!("{name} has its new size"), || {
            let statuses = cluster.get("pod three")["status"]["containerStatuses"].clone();
            let one = statuses.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
            assert_eq!(one["restartCount"], 0, "{one}");
            let limits = &one["resources"]["limits"];
            limits["cpu"] == cpu && limits["memory"] == memory && one["resources"]["requests"] == *limits
        });
        let quota = cluster.kubectl_args(&[
            "exec",
            "three",
            "-c",
            name,
            "--",
            "sh",
            "-c",
            "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null",
        ]);
        let expected = format!("{}00", cpu.trim_end_matches('m'));
        assert!(quota.stdout.starts_with(&expected), "{name}: {quota:?}");
    }
}

/// Debug containers come one after the other; the Pod knows all of them.
fn debugging(cluster: &Cluster) {
    for name in ["first", "second"] {
        let line = format!("debug three --image=localhost:5000/hello:v1 -c {name} --profile=general -- echo here");
        cluster.kubectl(&line).ok();
        eventually("the debug container has ended", || {
            cluster.kubectl(&format!("logs three -c {name}")).stdout == "here\n"
        });
    }
    assert_eq!(cluster.get("pod three")["spec"]["ephemeralContainers"].as_array().unwrap().len(), 2);
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
