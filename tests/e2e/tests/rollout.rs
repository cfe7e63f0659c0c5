//! Rolling updates: nothing that a client asks for meanwhile fails, and no more and no fewer pods than allowed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::thread::JoinHandle;

use serde_json::Value;
use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, http_get};
use skiff_e2e::rolling::{Hammer, web};

const REPLICAS: usize = 3;

const SERVICE: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
";

#[test]
fn rollouts() {
    let cluster = Cluster::up("rollout");
    cluster.create(&(web(REPLICAS) + SERVICE));
    cluster.rollout("web");
    no_request_is_lost(&cluster);
    history_and_undo(&cluster);
    pause_and_resume(&cluster);
    recreate_never_overlaps(&cluster);
    a_rollout_that_is_stuck(&cluster);
}

/// Every change of the pods of an app, and how many there were and were ready after it.
struct Watch {
    kubectl: Child,
    thread: JoinHandle<Vec<(usize, usize)>>,
}

impl Watch {
    fn start(cluster: &Cluster) -> Self {
        let mut command = cluster.kubectl_command(&[
            "get",
            "pods",
            "-l",
            "app=web",
            "--watch",
            "--output-watch-events",
            "-o",
            "json",
        ]);
        let mut kubectl = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(kubectl.stdout.take().unwrap());
        let thread = std::thread::spawn(move || {
            let mut pods = BTreeMap::new();
            let mut counts = Vec::new();
            for event in serde_json::Deserializer::from_reader(output).into_iter::<Value>().map_while(Result::ok) {
                let pod = &event["object"];
                let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
                let leaving = event["type"] == "DELETED" || !pod["metadata"]["deletionTimestamp"].is_null();
                if leaving {
                    pods.remove(&name);
                } else {
                    pods.insert(name, is_ready(pod));
                }
                counts.push((pods.len(), pods.values().filter(|ready| **ready).count()));
            }
            counts
        });
        Self { kubectl, thread }
    }

