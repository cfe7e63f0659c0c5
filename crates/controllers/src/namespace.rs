//! The end of a namespace: all that is in it is deleted first, then its finalizer is taken off.
//! What is told of it is decided purely by [`judge`]; the deleting is one sweep over all resources.
//! See <https://kubernetes.io/docs/concepts/overview/working-with-objects/namespaces/>.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use futures_util::{FutureExt, StreamExt};
use http::Method;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use skiff_base::Timestamp;
use skiff_base::clock::SharedClock;
use skiff_client::{
    Change, Client, Definition, DeleteOptions, Error, Informer, Kind, ObjectKey, ObjectList, PartialObject,
};

use crate::meta::time;
use crate::resources::{Deletable, builtin, custom, of_other_servers};
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

/// What a sweep left of everything.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Swept {
    /// By resource.
    pub remains: Vec<Remains>,
    /// Versions of groups that cannot be asked what they have, each with the reason.
    pub unknown: Vec<String>,
}

impl Swept {
    fn is_clean(&self) -> bool {
        self.unknown.is_empty() && self.remains.iter().all(|r| r.count == 0 && r.error.is_none())
    }
}

/// The conditions that tell how far the deletion is; those of others are left as they are.
pub fn judge(old: &[NamespaceCondition], swept: &Swept, now: Timestamp) -> Vec<NamespaceCondition> {
    let remains = &swept.remains;
    let left: Vec<_> = remains.iter().filter(|r| r.count > 0).collect();
    let errors: Vec<_> = remains.iter().filter_map(|r| r.error.clone()).collect();
    let mut finalizers: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, count) in left.iter().flat_map(|r| &r.finalizers) {
        *finalizers.entry(name).or_default() += count;
    }
    let told = |holds: bool, yes: (&'static str, String), no: (&'static str, &str)| {
        if holds { (true, yes.0, yes.1) } else { (false, no.0, no.1.to_owned()) }
    };
    // Sorted, so that the same state is always told in the same words.
    let join = |mut parts: Vec<String>| {
        parts.sort_unstable();
        parts.join(", ")
    };
    let content = join(left.iter().map(|r| format!("{} has {} resource instances", r.resource, r.count)).collect());
    let held = join(finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect());
    let failed = format!("Failed to delete all resource types, {} remaining: {}", errors.len(), join(errors.clone()));
    let unknown = format!(
        "Discovery failed for some groups, {} failing: unable to retrieve the complete list of server APIs: {}",
        swept.unknown.len(),
        join(swept.unknown.clone())
    );
    let all = [
        (
            "NamespaceDeletionDiscoveryFailure",
            told(
                !swept.unknown.is_empty(),
                ("DiscoveryFailed", unknown),
                ("ResourcesDiscovered", "All resources successfully discovered"),
            ),
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
    let mut conditions = old.to_vec();
    for new in all.into_iter().map(condition) {
        match conditions.iter_mut().find(|condition| condition.type_ == new.type_) {
            Some(condition) => *condition = new,
            None => conditions.push(new),
        }
    }
    conditions
}

/// Objects that nothing holds should have gone with the request that deleted them, Pods within the time that they are given.
fn unexpected(namespace: &str, deletable: &Deletable, left: &[PartialObject], is_in_time: bool) -> Option<String> {
    let is_held = left.iter().any(|object| object.metadata.finalizers.as_ref().is_some_and(|names| !names.is_empty()));
    let resource = &deletable.resource;
    let gvr = format!("{}/{}, Resource={}", resource.group, resource.version, resource.plural);
    let why = || format!("unexpected items still remain in namespace: {namespace} for gvr: {gvr}");
    (!left.is_empty() && !is_held && !is_in_time).then(why)
}

/// Whether some Pod has time left since its namespace was deleted.
fn are_in_time(going: &Namespace, pods: &[Arc<Pod>], now: Timestamp) -> bool {
    let Some(deleted) = going.metadata.deletion_timestamp.as_ref().map(|deleted| deleted.0) else { return true };
    let is_over = |pod: &Pod| {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    };
    let grace = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(0);
    let longest = pods.iter().filter(|pod| !is_over(pod)).map(|pod| grace(pod)).max().unwrap_or(0);
    now.as_second().saturating_sub(deleted.as_second()) < longest
}

/// The controller.
pub struct Namespaces {
    namespaces: Informer<Namespace>,
    pods: Informer<Pod>,
    services: Informer<APIService>,
    definitions: Informer<Definition>,
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
        let (pods, services, definitions) = (setup.informer(), setup.informer(), setup.informer());
        let queue = setup.queue.clone();
        setup.synced().await;
        let builtin = builtin().into_iter().filter(|deletable| deletable.namespaced).collect();
        let controller = Self { namespaces, pods, services, definitions, builtin, client, clock };
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
        let swept = self.sweep(&namespace, &key.name).await;
        if swept.is_clean() {
            return self.finalize(&namespace).await.map(|()| true);
        }
        self.tell(&namespace, &swept).await.map(|()| false)
    }

    async fn sweep(&self, going: &Namespace, namespace: &str) -> Swept {
        // Pods first, and nothing else before they are gone: what protects them, a NetworkPolicy say, must outlive them.
        let (pods, mut all): (Vec<_>, Vec<_>) = self.builtin.iter().cloned().partition(is_pods);
        for deletable in &pods {
            let is_in_time = are_in_time(going, &self.pods.list_namespace(namespace), self.clock.now());
            let remains = self.sweep_one(namespace, deletable, is_in_time).await;
            if remains.count > 0 || remains.error.is_some() {
                return Swept { remains: vec![remains], ..Swept::default() };
            }
        }
        let (of_others, unknown) = of_other_servers(&self.client, &self.services).await;
        all.extend(custom(&self.definitions).into_iter().chain(of_others).filter(|deletable| deletable.namespaced));
        let sweeps: Vec<BoxFuture<'_, _>> =
            all.iter().map(|deletable| self.sweep_one(namespace, deletable, false).boxed()).collect();
        Swept { remains: futures_util::stream::iter(sweeps).buffer_unordered(SWEEPS_AT_ONCE).collect().await, unknown }
    }

    async fn sweep_one(&self, namespace: &str, deletable: &Deletable, is_in_time: bool) -> Remains {
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
                remains.error = unexpected(namespace, deletable, &left, is_in_time);
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

    async fn tell(&self, namespace: &Namespace, swept: &Swept) -> Result<(), Error> {
        let old = namespace.status.clone().unwrap_or_default();
        let conditions = judge(old.conditions.as_deref().unwrap_or_default(), swept, self.clock.now());
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
    use std::time::Duration;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::now;

    fn check(remains: &[Remains], unknown: &[&str], expected: Expect) {
        let unknown = unknown.iter().map(|&text| text.to_owned()).collect();
        let lines: Vec<_> = judge(&[], &Swept { remains: remains.to_vec(), unknown }, now())
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
            &[held, pods],
            &[],
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
            &["a.io/v1: stale GroupVersion discovery: a.io/v1"],
            expect![[r#"
            NamespaceDeletionDiscoveryFailure True DiscoveryFailed: Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: a.io/v1: stale GroupVersion discovery: a.io/v1
            NamespaceDeletionGroupVersionParsingFailure False ParsedGroupVersions: All legacy kube types successfully parsed
            NamespaceDeletionContentFailure True ContentDeletionFailed: Failed to delete all resource types, 1 remaining: no
            NamespaceContentRemaining False ContentRemoved: All content successfully removed
            NamespaceFinalizersRemaining False ContentHasNoFinalizers: All content-preserving finalizers finished"#]],
        );
    }

    #[test]
    fn conditions_of_others_stay_and_times_tell_of_changes() {
        let old = |kind: &str, status: &str| NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            ..NamespaceCondition::default()
        };
        let before = [
            old("Own", "True"),
            old("NamespaceContentRemaining", "True"),
            old("NamespaceDeletionContentFailure", "True"),
        ];
        let pods = Remains { resource: "pods.".into(), count: 1, ..Remains::default() };
        let told = judge(&before, &Swept { remains: vec![pods], ..Swept::default() }, now());
        let told: Vec<_> =
            told.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.last_transition_time.is_some())).collect();
        let expected = [
            ("Own", "True", false),
            ("NamespaceContentRemaining", "True", false),
            ("NamespaceDeletionContentFailure", "False", true),
            ("NamespaceDeletionDiscoveryFailure", "False", true),
            ("NamespaceDeletionGroupVersionParsingFailure", "False", true),
            ("NamespaceFinalizersRemaining", "False", true),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn pods_have_the_longest_of_their_times() {
        let read = |text: &str| serde_saphyr::from_str::<Pod>(text).map(Arc::new).expect("a Pod");
        let pods = [
            read("{spec: {containers: [], terminationGracePeriodSeconds: 30}}"),
            read("{spec: {containers: [], terminationGracePeriodSeconds: 5}}"),
            read("{spec: {containers: [], terminationGracePeriodSeconds: 90}, status: {phase: Failed}}"),
        ];
        let mut going = Namespace::default();
        assert!(are_in_time(&going, &[], now()), "nobody has deleted it");
        going.metadata.deletion_timestamp = Some(time(now()));
        let after = |seconds| now() + Duration::from_secs(seconds);
        assert!(are_in_time(&going, &pods, after(29)) && !are_in_time(&going, &pods, after(30)));
        assert!(!are_in_time(&going, &[], now()));
    }

    #[test]
    fn what_should_be_gone_is_told() {
        let pods = builtin().into_iter().find(is_pods).expect("pods");
        let left = |finalizers: &[&str]| {
            let text = format!("{{metadata: {{name: p, finalizers: {finalizers:?}}}}}");
            vec![serde_saphyr::from_str::<PartialObject>(&text).expect("an object")]
        };
        assert_eq!(
            unexpected("d", &pods, &left(&[]), false).as_deref(),
            Some("unexpected items still remain in namespace: d for gvr: /v1, Resource=pods")
        );
        assert_eq!(unexpected("d", &pods, &left(&[]), true), None);
        assert_eq!(unexpected("d", &pods, &left(&["example.org/hold"]), false), None);
        assert_eq!(unexpected("d", &pods, &[], false), None);
    }
}
