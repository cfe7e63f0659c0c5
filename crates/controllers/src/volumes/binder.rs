//! Brings claims and volumes together, and takes volumes back from claims that are gone.
//! See <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#lifecycle-of-a-volume-and-claim>.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, Pod,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_base::Timestamp;
use skiff_client::events::reference;
use skiff_client::volumes::*;
use skiff_client::{Change, Index, Informer, ObjectKey};
use skiff_kinds::rules::default_choice::rank;

use crate::plan::{Action, Note, Plan};
use crate::runner::{Controller, Failure, Setup};

/// A claim that waits is looked at again after this time, as upstream does.
const RESYNC: Duration = Duration::from_secs(15);

/// Under these words free volumes and unbound claims are found.
const FREE: &str = "";
const UNBOUND: &str = "unbound";

/// What a claim's state depends on.
pub struct ClaimView<'a> {
    /// The claim.
    pub claim: &'a PersistentVolumeClaim,
    /// The volumes that it names or may get.
    pub volumes: &'a [Arc<PersistentVolume>],
    /// All classes.
    pub classes: &'a [Arc<StorageClass>],
    /// Pods that use the claim and have no node yet.
    pub unplaced: &'a [Arc<Pod>],
}

/// What is to be done about a claim.
pub fn reconcile_claim(view: &ClaimView) -> Plan {
    let mut plan = Plan::nothing();
    let claim = view.claim;
    if claim.metadata.deletion_timestamp.is_some() && !is_bound(claim) {
        return plan;
    }
    let named = volume_name(claim);
    let volume = view.volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(named));
    if annotation(&claim.metadata, BIND_COMPLETED).is_some() {
        keep_bound(claim, volume, &mut plan);
    } else if named.is_empty() {
        find_volume(view, &mut plan);
    } else {
        take_named(claim, volume, &mut plan);
    }
    plan
}

