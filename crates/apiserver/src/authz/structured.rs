//! An AuthorizationConfiguration: who decides, in which order. Read and validated here, in upstream's words; flags say
//! the same in fewer words.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authorization/#using-configuration-file-for-authorization>.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use skiff_cel::{Program, Type, compile};
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, names};

use crate::authn::structured::shown;
use crate::authz::webhook::{CONDITION_ENV, Settings};
use crate::files::{Shape, duration};
use crate::webhook::remote;

/// What decides by itself, and programs that are asked.
pub const MODES: [&str; 6] = ["ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
const MAX_CONDITIONS: usize = 64;
const MAX_TIMEOUT: Duration = Duration::from_secs(30);

/// What the file may say.
pub static SHAPE: Shape = Shape {
    kind: "AuthorizationConfiguration",
    versions: &["v1", "v1beta1", "v1alpha1"],
    leaves: &[
        "authorizers[].type",
        "authorizers[].name",
        "authorizers[].webhook.timeout",
        "authorizers[].webhook.authorizedTTL",
        "authorizers[].webhook.unauthorizedTTL",
        "authorizers[].webhook.cacheAuthorizedRequests bool",
        "authorizers[].webhook.cacheUnauthorizedRequests bool",
        "authorizers[].webhook.subjectAccessReviewVersion",
        "authorizers[].webhook.matchConditionSubjectAccessReviewVersion",
        "authorizers[].webhook.failurePolicy",
        "authorizers[].webhook.connectionInfo.type",
        "authorizers[].webhook.connectionInfo.kubeConfigFile",
        "authorizers[].webhook.matchConditions[].expression",
    ],
};

/// Who decides.
#[derive(Debug)]
pub enum Entry {
    /// One of the server's own, by its type.
    Own(String),
    /// A program.
    Webhook(Box<Settings>),
}

/// Reads a kubeconfig with what is in its files in it.
pub type ReadKubeconfig = fn(&Path) -> Result<Value, String>;

/// Validates what was read.
///
/// # Errors
/// All that is wrong with it, in upstream's words.
pub fn entries(tree: &Value, kubeconfig: ReadKubeconfig) -> Result<Vec<Entry>, String> {
    let mut reader = Reader { errors: ErrorList::new(), kubeconfig };
    let (root, list) = (FieldPath::new("authorizers"), tree.list_at(&["authorizers"]));
    if list.is_empty() {
        reader.errors.push(FieldError::required(&root, "at least one authorization mode must be defined"));
    }
    let (mut types, mut named, mut entries) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for (index, entry) in list.iter().enumerate() {
        let path = root.index(index);
        let (kind, name) = (entry.str_at(&["type"]), entry.str_at(&["name"]));
        let place = path.child("type");
        if kind.is_empty() {
            reader.errors.push(FieldError::required(&place, ""));
            continue;
        }
        if !MODES.contains(&kind) {
            reader.errors.push(FieldError::not_supported(&place, kind, &MODES));
            continue;
        }
        if !types.insert(kind) && kind != "Webhook" {
            reader.errors.push(FieldError::duplicate(&place, kind));
            continue;
        }
        reader.name(name, &mut named, &path.child("name"));
        entries.extend(reader.entry(entry, kind, name, &path));
    }
    if reader.errors.is_empty() { Ok(entries) } else { Err(shown(&reader.errors)) }
}

struct Reader {
    errors: ErrorList,
    kubeconfig: ReadKubeconfig,
}

impl Reader {
    fn invalid(&mut self, path: &FieldPath, value: &str, detail: &str) {
        self.errors.push(FieldError::invalid(path, value, detail));
    }

    fn name<'a>(&mut self, name: &'a str, named: &mut BTreeSet<&'a str>, path: &FieldPath) {
        if name.is_empty() {
            self.errors.push(FieldError::required(path, ""));
        } else if !named.insert(name) {
            self.errors.push(FieldError::duplicate(path, name));
        } else {
            let faults = names::check_dns_subdomain(name);
            if !faults.is_empty() {
                self.invalid(path, name, &format!("authorizer name is invalid: {}", faults.join(", ")));
            }
        }
    }

    fn entry(&mut self, entry: &Value, kind: &str, name: &str, path: &FieldPath) -> Option<Entry> {
        let webhook = entry.get("webhook").filter(|webhook| webhook.is_object());
        match (kind, webhook) {
            ("Webhook", None) => {
                self.errors.push(FieldError::required(&path.child("webhook"), "required when type=Webhook"));
                None
            }
            ("Webhook", Some(webhook)) => {
                self.webhook(webhook, name, path).map(|settings| Entry::Webhook(Box::new(settings)))
            }
            (_, Some(_)) => {
                self.invalid(&path.child("webhook"), "non-null", "may only be specified when type=Webhook");
                None
            }
            (kind, None) => Some(Entry::Own(kind.to_owned())),
        }
    }

    fn webhook(&mut self, own: &Value, name: &str, path: &FieldPath) -> Option<Settings> {
        let timeout = self.time(own, "timeout", None, Some(MAX_TIMEOUT), path);
        let allowed_for = self.time(own, "authorizedTTL", Some(Duration::from_secs(300)), None, path);
        let refused_for = self.time(own, "unauthorizedTTL", Some(Duration::from_secs(30)), None, path);
        let version = self.one_of(own, "subjectAccessReviewVersion", &["v1", "v1beta1"], path);
        let conditions = own.list_at(&["matchConditions"]);
        let field = "matchConditionSubjectAccessReviewVersion";
        if !own.str_at(&[field]).is_empty() {
            self.one_of(own, field, &["v1"], path);
        } else if !conditions.is_empty() {
            let why = "required if match conditions are specified";
            self.errors.push(FieldError::required(&path.child(field), why));
        }
        let policy = self.one_of(own, "failurePolicy", &["NoOpinion", "Deny"], path);
        let remote = self.connection(own, &path.child("connectionInfo"));
        let conditions = self.conditions(conditions, &path.child("matchConditions"));
        // A cache that is off is one whose entries hold for no time.
        let unless_off = |field: &str, time: Duration| {
            if own.get(field).and_then(Value::as_bool) == Some(false) { Duration::ZERO } else { time }
        };
        Some(Settings {
            name: name.to_owned(),
            remote: remote?,
            version,
            timeout: timeout?,
            allowed_for: unless_off("cacheAuthorizedRequests", allowed_for?),
            refused_for: unless_off("cacheUnauthorizedRequests", refused_for?),
            fails_closed: policy == "Deny",
            conditions,
        })
    }

    fn time(
        &mut self,
        own: &Value,
        field: &str,
        usual: Option<Duration>,
        most: Option<Duration>,
        path: &FieldPath,
    ) -> Option<Duration> {
        let (text, path) = (own.str_at(&[field]), path.child(field));
        let bounds = most.map_or("must be > 0s".to_owned(), |most| format!("must be > 0s and <= {}s", most.as_secs()));
        match duration(if text.is_empty() { "0s" } else { text }) {
            Ok(time) if time.is_zero() => {
                if usual.is_none() {
                    self.errors.push(FieldError::required(&path, ""));
                }
                usual
            }
            Ok(time) if most.is_none_or(|most| time <= most) => Some(time),
            Ok(_) => {
                self.invalid(&path, text, &bounds);
                None
            }
            Err(_) if text.starts_with('-') => {
                self.invalid(&path, text, &bounds);
                None
            }
            Err(why) => {
                self.invalid(&path, text, &why);
                None
            }
        }
    }

    fn one_of(&mut self, own: &Value, field: &str, known: &[&str], path: &FieldPath) -> String {
        let (text, path) = (own.str_at(&[field]), path.child(field));
        if text.is_empty() {
            self.errors.push(FieldError::required(&path, ""));
        } else if !known.contains(&text) {
            self.errors.push(FieldError::not_supported(&path, text, known));
        }
        text.to_owned()
    }

    fn connection(&mut self, own: &Value, path: &FieldPath) -> Option<remote::Settings> {
        let kind = own.str_at(&["connectionInfo", "type"]);
        let file = own.str_at(&["connectionInfo", "kubeConfigFile"]);
        let place = path.child("kubeConfigFile");
        match kind {
            "" => self.errors.push(FieldError::required(&path.child("type"), "")),
            "KubeConfigFile" if file.is_empty() => self.errors.push(FieldError::required(&place, "")),
            "KubeConfigFile" if !Path::new(file).is_absolute() => {
                self.invalid(&place, file, "must be an absolute path")
            }
            "KubeConfigFile" => {
                match (self.kubeconfig)(Path::new(file)).and_then(|config| remote::Settings::read(&config)) {
                    Ok(remote) => return Some(remote),
                    Err(why) => self.invalid(&place, file, &format!("error loading file: {why}")),
                }
            }
            "InClusterConfig" if !file.is_empty() => {
                self.invalid(&place, file, "can only be set when type=KubeConfigFile");
            }
            // The server would ask itself who may do what.
            "InClusterConfig" => self.invalid(&path.child("type"), kind, "this server is no pod of a cluster"),
            other => {
                let known = ["InClusterConfig", "KubeConfigFile"];
                self.errors.push(FieldError::not_supported(&path.child("type"), other, &known));
            }
        }
        None
    }

    fn conditions(&mut self, list: &[Value], path: &FieldPath) -> Vec<Program> {
        if list.len() > MAX_CONDITIONS {
            self.errors.push(FieldError::too_many(path, list.len(), MAX_CONDITIONS));
            return Vec::new();
        }
        let (mut programs, mut known) = (Vec::new(), BTreeSet::new());
        for (index, condition) in list.iter().enumerate() {
            let (path, text) = (path.index(index).child("expression"), condition.str_at(&["expression"]));
            if text.trim().is_empty() {
                self.errors.push(FieldError::required(&path, ""));
            } else if !known.insert(text) {
                self.errors.push(FieldError::duplicate(&path, text));
            } else {
                match compile(&CONDITION_ENV, text) {
                    Err(error) => self.invalid(&path, text, &format!("compilation failed: {error}")),
                    Ok(program) if program.result != Type::Bool => {
                        self.invalid(&path, text, &format!("must evaluate to bool but got {}", program.result));
                    }
                    Ok(program) => programs.push(program),
                }
            }
        }
        programs
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn kubeconfig(_: &Path) -> Result<Value, String> {
        Ok(json!({"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k"}}],
            "clusters": [{"name": "k", "cluster": {"server": "https://x"}}]}))
    }

    fn check(authorizers: Value, expected: Expect) {
        let faults = entries(&json!({"authorizers": authorizers}), kubeconfig).expect_err("a fault");
        expected.assert_eq(&faults.trim_matches(['[', ']']).replace(", authorizers[", "\nauthorizers["));
    }

    fn webhook() -> Value {
        json!({"timeout": "3s", "subjectAccessReviewVersion": "v1", "failurePolicy": "Deny",
            "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "/x"}})
    }

    #[test]
    fn faults_are_told_in_upstreams_words() {
        check(json!([]), expect!["authorizers: Required value: at least one authorization mode must be defined"]);
        let hook = |name: &str, webhook: Value| json!({"type": "Webhook", "name": name, "webhook": webhook});
        check(
            json!([{}, {"type": "Moon"}, {"type": "RBAC"}, {"type": "RBAC", "name": "r"}, {"type": "Node", "name": "A"},
                {"type": "Webhook", "name": "w"}, hook("w", json!({})), {"type": "ABAC", "name": "a", "webhook": {}},
                hook("v", json!({"timeout": "31s", "authorizedTTL": "-1s", "unauthorizedTTL": "x", "subjectAccessReviewVersion": "v2",
                    "matchConditionSubjectAccessReviewVersion": "v1beta1", "failurePolicy": "Ignore",
                    "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": "x"},
                    "matchConditions": [{}, {"expression": "request.user"}, {"expression": "true"}, {"expression": "true"}, {"expression": "x"}]})),
                hook("u", json!({"connectionInfo": {"type": "Else"}, "matchConditions": [{"expression": "true"}]}))]),
            expect![[r#"
                authorizers[0].type: Required value
                authorizers[1].type: Unsupported value: "Moon": supported values: "ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"
                authorizers[2].name: Required value
                authorizers[3].type: Duplicate value: "RBAC"
                authorizers[4].name: Invalid value: "A": authorizer name is invalid: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
                authorizers[5].webhook: Required value: required when type=Webhook
                authorizers[6].name: Duplicate value: "w"
                authorizers[6].timeout: Required value
                authorizers[6].subjectAccessReviewVersion: Required value
                authorizers[6].failurePolicy: Required value
                authorizers[6].connectionInfo.type: Required value
                authorizers[7].webhook: Invalid value: "non-null": may only be specified when type=Webhook
                authorizers[8].timeout: Invalid value: "31s": must be > 0s and <= 30s
                authorizers[8].authorizedTTL: Invalid value: "-1s": must be > 0s
                authorizers[8].unauthorizedTTL: Invalid value: "x": time: invalid duration "x"
                authorizers[8].subjectAccessReviewVersion: Unsupported value: "v2": supported values: "v1", "v1beta1"
                authorizers[8].matchConditionSubjectAccessReviewVersion: Unsupported value: "v1beta1": supported values: "v1"
                authorizers[8].failurePolicy: Unsupported value: "Ignore": supported values: "NoOpinion", "Deny"
                authorizers[8].connectionInfo.kubeConfigFile: Invalid value: "x": must be an absolute path
                authorizers[8].matchConditions[0].expression: Required value
                authorizers[8].matchConditions[1].expression: Invalid value: "request.user": must evaluate to bool but got string
                authorizers[8].matchConditions[3].expression: Duplicate value: "true"
                authorizers[8].matchConditions[4].expression: Invalid value: "x": compilation failed: ERROR: <input>:1:1: undeclared reference to 'x' (in container '')
                 | x
                 | ^
                authorizers[9].timeout: Required value
                authorizers[9].subjectAccessReviewVersion: Required value
                authorizers[9].matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified
                authorizers[9].failurePolicy: Required value
                authorizers[9].connectionInfo.type: Unsupported value: "Else": supported values: "InClusterConfig", "KubeConfigFile""#]],
        );
    }

    #[test]
    fn what_is_not_said_is_as_upstream_has_it() {
        let whole = entries(
            &json!({"authorizers": [{"type": "Webhook", "name": "w", "webhook": webhook()}, {"type": "RBAC", "name": "r"}]}),
            kubeconfig,
        );
        let whole = whole.expect("well-formed");
        let [Entry::Webhook(settings), Entry::Own(own)] = whole.as_slice() else { panic!("{whole:?}") };
        assert_eq!(own, "RBAC");
        let times = [settings.timeout, settings.allowed_for, settings.refused_for].map(|time| time.as_secs());
        assert_eq!((times, settings.fails_closed), ([3, 300, 30], true));
    }
}
