//! The numbers of a rollout: what a strategy allows, and how a change of size is spread over several ReplicaSets.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, RollingUpdateDeployment};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{DESIRED_REPLICAS, MAX_REPLICAS};
use crate::meta::{annotation, scaled};

/// What `spec.strategy` leaves out.
const DEFAULT_SHARE: &str = "25%";

/// `spec.replicas`.
pub fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// `spec.replicas` of a ReplicaSet.
pub fn size(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
}

/// How many pods a ReplicaSet may have at this instant: those that it is to have, or those that it has still.
pub fn present(set: &ReplicaSet) -> i32 {
    size(set).max(set.status.as_ref().map_or(0, |status| status.replicas))
}

/// `status.availableReplicas` of a ReplicaSet.
pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// Whether all old pods go before the first new one comes.
pub fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

fn rolling(deployment: &Deployment) -> RollingUpdateDeployment {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default()
}

/// How many pods there may be beyond the wanted ones, and how many of the wanted ones may be unavailable.
pub fn bounds(deployment: &Deployment) -> (i32, i32) {
    let (rolling, wanted) = (rolling(deployment), wanted(deployment));
    let share = |value: Option<IntOrString>| value.unwrap_or_else(|| IntOrString::String(DEFAULT_SHARE.to_owned()));
    let surge = scaled(&share(rolling.max_surge), wanted, true);
    let unavailable = scaled(&share(rolling.max_unavailable), wanted, false);
    // Both zero would never get anywhere.
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// How many pods there may be beyond the wanted ones.
pub fn max_surge(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) { 0 } else { bounds(deployment).0 }
}

/// How many of the wanted pods may be unavailable.
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    let wanted = wanted(deployment);
    if is_recreate(deployment) || wanted == 0 { 0 } else { bounds(deployment).1.min(wanted) }
}

/// How large the new ReplicaSet may be now, given that there are `total` pods wanted of all ReplicaSets together.
pub fn new_size(deployment: &Deployment, current: i32, total: i32) -> i32 {
    let wanted = wanted(deployment);
    if is_recreate(deployment) {
        return wanted;
    }
    let allowed = wanted + max_surge(deployment);
    if total >= allowed { current } else { current + (allowed - total).min(wanted - current) }
}

/// The wanted and the largest number noted at the ReplicaSet when it was last scaled.
pub fn noted(set: &ReplicaSet) -> (Option<i32>, Option<i32>) {
    let read = |key| annotation(&set.metadata, key).and_then(|text| text.parse().ok());
    (read(DESIRED_REPLICAS), read(MAX_REPLICAS))
}

/// By how much a ReplicaSet changes when `to_add` (which may be negative) is spread in proportion to size
/// and `added` is spread already.
pub fn proportion(set: &ReplicaSet, deployment: &Deployment, to_add: i32, added: i32) -> i32 {
    let size = size(set);
    if size == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let share = fraction(set, size, deployment);
    let left = to_add - added;
    if to_add > 0 { share.min(left) } else { share.max(left) }
}

fn fraction(set: &ReplicaSet, size: i32, deployment: &Deployment) -> i32 {
    let wanted = wanted(deployment);
    if wanted == 0 {
        return -size;
    }
    let largest = f64::from(wanted + max_surge(deployment));
    let before = match noted(set) {
        (_, Some(before)) if before > 0 => f64::from(before),
        // Never noted: as if it had been of the present size.
        _ => f64::from(deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(size).max(1)),
    };
    (f64::from(size) * largest / before).round() as i32 - size
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    fn check(spec: &str, expected: (i32, i32)) {
        let deployment: Deployment = object(&format!("{{spec: {spec}}}"));
        assert_eq!((max_surge(&deployment), max_unavailable(&deployment)), expected, "{spec}");
    }

    #[test]
    fn surge_rounds_up_and_unavailability_down() {
        let with = |replicas: i32, surge: &str, unavailable: &str| {
            format!(
                "{{replicas: {replicas}, selector: {{}}, template: {{}}, strategy: {{type: RollingUpdate, rollingUpdate: {{maxSurge: {surge}, maxUnavailable: {unavailable}}}}}}}"
            )
        };
        check(&with(4, "25%", "25%"), (1, 1));
        check(&with(3, "25%", "25%"), (1, 0));
        check(&with(10, "25%", "25%"), (3, 2));
        check(&with(1, "0", "0"), (0, 1));
        check(&with(2, "1", "5"), (1, 2));
        check("{replicas: 3, selector: {}, template: {}, strategy: {type: Recreate}}", (0, 0));
    }
}
