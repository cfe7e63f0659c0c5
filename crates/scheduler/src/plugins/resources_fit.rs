//! Whether a node has room, and which node has the most room or the best balance of it.

use std::borrow::Cow;

use super::{Ask, Event, Filter, MAX_SCORE, Plugin, Score, Verdict};
use crate::profile::{Profile, Strategy};
use crate::snapshot::NodeInfo;

/// Room for the pod's requests; scores the least allocated node best, unless the profile says otherwise.
pub const FIT: Plugin = Plugin {
    name: "NodeResourcesFit",
    check: None,
    filter: Filter::Load(fits),
    score: Score::Load(allocation),
    weight: 1,
    wakes_on: |ask, event| match event {
        Event::Node(node) | Event::PodGone(_, Some(node)) => fits(ask, node) == Verdict::Pass,
        Event::PodGone(_, None) | Event::PodPlaced(_) | Event::Storage => false,
    },
};

fn fits(ask: &Ask, node: &NodeInfo) -> Verdict {
    let (wanted, used, has) = (&ask.pod.requests, &node.load.requested, &node.allocatable);
    let mut reasons: Vec<Cow<'static, str>> = Vec::new();
    let mut for_good = false;
    if node.load.pods.len() as i64 + 1 > node.allowed_pods {
        reasons.push("Too many pods".into());
    }
    let mut check = |wanted: i64, used: i64, has: i64, reason: &dyn Fn() -> Cow<'static, str>| {
        if wanted > 0 && wanted > has - used {
            reasons.push(reason());
            for_good |= wanted > has;
        }
    };
    check(wanted.cpu_millis, used.cpu_millis, has.cpu_millis, &|| "Insufficient cpu".into());
    check(wanted.memory_bytes, used.memory_bytes, has.memory_bytes, &|| "Insufficient memory".into());
    check(wanted.storage_bytes, used.storage_bytes, has.storage_bytes, &|| "Insufficient ephemeral-storage".into());
    for (name, amount) in &wanted.others {
        if !is_ignored(ask.profile, name) {
            check(*amount, used.amount(name), has.amount(name), &|| format!("Insufficient {name}").into());
        }
    }
    match (reasons.is_empty(), for_good) {
        (true, _) => Verdict::Pass,
        (false, false) => Verdict::Reject(reasons),
        (false, true) => Verdict::RejectForGood(reasons),
    }
}

fn is_ignored(profile: &Profile, resource: &str) -> bool {
    let group = resource.split_once('/').map_or("", |(group, _)| group);
    profile.ignored_resources.iter().any(|name| name == resource)
        || profile.ignored_groups.iter().any(|name| name == group)
}

fn allocation(ask: &Ask, node: &NodeInfo) -> i64 {
    let (mut sum, mut weights) = (0, 0);
    for (name, weight) in &ask.profile.fit_resources {
        let has = node.allocatable.amount(name);
        let (there, wanted) = match name.as_str() {
            "cpu" => (node.load.scored.0, ask.pod.scored.0),
            "memory" => (node.load.scored.1, ask.pod.scored.1),
            _ => (node.load.requested.amount(name), ask.pod.requests.amount(name)),
        };
        // What the node has none of, or the pod does not ask for beside CPU and memory, is no matter.
        let common = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        if has == 0 || !common && wanted == 0 {
            continue;
        }
        let score = strategy_score(&ask.profile.strategy, there + wanted, has);
        sum += score * weight;
        // Where a line is given, resources that it gives nothing for are no matter either.
        let counts = score > 0 || !matches!(ask.profile.strategy, Strategy::RequestedToCapacity(_));
        weights += if counts { *weight } else { 0 };
    }
    match (&ask.profile.strategy, weights) {
        (_, 0) => 0,
        (Strategy::RequestedToCapacity(_), _) => (sum as f64 / weights as f64).round() as i64,
        _ => sum / weights,
    }
}

fn strategy_score(strategy: &Strategy, used: i64, has: i64) -> i64 {
    match strategy {
        Strategy::LeastAllocated if used > has => 0,
        Strategy::LeastAllocated => (has - used) * MAX_SCORE / has,
        Strategy::MostAllocated => used.min(has) * MAX_SCORE / has,
        Strategy::RequestedToCapacity(shape) => on_line(shape, if used > has { 100 } else { used * 100 / has }),
    }
}

/// The height at `x` of the line through the points, level beyond its ends.
fn on_line(points: &[(i64, i64)], x: i64) -> i64 {
    let Some(next) = points.iter().position(|(at, _)| x <= *at) else {
        return points.last().map_or(0, |(_, score)| *score);
    };
    if next == 0 {
        return points[0].1;
    }
    let ((x0, y0), (x1, y1)) = (points[next - 1], points[next]);
    y0 + (y1 - y0) * (x - x0) / (x1 - x0)
}

/// Favours nodes where CPU and memory would be used to the same degree.
pub const BALANCED: Plugin = Plugin {
    name: "NodeResourcesBalancedAllocation",
    check: None,
    filter: Filter::None,
    score: Score::Load(balance),
    weight: 1,
    wakes_on: |_, _| false,
};

/// How even the use would be with the pod: 100 where all are used to the same degree.
fn balance(ask: &Ask, node: &NodeInfo) -> i64 {
    let resources = &ask.profile.balanced_resources;
    // A pod that asks for nothing changes no balance.
    if resources.iter().all(|name| ask.pod.requests.amount(name) == 0) {
        return 0;
    }
    let fraction = |name: &String| {
        let (has, wanted) = (node.allocatable.amount(name), ask.pod.requests.amount(name));
        let common = matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage");
        (has != 0 && (common || wanted != 0))
            .then(|| ((node.load.requested.amount(name) + wanted) as f64 / has as f64).min(1.0))
    };
    let deviation = match resources.as_slice() {
        [one, other] => match (fraction(one), fraction(other)) {
            (Some(one), Some(other)) => ((one - other) / 2.0).abs(),
            _ => 0.0,
        },
        _ => standard_deviation(&resources.iter().filter_map(fraction).collect::<Vec<_>>()),
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

fn standard_deviation(values: &[f64]) -> f64 {
    match values {
        [] | [_] => 0.0,
        [one, other] => ((one - other) / 2.0).abs(),
        _ => {
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
            (squares / values.len() as f64).sqrt()
        }
    }
}
