//! An EncryptionConfiguration: which resources are encrypted where they are stored, and with what. Read and validated
//! here, in upstream's words; no key of it is ever in a message.
//! See <https://kubernetes.io/docs/tasks/administer-cluster/encrypt-data/>.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath};

use crate::authn::structured::shown;
use crate::encryption::ciphers::Result;
use crate::files::{Shape, duration};

/// What the file may say.
pub static SHAPE: Shape = Shape {
    kind: "EncryptionConfiguration",
    versions: &["v1"],
    leaves: &[
        "resources[].resources[]",
        "resources[].providers[].identity any",
        "resources[].providers[].aescbc.keys[].name",
        "resources[].providers[].aescbc.keys[].secret",
        "resources[].providers[].aesgcm.keys[].name",
        "resources[].providers[].aesgcm.keys[].secret",
        "resources[].providers[].secretbox.keys[].name",
        "resources[].providers[].secretbox.keys[].secret",
        "resources[].providers[].kms.apiVersion",
        "resources[].providers[].kms.name",
        "resources[].providers[].kms.cachesize int",
        "resources[].providers[].kms.endpoint",
        "resources[].providers[].kms.timeout",
    ],
};

const KINDS: [&str; 5] = ["kms", "aesgcm", "aescbc", "secretbox", "identity"];
const AES_KEY_BYTES: &[usize] = &[16, 24, 32];
const SECRETBOX_KEY_BYTES: &[usize] = &[32];
const USUAL_TIMEOUT: Duration = Duration::from_secs(3);
const NO_PROVIDER: &str =
    "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";
const KMS_V1: &str = "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.";

/// Some resources and what they are encrypted with: the first provider writes, all of them read.
#[derive(Debug, PartialEq)]
pub struct Rule {
    /// Which resources, `secrets`, `*.apps`, `*.*`.
    pub resources: Vec<String>,
    /// With what.
    pub providers: Vec<Provider>,
}

/// A way to encrypt.
#[derive(PartialEq)]
pub enum Provider {
    /// Not at all.
    Identity,
    /// AES-CBC.
    AesCbc(Vec<Key>),
    /// AES-GCM.
    AesGcm(Vec<Key>),
    /// XSalsa20 and Poly1305.
    Secretbox(Vec<Key>),
    /// By a plugin.
    Kms(Plugin),
}

/// A key and its name, which is stored with every value.
#[derive(PartialEq)]
pub struct Key {
    /// What it is called.
    pub name: String,
    /// The key.
    pub secret: Vec<u8>,
}

/// A KMS plugin of version 2.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    /// What it is called, which is stored with every value.
    pub name: String,
    /// Its socket, `unix:///run/kms.sock`.
    pub endpoint: String,
    /// How long a call may take.
    pub timeout: Duration,
}

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, keys) = match self {
            Self::Identity => return f.write_str("Identity"),
            Self::Kms(plugin) => return plugin.fmt(f),
            Self::AesCbc(keys) => ("AesCbc", keys),
            Self::AesGcm(keys) => ("AesGcm", keys),
            Self::Secretbox(keys) => ("Secretbox", keys),
        };
        let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
        f.debug_tuple(name).field(&names).finish()
    }
}

/// Validates what was read.
///
/// # Errors
/// All that is wrong with it, in upstream's words.
pub fn rules(tree: &Value) -> Result<Vec<Rule>> {
    let mut reader = Reader { errors: ErrorList::new(), plugins: BTreeSet::new() };
    let root = FieldPath::new("resources");
    let list = tree.list_at(&["resources"]);
    if list.is_empty() {
        reader.errors.push(FieldError::required(&root, "at least one resources is required"));
    }
    let mut rules = Vec::new();
    for (index, rule) in list.iter().enumerate() {
        let path = root.index(index);
        let resources = reader.resources(rule, &path.child("resources"));
        let providers = reader.providers(rule, &path.child("providers"));
        rules.push(Rule { resources, providers });
    }
    if !reader.errors.is_empty() {
        return Err(shown(&reader.errors));
    }
    masked(&rules)?;
    Ok(rules)
}

