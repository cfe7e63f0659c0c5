//! Garbage collection: what has lost its owners goes, in the background, in the foreground, or not at all.
//! The decisions are [`graph::Graph`]'s; this file feeds it and carries its verdicts out.
//! See <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>.

mod graph;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use parking_lot::Mutex;
use serde_json::json;
use skiff_base::clock::SharedClock;
use skiff_client::{
    Client, Definition, DeleteOptions, Error, Happened, Informers, Outline, Outlines, PartialObject, Patch, Recorder,
    Resource, WorkQueue,
};

use self::graph::{Graph, Item, OwnerState, Verdict};
use crate::resources::{Deletable, custom};
use crate::runner::Setup;

/// Who events come from.
const NAME: &str = "garbage-collector-controller";
/// Objects that are worked on at the same time.
const WORKERS: usize = 8;

/// The controller.
pub struct GarbageCollector {
    recorder: Recorder,
    client: Client,
    informers: Informers,
    graph: Mutex<Graph>,
    queue: Arc<WorkQueue<String>>,
    /// What is watched, by group and kind as owner references name them.
    watched: Mutex<HashMap<(String, String), Watched>>,
    /// The built-in kinds.
    builtin: Vec<Deletable>,
}

struct Watched {
    deletable: Deletable,
    /// Kept so that the watch goes on; custom resources' ends with their definition.
    outlines: Outlines,
}

impl GarbageCollector {
    /// Runs until dropped, over these kinds and custom ones.
    pub async fn run(mut setup: Setup, client: Client, clock: SharedClock, builtin: Vec<Deletable>) {
        let collector = Arc::new(Self {
            recorder: Recorder::start(client.clone(), clock, NAME, ""),
            client,
            informers: setup.informers().clone(),
            graph: Mutex::default(),
            queue: WorkQueue::named("garbage_collector_attempt_to_delete"),
            watched: Mutex::default(),
            builtin,
        });
        let definitions = setup.informer::<Definition>();
        for deletable in &collector.builtin {
            collector.watch(deletable.clone());
        }
        let (weak, known) = (Arc::downgrade(&collector), definitions.clone());
        definitions.on_change(move |_| {
            if let Some(collector) = weak.upgrade() {
                collector.follow(custom(&known));
            }
        });
        definitions.synced().await;
        // Nothing is judged before everything is known, lest owners seem absent that are only not listed yet.
        let outlines: Vec<_> = collector.watched.lock().values().map(|watched| watched.outlines.clone()).collect();
        for outlines in outlines {
            outlines.synced().await;
        }
        let first = collector.graph.lock().all_with_owners_or_finalizers();
        first.into_iter().for_each(|uid| collector.queue.add(uid));
        join_all((0..WORKERS).map(|_| collector.work())).await;
    }

    fn watch(self: &Arc<Self>, deletable: Deletable) {
        let resource = Arc::new(deletable.resource.clone());
        let kind = (resource.group.to_string(), resource.kind.to_string());
        // Events come and go by the thousand and are nobody's dependents.
        if resource.kind == "Event" || self.watched.lock().contains_key(&kind) {
            return;
        }
        let outlines = self.informers.metadata(&resource);
        self.watched.lock().insert(kind, Watched { deletable, outlines: outlines.clone() });
        let weak = Arc::downgrade(self);
        outlines.on_change(move |happened, object| note(&weak, &resource, happened, object));
    }

    /// Watches the custom resources that came, and lets go of those that went.
    fn follow(self: &Arc<Self>, custom: Vec<Deletable>) {
        self.watched.lock().retain(|_, watched| {
            let stays = self.builtin.contains(&watched.deletable) || custom.contains(&watched.deletable);
            if !stays {
                self.informers.forget_metadata(&watched.deletable.resource);
            }
            stays
        });
        custom.into_iter().for_each(|deletable| self.watch(deletable));
    }

    async fn work(&self) {
        while let Some(uid) = self.queue.next().await {
            match self.attend_to(&uid).await {
                Ok(()) => self.queue.forget(&uid),
                Err(error) if error.is_not_found() => self.queue.forget(&uid),
                Err(error) => {
                    if !error.is_conflict() {
                        tracing::debug!(uid, %error, "garbage collection failed");
                    }
                    self.queue.retry(uid.clone());
                }
            }
            self.queue.done(&uid);
        }
    }

    async fn attend_to(&self, uid: &str) -> Result<(), Error> {
        let mut told = BTreeMap::new();
        loop {
            let (verdict, item) = {
                let graph = self.graph.lock();
                (graph.decide(uid, &told), graph.get(uid).cloned())
            };
            let Some(item) = item else { return Ok(()) };
            self.tell_misplaced(&item);
            match verdict {
                Verdict::Ask(owners) => {
                    for owner in item.owners.iter().filter(|owner| owners.contains(&owner.uid)) {
                        let state = self.ask(&item, owner).await?;
                        told.insert(owner.uid.clone(), state);
                    }
                }
                other => return self.carry_out(&item, other).await,
            }
        }
    }

