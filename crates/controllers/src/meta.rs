//! What all controllers ask of metadata: owners, selectors, names.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;
use skiff_base::Timestamp;
use skiff_base::ids::Ids;
pub use skiff_client::selectors::{Labels, labels_selector, selector, selects};
pub use skiff_client::volumes::annotation;
use skiff_client::{Kind, ObjectKey, Patch};

/// The longest base that a generated name keeps, so that with its suffix it stays a DNS label.
const MAX_GENERATED_BASE: usize = 58;
/// How many letters a generated name ends with.
const SUFFIX_LETTERS: usize = 5;

/// The owner that controls the object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the object with this UID controls the other.
pub fn is_controlled_by(meta: &ObjectMeta, uid: Option<&String>) -> bool {
    controller_of(meta).is_some_and(|owner| Some(&owner.uid) == uid)
}

/// The key of the controlling owner, if that is of the given kind.
pub fn controller_key<K: Kind>(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controller_of(meta).filter(|owner| owner.kind == <K as k8s_openapi::Resource>::KIND)?;
    Some(ObjectKey::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()))
}

/// The reference by which an object controls another.
pub fn controller_reference<K: Kind>(owner: &K) -> OwnerReference {
    let meta = owner.metadata();
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: <K as k8s_openapi::Resource>::KIND.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The patch that makes `owner` control the object with this UID.
pub fn adoption<K: Kind>(owner: &K, uid: Option<&String>) -> Patch {
    let reference = controller_reference(owner);
    Patch::Strategic(json!({"metadata": {"uid": uid, "ownerReferences": [reference]}}))
}

/// The patch that makes the owner with this UID let go of an object.
pub fn release(owner_uid: Option<&String>, uid: Option<&String>) -> Patch {
    Patch::Strategic(json!({"metadata": {"uid": uid, "ownerReferences": [{"$patch": "delete", "uid": owner_uid}]}}))
}

/// A name made of a base and a random suffix, as `generateName` makes it; chosen here so that plans know it.
pub fn generated_name(base: &str, ids: &Ids) -> String {
    let end = base.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_GENERATED_BASE).last().unwrap_or(0);
    let base = if base.len() <= MAX_GENERATED_BASE { base } else { &base[..end] };
    format!("{base}{}", ids.suffix(SUFFIX_LETTERS))
}

/// A number or a percentage of `total`.
pub fn scaled(value: &IntOrString, total: i32, round_up: bool) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(total);
            let share = if round_up { (product + 99) / 100 } else { product / 100 };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

/// A time as objects carry it, whole seconds.
pub fn time(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// Zero is not written, as upstream's `omitempty` does.
pub fn nonzero(number: i32) -> Option<i32> {
    (number != 0).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let percent = |text: &str| IntOrString::String(text.into());
        assert_eq!(scaled(&percent("25%"), 10, true), 3);
        assert_eq!(scaled(&percent("25%"), 10, false), 2);
        assert_eq!(scaled(&IntOrString::Int(4), 10, true), 4);
    }

    #[test]
    fn generated_names_stay_dns_labels() {
        let ids = Ids::seeded(1);
        assert_eq!(generated_name("web-", &ids).len(), 9);
        assert_eq!(generated_name(&"x".repeat(80), &ids).len(), 63);
    }
}