    fn end(mut self) -> Vec<(usize, usize)> {
        self.kubectl.kill().unwrap();
        self.kubectl.wait().unwrap();
        self.thread.join().unwrap()
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

fn no_request_is_lost(cluster: &Cluster) {
    let mut address = String::new();
    eventually("the Service answers the host", || {
        let service = cluster.get("svc web");
        address = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap_or_default().to_owned() + ":80";
        http_get(&address, "/").is_ok()
    });
    for (what, surge, unavailable) in [
        ("set image deployment/web web=localhost:5000/hello:v2", 1, 1),
        ("rollout restart deployment/web", 1, 1),
        ("set image deployment/web web=localhost:5000/hello:v1", 2, 0),
        ("rollout restart deployment/web", 0, 1),
    ] {
        let strategy = format!(
            r#"{{"spec":{{"strategy":{{"rollingUpdate":{{"maxSurge":{surge},"maxUnavailable":{unavailable}}}}}}}}}"#
        );
        cluster.kubectl_args(&["patch", "deployment", "web", "-p", &strategy]).ok();
        let watch = Watch::start(cluster);
        let hammer = Hammer::start(address.clone());
        eventually("the client asks", || hammer.asked() > 10);
        cluster.kubectl(what).ok();
        cluster.rollout("web");
        // What is on its way when the rollout is done counts as well.
        eventually("the old pods are gone", || pods_of(cluster) == REPLICAS);
        let (asked, failed) = hammer.end();
        let counts = watch.end();
        println!("{what}: {asked} requests, {} changes of pods", counts.len());
        assert!(failed.is_empty(), "{what}: {} of {asked} failed: {failed:#?}", failed.len());
        assert!(asked > 100, "{asked}");
        // A watch begins with what is there, one pod after the other.
        let rolling = &counts[REPLICAS - 1..];
        assert!(rolling.len() > REPLICAS, "{what}: {rolling:?}");
        for (there, ready) in rolling {
            assert!(*there <= REPLICAS + surge, "{what}: {there} pods: {rolling:?}");
            assert!(*ready >= REPLICAS - unavailable, "{what}: {ready} ready: {rolling:?}");
        }
    }
}

fn pods_of(cluster: &Cluster) -> usize {
    cluster.kubectl("get pods -l app=web -o name").ok().lines().count()
}

fn image(cluster: &Cluster) -> String {
    let path = "-o=jsonpath={.spec.template.spec.containers[0].image}";
    cluster.kubectl(&format!("get deployment web {path}")).ok()
}

fn history_and_undo(cluster: &Cluster) {
    let history = cluster.kubectl("rollout history deployment/web").ok();
    assert!(history.starts_with("deployment.apps/web \nREVISION  CHANGE-CAUSE\n1 "), "{history}");
    assert!(history.contains("\n5 "), "{history}");
    let second = cluster.kubectl("rollout history deployment/web --revision=2").ok();
    assert!(second.contains("localhost:5000/hello:v2"), "{second}");
    assert_eq!(
        cluster.kubectl("rollout undo deployment/web --to-revision=2").ok(),
        "deployment.apps/web rolled back\n"
    );
    cluster.rollout("web");
    assert_eq!(image(cluster), "localhost:5000/hello:v2");
    let history = cluster.kubectl("rollout history deployment/web").ok();
    assert!(!history.contains("\n2 ") && history.contains("\n6 "), "{history}");
    let none = cluster.kubectl("rollout undo deployment/web --to-revision=77");
    assert_eq!(none.stderr, "error: unable to find specified revision 77 in history\n");
}

fn pause_and_resume(cluster: &Cluster) {
    assert_eq!(cluster.kubectl("rollout pause deployment/web").ok(), "deployment.apps/web paused\n");
    let before = cluster.kubectl("get rs -l app=web -o name").ok();
    cluster.kubectl("set image deployment/web web=localhost:5000/hello:v1").ok();
    cluster.kubectl("set env deployment/web COLOR=blue").ok();
    eventually("the controller has seen the change", || {
        let deployment = cluster.get("deployment web");
        deployment["status"]["observedGeneration"] == deployment["metadata"]["generation"]
    });
    assert_eq!(cluster.kubectl("get rs -l app=web -o name").ok(), before);
    let refused = cluster.kubectl("rollout undo deployment/web");
    assert!(refused.stderr.contains("cannot rollback a paused deployment"), "{refused:?}");
    // Scaling is no part of the template and goes on in a paused Deployment.
    cluster.kubectl("scale deployment web --replicas=2").ok();
    eventually("scaled while paused", || pods_of(cluster) == 2);
    assert_eq!(cluster.kubectl("rollout resume deployment/web").ok(), "deployment.apps/web resumed\n");
    cluster.rollout("web");
    eventually("both changes are one revision", || {
        cluster.kubectl("exec deployment/web -- env").stdout.contains("COLOR=blue")
    });
    assert_eq!(cluster.kubectl("get rs -l app=web -o name").ok().lines().count(), before.lines().count() + 1);
}

fn recreate_never_overlaps(cluster: &Cluster) {
    let strategy = r#"[{"op":"replace","path":"/spec/strategy","value":{"type":"Recreate"}}]"#;
    cluster.kubectl_args(&["patch", "deployment", "web", "--type=json", "-p", strategy]).ok();
    let mut command = cluster.kubectl_command(&[
        "get",
        "pods",
        "-l",
        "app=web",
        "--watch",
        "--output-watch-events",
        "--no-headers",
        "-o",
    ]);
    let columns = "custom-columns=NAME:.metadata.name,HASH:.metadata.labels.pod-template-hash";
    let mut watch = command.arg(columns).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let output = BufReader::new(watch.stdout.take().unwrap());
    let thread = std::thread::spawn(move || {
        let mut pods = BTreeMap::new();
        let mut lines = Vec::new();
        for line in output.lines().map_while(Result::ok) {
            let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            let [event, name, hash] = words.as_slice() else { continue };
            if event == "DELETED" {
                pods.remove(name);
            } else {
                pods.insert(name.clone(), hash.clone());
            }
            let revisions: std::collections::BTreeSet<_> = pods.values().cloned().collect();
            lines.push((line, revisions.len()));
        }
        lines
    });
    cluster.kubectl("set image deployment/web web=localhost:5000/hello:v2").ok();
    cluster.rollout("web");
    watch.kill().unwrap();
    watch.wait().unwrap();
    let seen = thread.join().unwrap();
    assert!(seen.iter().all(|(_, revisions)| *revisions <= 1), "{seen:#?}");
    assert_eq!(pods_of(cluster), 2);
}

fn a_rollout_that_is_stuck(cluster: &Cluster) {
    let deadline = |seconds: u32| {
        let patch = format!(r#"{{"spec":{{"progressDeadlineSeconds":{seconds}}}}}"#);
        cluster.kubectl_args(&["patch", "deployment", "web", "-p", &patch]).ok();
    };
    deadline(1);
    cluster.kubectl("set image deployment/web web=localhost:5000/hello:v9").ok();
    let stuck = cluster.kubectl("rollout status deployment/web --timeout=60s");
    assert_eq!(stuck.stderr, "error: deployment \"web\" exceeded its progress deadline\n");
    // The way back may take longer than that.
    deadline(600);
    cluster.kubectl("rollout undo deployment/web").ok();
    // The condition of the rollout that failed stands until the new one gets on.
    eventually("the way back gets on", || {
        let deployment = cluster.get("deployment web");
        let conditions = deployment["status"]["conditions"].as_array().unwrap();
        conditions.iter().all(|condition| condition["reason"] != "ProgressDeadlineExceeded")
    });
    cluster.rollout("web");
}
