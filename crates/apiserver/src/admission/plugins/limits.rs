//! LimitRanger: what containers do not ask for they are given, and what is out of bounds is refused.
//! See <https://kubernetes.io/docs/concepts/policy/limit-range/>.

use serde_json::Value;
use skiff_base::Quantity;
use skiff_kinds::quota::{Amounts, resources};
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::admission::{Attributes, Operation};
use crate::failure::Result;
use crate::storage::filter::Filter;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

fn ranges(attributes: &Attributes<'_>) -> Result<Vec<Object>> {
    let cache = attributes.server.catalogue.cache("", "limitranges");
    cache.map_or_else(|| Ok(Vec::new()), |cache| cache.objects(&Filter::namespace(attributes.namespace)))
}

/// Gives the containers of a new Pod what they do not ask for.
pub fn mutate(attributes: &Attributes<'_>, object: &mut Object, _: Option<&Object>) -> Result<()> {
    if attributes.is("", "pods") && attributes.operation == Operation::Create {
        ranges(attributes)?.iter().for_each(|range| complete(range, object));
    }
    Ok(())
}

/// Refuses what is out of bounds.
pub fn validate(attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let Some(object) = object.filter(|object| !object.is_deleting()) else { return Ok(()) };
    let (is_new, is_core) = (old.is_none(), attributes.def.group.is_empty());
    let is_pod = is_core
        && attributes.def.plural == "pods"
        && match attributes.subresource {
            "" => is_new,
            subresource => subresource == "resize",
        };
    let is_claim = attributes.is("", "persistentvolumeclaims");
    if attributes.operation == Operation::Delete || !(is_pod || is_claim) {
        return Ok(());
    }
    let mut faults = Vec::new();
    for range in ranges(attributes)? {
        faults.extend(if is_pod { pod_faults(&range, object) } else { claim_faults(&range, object) });
    }
    match faults.as_slice() {
        [] => Ok(()),
        [one] => Err(attributes.forbidden(one)),
        many => Err(attributes.forbidden(format!("[{}]", many.join(", ")))),
    }
}

