//! What goes with its owners, waits for its dependents, or is let go.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use serde_json::{Value, json};

use crate::harness::{Cluster, deployment};

/// A ReplicationController of pods with the label `app: NAME`.
async fn controller(cluster: &Cluster, name: &str, replicas: i32, finalizers: &[&str]) -> ReplicationController {
    let object = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"replicas": replicas,
        "selector": {"app": name}, "template": {"metadata": {"labels": {"app": name}, "finalizers": finalizers},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    cluster.put::<ReplicationController>(object).await;
    cluster
        .eventually("all replicas", || async {
            let found = cluster.found::<ReplicationController>("default", name).await?;
            (found.status.as_ref()?.replicas == replicas).then_some(found)
        })
        .await
}

fn owner(api_version: &str, kind: &str, metadata: &Value, more: &Value) -> Value {
    let mut owner = json!({"apiVersion": api_version, "kind": kind, "name": metadata["name"], "uid": metadata["uid"]});
    for (key, value) in more.as_object().into_iter().flatten() {
        owner[key] = value.clone();
    }
    owner
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_go_after_their_controller_in_the_background() {
    let cluster = Cluster::start("background").await;
    cluster.add_node("n1", "4").await;
    controller(&cluster, "web", 2, &["example.com/hold"]).await;
    cluster.delete::<ReplicationController>("default", "web", "Background").await;
    assert!(cluster.found::<ReplicationController>("default", "web").await.is_none(), "it does not wait for its pods");
    cluster
        .eventually("the pods told to go", || async {
            let pods = cluster.list::<Pod>("default").await;
            assert_eq!(pods.len(), 2, "they are held");
            pods.iter().all(|pod| pod.metadata.deletion_timestamp.is_some()).then_some(())
        })
        .await;
    for pod in cluster.list::<Pod>("default").await {
        let name = pod.metadata.name.expect("a name");
        cluster.merge::<Pod>("default", &name, "", json!({"metadata": {"finalizers": null}})).await;
        cluster.gone::<Pod>("default", &name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_controller_waits_for_all_its_pods_in_the_foreground() {
    let cluster = Cluster::start("foreground").await;
    cluster.add_node("n1", "4").await;
    controller(&cluster, "web", 10, &["example.com/hold"]).await;
    cluster.delete::<ReplicationController>("default", "web", "Foreground").await;
    let mut left = 10;
    for pod in cluster.list::<Pod>("default").await {
        let found = cluster.found::<ReplicationController>("default", "web").await.expect("it waits for its pods");
        assert!(found.metadata.deletion_timestamp.is_some());
        assert_eq!(found.metadata.finalizers, Some(vec!["foregroundDeletion".to_owned()]));
        assert_eq!(cluster.list::<Pod>("default").await.len(), left, "none is made anew");
        let name = pod.metadata.name.expect("a name");
        cluster
            .eventually("the pod told to go", || async {
                let pod = cluster.found::<Pod>("default", &name).await.expect("it is held");
                pod.metadata.deletion_timestamp.map(drop)
            })
            .await;
        cluster.merge::<Pod>("default", &name, "", json!({"metadata": {"finalizers": null}})).await;
        cluster.gone::<Pod>("default", &name).await;
        left -= 1;
    }
    cluster.gone::<ReplicationController>("default", "web").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_circle_of_owners_goes_with_any_of_them() {
    let cluster = Cluster::start("circle").await;
    let mut owners = Vec::new();
    for name in ["a", "b", "c"] {
        let pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
        owners.push(json!(cluster.put::<Pod>(pod).await.metadata));
    }
    for (name, owned_by) in [("a", 2), ("b", 0), ("c", 1)] {
        let blocking = json!({"controller": true, "blockOwnerDeletion": true});
        let owner = owner("v1", "Pod", &owners[owned_by], &blocking);
        cluster.merge::<Pod>("default", name, "", json!({"metadata": {"ownerReferences": [owner]}})).await;
    }
    cluster.delete::<Pod>("default", "a", "Foreground").await;
    for name in ["a", "b", "c"] {
        cluster.gone::<Pod>("default", name).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_another_owner_stays() {
    let cluster = Cluster::start("shared").await;
    cluster.add_node("n1", "4").await;
    controller(&cluster, "going", 10, &[]).await;
    let stays = controller(&cluster, "staying", 0, &[]).await;
    let second = owner("v1", "ReplicationController", &json!(stays.metadata), &json!({}));
    let mut shared = BTreeSet::new();
    for pod in cluster.list::<Pod>("default").await.into_iter().take(5) {
        let name = pod.metadata.name.expect("a name");
        let mut owners = json!(pod.metadata.owner_references);
        owners.as_array_mut().expect("an owner").push(second.clone());
        cluster.merge::<Pod>("default", &name, "", json!({"metadata": {"ownerReferences": owners}})).await;
        shared.insert(name);
    }
    cluster.delete::<ReplicationController>("default", "going", "Foreground").await;
    cluster.gone::<ReplicationController>("default", "going").await;
    let left = cluster
        .eventually("the others gone", || async {
            let pods = cluster.list::<Pod>("default").await;
            (pods.len() <= shared.len()).then_some(pods)
        })
        .await;
    let names: BTreeSet<_> = left.iter().filter_map(|pod| pod.metadata.name.clone()).collect();
    assert_eq!(names, shared);
    for pod in left {
        assert!(pod.metadata.deletion_timestamp.is_none());
        assert_eq!(json!(pod.metadata.owner_references), json!([second]));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deletion_orphans_or_waits_as_it_is_told() {
    let cluster = Cluster::start("deletion").await;
    cluster.add_node("n1", "4").await;
    cluster.put::<Deployment>(deployment("web", 2)).await;
    cluster.deployed("web", 2).await;
    cluster.delete::<Deployment>("default", "web", "Orphan").await;
    cluster
        .eventually("the Deployment gone and its set let go", || async {
            let gone = cluster.admin.get::<Deployment>("default", "web").await.is_err_and(|error| error.is_not_found());
            let sets = cluster.list::<ReplicaSet>("default").await;
            (gone && sets.len() == 1 && sets[0].metadata.owner_references.is_none()).then_some(())
        })
        .await;
    assert_eq!(cluster.list::<Pod>("default").await.len(), 2);
    cluster.put::<Deployment>(deployment("web", 2)).await;
    cluster.deployed("web", 2).await;
    assert_eq!(cluster.list::<ReplicaSet>("default").await.len(), 1, "the set is adopted again");
    cluster.delete::<Deployment>("default", "web", "Foreground").await;
    cluster
        .eventually("all gone", || async {
            let gone = cluster.admin.get::<Deployment>("default", "web").await.is_err_and(|error| error.is_not_found());
            if gone {
                assert!(cluster.list::<ReplicaSet>("default").await.is_empty(), "the owner goes last");
                assert!(cluster.list::<Pod>("default").await.is_empty(), "the owner goes last");
            }
            gone.then_some(())
        })
        .await;
}
