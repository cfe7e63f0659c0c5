//! Fields behind feature gates: where a gate is off they are dropped from what is written, unless the object had them
//! before.

use serde_json::Value;
use skiff_base::gates::{CLUSTER_TRUST_BUNDLE_PROJECTION, Gates};
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::def::ResourceDef;
use crate::rules::tree::{is_blank, items_mut, node_mut};

/// Where a kind has the specification of Pods.
fn pod_spec(def: &ResourceDef) -> Option<&'static [&'static str]> {
    match (def.group.as_ref(), def.kind.as_ref()) {
        ("", "Pod") => Some(&["spec"]),
        ("", "PodTemplate") => Some(&["template", "spec"]),
        ("", "ReplicationController")
        | ("apps", "DaemonSet" | "Deployment" | "ReplicaSet" | "StatefulSet")
        | ("batch", "Job") => Some(&["spec", "template", "spec"]),
        ("batch", "CronJob") => Some(&["spec", "jobTemplate", "spec", "template", "spec"]),
        _ => None,
    }
}

/// Drops the fields whose gates are off from an object that is about to be written.
pub fn drop_fields(def: &ResourceDef, new: &mut Object, old: Option<&Object>, gates: &Gates) {
    let Some(path) = pod_spec(def).filter(|_| !gates.enabled(CLUSTER_TRUST_BUNDLE_PROJECTION)) else { return };
    if old.and_then(|old| old.at(path)).is_some_and(has_bundles) {
        return;
    }
    let Some(spec) = node_mut(new, path) else { return };
    for volume in items_mut(spec, &["volumes"]) {
        if let Some(Value::Array(sources)) = node_mut(volume, &["projected", "sources"]) {
            sources.retain(|source| !is_bundle(source));
        }
    }
}

fn is_bundle(source: &Value) -> bool {
    source.get("clusterTrustBundle").is_some_and(|bundle| !is_blank(Some(bundle)))
}

fn has_bundles(spec: &Value) -> bool {
    let sources = spec.list_at(&["volumes"]).iter().flat_map(|volume| volume.list_at(&["projected", "sources"]));
    sources.into_iter().any(is_bundle)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use skiff_base::gates::CLUSTER_TRUST_BUNDLE;
    use skiff_object::GroupVersionKind;

    use super::*;

    #[test]
    fn bundles_are_dropped_where_they_are_off_and_new() {
        let spec = json!({"volumes": [{"name": "v", "projected": {"sources": [
            {"configMap": {"name": "c"}}, {"clusterTrustBundle": {"name": "b", "path": "p"}}]}}]});
        let on = [(CLUSTER_TRUST_BUNDLE, true), (CLUSTER_TRUST_BUNDLE_PROJECTION, true)];
        let on = Gates::of(on).expect("they can be so");
        for (group, kind, wrap) in [
            ("", "Pod", json!({"spec": spec})),
            ("apps", "Deployment", json!({"spec": {"template": {"spec": spec}}})),
            ("batch", "CronJob", json!({"spec": {"jobTemplate": {"spec": {"template": {"spec": spec}}}}})),
        ] {
            let def = crate::by_kind(&GroupVersionKind::new(group, "v1", kind)).expect(kind);
            let said = |old: Option<&Object>, gates: &Gates| {
                let mut object = wrap.clone();
                drop_fields(def, &mut object, old, gates);
                assert!(object.to_string().contains("configMap"));
                object.to_string().contains("clusterTrustBundle")
            };
            assert!(!said(None, &Gates::default()), "{kind}");
            assert!(said(None, &on), "{kind}");
            assert!(said(Some(&wrap), &Gates::default()), "{kind}");
        }
    }
}