/// A claim that was bound before: it stays so, or has lost its volume.
fn keep_bound(claim: &PersistentVolumeClaim, volume: Option<&Arc<PersistentVolume>>, plan: &mut Plan) {
    let lost = match volume {
        _ if volume_name(claim).is_empty() => {
            ("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
        }
        None => ("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!"),
        Some(volume) if claim_ref(volume).is_none() || is_meant_for(volume, claim) => return bind(claim, volume, plan),
        Some(_) => ("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
    };
    if phase(claim) != "Lost" {
        let mut told = claim.clone();
        told.status = Some(PersistentVolumeClaimStatus { phase: Some("Lost".into()), ..Default::default() });
        plan.then(Action::update_status(&told).and_tell(Note::warning(claim, lost.0, lost.1)));
    }
}

/// A claim that names its volume itself.
fn take_named(claim: &PersistentVolumeClaim, volume: Option<&Arc<PersistentVolume>>, plan: &mut Plan) {
    match volume {
        Some(volume) if is_meant_for(volume, claim) || claim_ref(volume).is_none() => match mismatch(volume, claim) {
            // Once the volume says so itself there is no way back.
            Some(why) if claim_ref(volume).is_none() => {
                let name = volume.metadata.name.as_deref().unwrap_or_default();
                let text = format!("Cannot bind to requested volume \"{name}\": {why}");
                pend(claim, plan);
                plan.then(Action::tell(Note::warning(claim, "VolumeMismatch", text)));
            }
            _ => bind(claim, volume, plan),
        },
        // It may come yet, or be given back.
        _ => pend(claim, plan),
    }
}

/// A claim that takes any volume that suits it.
fn find_volume(view: &ClaimView, plan: &mut Plan) {
    let claim = view.claim;
    let class = view.classes.iter().find(|class| class.metadata.name.as_deref() == claim_class(claim));
    let waits =
        class.is_some_and(|class| waits_for_consumer(class)) && annotation(&claim.metadata, SELECTED_NODE).is_none();
    if let Some(volume) = best_match(claim, view.volumes, |_| !waits) {
        return bind(claim, volume, plan);
    }
    if claim_class(claim).is_none()
        && let Some(default) = default_class(view.classes)
    {
        let mut claim = claim.clone();
        claim.spec.get_or_insert_default().storage_class_name.clone_from(&default.metadata.name);
        return plan.then(Action::update(&claim));
    }
    pend(claim, plan);
    plan.look_again(RESYNC);
    let (reason, message) = match class {
        _ if waits => match view.unplaced.first() {
            None => ("WaitForFirstConsumer", "waiting for first consumer to be created before binding".to_owned()),
            Some(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                ("WaitForPodScheduled", format!("waiting for pod {name} to be scheduled"))
            }
        },
        Some(class) if class.provisioner != NO_PROVISIONER => return ask_for_volume(claim, &class.provisioner, plan),
        None if !claim_class(claim).unwrap_or_default().is_empty() => {
            let name = claim_class(claim).unwrap_or_default();
            let text = format!("storageclass.storage.k8s.io \"{name}\" not found");
            return plan.then(Action::tell(Note::warning(claim, "ProvisioningFailed", text)));
        }
        _ => {
            let text = "no persistent volumes available for this claim and no storage class is set";
            ("FailedBinding", text.to_owned())
        }
    };
    plan.then(Action::tell(Note::normal(claim, reason, message)));
}

/// The class of claims that name none.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<&Arc<StorageClass>> {
    let defaults = classes.iter().filter(|class| is_default_class(class));
    defaults.min_by_key(|class| {
        let created = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        rank(created, class.metadata.name.as_deref().unwrap_or_default())
    })
}

/// Names the provisioner on the claim, which is the sign for it to begin.
fn ask_for_volume(claim: &PersistentVolumeClaim, provisioner: &str, plan: &mut Plan) {
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    let note = Note::normal(claim, "ExternalProvisioning", text);
    if annotation(&claim.metadata, STORAGE_PROVISIONER) == Some(provisioner) {
        return plan.then(Action::tell(note));
    }
    let mut claim = claim.clone();
    for key in [STORAGE_PROVISIONER, BETA_STORAGE_PROVISIONER] {
        annotate(&mut claim.metadata, key, provisioner);
    }
    plan.then(Action::update(&claim).and_tell(note));
}

fn phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn pend(claim: &PersistentVolumeClaim, plan: &mut Plan) {
    if phase(claim) != "Pending" {
        let mut told = claim.clone();
        told.status.get_or_insert_default().phase = Some("Pending".into());
        plan.then(Action::update_status(&told));
    }
}

/// Writes on both what they lack: first the volume, so that no two claims ever have the same one.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume, plan: &mut Plan) {
    let (mut claim, mut volume) = (claim.clone(), volume.clone());
    let uid = claim_ref(&volume).and_then(|reference| reference.uid.clone()).filter(|uid| !uid.is_empty());
    if uid != claim.metadata.uid {
        if claim_ref(&volume).is_none() {
            annotate(&mut volume.metadata, BOUND_BY_CONTROLLER, "yes");
        }
        let version = claim.metadata.resource_version.clone();
        let reference = ObjectReference { resource_version: version, ..reference(&claim) };
        volume.spec.get_or_insert_default().claim_ref = Some(reference);
        plan.then(Action::update(&volume));
    }
    set_phase(&mut volume, "Bound", plan);
    let completed = annotation(&claim.metadata, BIND_COMPLETED).is_some();
    if !completed || Some(volume_name(&claim)) != volume.metadata.name.as_deref() {
        if volume_name(&claim).is_empty() {
            annotate(&mut claim.metadata, BOUND_BY_CONTROLLER, "yes");
        }
        annotate(&mut claim.metadata, BIND_COMPLETED, "yes");
        claim.spec.get_or_insert_default().volume_name.clone_from(&volume.metadata.name);
        plan.then(Action::update(&claim));
    }
    tell_bound(&mut claim, &volume, plan);
}

fn annotate(meta: &mut ObjectMeta, key: &str, value: &str) {
    meta.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
}

fn tell_bound(claim: &mut PersistentVolumeClaim, volume: &PersistentVolume, plan: &mut Plan) {
    let (was_bound, has) = (phase(claim) == "Bound", volume.spec.clone().unwrap_or_default());
    let status = claim.status.get_or_insert_default();
    // What is bound keeps its size: an expansion reaches the volume first and is not done until the node says so.
    if was_bound && status.access_modes == has.access_modes && status.capacity.is_some() {
        return;
    }
    status.phase = Some("Bound".into());
    (status.access_modes, status.capacity) = (has.access_modes, has.capacity);
    plan.then(Action::update_status(claim));
}

