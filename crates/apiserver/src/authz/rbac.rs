//! RBAC: roles and bindings, evaluated from a view that is made anew only when one of them changed.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/rbac/>.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::authz::{Action, Decision};
use crate::call::UserInfo;
use crate::storage::cache::ResourceCache;
use crate::storage::catalogue::Catalogue;
use crate::storage::filter::Filter;

/// The group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// A policy rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// What may be done.
    pub verbs: Vec<String>,
    /// With the resources of which groups.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    /// With which resources.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    /// With which objects; all where empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    /// With which paths.
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

impl Rule {
    /// The rules of those who may do everything.
    pub fn everything() -> Vec<Self> {
        let all = || vec!["*".to_owned()];
        let on_resources = Self { verbs: all(), api_groups: all(), resources: all(), ..Self::default() };
        vec![on_resources, Self { verbs: all(), non_resource_urls: all(), ..Self::default() }]
    }

    /// Whether the rule covers an action.
    pub fn allows(&self, action: &Action) -> bool {
        let has = |list: &[String], wanted: &str| list.iter().any(|own| own == "*" || own == wanted);
        if !has(&self.verbs, &action.verb) {
            return false;
        }
        if action.is_path() {
            return self.non_resource_urls.iter().any(|pattern| path_matches(pattern, &action.path));
        }
        has(&self.api_groups, &action.group)
            && self.resources.iter().any(|own| resource_matches(own, action))
            && (self.resource_names.is_empty() || self.resource_names.contains(&action.name))
    }
}

fn resource_matches(own: &str, action: &Action) -> bool {
    if own == "*" {
        return true;
    }
    match own.split_once('/') {
        None => action.subresource.is_empty() && own == action.resource,
        Some(("*", subresource)) => subresource == action.subresource,
        Some((resource, subresource)) => resource == action.resource && subresource == action.subresource,
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*" || pattern == path || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

/// A binding that concerns a subject.
#[derive(Debug)]
struct Grant {
    /// What to say of an action that it allows.
    description: String,
    /// Empty where it holds everywhere.
    namespace: String,
    rules: Arc<[Rule]>,
}

/// Bindings by their subjects.
#[derive(Default)]
struct View {
    /// The revisions of the four kinds that the view was made of.
    stamp: [u64; 4],
    users: HashMap<String, Vec<Arc<Grant>>>,
    groups: HashMap<String, Vec<Arc<Grant>>>,
}

/// Roles and bindings.
pub struct Rbac {
    /// ClusterRoles, ClusterRoleBindings, Roles, RoleBindings.
    caches: Option<[Arc<ResourceCache>; 4]>,
    view: Mutex<Arc<View>>,
}

impl Rbac {
    /// Decides by the catalogue's caches; where it lacks the kinds, nothing is allowed.
    pub fn new(catalogue: &Catalogue) -> Self {
        let cache = |plural| catalogue.cache(GROUP, plural);
        let caches = cache("clusterroles")
            .zip(cache("clusterrolebindings"))
            .zip(cache("roles").zip(cache("rolebindings")))
            .map(|((cluster_roles, cluster_bindings), (roles, bindings))| {
                [cluster_roles, cluster_bindings, roles, bindings]
            });
        Self { caches, view: Mutex::default() }
    }

    fn view(&self) -> Arc<View> {
        let Some(caches) = &self.caches else { return Arc::default() };
        let mut view = self.view.lock();
        // The revisions are read before the content: what comes between is seen the next time.
        let stamp = std::array::from_fn(|index| caches[index].changed());
        if view.stamp != stamp {
            *view = Arc::new(build(caches, stamp));
        }
        view.clone()
    }

    /// Whether a binding of the user allows an action.
    pub fn decide(&self, user: &UserInfo, action: &Action) -> Decision {
        let view = self.view();
        let grants = grants_of(&view, user);
        let holds = |grant: &&Arc<Grant>| {
            (grant.namespace.is_empty() || (!action.is_path() && grant.namespace == action.namespace))
                && grant.rules.iter().any(|rule| rule.allows(action))
        };
        match grants.into_iter().find(holds) {
            Some(grant) => Decision::allow(format!("RBAC: allowed by {}", grant.description)),
            None => Decision::default(),
        }
    }

    /// All rules that hold for a user in a namespace.
    pub fn rules_of(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let view = self.view();
        let grants = grants_of(&view, user).into_iter();
        let holds = |grant: &&Arc<Grant>| grant.namespace.is_empty() || grant.namespace == namespace;
        grants.filter(holds).flat_map(|grant| grant.rules.iter().cloned()).collect()
    }
}

fn grants_of<'a>(view: &'a View, user: &UserInfo) -> Vec<&'a Arc<Grant>> {
    let by_group = user.groups.iter().filter_map(|group| view.groups.get(group));
    let by_name = view.users.get(&user.name);
    by_group.chain(by_name).flatten().collect()
}

