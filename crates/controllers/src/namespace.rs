//! The end of a namespace: all that is in it is deleted first, then its finalizer is taken off.
//! What is told of it is decided purely by [`judge`]; the deleting is one sweep over all resources.
//! See <https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/>.

use std::collections::BTreeMap;

use futures_util::future::{BoxFuture, join_all};
use futures_util::{FutureExt, StreamExt};
use http::Method;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use skiff_base::Timestamp;
use skiff_base::clock::SharedClock;
use skiff_client::{Change, Client, DeleteOptions, Error, Informer, Kind, ObjectKey, ObjectList, PartialObject};

use crate::meta::time;
use crate::resources::{Deletable, builtin, custom};
use crate::runner::Setup;

/// The finalizer that stands for this controller.
const FINALIZER: &str = "kubernetes";
/// Resources that are swept at the same time.
const SWEEPS_AT_ONCE: usize = 8;
/// Namespaces that are swept at the same time.
const WORKERS: usize = 3;

/// What a sweep left of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Remains {
    /// `pods.` or `deployments.apps`, as conditions name it.
    pub resource: String,
    /// How many objects are there still.
    pub count: usize,
    /// How many of them each finalizer holds.
    pub finalizers: BTreeMap<String, usize>,
    /// Why they could not be deleted.
    pub error: Option<String>,
}

/// The conditions that tell how far the deletion is.
pub fn judge(old: &[NamespaceCondition], remains: &[Remains], now: Timestamp) -> Vec<NamespaceCondition> {
    let left: Vec<_> = remains.iter().filter(|r| r.count > 0).collect();
    let errors: Vec<_> = remains.iter().filter_map(|r| r.error.as_deref()).collect();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, count) in left.iter().flat_map(|r| &r.finalizers) {
        *finalizers.entry(name).or_default() += count;
    }
    let told = |holds: bool, yes: (&'static str, String), no: (&'static str, &str)| {
        if holds { (true, yes.0, yes.1) } else { (false, no.0, no.1.to_owned()) }
    };
    let join = |parts: Vec<String>| parts.join(", ");
    let content = join(left.iter().map(|r| format!("{} has {} resource instances", r.resource, r.count)).collect());
    let held = join(finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect());
    let failed = format!("Failed to delete all resource types, {} remaining: {}", errors.len(), errors.join(", "));
    let all = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (false, "ResourcesDiscovered", "All resources successfully discovered".to_owned()),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            (false, "ParsedGroupVersions", "All legacy kube types successfully parsed".to_owned()),
        ),
        (
            "NamespaceDeletionContentFailure",
            told(
                !errors.is_empty(),
                ("ContentDeletionFailed", failed),
                ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
            ),
        ),
        (
            "NamespaceContentRemaining",
            told(
                !left.is_empty(),
                ("SomeResourcesRemain", format!("Some resources are remaining: {content}")),
                ("ContentRemoved", "All content successfully removed"),
            ),
        ),
        (
            "NamespaceFinalizersRemaining",
            told(
                !finalizers.is_empty(),
                ("SomeFinalizersRemain", format!("Some content in the namespace has finalizers remaining: {held}")),
                ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
            ),
        ),
    ];
    let condition = |(kind, (holds, reason, message)): (&str, (bool, &str, String))| {
        let status = if holds { "True" } else { "False" };
        let same = old.iter().find(|condition| condition.type_ == kind && condition.status == status);
        NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: same.map_or_else(|| Some(time(now)), |same| same.last_transition_time.clone()),
        }
    };
    all.into_iter().map(condition).collect()
}

/// The controller.
pub struct Namespaces {
    namespaces: Informer<Namespace>,
    definitions: Informer<CustomResourceDefinition>,
    builtin: Vec<Deletable>,
    client: Client,
    clock: SharedClock,
}

impl Namespaces {
    /// Runs until dropped.
    pub async fn run(mut setup: Setup, client: Client, clock: SharedClock) {
        let namespaces = setup.informer::<Namespace>();
        setup.on_change::<Namespace>(|change| {
            let going = change.object().metadata.deletion_timestamp.is_some();
            going.then(|| ObjectKey::of(&change.object().metadata)).into_iter().collect()
        });
        // What takes longest to go are pods; each that went is a reason to look again.
        let known = namespaces.clone();
        setup.on_change::<Pod>(move |change| match change {
            Change::Deleted(pod) => going_namespace(&known, pod.metadata.namespace.as_deref()),
            _ => Vec::new(),
        });
        let definitions = setup.informer();
        let queue = setup.queue.clone();
        setup.synced().await;
        let builtin = builtin().into_iter().filter(|deletable| deletable.namespaced).collect();
        let controller = Self { namespaces, definitions, builtin, client, clock };
        let attend_to = |key: ObjectKey| {
            let controller = &controller;
            async move { controller.attend_to(&key).await }
        };
        join_all((0..WORKERS).map(|_| queue.work("namespace", attend_to))).await;
    }

