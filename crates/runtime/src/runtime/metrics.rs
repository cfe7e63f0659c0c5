//! What containers and sandboxes use, as metrics under cAdvisor's names, for those that gather them through the interface.

use skiff_cri::*;

use super::Inner;
use super::containers::Container;
use super::sandboxes::Sandbox;

/// The labels of every metric, in the order of their values.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];
/// The interface has whole numbers only.
const NANOSECONDS: u64 = 1_000_000_000;
const COUNTER: MetricType = MetricType::Counter;
const GAUGE: MetricType = MetricType::Gauge;

/// A metric of a container: its name, what it tells, its kind, and where its value is found.
struct Declared {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    value: fn(&ContainerStats) -> Option<u64>,
}

fn of(value: Option<&UInt64Value>) -> Option<u64> {
    value.map(|value| value.value)
}

const OF_CONTAINERS: [Declared; 6] = [
    Declared {
        name: "container_cpu_usage_seconds_total",
        help: "Cumulative cpu time consumed in seconds",
        kind: COUNTER,
        value: |stats| of(stats.cpu.as_ref()?.usage_core_nano_seconds.as_ref()).map(|used| used / NANOSECONDS),
    },
    Declared {
        name: "container_memory_usage_bytes",
        help: "Current memory usage in bytes, including all memory regardless of when it was accessed",
        kind: GAUGE,
        value: |stats| of(stats.memory.as_ref()?.usage_bytes.as_ref()),
    },
    Declared {
        name: "container_memory_working_set_bytes",
        help: "Current working set in bytes",
        kind: GAUGE,
        value: |stats| of(stats.memory.as_ref()?.working_set_bytes.as_ref()),
    },
    Declared {
        name: "container_memory_rss",
        help: "Size of RSS in bytes",
        kind: GAUGE,
        value: |stats| of(stats.memory.as_ref()?.rss_bytes.as_ref()),
    },
    Declared {
        name: "container_memory_swap",
        help: "Container swap usage in bytes",
        kind: GAUGE,
        value: |stats| of(stats.swap.as_ref()?.swap_usage_bytes.as_ref()),
    },
    Declared {
        name: "container_fs_usage_bytes",
        help: "Number of bytes that are consumed by the container on its writable layer",
        kind: GAUGE,
        value: |stats| of(stats.writable_layer.as_ref()?.used_bytes.as_ref()),
    },
];

/// The metrics of a sandbox's network, and which counter each shows.
const OF_NETWORKS: [(&str, &str, fn(&NetworkInterfaceUsage) -> Option<u64>); 4] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", |usage| {
        of(usage.rx_bytes.as_ref())
    }),
    ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |usage| {
        of(usage.rx_errors.as_ref())
    }),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |usage| {
        of(usage.tx_bytes.as_ref())
    }),
    ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |usage| {
        of(usage.tx_errors.as_ref())
    }),
];
const INTERFACE_LABEL: &str = "interface";

/// All metrics that [`Inner::metrics`] gives.
pub(super) fn descriptors() -> Vec<MetricDescriptor> {
    let labels = |more: &[&str]| LABELS.iter().chain(more).map(|&label| label.to_owned()).collect();
    let describe = |name: &str, help: &str, label_keys: Vec<String>| MetricDescriptor {
        name: name.to_owned(),
        help: help.to_owned(),
        label_keys,
    };
    let containers = OF_CONTAINERS.iter().map(|one| describe(one.name, one.help, labels(&[])));
    let networks = OF_NETWORKS.iter().map(|(name, help, _)| describe(name, help, labels(&[INTERFACE_LABEL])));
    containers.chain(networks).collect()
}

impl Inner {
    /// The metrics of one sandbox and its running containers.
    pub(super) fn metrics(&self, sandbox: &Sandbox) -> PodSandboxMetrics {
        let stats = self.sandbox_stats(sandbox);
        let containers = self.containers_of(&sandbox.id);
        let running = containers.iter().filter(|container| container.is_running());
        PodSandboxMetrics {
            pod_sandbox_id: sandbox.id.clone(),
            metrics: network_metrics(sandbox, &stats),
            container_metrics: running.map(|container| self.of_container(sandbox, container)).collect(),
        }
    }

    fn of_container(&self, sandbox: &Sandbox, container: &Container) -> ContainerMetrics {
        let (stats, config) = (self.container_stats(container), container.config());
        let name = config.metadata.as_ref().map_or("", |metadata| metadata.name.as_str());
        let image = config.image.as_ref().map_or("", |image| image.user_specified_image.as_str());
        let labels = labels(sandbox, name, &container.record.cgroup, image, &container.record.id);
        let timestamp = stats.cpu.as_ref().map_or(0, |cpu| cpu.timestamp);
        let metric = |declared: &Declared| {
            let value = UInt64Value { value: (declared.value)(&stats)? };
            Some(Metric {
                name: declared.name.to_owned(),
                timestamp,
                metric_type: declared.kind as i32,
                label_values: labels.clone(),
                value: Some(value),
            })
        };
        let metrics = OF_CONTAINERS.iter().filter_map(metric).collect();
        ContainerMetrics { container_id: container.record.id.clone(), metrics }
    }
}

fn labels(sandbox: &Sandbox, container: &str, cgroup: &str, image: &str, name: &str) -> Vec<String> {
    let metadata = sandbox.config.metadata.clone().unwrap_or_default();
    [container, cgroup, image, name, &metadata.namespace, &metadata.name].map(str::to_owned).to_vec()
}

fn network_metrics(sandbox: &Sandbox, stats: &PodSandboxStats) -> Vec<Metric> {
    let Some(network) = stats.linux.as_ref().and_then(|linux| linux.network.as_ref()) else { return Vec::new() };
    let mut metrics = Vec::new();
    for interface in network.default_interface.iter().chain(&network.interfaces) {
        let mut labels = labels(sandbox, "POD", "", "", &sandbox.id);
        labels.push(interface.name.clone());
        for (name, _, value) in OF_NETWORKS {
            let Some(value) = value(interface) else { continue };
            metrics.push(Metric {
                name: name.to_owned(),
                timestamp: network.timestamp,
                metric_type: COUNTER as i32,
                label_values: labels.clone(),
                value: Some(UInt64Value { value }),
            });
        }
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_described_once() {
        let names: Vec<String> = descriptors().into_iter().map(|descriptor| descriptor.name).collect();
        let distinct: std::collections::BTreeSet<&String> = names.iter().collect();
        assert_eq!((names.len(), distinct.len()), (10, 10));
    }

    #[test]
    fn values_stand_beside_their_labels() {
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: "web".into(), namespace: "shop".into(), ..Default::default() }),
            ..Default::default()
        };
        let record = crate::records::SandboxRecord { id: "s".into(), config: Some(config), ..Default::default() };
        let sandbox = Sandbox::new(record, None);
        let interface = NetworkInterfaceUsage {
            name: "eth0".into(),
            rx_bytes: Some(UInt64Value { value: 7 }),
            ..Default::default()
        };
        let network = NetworkUsage { timestamp: 1, default_interface: Some(interface), interfaces: Vec::new() };
        let linux = LinuxPodSandboxStats { network: Some(network), ..Default::default() };
        let metrics = network_metrics(&sandbox, &PodSandboxStats { linux: Some(linux), attributes: None });
        assert_eq!(metrics.len(), 1, "what is not counted is not told");
        assert_eq!(metrics[0].label_values, ["POD", "", "", "s", "shop", "web", "eth0"]);
        assert_eq!(metrics[0].value, Some(UInt64Value { value: 7 }));
    }
}
