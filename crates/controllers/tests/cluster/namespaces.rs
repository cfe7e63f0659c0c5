//! Namespaces: what they have from the beginning, and how they go.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount};
use serde_json::json;
use skiff_base::clock::{Clock, SystemClock};
use skiff_client::DeleteOptions;

use crate::harness::Cluster;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_has_its_defaults_and_goes_with_all_that_is_in_it() {
    let (cluster, clock) = (Cluster::start("namespace").await, SystemClock::new());
    cluster.add_node("n1", "4").await;
    cluster.put::<Namespace>(json!({"metadata": {"name": "team"}})).await;
    cluster
        .eventually("the defaults", || async {
            cluster.admin.get::<ServiceAccount>("team", "default").await.ok()?;
            let bundle = cluster.admin.get::<ConfigMap>("team", "kube-root-ca.crt").await.ok()?;
            (bundle.data?["ca.crt"] == "PEM").then_some(())
        })
        .await;
    let pod =
        json!({"metadata": {"name": "p", "namespace": "team"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.put::<Pod>(pod).await;
    let begun = clock.monotonic();
    cluster.admin.delete::<Namespace>("", "team", &DeleteOptions::default()).await.expect("deleted");
    cluster
        .eventually("the namespace gone", || async {
            cluster.admin.get::<Namespace>("", "team").await.is_err_and(|error| error.is_not_found()).then_some(())
        })
        .await;
    println!("namespace gone: {:?}", clock.monotonic() - begun);
    assert!(cluster.list::<Pod>("team").await.is_empty());
    assert!(cluster.list::<ConfigMap>("team").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pods_of_a_namespace_go_before_all_else() {
    let cluster = Cluster::start("ordered").await;
    cluster.add_node("n1", "4").await;
    cluster.add_namespace("team").await;
    let held = json!({"metadata": {"name": "held", "namespace": "team", "finalizers": ["example.com/hold"]},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.put::<Pod>(held).await;
    let other = json!({"metadata": {"name": "other", "namespace": "team"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    cluster.put::<Pod>(other).await;
    cluster.put::<ConfigMap>(json!({"metadata": {"name": "settings", "namespace": "team"}})).await;
    let service = json!({"metadata": {"name": "web", "namespace": "team"}, "spec": {"ports": [{"port": 80}]}});
    cluster.put::<Service>(service).await;
    let own = json!({"status": {"conditions": [{"type": "Own", "status": "True"}]}});
    cluster.merge::<Namespace>("", "team", "status", own).await;
    cluster.delete::<Namespace>("", "team", "Background").await;
    let held_by = "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances";
    let expected = [
        ("Own", "True", "", ""),
        ("NamespaceDeletionDiscoveryFailure", "False", "ResourcesDiscovered", "All resources successfully discovered"),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            "False",
            "ParsedGroupVersions",
            "All legacy kube types successfully parsed",
        ),
        (
            "NamespaceDeletionContentFailure",
            "False",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            "True",
            "SomeResourcesRemain",
            "Some resources are remaining: pods. has 1 resource instances",
        ),
        ("NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", held_by),
    ];
    cluster
        .eventually("what holds the namespace", || async {
            let status = cluster.found::<Namespace>("", "team").await.expect("it is held").status?;
            let told = status.conditions?;
            let told: Vec<_> = told
                .iter()
                .map(|c| {
                    let text = |text: &Option<String>| text.clone().unwrap_or_default();
                    (c.type_.clone(), c.status.clone(), text(&c.reason), text(&c.message))
                })
                .collect();
            let all = expected.map(|(a, b, c, d)| (a.to_owned(), b.to_owned(), c.to_owned(), d.to_owned()));
            (status.phase.as_deref() == Some("Terminating") && told == all).then_some(())
        })
        .await;
    assert!(cluster.found::<ConfigMap>("team", "settings").await.is_some(), "nothing else goes before the pods");
    assert!(cluster.found::<Service>("team", "web").await.is_some(), "nothing else goes before the pods");
    cluster.merge::<Pod>("team", "held", "", json!({"metadata": {"finalizers": null}})).await;
    cluster.gone::<Namespace>("", "team").await;
    assert!(cluster.list::<ConfigMap>("team").await.is_empty());
    assert!(cluster.list::<Service>("team").await.is_empty());
}
