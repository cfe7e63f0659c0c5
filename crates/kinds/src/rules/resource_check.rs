//! What may be wrong with requests and limits, of containers and of Pods as a whole.

use std::collections::{BTreeMap, BTreeSet};

use skiff_base::Quantity;
use skiff_object::{FieldError, names};

use crate::rules::check::{At, Faults};

/// Checks the requests and limits of a container; `claims` are the names of the Pod's resource claims.
pub fn of_container(faults: &mut Faults, resources: &At, claims: &BTreeSet<&str>) {
    requirements(faults, resources, container_name);
    claim_references(faults, &resources.get("claims"), claims);
}

/// Checks the requests and limits of a whole Pod, and that its containers fit in.
pub fn of_pod(faults: &mut Faults, spec: &At, resources: &At) {
    if !resources.is_set() {
        return;
    }
    if resources.get("claims").is_set() {
        faults.forbidden(&resources.get("claims"), "claims cannot be set for Resources at pod-level");
    }
    requirements(faults, resources, pod_name);
    let requests = resources.get("requests");
    for (name, wanted) in total_requests(spec) {
        let own = requests.get(&name).quantity().unwrap_or(Quantity::ZERO);
        if wanted > own && is_pod_level(&name) {
            let words = format!("must be greater than or equal to aggregate container requests of {wanted}");
            faults.invalid_as(&requests.keyed(&name), own.to_string(), words);
        }
    }
    for (index, container) in spec.get("containers").items().iter().enumerate() {
        for (name, limit) in container.walk(&["resources", "limits"]).entries() {
            let whole = resources.get("limits").get(name);
            if let (Some(part), Some(all)) = (limit.quantity(), whole.quantity())
                && part > all
            {
                let path = resources.path().child("containers").index(index).key(name).child("limits");
                let words = format!("must be less than or equal to pod limits of {all}");
                faults.invalid_as(&limit.renamed(path), part.to_string(), words);
            }
        }
    }
}

/// What the containers of a Pod request together: those that run side by side, or the greatest of those before them.
fn total_requests(spec: &At) -> BTreeMap<String, Quantity> {
    let requests = |container: &At| -> Vec<(String, Quantity)> {
        let all = container.walk(&["resources", "requests"]).entries();
        all.into_iter().filter_map(|(name, at)| Some((name.to_owned(), at.quantity()?))).collect()
    };
    let mut total: BTreeMap<String, Quantity> = BTreeMap::new();
    let add = |total: &mut BTreeMap<String, Quantity>, name: String, quantity: Quantity| {
        let sum = total.get(&name).copied().unwrap_or(Quantity::ZERO).plus(quantity);
        total.insert(name, sum);
    };
    for container in spec.get("containers").items() {
        requests(&container).into_iter().for_each(|(name, quantity)| add(&mut total, name, quantity));
    }
    let mut sidecars: BTreeMap<String, Quantity> = BTreeMap::new();
    let mut first: BTreeMap<String, Quantity> = BTreeMap::new();
    for container in spec.get("initContainers").items() {
        let is_sidecar = container.get("restartPolicy").text() == "Always";
        for (name, quantity) in requests(&container) {
            let beside = sidecars.get(&name).copied().unwrap_or(Quantity::ZERO).plus(quantity);
            if is_sidecar {
                sidecars.insert(name.clone(), beside);
                add(&mut total, name.clone(), quantity);
            }
            let most = first.get(&name).copied().unwrap_or(Quantity::ZERO).max(beside);
            first.insert(name, most);
        }
    }
    for (name, quantity) in first {
        let most = total.get(&name).copied().unwrap_or(Quantity::ZERO).max(quantity);
        total.insert(name, most);
    }
    total
}

fn requirements(faults: &mut Faults, resources: &At, check_name: fn(&mut Faults, &str, &At)) {
    let (limits, requests) = (resources.get("limits"), resources.get("requests"));
    for (name, amount) in limits.entries() {
        check_name(faults, name, &amount);
        quantity(faults, name, &amount);
        huge_pages(faults, name, &amount);
    }
    for (name, amount) in requests.entries() {
        check_name(faults, name, &amount);
        quantity(faults, name, &amount);
        within_limit(faults, name, &amount, &requests, &limits);
        huge_pages(faults, name, &amount);
    }
    let has =
        |wanted: fn(&str) -> bool| [&limits, &requests].iter().any(|m| m.entries().iter().any(|(n, _)| wanted(n)));
    if has(is_huge_page) && !has(|name| matches!(name, "cpu" | "memory")) {
        faults.forbidden(resources, "HugePages require cpu or memory");
    }
}

