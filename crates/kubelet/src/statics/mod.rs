//! Static Pods: those that the node is given by a folder or a URL and runs without the API server, which gets an image of each
//! (a mirror Pod) so that people can see it.
//! See <https://kubernetes.io/docs/tasks/configure-pod-container/static-pod/>.

mod keeper;
mod manifest;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

pub use keeper::{Keeper, mirror_uid};

use crate::admission::MIRROR;
use crate::config::{name, namespace, uid};

/// On a static Pod: the hash of its manifest, which is its UID too.
const HASH: &str = "kubernetes.io/config.hash";

/// Namespace and name.
pub type FullName = (String, String);

/// By what a Pod and its mirror are one.
pub fn full_name(pod: &Pod) -> FullName {
    (namespace(pod).to_owned(), name(pod).to_owned())
}

/// What to do next about static Pods and their mirrors.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Begin to run a Pod.
    Run(Arc<Pod>),
    /// End a Pod whose manifest is gone or has changed.
    End(String),
    /// Make a mirror.
    Mirror(Box<Pod>),
    /// Delete a mirror that stands for nothing, or for an older manifest: its name and UID.
    Unmirror(FullName, String),
}

/// Compares what the sources say with what runs and with what the API server shows: pure. `running` are the static Pods that the
/// node works for, `ending` those of them that are on their way out.
pub fn plan(
    wanted: &[Arc<Pod>],
    running: &[Arc<Pod>],
    ending: &BTreeSet<String>,
    mirrors: &BTreeMap<FullName, Arc<Pod>>,
    node_uid: Option<&str>,
) -> Vec<Action> {
    let mut actions = Vec::new();
    let is_wanted = |pod: &Pod| wanted.iter().any(|wanted| uid(wanted) == uid(pod));
    for pod in running.iter().filter(|pod| !is_wanted(pod) && !ending.contains(uid(pod))) {
        actions.push(Action::End(uid(pod).to_owned()));
    }
    for pod in wanted {
        let others = running.iter().filter(|other| full_name(other) == full_name(pod));
        // The old one of a name goes before the new one comes.
        if others.clone().next().is_none() {
            actions.push(Action::Run(pod.clone()));
        }
    }
    for pod in running.iter().filter(|pod| is_wanted(pod)) {
        let stands_for =
            |mirror: &Pod| mirror.metadata.annotations.as_ref().and_then(|all| all.get(MIRROR)) == hash(pod);
        match (mirrors.get(&full_name(pod)), node_uid) {
            (Some(old), _) if !stands_for(old) || old.metadata.deletion_timestamp.is_some() => {
                actions.push(Action::Unmirror(full_name(pod), uid(old).to_owned()));
            }
            (None, Some(node_uid)) => actions.push(Action::Mirror(Box::new(mirror(pod, node_uid)))),
            _ => {}
        }
    }
    for (full_name, mirror) in mirrors {
        let known = running.iter().chain(wanted).any(|pod| self::full_name(pod) == *full_name);
        if !known {
            actions.push(Action::Unmirror(full_name.clone(), uid(mirror).to_owned()));
        }
    }
    actions
}

/// A static Pod with the status that its mirror tells, where that stands for the same manifest and is not on its way out.
fn recovered(pod: Arc<Pod>, mirrors: &BTreeMap<FullName, Arc<Pod>>) -> Arc<Pod> {
    let mirror = mirrors.get(&full_name(&pod)).filter(|mirror| {
        let stands_for = mirror.metadata.annotations.as_ref().and_then(|all| all.get(MIRROR));
        stands_for == hash(&pod) && mirror.metadata.deletion_timestamp.is_none()
    });
    match mirror.and_then(|mirror| mirror.status.clone()) {
        Some(status) => Arc::new(Pod { status: Some(status), ..Pod::clone(&pod) }),
        None => pod,
    }
}

fn hash(pod: &Pod) -> Option<&String> {
    pod.metadata.annotations.as_ref()?.get(HASH)
}

/// The image of a static Pod for the API server. It belongs to the Node, so that it goes with it.
fn mirror(pod: &Pod, node_uid: &str) -> Pod {
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    if let Some(hash) = hash(pod) {
        annotations.insert(MIRROR.to_owned(), hash.clone());
    }
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: node,
        uid: node_uid.to_owned(),
        controller: Some(true),
        ..OwnerReference::default()
    };
    Pod {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            labels: pod.metadata.labels.clone(),
            annotations: Some(annotations),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: pod.spec.clone(),
        status: Some(PodStatus::default()),
    }
}
