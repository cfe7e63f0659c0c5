//! Which requests a FlowSchema is about: its rules, read once, because every request is held against all of them.

use serde_json::Value;
use skiff_object::meta::Meta;

use crate::call::UserInfo;
use crate::http::request::RequestInfo;

/// Whom a rule is about, and what they ask for.
pub struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    /// Verbs and paths.
    others: Vec<(Vec<String>, Vec<String>)>,
}

enum Subject {
    User(String),
    Group(String),
    Account { namespace: String, name: String },
}

struct ResourceRule {
    cluster_wide: bool,
    namespaces: Vec<String>,
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
}

impl Rule {
    /// Reads a rule.
    pub fn of(rule: &Value) -> Self {
        let others = rule.list_at(&["nonResourceRules"]).iter();
        Self {
            subjects: rule.list_at(&["subjects"]).iter().filter_map(Subject::of).collect(),
            resources: rule.list_at(&["resourceRules"]).iter().map(ResourceRule::of).collect(),
            others: others.map(|other| (texts(other, "verbs"), texts(other, "nonResourceURLs"))).collect(),
        }
    }

    /// Whether a request falls under it; `resource` is the request's, with its subresource.
    pub fn matches(&self, user: &UserInfo, info: &RequestInfo, resource: &str) -> bool {
        if !self.subjects.iter().any(|subject| subject.matches(user)) {
            return false;
        }
        if info.is_resource {
            return self.resources.iter().any(|rule| rule.matches(info, resource));
        }
        let fits = |paths: &[String]| paths.iter().any(|pattern| matches_path(pattern, &info.path));
        self.others.iter().any(|(verbs, paths)| has(verbs, &info.verb) && fits(paths))
    }
}

impl Subject {
    fn of(subject: &Value) -> Option<Self> {
        let text = |path: &[&str]| subject.str_at(path).to_owned();
        match subject.str_at(&["kind"]) {
            "User" => Some(Self::User(text(&["user", "name"]))),
            "Group" => Some(Self::Group(text(&["group", "name"]))),
            "ServiceAccount" => Some(Self::Account {
                namespace: text(&["serviceAccount", "namespace"]),
                name: text(&["serviceAccount", "name"]),
            }),
            _ => None,
        }
    }

    fn matches(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(name) => name == "*" || *name == user.name,
            Self::Group(name) => name == "*" || user.in_group(name),
            Self::Account { namespace, name } => {
                let own = user.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
                own.is_some_and(|(of, own)| of == namespace && (name == "*" || own == name))
            }
        }
    }
}

impl ResourceRule {
    fn of(rule: &Value) -> Self {
        Self {
            cluster_wide: rule.bool_at(&["clusterScope"]),
            namespaces: texts(rule, "namespaces"),
            verbs: texts(rule, "verbs"),
            groups: texts(rule, "apiGroups"),
            resources: texts(rule, "resources"),
        }
    }

    fn matches(&self, info: &RequestInfo, resource: &str) -> bool {
        let in_place =
            if info.namespace.is_empty() { self.cluster_wide } else { has(&self.namespaces, &info.namespace) };
        in_place && has(&self.verbs, &info.verb) && has(&self.groups, &info.group) && has(&self.resources, resource)
    }
}

fn matches_path(pattern: &str, path: &str) -> bool {
    pattern == "*" || pattern == path || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

fn texts(rule: &Value, field: &str) -> Vec<String> {
    rule.list_at(&[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|own| own == "*" || own == wanted)
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::http::query::Query;

    fn check(rule: &Value, user: &str, method: Method, path: &str, expected: bool) {
        let info = RequestInfo::parse(&method, path, &Query::default());
        let user = UserInfo::new(user, &["system:nodes"]);
        assert_eq!(
            Rule::of(rule).matches(&user, &info, &info.full_resource()),
            expected,
            "{} {method} {path} {rule}",
            user.name
        );
    }

    #[test]
    fn rules_match_who_asks_and_what_for() {
        let rule = |subject: Value, resources: Value| json!({"subjects": [subject], "resourceRules": [resources]});
        let node = json!({"kind": "Group", "group": {"name": "system:nodes"}});
        let leases = json!({"verbs": ["*"], "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["kube-node-lease"]});
        let of_nodes = rule(node.clone(), leases.clone());
        let path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a";
        check(&of_nodes, "system:node:a", Method::PUT, path, true);
        check(&of_nodes, "system:node:a", Method::PUT, &path.replace("kube-node-lease", "default"), false);
        let other = json!({"kind": "User", "user": {"name": "b"}});
        check(&rule(other, leases), "a", Method::PUT, path, false);
        let cluster = json!({"verbs": ["get"], "apiGroups": [""], "resources": ["nodes/status"], "clusterScope": true});
        check(&rule(node.clone(), cluster.clone()), "a", Method::GET, "/api/v1/nodes/a/status", true);
        check(&rule(node, cluster), "a", Method::GET, "/api/v1/nodes/a", false);
        let account = json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}});
        let all =
            json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true});
        check(&rule(account.clone(), all.clone()), "system:serviceaccount:kube-system:x", Method::GET, path, true);
        check(&rule(account, all), "system:serviceaccount:default:x", Method::GET, path, false);
        let anyone = json!({"kind": "Group", "group": {"name": "*"}});
        let paths = json!({"subjects": [anyone], "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/livez", "/apis/*"]}]});
        check(&paths, "a", Method::GET, "/livez", true);
        check(&paths, "a", Method::GET, "/apis/apps", true);
        check(&paths, "a", Method::GET, "/version", false);
    }
}
