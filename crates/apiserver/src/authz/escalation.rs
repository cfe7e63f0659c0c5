//! Nobody gives rights that they do not have: who writes a role must have all that it allows, and who binds one too,
//! unless they may `escalate` or `bind`.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping>.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skiff_object::meta::Meta;
use skiff_object::{Object, Status};

use crate::admission::{Attributes, Operation, plugins};
use crate::authz::Action;
use crate::authz::rbac::{GROUP, Rule};
use crate::call::UserInfo;
use crate::failure::Result;

/// Refuses a role or a binding that would give more than its author has.
pub async fn check(attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let writes = matches!(attributes.operation, Operation::Create | Operation::Update);
    let Some(object) = object.filter(|_| writes && attributes.def.group == GROUP) else { return Ok(()) };
    if attributes.call.user.in_group("system:masters") {
        return Ok(());
    }
    match attributes.def.plural.as_ref() {
        "roles" | "clusterroles" => role(attributes, object, old).await,
        "rolebindings" | "clusterrolebindings" => binding(attributes, object, old).await,
        _ => Ok(()),
    }
}

async fn role(attributes: &Attributes<'_>, object: &Object, old: Option<&Object>) -> Result<()> {
    let same = |field: &str| old.is_some_and(|old| is_same(old.get(field), object.get(field)));
    if same("rules") && same("aggregationRule") {
        return Ok(());
    }
    if may(attributes, "escalate", attributes.def.plural.as_ref(), object.name()).await? {
        return Ok(());
    }
    if object.get("aggregationRule").is_some_and(|rule| !rule.is_null())
        && covered(attributes, &Rule::everything()).await?.is_err()
    {
        return Err(attributes.forbidden("must have cluster-admin privileges to use an aggregationRule"));
    }
    must_cover(attributes, object, &rules_of(object)).await
}

async fn binding(attributes: &Attributes<'_>, object: &Object, old: Option<&Object>) -> Result<()> {
    let same = |field: &str| old.is_some_and(|old| is_same(old.get(field), object.get(field)));
    if same("roleRef") && same("subjects") {
        return Ok(());
    }
    let name = object.str_at(&["roleRef", "name"]);
    let plural = if object.str_at(&["roleRef", "kind"]) == "ClusterRole" { "clusterroles" } else { "roles" };
    if may(attributes, "bind", plural, name).await? {
        return Ok(());
    }
    let role = plugins::find(attributes, GROUP, plural, name).await?;
    let role = role.ok_or_else(|| Status::not_found(&skiff_object::GroupResource::new(GROUP, plural), name))?;
    must_cover(attributes, object, &rules_of(&role)).await
}

/// What is not there and what is empty is the same.
fn is_same(old: Option<&Value>, new: Option<&Value>) -> bool {
    let something = |value: &&Value| !value.is_null() && value.as_array().is_none_or(|list| !list.is_empty());
    old.filter(something) == new.filter(something)
}

fn rules_of(role: &Object) -> Vec<Rule> {
    // What validation lets in is well-formed; a null is an empty list.
    role.list_at(&["rules"]).iter().filter_map(|rule| serde_json::from_value(rule.clone()).ok()).collect()
}

/// Whether the author has the right to give more than they have.
async fn may(attributes: &Attributes<'_>, verb: &str, plural: &str, name: &str) -> Result<bool> {
    let action = Action {
        verb: verb.to_owned(),
        group: GROUP.to_owned(),
        version: "*".to_owned(),
        resource: plural.to_owned(),
        namespace: attributes.namespace.to_owned(),
        name: name.to_owned(),
        ..Action::default()
    };
    let authorizer = &attributes.server.authorizer;
    if authorizer.decide(&attributes.call.user, &action).await.allowed {
        return Ok(true);
    }
    // What gives the right may be younger than what the caches show.
    attributes.server.hub.fresh().await?;
    Ok(authorizer.decide(&attributes.call.user, &action).await.allowed)
}

/// What is missing of the rules, if anything is.
async fn covered(attributes: &Attributes<'_>, rules: &[Rule]) -> Result<std::result::Result<(), Vec<Rule>>> {
    let own = || attributes.server.authorizer.granted(&attributes.call.user, attributes.namespace);
    let missing = missing(&own(), rules);
    if missing.is_empty() {
        return Ok(Ok(()));
    }
    // The author's rights may be younger than what the caches show.
    attributes.server.hub.fresh().await?;
    let missing = self::missing(&own(), rules);
    Ok(if missing.is_empty() { Ok(()) } else { Err(missing) })
}

async fn must_cover(attributes: &Attributes<'_>, object: &Object, rules: &[Rule]) -> Result<()> {
    let Err(missing) = covered(attributes, rules).await? else { return Ok(()) };
    let why = refusal(&attributes.call.user, missing);
    Err(Status::forbidden(&attributes.def.group_resource(), object.name(), why).into())
}

fn refusal(user: &UserInfo, missing: Vec<Rule>) -> String {
    let lines: BTreeSet<String> = compact(missing).iter().map(shown).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        quoted(&user.groups),
        lines.join("\n")
    )
}

