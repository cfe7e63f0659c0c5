//! What may be wrong with a Pod, and with a change of one: most of a Pod is settled when it is made.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/#pod-update-and-replacement>.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use super::resize;
use crate::def::Context;
use crate::rules::address;
use crate::rules::check::{At, Faults, changed};
use crate::rules::pod_check::{APP_ARMOR_ANNOTATION, MIRROR_ANNOTATION};
use crate::rules::{pod_check, security_check, tree};

pub(super) fn validate(context: &Context, pod: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource == "status" {
        // The specification is the one that was checked when it was written.
        return faults.into_list();
    }
    let (spec, metadata) = (At::top(pod, "spec"), At::top(pod, "metadata"));
    let annotations = metadata.get("annotations");
    pod_check::annotations(&mut faults, &annotations, &spec);
    pod_check::pod_spec(&mut faults, &spec, Some(&metadata));
    tokens(&mut faults, &spec);
    for list in ["containers", "initContainers"] {
        for container in spec.get(list).items() {
            let image = container.get("image");
            if image.text() != image.text().trim() {
                faults.invalid(&image, "must not have leading or trailing whitespace");
            }
        }
    }
    if context.subresource.is_empty() && pod.resource_version().is_empty() {
        on_creation(&mut faults, &annotations, &spec);
    }
    faults.into_list()
}

