//! The settings of single plugins.

use k8s_openapi::api::core::v1::NodeAffinity;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Errors, OTHERS};
use crate::plugins::plugin;
use crate::profile::{Profile, Strategy};

/// Scores of a line are given out of this.
const LINE_SCORES: i64 = 10;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Preemption {
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct InterPod {
    hard_pod_affinity_weight: Option<i64>,
    #[serde(default)]
    ignore_preferred_terms_of_existing_pods: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Affinity {
    added_affinity: Option<NodeAffinity>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Balanced {
    resources: Option<Vec<Weighted>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fit {
    #[serde(default)]
    ignored_resources: Vec<String>,
    #[serde(default)]
    ignored_resource_groups: Vec<String>,
    scoring_strategy: Option<Scoring>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Scoring {
    #[serde(rename = "type")]
    kind: String,
    resources: Option<Vec<Weighted>>,
    requested_to_capacity_ratio: Option<Line>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    shape: Vec<Point>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    #[serde(default)]
    utilization: i64,
    #[serde(default)]
    score: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Volumes {
    bind_timeout_seconds: Option<i64>,
}

/// Takes the settings of one plugin into a profile.
pub fn apply(profile: &mut Profile, name: &str, args: Value, path: &str, errors: &mut Errors) {
    let at = format!("{path}.args");
    match name {
        "DefaultPreemption" => read(args, &at, errors, |args, errors| preemption(profile, args, &at, errors)),
        "InterPodAffinity" => read(args, &at, errors, |args: InterPod, errors| {
            let weight = args.hard_pod_affinity_weight.unwrap_or(1);
            if !(0..=100).contains(&weight) {
                errors.invalid(&format!("{at}.hardPodAffinityWeight"), weight, "not in valid range [0, 100]");
            }
            profile.hard_affinity_weight = weight;
            profile.ignore_preferred_of_others = args.ignore_preferred_terms_of_existing_pods;
        }),
        "NodeAffinity" => {
            read(args, &at, errors, |args: Affinity, _| profile.added_affinity = args.added_affinity);
        }
        "NodeResourcesBalancedAllocation" => read(args, &at, errors, |args: Balanced, errors| {
            let Some(resources) = args.resources else { return };
            for (number, resource) in resources.iter().enumerate().filter(|(_, resource)| resource.weight > 1) {
                errors.invalid(&format!("{at}.resources[{number}].weight"), resource.weight, "must be 1");
            }
            profile.balanced_resources = resources.into_iter().map(|resource| resource.name).collect();
        }),
        "NodeResourcesFit" => read(args, &at, errors, |args, errors| fit(profile, args, &at, errors)),
        "VolumeBinding" => read(args, &at, errors, |args: Volumes, errors| {
            let seconds = args.bind_timeout_seconds.unwrap_or(600);
            if seconds < 0 {
                let why = "invalid BindTimeoutSeconds, should not be a negative value";
                errors.invalid(&format!("{at}.bindTimeoutSeconds"), seconds, why);
            }
            profile.bind_volumes_seconds = seconds.unsigned_abs();
        }),
        _ if args.is_null() && (plugin(name).is_some() || OTHERS.contains(&name)) => {}
        _ => errors.invalid(&at, name, "this plugin has no settings here"),
    }
}

fn read<T: DeserializeOwned>(args: Value, at: &str, errors: &mut Errors, take: impl FnOnce(T, &mut Errors)) {
    let mut args = if args.is_null() { serde_json::json!({}) } else { args };
    if let Some(fields) = args.as_object_mut() {
        // They may say what they are; which plugin they are of says it already.
        fields.retain(|name, _| name != "apiVersion" && name != "kind");
    }
    match serde_json::from_value(args) {
        Ok(args) => take(args, errors),
        Err(error) => errors.0.push(format!("{at}: Invalid value: {error}")),
    }
}

fn preemption(profile: &mut Profile, args: Preemption, at: &str, errors: &mut Errors) {
    let percent = args.min_candidate_nodes_percentage.unwrap_or(10);
    let least = args.min_candidate_nodes_absolute.unwrap_or(100);
    let (percent_at, least_at) =
        (format!("{at}.minCandidateNodesPercentage"), format!("{at}.minCandidateNodesAbsolute"));
    if !(0..=100).contains(&percent) {
        errors.invalid(&percent_at, percent, "not in valid range [0, 100]");
    }
    if least < 0 {
        errors.invalid(&least_at, least, "not in valid range [0, inf)");
    }
    if percent == 0 && least == 0 {
        errors.invalid(&percent_at, percent, "cannot be zero at the same time as minCandidateNodesAbsolute");
        errors.invalid(&least_at, least, "cannot be zero at the same time as minCandidateNodesPercentage");
    }
    let number = |given: i64| usize::try_from(given).unwrap_or(0);
    profile.candidates = (number(percent), number(least));
}

fn fit(profile: &mut Profile, args: Fit, at: &str, errors: &mut Errors) {
    for (number, group) in args.ignored_resource_groups.iter().enumerate().filter(|(_, group)| group.contains('/')) {
        errors.invalid(
            &format!("{at}.ignoredResourceGroups[{number}]"),
            group,
            "resource group name can't contain '/'",
        );
    }
    profile.ignored_resources.extend(args.ignored_resources);
    profile.ignored_groups = args.ignored_resource_groups;
    let Some(scoring) = args.scoring_strategy else { return };
    let at = format!("{at}.scoringStrategy");
    if let Some(resources) = scoring.resources {
        for (number, resource) in resources.iter().enumerate().filter(|(_, r)| !(0..=100).contains(&r.weight)) {
            let why = format!("resource weight of {} not in valid range (0, 100]", resource.name);
            errors.invalid(&format!("{at}.resources[{number}].weight"), resource.weight, &why);
        }
        // No weight is a weight of one.
        profile.fit_resources = resources.into_iter().map(|r| (r.name, r.weight.max(1))).collect();
    }
    let line_at = format!("{at}.requestedToCapacityRatio");
    profile.strategy = match (scoring.kind.as_str(), scoring.requested_to_capacity_ratio) {
        ("LeastAllocated" | "MostAllocated", Some(_)) => {
            errors.0.push(format!("{line_at}: Forbidden: must be nil when type is not RequestedToCapacityRatio"));
            return;
        }
        ("LeastAllocated", None) => Strategy::LeastAllocated,
        ("MostAllocated", None) => Strategy::MostAllocated,
        ("RequestedToCapacityRatio", None) => {
            errors
                .0
                .push(format!("{line_at}: Required value: must be specified when type is RequestedToCapacityRatio"));
            return;
        }
        ("RequestedToCapacityRatio", Some(line)) => Strategy::RequestedToCapacity(points(&line, &line_at, errors)),
        (other, _) => {
            errors.0.push(format!(
                "{at}.type: Unsupported value: {other:?}: supported values: \"LeastAllocated\", \"MostAllocated\", \"RequestedToCapacityRatio\""
            ));
            return;
        }
    };
}

fn points(line: &Line, at: &str, errors: &mut Errors) -> Vec<(i64, i64)> {
    let at = format!("{at}.shape");
    if line.shape.is_empty() {
        errors.0.push(format!("{at}: Required value: at least one point must be specified"));
    }
    for (number, pair) in line.shape.windows(2).enumerate() {
        if pair[0].utilization >= pair[1].utilization {
            let field = format!("{at}[{}].utilization", number + 1);
            errors.invalid(&field, pair[1].utilization, "values must be sorted in increasing order");
            break;
        }
    }
    for (number, point) in line.shape.iter().enumerate() {
        if !(0..=100).contains(&point.utilization) {
            errors.invalid(&format!("{at}[{number}].utilization"), point.utilization, "not in valid range [0, 100]");
        }
        if !(0..=LINE_SCORES).contains(&point.score) {
            errors.invalid(&format!("{at}[{number}].score"), point.score, "not in valid range [0, 10]");
        }
    }
    let scaled = |point: &Point| (point.utilization, point.score * crate::plugins::MAX_SCORE / LINE_SCORES);
    line.shape.iter().map(scaled).collect()
}
