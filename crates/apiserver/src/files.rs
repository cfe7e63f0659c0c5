//! Configurations that the user keeps in files: read strictly, and read anew when a file changes.
//! See <https://kubernetes.io/docs/reference/config-api/apiserver-config.v1/>.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use skiff_base::duration;
use skiff_base::figures::Family;
use skiff_object::meta::Meta;
use skiff_object::yaml;

use crate::encryption::Encryption;
use crate::server::ApiServer;

/// How often files are looked at. Looking is cheaper than what it takes to be told, which on shared or mapped folders
/// does not work.
const PERIOD: Duration = Duration::from_secs(10);
/// The group of these configurations.
const GROUP: &str = "apiserver.config.k8s.io";

static AUTHENTICATION_RELOADS: Family = Family::counter(
    "apiserver_authentication_config_controller_automatic_reloads_total",
    "Total number of automatic reloads of authentication configuration split by status.",
);
static ENCRYPTION_RELOADS: Family = Family::counter(
    "apiserver_encryption_config_controller_automatic_reloads_total",
    "Total number of reload successes and failures of encryption configuration split by status.",
);
static ENCRYPTION_RELOADED: Family = Family::gauge(
    "apiserver_encryption_config_controller_automatic_reload_last_timestamp_seconds",
    "Timestamp of the last successful or failed automatic reload of encryption configuration split by status.",
);
static AUTHORIZATION_RELOADS: Family = Family::counter(
    "apiserver_authorization_config_controller_automatic_reloads_total",
    "Total number of automatic reloads of authorization configuration split by status.",
);

/// What a configuration may say.
pub struct Shape {
    /// Its kind.
    pub kind: &'static str,
    /// The versions that are read, all alike.
    pub versions: &'static [&'static str],
    /// All leaves, `jwt[].issuer.url`; text, unless the type follows after a blank (`bool`, `int`, `any`).
    pub leaves: &'static [&'static str],
}

impl Shape {
    /// Reads a document in YAML or JSON.
    ///
    /// # Errors
    /// It is something else, or has a field that is not known or of the wrong type.
    pub fn read(&self, text: &[u8]) -> Result<Value, String> {
        let tree = yaml::parse(text)?.into_value();
        let (version, kind) = (tree.str_at(&["apiVersion"]), tree.str_at(&["kind"]));
        let known = version.split_once('/').is_some_and(|(group, version)| {
            (group == GROUP || group == "apiserver.k8s.io") && self.versions.contains(&version)
        });
        if kind != self.kind || !known {
            return Err(format!("no kind {kind:?} is registered for version {version:?}"));
        }
        if let Some((line, key)) = yaml::duplicate(text) {
            return Err(format!("strict decoding error: yaml: line {line}: key {key:?} already set in map"));
        }
        let mut faults = Vec::new();
        for (field, value) in tree.as_object().into_iter().flatten() {
            if field != "apiVersion" && field != "kind" {
                self.check(field, field, value, &mut faults);
            }
        }
        if faults.is_empty() { Ok(tree) } else { Err(format!("strict decoding error: {}", faults.join(", "))) }
    }

    /// `pattern` is the place as leaves name it, `shown` as people do.
    fn check(&self, pattern: &str, shown: &str, value: &Value, faults: &mut Vec<String>) {
        if value.is_null() {
            return;
        }
        let leaf = self.leaves.iter().find_map(|leaf| {
            let (path, kind) = leaf.split_once(' ').unwrap_or((leaf, "string"));
            (path == pattern).then_some(kind)
        });
        if let Some(kind) = leaf {
            let fits = match kind {
                "bool" => value.is_boolean(),
                "int" => value.is_i64(),
                "any" => true,
                _ => value.is_string(),
            };
            if !fits {
                faults.push(format!("field {shown:?} must be of type {kind}"));
            }
            return;
        }
        let has = |separator: &str| {
            self.leaves.iter().any(|leaf| leaf.strip_prefix(pattern).is_some_and(|rest| rest.starts_with(separator)))
        };
        match value {
            Value::Object(map) if has(".") => {
                for (field, value) in map {
                    self.check(&format!("{pattern}.{field}"), &format!("{shown}.{field}"), value, faults);
                }
            }
            Value::Array(items) if has("[]") => {
                for (index, item) in items.iter().enumerate() {
                    self.check(&format!("{pattern}[]"), &format!("{shown}[{index}]"), item, faults);
                }
            }
            _ if has(".") || has("[]") => faults.push(format!("field {shown:?} is of the wrong type")),
            _ => faults.push(format!("unknown field {shown:?}")),
        }
    }
}

/// A span of time as Go writes it, `1m30s`.
///
/// # Errors
/// It is none, or goes backwards.
pub fn duration(text: &str) -> Result<Duration, String> {
    let signed = duration::parse_signed(text).ok_or_else(|| format!("time: invalid duration {text:?}"))?;
    Duration::try_from(signed).map_err(|_| format!("{text:?} is negative"))
}

/// A file that may change.
pub struct Watched {
    path: PathBuf,
    seen: Mutex<Vec<u8>>,
}

