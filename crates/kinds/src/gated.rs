//! Fields behind feature gates: where a gate is off they are dropped from what is written, unless the object had them
//! before.

use serde_json::Value;
use skiff_base::gates::{
    CLUSTER_TRUST_BUNDLE_PROJECTION, GENERIC_WORKLOAD, Gates, TOPOLOGY_AWARE_WORKLOADS, WORKLOAD_AWARE_PREEMPTION,
};
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
    if def.group == "scheduling.k8s.io" {
        return drop_group_fields(def, new, old, gates);
    }
    let Some(path) = pod_spec(def) else { return };
    let was = old.and_then(|old| old.at(path));
    let Some(spec) = node_mut(new, path) else { return };
    if !gates.enabled(CLUSTER_TRUST_BUNDLE_PROJECTION) && !was.is_some_and(has_bundles) {
        for volume in items_mut(spec, &["volumes"]) {
            if let Some(Value::Array(sources)) = node_mut(volume, &["projected", "sources"]) {
                sources.retain(|source| !is_bundle(source));
            }
        }
    }
    drop_field(spec, was, "schedulingGroup", gates.enabled(GENERIC_WORKLOAD));
}

/// Drops a field unless it may be there, or was there before.
fn drop_field(new: &mut Value, old: Option<&Value>, field: &str, is_on: bool) {
    if !is_on && is_blank(old.and_then(|old| old.get(field))) {
        new.remove_at(&[field]);
    }
}

/// The fields of PodGroups and their templates that have gates of their own.
const GROUP_FIELDS: [(&str, &str); 5] = [
    ("schedulingConstraints", TOPOLOGY_AWARE_WORKLOADS),
    ("resourceClaims", "DRAWorkloadResourceClaims"),
    ("disruptionMode", WORKLOAD_AWARE_PREEMPTION),
    ("priorityClassName", WORKLOAD_AWARE_PREEMPTION),
    ("priority", WORKLOAD_AWARE_PREEMPTION),
];

fn drop_group_fields(def: &ResourceDef, new: &mut Object, old: Option<&Object>, gates: &Gates) {
    match def.kind.as_ref() {
        "PodGroup" => {
            if let Some(spec) = node_mut(new, &["spec"]) {
                drop_all(spec, old.and_then(|old| old.get("spec")), gates);
            }
            // Whoever reads a group sees its defaults, whether they count or not.
            (def.default)(new);
            if let Some(status) = node_mut(new, &["status"]) {
                drop_field(status, None, "resourceClaimStatuses", gates.enabled("DRAWorkloadResourceClaims"));
            }
        }
        "Workload" => {
            let old = old.map(|old| old.list_at(&["spec", "podGroupTemplates"])).unwrap_or_default();
            for (at, template) in items_mut(new, &["spec", "podGroupTemplates"]).enumerate() {
                drop_all(template, old.get(at), gates);
                // It is written even where it says nothing.
                template.default_at(&["schedulingConstraints"], Value::Null);
            }
        }
        _ => {}
    }
}

fn drop_all(new: &mut Value, old: Option<&Value>, gates: &Gates) {
    GROUP_FIELDS.iter().for_each(|(field, gate)| drop_field(new, old, field, gates.enabled(gate)));
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

    #[test]
    fn groups_are_dropped_where_they_are_off_and_new() {
        let on = Gates::of([(GENERIC_WORKLOAD, true)]).expect("it can be so");
        let pod = json!({"spec": {"schedulingGroup": {"podGroupName": "g"}}});
        let def = crate::by_kind(&GroupVersionKind::new("", "v1", "Pod")).expect("Pods are known");
        let said = |old: Option<&Object>, gates: &Gates| {
            let mut object = pod.clone();
            drop_fields(def, &mut object, old, gates);
            object == pod
        };
        assert!(!said(None, &Gates::default()) && said(None, &on) && said(Some(&pod), &Gates::default()));
        let one = json!({"schedulingPolicy": {"basic": {}}, "priority": 1, "priorityClassName": "a", "disruptionMode": "PodGroup",
            "schedulingConstraints": {"topology": [{"key": "rack"}]}, "resourceClaims": [{"name": "c"}]});
        let dropped = |kind: &str, mut object: Object| {
            let def = crate::by_kind(&GroupVersionKind::new("scheduling.k8s.io", "v1alpha2", kind)).expect(kind);
            drop_fields(def, &mut object, None, &on);
            object["spec"].take()
        };
        let group = json!({"spec": one, "status": {"resourceClaimStatuses": [{"name": "c"}]}});
        assert_eq!(dropped("PodGroup", group), json!({"schedulingPolicy": {"basic": {}}, "disruptionMode": "Pod"}));
        let workload = json!({"spec": {"podGroupTemplates": [one]}});
        let left = json!({"schedulingPolicy": {"basic": {}}, "schedulingConstraints": null});
        assert_eq!(dropped("Workload", workload), json!({"podGroupTemplates": [left]}));
    }
}
