//! What resources are encrypted with: providers in the order in which they are tried, each known by the prefix that it
//! leaves before its values. Prefixes and layouts are upstream's, so that a store may move from and to it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use skiff_base::clock::SharedClock;
use skiff_grpc::{Code, GrpcError};
use tokio::task::JoinHandle;

use crate::encryption::ciphers::{Cipher, Result};
use crate::encryption::config::{self, Key, Rule};
use crate::encryption::figures::{self, Way};
use crate::encryption::kms::Kms;
use crate::storage::keys;

/// What every encrypted value begins with, whoever wrote it.
pub const ENCRYPTED: &[u8] = b"k8s:enc:";

/// Why a value cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// In words.
    pub text: String,
    /// Where a plugin said so, its code.
    pub code: Option<Code>,
}

impl Fault {
    fn status(&self) -> String {
        self.code.map_or("unknown-non-grpc".to_owned(), |code| format!("{code:?}"))
    }
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Self { text, code: None }
    }
}

impl From<&str> for Fault {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Fault {
    /// A plugin's answer to what was `wanted` of it.
    pub fn of_call(wanted: &str, error: &GrpcError) -> Self {
        Self { text: format!("{wanted}, error: {error}"), code: Some(error.code) }
    }
}

/// A value that was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// As it is.
    pub value: Bytes,
    /// Whether it would be written otherwise today.
    pub is_stale: bool,
}

enum Provider {
    Identity,
    Keys { prefix: &'static str, keys: Vec<(String, Cipher)>, unknown: &'static str },
    Kms { prefix: String, kms: Arc<Kms> },
}

/// What a resource is encrypted with.
#[derive(Default)]
pub struct Providers {
    list: Vec<Arc<Provider>>,
}

/// What is encrypted, and with what; what it does not name is not.
#[derive(Default)]
pub struct Plan {
    /// By group and resource, as keys have them: `core/secrets`.
    exact: HashMap<String, Providers>,
    /// By group, `core`.
    groups: HashMap<String, Providers>,
    everything: Option<Providers>,
    /// The plugins, in the order of the file.
    pub plugins: Vec<Arc<Kms>>,
    polling: Vec<JoinHandle<()>>,
}

impl Drop for Plan {
    fn drop(&mut self) {
        self.polling.iter().for_each(JoinHandle::abort);
    }
}

impl Plan {
    /// Makes the ciphers, and asks each plugin for its first key; one that does not answer is asked again and again.
    ///
    /// # Errors
    /// A key cannot be used.
    pub async fn new(rules: Vec<Rule>, clock: &SharedClock) -> Result<Self> {
        let mut plan = Self::default();
        for rule in rules {
            let mut list = Vec::new();
            for provider in rule.providers {
                list.push(Arc::new(plan.provider(provider, clock).await?));
            }
            for resource in rule.resources {
                let providers = match config::split(&resource) {
                    ("*", "*") => plan.everything.get_or_insert_default(),
                    (group, "*") => plan.groups.entry(part(group).to_owned()).or_default(),
                    (group, plural) => plan.exact.entry(format!("{}/{plural}", part(group))).or_default(),
                };
                providers.list.extend(list.iter().cloned());
            }
        }
        Ok(plan)
    }

