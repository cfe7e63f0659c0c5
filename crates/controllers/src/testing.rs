//! Short forms of objects for the tests of this crate.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::ids::Ids;

/// The time at which all tests happen.
pub fn now() -> Timestamp {
    "2026-01-31T12:00:00Z".parse().expect("a valid time")
}

/// An object from YAML.
pub fn object<K: DeserializeOwned>(yaml: &str) -> K {
    let value: Value = serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
    serde_json::from_value(value).unwrap_or_else(|error| panic!("{yaml}: {error}"))
}

/// A revision as its owner has it.
pub fn owned<K: skiff_client::Kind>(
    mut revision: k8s_openapi::api::apps::v1::ControllerRevision,
    owner: &K,
) -> k8s_openapi::api::apps::v1::ControllerRevision {
    revision.metadata.owner_references = Some(vec![crate::meta::controller_reference(owner)]);
    revision
}

/// Pods written `name word...` where a word is `pending`, `running`, `ready` (for ten seconds), `terminating`, `failed`,
/// `orphan` (no owner), `other` (labels that are not selected), or a node's name.
pub fn brief_pods(texts: &[String], owner: OwnerReference) -> Vec<Arc<Pod>> {
    texts.iter().map(|text| Arc::new(brief_pod(text, &owner))).collect()
}

fn brief_pod(text: &str, owner: &OwnerReference) -> Pod {
    let mut words = text.split_whitespace();
    let name = words.next().expect("a pod has a name");
    let mut pod = json!({
        "metadata": {
            "name": name, "namespace": "d", "uid": format!("{name}-uid"), "labels": {"app": "web"},
            "creationTimestamp": "2026-01-31T11:00:00Z", "ownerReferences": [owner],
        },
        "spec": {"containers": []},
        "status": {"phase": "Running"},
    });
    for word in words {
        match word {
            "pending" => pod["status"]["phase"] = json!("Pending"),
            "failed" => pod["status"]["phase"] = json!("Failed"),
            "running" => {}
            "ready" => {
                pod["status"]["conditions"] =
                    json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T11:59:50Z"}]);
            }
            "terminating" => pod["metadata"]["deletionTimestamp"] = json!("2026-01-31T11:59:59Z"),
            "orphan" => pod["metadata"]["ownerReferences"] = json!([]),
            "other" => pod["metadata"]["labels"] = json!({"app": "other"}),
            node => pod["spec"]["nodeName"] = json!(node),
        }
    }
    serde_json::from_value(pod).expect("a pod")
}

/// More steps than anything that is played through here needs.
const MAX_STEPS: usize = 4000;

/// Plays on until nothing is left to happen; `holds` is asked after every step.
pub fn play<S>(simulation: &mut S, mut step: impl FnMut(&mut S) -> bool, mut holds: impl FnMut(&S)) {
    for _ in 0..MAX_STEPS {
        if !step(simulation) {
            return;
        }
        holds(simulation);
    }
    panic!("it does not come to its end");
}

/// Tries what may happen, beginning anywhere, until something does; false where nothing is left to happen.
pub fn any_of(choices: usize, ids: &Ids, mut happens: impl FnMut(usize) -> bool) -> bool {
    let start = ids.next_u64() as usize % choices;
    (0..choices).any(|offset| happens((start + offset) % choices))
}

/// A cluster reduced to objects and revisions, on which plans can be carried out.
#[derive(Default)]
pub struct World {
    objects: std::collections::BTreeMap<(String, String), Value>,
    revision: u64,
}

impl World {
    /// Puts an object there.
    pub fn put<K: skiff_client::Kind>(&mut self, object: &K) {
        let key = (K::resource().plural.to_string(), object.metadata().name.clone().expect("a name"));
        let value = serde_json::to_value(object).expect("an object");
        self.store(key, value);
    }

    fn store(&mut self, key: (String, String), mut value: Value) {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = json!(self.revision.to_string());
        self.objects.insert(key, value);
    }

    /// All objects of a kind.
    pub fn list<K: skiff_client::Kind>(&self) -> Vec<Arc<K>> {
        let plural = K::resource().plural.to_string();
        let all = self.objects.iter().filter(|((of, _), _)| *of == plural);
        all.map(|(_, value)| Arc::new(serde_json::from_value(value.clone()).expect("of that kind"))).collect()
    }

