//! Makes the claims of Pods' generic ephemeral volumes; they go with the Pod.
//! See <https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#generic-ephemeral-volumes>.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_base::Timestamp;
use skiff_client::volumes::claim_name;
use skiff_client::{Informer, ObjectKey};

use crate::meta::{controller_reference, is_controlled_by};
use crate::plan::{Action, Note, Plan};
use crate::pods::is_terminal;
use crate::runner::{Controller, Failure, Setup};

/// What is to be done for a Pod; `existing` finds a claim of its namespace by name.
pub fn reconcile(pod: &Pod, existing: impl Fn(&str) -> Option<Arc<PersistentVolumeClaim>>) -> Plan {
    let mut plan = Plan::nothing();
    if pod.metadata.deletion_timestamp.is_some() || is_terminal(pod) {
        return plan;
    }
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let template = volume.ephemeral.as_ref().and_then(|source| source.volume_claim_template.as_ref());
        let (Some(template), Some(name)) = (template, claim_name(pod, volume)) else { continue };
        if let Some(claim) = existing(&name) {
            if !is_controlled_by(&claim.metadata, pod.metadata.uid.as_ref()) {
                let text = format!("PVC \"{name}\" was not created for the pod");
                plan.then(Action::tell(Note::warning(pod, "ConflictingPVC", text)));
            }
            continue;
        }
        let given = template.metadata.clone().unwrap_or_default();
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name),
                namespace: pod.metadata.namespace.clone(),
                annotations: given.annotations,
                labels: given.labels,
                owner_references: Some(vec![controller_reference(pod)]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec.clone()),
            status: None,
        };
        let failed = Note::warning(pod, "FailedCreate", "ephemeral volume controller: create PVC: ");
        plan.then(Action::create(&claim).or_tell(failed));
    }
    plan
}

/// The controller.
pub struct EphemeralVolumes {
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

impl EphemeralVolumes {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let (pods, claims) = (setup.informer::<Pod>(), setup.informer::<PersistentVolumeClaim>());
        setup.on_change::<Pod>(|change| {
            let pod = change.object();
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let concerned = volumes.into_iter().any(|volume| volume.ephemeral.is_some());
            concerned.then(|| ObjectKey::of(&pod.metadata)).into_iter().collect()
        });
        setup.on_change::<PersistentVolumeClaim>(|change| {
            crate::meta::controller_key::<Pod>(&change.object().metadata).into_iter().collect()
        });
        Arc::new(Self { pods, claims })
    }
}

impl Controller for EphemeralVolumes {
    fn plan(&self, key: &ObjectKey, _now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let Some(pod) = self.pods.by_key(key) else { return Plan::nothing() };
        reconcile(&pod, |name| self.claims.get(&key.namespace, name))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::object;

    #[test]
    fn a_claim_is_made_once_and_for_this_pod_only() {
        let pod: Pod = object(
            "{metadata: {name: p, namespace: d, uid: u}, spec: {containers: [], volumes: [{name: scratch, ephemeral:
                {volumeClaimTemplate: {metadata: {labels: {a: b}}, spec: {accessModes: [ReadWriteOnce]}}}}]}}",
        );
        expect![[r#"
            create persistentvolumeclaims d/p-scratch {"metadata":{"labels":{"a":"b"},"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":true,"controller":true,"kind":"Pod","name":"p","uid":"u"}]},"spec":{"accessModes":["ReadWriteOnce"]}}
        "#]].assert_eq(&reconcile(&pod, |_| None).to_string());
        let mut claim = PersistentVolumeClaim::default();
        expect![[r#"
            tell [ConflictingPVC: PVC "p-scratch" was not created for the pod]
        "#]]
        .assert_eq(&reconcile(&pod, |_| Some(Arc::new(claim.clone()))).to_string());
        claim.metadata.owner_references = Some(vec![controller_reference(&pod)]);
        assert_eq!(reconcile(&pod, |_| Some(Arc::new(claim.clone()))).to_string(), "");
    }
}
