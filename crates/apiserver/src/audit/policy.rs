//! What is written down of which requests: the rules of an audit policy, of which the first that fits decides.
//! See <https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/#audit-k8s-io-v1-Policy>.

use serde::Serialize;
use serde_json::Value;
use skiff_object::meta::Meta;

use crate::call::UserInfo;
use crate::http::request::RequestInfo;

/// How much of a request is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[expect(missing_docs, reason = "the names are upstream's own")]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

impl Level {
    const ALL: [Self; 4] = [Self::None, Self::Metadata, Self::Request, Self::RequestResponse];

    fn name(self) -> &'static str {
        match self {
            Self::None => "None",
            Self::Metadata => "Metadata",
            Self::Request => "Request",
            Self::RequestResponse => "RequestResponse",
        }
    }
}

/// The moments of a request at which something is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names are upstream's own")]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    const ALL: [Self; 4] = [Self::RequestReceived, Self::ResponseStarted, Self::ResponseComplete, Self::Panic];

    fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// What the policy says of one request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruling {
    /// How much is written down.
    pub level: Level,
    /// When nothing is.
    pub omitted: Vec<Stage>,
    /// Whether objects are written down without the owners of their fields.
    pub without_managed_fields: bool,
}

/// An audit policy.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Vec<Rule>,
    omitted: Vec<Stage>,
    without_managed_fields: bool,
}

#[derive(Debug, Clone, Default)]
struct Rule {
    level: Level,
    users: Vec<String>,
    groups: Vec<String>,
    verbs: Vec<String>,
    namespaces: Vec<String>,
    resources: Vec<Resources>,
    paths: Vec<String>,
    omitted: Vec<Stage>,
    without_managed_fields: Option<bool>,
}

/// Resources of one group.
#[derive(Debug, Clone, Default)]
struct Resources {
    group: String,
    /// All where empty.
    resources: Vec<String>,
    /// All where empty.
    names: Vec<String>,
}

impl Policy {
    /// Reads a policy of the group `audit.k8s.io`.
    ///
    /// # Errors
    /// It is no policy, has no rules, or says what no policy can; the first fault is told with its path.
    pub fn read(policy: &Value) -> Result<Self, String> {
        let (version, kind) = (policy.str_at(&["apiVersion"]), policy.str_at(&["kind"]));
        if version != "audit.k8s.io/v1" || kind != "Policy" {
            return Err(format!("an audit.k8s.io/v1 Policy is wanted, not {version} {kind}"));
        }
        let rules = policy.list_at(&["rules"]);
        if rules.is_empty() {
            return Err("loaded illegal policy with 0 rules".to_owned());
        }
        let read = |(index, rule)| Rule::read(rule, &format!("rules[{index}]"));
        Ok(Self {
            rules: rules.iter().enumerate().map(read).collect::<Result<_, _>>()?,
            omitted: stages(policy, "omitStages")?,
            without_managed_fields: policy.bool_at(&["omitManagedFields"]),
        })
    }

    /// What is written down of a request.
    pub fn rule(&self, user: &UserInfo, info: &RequestInfo) -> Ruling {
        let Some(rule) = self.rules.iter().find(|rule| rule.fits(user, info)) else { return Ruling::default() };
        let mut omitted = self.omitted.clone();
        omitted.extend(rule.omitted.iter().filter(|stage| !self.omitted.contains(stage)));
        let without_managed_fields = rule.without_managed_fields.unwrap_or(self.without_managed_fields);
        Ruling { level: rule.level, omitted, without_managed_fields }
    }
}

impl Rule {
    fn read(rule: &Value, path: &str) -> Result<Self, String> {
        let level = rule.str_at(&["level"]);
        let known = Level::ALL.into_iter().find(|known| known.name() == level);
        let level = known.ok_or_else(|| unsupported(&format!("{path}.level"), level, &Level::ALL.map(Level::name)))?;
        let resources = rule.list_at(&["resources"]).iter().map(|entry| Resources {
            group: entry.str_at(&["group"]).to_owned(),
            resources: texts(entry, "resources"),
            names: texts(entry, "resourceNames"),
        });
        let read = Self {
            level,
            users: texts(rule, "users"),
            groups: texts(rule, "userGroups"),
            verbs: texts(rule, "verbs"),
            namespaces: texts(rule, "namespaces"),
            resources: resources.collect(),
            paths: texts(rule, "nonResourceURLs"),
            omitted: stages(rule, &format!("{path}.omitStages"))?,
            without_managed_fields: rule.get("omitManagedFields").and_then(Value::as_bool),
        };
        read.check(path)?;
        Ok(read)
    }

