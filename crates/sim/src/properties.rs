//! What must never be, looked for at every write, and what is counted.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_store::WatchEvent;
use tokio::time::Instant;

/// So many writes are told of before the first thing that is wrong: enough for one step of a rollout and what led to it.
const HISTORY: usize = 30;
/// More of what is wrong is mostly the same, seen again.
const FAULTS_TOLD: usize = 3;

/// The bounds of the one Deployment of a run.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// `spec.replicas`.
    pub replicas: usize,
    /// maxSurge, resolved.
    pub surge: usize,
    /// maxUnavailable, resolved.
    pub unavailable: usize,
    /// The most Pods of the Job that are active at once.
    pub parallelism: usize,
}

/// Sees every write.
pub struct Onlooker {
    bounds: Bounds,
    start: Instant,
    state: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    pods: BTreeMap<String, Pod>,
    sets: HashMap<String, (String, u64)>,
    deployment: Option<Deployment>,
    was_whole: bool,
    /// Writes that are no heartbeats and no events: keys and what they have now.
    writes: Vec<(String, Option<Bytes>)>,
    /// The last writes of the Deployment and what it owns, in a few words each.
    history: VecDeque<String>,
    /// Of all writes, heartbeats and events too.
    digest: DefaultHasher,
    faults: Vec<String>,
}

impl Seen {
    /// Something is wrong; the first time it is told what came before.
    fn fault(&mut self, text: String) {
        match self.faults.len() {
            0 => {
                let history = self.history.iter().map(|line| format!("\n    {line}"));
                self.faults.push(text + &history.collect::<String>());
            }
            1..FAULTS_TOLD => self.faults.push(text),
            _ => {}
        }
    }
}

struct Pod {
    app: String,
    is_active: bool,
    is_ready: bool,
}

struct Deployment {
    image: String,
    is_observed: bool,
}

impl Onlooker {
    /// Nothing seen yet.
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, start: Instant::now(), state: Mutex::default() }
    }

    /// What was found wrong so far.
    pub fn faults(&self) -> Vec<String> {
        self.state.lock().faults.clone()
    }

    /// Whether there was anything to look at: the Deployment was whole once, and had a ReplicaSet.
    pub fn has_seen_a_rollout(&self) -> bool {
        let seen = self.state.lock();
        seen.was_whole && !seen.sets.is_empty()
    }

    /// What two runs have in common that wrote the same.
    pub fn digest(&self) -> u64 {
        self.state.lock().digest.finish()
    }

    /// Forgets the writes so far.
    pub fn forget_writes(&self) {
        self.state.lock().writes.clear();
    }

    /// The writes since.
    pub fn writes(&self) -> Vec<String> {
        let status = |text: &Bytes| serde_json::from_slice::<Value>(text).unwrap_or_default()["status"].to_string();
        let seen = self.state.lock();
        let told = |(key, value): &(String, Option<Bytes>)| {
            format!("{key} {}", value.as_ref().map_or("gone".to_owned(), status))
        };
        seen.writes.iter().map(told).collect()
    }

    /// One write.
    pub fn see(&self, event: &WatchEvent) {
        (event.revision, &event.key, event.value.as_ref().map(|pair| &pair.value)).hash(&mut self.state.lock().digest);
        let key = String::from_utf8_lossy(&event.key).into_owned();
        let parts: Vec<&str> = key.split('/').collect();
        let ["", "registry", group, plural, rest @ ..] = parts.as_slice() else { return };
        let value = event.value.as_ref().map(|pair| pair.value.clone());
        let mut seen = self.state.lock();
        let is_heartbeat = matches!((*group, *plural), (_, "leases" | "events") | ("core", "nodes"));
        if !is_heartbeat {
            seen.writes.push((key.clone(), value.clone()));
        }
        if !matches!(*plural, "pods" | "deployments" | "replicasets") {
            return;
        }
        let value = value.and_then(|value| serde_json::from_slice::<Value>(&value).ok());
        let name = rest.last().copied().unwrap_or_default();
        let (told, seconds) = (brief(plural, name, value.as_ref()), self.start.elapsed().as_secs_f64());
        if let Some(told) = told {
            if seen.history.len() == HISTORY {
                seen.history.pop_front();
            }
            seen.history.push_back(format!("revision {} at {seconds:.3} s: {told}", event.revision));
        }
        match (*plural, value) {
            ("pods", None) => drop(seen.pods.remove(name)),
            ("pods", Some(value)) => {
                if event.previous.is_none() {
                    check_order(&mut seen, name, &value);
                }
                seen.pods.insert(name.to_owned(), pod(&value));
            }
            ("deployments", Some(value)) => {
                let observed = value["status"]["observedGeneration"] == value["metadata"]["generation"];
                let image = image_of(&value);
                let was = seen.deployment.replace(Deployment { image: image.clone(), is_observed: observed });
                let known = was.is_some_and(|was| was.image == image && was.is_observed);
                if let Some(deployment) = &mut seen.deployment {
                    deployment.is_observed |= known;
                }
            }
            ("deployments", None) => {
                seen.deployment = None;
                seen.was_whole = false;
            }
            ("replicasets", Some(value)) => check_monotone(&mut seen, name, &value),
            _ => return,
        }
        self.check(&mut seen, event.revision);
    }

    fn check(&self, seen: &mut Seen, revision: u64) {
        let bounds = self.bounds;
        let count = |seen: &Seen, app: &str, ready: bool| {
            seen.pods.values().filter(|pod| pod.app == app && pod.is_active && (pod.is_ready || !ready)).count()
        };
        let (active, ready) = (count(seen, "web", false), count(seen, "web", true));
        if seen.deployment.is_some() {
            if active > bounds.replicas + bounds.surge {
                seen.fault(format!("revision {revision}: {active} Pods are active; {bounds:?}"));
            }
            if seen.was_whole && ready + bounds.unavailable < bounds.replicas {
                seen.fault(format!("revision {revision}: {ready} Pods are available; {bounds:?}"));
            }
            seen.was_whole |= ready >= bounds.replicas;
        }
        let working = count(seen, "sum", false);
        if working > bounds.parallelism {
            seen.fault(format!("revision {revision}: {working} Pods of the Job are active; {bounds:?}"));
        }
    }
}

