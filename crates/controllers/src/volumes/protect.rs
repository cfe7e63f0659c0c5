//! Keeps claims that Pods use and volumes that claims use from vanishing under them: a finalizer stays until nobody does.
//! See <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection>.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use skiff_base::Timestamp;
use skiff_client::volumes::{claim_names, uses};
use skiff_client::{Change, Informer, ObjectKey};

use crate::finalizers::guard;
use crate::plan::Plan;
use crate::pods::is_terminal;
use crate::runner::{Controller, Failure, Setup};

/// On claims.
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
/// On volumes.
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// Guards claims.
pub struct Claims {
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
}

impl Claims {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let (claims, pods) = (setup.informer::<PersistentVolumeClaim>(), setup.informer::<Pod>());
        setup.for_each::<PersistentVolumeClaim>();
        setup.on_change::<Pod>(|change| {
            let pod = change.object();
            if !matches!(change, Change::Deleted(_)) && !is_terminal(pod) {
                return Vec::new();
            }
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            claim_names(pod).into_iter().map(|name| ObjectKey::new(namespace.clone(), name)).collect()
        });
        Arc::new(Self { claims, pods })
    }
}

impl Controller for Claims {
    fn plan(&self, key: &ObjectKey, _now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let Some(claim) = self.claims.by_key(key) else { return Plan::nothing() };
        let used = claim.metadata.deletion_timestamp.is_some()
            && self.pods.list_namespace(&key.namespace).iter().any(|pod| holds(pod, &claim));
        guard(&*claim, CLAIM_FINALIZER, used)
    }
}

/// A Pod that has no node yet does not use its claims, nor one that has ended.
fn holds(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    placed && !is_terminal(pod) && uses(pod, claim)
}

/// Guards volumes.
pub struct Volumes {
    volumes: Informer<PersistentVolume>,
}

impl Volumes {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let volumes = setup.informer::<PersistentVolume>();
        setup.for_each::<PersistentVolume>();
        Arc::new(Self { volumes })
    }
}

impl Controller for Volumes {
    fn plan(&self, key: &ObjectKey, _now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let Some(volume) = self.volumes.by_key(key) else { return Plan::nothing() };
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        guard(&*volume, VOLUME_FINALIZER, phase == Some("Bound"))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::object;

    fn check(claim: &str, used: bool, expected: Expect) {
        let claim: PersistentVolumeClaim = object(claim);
        expected.assert_eq(&guard(&claim, CLAIM_FINALIZER, used).to_string());
    }

    #[test]
    fn what_is_used_stays() {
        let going = "{metadata: {name: c, namespace: d, deletionTimestamp: '2026-01-31T12:00:00Z', finalizers: [kubernetes.io/pvc-protection, x.io/y]}}";
        check(
            "{metadata: {name: c, namespace: d}}",
            false,
            expect![[r#"
            update persistentvolumeclaims d/c {"metadata":{"finalizers":["kubernetes.io/pvc-protection"]}}
        "#]],
        );
        check(going, true, expect![[r#""#]]);
        check(
            going,
            false,
            expect![[r#"
            update persistentvolumeclaims d/c {"metadata":{"deletionTimestamp":"2026-01-31T12:00:00Z","finalizers":["x.io/y"]}}
        "#]],
        );
    }
}
