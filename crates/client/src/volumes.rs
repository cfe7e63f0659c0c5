//! What claims and volumes say of each other. The binder, the scheduler and the node must read it alike.
//! See <https://kubernetes.io/docs/concepts/storage/persistent-volumes/>.

use std::fmt::Write;

use k8s_openapi::api::core::v1::{
    NodeSelectorTerm, ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec,
    PersistentVolumeSpec, Pod, Volume,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use skiff_base::Quantity;

use crate::selectors::{selector, selects};

/// On a claim: claim and volume both say that they belong together.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On either: it was the binder that wrote the other's name here, not the user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: the node that the scheduler has chosen for the first Pod that uses it.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a claim: who shall make a volume for it.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same, as older provisioners read it.
pub const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On a class: claims that name no class are meant for it.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The provisioner of classes whose volumes are made by hand.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// Before the driver and its name for the volume, in a Node's status.
const ATTACHED: &str = "kubernetes.io/csi/";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// An annotation's value.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The class that a claim asks for; `None` where it says nothing, the empty string where it wants none.
pub fn claim_class(claim: &PersistentVolumeClaim) -> Option<&str> {
    annotation(&claim.metadata, BETA_CLASS).or(claim.spec.as_ref()?.storage_class_name.as_deref())
}

/// The class that a volume belongs to, or the empty string.
pub fn volume_class(volume: &PersistentVolume) -> &str {
    let named = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata, BETA_CLASS).or(named).unwrap_or_default()
}

/// Whether claims of the class wait for a Pod that uses them.
pub fn waits_for_consumer(class: &StorageClass) -> bool {
    class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer")
}

/// Whether claims without a class are meant for this one.
pub fn is_default_class(class: &StorageClass) -> bool {
    annotation(&class.metadata, DEFAULT_CLASS) == Some("true")
}

/// Whether claim and volume both say that they belong together.
pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata, BIND_COMPLETED).is_some() && !volume_name(claim).is_empty()
}

/// The volume that a claim names, or the empty string.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default()
}

/// The claim that a volume names.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether a volume is meant for this very claim, by the user's word or the binder's.
pub fn is_meant_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let Some(reference) = claim_ref(volume) else { return false };
    let same_name = reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace;
    let uid = reference.uid.as_deref().unwrap_or_default();
    same_name && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
}

/// How much storage a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage")?.0.parse().ok()
}

/// How much storage a volume has.
pub fn capacity(volume: &PersistentVolume) -> Option<Quantity> {
    volume.spec.as_ref()?.capacity.as_ref()?.get("storage")?.0.parse().ok()
}

/// Why a volume is none for a claim, as the event `VolumeMismatch` tells it; `None` where it is one.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let (Some(has), Some(wants)) = (&volume.spec, &claim.spec) else { return Some("incomplete specification") };
    if capacity(volume) < requested(claim) {
        return Some("requested PV is too small");
    }
    if volume_class(volume) != claim_class(claim).unwrap_or_default() {
        return Some("storageClassName does not match");
    }
    if mode(has.volume_mode.as_ref()) != mode(wants.volume_mode.as_ref()) {
        return Some("incompatible volumeMode");
    }
    if has.volume_attributes_class_name != wants.volume_attributes_class_name {
        return Some("volumeAttributesClassName does not match");
    }
    (!offers_access(has, wants)).then_some("incompatible accessMode")
}

fn mode(given: Option<&String>) -> &str {
    given.map_or("Filesystem", String::as_str)
}

fn offers_access(has: &PersistentVolumeSpec, wants: &PersistentVolumeClaimSpec) -> bool {
    let offered = has.access_modes.as_deref().unwrap_or_default();
    wants.access_modes.iter().flatten().all(|wanted| offered.contains(wanted))
}

/// The volume that suits an unbound claim best: one that is meant for it, else the smallest that is free and fits.
/// `accept` says which of the free ones may be taken (all of them, or those that a node can reach).
pub fn best_match<'a, V: AsRef<PersistentVolume> + 'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl IntoIterator<Item = &'a V, IntoIter: Clone>,
    accept: impl Fn(&PersistentVolume) -> bool,
) -> Option<&'a V> {
    let fits = |volume: &PersistentVolume| mismatch(volume, claim).is_none();
    let volumes = volumes.into_iter();
    let meant = volumes.clone().find(|volume| is_meant_for((*volume).as_ref(), claim) && fits((*volume).as_ref()));
    if meant.is_some() {
        return meant;
    }
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref()).map(|raw| selector(Some(raw)));
    let free = volumes.filter(|volume| {
        let volume = (*volume).as_ref();
        let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
        claim_ref(volume).is_none()
            && volume.metadata.deletion_timestamp.is_none()
            && phase == Some("Available")
            && fits(volume)
            && selector.as_ref().is_none_or(|selector| selects(selector, &volume.metadata))
            && accept(volume)
    });
    // Of equals the one that comes first by name, so that the binder and the scheduler agree.
    free.min_by(|a, b| {
        let key = |volume: &'a V| (capacity(volume.as_ref()), volume.as_ref().metadata.name.as_deref());
        key(a).cmp(&key(b))
    })
}