    async fn provider(&mut self, provider: config::Provider, clock: &SharedClock) -> Result<Provider> {
        let named = |keys: Vec<Key>, make: fn(&[u8]) -> Result<Cipher>| {
            let make = |key: Key| {
                let cipher = make(&key.secret)
                    .map_err(|why| format!("error while creating cipher for named key {}: {why}", key.name))?;
                Ok((format!("{}:", key.name), cipher))
            };
            keys.into_iter().map(make).collect::<Result<Vec<_>>>()
        };
        let aes = "no matching key was found for the provided AES transformer";
        Ok(match provider {
            config::Provider::Identity => Provider::Identity,
            config::Provider::AesCbc(keys) => {
                Provider::Keys { prefix: "k8s:enc:aescbc:v1:", keys: named(keys, Cipher::cbc)?, unknown: aes }
            }
            config::Provider::AesGcm(keys) => {
                Provider::Keys { prefix: "k8s:enc:aesgcm:v1:", keys: named(keys, Cipher::gcm)?, unknown: aes }
            }
            config::Provider::Secretbox(keys) => Provider::Keys {
                prefix: "k8s:enc:secretbox:v1:",
                keys: named(keys, Cipher::secretbox)?,
                unknown: "no matching key was found for the provided Secretbox transformer",
            },
            config::Provider::Kms(plugin) => {
                let prefix = format!("k8s:enc:kms:v2:{}:", plugin.name);
                let kms = Arc::new(Kms::new(plugin, clock.clone())?);
                if let Err(why) = kms.check().await {
                    tracing::error!(why, "kms plugin failed health check probe");
                }
                self.polling.push(tokio::spawn(Kms::poll(Arc::downgrade(&kms))));
                self.plugins.push(kms.clone());
                Provider::Kms { prefix, kms }
            }
        })
    }

    /// What the value of this key is encrypted with; none where no rule is about it.
    pub fn of(&self, key: &[u8]) -> Option<&Providers> {
        let resource = keys::resource_part(key)?.strip_prefix(keys::ROOT)?.trim_end_matches('/');
        let group = resource.split('/').next()?;
        self.exact.get(resource).or_else(|| self.groups.get(group)).or(self.everything.as_ref())
    }
}

/// As keys have a group.
fn part(group: &str) -> &str {
    if group.is_empty() { "core" } else { group }
}

impl Providers {
    /// Reads a value by the first provider that knows it.
    ///
    /// # Errors
    /// None does, or it was changed.
    pub async fn open(&self, stored: &Bytes, key: &[u8], clock: &SharedClock) -> Result<Opened, Fault> {
        let mut faults: Vec<Fault> = Vec::new();
        for (index, provider) in self.list.iter().enumerate() {
            let prefix = provider.prefix();
            if !stored.starts_with(prefix.as_bytes()) {
                continue;
            }
            let began = clock.monotonic();
            let opened = provider.open(stored, key).await;
            if matches!(**provider, Provider::Identity) && opened.is_err() {
                continue;
            }
            let name = if prefix.is_empty() { "identity" } else { prefix };
            let status = opened.as_ref().map_or_else(Fault::status, |_| "OK".to_owned());
            figures::transformed(Way::FromStorage, name, &status, clock.monotonic().saturating_sub(began));
            match opened {
                Ok(opened) => return Ok(Opened { is_stale: opened.is_stale || index > 0, ..opened }),
                // The same provider may come again with other keys.
                Err(fault) => faults.push(fault),
            }
        }
        match faults.len() {
            0 => {
                let fault = Fault::from("no matching prefix found");
                figures::transformed(Way::FromStorage, "unknown", &fault.status(), std::time::Duration::ZERO);
                Err(fault)
            }
            1 => Err(faults.remove(0)),
            _ => {
                let texts: Vec<String> = faults.iter().map(|fault| fault.text.clone()).collect();
                Err(Fault { text: format!("[{}]", texts.join(", ")), code: faults[0].code })
            }
        }
    }

    /// Writes a value by the first provider.
    ///
    /// # Errors
    /// A plugin has been away for too long.
    pub fn seal(&self, value: Bytes, key: &[u8], clock: &SharedClock) -> Result<Bytes, Fault> {
        let Some(first) = self.list.first() else { return Ok(value) };
        let began = clock.monotonic();
        let sealed = first.seal(value, key);
        let status = sealed.as_ref().map_or_else(Fault::status, |_| "OK".to_owned());
        figures::transformed(Way::ToStorage, first.prefix(), &status, clock.monotonic().saturating_sub(began));
        sealed
    }
}

