//! How soon a cluster of three servers goes on when one of them dies.

use std::time::{Duration, Instant};

use serde_json::json;
use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, kill};

use crate::attempt::line;
use crate::percentile;

const SERVERS: usize = 3;
const DEATHS: usize = 5;
const OFFICES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
/// A cluster that has just come back is left alone for so long: nothing of its start is measured.
const SETTLE: Duration = Duration::from_secs(10);

/// On three servers, each with a member of the etcd, and an agent. In each round the Deployment's one pod is to be replaced by a fresh
/// one, which takes a controller, the scheduler and the agent; kubectl asks again when it was answered badly.
pub fn measure(share: u32) {
    let servers = SERVERS.to_string();
    let cluster = Cluster::several_with("bench-servers", 1, &["--servers", &servers], |_| {});
    let mut shop = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "shop"}},
                 "template": {"metadata": {"labels": {"app": "shop"}}, "spec": crate::pod("shop")["spec"]}},
    });
    shop["spec"]["template"]["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": cluster.agent(0)});
    cluster.create(&shop.to_string());
    cluster.rollout("shop");
    let deaths = DEATHS.div_ceil(share as usize);

    let told = |figure: &str, process: Option<fn(&Cluster, &str) -> u32>| {
        let times: Vec<f64> = (0..deaths).map(|round| after(&cluster, OFFICES[round % 2], process)).collect();
        let at = |share: f64| percentile(&times, share);
        let text = format!("{:.2} s ({:.2} to {:.2}, {deaths} times)", at(0.5), at(0.0), at(1.0));
        line(figure, "3 servers, an agent", &text);
    };
    told("a pod is deleted until another is Ready, while all live", None);
    told("the process with the controllers or the scheduler is killed, until the same", Some(Cluster::server_pid_of));
    told("the same one's machine vanishes with its etcd, until the same", Some(Cluster::keeper_pid_of));
}

/// Seconds from the death of who holds the office until a pod that is deleted then is replaced.
fn after(cluster: &Cluster, office: &str, process: Option<fn(&Cluster, &str) -> u32>) -> f64 {
    std::thread::sleep(SETTLE);
    let old = pods(cluster).0;
    let doomed = process.map(|process| process(cluster, &holder(cluster, office)));
    let begun = Instant::now();
    // The end of a whole machine takes a moment, in which the others go on already.
    let ending = doomed.map(|process| std::thread::spawn(move || kill(process)));
    eventually("the pod is deleted", || {
        cluster.kubectl("delete pod -l app=shop --force --grace-period=0 --request-timeout=500ms").code == 0
    });
    eventually("another is ready", || {
        let (name, ready) = pods(cluster);
        name != old && ready == "True"
    });
    let took = begun.elapsed().as_secs_f64();
    if let Some(ending) = ending {
        ending.join().expect("it ends");
        cluster.group(&["start"], &[]).ok();
    }
    eventually("all nodes are Ready", || {
        cluster.kubectl("get nodes --no-headers --request-timeout=5s").stdout.matches(" Ready ").count() == SERVERS + 1
    });
    took
}

/// The Deployment's only pod and whether it is ready.
fn pods(cluster: &Cluster) -> (String, String) {
    let fields = "jsonpath={.items[*].metadata.name},{.items[*].status.conditions[?(@.type=='Ready')].status}";
    let shown = cluster.kubectl(&format!("get pods -l app=shop -o {fields} --request-timeout=500ms")).stdout;
    let (name, ready) = shown.split_once(',').unwrap_or_default();
    (name.to_owned(), ready.to_owned())
}

/// The server that holds an office.
fn holder(cluster: &Cluster, office: &str) -> String {
    let identity = format!("get lease -n kube-system {office} -o jsonpath={{.spec.holderIdentity}}");
    let identity = cluster.kubectl(&identity).ok();
    let (server, _) = identity.split_once('_').expect("somebody holds it");
    server.to_owned()
}
