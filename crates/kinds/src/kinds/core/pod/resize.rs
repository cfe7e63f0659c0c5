//! What may be wrong with a change of the resources of a Pod that is there.
//! See <https://kubernetes.io/docs/tasks/configure-pod-container/resize-container-resources/>.

use serde_json::Value;
use skiff_object::Object;
use skiff_object::meta::Meta;

use super::qos;
use crate::rules::check::{At, Faults};
use crate::rules::pod_check::MIRROR_ANNOTATION;
use crate::rules::tree;

/// The resources that can be changed.
const MUTABLE: [&str; 2] = ["cpu", "memory"];

/// Takes over what a resize may be about: resources, and how a change of them is made. Lists whose containers are not those
/// that the Pod has come as they are, to be refused.
pub(super) fn take_over(spec: &mut Value, wanted: &Value) {
    if wanted.get("resources").is_some() || spec.get("resources").is_some() {
        tree::carry_over(spec, wanted, &["resources"]);
    }
    for list in ["containers", "initContainers"] {
        let names = |spec: &Value| -> Vec<String> {
            spec.list_at(&[list]).iter().map(|container| container.str_at(&["name"]).to_owned()).collect()
        };
        if names(spec) != names(wanted) {
            tree::carry_over(spec, wanted, &[list]);
            continue;
        }
        for (container, wanted) in tree::items_mut(spec, &[list]).zip(wanted.list_at(&[list])) {
            tree::carry_over(container, wanted, &["resources"]);
            tree::carry_over(container, wanted, &["resizePolicy"]);
        }
    }
}

/// Adds what is wrong with a resize.
pub(super) fn check(mut faults: Faults, new: &Object, old: &Object) -> Faults {
    let refusal = match () {
        () if old.annotation(MIRROR_ANNOTATION).is_some() => Some("static pods cannot be resized"),
        () if old.str_at(&["spec", "os", "name"]) == "windows" => Some("windows pods cannot be resized"),
        () => None,
    };
    if let Some(words) = refusal {
        let mut faults = Faults::new();
        faults.forbidden(&At::root(new), words);
        return faults;
    }
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    let class = qos::class(spec.value());
    if old.str_at(&["status", "qosClass"]) != class {
        faults.invalid_as(&spec, class, "Pod QOS Class may not change as a result of resizing");
    }
    if !same_containers(&mut faults, &spec, &was) {
        return faults;
    }
    for list in ["initContainers", "containers"] {
        for (now, before) in spec.get(list).items().iter().zip(was.get(list).items()) {
            if list == "containers" || is_sidecar(now) {
                nothing_removed(&mut faults, &now.get("resources"), &before.get("resources"));
            }
        }
    }
    nothing_removed(&mut faults, &spec.get("resources"), &was.get("resources"));
    let before = faults.0.len();
    only_mutable(&mut faults, &spec, &was);
    if faults.0.len() == before && settled(&spec) != settled(&was) {
        faults.forbidden(&spec, "only cpu and memory resources are mutable");
    }
    faults
}

fn is_sidecar(container: &At) -> bool {
    container.get("restartPolicy").text() == "Always"
}

/// The containers are the same ones, in the same order.
fn same_containers(faults: &mut Faults, spec: &At, was: &At) -> bool {
    let mut same = true;
    for list in ["containers", "initContainers"] {
        let (now, before) = (spec.get(list).items(), was.get(list).items());
        if now.len() != before.len() {
            faults.forbidden(&spec.get(list), format!("{list} may not be added or removed on resize"));
            same = false;
            continue;
        }
        for (now, before) in now.iter().zip(&before) {
            if now.get("name").text() != before.get("name").text() {
                faults.forbidden(&now.get("name"), format!("{list} may not be renamed or reordered on resize"));
                same = false;
            }
        }
    }
    same
}

fn nothing_removed(faults: &mut Faults, now: &At, before: &At) {
    for kind in ["requests", "limits"] {
        if before.get(kind).entries().iter().any(|(name, _)| !now.get(kind).get(name).is_set()) {
            faults.forbidden(&now.get(kind), format!("resource {kind} cannot be removed"));
        }
    }
}

/// A container without what can be changed.
fn rest(container: &At) -> Value {
    let mut rest = container.value().clone();
    for kind in ["requests", "limits"] {
        for name in MUTABLE {
            rest.remove_at(&["resources", kind, name]);
        }
        if tree::is_blank(rest.at(&["resources", kind])) {
            rest.remove_at(&["resources", kind]);
        }
    }
    rest
}

fn only_mutable(faults: &mut Faults, spec: &At, was: &At) {
    for (now, before) in spec.get("containers").items().iter().zip(was.get("containers").items()) {
        if rest(now) != rest(&before) {
            faults.forbidden(spec, "only cpu and memory resources are mutable");
        }
    }
    for (now, before) in spec.get("initContainers").items().iter().zip(was.get("initContainers").items()) {
        if is_sidecar(now) && rest(now) != rest(&before) {
            faults.forbidden(spec, "only cpu and memory resources for sidecar containers are mutable");
        } else if !is_sidecar(now) && now.value() != before.value() {
            faults.forbidden(spec, "resources for non-sidecar init containers are immutable");
        }
    }
}

/// The rest of the specification.
fn settled(spec: &At) -> Value {
    let mut settled = rest(spec);
    settled.remove_at(&["containers"]);
    settled.remove_at(&["initContainers"]);
    settled
}
