//! Sizes of containers that change while they run, through the door for sizes: what is told, and what is in force.

use serde_json::{Value, json};
use skiff_e2e::Cluster;
use skiff_e2e::cluster::eventually;

/// A container, its sizes at first, and those that it is to have.
type Change = (&'static str, &'static str, &'static str);

/// Guaranteed: one grows while the others shrink.
const THREE: [Change; 3] = [
    ("a", r#"{"limits":{"cpu":"100m","memory":"64Mi"}}"#, r#"{"limits":{"cpu":"250m","memory":"96Mi"}}"#),
    ("b", r#"{"limits":{"cpu":"200m","memory":"96Mi"}}"#, r#"{"limits":{"cpu":"100m","memory":"64Mi"}}"#),
    ("c", r#"{"limits":{"cpu":"300m","memory":"96Mi"}}"#, r#"{"limits":{"cpu":"150m","memory":"64Mi"}}"#),
];

/// Burstable: what was not there before is added, the rest grows or shrinks.
const SIX: [Change; 6] = [
    ("a", "{}", r#"{"requests":{"cpu":"20m","memory":"20Mi"},"limits":{"cpu":"40m","memory":"40Mi"}}"#),
    ("b", r#"{"requests":{"cpu":"20m"}}"#, r#"{"requests":{"cpu":"30m"},"limits":{"cpu":"40m"}}"#),
    (
        "c",
        r#"{"requests":{"cpu":"20m"},"limits":{"cpu":"40m"}}"#,
        r#"{"requests":{"cpu":"30m","memory":"20Mi"},"limits":{"cpu":"60m"}}"#,
    ),
    ("d", r#"{"requests":{"memory":"20Mi"}}"#, r#"{"requests":{"memory":"24Mi"},"limits":{"memory":"40Mi"}}"#),
    (
        "e",
        r#"{"requests":{"memory":"20Mi"},"limits":{"memory":"40Mi"}}"#,
        r#"{"requests":{"cpu":"10m","memory":"30Mi"},"limits":{"memory":"48Mi"}}"#,
    ),
    (
        "f",
        r#"{"requests":{"cpu":"20m","memory":"20Mi"},"limits":{"cpu":"40m","memory":"40Mi"}}"#,
        r#"{"requests":{"cpu":"10m","memory":"16Mi"},"limits":{"cpu":"30m","memory":"32Mi"}}"#,
    ),
];

pub fn begin(cluster: &Cluster) {
    for (pod, changes) in [("three", &THREE[..]), ("six", &SIX)] {
        let containers: Vec<Value> = changes
            .iter()
            .map(|(name, before, _)| {
                json!({"name": name, "image": "localhost:5000/hello:v1", "command": ["sleep", "1000"],
                    "resources": sizes(before)})
            })
            .collect();
        let spec = json!({"terminationGracePeriodSeconds": 0, "containers": containers});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": spec});
        cluster.create(&pod.to_string());
    }
}

pub fn look(cluster: &Cluster) {
    for (pod, class, changes) in [("three", "Guaranteed", &THREE[..]), ("six", "Burstable", &SIX)] {
        cluster.ready(pod);
        assert_eq!(cluster.get(&format!("pod {pod}"))["status"]["qosClass"], class);
        let wanted = changes.iter().map(|(name, _, after)| json!({"name": name, "resources": sizes(after)}));
        let patch = json!({"spec": {"containers": wanted.collect::<Vec<_>>()}}).to_string();
        cluster.kubectl_args(&["patch", "pod", pod, "--subresource", "resize", "--patch", &patch]).ok();
        changes.iter().for_each(|(name, _, after)| check(cluster, pod, name, &sizes(after)));
    }
    replaced(cluster);
}

/// A whole Pod is put back, in which one container has less than the kernel can tell apart.
fn replaced(cluster: &Cluster) {
    for (request, limit) in [("2m", "10m"), ("1m", "5m")] {
        let mut pod = cluster.get("pod six");
        let container = &mut pod["spec"]["containers"][5];
        container["resources"]["requests"]["cpu"] = request.into();
        container["resources"]["limits"]["cpu"] = limit.into();
        let wanted = container["resources"].clone();
        cluster.kubectl_with("replace --subresource resize -f -", &pod.to_string()).ok();
        check(cluster, "six", "f", &wanted);
    }
    eventually("both doors show the same Pod", || {
        let changes = cluster.get("pod six")["status"]["conditions"].to_string().contains("PodResizeInProgress");
        !changes && cluster.get("pod six --subresource resize") == cluster.get("pod six")
    });
}

/// Sizes with the requests that limits stand for.
fn sizes(text: &str) -> Value {
    let mut sizes: Value = serde_json::from_str(text).unwrap();
    if sizes.get("requests").is_none() && sizes.get("limits").is_some() {
        sizes["requests"] = sizes["limits"].clone();
    }
    sizes
}

/// Waits until a container is told to have its sizes, and looks whether it has; it was not started anew for it.
fn check(cluster: &Cluster, pod: &str, name: &str, wanted: &Value) {
    eventually(&format!("{name} of {pod} has its new sizes"), || {
        let statuses = cluster.get(&format!("pod {pod}"))["status"]["containerStatuses"].clone();
        let one = statuses.as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
        assert_eq!(one["restartCount"], 0, "{one}");
        one["resources"] == *wanted && one["allocatedResources"] == wanted["requests"]
    });
    let inside = |line: &str| cluster.kubectl_args(&["exec", pod, "-c", name, "--", "sh", "-c", line]).stdout;
    if let Some(cpu) = wanted["limits"]["cpu"].as_str() {
        let milli: u64 = cpu.trim_end_matches('m').parse().unwrap();
        let quota = inside("cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu.max 2>/dev/null");
        // The kernel gives no less than a millisecond.
        let least = (milli * 100).max(1000).to_string();
        assert_eq!(quota.split_whitespace().next(), Some(least.as_str()), "{name} of {pod}");
    }
    if let Some(memory) = wanted["limits"]["memory"].as_str() {
        let mebibytes: u64 = memory.trim_end_matches("Mi").parse().unwrap();
        let most = inside("cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null");
        assert_eq!(most.trim(), (mebibytes << 20).to_string(), "{name} of {pod}");
    }
}
