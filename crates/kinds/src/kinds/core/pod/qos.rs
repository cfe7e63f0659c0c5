//! The quality of service class of a Pod.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>.

use std::collections::BTreeMap;

use serde_json::Value;
use skiff_base::Quantity;
use skiff_object::meta::Meta;

const COUNTED: [&str; 2] = ["cpu", "memory"];

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn class(spec: &Value) -> &'static str {
    let own = [spec];
    let containers: Vec<_> = spec.list_at(&["containers"]).iter().chain(spec.list_at(&["initContainers"])).collect();
    let holders = if spec.at(&["resources"]).is_some_and(has_any) { &own[..] } else { &containers[..] };
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut all_limited = true;
    for holder in holders {
        let limited = counted(holder, "limits");
        all_limited &= limited.len() == COUNTED.len();
        add(&mut limits, limited);
        add(&mut requests, counted(holder, "requests"));
    }
    match () {
        () if requests.is_empty() && limits.is_empty() => "BestEffort",
        () if all_limited && requests == limits => "Guaranteed",
        () => "Burstable",
    }
}

fn has_any(resources: &Value) -> bool {
    ["requests", "limits"].iter().any(|kind| COUNTED.iter().any(|resource| resources.at(&[kind, resource]).is_some()))
}

fn counted(holder: &Value, kind: &str) -> Vec<(&'static str, Quantity)> {
    let read = |resource: &&'static str| {
        let quantity: Quantity = holder.str_at(&["resources", kind, resource]).parse().ok()?;
        (quantity > Quantity::ZERO).then_some((*resource, quantity))
    };
    COUNTED.iter().filter_map(read).collect()
}

fn add(sums: &mut BTreeMap<&'static str, Quantity>, quantities: Vec<(&'static str, Quantity)>) {
    for (resource, quantity) in quantities {
        let sum = sums.entry(resource).or_insert(Quantity::ZERO);
        *sum = sum.plus(quantity);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn classes_follow_requests_and_limits() {
        let both =
            json!({"resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1", "memory": "1Gi"}}});
        let some = json!({"resources": {"requests": {"cpu": "1"}}});
        assert_eq!(class(&json!({"containers": [{}]})), "BestEffort");
        assert_eq!(class(&json!({"containers": [both]})), "Guaranteed");
        assert_eq!(class(&json!({"containers": [both, some]})), "Burstable");
        assert_eq!(class(&json!({"containers": [both], "initContainers": [{}]})), "Burstable");
        assert_eq!(class(&json!({"containers": [{}], "resources": both["resources"]})), "Guaranteed");
    }
}