impl Provider {
    fn prefix(&self) -> &str {
        match self {
            Self::Identity => "",
            Self::Keys { prefix, .. } => prefix,
            Self::Kms { prefix, .. } => prefix,
        }
    }

    async fn open(&self, stored: &Bytes, key: &[u8]) -> Result<Opened, Fault> {
        match self {
            Self::Identity if stored.starts_with(ENCRYPTED) => {
                Err("identity transformer tried to read encrypted data".into())
            }
            Self::Identity => Ok(Opened { value: stored.clone(), is_stale: false }),
            Self::Keys { prefix, keys, unknown } => open_by_key(&stored[prefix.len()..], key, keys, unknown),
            Self::Kms { prefix, kms } => kms.open(&stored[prefix.len()..], key).await,
        }
    }

    fn seal(&self, value: Bytes, key: &[u8]) -> Result<Bytes, Fault> {
        /// What prefix, name, nonce, tag and padding take beside the value, mostly.
        const ROOM_BYTES: usize = 128;
        let mut out = Vec::new();
        match self {
            Self::Identity => return Ok(value),
            Self::Keys { prefix, keys, .. } => {
                let (name, cipher) = keys.first().ok_or("there is no key")?;
                out.reserve(value.len() + name.len() + ROOM_BYTES);
                out.extend_from_slice(prefix.as_bytes());
                out.extend_from_slice(name.as_bytes());
                cipher.seal(&value, key, &mut out)?;
            }
            Self::Kms { prefix, kms } => {
                out.extend_from_slice(prefix.as_bytes());
                kms.seal(&value, key, &mut out)?;
            }
        }
        Ok(out.into())
    }
}