    /// An owner in another namespace is none, and whoever wrote it should know.
    fn tell_misplaced(&self, item: &Item) {
        for owner in self.graph.lock().misplaced(&item.uid) {
            let about = ObjectReference {
                api_version: Some(item.resource.api_version()),
                kind: Some(item.resource.kind.to_string()),
                namespace: Some(item.namespace.to_string()).filter(|namespace| !namespace.is_empty()),
                name: Some(item.name.to_string()),
                uid: Some(item.uid.to_string()),
                ..ObjectReference::default()
            };
            let (version, kind, name, uid) = (&owner.api_version, &owner.kind, &owner.name, &owner.uid);
            let text = format!(
                "ownerRef [{version}/{kind}, namespace: {}, name: {name}, uid: {uid}] does not exist in namespace {:?}",
                item.namespace, item.namespace
            );
            self.recorder.record(&about, true, "OwnerRefInvalidNamespace", text);
        }
    }

    /// Asks the server itself for an owner that the caches do not show.
    async fn ask(&self, item: &Item, owner: &OwnerReference) -> Result<OwnerState, Error> {
        let Some(path) = self.path_of(item, owner) else {
            // A kind that is not served here cannot be judged; the object stays.
            return Ok(OwnerState::Solid);
        };
        match self.client.get_path::<PartialObject>(&path).await {
            Ok(found) if found.metadata.uid.as_ref() == Some(&owner.uid) => Ok(OwnerState::Solid),
            Ok(_) => Ok(self.absent(owner)),
            Err(error) if error.is_not_found() => Ok(self.absent(owner)),
            Err(error) => Err(error),
        }
    }

    fn absent(&self, owner: &OwnerReference) -> OwnerState {
        self.graph.lock().note_absent(&owner.uid);
        OwnerState::Absent
    }

    /// Owners live in the namespace of what they own, or in none.
    fn path_of(&self, item: &Item, owner: &OwnerReference) -> Option<String> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let watched = self.watched.lock();
        let deletable = &watched.get(&(group.to_owned(), owner.kind.clone()))?.deletable;
        let namespace = if deletable.namespaced { &*item.namespace } else { "" };
        if deletable.namespaced && namespace.is_empty() {
            return None;
        }
        Some(deletable.resource.object_path(namespace, &owner.name, ""))
    }

    async fn carry_out(&self, item: &Item, verdict: Verdict) -> Result<(), Error> {
        match verdict {
            Verdict::Keep | Verdict::Ask(_) => Ok(()),
            Verdict::Disown(owners) => self.disown(item, &owners).await,
            Verdict::Delete(policy) => {
                let options =
                    DeleteOptions { propagation_policy: Some(policy), ..DeleteOptions::of_uid(item.uid.to_string()) };
                self.client.delete_path(&path(item), &options).await
            }
            Verdict::Await(dependents) => {
                self.graph.lock().note_awaited(&item.uid);
                dependents.into_iter().for_each(|uid| self.queue.add(uid));
                Ok(())
            }
            Verdict::Release(finalizer) => self.release(item, finalizer).await,
            Verdict::OrphanDependents(dependents) => {
                for uid in dependents {
                    let dependent = self.graph.lock().get(&uid).cloned();
                    if let Some(dependent) = dependent {
                        self.disown(&dependent, &[item.uid.to_string()]).await.or_else(unless_gone)?;
                    }
                }
                self.release(item, graph::ORPHAN).await
            }
        }
    }

    async fn disown(&self, item: &Item, owners: &[String]) -> Result<(), Error> {
        let left: Vec<_> = item.owners.iter().filter(|owner| !owners.contains(&owner.uid)).collect();
        self.patch(item, json!({"ownerReferences": left})).await
    }

    async fn release(&self, item: &Item, finalizer: &str) -> Result<(), Error> {
        let left: Vec<_> = item.finalizers.iter().filter(|name| *name != finalizer).collect();
        self.patch(item, json!({"finalizers": left})).await
    }

    /// Changes metadata as it was seen: a conflict means that it is to be looked at anew.
    async fn patch(&self, item: &Item, mut metadata: serde_json::Value) -> Result<(), Error> {
        metadata["uid"] = json!(&*item.uid);
        metadata["resourceVersion"] = json!(item.version);
        self.client.patch_raw(&path(item), &Patch::Merge(json!({"metadata": metadata}))).await.map(drop)
    }
}

fn path(item: &Item) -> String {
    item.resource.object_path(&item.namespace, &item.name, "")
}

fn unless_gone(error: Error) -> Result<(), Error> {
    if error.is_not_found() { Ok(()) } else { Err(error) }
}

fn note(collector: &Weak<GarbageCollector>, resource: &Arc<Resource>, happened: Happened, object: &Arc<Outline>) {
    let Some(collector) = collector.upgrade() else { return };
    let concerned = match happened {
        Happened::Deleted => collector.graph.lock().remove(&object.uid),
        _ => collector.graph.lock().set(Item { resource: resource.clone(), object: object.clone() }),
    };
    concerned.into_iter().for_each(|uid| collector.queue.add(uid));
}
