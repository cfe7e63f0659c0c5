//! The APIServices of what this server has itself: one for each group and version of the built-in kinds and of the
//! definitions in force. Which are to be made, changed and removed is decided here, purely; upstream's rules are those of
//! its auto-registration, by the label [`MANAGED`].

use std::collections::BTreeMap;

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::clock::rfc3339;
use skiff_kinds::ResourceDef;
use skiff_object::Object;
use skiff_object::meta::Meta;

use super::remote::{AVAILABLE, Verdict, condition};

/// Marks the APIServices that the server looks after: made at its start, or kept in step at all times.
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// The group that is this server's own only as long as nobody else serves it.
const YIELDING: &str = "metrics.k8s.io";
/// Where discovery puts groups and versions of definitions.
const CUSTOM: (i64, i64) = (1000, 100);
/// Where discovery puts a built-in group that no line below names: it cannot collide there.
const UNNAMED: (i64, i64) = (15_000, 9);

/// Upstream's places of the built-in groups, and the usual one of what a node's use is told by.
const GROUPS: [(&str, i64); 24] = [
    ("apiregistration.k8s.io", 20_000),
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("resource.k8s.io", 16_150),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("internal.apiserver.k8s.io", 16_000),
    ("storagemigration.k8s.io", 15_800),
    (YIELDING, 100),
];

/// Where discovery puts a group and version of this server's own.
pub fn priorities(group: &str, version: &str, custom: bool) -> (i64, i64) {
    if custom {
        return CUSTOM;
    }
    let known = GROUPS.iter().find(|(name, _)| *name == group);
    let (_, place) = known.copied().unwrap_or(("", UNNAMED.0));
    let version = match (group, version) {
        ("", _) => 1,
        ("autoscaling", "v2") => 30,
        ("flowcontrol.apiserver.k8s.io", "v1") => 21,
        (_, "v1") => 15,
        (_, version) if version.contains("alpha") => 1,
        _ => UNNAMED.1,
    };
    (place, version)
}

/// An APIService that there is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// `v1.apps`.
    pub name: String,
    spec: Value,
    managed: &'static str,
}

impl Wanted {
    /// The whole object.
    pub fn object(&self) -> Object {
        json!({"kind": "APIService", "apiVersion": "apiregistration.k8s.io/v1",
            "metadata": {"name": self.name, "labels": {MANAGED: self.managed}}, "spec": self.spec})
    }

    /// The whole object, as it is written where the cluster begins.
    pub fn first_object(&self, now: Timestamp) -> Object {
        let mut object = self.object();
        object["status"] = json!({"conditions": [condition_of(&Verdict::local(), None, now)]});
        object
    }
}

fn wanted(group: &str, version: &str, custom: bool) -> Wanted {
    let (place, within) = priorities(group, version, custom);
    let mut spec = json!({"version": version, "groupPriorityMinimum": place, "versionPriority": within});
    if !group.is_empty() {
        spec["group"] = group.into();
    }
    Wanted { name: format!("{version}.{group}"), spec, managed: if custom { "true" } else { "onstart" } }
}

/// Those of the built-in kinds.
pub fn of_builtin<'a>(kinds: impl Iterator<Item = &'a ResourceDef>) -> Vec<Wanted> {
    let versions: BTreeMap<String, (&str, &str)> = kinds
        .map(|def| (format!("{}.{}", def.version, def.group), (def.group.as_ref(), def.version.as_ref())))
        .collect();
    versions.into_values().map(|(group, version)| wanted(group, version, false)).collect()
}

/// Those of a definition that is in force.
pub fn of_definition(definition: &Object) -> Vec<Wanted> {
    let conditions = definition.list_at(&["status", "conditions"]);
    let in_force = |one: &Value| one.str_at(&["type"]) == "Established" && one.str_at(&["status"]) == "True";
    if !conditions.iter().any(in_force) {
        return Vec::new();
    }
    let group = definition.str_at(&["spec", "group"]);
    let versions = definition.list_at(&["spec", "versions"]).iter().filter(|one| one.bool_at(&["served"]));
    versions.map(|version| wanted(group, version.str_at(&["name"]), true)).collect()
}

/// Those of all definitions together: several have the same group and version.
pub fn joined<'a>(all: impl Iterator<Item = &'a [Wanted]>) -> Vec<Wanted> {
    let by_name: BTreeMap<&str, &Wanted> = all.flatten().map(|wanted| (wanted.name.as_str(), wanted)).collect();
    by_name.into_values().cloned().collect()
}

/// A step towards what there is to be.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make one.
    Create(Object),
    /// Give one its spec back.
    Respecify(String, Value),
    /// Remove one.
    Delete(String),
    /// Write the status of one.
    Tell(String, Value),
}