fn set_phase(volume: &mut PersistentVolume, wanted: &str, plan: &mut Plan) {
    let status = volume.status.get_or_insert_default();
    if status.phase.as_deref() != Some(wanted) {
        status.phase = Some(wanted.to_owned());
        plan.then(Action::update_status(volume));
    }
}

/// What is to be done about a volume; `claim` is the one that it names, if that is there.
pub fn reconcile_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan {
    let mut plan = Plan::nothing();
    let volume = &mut volume.clone();
    let Some(reference) = claim_ref(volume) else {
        set_phase(volume, "Available", &mut plan);
        return plan;
    };
    let uid = reference.uid.clone().unwrap_or_default();
    if uid.is_empty() {
        // The user keeps it for a claim that has not come yet.
        set_phase(volume, "Available", &mut plan);
        return plan;
    }
    let Some(claim) = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(&uid)) else {
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        if phase != "Failed" {
            set_phase(volume, "Released", &mut plan);
        }
        return plan;
    };
    if Some(volume_name(claim)) == volume.metadata.name.as_deref() {
        set_phase(volume, "Bound", &mut plan);
    } else if !volume_name(claim).is_empty() {
        give_back(volume, &mut plan);
    }
    plan
}

/// The claim has gone to another volume: this one is free again, or, made for that claim alone, superfluous.
fn give_back(volume: &mut PersistentVolume, plan: &mut Plan) {
    let policy = volume.spec.as_ref().and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    if annotation(&volume.metadata, PROVISIONED_BY).is_some() && policy == Some("Delete") {
        return set_phase(volume, "Released", plan);
    }
    let by_us = annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some();
    volume.metadata.annotations.get_or_insert_default().remove(BOUND_BY_CONTROLLER);
    let reference = &mut volume.spec.get_or_insert_default().claim_ref;
    if by_us {
        *reference = None;
    } else if let Some(reference) = reference {
        (reference.uid, reference.resource_version) = (None, None);
    }
    plan.then(Action::update(volume));
    set_phase(volume, "Available", plan);
}

/// The controller. Claims have keys with a namespace, volumes keys without.
pub struct Binder {
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    /// By the claim that they are meant for; those that are free by the empty name.
    by_claim: Index<PersistentVolume>,
    classes: Informer<StorageClass>,
    pods: Informer<Pod>,
}

impl Binder {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup) -> Arc<dyn Controller> {
        let claims = setup.informer::<PersistentVolumeClaim>();
        let volumes = setup.informer::<PersistentVolume>();
        let (classes, pods) = (setup.informer::<StorageClass>(), setup.informer::<Pod>());
        let by_claim = volumes.index("claim", |volume| {
            let claim = claim_ref(volume).map(|reference| {
                ObjectKey::new(
                    reference.namespace.clone().unwrap_or_default(),
                    reference.name.clone().unwrap_or_default(),
                )
            });
            Some(claim.map_or(Cow::Borrowed(FREE), |key| Cow::Owned(key.to_string())))
        });
        let (of_claim, all_claims) = (by_claim.clone(), ClaimsFound::new(&claims));
        setup.on_change::<PersistentVolumeClaim>(move |change| keys_of_claim(change, &of_claim));
        setup.on_change::<PersistentVolume>(move |change| keys_of_volume(change, &all_claims));
        let all_claims = ClaimsFound::new(&claims);
        setup.on_change::<StorageClass>(move |_| all_claims.unbound());
        Arc::new(Self { claims, volumes, by_claim, classes, pods })
    }
}

/// Claims that are looked for.
struct ClaimsFound {
    unbound: Index<PersistentVolumeClaim>,
    by_volume: Index<PersistentVolumeClaim>,
}

impl ClaimsFound {
    fn new(claims: &Informer<PersistentVolumeClaim>) -> Self {
        Self {
            unbound: claims.index("unbound", |claim| (!is_bound(claim)).then_some(Cow::Borrowed(UNBOUND))),
            by_volume: claims.index("volume", |claim| Some(Cow::Borrowed(volume_name(claim)))),
        }
    }

    fn unbound(&self) -> Vec<ObjectKey> {
        self.unbound.of(UNBOUND).iter().map(|claim| ObjectKey::of(&claim.metadata)).collect()
    }
}