    fn check(&self, path: &str) -> Result<(), String> {
        for (index, own) in self.paths.iter().enumerate() {
            let at = format!("{path}.nonResourceURLs[{index}]");
            if own == "*" {
                continue;
            }
            if !own.starts_with('/') {
                return Err(format!(
                    "{at}: Invalid value: {own:?}: non-resource URL rules must begin with a '/' character"
                ));
            }
            if own[..own.len() - 1].contains('*') {
                let why = "non-resource URL wildcards '*' must be the final character of the rule";
                return Err(format!("{at}: Invalid value: {own:?}: {why}"));
            }
        }
        for (index, entry) in self.resources.iter().enumerate() {
            if !entry.names.is_empty() && entry.resources.is_empty() {
                let why = "using resourceNames requires at least one resource";
                return Err(format!(
                    "{path}.resources[{index}].resourceNames: Invalid value: {:?}: {why}",
                    entry.names
                ));
            }
        }
        let names_resources = !self.resources.is_empty() || !self.namespaces.is_empty();
        if !self.paths.is_empty() && names_resources {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            return Err(format!("{path}.nonResourceURLs: Invalid value: {:?}: {why}", self.paths));
        }
        Ok(())
    }

    fn fits(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        let has = |list: &[String], wanted: &str| list.is_empty() || list.iter().any(|own| own == wanted);
        if !has(&self.users, &user.name)
            || !(self.groups.is_empty() || self.groups.iter().any(|group| user.in_group(group)))
            || !has(&self.verbs, &info.verb)
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return info.is_resource
                && has(&self.namespaces, &info.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|own| own.fit(info)));
        }
        self.paths.is_empty() || (!info.is_resource && self.paths.iter().any(|own| path_fits(own, &info.path)))
    }
}

impl Resources {
    fn fit(&self, info: &RequestInfo) -> bool {
        let named = |own: &String| {
            let (resource, subresource) = own.split_once('/').unwrap_or((own, ""));
            own == "*"
                || *own == info.full_resource()
                || (resource == "*" && !info.subresource.is_empty() && subresource == info.subresource)
                || (subresource == "*" && resource == info.resource)
        };
        self.group == info.group
            && (self.resources.is_empty()
                || ((self.names.is_empty() || self.names.contains(&info.name)) && self.resources.iter().any(named)))
    }
}

