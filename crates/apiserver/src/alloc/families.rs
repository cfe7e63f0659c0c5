//! Which families of addresses a Service has: what it asks for, as far as the cluster has it. Decided before anything is
//! allocated, and without looking at anything but the Service.
//! See <https://kubernetes.io/docs/concepts/services-networking/dual-stack/#services>.

use serde_json::json;
use skiff_base::Family;
use skiff_kinds::rules::check::{At, Faults};
use skiff_kinds::rules::service_check;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, Object};

const SINGLE: &str = "SingleStack";
const PREFERRED: &str = "PreferDualStack";
const REQUIRED: &str = "RequireDualStack";

/// Fills in the policy and the families of a Service, and takes away the second ones where it is to have one only.
/// `cluster` are the families that the cluster has, the primary one first.
pub(super) fn settle(cluster: &[Family], new: &mut Object, old: Option<&Object>) -> ErrorList {
    if kind(new) == "ExternalName" || old.is_some_and(|old| prefers_the_same(new, old)) {
        return ErrorList::new();
    }
    if policy(new).is_empty() {
        let policy = match old.map(policy) {
            Some(before) if !before.is_empty() => before.to_owned(),
            _ if is_free(new) => REQUIRED.to_owned(),
            _ => SINGLE.to_owned(),
        };
        new.set_at(&["spec", "ipFamilyPolicy"], policy);
    }
    // What cannot be read is told as such, and nothing is made of it.
    let mut faults = Faults::new();
    service_check::cluster_addresses(&mut faults, &At::top(new, "spec"));
    let mut errors = faults.into_list();
    if !errors.is_empty() {
        return errors;
    }
    if let Some(old) = old {
        release(new, old, &mut errors);
    }
    forbid_second(new, &mut errors);
    infer(cluster, new, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    // One that has neither addresses nor Pods may have any families.
    if !is_free(new) {
        demand(cluster, new, &mut errors);
    }
    if errors.is_empty() {
        complete(cluster, new);
    }
    errors
}

fn kind(service: &Object) -> &str {
    service.str_at(&["spec", "type"])
}

fn policy(service: &Object) -> &str {
    service.str_at(&["spec", "ipFamilyPolicy"])
}

fn texts<'a>(service: &'a Object, field: &str) -> Vec<&'a str> {
    service.list_at(&["spec", field]).iter().filter_map(|text| text.as_str()).collect()
}

/// Headless and without a selector: whoever made it writes its endpoints.
fn is_free(service: &Object) -> bool {
    let has_selector =
        service.at(&["spec", "selector"]).and_then(|all| all.as_object()).is_some_and(|all| !all.is_empty());
    service.str_at(&["spec", "clusterIP"]) == "None" && !has_selector
}

/// Who prefers two families keeps what it has when the cluster gets or loses one.
fn prefers_the_same(new: &Object, old: &Object) -> bool {
    let same = |field| texts(new, field) == texts(old, field);
    kind(new) == kind(old)
        && matches!(kind(new), "ClusterIP" | "NodePort" | "LoadBalancer")
        && policy(new) == PREFERRED
        && matches!(policy(old), "" | PREFERRED)
        && same("clusterIPs")
        && same("ipFamilies")
}

/// To ask for one family, and to change nothing else, lets the second address go.
fn release(new: &mut Object, old: &Object, errors: &mut ErrorList) {
    for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
        let (now, before) = (texts(new, field), texts(old, field));
        if policy(new) != SINGLE {
            if !now.is_empty() && now.len() < before.len() {
                let why = format!("must be 'SingleStack' to release the secondary {what}");
                errors.push(FieldError::invalid(&policy_path(), policy(new), why));
            }
        } else if now == before && now.len() > 1 {
            let first = json!([now[0]]);
            new.set_at(&["spec", field], first);
        }
    }
}

fn policy_path() -> FieldPath {
    FieldPath::new("spec").child("ipFamilyPolicy")
}

fn forbid_second(new: &Object, errors: &mut ErrorList) {
    for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
        if policy(new) == SINGLE && texts(new, field).len() == 2 {
            let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified");
            errors.push(FieldError::invalid(&policy_path(), SINGLE, why));
        }
    }
}

/// The families of the addresses that are asked for.
fn infer(cluster: &[Family], new: &mut Object, errors: &mut ErrorList) {
    let mut families: Vec<String> = texts(new, "ipFamilies").into_iter().map(str::to_owned).collect();
    let addresses = texts(new, "clusterIPs");
    for (index, address) in addresses.iter().enumerate().skip(families.len()) {
        let Ok(address) = address.parse() else { break };
        let family = Family::of(address);
        if cluster.contains(&family) {
            families.push(family.name().to_owned());
        } else {
            let path = FieldPath::new("spec").child("clusterIPs").index(index);
            let why = format!("{family} is not configured on this cluster");
            errors.push(FieldError::invalid(&path, json!(addresses), why));
        }
    }
    if !families.is_empty() {
        new.set_at(&["spec", "ipFamilies"], json!(families));
    }
}

/// What is asked for must be there.
fn demand(cluster: &[Family], new: &Object, errors: &mut ErrorList) {
    if policy(new) == REQUIRED && cluster.len() < 2 {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(&policy_path(), REQUIRED, why));
    }
    for (index, family) in texts(new, "ipFamilies").into_iter().enumerate() {
        if !Family::parse(family).is_some_and(|family| cluster.contains(&family)) {
            let path = FieldPath::new("spec").child("ipFamilies").index(index);
            errors.push(FieldError::invalid(&path, family, "not configured on this cluster"));
        }
    }
}

/// The cluster's first family where none was asked for, and the other one where two are wanted.
fn complete(cluster: &[Family], new: &mut Object) {
    let mut families: Vec<Family> = texts(new, "ipFamilies").into_iter().filter_map(Family::parse).collect();
    if families.is_empty() {
        families.extend(cluster.first());
    }
    let may_have_both = is_free(new) || cluster.len() == 2;
    if let [only] = families[..]
        && policy(new) != SINGLE
        && may_have_both
    {
        families.push(only.other());
    }
    new.set_at(&["spec", "ipFamilies"], json!(families.iter().map(|family| family.name()).collect::<Vec<_>>()));
}

#[cfg(test)]
mod tests;