fn keys_of_claim(change: &Change<PersistentVolumeClaim>, volumes: &Index<PersistentVolume>) -> Vec<ObjectKey> {
    let key = ObjectKey::of(&change.object().metadata);
    let named = volumes.of(&key.to_string());
    let mut keys = vec![key];
    keys.extend(named.iter().map(|volume| ObjectKey::of(&volume.metadata)));
    keys
}

fn keys_of_volume(change: &Change<PersistentVolume>, claims: &ClaimsFound) -> Vec<ObjectKey> {
    let volume = change.object();
    let mut keys = vec![ObjectKey::of(&volume.metadata)];
    match claim_ref(volume) {
        Some(reference) => keys.push(ObjectKey::new(
            reference.namespace.clone().unwrap_or_default(),
            reference.name.clone().unwrap_or_default(),
        )),
        None => keys.extend(claims.unbound()),
    }
    // A claim that names the volume itself.
    let naming = claims.by_volume.of(volume.metadata.name.as_deref().unwrap_or_default());
    keys.extend(naming.iter().map(|claim| ObjectKey::of(&claim.metadata)));
    keys
}

impl Controller for Binder {
    fn plan(&self, key: &ObjectKey, _now: Timestamp, _failure: Option<&Failure>) -> Plan {
        if key.namespace.is_empty() {
            let Some(volume) = self.volumes.by_key(key) else { return Plan::nothing() };
            let claim = claim_ref(&volume)
                .and_then(|reference| self.claims.get(reference.namespace.as_deref()?, reference.name.as_deref()?));
            return reconcile_volume(&volume, claim.as_deref());
        }
        let Some(claim) = self.claims.by_key(key) else { return Plan::nothing() };
        let mut unplaced = Vec::new();
        if !is_bound(&claim) {
            unplaced = self.pods.list_namespace(&key.namespace);
            unplaced.retain(|pod| {
                pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()) && claim_names(pod).contains(&key.name)
            });
        }
        reconcile_claim(&ClaimView {
            claim: &claim,
            volumes: &self.volumes_for(&claim, key),
            classes: &self.classes.list(),
            unplaced: &unplaced,
        })
    }
}

impl Binder {
    /// The volume that a claim names; all that it may get where it names none.
    fn volumes_for(&self, claim: &PersistentVolumeClaim, key: &ObjectKey) -> Vec<Arc<PersistentVolume>> {
        match volume_name(claim) {
            "" => [self.by_claim.of(&key.to_string()), self.by_claim.of(FREE)].concat(),
            named => self.volumes.get("", named).into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::object;

    const CLAIM: &str = "metadata: {name: data, namespace: d, uid: cu, resourceVersion: '7'}";

    fn check_claim(claim: &str, volumes: &[&str], classes: &[&str], expected: Expect) {
        let claim: PersistentVolumeClaim = object(&format!("{{{CLAIM}, {claim}}}"));
        let volumes: Vec<_> = volumes.iter().map(|text| Arc::new(object(text))).collect();
        let classes: Vec<_> = classes.iter().map(|text| Arc::new(object(text))).collect();
        let view = ClaimView { claim: &claim, volumes: &volumes, classes: &classes, unplaced: &[] };
        expected.assert_eq(&reconcile_claim(&view).to_string());
    }

    const SPEC: &str =
        "spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}, storageClassName: fast}";
    const FREE: &str = "{metadata: {name: v, uid: vu, resourceVersion: '3'}, status: {phase: Available},
        spec: {capacity: {storage: 2Gi}, accessModes: [ReadWriteOnce], storageClassName: fast}}";

    #[test]
    fn a_claim_takes_a_volume_that_fits() {
        check_claim(
            SPEC,
            &[FREE],
            &[],
            expect![[r#"
            update persistentvolumes v {"metadata":{"annotations":{"pv.kubernetes.io/bound-by-controller":"yes"}},"spec":{"accessModes":["ReadWriteOnce"],"capacity":{"storage":"2Gi"},"claimRef":{"apiVersion":"v1","kind":"PersistentVolumeClaim","name":"data","namespace":"d","resourceVersion":"7","uid":"cu"},"storageClassName":"fast"}}
            update persistentvolumes/status v {"phase":"Bound"}
            update persistentvolumeclaims d/data {"metadata":{"annotations":{"pv.kubernetes.io/bind-completed":"yes","pv.kubernetes.io/bound-by-controller":"yes"}},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}},"storageClassName":"fast","volumeName":"v"}}
            update persistentvolumeclaims/status d/data {"accessModes":["ReadWriteOnce"],"capacity":{"storage":"2Gi"},"phase":"Bound"}
        "#]],
        );
    }

