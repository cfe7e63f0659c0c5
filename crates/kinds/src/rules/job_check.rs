//! What may be wrong with Jobs, also with those that CronJobs make.

use std::collections::BTreeSet;

use skiff_object::names;

use crate::rules::check::{At, Faults};
use crate::rules::{container_check, pod_check};

/// Checks the specification of a Job, also within a CronJob.
pub fn spec(faults: &mut Faults, spec: &At) {
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
    managed_by(faults, &spec.get("managedBy"));
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

/// The longest name of a controller other than the built-in one.
const MANAGER_LIMIT_BYTES: usize = 63;

fn managed_by(faults: &mut Faults, manager: &At) {
    if !manager.is_set() {
        return;
    }
    let path = manager.text().split_once('/');
    match path {
        Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
            faults.all_invalid(manager, names::check_dns_subdomain(domain));
        }
        _ if manager.is_blank() => faults.required(manager, ""),
        _ => faults.invalid(manager, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
    }
    faults.at_most_bytes(manager, MANAGER_LIMIT_BYTES);
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
    faults.at_most_items(&rules, RULES_LIMIT);
    let completions = spec.get("completions").int().unwrap_or(0);
    for rule in rules.items() {
        let (count, indexes) = (rule.get("succeededCount"), rule.get("succeededIndexes"));
        if !count.is_set() && !indexes.is_set() {
            faults.required(&rule, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let named = indexes.is_set().then(|| succeeded_indexes(faults, &indexes, completions)).flatten();
        faults.non_negative(&count);
        if count.int().is_some_and(|count| count > completions) {
            let words = format!("must be less than or equal to {completions} (the number of specified completions)");
            faults.invalid(&count, words);
        }
        if let Some(named) = named.filter(|named| count.int().is_some_and(|count| count > *named)) {
            let words = format!(
                "must be less than or equal to {named} (the number of indexes in the specified succeededIndexes field)"
            );
            faults.invalid(&count, words);
        }
    }
}

/// The longest list of indexes.
const INDEXES_LIMIT_BYTES: usize = 64 * 1024;

/// Checks a list of indexes such as `1,3-5`; tells how many it names.
fn succeeded_indexes(faults: &mut Faults, indexes: &At, completions: i64) -> Option<i64> {
    if indexes.text().len() > INDEXES_LIMIT_BYTES {
        faults.too_long(indexes, INDEXES_LIMIT_BYTES);
        return None;
    }
    match count_indexes(indexes.text(), completions) {
        Ok(count) => Some(count),
        Err(why) => {
            faults.invalid(indexes, format!("error parsing succeededIndexes: {why}"));
            None
        }
    }
}

fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    let (mut last, mut count) = (None::<i64>, 0);
    let number =
        |text: &str| text.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: {text:?}"));
    for interval in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = match interval.split_once('-') {
            Some((_, rest)) if rest.contains('-') => {
                return Err(format!(
                    "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
                ));
            }
            Some((from, to)) => (number(from)?, Some(number(to)?)),
            None => (number(interval)?, None),
        };
        if from >= completions {
            return Err(format!("too large index: {:?}", from.to_string()));
        }
        if let Some(last) = last.filter(|last| *last >= from) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        if let Some(to) = to {
            if to >= completions {
                return Err(format!("too large index: {:?}", to.to_string()));
            }
            if from >= to {
                return Err(format!("non-increasing order, previous: {from}, current: {to}"));
            }
        }
        let end = to.unwrap_or(from);
        count += end - from + 1;
        last = Some(end);
    }
    Ok(count)
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
    if is_indexed {
        failed_indexes(faults, spec);
    }
    if spec.get("maxFailedIndexes").is_set() && !spec.get("backoffLimitPerIndex").is_set() {
        faults.required(&spec.get("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
}

/// Jobs beyond the limit may not have as much in flight, and may not keep as long a list of failures.
const HUGE_LIMIT: i64 = 10_000;

fn failed_indexes(faults: &mut Faults, spec: &At) {
    let (completions, failed) = (spec.get("completions").int().unwrap_or(0), spec.get("maxFailedIndexes"));
    if failed.int().is_some_and(|count| spec.get("completions").is_set() && count > completions) {
        faults.invalid(&failed, "must be less than or equal to completions");
    }
    if failed.int().is_some_and(|count| count > INDEXED_COMPLETIONS_LIMIT) {
        faults.invalid(&failed, format!("must be less than or equal to {INDEXED_COMPLETIONS_LIMIT}"));
    }
    if completions <= INDEXED_COMPLETIONS_LIMIT || !spec.get("backoffLimitPerIndex").is_set() {
        return;
    }
    if !failed.is_set() {
        faults.required(&failed, "must be specified when completions is above 100000");
    }
    for at in [&spec.get("parallelism"), &failed] {
        if at.int().is_some_and(|count| count > HUGE_LIMIT) {
            let words = format!(
                "must be less than or equal to {HUGE_LIMIT} when completions are above 100000 and used with backoff limit per index"
            );
            faults.invalid(at, words);
        }
    }
}

/// The most rules of a policy, conditions of a rule and exit codes of a rule.
const RULES_LIMIT: usize = 20;
const CONDITIONS_LIMIT: usize = 20;
const EXIT_CODES_LIMIT: usize = 255;

fn pod_failure_policy(faults: &mut Faults, spec: &At) {
    faults.at_most_items(&spec.walk(&["podFailurePolicy", "rules"]), RULES_LIMIT);
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
        faults.at_most_items(&conditions, CONDITIONS_LIMIT);
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
    faults.at_most_items(&values, EXIT_CODES_LIMIT);
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