    /// One object.
    pub fn get<K: skiff_client::Kind>(&self, name: &str) -> Option<Arc<K>> {
        let value = self.objects.get(&(K::resource().plural.to_string(), name.to_owned()))?;
        Some(Arc::new(serde_json::from_value(value.clone()).expect("of that kind")))
    }

    /// Takes an object away.
    pub fn remove<K: skiff_client::Kind>(&mut self, name: &str) {
        self.objects.remove(&(K::resource().plural.to_string(), name.to_owned()));
    }

    /// Changes an object as its user does.
    pub fn edit<K: skiff_client::Kind>(&mut self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut tree = json!(&*self.get::<K>(name).expect("what is edited exists"));
        change(&mut tree);
        let generation = tree["metadata"]["generation"].as_i64().expect("a number");
        tree["metadata"]["generation"] = json!(generation + 1);
        self.put::<K>(&serde_json::from_value(tree).expect("of that kind"));
    }

    /// Gives the pods of an owner another image.
    pub fn set_image<K: skiff_client::Kind>(&mut self, owner: &str, image: &str) {
        self.edit::<K>(owner, |tree| tree["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image));
    }

    /// The images of all pods.
    pub fn images(&self) -> Vec<String> {
        let image = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.containers[0].image.clone());
        self.list::<Pod>().iter().filter_map(image).collect()
    }

    /// A pod goes on: what is being deleted goes, what runs gets ready (unless its image is `bad`). False where it stays.
    pub fn advance(&mut self, pod: &Pod) -> bool {
        if pod.metadata.deletion_timestamp.is_some() {
            self.remove::<Pod>(pod.metadata.name.as_deref().expect("a name"));
            return true;
        }
        let bad = pod.spec.as_ref().is_some_and(|spec| spec.containers[0].image.as_deref() == Some("bad"));
        if crate::pods::is_ready(pod) || bad {
            return false;
        }
        let ready = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T11:59:00Z"}]});
        self.put(&Pod { status: serde_json::from_value(ready).expect("a status"), ..pod.clone() });
        true
    }

    /// Carries out all creations, updates and deletions of a plan; pods get a deletion timestamp first.
    pub fn carry_out(&mut self, plan: &crate::plan::Plan) {
        use crate::plan::Write;
        for action in plan.actions() {
            match &action.write {
                Write::Create(target, body) => {
                    let key = (target.resource.plural.to_string(), target.key.name.clone());
                    assert!(!self.objects.contains_key(&key), "{key:?} is created twice");
                    let mut body = body.clone();
                    body["metadata"]["uid"] = json!(format!("{}-uid", target.key.name));
                    body["metadata"]["generation"] = json!(1);
                    body["metadata"]["creationTimestamp"] =
                        json!(format!("2026-01-31T11:00:{:02}Z", self.revision % 60));
                    self.store(key, body);
                }
                Write::Update(target, body) => {
                    let key = (target.resource.plural.to_string(), target.key.name.clone());
                    let mut new = self.objects.get(&key).expect("what is updated exists").clone();
                    if target.subresource == "status" {
                        new["status"] = body["status"].clone();
                        new["metadata"]["annotations"] = body["metadata"]["annotations"].clone();
                    } else {
                        let changed = new["spec"] != body["spec"];
                        for (part, value) in body.as_object().into_iter().flatten() {
                            if !matches!(part.as_str(), "metadata" | "status") {
                                new[part] = value.clone();
                            }
                        }
                        new["metadata"]["annotations"] = body["metadata"]["annotations"].clone();
                        if changed {
                            let generation = new["metadata"]["generation"].as_i64().unwrap_or(0);
                            new["metadata"]["generation"] = json!(generation + 1);
                        }
                    }
                    self.store(key, new);
                }
                Write::Delete(target, _) => {
                    let key = (target.resource.plural.to_string(), target.key.name.clone());
                    if key.0 == "pods" {
                        let mut pod = self.objects.get(&key).expect("what is deleted exists").clone();
                        pod["metadata"]["deletionTimestamp"] = json!("2026-01-31T12:00:00Z");
                        self.store(key, pod);
                    } else {
                        self.objects.remove(&key);
                    }
                }
                Write::Patch(..) | Write::Nothing => {}
            }
        }
    }
}
