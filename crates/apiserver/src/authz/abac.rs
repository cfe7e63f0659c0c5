//! ABAC: a file of policies, one in each line, that each allow somebody something.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/abac/>.

use serde_json::Value;
use skiff_object::meta::Meta;

use crate::authz::rbac::Rule;
use crate::authz::{Action, Decision};
use crate::call::UserInfo;

const GROUP: &str = "abac.authorization.kubernetes.io/";
/// What stands in old policies for everybody.
const EVERYBODY: &str = "system:authenticated";

/// One policy: who, and what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    path: String,
}

/// All policies of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policies(Vec<Policy>);

impl Policies {
    /// Reads the file; `name` is for people.
    ///
    /// # Errors
    /// A line is no policy.
    pub fn read(text: &str, name: &str) -> Result<Self, String> {
        let mut policies = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let fault = |why: String| format!("error reading policy file {name}, line {}: {line}: {why}", index + 1);
            let tree: Value = serde_json::from_str(trimmed).map_err(|error| fault(error.to_string()))?;
            policies.push(policy(&tree).map_err(fault)?);
        }
        Ok(Self(policies))
    }

    /// Whether a policy allows an action.
    pub fn decide(&self, user: &UserInfo, action: &Action) -> Decision {
        match self.0.iter().any(|policy| policy.is_for(user) && policy.allows(action)) {
            true => Decision::allow(""),
            false => Decision::no_opinion("No policy matched."),
        }
    }

    /// What the policies say of a user in a namespace, as rules.
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let own = self.0.iter().filter(|policy| policy.is_for(user));
        let here = own.filter(|policy| policy.namespace == "*" || policy.namespace == namespace);
        here.flat_map(|policy| {
            let read: &[&str] = if policy.readonly { &["get", "list", "watch"] } else { &["*"] };
            let verbs: Vec<String> = read.iter().map(|verb| (*verb).to_owned()).collect();
            let resources = (!policy.resource.is_empty()).then(|| Rule {
                verbs: verbs.clone(),
                api_groups: vec![policy.api_group.clone()],
                resources: vec![policy.resource.clone()],
                ..Rule::default()
            });
            let paths = (!policy.path.is_empty()).then(|| Rule {
                verbs: verbs.clone(),
                non_resource_urls: vec![policy.path.clone()],
                ..Rule::default()
            });
            resources.into_iter().chain(paths)
        })
        .collect()
    }
}

fn policy(tree: &Value) -> Result<Policy, String> {
    let version = tree.str_at(&["apiVersion"]);
    if version.is_empty() {
        return Ok(unversioned(tree));
    }
    if tree.str_at(&["kind"]) != "Policy" || !version.starts_with(GROUP) {
        return Err(format!("no kind {:?} is registered for version {version:?}", tree.str_at(&["kind"])));
    }
    let text = |field: &str| tree.str_at(&["spec", field]).to_owned();
    Ok(Policy {
        user: text("user"),
        group: text("group"),
        readonly: tree.bool_at(&["spec", "readonly"]),
        api_group: text("apiGroup"),
        resource: text("resource"),
        namespace: text("namespace"),
        path: text("nonResourcePath"),
    })
}

/// The oldest form has no version, and what it does not name is everything.
fn unversioned(tree: &Value) -> Policy {
    let text = |field: &str| tree.str_at(&[field]).to_owned();
    let or_all = |field: &str| Some(text(field)).filter(|text| !text.is_empty()).unwrap_or_else(|| "*".to_owned());
    let (user, group) = (text("user"), text("group"));
    let everybody = user.is_empty() && group.is_empty() || user == "*" || group == "*";
    let resource = text("resource");
    Policy {
        group: if everybody { EVERYBODY.to_owned() } else { group },
        user: if user == "*" || everybody { String::new() } else { user },
        readonly: tree.bool_at(&["readonly"]),
        api_group: "*".to_owned(),
        // Who may do all to resources may also ask for all paths.
        path: if resource.is_empty() { "*".to_owned() } else { String::new() },
        resource: or_all("resource"),
        namespace: or_all("namespace"),
    }
}

impl Policy {
    fn is_for(&self, user: &UserInfo) -> bool {
        let named = self.user.is_empty() || self.user == "*" || self.user == user.name;
        let grouped = self.group.is_empty() || self.group == "*" || user.in_group(&self.group);
        named && grouped && !(self.user.is_empty() && self.group.is_empty())
    }

    fn allows(&self, action: &Action) -> bool {
        let reads = matches!(action.verb.as_str(), "get" | "list" | "watch");
        if self.readonly && !reads {
            return false;
        }
        if action.is_path() {
            let prefix = self.path.strip_suffix('*');
            return self.path == action.path || prefix.is_some_and(|prefix| action.path.starts_with(prefix));
        }
        let fits = |own: &str, wanted: &str| own == "*" || own == wanted;
        fits(&self.namespace, &action.namespace)
            && fits(&self.resource, &action.resource)
            && fits(&self.api_group, &action.group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_allow_who_and_what_they_name() {
        let text = r#"
# people
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"alice","namespace":"*","resource":"*","apiGroup":"*"}}
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"group":"dev","namespace":"a","resource":"pods","readonly":true}}
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"*","nonResourcePath":"/healthz/*","readonly":true}}
{"user":"old","resource":"pods"}
"#;
        let policies = Policies::read(text, "f").expect("well-formed");
        let may = |user: &str, verb: &str, namespace: &str, resource: &str, path: &str| {
            let groups: &[&str] = if user == "dan" { &["dev"] } else { &[] };
            let own = |text: &str| text.to_owned();
            let action = Action {
                verb: own(verb),
                namespace: own(namespace),
                resource: own(resource),
                path: own(path),
                ..Action::default()
            };
            policies.decide(&UserInfo::new(user, groups), &action).allowed
        };
        assert!(may("alice", "delete", "x", "secrets", ""));
        assert!(!may("alice", "get", "", "", "/version"));
        assert!(may("dan", "list", "a", "pods", ""));
        assert!(!may("dan", "create", "a", "pods", ""));
        assert!(!may("dan", "list", "b", "pods", ""));
        assert!(may("eve", "get", "", "", "/healthz/etcd"));
        assert!(!may("eve", "post", "", "", "/healthz/etcd"));
        assert!(may("old", "create", "a", "pods", ""));
        assert!(!may("old", "create", "a", "secrets", ""));
        assert_eq!(policies.rules(&UserInfo::new("dan", &["dev"]), "a").len(), 1);
        let fault = Policies::read("{}\n{", "f").expect_err("no JSON");
        assert!(fault.starts_with("error reading policy file f, line 2: {: "), "{fault}");
    }
}