fn quoted(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

fn shown(rule: &Rule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let given = parts.into_iter().filter(|(_, list)| !list.is_empty());
    let given: Vec<String> = given.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
    format!("{{{}}}", given.join(", "))
}

/// Rules that differ in their verbs alone are told as one.
fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut joined: BTreeMap<(Vec<String>, Vec<String>, Vec<String>, Vec<String>), Vec<String>> = BTreeMap::new();
    for rule in rules {
        let key = (rule.api_groups, rule.resources, rule.resource_names, rule.non_resource_urls);
        let verbs = joined.entry(key).or_default();
        verbs.extend(rule.verbs.into_iter().filter(|verb| !verbs.contains(verb)).collect::<Vec<_>>());
    }
    let whole = |((api_groups, resources, resource_names, non_resource_urls), verbs)| Rule {
        verbs,
        api_groups,
        resources,
        resource_names,
        non_resource_urls,
    };
    joined.into_iter().map(whole).collect()
}

/// What the rules allow that `own` does not, in rules of one verb each.
fn missing(own: &[Rule], rules: &[Rule]) -> Vec<Rule> {
    let single = rules.iter().flat_map(taken_apart);
    single.filter(|wanted| !own.iter().any(|rule| covers(rule, wanted))).collect()
}

/// A rule as rules of one verb, group, resource and name, or of one verb and path.
fn taken_apart(rule: &Rule) -> Vec<Rule> {
    let one = |text: &String| vec![text.clone()];
    let mut single = Vec::new();
    for verb in &rule.verbs {
        for path in &rule.non_resource_urls {
            single.push(Rule { verbs: one(verb), non_resource_urls: one(path), ..Rule::default() });
        }
        for (group, resource) in
            rule.api_groups.iter().flat_map(|group| rule.resources.iter().map(move |own| (group, own)))
        {
            let whole = Rule { verbs: one(verb), api_groups: one(group), resources: one(resource), ..Rule::default() };
            if rule.resource_names.is_empty() {
                single.push(whole);
                continue;
            }
            single.extend(rule.resource_names.iter().map(|name| Rule { resource_names: one(name), ..whole.clone() }));
        }
    }
    single
}

/// Whether a rule allows all that another one, of one verb and one thing, does.
fn covers(own: &Rule, wanted: &Rule) -> bool {
    let has = |list: &[String], wanted: &[String]| {
        list.iter().any(|text| text == "*") || wanted.iter().all(|text| list.contains(text))
    };
    if !has(&own.verbs, &wanted.verbs) {
        return false;
    }
    if let Some(path) = wanted.non_resource_urls.first() {
        let above = |own: &String| own.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix));
        return own.non_resource_urls.iter().any(|own| own == path || above(own));
    }
    let below_all = |resource: &String| {
        let all = resource.split_once('/').map(|(_, subresource)| format!("*/{subresource}"));
        all.is_some_and(|all| own.resources.contains(&all))
    };
    let resources = has(&own.resources, &wanted.resources) || wanted.resources.iter().all(below_all);
    let named = own.resource_names.is_empty()
        || (!wanted.resource_names.is_empty()
            && wanted.resource_names.iter().all(|name| own.resource_names.contains(name)));
    has(&own.api_groups, &wanted.api_groups) && resources && named
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;

    fn rules(tree: Value) -> Vec<Rule> {
        serde_json::from_value(tree).expect("rules")
    }

    fn lacks(own: Value, wanted: Value) -> String {
        let missing = compact(missing(&rules(own), &rules(wanted)));
        missing.iter().map(shown).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_given_must_be_had() {
        let pods = json!([{"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]}]);
        assert_eq!(lacks(pods.clone(), pods.clone()), "");
        assert_eq!(lacks(serde_json::to_value(Rule::everything()).expect("rules"), pods.clone()), "");
        expect![[r#"{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]} {APIGroups:[""], Resources:["pods/log"], Verbs:["get" "list"]}"#]]
            .assert_eq(&lacks(json!([]), pods.clone()));
        let all = json!([{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]);
        expect![[r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#]].assert_eq(&lacks(pods.clone(), all));
        let named = json!([{"apiGroups": [""], "resources": ["pods"], "resourceNames": ["a"], "verbs": ["get"]}]);
        assert_eq!(lacks(pods.clone(), named.clone()), "");
        let unnamed = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        assert_ne!(lacks(named, unnamed.clone()), "", "one of them is not all of them");
        let scale = json!([{"apiGroups": ["apps"], "resources": ["deployments/scale"], "verbs": ["get"]}]);
        assert_eq!(
            lacks(json!([{"apiGroups": ["apps"], "resources": ["*/scale"], "verbs": ["get"]}]), scale.clone()),
            ""
        );
        assert_ne!(lacks(json!([{"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get"]}]), scale), "");
        let path = |path: &str| json!([{"nonResourceURLs": [path], "verbs": ["get"]}]);
        assert_eq!(lacks(path("/a/*"), path("/a/b")), "");
        assert_eq!(lacks(path("*"), path("/a/*")), "");
        assert_ne!(lacks(path("/a/b"), path("/a/*")), "");
    }
}
