//! What Pods and the node use, from the runtime's figures: the summary that autoscalers' adapters read, and metrics as text.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;

use http::{Response, StatusCode};
use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::clock::rfc3339;
use skiff_cri::{ContainerStats, ListContainerStatsRequest, ListPodSandboxStatsRequest, PodSandboxStats, UInt64Value};

use super::{Body, json as answer, text, volumes};
use crate::agent::Workers;
use crate::config::sandbox;
use crate::node::facts;

/// What one container uses.
struct Usage {
    namespace: String,
    pod: String,
    uid: String,
    container: String,
    cpu_nanos: u64,
    cpu_rate: Option<u64>,
    memory_bytes: u64,
    rss_bytes: Option<u64>,
    disk_bytes: Option<u64>,
    inodes: Option<u64>,
    at: Timestamp,
}

fn value(value: &Option<UInt64Value>) -> Option<u64> {
    value.as_ref().map(|value| value.value)
}

async fn usages(workers: &Workers) -> Result<Vec<Usage>, Response<Body>> {
    let stats = workers.node().runtime.list_container_stats(ListContainerStatsRequest::default()).await;
    let stats = stats.map_err(|error| text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    Ok(stats.stats.into_iter().filter_map(usage).collect())
}

fn usage(stats: ContainerStats) -> Option<Usage> {
    let labels = stats.attributes?.labels;
    let label = |key: &str| labels.get(key).cloned().unwrap_or_default();
    let (cpu, memory) = (stats.cpu.unwrap_or_default(), stats.memory.unwrap_or_default());
    let layer = stats.writable_layer.unwrap_or_default();
    Some(Usage {
        namespace: label(sandbox::POD_NAMESPACE),
        pod: label(sandbox::POD_NAME),
        uid: label(sandbox::POD_UID),
        container: label(sandbox::CONTAINER_NAME),
        cpu_nanos: value(&cpu.usage_core_nano_seconds)?,
        cpu_rate: value(&cpu.usage_nano_cores),
        memory_bytes: value(&memory.working_set_bytes).unwrap_or(0),
        rss_bytes: value(&memory.rss_bytes),
        disk_bytes: value(&layer.used_bytes),
        inodes: value(&layer.inodes_used),
        at: Timestamp::from_nanosecond(i128::from(cpu.timestamp)).unwrap_or(Timestamp::UNIX_EPOCH),
    })
}

/// `/stats/summary`.
pub(super) async fn summary(workers: &Workers) -> Response<Body> {
    let usages = match usages(workers).await {
        Ok(usages) => usages,
        Err(response) => return response,
    };
    let sandboxes = workers.node().runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default()).await;
    let mut sandboxes: HashMap<String, PodSandboxStats> = sandboxes
        .map(|response| response.stats)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|one| Some((one.attributes.as_ref()?.labels.get(sandbox::POD_UID)?.clone(), one)))
        .collect();
    let mut pods: BTreeMap<(String, String, String), Vec<Usage>> = BTreeMap::new();
    for usage in usages {
        pods.entry((usage.namespace.clone(), usage.pod.clone(), usage.uid.clone())).or_default().push(usage);
    }
    let volumes = volumes::all(workers).await;
    let pods: Vec<Value> = pods
        .iter()
        .map(|((namespace, name, uid), usages)| {
            let mut shown = pod([namespace, name, uid], usages, sandboxes.remove(uid));
            let own: Vec<_> = volumes.iter().filter(|volume| volume.uid == *uid).map(|one| one.summary()).collect();
            if !own.is_empty() {
                shown["volume"] = Value::Array(own);
            }
            shown
        })
        .collect();
    answer(&json!({"node": node(workers).await, "pods": pods}))
}

async fn node(workers: &Workers) -> Value {
    let facts = workers.node().facts();
    let now = workers.node().clock.now();
    let time = rfc3339(now);
    let available = facts::available_memory();
    let disk = |path: &Path| match workers.node().mounter.file_system(path) {
        Ok(system) => json!({
            "time": time,
            "availableBytes": system.available_bytes,
            "capacityBytes": system.total_bytes,
            "usedBytes": system.total_bytes - system.available_bytes,
            "inodesFree": system.inodes_free,
            "inodes": system.inodes,
            "inodesUsed": system.inodes - system.inodes_free,
        }),
        Err(_) => Value::Null,
    };
    let mut images = Value::Null;
    if let Some((path, used_bytes)) = workers.node().images.file_system().await {
        images = disk(&path);
        images["usedBytes"] = json!(used_bytes);
    }
    let cgroup = crate::cgroups::class(&facts.cgroup_root, "", facts.systemd_cgroups);
    let of_pods = workers.node().cgroups.as_ref().and_then(|layout| layout.working_set(&cgroup));
    let system: Vec<Value> = of_pods
        .map(|used| {
            let memory = json!({
                "time": time, "workingSetBytes": used, "availableBytes": (facts.memory_bytes - used).max(0),
            });
            json!({"name": "pods", "startTime": time, "memory": memory})
        })
        .into_iter()
        .collect();
    let limits = facts::pids().map(|(used, most)| json!({"time": time, "maxpid": most, "curproc": used}));
    json!({
        "nodeName": facts.name,
        "startTime": facts::boot_time(now).map(rfc3339),
        "systemContainers": system,
        "cpu": {"time": time, "usageCoreNanoSeconds": facts::cpu_nanos()},
        "memory": {
            "time": time,
            "workingSetBytes": available.map(|available| facts.memory_bytes - available),
            "availableBytes": available,
        },
        "fs": disk(&facts.paths.root),
        "runtime": {"imageFs": images.clone(), "containerFs": images},
        "rlimit": limits,
    })
}

