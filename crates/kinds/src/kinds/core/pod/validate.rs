//! What may be wrong with a Pod, and with a change of one: most of a Pod is settled when it is made.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/#pod-update-and-replacement>.

use serde_json::Value;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::def::Context;
use crate::rules::check::{At, Faults, changed};
use crate::rules::{pod_check, tree};

pub(super) fn validate(context: &Context, pod: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(pod, "spec"), Faults::new());
    if context.subresource == "status" {
        // The specification is the one that was checked when it was written.
        return faults.into_list();
    }
    pod_check::pod_spec(&mut faults, &spec);
    tokens(&mut faults, &spec);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec.get(list).items() {
            let image = container.get("image");
            if image.text() != image.text().trim() {
                faults.invalid(&image, "must not have leading or trailing whitespace");
            }
        }
    }
    let is_new = pod.resource_version().is_empty();
    let ephemeral = spec.get("ephemeralContainers");
    if is_new && context.subresource.is_empty() && !ephemeral.is_blank() {
        faults.forbidden(&ephemeral, "cannot be set on create");
    }
    if !spec.get("schedulingGates").is_blank() && !spec.get("nodeName").is_blank() {
        faults.forbidden(&spec.get("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
    faults.into_list()
}

/// A token belongs to an account.
fn tokens(faults: &mut Faults, spec: &At) {
    if !spec.get("serviceAccountName").is_blank() {
        return;
    }
    for volume in spec.get("volumes").items() {
        for source in volume.walk(&["projected", "sources"]).items() {
            let token = source.get("serviceAccountToken");
            if token.is_set() {
                faults.forbidden(&token, "must not be specified when serviceAccountName is not set");
            }
        }
    }
}

pub(super) fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    match context.subresource {
        "" => update(&mut faults, new, old),
        "status" => status_update(&mut faults, new, old),
        "ephemeralcontainers" => ephemeral_update(&mut faults, new, old),
        _ => {}
    }
    faults.into_list()
}

/// The words that name what an update may change.
const MUTABLE_WORDS: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

fn update(faults: &mut Faults, new: &Object, old: &Object) {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    for list in ["containers", "initContainers"] {
        if spec.get(list).items().len() != was.get(list).items().len() {
            faults.forbidden(&spec.get(list), "pod updates may not add or remove containers");
            return;
        }
    }
    deadline(faults, &spec, &was);
    tolerations(faults, &spec, &was);
    gates(faults, &spec, &was);
    gated_selector(faults, &spec, &was);
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
    let was_negative = old.int_at(&["spec", "terminationGracePeriodSeconds"]).is_some_and(|seconds| seconds < 0);
    if was_negative && spec.int_at(&["terminationGracePeriodSeconds"]).is_none_or(|seconds| seconds <= 1) {
        spec.remove_at(&["terminationGracePeriodSeconds"]);
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

/// Names the fields that differ, each with its new and its old value.
fn differing_fields(new: &Value, old: &Value) -> String {
    let keys = |spec: &Value| spec.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let all: std::collections::BTreeSet<_> = keys(new).into_iter().chain(keys(old)).collect();
    let shown = |value: Option<&Value>| value.map_or_else(|| "null".to_owned(), Value::to_string);
    let differing = all.iter().filter(|key| new.get(*key) != old.get(*key));
    differing.map(|key| format!("- {key}: {}\n+ {key}: {}\n", shown(old.get(key)), shown(new.get(key)))).collect()
}

/// A deadline can be set or brought forward.
fn deadline(faults: &mut Faults, spec: &At, was: &At) {
    let (new, old) = (spec.get("activeDeadlineSeconds"), was.get("activeDeadlineSeconds"));
    match (new.int(), old.int()) {
        (Some(new_seconds), Some(old_seconds)) if new_seconds > old_seconds => {
            faults.invalid(&new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => faults.invalid_as(&new, Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
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
    let is_gated = !was.get("schedulingGates").is_blank();
    let lost = |(key, value): &(&str, At)| new.get(key).text() != value.text();
    if is_gated && old.entries().iter().any(lost) {
        faults.invalid(&new, "only additions to spec.nodeSelector are allowed (no mutations or deletions)");
    }
}

fn status_update(faults: &mut Faults, new: &Object, old: &Object) {
    let status = At::top(new, "status");
    if changed(new, old, &["spec", "nodeName"]) {
        faults.forbidden(&status.get("nodeName"), "may not be changed directly");
    }
    faults.immutable(&status.get("qosClass"), &At::top(old, "status").get("qosClass"));
    for (statuses, list) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        for (index, was) in old.list_at(&["status", statuses]).iter().enumerate() {
            let name = was.str_at(&["name"]);
            let Some(exit) = was.int_at(&["state", "terminated", "exitCode"]) else {
                continue;
            };
            let now = new.list_at(&["status", statuses]).iter().find(|now| now.str_at(&["name"]) == name);
            if now.is_some_and(|now| now.at(&["state", "terminated"]).is_none()) && !may_restart(old, list, name, exit)
            {
                let at = status.get(statuses);
                let path = at.path().index(index).child("state");
                faults.forbidden(&at.renamed(path), "may not be transitioned to non-terminated state");
            }
        }
    }
}

/// Whether a container that ended with this code is started again, by its own policy or else by the Pod's.
fn may_restart(pod: &Object, list: &str, name: &str, exit: i64) -> bool {
    let container = pod.list_at(&["spec", list]).iter().find(|container| container.str_at(&["name"]) == name);
    if list == "ephemeralContainers" || container.is_some_and(|c| !c.list_at(&["restartPolicyRules"]).is_empty()) {
        return list != "ephemeralContainers";
    }
    let own = container.map_or("", |container| container.str_at(&["restartPolicy"]));
    match if own.is_empty() { pod.str_at(&["spec", "restartPolicy"]) } else { own } {
        "Never" => false,
        "OnFailure" => exit != 0,
        _ => true,
    }
}

fn ephemeral_update(faults: &mut Faults, new: &Object, old: &Object) {
    let list = At::top(new, "spec").get("ephemeralContainers");
    let now = list.items();
    for was in At::top(old, "spec").get("ephemeralContainers").items() {
        let name = was.get("name").text();
        match now.iter().find(|now| now.get("name").text() == name) {
            None => faults.forbidden(&list, format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(now) if now.value() != was.value() => {
                faults.forbidden(&list, format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}