fn on_creation(faults: &mut Faults, annotations: &At, spec: &At) {
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_blank() {
        faults.forbidden(&ephemeral, "cannot be set on create");
    }
    if !spec.get("schedulingGates").is_blank() && !spec.get("nodeName").is_blank() {
        faults.forbidden(&spec.get("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
    security_check::annotations_match(faults, annotations, spec);
}

/// A token belongs to an account.
fn tokens(faults: &mut Faults, spec: &At) {
    if !spec.get("serviceAccountName").is_blank() {
        return;
    }
    for volume in spec.get("volumes").items() {
        for source in volume.walk(&["projected", "sources"]).items() {
            let words = "must not be specified when serviceAccountName is not set";
            faults.forbid(&source.get("serviceAccountToken"), words);
        }
    }
}

pub(super) fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    annotation_updates(&mut faults, new, old);
    match context.subresource {
        "" => update(&mut faults, new, old),
        "status" => status_update(&mut faults, new, old),
        "ephemeralcontainers" => return ephemeral_update(faults, new, old).into_list(),
        "resize" => return resize::check(faults, new, old).into_list(),
        _ => {}
    }
    faults.into_list()
}

/// Annotations that are a part of what the Pod is.
fn annotation_updates(faults: &mut Faults, new: &Object, old: &Object) {
    let at = |object| At::top(object, "metadata").get("annotations");
    let (new, old) = (at(new), at(old));
    for (key, was) in old.entries() {
        if new.get(key).text() == was.text() && new.get(key).is_set() {
            continue;
        }
        if key.starts_with(APP_ARMOR_ANNOTATION) {
            faults.forbidden(&was, "may not remove or update AppArmor annotations");
        }
        if key == MIRROR_ANNOTATION {
            faults.forbidden(&was, "may not remove or update mirror pod annotation");
        }
    }
    for (key, added) in new.entries().into_iter().filter(|(key, _)| !old.get(key).is_set()) {
        if key.starts_with(APP_ARMOR_ANNOTATION) {
            faults.forbidden(&added, "may not add AppArmor annotations");
        }
        if key == MIRROR_ANNOTATION {
            faults.forbidden(&added, "may not add mirror pod annotation");
        }
    }
}

/// The words that name what an update may change.
const MUTABLE_WORDS: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn update(faults: &mut Faults, new: &Object, old: &Object) {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    for list in ["containers", "initContainers"] {
        if spec.get(list).count() != was.get(list).count() {
            faults.forbidden(&spec.get(list), "pod updates may not add or remove containers");
            return;
        }
    }
    if !deadline(faults, &spec, &was) {
        return;
    }
    tolerations(faults, &spec, &was);
    gates(faults, &spec, &was);
    if !was.get("schedulingGates").is_blank() {
        gated_selector(faults, &spec, &was);
        gated_affinity(faults, &spec, &was);
    }
    let (mutated, original) = (settled(new, old), settled(old, old));
    if mutated != original {
        let fields = differing_fields(&mutated, &original);
        faults.forbidden(&spec, format!("{MUTABLE_WORDS}\n{fields}"));
    }
}

/// The specification without what an update may change.
fn settled(pod: &Object, old: &Object) -> Value {
    let mut spec = pod.get("spec").cloned().unwrap_or(Value::Null);
    for list in ["containers", "initContainers"] {
        for container in tree::items_mut(&mut spec, &[list]) {
            container.remove_at(&["image"]);
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        spec.remove_at(&[field]);
    }
    let seconds = ["spec", "terminationGracePeriodSeconds"];
    let was_negative = old.int_at(&seconds).is_some_and(|seconds| seconds < 0);
    if was_negative && spec.int_at(&seconds[1..]).is_none_or(|seconds| seconds <= 1) {
        spec.remove_at(&seconds[1..]);
    }
    if !old.list_at(&["spec", "schedulingGates"]).is_empty() {
        spec.remove_at(&["nodeSelector"]);
        spec.remove_at(&["affinity", "nodeAffinity"]);
        if tree::is_blank(spec.get("affinity")) {
            spec.remove_at(&["affinity"]);
        }
    }
    spec
}

/// Names the fields that differ, each with its old and its new value.
fn differing_fields(new: &Value, old: &Value) -> String {
    let keys = |spec: &Value| spec.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let all: BTreeSet<_> = keys(new).into_iter().chain(keys(old)).collect();
    let shown = |value: Option<&Value>| value.map_or_else(|| "null".to_owned(), Value::to_string);
    let differing = all.iter().filter(|key| new.get(*key) != old.get(*key));
    differing.map(|key| format!("- {key}: {}\n+ {key}: {}\n", shown(old.get(key)), shown(new.get(key)))).collect()
}

/// A deadline can be set or brought forward; tells whether the rest is worth checking.
fn deadline(faults: &mut Faults, spec: &At, was: &At) -> bool {
    let (new, old) = (spec.get("activeDeadlineSeconds"), was.get("activeDeadlineSeconds"));
    match (new.int(), old.int()) {
        (Some(seconds), _) if !(0..=i64::from(i32::MAX)).contains(&seconds) => {
            faults.invalid(&new, names::between(0, i64::from(i32::MAX)));
            return false;
        }
        (Some(new_seconds), Some(old_seconds)) if new_seconds > old_seconds => {
            faults.invalid(&new, "must be less than or equal to previous value");
            return false;
        }
        (None, Some(_)) => faults.invalid_as(&new, Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
    true
}

fn tolerations(faults: &mut Faults, spec: &At, was: &At) {
    let alike = |a: &Value, b: &Value| {
        let mut pair = [a.clone(), b.clone()];
        for toleration in &mut pair {
            toleration.remove_at(&["tolerationSeconds"]);
        }
        pair[0] == pair[1]
    };
    let new = spec.get("tolerations");
    for old in was.get("tolerations").items() {
        if !new.items().iter().any(|new| alike(new.value(), old.value())) {
            faults.forbidden(&new, "existing toleration can not be modified except its tolerationSeconds");
            return;
        }
    }
}

fn gates(faults: &mut Faults, spec: &At, was: &At) {
    let old = was.get("schedulingGates").items();
    for gate in spec.get("schedulingGates").items() {
        let name = gate.get("name").text();
        if !old.iter().any(|old| old.get("name").text() == name) {
            let words = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            faults.forbidden(&gate.get("name"), words);
        }
    }
}

/// While a Pod is held back by gates, its node selector may be narrowed.
fn gated_selector(faults: &mut Faults, spec: &At, was: &At) {
    let (new, old) = (spec.get("nodeSelector"), was.get("nodeSelector"));
    let lost = |(key, value): &(&str, At)| !new.get(key).is_set() || new.get(key).text() != value.text();
    if old.entries().iter().any(lost) {
        faults.invalid(&new, "only additions to spec.nodeSelector are allowed (no mutations or deletions)");
    }
}

/// So may its required affinity to nodes; what it prefers is free.
fn gated_affinity(faults: &mut Faults, spec: &At, was: &At) {
    const PATH: [&str; 3] = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
    let (new, old) = (spec.walk(&PATH), was.walk(&PATH));
    let before = old.get("nodeSelectorTerms").items();
    if before.is_empty() {
        return;
    }
    let terms = new.get("nodeSelectorTerms");
    if terms.count() != before.len() {
        faults.invalid(&terms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
        return;
    }
    for (term, old_term) in terms.items().iter().zip(&before) {
        let kept = ["matchExpressions", "matchFields"].iter().all(|field| {
            let now = term.get(field).items();
            old_term
                .get(field)
                .items()
                .iter()
                .enumerate()
                .all(|(i, r)| now.get(i).is_some_and(|n| n.value() == r.value()))
        });
        let was_empty = old_term.get("matchExpressions").is_blank() && old_term.get("matchFields").is_blank();
        if !kept || (was_empty && term.value() != old_term.value()) {
            faults.invalid(term, "only additions are allowed (no mutations or deletions)");
        }
    }
}

fn status_update(faults: &mut Faults, new: &Object, old: &Object) {
    let (status, was) = (At::top(new, "status"), At::top(old, "status"));
    for condition in status.get("conditions").items() {
        let kind = condition.get("type");
        if !matches!(kind.text(), "PodScheduled" | "Ready" | "Initialized") {
            faults.all_invalid(&kind, names::check_label_key(kind.text()));
        }
    }
    if changed(new, old, &["spec", "nodeName"]) {
        faults.forbidden(&status.get("nodeName"), "may not be changed directly");
    }
    let nominated = status.get("nominatedNodeName");
    if nominated.text() != was.get("nominatedNodeName").text() {
        faults.name(&nominated, names::check_dns_subdomain);
    }
    faults.immutable(&status.get("qosClass"), &was.get("qosClass"));
    for (statuses, list) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        no_return(faults, &status.get(statuses), &was.get(statuses), old, list);
    }
    claim_statuses(faults, &status.get("resourceClaimStatuses"), &At::top(new, "spec").get("resourceClaims"));
    addresses(faults, &status.get("podIPs"));
    let hosts = status.get("hostIPs");
    if let Some(first) = hosts.items().first()
        && first.get("ip").text() != status.get("hostIP").text()
    {
        faults.invalid(&first.get("ip"), "must be equal to `hostIP`");
    }
    addresses(faults, &hosts);
}

/// What ended does not run again, unless it is to be restarted.
fn no_return(faults: &mut Faults, now: &At, was: &At, old: &Object, list: &str) {
    for (index, was) in was.items().iter().enumerate() {
        let name = was.get("name").text();
        let Some(exit) = was.walk(&["state", "terminated", "exitCode"]).int() else {
            continue;
        };
        let current = now.items().into_iter().find(|now| now.get("name").text() == name);
        let is_back = current.is_some_and(|now| !now.walk(&["state", "terminated"]).is_set());
        if is_back && !may_restart(old, list, name, exit) {
            let path = now.path().index(index).child("state");
            faults.forbidden(&now.renamed(path), "may not be transitioned to non-terminated state");
        }
    }
}

/// Whether a container that ended with this code is started again, by its own policy or else by the Pod's.
fn may_restart(pod: &Object, list: &str, name: &str, exit: i64) -> bool {
    let container = pod.list_at(&["spec", list]).iter().find(|container| container.str_at(&["name"]) == name);
    if list == "ephemeralContainers" || container.is_some_and(|c| !c.list_at(&["restartPolicyRules"]).is_empty()) {
        return list != "ephemeralContainers";
    }
    let restarts_all = |container: &Value| {
        let rules = container.list_at(&["restartPolicyRules"]).iter();
        rules.clone().any(|rule| rule.str_at(&["action"]) == "RestartAllContainers")
    };
    let all = ["containers", "initContainers"].iter().flat_map(|list| pod.list_at(&["spec", list]));
    if all.into_iter().any(restarts_all) {
        return true;
    }
    let own = container.map_or("", |container| container.str_at(&["restartPolicy"]));
    match if own.is_empty() { pod.str_at(&["spec", "restartPolicy"]) } else { own } {
        "Never" => false,
        "OnFailure" => exit != 0,
        _ => true,
    }
}

fn claim_statuses(faults: &mut Faults, statuses: &At, claims: &At) {
    let mut seen = BTreeSet::new();
    for status in statuses.items() {
        let (name, claim) = (status.get("name"), status.get("resourceClaimName"));
        if !claims.items().iter().any(|claim| claim.get("name").text() == name.text()) {
            faults.invalid(&name, "must match the name of an entry in `spec.resourceClaims`");
        }
        if !seen.insert(name.text()) {
            faults.duplicate(&name);
        }
        if claim.is_set() {
            let at = claim.renamed(name.path().clone());
            faults.all_invalid(&at, names::check_dns_subdomain(claim.text()));
        }
    }
}

/// At most one address of each family, and none twice.
fn addresses(faults: &mut Faults, list: &At) {
    let all = list.items();
    let mut seen = BTreeSet::new();
    for address in &all {
        let ip = address.get("ip");
        faults.ip(&ip.renamed(address.path().clone()));
        if !seen.insert(ip.text()) {
            faults.duplicate(address);
        }
    }
    let dual = address::is_dual_stack(all.iter().map(|address| address.get("ip").text()));
    if all.len() > 1 && (dual == Some(false) || all.len() > 2) {
        faults.invalid(list, "may specify no more than one IP for each IP family");
    }
}

fn ephemeral_update(mut faults: Faults, new: &Object, old: &Object) -> Faults {
    if old.annotation(MIRROR_ANNOTATION).is_some() {
        let mut faults = Faults::new();
        faults.forbidden(&At::root(new), "static pods do not support ephemeral containers");
        return faults;
    }
    let list = At::top(new, "spec").get("ephemeralContainers");
    let now = list.items();
    for was in At::top(old, "spec").get("ephemeralContainers").items() {
        let name = was.get("name").text();
        match now.iter().find(|now| now.get("name").text() == name) {
            None => faults.forbidden(&list, format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(now) if now.value() != was.value() => {
                let fields = differing_fields(now.value(), was.value());
                faults.forbidden(&list, format!("existing ephemeral containers {name:?} may not be changed\n{fields}"));
            }
            Some(_) => {}
        }
    }
    faults
}