fn pod([namespace, name, uid]: [&String; 3], usages: &[Usage], sandbox: Option<PodSandboxStats>) -> Value {
    let sum = |of: fn(&Usage) -> u64| usages.iter().map(of).sum::<u64>();
    let rate: Option<u64> = usages.iter().map(|usage| usage.cpu_rate).sum();
    let time = usages.iter().map(|usage| usage.at).max().map(rfc3339);
    let containers: Vec<Value> = usages
        .iter()
        .map(|usage| {
            let time = rfc3339(usage.at);
            json!({
                "name": usage.container,
                "startTime": time,
                "cpu": {"time": time, "usageCoreNanoSeconds": usage.cpu_nanos, "usageNanoCores": usage.cpu_rate},
                "memory": {"time": time, "workingSetBytes": usage.memory_bytes, "rssBytes": usage.rss_bytes},
                "rootfs": {"time": time, "usedBytes": usage.disk_bytes, "inodesUsed": usage.inodes},
            })
        })
        .collect();
    let linux = sandbox.and_then(|sandbox| sandbox.linux).unwrap_or_default();
    let network = linux.network.as_ref().and_then(|network| network.default_interface.as_ref()).map(|interface| {
        let figures = json!({
            "name": interface.name,
            "rxBytes": value(&interface.rx_bytes),
            "rxErrors": value(&interface.rx_errors),
            "txBytes": value(&interface.tx_bytes),
            "txErrors": value(&interface.tx_errors),
        });
        let mut whole = figures.clone();
        whole["time"] = json!(time);
        whole["interfaces"] = json!([figures]);
        whole
    });
    let processes = linux.process.as_ref().and_then(|process| value(&process.process_count));
    json!({
        "podRef": {"name": name, "namespace": namespace, "uid": uid},
        "startTime": time,
        "cpu": {"time": time, "usageCoreNanoSeconds": sum(|usage| usage.cpu_nanos), "usageNanoCores": rate},
        "memory": {"time": time, "workingSetBytes": sum(|usage| usage.memory_bytes)},
        "ephemeral-storage": {"time": time, "usedBytes": sum(|usage| usage.disk_bytes.unwrap_or(0))},
        "process_stats": {"process_count": processes},
        "network": network,
        "containers": containers,
    })
}

/// `/metrics`: few; how full volumes are is looked at once in a while.
pub(super) async fn metrics(workers: &Workers) -> Response<Body> {
    let mut out = String::new();
    let pods = workers.pods();
    let running =
        pods.iter().filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running"));
    let name = &workers.node().facts().name;
    let lines = [
        ("kubelet_node_name", "The node's name. The count is always 1.", format!("{{node=\"{name}\"}} 1")),
        ("kubelet_desired_pods", "Pods that are on the node.", format!(" {}", pods.len())),
        ("kubelet_running_pods", "Pods that run.", format!(" {}", running.count())),
    ];
    for (metric, help, line) in lines {
        writeln!(out, "# HELP {metric} {help}\n# TYPE {metric} gauge\n{metric}{line}")
            .expect("writing to a string cannot fail");
    }
    out.push_str(&volumes::metrics(&volumes::all(workers).await));
    text(StatusCode::OK, out)
}

/// `/metrics/resource`: what metrics-server reads.
pub(super) async fn resource_metrics(workers: &Workers) -> Response<Body> {
    let usages = match usages(workers).await {
        Ok(usages) => usages,
        Err(response) => return response,
    };
    let mut out = String::new();
    let mut family = |metric: &str, kind: &str, line: &dyn Fn(&Usage) -> String| {
        writeln!(out, "# TYPE {metric} {kind}").expect("writing to a string cannot fail");
        for usage in &usages {
            let labels = format!("container={:?},namespace={:?},pod={:?}", usage.container, usage.namespace, usage.pod);
            let at = usage.at.as_millisecond();
            writeln!(out, "{metric}{{{labels}}} {} {at}", line(usage)).expect("writing to a string cannot fail");
        }
    };
    family("container_cpu_usage_seconds_total", "counter", &|usage| seconds(usage.cpu_nanos));
    family("container_memory_working_set_bytes", "gauge", &|usage| usage.memory_bytes.to_string());
    let facts = workers.node().facts();
    if let Some(available) = facts::available_memory() {
        let metric = "node_memory_working_set_bytes";
        writeln!(out, "# TYPE {metric} gauge\n{metric} {}", facts.memory_bytes - available)
            .expect("writing to a string cannot fail");
    }
    if let Some(nanos) = facts::cpu_nanos() {
        let metric = "node_cpu_usage_seconds_total";
        writeln!(out, "# TYPE {metric} counter\n{metric} {}", seconds(nanos)).expect("writing to a string cannot fail");
    }
    text(StatusCode::OK, out)
}