fn within_limit(faults: &mut Faults, name: &str, request: &At, requests: &At, limits: &At) {
    let may_overcommit = may_overcommit(name);
    let Some(wanted) = request.quantity() else {
        return;
    };
    match limits.get(name).quantity() {
        None if !may_overcommit => faults.required(limits, "Limit must be set for non overcommitable resources"),
        None => {}
        Some(allowed) if !may_overcommit && wanted != allowed => {
            faults.invalid_as(requests, wanted.to_string(), format!("must be equal to {name} limit of {allowed}"));
        }
        Some(allowed) if wanted > allowed => {
            let words = format!("must be less than or equal to {name} limit of {allowed}");
            faults.invalid_as(requests, wanted.to_string(), words);
        }
        Some(_) => {}
    }
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// Huge pages come whole.
fn huge_pages(faults: &mut Faults, name: &str, amount: &At) {
    let size = name.strip_prefix("hugepages-").and_then(|size| size.parse::<Quantity>().ok());
    let (Some(size), Some(wanted)) = (size, amount.quantity()) else {
        return;
    };
    let (size, bytes) = (size.value(), wanted.value());
    if bytes <= 0 || size <= 0 || bytes % size != 0 {
        let words = format!("{wanted} is not positive integer multiple of {name}");
        faults.invalid_as(amount, wanted.to_string(), words);
    }
}

/// Whether Kubernetes itself knows the resource.
pub fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether more may be promised than there is.
pub fn may_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// Resources known by a name without a domain.
const STANDARD: [&str; 20] = [
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

/// Checks the name of any resource; tells whether it is fine.
pub fn any_name(faults: &mut Faults, name: &str, at: &At) -> bool {
    let wrong = names::check_label_key(name);
    let is_fine = wrong.is_empty();
    wrong.into_iter().for_each(|words| faults.invalid_as(at, name, words));
    let is_standard = STANDARD.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-");
    if is_fine && !name.contains('/') && !is_standard {
        faults.invalid_as(at, name, "must be a standard resource type or fully qualified");
        return false;
    }
    is_fine
}

/// Checks the name of a resource that a container may ask for.
pub fn container_name(faults: &mut Faults, name: &str, at: &At) {
    any_name(faults, name, at);
    if !name.contains('/') && !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
        faults.invalid_as(at, name, "must be a standard resource for containers");
    } else if name.contains('/') && !is_native(name) && !is_extended(name) {
        faults.invalid_as(at, name, "doesn't follow extended resource name standard");
    }
}

/// Whether a name is one of what devices and others add to a node.
pub fn is_extended(name: &str) -> bool {
    !is_native(name) && !name.starts_with("requests.") && names::check_label_key(&format!("requests.{name}")).is_empty()
}

fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_page(name)
}

fn pod_name(faults: &mut Faults, name: &str, at: &At) {
    if any_name(faults, name, at) && !is_pod_level(name) {
        faults.not_supported_as(at, name, &["cpu", "hugepages-", "memory"]);
    }
}

/// Checks the quantity of a resource: not negative, and whole where it can only be counted.
pub fn quantity(faults: &mut Faults, name: &str, at: &At) {
    const COUNTED: [&str; 8] = [
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    ];
    let Some(amount) = at.quantity() else {
        return;
    };
    faults.non_negative_quantity(at);
    if (COUNTED.contains(&name) || is_extended(name)) && !amount.is_integer() {
        faults.invalid(at, "must be an integer");
    }
}

/// A container's use of the Pod's claims: each must be there, and be named once.
fn claim_references(faults: &mut Faults, references: &At, claims: &BTreeSet<&str>) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for reference in references.items() {
        let (name, request) = (reference.get("name").text(), reference.get("request"));
        if name.is_empty() {
            faults.required(&reference, "");
            continue;
        }
        faults.name(&request, names::check_dns_label);
        let key = if request.is_blank() { name.to_owned() } else { format!("{name}/{}", request.text()) };
        let part_of_it = |other: &String| other.split_once('/').is_some_and(|(claim, _)| claim == name);
        if seen.contains(name) || (request.is_blank() && seen.iter().any(part_of_it)) {
            faults.duplicate_as(&reference, name);
        } else if seen.contains(&key) {
            faults.duplicate_as(&reference, key.as_str());
        }
        seen.insert(key);
        if !claims.contains(name) {
            let known: Vec<_> = claims.iter().copied().collect();
            let rest = if known.is_empty() { " which is empty".to_owned() } else { format!(": {}", known.join(", ")) };
            let mut error = FieldError::not_found(reference.path(), name);
            error.detail = format!("must be one of the names in pod.spec.resourceClaims{rest}");
            faults.extend([error]);
        }
    }
}
