//! What is kept of objects of which only the metadata is wanted: who each is, who owns it and what holds it. There may be
//! hundreds of thousands of them, so it is as little as possible; and nothing is kept twice where the whole objects are there.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::informer::Term;
use crate::{Change, Informer, Kind, ObjectKey};

/// An object's metadata, as far as it says to whom the object belongs.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(from = "Wire")]
pub struct Outline {
    /// Its namespace; empty where it is in none.
    pub namespace: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its UID.
    pub uid: Arc<str>,
    /// Its revision.
    pub version: Box<str>,
    /// Its owners.
    pub owners: Box<[OwnerReference]>,
    /// What holds it.
    pub finalizers: Box<[String]>,
    /// Whether it is on its way out.
    pub is_deleting: bool,
}

impl From<&ObjectMeta> for Outline {
    fn from(meta: &ObjectMeta) -> Self {
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        Self {
            namespace: text(&meta.namespace),
            name: text(&meta.name),
            uid: meta.uid.as_deref().unwrap_or_default().into(),
            version: text(&meta.resource_version),
            owners: meta.owner_references.as_deref().unwrap_or_default().into(),
            finalizers: meta.finalizers.as_deref().unwrap_or_default().into(),
            is_deleting: meta.deletion_timestamp.is_some(),
        }
    }
}

/// An object as it is sent, without all that is not kept.
#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    metadata: WireMetadata,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireMetadata {
    namespace: Option<Box<str>>,
    name: Option<Box<str>>,
    uid: Option<Arc<str>>,
    resource_version: Option<Box<str>>,
    owner_references: Option<Box<[OwnerReference]>>,
    finalizers: Option<Box<[String]>>,
    deletion_timestamp: Option<IgnoredAny>,
}

impl From<Wire> for Outline {
    fn from(Wire { metadata }: Wire) -> Self {
        Self {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            version: metadata.resource_version.unwrap_or_default(),
            owners: metadata.owner_references.unwrap_or_default(),
            finalizers: metadata.finalizers.unwrap_or_default(),
            is_deleting: metadata.deletion_timestamp.is_some(),
        }
    }
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// It came.
    Added,
    /// It changed.
    Updated,
    /// It went.
    Deleted,
}

type Handler = Box<dyn Fn(Happened, &Arc<Outline>) + Send + Sync>;

/// The outlines of all objects of a resource. Cheap to clone.
#[derive(Clone)]
pub struct Outlines(Arc<dyn Source>, Term);

impl Outlines {
    /// Of objects of which nothing else is read.
    pub(crate) fn alone(informer: Informer<Outline>) -> Self {
        Self(Arc::new(informer), Term::default())
    }

    /// Of objects that are read whole in this process anyway.
    pub(crate) fn of_whole<K: Kind>(informer: Informer<K>) -> Self {
        Self(Arc::new(Whole(informer)), Term::default())
    }

    /// The same, read in a term.
    pub(crate) fn in_term(&self, term: Term) -> Self {
        Self(self.0.clone(), term)
    }

    /// Calls `handler` for every object that is there now (as added) and for every change from now on, as
    /// [`Informer::on_change`] does.
    pub fn on_change(&self, handler: impl Fn(Happened, &Arc<Outline>) + Send + Sync + 'static) {
        self.0.on_change(self.1, Box::new(handler));
    }

    /// How many objects there are in a namespace.
    pub fn count(&self, namespace: &str) -> usize {
        self.0.count(namespace)
    }

    /// Namespaces and names of all objects, in their order.
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.0.keys()
    }

    /// Waits until the first list is there.
    pub async fn synced(&self) {
        self.0.synced().await;
    }
}

trait Source: Send + Sync {
    fn on_change(&self, term: Term, handler: Handler);
    fn count(&self, namespace: &str) -> usize;
    fn keys(&self) -> Vec<ObjectKey>;
    fn synced(&self) -> BoxFuture<'_, ()>;
}

fn happened<K>(change: &Change<K>) -> Happened {
    match change {
        Change::Added(_) => Happened::Added,
        Change::Updated { .. } => Happened::Updated,
        Change::Deleted(_) => Happened::Deleted,
    }
}

impl Source for Informer<Outline> {
    fn on_change(&self, term: Term, handler: Handler) {
        Informer::on_change(&self.in_term(term), move |change| handler(happened(change), change.object()));
    }

    fn count(&self, namespace: &str) -> usize {
        self.count_namespace(namespace)
    }

    fn keys(&self) -> Vec<ObjectKey> {
        Informer::keys(self)
    }

    fn synced(&self) -> BoxFuture<'_, ()> {
        Box::pin(Informer::synced(self))
    }
}

/// Outlines are made of the whole objects when something happens, for as long as somebody wants them.
struct Whole<K>(Informer<K>);

impl<K: Kind> Source for Whole<K> {
    fn on_change(&self, term: Term, handler: Handler) {
        self.0.in_term(term).on_change(move |change| {
            handler(happened(change), &Arc::new(Outline::from(change.object().metadata())));
        });
    }

    fn count(&self, namespace: &str) -> usize {
        self.0.count_namespace(namespace)
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.0.keys()
    }

    fn synced(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.0.synced())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    #[test]
    fn both_ways_to_an_outline_say_the_same() {
        for metadata in [
            json!({"name": "a"}),
            json!({"name": "a", "namespace": "d", "uid": "u", "resourceVersion": "7", "labels": {"a": "b"},
                "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:00:00Z",
                "finalizers": ["x/y"], "managedFields": null,
                "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "o", "uid": "w", "controller": true}]}),
        ] {
            let object = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": []}});
            let whole: Pod = serde_json::from_value(object.clone()).expect("a pod");
            let alone: Outline = serde_json::from_value(object).expect("an object");
            assert_eq!(alone, Outline::from(&whole.metadata));
            assert_eq!(alone.is_deleting, alone.owners.len() == 1);
        }
    }
}
