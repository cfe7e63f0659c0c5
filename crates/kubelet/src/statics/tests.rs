//! Manifests, and what follows from them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use expect_test::{Expect, expect};
use skiff_base::Timestamp;

use super::manifest::{Source, read};
use super::*;

const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {containers: [{name: web, image: 'web:v1'}]}
";

fn pods(text: &str) -> Result<Vec<Arc<Pod>>, String> {
    let source = Source { kind: "file", place: "/manifests/web.yaml", node: "n1" };
    read(text.as_bytes(), &source, Timestamp::UNIX_EPOCH).map(|pods| pods.into_iter().map(Arc::new).collect())
}

fn web(image: &str) -> Arc<Pod> {
    pods(&WEB.replace("web:v1", image)).expect("a valid manifest").remove(0)
}

#[test]
fn a_manifest_becomes_a_pod_of_the_node() {
    let pod = web("web:v1");
    let meta = &pod.metadata;
    assert_eq!((meta.name.as_deref(), meta.namespace.as_deref()), (Some("web-n1"), Some("default")));
    let spec = pod.spec.as_ref().expect("it has one");
    assert_eq!((spec.node_name.as_deref(), spec.restart_policy.as_deref()), (Some("n1"), Some("Always")));
    assert_eq!(spec.tolerations.as_ref().map(Vec::len), Some(1));
    assert_eq!(web("web:v1").metadata.uid, meta.uid);
    assert_ne!(web("web:v2").metadata.uid, meta.uid);
    assert!(crate::admission::is_static(&pod) && crate::admission::is_critical(&pod));
}

#[test]
fn what_cannot_be_static_is_refused() {
    let check = |text: &str, expected: &str| {
        let error = pods(text).expect_err(text);
        assert!(error.contains(expected), "{error}");
    };
    check("kind: Service", "expected a Pod");
    check("kind: Pod\nspec: {}", "spec.containers");
    check(
        &WEB.replace("image: 'web:v1'", "image: 'web:v1', envFrom: [{secretRef: {name: s}}]"),
        "may not reference secrets",
    );
    check(&WEB.replace("spec: {", "spec: {serviceAccountName: robot, "), "may not reference serviceaccounts");
}

#[test]
fn what_was_told_of_a_static_pod_is_known_again() {
    let pod = web("web:v1");
    let told = |image: &str, deleting: bool| {
        let mut mirror = mirror(&web(image), "node-uid");
        mirror.status = serde_saphyr::from_str("{phase: Failed, reason: Evicted}").expect("a status");
        mirror.metadata.deletion_timestamp =
            deleting.then_some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        let mirrors = BTreeMap::from([(full_name(&mirror), Arc::new(mirror))]);
        recovered(pod.clone(), &mirrors).status.clone().and_then(|status| status.reason)
    };
    assert_eq!(told("web:v1", false).as_deref(), Some("Evicted"));
    assert_eq!(told("web:v2", false), None, "of another manifest");
    assert_eq!(told("web:v1", true), None, "on its way out");
    assert_eq!(recovered(pod.clone(), &BTreeMap::new()), pod);
}

fn check(wanted: &[Arc<Pod>], running: &[Arc<Pod>], mirrors: &[Pod], expected: Expect) {
    let mirrors: BTreeMap<_, _> = mirrors.iter().map(|mirror| (full_name(mirror), Arc::new(mirror.clone()))).collect();
    let lines =
        plan(wanted, running, &BTreeSet::new(), &mirrors, Some("node-uid")).into_iter().map(|action| match action {
            Action::Run(pod) => format!("run {}\n", full_name(&pod).1),
            Action::End(_) => "end\n".to_owned(),
            Action::Mirror(pod) => format!("mirror {}\n", full_name(&pod).1),
            Action::Unmirror((_, name), uid) => format!("delete mirror {name} {uid}\n"),
        });
    expected.assert_eq(&lines.collect::<String>());
}

#[test]
fn pods_follow_their_manifests_and_mirrors_follow_pods() {
    let (old, new) = ([web("web:v1")], [web("web:v2")]);
    let image = |pod: &Pod| Pod {
        metadata: ObjectMeta { uid: Some("m".into()), ..mirror(pod, "node-uid").metadata },
        ..Pod::default()
    };
    check(&old, &[], &[], expect!["run web-n1\n"]);
    check(&old, &old, &[], expect!["mirror web-n1\n"]);
    check(&old, &old, &[image(&old[0])], expect![""]);
    // A new manifest: first the old Pod goes, then the new one comes, and then its mirror is made anew.
    check(&new, &old, &[image(&old[0])], expect!["end\n"]);
    check(&new, &[], &[image(&old[0])], expect!["run web-n1\n"]);
    check(&new, &new, &[image(&old[0])], expect!["delete mirror web-n1 m\n"]);
    check(&[], &[], &[image(&old[0])], expect!["delete mirror web-n1 m\n"]);
    assert!(crate::admission::is_mirror(&image(&old[0])));
}