fn build(caches: &[Arc<ResourceCache>; 4], stamp: [u64; 4]) -> View {
    let [cluster_roles, cluster_bindings, roles, bindings] = caches.each_ref().map(|cache| objects(cache));
    let rules_of = |role: &Object| -> Arc<[Rule]> {
        let rules = role.get("rules").cloned().unwrap_or(Value::Array(Vec::new()));
        // Validation let only well-formed rules in; one that is not grants nothing.
        serde_json::from_value::<Vec<Rule>>(rules).unwrap_or_default().into()
    };
    let mut known: HashMap<(&str, &str), Arc<[Rule]>> = HashMap::new();
    for role in cluster_roles.iter().chain(&roles) {
        known.insert((role.namespace(), role.name()), rules_of(role));
    }
    let mut view = View { stamp, ..View::default() };
    for binding in cluster_bindings.iter().chain(&bindings) {
        let role = binding.str_at(&["roleRef", "name"]);
        let kind = binding.str_at(&["roleRef", "kind"]);
        let home = if kind == "ClusterRole" { "" } else { binding.namespace() };
        let Some(rules) = known.get(&(home, role)) else { continue };
        bind(&mut view, binding, kind, role, rules);
    }
    view
}

fn objects(cache: &ResourceCache) -> Vec<Object> {
    cache.objects(&Filter::default()).unwrap_or_else(|failure| {
        tracing::error!(resource = %cache.def.group_resource(), error = %failure.0, "roles cannot be read");
        Vec::new()
    })
}

fn bind(view: &mut View, binding: &Object, kind: &str, role: &str, rules: &Arc<[Rule]>) {
    let namespace = binding.namespace().to_owned();
    for subject in binding.list_at(&["subjects"]) {
        let name = subject.str_at(&["name"]).to_owned();
        let what = binding.str_at(&["kind"]);
        let (subject_kind, own) = (subject.str_at(&["kind"]), subject.str_at(&["namespace"]));
        let shown = match subject_kind {
            "ServiceAccount" => format!("ServiceAccount {:?}", format!("{name}/{own}")),
            other => format!("{other} {name:?}"),
        };
        let full =
            if namespace.is_empty() { binding.name().to_owned() } else { format!("{}/{namespace}", binding.name()) };
        let description = format!("{what} {full:?} of {kind} {role:?} to {shown}");
        let grant = Arc::new(Grant { description, namespace: namespace.clone(), rules: rules.clone() });
        match subject_kind {
            "User" => view.users.entry(name).or_default().push(grant),
            "Group" => view.groups.entry(name).or_default().push(grant),
            "ServiceAccount" => {
                view.users.entry(format!("system:serviceaccount:{own}:{name}")).or_default().push(grant);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(rule: Value, verb: &str, resource: &str, name: &str, expected: bool) {
        let (resource, subresource) = resource.split_once(':').unwrap_or((resource, ""));
        let action = Action {
            verb: verb.into(),
            resource: resource.into(),
            subresource: subresource.into(),
            name: name.into(),
            ..Action::default()
        };
        let parsed: Rule = serde_json::from_value(rule.clone()).expect("a rule");
        assert_eq!(parsed.allows(&action), expected, "{rule} {action:?}");
    }

    #[test]
    fn rules_cover_what_they_name() {
        let pods = json!({"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["get", "list"]});
        check(pods.clone(), "get", "pods", "a", true);
        check(pods.clone(), "get", "pods:log", "a", true);
        check(pods.clone(), "get", "pods:exec", "a", false);
        check(pods.clone(), "create", "pods", "a", false);
        check(pods, "get", "secrets", "a", false);
        check(json!({"apiGroups": ["*"], "resources": ["*/scale"], "verbs": ["*"]}), "update", "x:scale", "a", true);
        check(
            json!({"apiGroups": [""], "resources": ["*"], "verbs": ["*"], "resourceNames": ["a"]}),
            "get",
            "x",
            "b",
            false,
        );
    }

    #[test]
    fn paths_are_matched_with_a_star_at_the_end() {
        assert!(path_matches("/healthz/*", "/healthz/ping"));
        assert!(!path_matches("/healthz", "/healthz/ping"));
        assert!(path_matches("*", "/x"));
    }
}