    /// True where nothing is left to do.
    async fn attend_to(&self, key: &ObjectKey) -> Result<bool, Error> {
        let Some(namespace) = self.namespaces.by_key(key) else { return Ok(true) };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|name| name == FINALIZER) {
            return Ok(true);
        }
        let remains = self.sweep(&key.name).await;
        if remains.iter().all(|r| r.count == 0 && r.error.is_none()) {
            return self.finalize(&namespace).await.map(|()| true);
        }
        self.tell(&namespace, &remains).await.map(|()| false)
    }

    async fn sweep(&self, namespace: &str) -> Vec<Remains> {
        // Pods first, and nothing else before they are gone: what protects them, a NetworkPolicy say, must outlive them.
        let (pods, mut all): (Vec<_>, Vec<_>) = self.builtin.iter().cloned().partition(is_pods);
        for deletable in &pods {
            let remains = self.sweep_one(namespace, deletable).await;
            if remains.count > 0 || remains.error.is_some() {
                return vec![remains];
            }
        }
        all.extend(custom(&self.definitions).into_iter().filter(|deletable| deletable.namespaced));
        let sweeps: Vec<BoxFuture<'_, _>> =
            all.iter().map(|deletable| self.sweep_one(namespace, deletable).boxed()).collect();
        futures_util::stream::iter(sweeps).buffer_unordered(SWEEPS_AT_ONCE).collect().await
    }

    async fn sweep_one(&self, namespace: &str, deletable: &Deletable) -> Remains {
        let name = format!("{}.{}", deletable.resource.plural, deletable.resource.group);
        let mut remains = Remains { resource: name, ..Remains::default() };
        let result = async {
            let found = self.list(namespace, deletable).await?;
            if found.is_empty() {
                return Ok(found);
            }
            self.delete(namespace, deletable, &found).await?;
            self.list(namespace, deletable).await
        };
        match result.await {
            Ok(left) => {
                remains.count = left.len();
                for finalizer in left.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
                    *remains.finalizers.entry(finalizer.clone()).or_default() += 1;
                }
            }
            // A custom resource whose definition is just going.
            Err(error) if error.is_not_found() => {}
            Err(error) => remains.error = Some(error.to_string()),
        }
        remains
    }

    async fn list(&self, namespace: &str, deletable: &Deletable) -> Result<Vec<PartialObject>, Error> {
        let list: ObjectList<PartialObject> = self.client.get_path(&deletable.resource.path(namespace)).await?;
        Ok(list.items)
    }

    async fn delete(&self, namespace: &str, deletable: &Deletable, found: &[PartialObject]) -> Result<(), Error> {
        let options = DeleteOptions { propagation_policy: Some("Background"), ..DeleteOptions::default() };
        if deletable.by_collection {
            return self.client.delete_path(&deletable.resource.path(namespace), &options).await;
        }
        for object in found.iter().filter(|object| object.metadata.deletion_timestamp.is_none()) {
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let path = deletable.resource.object_path(namespace, name, "");
            match self.client.delete_path(&path, &options).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    async fn tell(&self, namespace: &Namespace, remains: &[Remains]) -> Result<(), Error> {
        let old = namespace.status.clone().unwrap_or_default();
        let conditions = judge(old.conditions.as_deref().unwrap_or_default(), remains, self.clock.now());
        let status = NamespaceStatus { phase: Some("Terminating".to_owned()), conditions: Some(conditions) };
        if status == old {
            return Ok(());
        }
        let namespace = Namespace { status: Some(status), ..namespace.clone() };
        self.client.update_status(&namespace).await.map(drop)
    }

    async fn finalize(&self, namespace: &Namespace) -> Result<(), Error> {
        let mut namespace = namespace.clone();
        if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
            finalizers.retain(|name| name != FINALIZER);
        }
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let path = Namespace::resource().object_path("", &name, "finalize");
        match self.client.send_json::<PartialObject>(Method::PUT, &path, &namespace).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }
}

fn is_pods(deletable: &Deletable) -> bool {
    deletable.resource.group.is_empty() && deletable.resource.plural == "pods"
}

fn going_namespace(namespaces: &Informer<Namespace>, name: Option<&str>) -> Vec<ObjectKey> {
    let namespace = name.and_then(|name| namespaces.get("", name));
    let going = namespace.filter(|namespace| namespace.metadata.deletion_timestamp.is_some());
    going.map(|namespace| ObjectKey::of(&namespace.metadata)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::now;

    fn check(remains: &[Remains], expected: Expect) {
        let lines: Vec<_> = judge(&[], remains, now())
            .into_iter()
            .map(|c| {
                format!("{} {} {}: {}", c.type_, c.status, c.reason.unwrap_or_default(), c.message.unwrap_or_default())
            })
            .collect();
        expected.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn what_remains_is_told() {
        let pods = Remains { resource: "pods.".into(), count: 2, ..Remains::default() };
        let held = Remains {
            resource: "widgets.example.org".into(),
            count: 1,
            finalizers: BTreeMap::from([("example.org/hold".to_owned(), 1)]),
            error: None,
        };
        check(
            &[pods, held],
            expect![[r#"
            NamespaceDeletionDiscoveryFailure False ResourcesDiscovered: All resources successfully discovered
            NamespaceDeletionGroupVersionParsingFailure False ParsedGroupVersions: All legacy kube types successfully parsed
            NamespaceDeletionContentFailure False ContentDeleted: All content successfully deleted, may be waiting on finalization
            NamespaceContentRemaining True SomeResourcesRemain: Some resources are remaining: pods. has 2 resource instances, widgets.example.org has 1 resource instances
            NamespaceFinalizersRemaining True SomeFinalizersRemain: Some content in the namespace has finalizers remaining: example.org/hold in 1 resource instances"#]],
        );
    }

    #[test]
    fn what_cannot_be_deleted_is_told() {
        let failed = Remains { resource: "pods.".into(), error: Some("no".into()), ..Remains::default() };
        check(
            &[failed],
            expect![[r#"
            NamespaceDeletionDiscoveryFailure False ResourcesDiscovered: All resources successfully discovered
            NamespaceDeletionGroupVersionParsingFailure False ParsedGroupVersions: All legacy kube types successfully parsed
            NamespaceDeletionContentFailure True ContentDeletionFailed: Failed to delete all resource types, 1 remaining: no
            NamespaceContentRemaining False ContentRemoved: All content successfully removed
            NamespaceFinalizersRemaining False ContentHasNoFinalizers: All content-preserving finalizers finished"#]],
        );
    }
}
