//! What PodGroups and the templates of PodGroups in Workloads have in common: a policy, constraints and a priority.
//! See <https://kubernetes.io/docs/concepts/workloads/podgroup-api/>.

use skiff_object::names;

use super::check::{At, Faults, IMMUTABLE};

/// The greatest priority that is not the system's own.
const PRIORITY_LIMIT: i64 = 1_000_000_000;
/// How many topology constraints there may be.
const TOPOLOGY_LIMIT: usize = 1;

/// Checks what a group and its template both have.
pub fn group(faults: &mut Faults, spec: &At) {
    policy(faults, &spec.get("schedulingPolicy"));
    let topology = spec.get("schedulingConstraints").get("topology");
    if faults.at_most_items(&topology, TOPOLOGY_LIMIT) {
        topology.items().iter().for_each(|one| faults.needs_name(&one.get("key"), names::check_label_key));
    }
    faults.choice(&spec.get("disruptionMode"), &["Pod", "PodGroup"]);
    faults.name(&spec.get("priorityClassName"), names::check_dns_subdomain);
    let priority = spec.get("priority");
    if priority.int().is_some_and(|value| value > PRIORITY_LIMIT) {
        faults.invalid(&priority, format!("must be less than or equal to {PRIORITY_LIMIT}"));
    }
}

fn policy(faults: &mut Faults, policy: &At) {
    one_of(faults, policy, &["basic", "gang"]);
    let gang = policy.get("gang");
    let count = gang.get("minCount");
    match count.int().filter(|_| gang.is_set()) {
        None => {}
        Some(0) => faults.required(&count, ""),
        Some(number) if number < 1 => faults.invalid(&count, "must be greater than or equal to 1"),
        Some(_) => {}
    }
}

/// Exactly one of these fields must be set.
pub fn one_of(faults: &mut Faults, at: &At, fields: &[&str]) {
    let quoted = || fields.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ");
    let set: Vec<&str> = fields.iter().copied().filter(|field| at.get(field).is_set()).collect();
    match set.len() {
        0 => faults.invalid_as(at, "", format!("must specify one of: {}", quoted())),
        1 => {}
        _ => {
            let words = format!("must specify exactly one of: {}", quoted());
            faults.invalid_as(at, format!("{{{}}}", set.join(", ")), words);
        }
    }
}

/// Each of these fields must be as it was; what it became is not shown.
pub fn unchanged(faults: &mut Faults, new: &At, old: &At, fields: &[&str]) {
    for field in fields {
        let (new, old) = (new.get(field), old.get(field));
        let differs = if new.is_blank() { !old.is_blank() } else { new.value() != old.value() };
        if differs {
            faults.invalid_as(&new, "null", IMMUTABLE);
        }
    }
}
