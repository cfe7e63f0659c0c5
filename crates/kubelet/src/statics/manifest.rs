//! Reading the manifests of static Pods: text in, Pods out.

use k8s_openapi::api::core::v1::{Pod, Toleration};
use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::clock::rfc3339;
use skiff_kinds::def::Context;
use skiff_kinds::{ResourceDef, by_kind};
use skiff_object::GroupVersionKind;
use skiff_object::meta::Meta;

use super::HASH;
use crate::admission::SOURCE;

/// When the node read the manifest.
const SEEN: &str = "kubernetes.io/config.seen";

/// Where a manifest comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source<'a> {
    /// `file` or `http`.
    pub kind: &'static str,
    /// The path or the URL.
    pub place: &'a str,
    /// The node that runs it.
    pub node: &'a str,
}

/// The Pods that a manifest holds: one, or a list.
///
/// # Errors
/// It is no Pod, or one that may not be static; the message says why.
pub fn read(text: &[u8], source: &Source<'_>, now: Timestamp) -> Result<Vec<Pod>, String> {
    let tree = skiff_object::yaml::parse(text)?.into_value();
    let items = match tree.str_at(&["kind"]) {
        "PodList" | "List" => tree.list_at(&["items"]).to_vec(),
        "Pod" => vec![tree],
        kind => return Err(format!("expected a Pod or a list of Pods, found kind {kind:?}")),
    };
    items.into_iter().map(|item| one(item, source, now)).collect()
}

fn one(mut pod: Value, source: &Source<'_>, now: Timestamp) -> Result<Pod, String> {
    let definition = by_kind(&GroupVersionKind::new("", "v1", "Pod")).ok_or("Pods are not known")?;
    // Before anything is filled in: another default must not make another Pod of it.
    let uid = match pod.str_at(&["metadata", "uid"]) {
        "" => hash(&format!("{}\n{}\n{}\n{pod}", source.node, source.kind, source.place)),
        own => own.to_owned(),
    };
    pod.set_at(&["apiVersion"], json!("v1"));
    pod.set_at(&["kind"], json!("Pod"));
    let name = format!("{}-{}", pod.str_at(&["metadata", "name"]), source.node.to_lowercase());
    pod.set_at(&["metadata", "name"], json!(name));
    if pod.str_at(&["metadata", "namespace"]).is_empty() {
        pod.set_at(&["metadata", "namespace"], json!("default"));
    }
    pod.set_at(&["metadata", "uid"], json!(uid));
    // The first generation: whoever writes a new manifest gets a new Pod.
    pod.set_at(&["metadata", "generation"], json!(1));
    for (key, value) in [(HASH, uid.as_str()), (SOURCE, source.kind), (SEEN, &rfc3339(now))] {
        pod.set_at(&["metadata", "annotations", key], json!(value));
    }
    pod.set_at(&["spec", "nodeName"], json!(source.node));
    pod.set_at(&["status"], json!({"phase": "Pending"}));
    (definition.default)(&mut pod);
    check(definition, &pod, now)?;
    let mut pod: Pod = serde_json::from_value(pod).map_err(|error| format!("Pod {name}: {error}"))?;
    tolerate_all(&mut pod);
    Ok(pod)
}

fn check(definition: &ResourceDef, pod: &Value, now: Timestamp) -> Result<(), String> {
    let context = Context { def: definition, subresource: "", now };
    let faults = (definition.validate)(&context, pod);
    if !faults.is_empty() {
        return Err(format!("invalid pod: {faults:?}"));
    }
    let name = pod.str_at(&["metadata", "name"]);
    match reference(pod.get("spec").unwrap_or(&Value::Null)) {
        Some(what) => Err(format!("static pod {name} may not reference {what}")),
        None => Ok(()),
    }
}

/// What of the API server's a Pod's specification refers to: a static Pod runs without it.
fn reference(spec: &Value) -> Option<&'static str> {
    if !spec.str_at(&["serviceAccountName"]).is_empty() {
        return Some("serviceaccounts");
    }
    let named = |tree: &Value, keys: &[&str]| mentions(tree, keys);
    if named(spec, &["configMap", "configMapRef", "configMapKeyRef"]) {
        return Some("configmaps");
    }
    if named(spec, &["secret", "secretRef", "secretKeyRef"]) {
        return Some("secrets");
    }
    if named(spec, &["persistentVolumeClaim"]) {
        return Some("persistentvolumeclaims");
    }
    (!spec.list_at(&["resourceClaims"]).is_empty()).then_some("resourceclaims")
}

fn mentions(tree: &Value, keys: &[&str]) -> bool {
    match tree {
        Value::Object(map) => {
            map.iter().any(|(key, value)| (keys.contains(&key.as_str()) && value.is_object()) || mentions(value, keys))
        }
        Value::Array(list) => list.iter().any(|value| mentions(value, keys)),
        _ => false,
    }
}

/// Nothing that the node's taints say ends a static Pod.
fn tolerate_all(pod: &mut Pod) {
    let all = Toleration {
        effect: Some("NoExecute".to_owned()),
        operator: Some("Exists".to_owned()),
        ..Toleration::default()
    };
    if let Some(spec) = &mut pod.spec {
        let tolerations = spec.tolerations.get_or_insert_default();
        if !tolerations.contains(&all) {
            tolerations.push(all);
        }
    }
}

/// A hash in the form of a UID: it is kept in folders' names over updates of this program, so it depends on no library.
fn hash(text: &str) -> String {
    let fnv = |seed: u64| text.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{:016x}{:016x}", fnv(0xcbf2_9ce4_8422_2325), fnv(0x8422_2325_cbf2_9ce4))
}