impl Watched {
    /// Reads the file for the first time.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(path: PathBuf) -> Result<(Self, Vec<u8>), String> {
        let text = std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok((Self { path, seen: Mutex::new(text.clone()) }, text))
    }

    /// What is in the file, where it is not what was there the last time.
    pub async fn changed(&self) -> io::Result<Option<Vec<u8>>> {
        let text = tokio::fs::read(&self.path).await?;
        let mut seen = self.seen.lock();
        if *seen == text {
            return Ok(None);
        }
        seen.clone_from(&text);
        Ok(Some(text))
    }

    /// Takes whatever is in the file for new.
    pub fn forget(&self) {
        self.seen.lock().clear();
    }

    /// The file's name, for people.
    pub fn shown(&self) -> String {
        self.path.display().to_string()
    }
}

/// Looks at the files from time to time, until the server is gone.
pub async fn run(server: Weak<ApiServer>) {
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(server) = server.upgrade() else { return };
        server.reload().await;
    }
}

impl ApiServer {
    /// Whether there is a file that may change.
    pub(crate) fn has_files(&self) -> bool {
        self.authenticator.file().is_some() || self.authorizer.file().is_some() || self.encryption.is_some()
    }

    /// Reads configurations whose files have changed; one that has a fault is told of, and what was before holds.
    pub async fn reload(self: &Arc<Self>) {
        if let Some(file) = self.authenticator.file() {
            let outcome = reload(file, |text| self.authenticator.configure(text)).await;
            report(&AUTHENTICATION_RELOADS, "authentication", file, outcome);
        }
        if let Some(file) = self.authorizer.file() {
            let outcome = reload(file, |text| self.authorizer.configure(text)).await;
            report(&AUTHORIZATION_RELOADS, "authorization", file, outcome);
        }
        if let Some(encryption) = &self.encryption {
            self.reload_encryption(encryption).await;
        }
    }

    /// Beside the file, what could not be decrypted is looked at again: a plugin may have come back.
    async fn reload_encryption(&self, encryption: &Encryption) {
        if let Some(file) = encryption.file() {
            let outcome = match file.changed().await {
                Ok(None) => Ok(false),
                Ok(Some(text)) => encryption.configure(&text).await.map(|()| true),
                Err(error) => Err(error.to_string()),
            };
            if outcome.is_err() {
                // What failed because of a plugin may do better with the same words.
                file.forget();
            }
            let status = match &outcome {
                Ok(true) => Some("success"),
                Ok(false) => None,
                Err(_) => Some("failure"),
            };
            if let Some(status) = status {
                let now = self.clock().now().as_millisecond() as f64 / 1000.0;
                ENCRYPTION_RELOADED.with(&format!("status={status:?}")).set(now);
            }
            report(&ENCRYPTION_RELOADS, "encryption", file, outcome);
        }
        if let Err(failure) = self.hub.reread().await {
            tracing::warn!(why = failure.0.message, "what could not be decrypted cannot be read again");
        }
    }
}

/// Whether something new holds now.
async fn reload(file: &Watched, take: impl FnOnce(&[u8]) -> Result<(), String>) -> Result<bool, String> {
    match file.changed().await {
        Ok(None) => Ok(false),
        Ok(Some(text)) => take(&text).map(|()| true),
        Err(error) => Err(error.to_string()),
    }
}

fn report(family: &'static Family, what: &str, file: &Watched, outcome: Result<bool, String>) {
    match outcome {
        Ok(false) => {}
        Ok(true) => {
            family.with("status=\"success\"").inc();
            tracing::info!(file = file.shown(), "reloaded the {what} config");
        }
        Err(error) => {
            family.with("status=\"failure\"").inc();
            tracing::error!(file = file.shown(), error, "failed to reload the {what} config");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape =
        Shape { kind: "Thing", versions: &["v1"], leaves: &["a[].b", "a[].c bool", "d.e[]", "f int", "g any"] };

    fn fault(text: &str) -> String {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: Thing\n";
        SHAPE.read(format!("{head}{text}").as_bytes()).expect_err(text)
    }

    #[test]
    fn only_what_is_known_is_read() {
        let whole = "{\"apiVersion\": \"apiserver.config.k8s.io/v1\", \"kind\": \"Thing\",
            \"a\": [{\"b\": \"x\", \"c\": true}], \"d\": {\"e\": [\"y\"]}, \"f\": 1, \"g\": {\"h\": 2}}";
        assert_eq!(SHAPE.read(whole.as_bytes()).expect("well-formed")["f"], 1);
        assert_eq!(fault("a: [{b: x, z: 1}]"), r#"strict decoding error: unknown field "a[0].z""#);
        assert_eq!(
            fault("d: 3\nf: x"),
            r#"strict decoding error: field "d" is of the wrong type, field "f" must be of type int"#
        );
        assert_eq!(fault("f: 1\nf: 2"), r#"strict decoding error: yaml: line 4: key "f" already set in map"#);
        let other = SHAPE.read(b"apiVersion: v1\nkind: Pod").expect_err("another kind");
        assert_eq!(other, r#"no kind "Pod" is registered for version "v1""#);
    }
}
