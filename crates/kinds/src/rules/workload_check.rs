//! What may be wrong with what makes Pods from a template: replicas, selectors, updates.

use std::collections::BTreeSet;

use skiff_object::meta::Meta;
use skiff_object::names;
use skiff_object::selector::LabelSelector;

use crate::rules::check::{At, Faults};
use crate::rules::container_check;
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

/// Checks the specification of a Job, also within a CronJob.
pub fn job(faults: &mut Faults, spec: &At) {
    const COUNTS: [&str; 6] = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
    ];
    for field in COUNTS {
        faults.non_negative(&spec.get(field));
    }
    faults.non_negative(&spec.get("maxFailedIndexes"));
    completion_mode(faults, spec);
    pod_failure_policy(faults, spec);
    success_policy(faults, spec);
    replacement_policy(faults, spec);
    let template = spec.get("template");
    pod_check::template(faults, &template);
    let policy = template.walk(&["spec", "restartPolicy"]);
    match policy.text() {
        "Always" | "" => faults.required(&policy, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.get("podFailurePolicy").is_set() => {
            faults.invalid(&policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        _ => faults.not_supported(&policy, &["OnFailure", "Never"]),
    }
}

fn replacement_policy(faults: &mut Faults, spec: &At) {
    let policy = spec.get("podReplacementPolicy");
    if spec.get("podFailurePolicy").is_set() {
        faults.choice(&policy, &["Failed"]);
    } else {
        faults.choice(&policy, &["Failed", "TerminatingOrFailed"]);
    }
}

fn success_policy(faults: &mut Faults, spec: &At) {
    let policy = spec.get("successPolicy");
    if !policy.is_set() {
        return;
    }
    if spec.get("completionMode").text() != "Indexed" {
        faults.invalid(&policy, "requires indexed completion mode");
        return;
    }
    let rules = policy.get("rules");
    if rules.is_blank() {
        faults.required(&rules, "at least one rules must be specified when the successPolicy is specified");
    }
    let completions = spec.get("completions").int().unwrap_or(0);
    for rule in rules.items() {
        let count = rule.get("succeededCount");
        if !count.is_set() && !rule.get("succeededIndexes").is_set() {
            faults.required(&rule, "at least one of succeededCount or succeededIndexes must be specified");
        }
        faults.non_negative(&count);
        if count.int().is_some_and(|count| count > completions) {
            let words = format!("must be less than or equal to {completions} (the number of specified completions)");
            faults.invalid(&count, words);
        }
    }
}

/// The greatest number of completions of an indexed job, each of which has its own status.
const INDEXED_COMPLETIONS_LIMIT: i64 = 100_000;

fn completion_mode(faults: &mut Faults, spec: &At) {
    let (mode, completions) = (spec.get("completionMode"), spec.get("completions"));
    faults.choice(&mode, &["NonIndexed", "Indexed"]);
    let is_indexed = mode.text() == "Indexed";
    if is_indexed && !completions.is_set() {
        faults.required(&completions, "when completion mode is Indexed");
    }
    if is_indexed && spec.get("parallelism").int().is_some_and(|number| number > INDEXED_COMPLETIONS_LIMIT) {
        let words =
            format!("must be less than or equal to {INDEXED_COMPLETIONS_LIMIT} when completion mode is Indexed");
        faults.invalid(&spec.get("parallelism"), words);
    }
    for (field, needs) in [
        ("backoffLimitPerIndex", "requires indexed completion mode"),
        ("maxFailedIndexes", "requires indexed completion mode"),
    ] {
        if spec.get(field).is_set() && !is_indexed {
            faults.invalid(&spec.get(field), needs);
        }
    }
    if spec.get("maxFailedIndexes").is_set() && !spec.get("backoffLimitPerIndex").is_set() {
        faults.required(&spec.get("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
}

fn pod_failure_policy(faults: &mut Faults, spec: &At) {
    for rule in spec.walk(&["podFailurePolicy", "rules"]).items() {
        let action = rule.get("action");
        if action.text() == "FailIndex" && !spec.get("backoffLimitPerIndex").is_set() {
            faults.invalid(&action, "requires the backoffLimitPerIndex to be set");
        }
        needs_listed(faults, &action, &["Count", "FailIndex", "FailJob", "Ignore"]);
        let (codes, conditions) = (rule.get("onExitCodes"), rule.get("onPodConditions"));
        if codes.is_set() {
            exit_codes(faults, spec, &codes);
        }
        for pattern in conditions.items() {
            faults.all_invalid(&pattern.get("type"), names::check_label_key(pattern.get("type").text()));
            needs_listed(faults, &pattern.get("status"), &["False", "True", "Unknown"]);
        }
        match (codes.is_set(), conditions.is_blank()) {
            (true, false) => {
                faults.invalid_whole(&rule, "specifying both OnExitCodes and OnPodConditions is not supported");
            }
            (false, true) => {
                faults.invalid_whole(&rule, "specifying one of OnExitCodes and OnPodConditions is required");
            }
            _ => {}
        }
    }
}

/// One of these texts must stand here; who left it out is told of them.
fn needs_listed(faults: &mut Faults, at: &At, supported: &[&str]) {
    if at.is_blank() {
        let quoted: Vec<_> = supported.iter().map(|value| format!("{value:?}")).collect();
        faults.required(at, &format!("valid values: [{}]", quoted.join(" ")));
    } else {
        faults.choice(at, supported);
    }
}

fn exit_codes(faults: &mut Faults, spec: &At, codes: &At) {
    let (operator, values, container) = (codes.get("operator"), codes.get("values"), codes.get("containerName"));
    needs_listed(faults, &operator, &["In", "NotIn"]);
    let pod_spec = spec.walk(&["template", "spec"]);
    if container.is_set() && !container_check::has_container(pod_spec.value(), container.text()) {
        faults.invalid(&container, "must be one of the container or initContainer names in the pod template");
    }
    if values.is_blank() {
        faults.invalid(&values, "at least one value is required");
    }
    let mut seen = BTreeSet::new();
    let all = values.items();
    for code in &all {
        if operator.text() == "In" && code.int() == Some(0) {
            faults.invalid(code, "must not be 0 for the In operator");
        }
        if !seen.insert(code.int()) {
            faults.duplicate(code);
        }
    }
    if !all.is_sorted_by_key(|code| code.int()) {
        faults.invalid(&values, "must be ordered");
    }
}