    #[test]
    fn a_claim_of_a_class_waits_or_asks() {
        let waiting = "{metadata: {name: fast}, provisioner: p.io/x, volumeBindingMode: WaitForFirstConsumer}";
        check_claim(
            SPEC,
            &[FREE],
            &[waiting],
            expect![[r#"
            update persistentvolumeclaims/status d/data {"phase":"Pending"}
            tell [WaitForFirstConsumer: waiting for first consumer to be created before binding]
            look again in 15 s
        "#]],
        );
        check_claim(
            SPEC,
            &[],
            &["{metadata: {name: fast}, provisioner: p.io/x}"],
            expect![[r#"
            update persistentvolumeclaims/status d/data {"phase":"Pending"}
            update persistentvolumeclaims d/data {"metadata":{"annotations":{"volume.beta.kubernetes.io/storage-provisioner":"p.io/x","volume.kubernetes.io/storage-provisioner":"p.io/x"}},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}},"storageClassName":"fast"}} [ExternalProvisioning: Waiting for a volume to be created either by the external provisioner 'p.io/x' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.]
            look again in 15 s
        "#]],
        );
        check_claim(
            SPEC,
            &[],
            &[],
            expect![[r#"
            update persistentvolumeclaims/status d/data {"phase":"Pending"}
            tell [ProvisioningFailed: storageclass.storage.k8s.io "fast" not found]
            look again in 15 s
        "#]],
        );
        let without = SPEC.replace(", storageClassName: fast", "");
        let default = "{metadata: {name: std, annotations: {storageclass.kubernetes.io/is-default-class: 'true'}}, provisioner: p.io/x}";
        check_claim(
            &without,
            &[],
            &[default],
            expect![[r#"
            update persistentvolumeclaims d/data {"metadata":{},"spec":{"accessModes":["ReadWriteOnce"],"resources":{"requests":{"storage":"1Gi"}},"storageClassName":"std"}}
        "#]],
        );
    }

    #[test]
    fn a_claim_that_lost_its_volume_says_so() {
        let bound =
            "metadata: {name: data, namespace: d, uid: cu, annotations: {pv.kubernetes.io/bind-completed: 'yes'}},
            spec: {volumeName: v}, status: {phase: Bound}";
        let claim: PersistentVolumeClaim = object(&format!("{{{bound}}}"));
        let view = ClaimView { claim: &claim, volumes: &[], classes: &[], unplaced: &[] };
        expect![[r#"
            update persistentvolumeclaims/status d/data {"phase":"Lost"} [ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!]
        "#]].assert_eq(&reconcile_claim(&view).to_string());
    }

    fn check_volume(volume: &str, claim: Option<&str>, expected: Expect) {
        let claim = claim.map(object::<PersistentVolumeClaim>);
        expected.assert_eq(&reconcile_volume(&object(volume), claim.as_ref()).to_string());
    }

    #[test]
    fn volumes_follow_their_claims() {
        let bound = "{metadata: {name: v, uid: vu}, status: {phase: Bound}, spec: {claimRef: {name: data, namespace: d, uid: cu}}}";
        check_volume(
            bound,
            None,
            expect![[r#"
            update persistentvolumes/status v {"phase":"Released"}
        "#]],
        );
        check_volume(
            bound,
            Some("{metadata: {name: data, uid: other}}"),
            expect![[r#"
            update persistentvolumes/status v {"phase":"Released"}
        "#]],
        );
        check_volume(bound, Some("{metadata: {name: data, uid: cu}, spec: {volumeName: v}}"), expect![[r#""#]]);
        check_volume(
            bound,
            Some("{metadata: {name: data, uid: cu}, spec: {volumeName: w}}"),
            expect![[r#"
            update persistentvolumes v {"metadata":{"annotations":{}},"spec":{"claimRef":{"name":"data","namespace":"d"}}}
            update persistentvolumes/status v {"phase":"Available"}
        "#]],
        );
        check_volume(
            "{metadata: {name: v, uid: vu}, spec: {}}",
            None,
            expect![[r#"
            update persistentvolumes/status v {"phase":"Available"}
        "#]],
        );
    }
}
