//! What may be wrong with what makes Pods from a template: replicas, selectors, updates.

use skiff_object::meta::Meta;
use skiff_object::selector::LabelSelector;

use crate::rules::check::{At, Faults};
use crate::rules::pod_check::{self, SELECTOR_MISMATCH};

/// Checks a label selector that must be there and must not select everything.
pub fn selector(faults: &mut Faults, selector: &At, kind: &str) {
    if !selector.is_set() {
        faults.required(selector, "");
        return;
    }
    faults.selector(selector);
    if selector.get("matchLabels").is_blank() && selector.get("matchExpressions").is_blank() {
        faults.invalid(selector, format!("empty selector is invalid for {kind}"));
    }
}

/// Whether the template's labels are selected; a selector that cannot be read says so elsewhere.
fn is_selected(selector: &LabelSelector, template: &At) -> bool {
    let template = template.value();
    selector.matches(|key| template.at(&["metadata", "labels", key]).and_then(|value| value.as_str()))
}

/// Checks a template: its labels must be selected, and its Pods must restart for ever.
pub fn template(faults: &mut Faults, spec: &At, kind: &str) {
    let template = spec.get("template");
    let selector = LabelSelector::from_object(spec.get("selector").value());
    if let Ok(selector) = selector
        && !selector.is_everything()
        && spec.get("selector").is_set()
        && !is_selected(&selector, &template)
    {
        mismatch(faults, &template);
    }
    pod_check::template(faults, &template);
    always_restarting(faults, &template, kind);
}

/// Says that the template's labels are not selected.
pub fn mismatch(faults: &mut Faults, template: &At) {
    let labels = template.walk(&["metadata", "labels"]);
    faults.invalid(&labels, SELECTOR_MISMATCH);
}

/// Pods of a workload restart for ever, and have no deadline.
pub fn always_restarting(faults: &mut Faults, template: &At, kind: &str) {
    let policy = template.walk(&["spec", "restartPolicy"]);
    if policy.text() != "Always" && matches!(policy.text(), "OnFailure" | "Never") {
        faults.not_supported(&policy, &["Always"]);
    }
    let deadline = template.walk(&["spec", "activeDeadlineSeconds"]);
    if deadline.is_set() {
        faults.forbidden(&deadline, format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// Checks the specification of a ReplicaSet.
pub fn replica_set(faults: &mut Faults, spec: &At) {
    faults.non_negative(&spec.get("replicas"));
    faults.non_negative(&spec.get("minReadySeconds"));
    selector(faults, &spec.get("selector"), "deployment");
    template(faults, spec, "ReplicaSet");
}

/// Checks how a Deployment replaces its Pods.
pub fn deployment_strategy(faults: &mut Faults, strategy: &At) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "Recreate" if rolling.is_set() => {
            faults.forbidden(&rolling, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if !rolling.is_set() => faults.required(&rolling, "this should be defaulted and never be nil"),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            let (down, up) = (faults.amount(&unavailable), faults.amount(&surge));
            if down == Some(0) && up == Some(0) {
                faults.invalid(&unavailable, "may not be 0 when `maxSurge` is 0");
            }
            faults.at_most_everything(&unavailable);
        }
        _ => faults.not_supported(&strategy.get("type"), &["Recreate", "RollingUpdate"]),
    }
}

/// Checks how a DaemonSet replaces its Pods.
pub fn daemon_set_strategy(faults: &mut Faults, strategy: &At) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" if !rolling.is_set() => faults.required(&rolling, ""),
        "RollingUpdate" => {
            let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
            let (down, up) = (faults.amount(&unavailable).unwrap_or(0), faults.amount(&surge).unwrap_or(0));
            match (down != 0, up != 0) {
                (false, false) => faults.invalid(&unavailable, "cannot be 0 when maxSurge is 0"),
                (true, true) => faults.invalid(&surge, "may not be set when maxUnavailable is non-zero"),
                _ => {}
            }
            faults.at_most_everything(&unavailable);
            faults.at_most_everything(&surge);
        }
        _ => faults.not_supported(&strategy.get("type"), &["OnDelete", "RollingUpdate"]),
    }
}