fn pod(value: &Value) -> Pod {
    let phase = value["status"]["phase"].as_str().unwrap_or_default();
    let conditions = value["status"]["conditions"].as_array().into_iter().flatten();
    let is_active = !matches!(phase, "Succeeded" | "Failed") && value["metadata"]["deletionTimestamp"].is_null();
    Pod {
        app: value["metadata"]["labels"]["app"].as_str().unwrap_or_default().to_owned(),
        is_active,
        is_ready: conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True"),
    }
}

fn image_of(value: &Value) -> String {
    value["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default().to_owned()
}

/// A write of the Deployment or of what it owns, for people.
fn brief(plural: &str, name: &str, value: Option<&Value>) -> Option<String> {
    if !name.starts_with("web") {
        return None;
    }
    let Some(value) = value else { return Some(format!("{plural} {name} is gone")) };
    let (meta, spec, status) = (&value["metadata"], &value["spec"], &value["status"]);
    let (made, observed) = (&meta["generation"], &status["observedGeneration"]);
    Some(match plural {
        "pods" => {
            let pod = pod(value);
            let readiness = if pod.is_ready { "ready" } else { "not ready" };
            let end = if pod.is_active { "" } else { ", on its way out" };
            format!("pod {name} on {}: {}, {readiness}{end}", spec["nodeName"], status["phase"])
        }
        "replicasets" => format!(
            "set {name} of {}: {} wanted (generation {made}); told {} and {} available (generation {observed})",
            image_of(value),
            spec["replicas"],
            status["replicas"],
            status["availableReplicas"]
        ),
        _ => format!("deployment {name} of {}: generation {made}, observed {observed}", image_of(value)),
    })
}

/// Pods of the StatefulSet come in the order of their ordinals: each when those before it are ready.
fn check_order(seen: &mut Seen, name: &str, value: &Value) {
    let Some(ordinal) = name.strip_prefix("db-").and_then(|text| text.parse::<usize>().ok()) else { return };
    if value["metadata"]["labels"]["app"] != "db" {
        return;
    }
    let is_missing = |at: &usize| !seen.pods.get(&format!("db-{at}")).is_some_and(|pod| pod.is_active && pod.is_ready);
    if let Some(missing) = (0..ordinal).find(is_missing) {
        seen.fault(format!("{name} was created while db-{missing} was not ready"));
    }
}

/// While the template stays, its ReplicaSet only grows and all others only shrink.
fn check_monotone(seen: &mut Seen, name: &str, value: &Value) {
    let (image, replicas) = (image_of(value), value["spec"]["replicas"].as_u64().unwrap_or(0));
    let was = seen.sets.insert(name.to_owned(), (image.clone(), replicas));
    let (Some((_, was)), Some(deployment)) = (was, &seen.deployment) else { return };
    if !deployment.is_observed {
        return;
    }
    let is_new = deployment.image == image;
    if (is_new && replicas < was) || (!is_new && replicas > was) {
        let which = if is_new { "new" } else { "old" };
        let text = format!("the {which} ReplicaSet {name} went from {was} to {replicas}");
        seen.fault(text);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_store::KeyValue;

    use super::*;

    fn onlooker() -> Onlooker {
        let onlooker = Onlooker::new(Bounds { replicas: 2, surge: 1, unavailable: 0, parallelism: 1 });
        write(&onlooker, "apps/deployments/default/web", Some(deployment("v1", 1)));
        onlooker
    }

    fn write(onlooker: &Onlooker, path: &str, value: Option<Value>) {
        let key = bytes::Bytes::from(format!("/registry/{path}"));
        let value = value.map(|value| KeyValue {
            key: key.clone(),
            value: value.to_string().into(),
            create_revision: 1,
            mod_revision: 1,
        });
        onlooker.see(&WatchEvent { revision: 1, key, value, previous: None });
    }

    fn deployment(image: &str, generation: u64) -> Value {
        json!({
            "metadata": {"generation": generation}, "status": {"observedGeneration": 1},
            "spec": {"template": {"spec": {"containers": [{"image": image}]}}},
        })
    }

    fn set(image: &str, replicas: u64) -> Value {
        let mut set = deployment(image, 1);
        set["spec"]["replicas"] = json!(replicas);
        set
    }

    fn pod(app: &str, ready: &str) -> Value {
        json!({
            "metadata": {"labels": {"app": app}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    fn ending(mut pod: Value) -> Value {
        pod["metadata"]["deletionTimestamp"] = json!("now");
        pod
    }

    #[test]
    fn too_many_and_too_few_pods_are_found() {
        let onlooker = onlooker();
        for name in ["a", "b", "c"] {
            write(&onlooker, &format!("core/pods/default/{name}"), Some(pod("web", "True")));
        }
        assert!(onlooker.faults().is_empty());
        write(&onlooker, "core/pods/default/d", Some(pod("web", "False")));
        assert_eq!(onlooker.faults().len(), 1);
        for name in ["d", "c"] {
            write(&onlooker, &format!("core/pods/default/{name}"), None);
        }
        assert_eq!(onlooker.faults().len(), 1);
        write(&onlooker, "core/pods/default/b", Some(ending(pod("web", "True"))));
        assert_eq!(onlooker.faults().len(), 2);
    }

    #[test]
    fn a_rollout_that_turns_back_is_found_once_the_controller_knows_the_template() {
        let onlooker = onlooker();
        write(&onlooker, "apps/replicasets/default/one", Some(set("v1", 1)));
        write(&onlooker, "apps/replicasets/default/one", Some(set("v1", 2)));
        write(&onlooker, "apps/replicasets/default/two", Some(set("v2", 1)));
        write(&onlooker, "apps/deployments/default/web", Some(deployment("v2", 2)));
        write(&onlooker, "apps/replicasets/default/two", Some(set("v2", 0)));
        assert!(onlooker.faults().is_empty());
        write(&onlooker, "apps/deployments/default/web", Some(deployment("v2", 1)));
        write(&onlooker, "apps/replicasets/default/one", Some(set("v1", 3)));
        let faults = onlooker.faults();
        let lines: Vec<_> = faults[0].lines().collect();
        assert_eq!(lines[0], "the old ReplicaSet one went from 2 to 3");
        assert!(lines.last().is_some_and(|line| line.ends_with("deployment web of v2: generation 1, observed 1")));
    }

    #[test]
    fn ordinals_out_of_order_are_found() {
        let onlooker = onlooker();
        write(&onlooker, "core/pods/default/db-0", Some(pod("db", "False")));
        write(&onlooker, "core/pods/default/db-1", Some(pod("db", "False")));
        assert_eq!(onlooker.faults()[0].lines().next(), Some("db-1 was created while db-0 was not ready"));
    }

    #[test]
    fn heartbeats_and_events_are_no_writes() {
        let onlooker = onlooker();
        onlooker.forget_writes();
        for path in ["coordination.k8s.io/leases/a/b", "core/events/a/b", "core/nodes/a"] {
            write(&onlooker, path, Some(json!({})));
        }
        assert!(onlooker.writes().is_empty());
        write(&onlooker, "core/pods/default/x", None);
        assert_eq!(onlooker.writes().len(), 1);
    }
}