fn seconds(nanos: u64) -> String {
    format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// `/metrics/probes`: what probes have answered.
pub(super) fn probe_metrics(workers: &Workers) -> Response<Body> {
    let mut out = String::from(
        "# HELP prober_probe_total Cumulative number of a liveness, readiness or startup probe for a container by result.\n# TYPE prober_probe_total counter\n",
    );
    for (key, count) in workers.node().probed.lock().iter() {
        let crate::executor::ProbeKey { namespace, pod, uid, container, kind, result } = key;
        writeln!(
            out,
            "prober_probe_total{{container={container:?},namespace={namespace:?},pod={pod:?},pod_uid={uid:?},probe_type={kind:?},result={result:?}}} {count}"
        )
        .expect("writing to a string cannot fail");
    }
    text(StatusCode::OK, out)
}

/// `/metrics/cadvisor`: what dashboards read.
pub(super) async fn cadvisor_metrics(workers: &Workers) -> Response<Body> {
    let runtime = &workers.node().runtime;
    let stats = runtime.list_container_stats(ListContainerStatsRequest::default()).await;
    let stats = match stats {
        Ok(stats) => stats.stats,
        Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    };
    let sandboxes = runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest::default()).await;
    let sandboxes = sandboxes.map(|response| response.stats).unwrap_or_default();
    let mut families: BTreeMap<&str, (&str, Vec<String>)> = BTreeMap::new();
    let mut add = |metric: &'static str, kind: &'static str, labels: &str, value: Option<String>| {
        if let Some(value) = value {
            let lines = &mut families.entry(metric).or_insert_with(|| (kind, Vec::new())).1;
            lines.push(format!("{metric}{{{labels}}} {value}\n"));
        }
    };
    for one in &stats {
        let Some(attributes) = &one.attributes else { continue };
        let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
        let labels = format!(
            "container={:?},id=\"/{}\",name={:?},namespace={:?},pod={:?}",
            label(sandbox::CONTAINER_NAME),
            attributes.id,
            attributes.id,
            label(sandbox::POD_NAMESPACE),
            label(sandbox::POD_NAME)
        );
        let (cpu, memory) = (one.cpu.clone().unwrap_or_default(), one.memory.clone().unwrap_or_default());
        let layer = one.writable_layer.clone().unwrap_or_default();
        let whole = |number: &Option<UInt64Value>| value(number).map(|number| number.to_string());
        add("container_cpu_usage_seconds_total", "counter", &labels, value(&cpu.usage_core_nano_seconds).map(seconds));
        add("container_memory_working_set_bytes", "gauge", &labels, whole(&memory.working_set_bytes));
        add("container_memory_usage_bytes", "gauge", &labels, whole(&memory.usage_bytes));
        add("container_memory_rss", "gauge", &labels, whole(&memory.rss_bytes));
        add("container_fs_usage_bytes", "gauge", &labels, whole(&layer.used_bytes));
        add("container_fs_inodes_total", "gauge", &labels, whole(&layer.inodes_used));
    }
    for one in &sandboxes {
        let (Some(attributes), Some(linux)) = (&one.attributes, &one.linux) else { continue };
        let label = |key: &str| attributes.labels.get(key).cloned().unwrap_or_default();
        let network = linux.network.clone().unwrap_or_default();
        for interface in network.default_interface.iter().chain(&network.interfaces) {
            let labels = format!(
                "id=\"/{}\",interface={:?},namespace={:?},pod={:?}",
                attributes.id,
                interface.name,
                label(sandbox::POD_NAMESPACE),
                label(sandbox::POD_NAME)
            );
            let whole = |number: &Option<UInt64Value>| value(number).map(|number| number.to_string());
            add("container_network_receive_bytes_total", "counter", &labels, whole(&interface.rx_bytes));
            add("container_network_receive_errors_total", "counter", &labels, whole(&interface.rx_errors));
            add("container_network_transmit_bytes_total", "counter", &labels, whole(&interface.tx_bytes));
            add("container_network_transmit_errors_total", "counter", &labels, whole(&interface.tx_errors));
        }
    }
    let facts = workers.node().facts();
    add("machine_memory_bytes", "gauge", "", Some(facts.memory_bytes.to_string()));
    let mut out = String::new();
    for (metric, (kind, lines)) in families {
        writeln!(out, "# TYPE {metric} {kind}\n{}", lines.concat().trim_end())
            .expect("writing to a string cannot fail");
    }
    text(StatusCode::OK, out)
}