/// What is to be done about the APIServices that there are; `at_start` settles those that are seen to only then.
pub fn plan(current: &[&Object], wanted: &[Wanted], at_start: bool, now: Timestamp) -> Vec<Step> {
    let mut steps = Vec::new();
    for object in current {
        let managed = object.label(MANAGED).unwrap_or("");
        let is_local = object.at(&["spec", "service"]).is_none_or(Value::is_null);
        // Whoever made another server of it from ours has left our label on it.
        let is_given_away = object.str_at(&["spec", "group"]) == YIELDING && !is_local;
        let is_ours = managed == "true" || (managed == "onstart" && at_start && !is_given_away);
        match wanted.iter().find(|wanted| wanted.name == object.name()) {
            None if is_ours && !object.is_deleting() => steps.push(Step::Delete(object.name().to_owned())),
            Some(wanted) if is_ours && object.get("spec") != Some(&wanted.spec) => {
                steps.push(Step::Respecify(wanted.name.clone(), wanted.spec.clone()));
                continue;
            }
            _ => {}
        }
        let (verdict, told) = (Verdict::local(), condition(object));
        if is_local && !object.is_deleting() && !verdict.is_told(told) {
            steps.push(Step::Tell(object.name().to_owned(), status_of(object, &verdict, now)));
        }
    }
    for wanted in wanted.iter().filter(|wanted| wanted.managed == "true" || at_start) {
        if !current.iter().any(|object| object.name() == wanted.name) {
            steps.push(Step::Create(wanted.object()));
        }
    }
    steps
}

/// An APIService's status with the verdict in it.
pub fn status_of(object: &Object, verdict: &Verdict, now: Timestamp) -> Value {
    let others = object.list_at(&["status", "conditions"]).iter().filter(|one| one.str_at(&["type"]) != AVAILABLE);
    let mut conditions: Vec<Value> = others.cloned().collect();
    conditions.push(condition_of(verdict, condition(object), now));
    json!({"conditions": conditions})
}

fn condition_of(verdict: &Verdict, before: Option<&Value>, now: Timestamp) -> Value {
    let unmoved = before.filter(|before| before.str_at(&["status"]) == verdict.status);
    let since = unmoved.map_or("", |before| before.str_at(&["lastTransitionTime"]));
    let since = if since.is_empty() { rfc3339(now) } else { since.to_owned() };
    json!({"type": AVAILABLE, "status": verdict.status, "reason": verdict.reason, "message": verdict.message,
        "lastTransitionTime": since})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().expect("a time")
    }

    fn check(current: &[Object], wanted: &[Wanted], at_start: bool) -> Vec<String> {
        let current: Vec<&Object> = current.iter().collect();
        let shown = plan(&current, wanted, at_start, now()).into_iter().map(|step| match step {
            Step::Create(object) => format!("create {}", object.name()),
            Step::Respecify(name, _) => format!("respecify {name}"),
            Step::Delete(name) => format!("delete {name}"),
            Step::Tell(name, status) => {
                format!("tell {name} {}", status["conditions"][0]["reason"].as_str().expect("a reason"))
            }
        });
        shown.collect()
    }

    #[test]
    fn those_of_definitions_are_kept_in_step_and_others_are_left_alone() {
        let definition = json!({"spec": {"group": "a.io", "versions": [{"name": "v1", "served": true},
            {"name": "v2", "served": false}]}, "status": {"conditions": [{"type": "Established", "status": "True"}]}});
        let wanted = of_definition(&definition);
        let twice = joined([wanted.as_slice(), &wanted].into_iter());
        assert_eq!(twice, wanted);
        assert_eq!(wanted.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["v1.a.io"]);
        assert_eq!(check(&[], &wanted, false), ["create v1.a.io"]);
        let made = wanted[0].first_object(now());
        assert_eq!(check(std::slice::from_ref(&made), &wanted, false), [""; 0]);
        let mut bare = made.clone();
        bare["status"] = json!({});
        assert_eq!(check(std::slice::from_ref(&bare), &wanted, false), ["tell v1.a.io Local"]);
        let mut bent = made.clone();
        bent["spec"]["groupPriorityMinimum"] = 1.into();
        assert_eq!(check(&[bent], &wanted, false), ["respecify v1.a.io"]);
        assert_eq!(check(std::slice::from_ref(&made), &[], false), ["delete v1.a.io"]);
        let mut taken = made;
        taken["metadata"]["labels"] = json!({});
        taken["spec"]["service"] = json!({"namespace": "n", "name": "s"});
        assert_eq!(check(std::slice::from_ref(&taken), &[], false), [""; 0]);
        assert_eq!(check(&[taken], &wanted, false), [""; 0]);
    }

    #[test]
    fn those_of_built_in_kinds_are_seen_to_at_the_start() {
        let wanted = of_builtin(skiff_kinds::builtin().iter().copied());
        assert!(wanted.iter().any(|one| one.name == "v1.") && wanted.iter().any(|one| one.name == "v2.autoscaling"));
        assert_eq!(check(&[], &wanted[..1], false), [""; 0]);
        assert_eq!(check(&[], &wanted[..1], true), [format!("create {}", wanted[0].name)]);
        let old = super::wanted("old.io", "v1", false).first_object(now());
        assert_eq!(check(std::slice::from_ref(&old), &wanted[..0], false), [""; 0]);
        assert_eq!(check(&[old], &wanted[..0], true), ["delete v1.old.io"]);
    }

    #[test]
    fn metrics_that_were_given_to_another_server_stay_there() {
        for (group, expected) in [(YIELDING, &[][..]), ("apps", &["respecify v1.apps"])] {
            let wanted = super::wanted(group, "v1", false);
            let mut taken = wanted.first_object(now());
            taken["spec"]["service"] = json!({"namespace": "kube-system", "name": "metrics-server"});
            assert_eq!(check(&[taken], &[wanted], true), expected);
        }
    }

    #[test]
    fn every_built_in_group_has_its_place() {
        for def in skiff_kinds::builtin() {
            assert!(GROUPS.iter().any(|(group, _)| *group == def.group), "{}", def.group);
        }
    }
}