/// The nodes that can reach a volume: those that satisfy one of the terms; `None` where all can.
pub fn node_terms(volume: &PersistentVolume) -> Option<&[NodeSelectorTerm]> {
    let affinity = volume.spec.as_ref()?.node_affinity.as_ref()?;
    Some(&affinity.required.as_ref()?.node_selector_terms)
}

/// The name of the claim behind a Pod's volume, if there is one.
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some(source.claim_name.clone());
    }
    volume.ephemeral.as_ref()?;
    Some(format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name))
}

/// Whether the claim behind a Pod's volume is that Pod's: one that was made for an ephemeral volume of an earlier Pod
/// of the same name is not.
pub fn is_for(pod: &Pod, volume: &Volume, claim: &PersistentVolumeClaim) -> bool {
    let owned = || {
        let mut owners = claim.metadata.owner_references.iter().flatten();
        owners.any(|owner| owner.controller == Some(true) && Some(&owner.uid) == pod.metadata.uid.as_ref())
    };
    volume.ephemeral.is_none() || owned()
}

/// Whether a Pod of the same namespace uses the claim.
pub fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.any(|volume| claim_name(pod, volume) == claim.metadata.name && is_for(pod, volume, claim))
}

/// What a volume of a storage driver is called in a Node's status.
pub fn attached_name(driver: &str, handle: &str) -> String {
    format!("{ATTACHED}{driver}^{handle}")
}

/// The name of the VolumeAttachment that says that a driver's volume is at a node: upstream's digest of the three.
pub fn attachment_name(driver: &str, handle: &str, node: &str) -> String {
    format!("csi-{}", sha256_hex(&[handle, driver, node]))
}

/// The same for a volume as a Node's status calls it; `None` where that is not of a driver.
pub fn attachment_of(attached_name: &str, node: &str) -> Option<String> {
    let (driver, handle) = attached_name.strip_prefix(ATTACHED)?.split_once('^')?;
    Some(attachment_name(driver, handle, node))
}

/// The SHA-256 of texts, in hexadecimal.
pub fn sha256_hex(texts: &[&str]) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    texts.iter().for_each(|text| context.update(text.as_bytes()));
    context.finish().as_ref().iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes all text");
        hex
    })
}

/// The names of all claims that a Pod uses.
pub fn claim_names(pod: &Pod) -> Vec<String> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes.filter_map(|volume| claim_name(pod, volume)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attachments_are_named_by_a_digest_of_volume_driver_and_node() {
        assert_eq!(sha256_hex(&["a", "bc"]), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let named = attached_name("d.example.com", "vol^1");
        assert_eq!(named, "kubernetes.io/csi/d.example.com^vol^1");
        let expected = format!("csi-{}", sha256_hex(&["vol^1d.example.comn1"]));
        assert_eq!(attachment_of(&named, "n1"), Some(expected));
        assert_eq!(attachment_of("kubernetes.io/iscsi/x", "n1"), None);
    }

    fn object<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> K {
        serde_json::from_value(value).expect("of that kind")
    }

    fn volume(name: &str, size: &str, labels: &str) -> Box<PersistentVolume> {
        Box::new(object(serde_json::json!({
            "metadata": {"name": name, "labels": {"disk": labels}},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"], "storageClassName": "fast"},
            "status": {"phase": "Available"},
        })))
    }

    fn claim(spec: serde_json::Value) -> PersistentVolumeClaim {
        let mut whole = serde_json::json!({
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}, "storageClassName": "fast",
        });
        if let (Some(whole), serde_json::Value::Object(more)) = (whole.as_object_mut(), spec) {
            whole.extend(more);
        }
        object(serde_json::json!({"metadata": {"name": "data", "namespace": "d", "uid": "u"}, "spec": whole}))
    }

    #[test]
    fn the_smallest_volume_that_fits_is_taken() {
        let volumes = [volume("small", "4Gi", "ssd"), volume("large", "50Gi", "ssd"), volume("right", "6Gi", "hdd")];
        let best = |spec: serde_json::Value| {
            best_match(&claim(spec), &volumes, |_| true).and_then(|volume| volume.metadata.name.clone())
        };
        assert_eq!(best(serde_json::json!({})).as_deref(), Some("right"));
        assert_eq!(best(serde_json::json!({"selector": {"matchLabels": {"disk": "ssd"}}})).as_deref(), Some("large"));
        assert_eq!(best(serde_json::json!({"storageClassName": ""})), None);
        assert_eq!(best(serde_json::json!({"accessModes": ["ReadWriteMany"]})), None);
        assert_eq!(best(serde_json::json!({"volumeMode": "Block"})), None);
    }

    #[test]
    fn a_volume_that_is_meant_for_the_claim_comes_first() {
        let mut meant = volume("meant", "90Gi", "ssd");
        let reference =
            ObjectReference { name: Some("data".into()), namespace: Some("d".into()), ..Default::default() };
        meant.spec.as_mut().expect("set").claim_ref = Some(reference);
        let volumes = [volume("right", "6Gi", "hdd"), meant];
        let best = best_match(&claim(serde_json::json!({})), &volumes, |_| true);
        assert_eq!(best.and_then(|volume| volume.metadata.name.as_deref()), Some("meant"));
    }
}
