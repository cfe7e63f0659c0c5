//! The history of a template as ControllerRevisions, for the kinds that keep theirs so.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use serde_json::{Value, json};
use skiff_base::ids::hashed;
use skiff_client::{Informer, Kind};
use skiff_object::LabelSelector;

use crate::claims::{Owned, owners_of, retain_own};
use crate::meta::{Labels, controller_of, controller_reference};
use crate::plan::{Action, Plan};
use crate::runner::Setup;

/// The label by which pods name the revision that they came of, and DaemonSets' revisions themselves.
pub const REVISION_HASH: &str = "controller-revision-hash";
/// The label by which StatefulSets' revisions name themselves.
pub const STATEFUL_HASH: &str = "controller.kubernetes.io/hash";
/// How many old revisions are kept where the spec does not say.
pub const DEFAULT_HISTORY: i32 = 10;

/// The owner's template as it stands in a revision.
pub fn data_of(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = json!("replace");
    json!({"spec": {"template": template}})
}

fn hash(data: &Value, collisions: Option<i32>) -> String {
    let count = collisions.map(|count| count.to_string()).unwrap_or_default();
    let text = data.to_string();
    hashed(&[&text, &count])
}

/// The name of a revision without its owner's: its hash.
pub fn hash_of(revision: &ControllerRevision) -> String {
    let label = revision.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_HASH));
    label.cloned().unwrap_or_default()
}

/// The template that a revision stands for, on top of nothing.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

/// What a set with a history has, or might adopt.
pub struct Belongings {
    /// Pods.
    pub pods: Vec<Arc<Pod>>,
    /// The history of its template.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// The names of others' revisions in its namespace.
    pub foreign: Vec<String>,
}

/// Where the belongings of such sets are seen.
pub struct Seen {
    pods: Owned<Pod>,
    revisions: Informer<ControllerRevision>,
}

impl Seen {
    /// Brings every set to the queue whose belongings change; `chosen` says which pods and revisions a set may adopt.
    pub fn new<K: Kind>(setup: &mut Setup, chosen: fn(&K) -> LabelSelector) -> Self {
        setup.for_each::<K>();
        let sets = setup.informer::<K>();
        let known = sets.clone();
        setup.on_change::<Pod>(move |change| owners_of(change, &known, chosen));
        setup.on_change::<ControllerRevision>(move |change| owners_of(change, &sets, chosen));
        Self { pods: Owned::new(&setup.informer()), revisions: setup.informer() }
    }

    /// What a set has.
    pub fn of<K: Kind>(&self, set: &K) -> Belongings {
        let namespace = set.metadata().namespace.as_deref().unwrap_or_default();
        let pods = self.pods.of(set);
        let mut revisions = self.revisions.list_namespace(namespace);
        let foreign = foreign_names(set, &revisions);
        retain_own(set, &mut revisions);
        Belongings { pods, revisions, foreign }
    }
}

/// The names of those revisions that neither belong to the owner nor to nobody.
fn foreign_names<K: Kind>(owner: &K, all: &[Arc<ControllerRevision>]) -> Vec<String> {
    let uid = owner.metadata().uid.as_ref();
    let foreign = all.iter().filter(|revision| controller_of(&revision.metadata).is_some_and(|o| Some(&o.uid) != uid));
    foreign.filter_map(|revision| revision.metadata.name.clone()).collect()
}

/// The revisions that a new one is to fit in with.
pub struct History<'a> {
    /// The owner's own.
    pub mine: &'a [Arc<ControllerRevision>],
    /// Names that others have taken.
    pub foreign: &'a [String],
    /// The label by which revisions name their hash.
    pub hash_label: &'static str,
}

