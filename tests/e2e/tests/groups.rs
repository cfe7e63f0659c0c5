//! Pods that are scheduled as one: a gang waits as a whole, and runs as a whole when there is room.

use expect_test::expect;
use serde_json::Value;
use skiff_e2e::Cluster;
use skiff_e2e::cluster::{eventually, hello_image};

const GATES: &str = "GenericWorkload=true,GangScheduling=true,WorkloadWithJob=true";

/// A Pod that wants a part of the node's processors, in thousandths. It is deleted when its node says that it has ended, so
/// that its part is free for others then.
fn pod(name: &str, group: &str, milli_cpu: i64) -> String {
    let group = if group.is_empty() { "{}".to_owned() } else { format!("{{podGroupName: {group}}}") };
    let group = if group == "{}" { String::new() } else { format!("  schedulingGroup: {group}\n") };
    format!(
        "
---
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
{group}  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  containers:
  - name: main
    image: localhost:5000/hello:v1
    command: [sleep, '1000']
    resources: {{requests: {{cpu: {milli_cpu}m}}}}
"
    )
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

/// How many thousandths of processors Pods may use.
fn milli_cpu(cluster: &Cluster) -> i64 {
    let nodes = cluster.get("nodes");
    let text = nodes["items"][0]["status"]["allocatable"]["cpu"].as_str().expect("a quantity").to_owned();
    match text.strip_suffix('m') {
        Some(text) => text.parse().expect("a number"),
        None => text.parse::<i64>().expect("a number") * 1000,
    }
}

#[test]
fn a_gang_waits_and_runs_as_a_whole() {
    let cluster = Cluster::empty("groups");
    let refused = |gate: &str, words: &str| {
        let told = cluster.skiff(&["up", "--feature-gates", gate]);
        assert!(told.code != 0 && told.stderr.contains(words), "{told:?}");
    };
    let words = "GangScheduling is enabled, but depends on features that are disabled: [GenericWorkload]";
    refused("GangScheduling=true", words);
    let gate = "DRAWorkloadResourceClaims";
    refused(&format!("{gate}=true"), &format!("cannot set feature gate {gate} to true, feature is locked to false"));
    cluster.skiff(&["up", "--feature-gates", GATES, "--runtime-config", "scheduling.k8s.io/v1alpha2=true"]).ok();
    let file = cluster.folder().join("hello-v1.tar");
    hello_image("v1").save("localhost:5000/hello:v1", &file).expect("written");
    cluster.skiff(&["image", "import", &file.display().to_string()]).ok();
    let all = milli_cpu(&cluster);

    // A group that is not there is waited for.
    cluster.create(&pod("early", "late", 1));
    let words = "waiting for pods's pod group \"late\" to appear in scheduling queue";
    eventually("the Pod tells that its group is not there", || {
        let pod = cluster.get("pod early");
        condition(&pod, "PodScheduled")
            .is_some_and(|told| told["reason"] == "Unschedulable" && told["message"] == words)
    });
    let group = |name: &str, policy: &str| {
        format!(
            "---\napiVersion: scheduling.k8s.io/v1alpha2\nkind: PodGroup\nmetadata: {{name: {name}}}\n\
             spec: {{schedulingPolicy: {policy}}}\n"
        )
    };
    cluster.create(&group("late", "{basic: {}}"));
    cluster.ready("early");

    // Two of three would have room.
    cluster.create(&pod("other", "", all * 4 / 10));
    cluster.ready("other");
    let three: String = ["a", "b", "c"].iter().map(|name| pod(name, "gang", all / 4)).collect();
    cluster.create(&format!("{}{three}", group("gang", "{gang: {minCount: 3}}")));
    eventually("the group tells that there is no room", || {
        let group = cluster.get("podgroup gang");
        condition(&group, "PodGroupScheduled").is_some_and(|told| {
            told["status"] == "False"
                && told["reason"] == "Unschedulable"
                && told["message"] == "pod group is unschedulable"
        })
    });
    for name in ["a", "b", "c"] {
        eventually(&format!("{name} tells why it waits"), || {
            let pod = cluster.get(&format!("pod {name}"));
            let message = condition(&pod, "PodScheduled").and_then(|told| told["message"].as_str());
            assert!(pod["spec"]["nodeName"].is_null(), "no Pod of the gang has a node");
            message.is_some_and(|why| why.contains("Insufficient cpu") || why.contains("waiting for minCount pods"))
        });
    }
    let shown =
        |cluster: &Cluster| cluster.kubectl("get podgroups").ok().lines().map(words_but_age).collect::<String>();
    expect![[r#"
        NAME POLICY WORKLOAD STATUS
        gang Gang <none> Unschedulable
        late Basic <none> Scheduled
    "#]]
    .assert_eq(&shown(&cluster));

    // There is room.
    cluster.kubectl("delete pod other").ok();
    ["a", "b", "c"].iter().for_each(|name| cluster.ready(name));
    eventually("the group tells that it is scheduled", || shown(&cluster).contains("gang Gang <none> Scheduled"));

    // A group stays while somebody is in it.
    cluster.kubectl("delete podgroup gang --wait=false").ok();
    assert!(cluster.get("podgroup gang")["metadata"]["deletionTimestamp"].is_string());
    cluster.kubectl("delete pod a b").ok();
    assert!(cluster.get("podgroup gang")["metadata"]["deletionTimestamp"].is_string());
    cluster.kubectl("delete pod c").ok();
    eventually("the group is gone", || cluster.kubectl("get podgroup gang").code != 0);
    a_job_is_given_a_group(&cluster);
}

/// A Job that runs all of its Pods at once is given a Workload and a PodGroup, and they go with it.
fn a_job_is_given_a_group(cluster: &Cluster) {
    cluster.create(
        "
apiVersion: batch/v1
kind: Job
metadata: {name: both}
spec:
  parallelism: 2
  completions: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      containers: [{name: main, image: 'localhost:5000/hello:v1', command: ['true']}]
",
    );
    eventually("the Job is complete", || {
        let job = cluster.get("job both");
        condition(&job, "Complete").is_some_and(|told| told["status"] == "True")
    });
    let workload = cluster.get("workloads")["items"][0].clone();
    assert_eq!(workload["spec"]["podGroupTemplates"][0]["name"], "both-pgt-0");
    let groups = cluster.get("podgroups");
    let mut groups = groups["items"].as_array().expect("a list").iter();
    let of_job = |group: &&Value| !group["spec"]["podGroupTemplateRef"].is_null();
    let group = groups.find(of_job).expect("the Job's group is there").clone();
    assert_eq!(group["spec"]["podGroupTemplateRef"]["workload"]["workloadName"], workload["metadata"]["name"]);
    assert_eq!(group["spec"]["schedulingPolicy"]["gang"]["minCount"], 2);
    let pods = cluster.get("pods -l job-name=both");
    let pods = pods["items"].as_array().expect("a list");
    assert!(
        pods.len() == 2
            && pods.iter().all(|pod| {
                let named = &pod["spec"]["schedulingGroup"]["podGroupName"];
                *named == group["metadata"]["name"]
                    && pod["metadata"]["ownerReferences"].as_array().map(Vec::len) == Some(2)
            })
    );
    cluster.kubectl("delete job both").ok();
    eventually("Workload and PodGroup go with it", || {
        cluster.get("workloads")["items"].as_array().is_some_and(Vec::is_empty)
            && cluster.get("podgroups")["items"].as_array().is_some_and(|all| all.len() == 1)
    });
}

/// A line of a table without its last column.
fn words_but_age(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    format!("{}\n", words[..words.len() - 1].join(" "))
}