fn path_fits(own: &str, path: &str) -> bool {
    own == "*" || own == path || own.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

fn texts(value: &Value, field: &str) -> Vec<String> {
    value.list_at(&[field]).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The stages of the field that a path ends with.
fn stages(value: &Value, path: &str) -> Result<Vec<Stage>, String> {
    let field = path.rsplit('.').next().unwrap_or(path);
    let read = |(index, name): (usize, &String)| {
        let known = Stage::ALL.into_iter().find(|known| known.name() == name);
        known.ok_or_else(|| unsupported(&format!("{path}[{index}]"), name, &Stage::ALL.map(Stage::name)))
    };
    texts(value, field).iter().enumerate().map(read).collect()
}

fn unsupported(path: &str, found: &str, supported: &[&str]) -> String {
    let supported: Vec<String> = supported.iter().map(|name| format!("{name:?}")).collect();
    format!("{path}: Unsupported value: {found:?}: supported values: {}", supported.join(", "))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::json;

    use super::*;
    use crate::http::query::Query;

    fn policy(rules: Value) -> Result<Policy, String> {
        Policy::read(&json!({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
            "omitManagedFields": true, "rules": rules}))
    }

    fn check(rules: Value, user: &UserInfo, method: Method, path: &str, expected: Level) {
        let info = RequestInfo::parse(&method, path, &Query::default());
        let ruling = policy(rules.clone()).expect("a policy").rule(user, &info);
        assert_eq!(ruling.level, expected, "{method} {path} by {} under {rules}", user.name);
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let ann = UserInfo::new("ann", &["devs"]);
        let rules = json!([
            {"level": "None", "users": ["system:kube-proxy"]},
            {"level": "None", "nonResourceURLs": ["/healthz*", "/version"]},
            {"level": "RequestResponse", "resources": [{"resources": ["pods", "*/scale", "services/*"]}], "namespaces": ["a"]},
            {"level": "Request", "resources": [{"resources": ["configmaps"], "resourceNames": ["x"]}]},
            {"level": "Request", "resources": [{"group": "apps"}], "verbs": ["create"], "userGroups": ["devs"]},
            {"level": "Metadata", "resources": [{"resources": ["*"]}]},
        ]);
        let of = |method, path, expected| check(rules.clone(), &ann, method, path, expected);
        of(Method::GET, "/healthz/ping", Level::None);
        of(Method::GET, "/api", Level::None);
        of(Method::GET, "/api/v1/namespaces/a/pods/p", Level::RequestResponse);
        of(Method::GET, "/api/v1/namespaces/b/pods/p", Level::Metadata);
        of(Method::GET, "/api/v1/namespaces/a/pods/p/log", Level::Metadata);
        of(Method::PUT, "/api/v1/namespaces/a/replicationcontrollers/r/scale", Level::RequestResponse);
        of(Method::GET, "/api/v1/namespaces/a/services/s/proxy", Level::RequestResponse);
        of(Method::GET, "/api/v1/namespaces/b/configmaps/x", Level::Request);
        of(Method::GET, "/api/v1/namespaces/b/configmaps/y", Level::Metadata);
        of(Method::POST, "/apis/apps/v1/namespaces/b/deployments", Level::Request);
        of(Method::GET, "/apis/apps/v1/namespaces/b/deployments", Level::None);
        check(rules, &UserInfo::new("system:kube-proxy", &[]), Method::GET, "/api/v1/pods", Level::None);
    }

    #[test]
    fn rules_add_stages_and_say_otherwise_of_managed_fields() {
        let rules = json!([{"level": "Metadata", "omitStages": ["Panic"], "omitManagedFields": false}]);
        let ruling = policy(rules).expect("a policy").rule(&UserInfo::anonymous(), &RequestInfo::default());
        assert_eq!(ruling.omitted, [Stage::RequestReceived, Stage::Panic]);
        assert!(!ruling.without_managed_fields);
        let ruling = policy(json!([{"level": "Metadata"}])).expect("a policy");
        assert!(ruling.rule(&UserInfo::anonymous(), &RequestInfo::default()).without_managed_fields);
    }

    #[test]
    fn what_no_policy_can_say_is_refused() {
        let fault = |rules: Value| policy(rules).expect_err("a fault");
        assert_eq!(fault(json!([])), "loaded illegal policy with 0 rules");
        assert_eq!(
            fault(json!([{"level": "All"}])),
            "rules[0].level: Unsupported value: \"All\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\""
        );
        assert_eq!(
            fault(json!([{"level": "None"}, {"level": "None", "omitStages": ["Later"]}])),
            "rules[1].omitStages[0]: Unsupported value: \"Later\": supported values: \"RequestReceived\", \"ResponseStarted\", \"ResponseComplete\", \"Panic\""
        );
        assert!(fault(json!([{"level": "None", "nonResourceURLs": ["logs"]}])).contains("must begin with a '/'"));
        assert!(fault(json!([{"level": "None", "nonResourceURLs": ["/a/*/b"]}])).contains("final character"));
        assert!(fault(json!([{"level": "None", "nonResourceURLs": ["/a"], "namespaces": ["b"]}])).contains("both"));
        assert!(fault(json!([{"level": "None", "resources": [{"resourceNames": ["b"]}]}])).contains("at least one"));
        assert!(Policy::read(&json!({"kind": "Policy"})).is_err());
    }
}
