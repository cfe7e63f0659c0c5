//! Whose objects are whose: adoption of orphans that a selector chooses, release of those that it no longer does.
//! One rule for all owners and all that they own. Pure.
//! See <https://kubernetes.io/docs/concepts/overview/working-with-objects/owners-dependents/>.

use std::borrow::Cow;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use skiff_client::{Change, Index, Informer, Kind, ObjectKey};
use skiff_object::LabelSelector;

use crate::meta::{adoption, controller_key, controller_of, is_controlled_by, release, selects};
use crate::plan::{Action, Plan};

/// The objects that are the owner's own; plans to adopt and to let go where labels say so. `may_adopt` tells of an
/// orphan that is chosen whether it is worth it.
pub fn claim<O: Kind, D: Kind>(
    owner: &O,
    chosen: &LabelSelector,
    objects: &[Arc<D>],
    may_adopt: impl Fn(&D) -> bool,
    plan: &mut Plan,
) -> Vec<Arc<D>> {
    let uid = owner.metadata().uid.as_ref();
    let deleting = owner.metadata().deletion_timestamp.is_some();
    let mut mine = Vec::new();
    for object in objects {
        let meta = object.metadata();
        let matches = selects(chosen, meta);
        if is_controlled_by(meta, uid) {
            if matches || deleting {
                mine.push(object.clone());
            } else {
                plan.then(Action::patch::<D>(meta, release(uid, meta.uid.as_ref())));
            }
        } else if controller_of(meta).is_none()
            && matches
            && !deleting
            && meta.deletion_timestamp.is_none()
            && may_adopt(object)
        {
            plan.then(Action::patch::<D>(meta, adoption(owner, meta.uid.as_ref())).only_while(owner));
        }
    }
    mine
}

/// The objects of a kind by their controlling owner, and those of each namespace that have none.
pub struct Owned<D> {
    index: Index<D>,
}

impl<D: Kind> Owned<D> {
    /// Reads through an informer.
    pub fn new(objects: &Informer<D>) -> Self {
        Self { index: objects.index("controller", said_of_owner::<D>) }
    }

    /// Those that are controlled by whoever has this name, now or in an earlier life.
    pub fn of_name<O: Kind>(&self, key: &ObjectKey) -> Vec<Arc<D>> {
        self.index.of(&owner_text(<O as k8s_openapi::Resource>::KIND, &key.name, &key.namespace))
    }

    /// Those of a namespace that are controlled by this owner.
    pub fn of_controller(&self, owner: &OwnerReference, namespace: &str) -> Vec<Arc<D>> {
        let mut objects = self.index.of(&owner_text(&owner.kind, &owner.name, namespace));
        objects.retain(|object| is_controlled_by(object.metadata(), Some(&owner.uid)));
        objects
    }

    /// Those of a namespace that nobody controls.
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<D>> {
        self.index.of(&owner_text("", "", namespace))
    }

    /// Those that the owner controls or could adopt.
    pub fn of<O: Kind>(&self, owner: &O) -> Vec<Arc<D>> {
        let key = ObjectKey::of(owner.metadata());
        let mut objects = self.of_name::<O>(&key);
        objects.extend(self.orphans(&key.namespace));
        retain_own(owner, &mut objects);
        objects
    }
}

fn said_of_owner<D: Kind>(object: &D) -> Option<Cow<'_, str>> {
    let meta = object.metadata();
    let (kind, name) = controller_of(meta).map_or(("", ""), |owner| (&owner.kind, &owner.name));
    Some(Cow::Owned(owner_text(kind, name, meta.namespace.as_deref().unwrap_or_default())))
}

fn owner_text(kind: &str, name: &str, namespace: &str) -> String {
    format!("{kind}/{name}/{namespace}")
}

/// Leaves those that the owner controls or could adopt.
pub fn retain_own<O: Kind, D: Kind>(owner: &O, objects: &mut Vec<Arc<D>>) {
    let uid = owner.metadata().uid.as_ref();
    objects.retain(|object| controller_of(object.metadata()).is_none_or(|owner| Some(&owner.uid) == uid));
}

/// The owners that a change of an object concerns: those that control it now and before; for an orphan those that
/// may adopt it.
pub fn owners_of<O: Kind, D: Kind>(
    change: &Change<D>,
    owners: &Informer<O>,
    chosen: impl Fn(&O) -> LabelSelector,
) -> Vec<ObjectKey> {
    let meta = change.object().metadata();
    let mut keys: Vec<_> = controller_key::<O>(meta).into_iter().collect();
    if let Change::Updated { old, .. } = change {
        keys.extend(controller_key::<O>(old.metadata()).filter(|key| !keys.contains(key)));
    }
    if controller_of(meta).is_none() && !matches!(change, Change::Deleted(_)) {
        let all = owners.list_namespace(meta.namespace.as_deref().unwrap_or_default());
        let willing = all.iter().filter(|owner| selects(&chosen(owner), meta));
        keys.extend(willing.map(|owner| ObjectKey::of(owner.metadata())));
    }
    keys
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use k8s_openapi::api::apps::v1::ReplicaSet;

    use super::*;
    use crate::meta::{controller_reference, selector};
    use crate::pods::is_active;
    use crate::testing::{brief_pods, object};

    #[test]
    fn orphans_are_adopted_and_strangers_let_go() {
        let check = |deletion: &str| {
            let set: ReplicaSet = object(&format!(
                "{{metadata: {{name: web, namespace: d, uid: web-uid{deletion}}}, spec: {{selector: {{matchLabels: {{app: web}}}}}}}}"
            ));
            let texts = ["a ready", "b orphan", "c other", "e orphan failed", "f orphan terminating"];
            let pods = brief_pods(&texts.map(str::to_owned), controller_reference(&set));
            let chosen = selector(set.spec.as_ref().map(|spec| &spec.selector));
            let mut plan = Plan::nothing();
            let mine = claim(&set, &chosen, &pods, is_active, &mut plan);
            (mine.iter().filter_map(|pod| pod.metadata.name.clone()).collect::<Vec<_>>(), plan.to_string())
        };
        let (mine, plan) = check("");
        assert_eq!(mine, ["a"]);
        expect![[r#"
            patch pods d/b {"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","blockOwnerDeletion":true,"controller":true,"kind":"ReplicaSet","name":"web","uid":"web-uid"}],"uid":"b-uid"}}
            patch pods d/c {"metadata":{"ownerReferences":[{"$patch":"delete","uid":"web-uid"}],"uid":"c-uid"}}
        "#]].assert_eq(&plan);
        let (mine, plan) = check(", deletionTimestamp: '2026-01-31T11:59:59Z'");
        assert_eq!((mine.len(), plan.as_str()), (2, ""));
    }
}