impl History<'_> {
    /// The revision of the present template, and the collision count with which it got its name. Where there is no
    /// such revision it is planned, and where an old one is right again it becomes the newest.
    pub fn sync<K: Kind>(
        &self,
        owner: &K,
        template: &PodTemplateSpec,
        collisions: Option<i32>,
        plan: &mut Plan,
    ) -> (ControllerRevision, Option<i32>) {
        let data = data_of(template);
        let newest = self.mine.iter().map(|revision| revision.revision).max().unwrap_or(0);
        let same = |revision: &&Arc<ControllerRevision>| revision.data.as_ref().is_some_and(|raw| raw.0 == data);
        if let Some(found) = self.mine.iter().filter(same).max_by_key(|revision| revision.revision) {
            let mut found = (**found).clone();
            if found.revision < newest {
                found.revision = newest + 1;
                plan.then(Action::update(&found));
            }
            return (found, collisions);
        }
        let (name, hash, collisions) = self.free_name(owner, &data, collisions);
        let meta = owner.metadata();
        let mut labels: Labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
        labels.insert(self.hash_label.to_owned(), hash);
        let revision = ControllerRevision {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: meta.namespace.clone(),
                labels: Some(labels),
                annotations: meta.annotations.clone().filter(|annotations| !annotations.is_empty()),
                owner_references: Some(vec![controller_reference(owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(data)),
            revision: newest + 1,
        };
        plan.then(Action::create(&revision));
        (revision, collisions)
    }

    /// A name with its hash, after as many collisions as it takes.
    fn free_name<K: Kind>(&self, owner: &K, data: &Value, collisions: Option<i32>) -> (String, String, Option<i32>) {
        let base = owner.metadata().name.as_deref().unwrap_or_default();
        let mut collisions = collisions;
        loop {
            let hash = hash(data, collisions);
            let name = format!("{base}-{hash}");
            let mut mine = self.mine.iter().filter_map(|revision| revision.metadata.name.as_ref());
            if !self.foreign.contains(&name) && mine.all(|taken| *taken != name) {
                return (name, hash, collisions);
            }
            collisions = Some(collisions.unwrap_or(0) + 1);
        }
    }
}

/// Plans the end of the oldest revisions beyond the limit that no pod came of.
pub fn clean_up(
    existing: &[Arc<ControllerRevision>],
    in_use: impl Fn(&ControllerRevision) -> bool,
    limit: i32,
    plan: &mut Plan,
) {
    let mut old: Vec<_> = existing.iter().filter(|revision| !in_use(revision)).collect();
    old.sort_by_key(|revision| revision.revision);
    let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    for revision in old.into_iter().take(surplus) {
        plan.then(Action::delete(&**revision));
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;

    use super::*;
    use crate::testing::object;

    #[test]
    fn a_template_that_comes_back_takes_its_old_revision() {
        let owner: DaemonSet = object("{metadata: {name: log, namespace: d, uid: u}}");
        let template = |image: &str| -> PodTemplateSpec {
            object(&format!(
                "{{metadata: {{labels: {{app: d}}}}, spec: {{containers: [{{name: c, image: {image}}}]}}}}"
            ))
        };
        let mut plan = Plan::nothing();
        let mut sync = |mine: &[Arc<ControllerRevision>], foreign: &[String], image: &str| {
            let history = History { mine, foreign, hash_label: REVISION_HASH };
            history.sync(&owner, &template(image), None, &mut plan)
        };
        let (first, _) = sync(&[], &[], "v1");
        let (second, _) = sync(&[Arc::new(first.clone())], &[], "v2");
        assert_eq!((first.revision, second.revision), (1, 2));
        let all = [Arc::new(first.clone()), Arc::new(second)];
        let (again, _) = sync(&all, &[], "v1");
        let (other, collisions) = sync(&[], &first.metadata.name.iter().cloned().collect::<Vec<_>>(), "v1");
        assert_eq!(collisions, Some(1));
        assert_ne!(other.metadata.name, first.metadata.name);
        assert_eq!((again.metadata.name.clone(), again.revision), (first.metadata.name, 3));
        assert_eq!(template_of(&again), Some(template("v1")));
        assert_eq!(plan.steps.len(), 4);
        let mut plan = Plan::nothing();
        clean_up(&all, |revision| revision.metadata.name == again.metadata.name, 0, &mut plan);
        assert_eq!(plan.steps.len(), 1);
    }
}