fn open_by_key(sealed: &[u8], key: &[u8], keys: &[(String, Cipher)], unknown: &str) -> Result<Opened, Fault> {
    let mut faults = Vec::new();
    for (index, (name, cipher)) in keys.iter().enumerate() {
        let Some(sealed) = sealed.strip_prefix(name.as_bytes()) else { continue };
        match cipher.open(sealed, key) {
            Ok(value) => return Ok(Opened { value: value.into(), is_stale: index > 0 }),
            Err(why) => faults.push(why),
        }
    }
    match faults.as_slice() {
        [] => Err(unknown.into()),
        [one] => Err(one.as_str().into()),
        many => Err(format!("[{}]", many.join(", ")).into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use skiff_base::clock::SystemClock;

    use super::*;

    const SECRET: &[u8] = b"/registry/core/secrets/default/a";

    fn key(name: &str, letter: char) -> Value {
        use base64::Engine;
        let secret = base64::engine::general_purpose::STANDARD.encode(letter.to_string().repeat(32));
        json!({"name": name, "secret": secret})
    }

    async fn plan(resources: Value) -> Plan {
        let rules = config::rules(&json!({"resources": resources})).expect("valid");
        Plan::new(rules, &SystemClock::shared()).await.expect("usable keys")
    }

    /// A plan for Secrets alone.
    async fn of_secrets(providers: Value) -> Plan {
        plan(json!([{"resources": ["secrets"], "providers": providers}])).await
    }

    fn seal(plan: &Plan, value: &str) -> Bytes {
        let providers = plan.of(SECRET).expect("a rule");
        providers.seal(Bytes::from(value.to_owned()), SECRET, &SystemClock::shared()).expect("sealed")
    }

    async fn open(plan: &Plan, stored: &Bytes) -> Result<(String, bool), String> {
        let opened = plan.of(SECRET).expect("a rule").open(stored, SECRET, &SystemClock::shared()).await;
        let opened = opened.map_err(|fault| fault.text)?;
        Ok((String::from_utf8(opened.value.to_vec()).expect("text"), opened.is_stale))
    }

    #[tokio::test]
    async fn the_narrowest_rule_holds() {
        let own = |name: &str| json!([{"aescbc": {"keys": [key(name, 'a')]}}]);
        let plan = plan(json!([
            {"resources": ["secrets", "widgets.example.com"], "providers": own("exact")},
            {"resources": ["*.example.com", "*."], "providers": own("group")},
            {"resources": ["*.*"], "providers": own("all")},
        ]))
        .await;
        let name = |key: &str| {
            let providers = plan.of(key.as_bytes())?;
            let sealed = providers.seal("x".into(), key.as_bytes(), &SystemClock::shared()).expect("sealed");
            let text = String::from_utf8_lossy(&sealed).into_owned();
            text.split(':').nth(4).map(str::to_owned)
        };
        for (key, expected) in [
            ("/registry/core/secrets/a/b", Some("exact")),
            ("/registry/core/pods/a/b", Some("group")),
            ("/registry/example.com/widgets/a/b", Some("exact")),
            ("/registry/example.com/others/a/b", Some("group")),
            ("/registry/apps/deployments/a/b", Some("all")),
            ("/skiff/servers/a", None),
        ] {
            assert_eq!(name(key).as_deref(), expected, "{key}");
        }
    }

    /// The steps of the documentation for a new key, and for an end of encryption; each reads what the one before wrote.
    #[tokio::test]
    async fn keys_are_rotated_without_a_gap() {
        let cbc = |keys: Value| json!({"aescbc": {"keys": keys}});
        let (one, two) = (key("key1", 'a'), key("key2", 'b'));
        let identity = json!({"identity": {}});
        let begun = of_secrets(json!([cbc(json!([one])), identity])).await;
        assert_eq!(open(&begun, &"{plain}".into()).await, Ok(("{plain}".into(), true)));
        let by_one = seal(&begun, "{a}");
        assert!(by_one.starts_with(b"k8s:enc:aescbc:v1:key1:"), "{by_one:?}");
        assert_eq!(open(&begun, &by_one).await, Ok(("{a}".into(), false)));

        let known = of_secrets(json!([cbc(json!([one, two])), identity])).await;
        let swapped = of_secrets(json!([cbc(json!([two, one])), identity])).await;
        let by_two = seal(&swapped, "{b}");
        assert!(by_two.starts_with(b"k8s:enc:aescbc:v1:key2:"), "{by_two:?}");
        assert_eq!(open(&known, &by_two).await, Ok(("{b}".into(), true)));
        assert_eq!(open(&swapped, &by_one).await, Ok(("{a}".into(), true)));

        let ended = of_secrets(json!([cbc(json!([two])), identity])).await;
        let lost = Err("no matching key was found for the provided AES transformer".to_owned());
        assert_eq!(open(&ended, &by_one).await, lost);
        let undone = of_secrets(json!([identity, cbc(json!([two]))])).await;
        assert_eq!(seal(&undone, "{c}"), "{c}");
        assert_eq!(open(&undone, &by_two).await, Ok(("{b}".into(), true)));
        assert_eq!(open(&undone, &"{c}".into()).await, Ok(("{c}".into(), false)));
    }

    #[tokio::test]
    async fn what_no_provider_knows_is_an_error() {
        let gcm = of_secrets(json!([{"aesgcm": {"keys": [key("k", 'a')]}}])).await;
        assert_eq!(open(&gcm, &"{}".into()).await, Err("no matching prefix found".into()));
        let identity = of_secrets(json!([{"identity": {}}])).await;
        assert_eq!(open(&identity, &seal(&gcm, "{}")).await, Err("no matching prefix found".into()));
        // The same name with another key: what comes later is tried as well.
        let two = json!([{"aesgcm": {"keys": [key("k", 'b')]}}, {"aesgcm": {"keys": [key("k", 'a')]}}]);
        assert_eq!(open(&of_secrets(two).await, &seal(&gcm, "{}")).await, Ok(("{}".into(), true)));
        let other = of_secrets(json!([{"aesgcm": {"keys": [key("k", 'b')]}}])).await;
        assert_eq!(open(&other, &seal(&gcm, "{}")).await, Err("cipher: message authentication failed".into()));
    }
}