/// The group of a resource, and its plural name; the group begins behind the first dot.
pub fn split(resource: &str) -> (&str, &str) {
    resource.split_once('.').map_or(("", resource), |(plural, group)| (group, plural))
}

/// A rule that nothing is left for is refused.
fn masked(rules: &[Rule]) -> Result<()> {
    let mut earlier = BTreeSet::new();
    for resource in rules.iter().flat_map(|rule| &rule.resources) {
        let group = split(resource).0;
        for wide in [format!("*.{group}"), "*.*".to_owned()] {
            if earlier.contains(&wide) {
                return Err(format!("resource {resource:?} is masked by earlier rule {wide:?}"));
            }
        }
        // A resource of the core group may be written with a dot at its end.
        earlier.insert(if group.is_empty() { format!("{}.", split(resource).1) } else { resource.clone() });
    }
    Ok(())
}

struct Reader {
    errors: ErrorList,
    plugins: BTreeSet<String>,
}

impl Reader {
    fn invalid(&mut self, path: &FieldPath, value: impl Into<Value>, detail: &str) {
        self.errors.push(FieldError::invalid(path, value, detail));
    }

    fn required(&mut self, path: &FieldPath, detail: &str) {
        self.errors.push(FieldError::required(path, detail));
    }

    fn resources(&mut self, rule: &Value, path: &FieldPath) -> Vec<String> {
        let names: Vec<String> =
            rule.list_at(&["resources"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if names.is_empty() {
            self.required(path, &format!("at least one {path} is required"));
        }
        let parts: Vec<_> = names.iter().map(|name| split(name)).collect();
        let pairs =
            || (1..parts.len()).flat_map(|at| parts[..at].iter().map(|one| (*one, parts[at])).collect::<Vec<_>>());
        let overlaps = |(one, other): ((&str, &str), (&str, &str))| {
            let whole = one == ("*", "*") || other == ("*", "*");
            one != other && (whole || (one.0 == other.0 && (one.1 == "*" || other.1 == "*")))
        };
        if pairs().any(|(one, other)| one == other) {
            self.invalid(path, names.clone(), "the same resource cannot be specified multiple times");
        }
        if pairs().any(overlaps) {
            let why = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not \
                       allowed as they will be masked";
            self.invalid(path, names.clone(), why);
        }
        for (index, name) in names.iter().enumerate() {
            if let Some(why) = unfit(name) {
                self.invalid(&path.index(index), name.as_str(), why);
            }
        }
        names
    }

    fn providers(&mut self, rule: &Value, path: &FieldPath) -> Vec<Provider> {
        let list = rule.list_at(&["providers"]);
        if list.is_empty() {
            self.required(path, &format!("at least one {path} is required"));
        }
        list.iter().enumerate().filter_map(|(index, own)| self.provider(own, &path.index(index))).collect()
    }

    fn provider(&mut self, own: &Value, path: &FieldPath) -> Option<Provider> {
        let given = |kind: &&&str| own.get(**kind).is_some_and(|value| !value.is_null());
        let kinds: Vec<&str> = KINDS.iter().filter(given).copied().collect();
        if kinds.is_empty() {
            self.invalid(path, own.clone(), NO_PROVIDER);
        } else if kinds.len() > 1 {
            let why = "more than one provider specified in a single element, should split into different list elements";
            self.invalid(path, "REDACTED", why);
        }
        let kind = *kinds.first()?;
        let inner = path.child(kind);
        let keys = |reader: &mut Self, sizes| reader.keys(&own[kind], &inner.child("keys"), sizes);
        Some(match kind {
            "kms" => Provider::Kms(self.plugin(&own[kind], &inner)),
            "aesgcm" => Provider::AesGcm(keys(self, AES_KEY_BYTES)),
            "aescbc" => Provider::AesCbc(keys(self, AES_KEY_BYTES)),
            "secretbox" => Provider::Secretbox(keys(self, SECRETBOX_KEY_BYTES)),
            _ => Provider::Identity,
        })
    }

    fn keys(&mut self, own: &Value, path: &FieldPath, sizes: &[usize]) -> Vec<Key> {
        let list = own.list_at(&["keys"]);
        if list.is_empty() {
            self.required(path, "at least one keys is required");
        }
        list.iter().enumerate().filter_map(|(index, key)| self.key(key, &path.index(index), sizes)).collect()
    }

    fn key(&mut self, key: &Value, path: &FieldPath, sizes: &[usize]) -> Option<Key> {
        let (name, secret) = (key.str_at(&["name"]), key.str_at(&["secret"]));
        let place = path.child("secret");
        if name.is_empty() {
            self.required(&path.child("name"), "name is a mandatory field for a key");
        }
        if secret.is_empty() {
            self.required(&place, "secret is a mandatory field for a key");
            return None;
        }
        let Ok(secret) = STANDARD.decode(secret) else {
            self.invalid(&place, "REDACTED", "secrets must be base64 encoded");
            return None;
        };
        if !sizes.contains(&secret.len()) {
            let sizes: Vec<String> = sizes.iter().map(ToString::to_string).collect();
            let (length, sizes) = (secret.len(), sizes.join(" "));
            let why = format!("secret is not of the expected length, got {length}, expected one of [{sizes}]");
            self.invalid(&place, "REDACTED", &why);
        }
        Some(Key { name: name.to_owned(), secret })
    }

    fn plugin(&mut self, own: &Value, path: &FieldPath) -> Plugin {
        let (name, endpoint) = (own.str_at(&["name"]).to_owned(), own.str_at(&["endpoint"]).to_owned());
        let version = own.str_at(&["apiVersion"]);
        let place = path.child("name");
        if name.is_empty() {
            self.required(&place, "name is a mandatory field for a provider");
        }
        if name.contains(':') {
            self.invalid(&place, name.as_str(), &format!("invalid KMS provider name {name}, must not contain ':'"));
        }
        if !self.plugins.insert(name.clone()) {
            let why = format!("duplicate KMS provider name {name}, names must be unique");
            self.invalid(&place, name.as_str(), &why);
        }
        let timeout = match own.str_at(&["timeout"]) {
            "" => Some(USUAL_TIMEOUT),
            text => duration(text).ok().filter(|time| !time.is_zero()),
        };
        if timeout.is_none() {
            self.invalid(&path.child("timeout"), own.str_at(&["timeout"]), "timeout should be a positive value");
        }
        self.endpoint(&endpoint, &path.child("endpoint"));
        if let (false, Some(size)) = (matches!(version, "" | "v1"), own.get("cachesize").filter(|size| !size.is_null()))
        {
            self.invalid(&path.child("cachesize"), size.clone(), "cachesize is not supported in v2");
        }
        match version {
            "v2" => {}
            // What upstream tells where its feature is off, as it is by default.
            "" | "v1" => self.invalid(&path.child("apiVersion"), "v1", KMS_V1),
            other => {
                let why = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
                self.invalid(&path.child("apiVersion"), other, why);
            }
        }
        Plugin { name, endpoint, timeout: timeout.unwrap_or(USUAL_TIMEOUT) }
    }

    fn endpoint(&mut self, endpoint: &str, path: &FieldPath) {
        if endpoint.is_empty() {
            self.invalid(path, "", "endpoint is a mandatory field for a kms");
            return;
        }
        let scheme = endpoint.split_once(':').map_or("", |(scheme, _)| scheme);
        if scheme != "unix" {
            let why = format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
            self.invalid(path, endpoint, &why);
        } else if !endpoint.starts_with("unix:///") {
            self.invalid(path, endpoint, "invalid endpoint for kms provider, error: it must be unix:// and a path");
        }
    }
}

/// Why resources cannot be named so.
fn unfit(name: &str) -> Option<&'static str> {
    let (group, plural) = split(name);
    if name.to_lowercase() != name {
        Some("resource name should not contain capital letters")
    } else if name == "*" {
        Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
    } else if ["apiserveripinfo", "serviceipallocations", "servicenodeportallocations"].contains(&name) {
        Some("resources which do not have REST API/s cannot be encrypted")
    } else if group == "events.k8s.io" {
        Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the \
             config file",
        )
    } else if group == "extensions" {
        Some("'extensions' group has been removed and cannot be used for encryption")
    } else if group == "*" && plural != "*" {
        Some("encrypting the same resource across groups is not supported")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    fn check(resources: Value, expected: Expect) {
        let faults = rules(&json!({"resources": resources})).expect_err("a fault");
        expected.assert_eq(&faults.trim_matches(['[', ']']).replace(", resources[", "\nresources["));
    }

    fn of(resources: &[&str]) -> Value {
        json!({"resources": resources, "providers": [{"identity": {}}]})
    }

    #[test]
    fn resources_are_checked_in_upstreams_words() {
        check(json!([]), expect!["resources: Required value: at least one resources is required"]);
        check(
            json!([
                {},
                of(&["Secrets", "*", "serviceipallocations", "x.events.k8s.io", "x.extensions", "x.*"]),
                of(&["secrets", "secrets"]),
                of(&["secrets", "*."]),
                of(&["*.*", "x.apps"]),
            ]),
            expect![[r#"
                resources[0].resources: Required value: at least one resources[0].resources is required
                resources[0].providers: Required value: at least one resources[0].providers is required
                resources[1].resources: Invalid value: ["Secrets","*","serviceipallocations","x.events.k8s.io","x.extensions","x.*"]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked
                resources[1].resources[0]: Invalid value: "Secrets": resource name should not contain capital letters
                resources[1].resources[1]: Invalid value: "*": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources
                resources[1].resources[2]: Invalid value: "serviceipallocations": resources which do not have REST API/s cannot be encrypted
                resources[1].resources[3]: Invalid value: "x.events.k8s.io": '*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file
                resources[1].resources[4]: Invalid value: "x.extensions": 'extensions' group has been removed and cannot be used for encryption
                resources[1].resources[5]: Invalid value: "x.*": encrypting the same resource across groups is not supported
                resources[2].resources: Invalid value: ["secrets","secrets"]: the same resource cannot be specified multiple times
                resources[3].resources: Invalid value: ["secrets","*."]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked
                resources[4].resources: Invalid value: ["*.*","x.apps"]: using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked"#]],
        );
        check(
            json!([of(&["*.apps"]), of(&["deployments.apps"])]),
            expect![[r#"resource "deployments.apps" is masked by earlier rule "*.apps""#]],
        );
        check(
            json!([of(&["*."]), of(&["secrets"])]),
            expect![[r#"resource "secrets" is masked by earlier rule "*.""#]],
        );
        check(json!([of(&["*.*"]), of(&["x.y"])]), expect![[r#"resource "x.y" is masked by earlier rule "*.*""#]]);
    }

    #[test]
    fn providers_are_checked_in_upstreams_words_and_keys_stay_untold() {
        let secret = "c2VjcmV0LXRoYXQtbm9ib2R5LXNlZXM=";
        let all = json!([{"resources": ["secrets"], "providers": [
            {},
            {"identity": {}, "aescbc": {"keys": [{"name": "a", "secret": secret}]}},
            {"aesgcm": {}},
            {"aesgcm": {"keys": [{}, {"name": "a", "secret": "%"}, {"name": "a", "secret": secret}]}},
            {"secretbox": {"keys": [{"name": "a", "secret": secret}]}},
            {"kms": {}},
            {"kms": {"apiVersion": "v2", "name": "a:b", "endpoint": "tcp://x", "timeout": "0s", "cachesize": 3}},
            {"kms": {"apiVersion": "v3", "name": "a:b", "endpoint": "unix://x", "timeout": "-1s"}},
        ]}]);
        assert!(!rules(&json!({"resources": all})).expect_err("faults").contains("secret-that"));
        check(
            all,
            expect![[r#"
            resources[0].providers[0]: Invalid value: {}: provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity
            resources[0].providers[1]: Invalid value: "REDACTED": more than one provider specified in a single element, should split into different list elements
            resources[0].providers[1].aescbc.keys[0].secret: Invalid value: "REDACTED": secret is not of the expected length, got 23, expected one of [16 24 32]
            resources[0].providers[2].aesgcm.keys: Required value: at least one keys is required
            resources[0].providers[3].aesgcm.keys[0].name: Required value: name is a mandatory field for a key
            resources[0].providers[3].aesgcm.keys[0].secret: Required value: secret is a mandatory field for a key
            resources[0].providers[3].aesgcm.keys[1].secret: Invalid value: "REDACTED": secrets must be base64 encoded
            resources[0].providers[3].aesgcm.keys[2].secret: Invalid value: "REDACTED": secret is not of the expected length, got 23, expected one of [16 24 32]
            resources[0].providers[4].secretbox.keys[0].secret: Invalid value: "REDACTED": secret is not of the expected length, got 23, expected one of [32]
            resources[0].providers[5].kms.name: Required value: name is a mandatory field for a provider
            resources[0].providers[5].kms.endpoint: Invalid value: "": endpoint is a mandatory field for a kms
            resources[0].providers[5].kms.apiVersion: Invalid value: "v1": KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.
            resources[0].providers[6].kms.name: Invalid value: "a:b": invalid KMS provider name a:b, must not contain ':'
            resources[0].providers[6].kms.timeout: Invalid value: "0s": timeout should be a positive value
            resources[0].providers[6].kms.endpoint: Invalid value: "tcp://x": unsupported scheme "tcp" for KMS provider, only unix is supported
            resources[0].providers[6].kms.cachesize: Invalid value: 3: cachesize is not supported in v2
            resources[0].providers[7].kms.name: Invalid value: "a:b": invalid KMS provider name a:b, must not contain ':'
            resources[0].providers[7].kms.name: Invalid value: "a:b": duplicate KMS provider name a:b, names must be unique
            resources[0].providers[7].kms.timeout: Invalid value: "-1s": timeout should be a positive value
            resources[0].providers[7].kms.endpoint: Invalid value: "unix://x": invalid endpoint for kms provider, error: it must be unix:// and a path
            resources[0].providers[7].kms.apiVersion: Invalid value: "v3": unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported"#]],
        );
    }

    #[test]
    fn a_whole_configuration_is_read() {
        let text = "
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets, configmaps, widgets.example.com]
  providers:
  - aescbc: {keys: [{name: key1, secret: MDEyMzQ1Njc4OTAxMjM0NQ==}]}
  - kms: {apiVersion: v2, name: vault, endpoint: unix:///run/kms.sock, timeout: 5s}
  - identity: {}
- resources: ['*.']
  providers: [{secretbox: {keys: [{name: k, secret: MDEyMzQ1Njc4OTAxMjM0NTAxMjM0NTY3ODkwMTIzNDU=}]}}]
";
        let tree = SHAPE.read(text.as_bytes()).expect("well-formed");
        expect![[r#"
            [
                Rule {
                    resources: [
                        "secrets",
                        "configmaps",
                        "widgets.example.com",
                    ],
                    providers: [
                        AesCbc(
                            [
                                "key1",
                            ],
                        ),
                        Plugin {
                            name: "vault",
                            endpoint: "unix:///run/kms.sock",
                            timeout: 5s,
                        },
                        Identity,
                    ],
                },
                Rule {
                    resources: [
                        "*.",
                    ],
                    providers: [
                        Secretbox(
                            [
                                "k",
                            ],
                        ),
                    ],
                },
            ]
        "#]]
        .assert_debug_eq(&rules(&tree).expect("valid"));
    }
}
