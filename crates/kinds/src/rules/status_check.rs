//! What may be wrong with the numbers in a status, which only controllers write.

use crate::rules::check::{At, Faults};

/// Numbers that must not be negative.
pub fn counts(faults: &mut Faults, status: &At, fields: &[&str]) {
    for field in fields {
        faults.non_negative(&status.get(field));
    }
}

/// Numbers that must not be greater than another.
pub fn within(faults: &mut Faults, status: &At, fields: &[&str], bound: &str, words: &str) {
    let limit = status.get(bound).int().unwrap_or(0);
    for field in fields {
        let at = status.get(field);
        if at.int().is_some_and(|number| number > limit) {
            faults.invalid(&at, words);
        }
    }
}

/// A number that must not fall, or go.
pub fn not_decremented(faults: &mut Faults, new: &At, old: &At) {
    if let Some(before) = old.int()
        && new.int().is_none_or(|now| now < before)
    {
        faults.invalid_as(new, new.int().map_or(serde_json::Value::Null, Into::into), "cannot be decremented");
    }
}

/// Checks the status of what keeps a number of Pods, as ReplicaSets and their like have it.
pub fn replicas(faults: &mut Faults, status: &At, fields: &[&str]) {
    counts(faults, status, &["replicas"]);
    counts(faults, status, fields);
    counts(faults, status, &["readyReplicas", "availableReplicas", "terminatingReplicas", "observedGeneration"]);
    within(faults, status, fields, "replicas", "cannot be greater than status.replicas");
    let both = ["readyReplicas", "availableReplicas"];
    within(faults, status, &both, "replicas", "cannot be greater than status.replicas");
    within(faults, status, &["availableReplicas"], "readyReplicas", "cannot be greater than readyReplicas");
}
