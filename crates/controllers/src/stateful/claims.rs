//! The volume claims of a StatefulSet's pods: making them, and tying them to what they are to go with. Pure.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#persistentvolumeclaim-retention>.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::decide::Stateful;
use crate::meta::{controller_of, controller_reference};
use crate::plan::{Action, Note, Plan};

/// The name of the claim of one pod.
pub fn claim_name(set: &StatefulSet, template: &PersistentVolumeClaim, ordinal: i32) -> String {
    let (template, set) = (template.metadata.name.as_deref(), set.metadata.name.as_deref());
    format!("{}-{}-{ordinal}", template.unwrap_or_default(), set.unwrap_or_default())
}

impl Stateful<'_> {
    fn claim_templates(&self) -> impl Iterator<Item = &PersistentVolumeClaim> {
        self.spec.volume_claim_templates.iter().flatten()
    }

    /// Whether a claim of the pod with this number is missing.
    pub fn lacks_claims(&self, ordinal: i32) -> bool {
        self.claim_templates()
            .any(|template| !self.observed.claims.contains_key(&claim_name(self.set, template, ordinal)))
    }

    /// Makes the claims that the pod with this number lacks.
    pub fn make_claims(&self, ordinal: i32, plan: &mut Plan) {
        for template in self.claim_templates() {
            let name = claim_name(self.set, template, ordinal);
            if self.observed.claims.contains_key(&name) {
                continue;
            }
            let mut claim = template.clone();
            claim.status = None;
            claim.metadata.name = Some(name.clone());
            claim.metadata.namespace = self.set.metadata.namespace.clone();
            let labels = claim.metadata.labels.get_or_insert_default();
            labels.extend(self.spec.selector.match_labels.clone().unwrap_or_default());
            if self.policy().0 {
                claim.metadata.owner_references = Some(vec![controller_reference(self.set)]);
            }
            let set = self.name();
            let text = format!("create Claim {name} Pod {set}-{ordinal} in StatefulSet {set} success");
            let failed = format!("create Claim {name} for Pod {set}-{ordinal} in StatefulSet {set} failed error: ");
            plan.then(
                Action::create(&claim)
                    .and_tell(Note::normal(self.set, "SuccessfulCreate", text))
                    .or_tell(Note::warning(self.set, "FailedCreate", failed)),
            );
        }
    }

    /// Whether claims go with the set, and whether they go with a pod that is one too many.
    fn policy(&self) -> (bool, bool) {
        let policy = self.spec.persistent_volume_claim_retention_policy.as_ref();
        let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
        (
            deletes(policy.and_then(|policy| policy.when_deleted.as_ref())),
            deletes(policy.and_then(|policy| policy.when_scaled.as_ref())),
        )
    }

    /// Sees to it that the claims of all pods are owned by what they are to go with.
    pub fn keep_claims(&self, plan: &mut Plan) {
        for (ordinal, pod) in &self.pods {
            let surplus = !self.ordinals().contains(ordinal);
            let names = self.claim_templates().map(|template| claim_name(self.set, template, *ordinal));
            for claim in names.filter_map(|name| self.observed.claims.get(&name)) {
                self.tie(claim, self.owner(pod, surplus), pod, plan);
            }
        }
    }

    /// What the claims of a pod go with.
    fn owner(&self, pod: &Pod, surplus: bool) -> Option<OwnerReference> {
        match (self.policy(), surplus) {
            ((_, true), true) => Some(controller_reference(pod)),
            ((true, false), _) | ((true, true), false) => Some(controller_reference(self.set)),
            _ => None,
        }
    }

    fn tie(&self, claim: &PersistentVolumeClaim, owner: Option<OwnerReference>, pod: &Pod, plan: &mut Plan) {
        let known =
            |uid: &String| Some(uid) == self.set.metadata.uid.as_ref() || Some(uid) == pod.metadata.uid.as_ref();
        // A claim that somebody else controls is left to them.
        if controller_of(&claim.metadata).is_some_and(|other| !known(&other.uid)) {
            return;
        }
        let old = claim.metadata.owner_references.clone().unwrap_or_default();
        let mut new: Vec<_> = old.iter().filter(|other| !known(&other.uid)).cloned().collect();
        new.extend(owner);
        if new.iter().map(|owner| &owner.uid).ne(old.iter().map(|owner| &owner.uid)) {
            let mut claim = claim.clone();
            claim.metadata.owner_references = Some(new);
            plan.then(Action::update(&claim));
        }
    }
}