/// What a range gives to containers that do not ask.
fn complete(range: &Object, pod: &mut Object) {
    let of_containers = range.list_at(&["spec", "limits"]).iter().filter(|item| item.str_at(&["type"]) == "Container");
    let (mut requests, mut limits) = (serde_json::Map::new(), serde_json::Map::new());
    for item in of_containers {
        requests.extend(item.map_at(&["defaultRequest"]).cloned().unwrap_or_default());
        limits.extend(item.map_at(&["default"]).cloned().unwrap_or_default());
    }
    let mut notes = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        let containers = pod.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = container.str_at(&["name"]).to_owned();
            for (field, what, defaults) in [("requests", "request", &requests), ("limits", "limit", &limits)] {
                let set: Vec<_> = fill(container, field, defaults);
                if !set.is_empty() {
                    notes.push(format!("{} {what} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !notes.is_empty() {
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod.map_mut(&["metadata", "annotations"]).insert(ANNOTATION.to_owned(), note.into());
    }
}

/// Sets what is absent; gives its names.
fn fill(container: &mut Value, field: &str, defaults: &serde_json::Map<String, Value>) -> Vec<String> {
    let mut set = Vec::new();
    for (name, amount) in defaults {
        if container.at(&["resources", field, name]).is_none() {
            container.set_at(&["resources", field, name], amount.clone());
            set.push(name.clone());
        }
    }
    set.sort();
    set
}

fn amounts(tree: Option<&Value>) -> Amounts {
    let pairs = tree.and_then(Value::as_object).into_iter().flatten();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    pairs.filter_map(|(name, value)| Some((name.clone(), text(value).parse().ok()?))).collect()
}

/// What is bounded: a container, a Pod or a claim.
struct Bounded<'a> {
    kind: &'a str,
    requests: Amounts,
    limits: Amounts,
}

/// What is wrong with a Pod by one range.
fn pod_faults(range: &Object, pod: &Object) -> Vec<String> {
    let mut faults = Vec::new();
    for item in range.list_at(&["spec", "limits"]) {
        match item.str_at(&["type"]) {
            kind @ "Container" => {
                let containers = pod.list_at(&["spec", "containers"]).iter();
                for container in containers.chain(pod.list_at(&["spec", "initContainers"])) {
                    let part = |field: &str| amounts(container.at(&["resources", field]));
                    let bounded = Bounded { kind, requests: part("requests"), limits: part("limits") };
                    bounded.check(item, &mut faults);
                }
            }
            kind @ "Pod" => {
                let bounded = Bounded { kind, requests: resources(pod, "requests"), limits: resources(pod, "limits") };
                bounded.check(item, &mut faults);
            }
            _ => {}
        }
    }
    faults
}

/// What is wrong with a claim by one range.
fn claim_faults(range: &Object, claim: &Object) -> Vec<String> {
    let mut faults = Vec::new();
    let kind = "PersistentVolumeClaim";
    for item in range.list_at(&["spec", "limits"]).iter().filter(|item| item.str_at(&["type"]) == kind) {
        let requests = amounts(claim.at(&["spec", "resources", "requests"]));
        let bounded = Bounded { kind, requests, limits: Amounts::new() };
        bounded.least(item, &mut faults);
        for (name, most) in amounts(item.at(&["max"])) {
            let begin = format!("maximum {name} usage per {kind} is {most}");
            match bounded.requests.get(&name) {
                None => faults.push(format!("{begin}.  No request is specified")),
                Some(asked) if *asked > most => faults.push(format!("{begin}, but request is {asked}")),
                Some(_) => {}
            }
        }
    }
    faults
}

impl Bounded<'_> {
    fn check(&self, item: &Value, faults: &mut Vec<String>) {
        self.least(item, faults);
        self.most(item, faults);
        self.ratio(item, faults);
    }

    fn least(&self, item: &Value, faults: &mut Vec<String>) {
        for (name, least) in amounts(item.at(&["min"])) {
            let begin = format!("minimum {name} usage per {} is {least}", self.kind);
            match (self.requests.get(&name), self.limits.get(&name)) {
                (None, _) => faults.push(format!("{begin}.  No request is specified")),
                (Some(asked), _) if *asked < least => faults.push(format!("{begin}, but request is {asked}")),
                (_, Some(limit)) if *limit < least => faults.push(format!("{begin}, but limit is {limit}")),
                _ => {}
            }
        }
    }

    fn most(&self, item: &Value, faults: &mut Vec<String>) {
        for (name, most) in amounts(item.at(&["max"])) {
            let begin = format!("maximum {name} usage per {} is {most}", self.kind);
            match (self.requests.get(&name), self.limits.get(&name)) {
                (_, None) => faults.push(format!("{begin}.  No limit is specified")),
                (_, Some(limit)) if *limit > most => faults.push(format!("{begin}, but limit is {limit}")),
                (Some(asked), _) if *asked > most => faults.push(format!("{begin}, but request is {asked}")),
                _ => {}
            }
        }
    }

    fn ratio(&self, item: &Value, faults: &mut Vec<String>) {
        let given = |amounts: &Amounts, name: &str| amounts.get(name).copied().filter(|amount| !amount.is_zero());
        for (name, most) in amounts(item.at(&["maxLimitRequestRatio"])) {
            let begin = format!("{name} max limit to request ratio per {} is {most}, but", self.kind);
            let (asked, limit) = (given(&self.requests, &name), given(&self.limits, &name));
            let (Some(asked), Some(limit)) = (asked, limit) else {
                let what = if asked.is_none() { "request" } else { "limit" };
                faults.push(format!("{begin} no {what} is specified or {what} is 0"));
                continue;
            };
            if exceeds(limit, asked, most) {
                let ratio = limit.nanos() as f64 / asked.nanos() as f64;
                faults.push(format!("{begin} provided ratio is {ratio:.6}"));
            }
        }
    }
}

/// Whether `limit / asked > most`, exactly.
fn exceeds(limit: Quantity, asked: Quantity, most: Quantity) -> bool {
    const ONE: i128 = 1_000_000_000;
    match (limit.nanos().checked_mul(ONE), asked.nanos().checked_mul(most.nanos())) {
        (Some(limit), Some(bound)) => limit > bound,
        // Too large for whole numbers; so far off that these do.
        _ => limit.nanos() as f64 / asked.nanos() as f64 > most.nanos() as f64 / ONE as f64,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn object(yaml: &str) -> Object {
        serde_saphyr::from_str(yaml).expect(yaml)
    }

    fn range(limits: &str) -> Object {
        object(&format!("{{spec: {{limits: [{limits}]}}}}"))
    }

    #[test]
    fn what_is_not_asked_for_is_given_and_noted() {
        let mut pod = object(
            "{spec: {initContainers: [{name: i}], containers: [{name: a, resources: {limits: {cpu: 2}}}, {name: b}]}}",
        );
        complete(&range("{type: Container, default: {cpu: 1, memory: 1Gi}, defaultRequest: {cpu: 500m}}"), &mut pod);
        expect![[r#"{"metadata":{"annotations":{"kubernetes.io/limit-ranger":"LimitRanger plugin set: cpu request for container a; memory limit for container a; cpu request for container b; cpu, memory limit for container b; cpu request for init container i; cpu, memory limit for init container i"}},"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":2,"memory":"1Gi"},"requests":{"cpu":"500m"}}},{"name":"b","resources":{"limits":{"cpu":1,"memory":"1Gi"},"requests":{"cpu":"500m"}}}],"initContainers":[{"name":"i","resources":{"limits":{"cpu":1,"memory":"1Gi"},"requests":{"cpu":"500m"}}}]}}"#]]
            .assert_eq(&pod.to_string());
    }

    fn check(limits: &str, resources: &str, expected: Expect) {
        let pod = object(&format!("{{spec: {{containers: [{{name: a, resources: {resources}}}]}}}}"));
        expected.assert_eq(&pod_faults(&range(limits), &pod).join("\n"));
    }

    #[test]
    fn containers_and_pods_stay_within_bounds() {
        let bounds = "{type: Container, min: {cpu: 200m}, max: {cpu: 800m}}";
        check(bounds, "{requests: {cpu: 500m}, limits: {cpu: 800m}}", expect![""]);
        check(
            bounds,
            "{requests: {cpu: 100m}, limits: {cpu: 1500m}}",
            expect![[r#"
                minimum cpu usage per Container is 200m, but request is 100m
                maximum cpu usage per Container is 800m, but limit is 1500m"#]],
        );
        check(
            bounds,
            "{}",
            expect![[r#"
                minimum cpu usage per Container is 200m.  No request is specified
                maximum cpu usage per Container is 800m.  No limit is specified"#]],
        );
        check(
            "{type: Pod, max: {memory: 1Gi}}",
            "{requests: {memory: 2Gi}, limits: {memory: 2Gi}}",
            expect!["maximum memory usage per Pod is 1Gi, but limit is 2Gi"],
        );
        let ratio = "{type: Container, maxLimitRequestRatio: {memory: 2}}";
        check(ratio, "{requests: {memory: 1Gi}, limits: {memory: 2Gi}}", expect![""]);
        check(
            ratio,
            "{requests: {memory: 1Gi}, limits: {memory: 3Gi}}",
            expect!["memory max limit to request ratio per Container is 2, but provided ratio is 3.000000"],
        );
        check(
            ratio,
            "{limits: {memory: 3Gi}}",
            expect![
                "memory max limit to request ratio per Container is 2, but no request is specified or request is 0"
            ],
        );
    }

    #[test]
    fn claims_stay_within_bounds() {
        let range = range("{type: PersistentVolumeClaim, min: {storage: 1Gi}, max: {storage: 2Gi}}");
        let faults = |size: &str| {
            claim_faults(&range, &object(&format!("{{spec: {{resources: {{requests: {{storage: {size}}}}}}}}}")))
                .join("")
        };
        assert_eq!(faults("2Gi"), "");
        assert_eq!(faults("5Gi"), "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 5Gi");
        assert_eq!(faults("500Mi"), "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi");
    }
}
