//! How full the volumes of Pods are. They are looked at when somebody asks, and not again for a while: adding up files and
//! asking drivers takes its time.

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::clock::rfc3339;

use crate::agent::Workers;
use crate::config::{Objects, namespace, uid};
use crate::csi::{Stats, Wanted};
use crate::executor::Node;
use crate::pod::spec::spec;
use crate::volumes::claims::{self, Source};
use crate::volumes::{Plugin, figures, locations};

/// How long a file system may be silent: that of a file server that is gone never answers.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is known of one volume.
#[derive(Debug, Clone)]
pub struct Volume {
    /// The UID of its Pod.
    pub(super) uid: String,
    namespace: String,
    name: String,
    claim: Option<String>,
    stats: Stats,
    at: Timestamp,
}

/// What was found last, and when; and what is still being looked at, by the UID of the Pod and the volume's name.
#[derive(Debug, Default)]
pub struct Known {
    last: tokio::sync::Mutex<Option<(Duration, Arc<Vec<Volume>>)>>,
    under_way: Mutex<HashSet<(String, String)>>,
}

/// The volumes of all Pods, as they were a minute ago at most.
pub(super) async fn all(workers: &Workers) -> Arc<Vec<Volume>> {
    let node = workers.node();
    // Who asks meanwhile waits for the same answer.
    let mut known = node.volume_figures.last.lock().await;
    let now = node.clock.monotonic();
    if let Some((_, found)) = known.as_ref().filter(|(at, _)| now - *at < node.options.volume_stats_agg_period.0) {
        return found.clone();
    }
    let mut found = Vec::new();
    for mailbox in workers.active() {
        found.extend(of_pod(node, &mailbox.pod()).await);
    }
    let found = Arc::new(found);
    *known = Some((now, found.clone()));
    found
}

async fn of_pod(node: &Arc<Node>, pod: &Arc<Pod>) -> Vec<Volume> {
    let volumes = spec(pod).volumes.clone().unwrap_or_default();
    let objects = match node.sources.of(pod).await {
        Ok(objects) if !volumes.is_empty() => Arc::new(objects),
        _ => return vec![],
    };
    let mut found = Vec::new();
    for volume in volumes {
        let stats = match of_driver(pod, &volume, &objects) {
            Some(wanted) => node.drivers.stats(pod, &wanted).await,
            None => of_files(node, pod, &volume.name, &objects).await,
        };
        let Some(stats) = stats else { continue };
        found.push(Volume {
            uid: uid(pod).to_owned(),
            namespace: namespace(pod).to_owned(),
            claim: claims::claim_name(pod, &volume),
            name: volume.name,
            stats,
            at: node.clock.now(),
        });
    }
    found
}

fn of_driver(pod: &Pod, volume: &k8s_openapi::api::core::v1::Volume, objects: &Objects) -> Option<Wanted> {
    if let Some(source) = &volume.csi {
        return Some(Wanted::inline(pod, volume, source));
    }
    match claims::bound(pod, volume, objects).ok()?.source {
        Source::Csi(wanted) => Some(*wanted),
        _ => None,
    }
}

async fn of_files(node: &Arc<Node>, pod: &Arc<Pod>, name: &str, objects: &Arc<Objects>) -> Option<Stats> {
    let key = (uid(pod).to_owned(), name.to_owned());
    // Whoever looks at a file server that is gone is stuck: one of them is enough.
    if !node.volume_figures.under_way.lock().insert(key.clone()) {
        return None;
    }
    let (node, pod, name, objects) = (node.clone(), pod.clone(), name.to_owned(), objects.clone());
    let looking = node.clone();
    let look = move || {
        let volume = spec(&pod).volumes.iter().flatten().find(|volume| volume.name == name)?;
        let mut plugin = Plugin::of(volume)?;
        if plugin == Plugin::Claim {
            let bound = claims::bound(&pod, volume, &objects).ok()?;
            if bound.is_block || matches!(bound.source, Source::HostPath { .. }) {
                plugin = Plugin::HostPath;
            }
        }
        let path = locations(&pod, &node.facts().paths, &objects).remove(&name)?;
        figures::of(plugin, &path, &*node.mounter)
    };
    let work = tokio::task::spawn_blocking(move || {
        let found = look();
        looking.volume_figures.under_way.lock().remove(&key);
        found
    });
    let figures = tokio::time::timeout(PATIENCE, work).await.ok()?.ok()??;
    Some(Stats { figures, abnormal: None })
}

impl Volume {
    /// As the summary shows it.
    pub(super) fn summary(&self) -> Value {
        let figures = &self.stats.figures;
        let mut shown = json!({
            "time": rfc3339(self.at),
            "availableBytes": figures.available_bytes,
            "capacityBytes": figures.capacity_bytes,
            "usedBytes": figures.used_bytes,
            "inodesFree": figures.inodes_free,
            "inodes": figures.inodes,
            "inodesUsed": figures.inodes_used,
            "name": self.name,
            "pvcRef": self.claim.as_ref().map(|claim| json!({"name": claim, "namespace": self.namespace})),
            "volumeHealthStats": self.stats.abnormal.map(|abnormal| json!({"abnormal": abnormal})),
        });
        if let Some(fields) = shown.as_object_mut() {
            fields.retain(|_, value| !value.is_null());
        }
        shown
    }
}

/// The families of metrics about volumes of claims.
type Family = (&'static str, &'static str, fn(&Stats) -> Option<i64>);
const FAMILIES: [Family; 7] = [
    ("available_bytes", "Number of available bytes in the volume", |stats| stats.figures.available_bytes),
    ("capacity_bytes", "Capacity in bytes of the volume", |stats| stats.figures.capacity_bytes),
    (
        "health_status_abnormal",
        "Abnormal volume health status. The count is either 1 or 0. 1 indicates the volume is unhealthy, 0 indicates volume is healthy",
        |stats| stats.abnormal.map(i64::from),
    ),
    ("inodes", "Maximum number of inodes in the volume", |stats| stats.figures.inodes),
    ("inodes_free", "Number of free inodes in the volume", |stats| stats.figures.inodes_free),
    ("inodes_used", "Number of used inodes in the volume", |stats| stats.figures.inodes_used),
    ("used_bytes", "Number of used bytes in the volume", |stats| stats.figures.used_bytes),
];

/// The metrics of volumes of claims, each claim once.
pub(super) fn metrics(volumes: &[Volume]) -> String {
    let mut out = String::new();
    for (name, help, value) in FAMILIES {
        let (mut lines, mut told) = (String::new(), HashSet::new());
        for volume in volumes {
            let (Some(claim), Some(value)) = (&volume.claim, value(&volume.stats)) else { continue };
            if told.insert((&volume.namespace, claim)) {
                let labels = format!("namespace={:?},persistentvolumeclaim={claim:?}", volume.namespace);
                writeln!(lines, "kubelet_volume_stats_{name}{{{labels}}} {value}")
                    .expect("writing to a string cannot fail");
            }
        }
        if !lines.is_empty() {
            let metric = format!("kubelet_volume_stats_{name}");
            write!(out, "# HELP {metric} {help}\n# TYPE {metric} gauge\n{lines}")
                .expect("writing to a string cannot fail");
        }
    }
    out
}
