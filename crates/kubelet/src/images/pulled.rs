//! Which Pods may use an image that is on the node already: those that could have pulled it. What the agent has pulled, and
//! with whose credentials, is kept in files, as upstream keeps it; deciding asks nobody.
//! See <https://kubernetes.io/docs/concepts/containers/images/#ensureimagepullcredentialverification>.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use serde_json::json;
use skiff_base::clock::{SharedClock, rfc3339};
use skiff_cri::AuthConfig;

use crate::options::Options;

const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// Secrets beyond these are not written down when they are found to be the same credentials; upstream's number.
const MOST_SECRETS: usize = 100;

/// Whose word is taken for an image that is on the node; the policies of a KubeletConfiguration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Policy {
    /// Every Pod may use what is there.
    NeverVerify,
    /// Every Pod may use what the agent has not pulled.
    #[default]
    NeverVerifyPreloadedImages,
    /// Every Pod may use what the agent has not pulled and one of these patterns names.
    NeverVerifyAllowlistedImages(Vec<String>),
    /// Nobody may use what they could not have pulled.
    AlwaysVerify,
}

impl Policy {
    /// The names of all policies.
    pub const NAMES: [&str; 4] =
        ["NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify"];

    /// The policy of a node.
    pub fn of(options: &Options) -> Self {
        match options.image_pull_credentials_verification_policy.as_str() {
            "NeverVerify" => Self::NeverVerify,
            "NeverVerifyAllowlistedImages" => {
                Self::NeverVerifyAllowlistedImages(options.preloaded_images_verification_allowlist.clone())
            }
            "AlwaysVerify" => Self::AlwaysVerify,
            _ => Self::NeverVerifyPreloadedImages,
        }
    }

    fn asks(&self, repository: &str, is_pulled: bool) -> bool {
        match self {
            Self::NeverVerify => false,
            Self::NeverVerifyPreloadedImages => is_pulled,
            Self::NeverVerifyAllowlistedImages(patterns) => {
                is_pulled || !patterns.iter().any(|pattern| is_named(pattern, repository))
            }
            Self::AlwaysVerify => true,
        }
    }
}

/// A pattern is a name without a tag, or the beginning of names with `/*` behind it.
fn is_named(pattern: &str, repository: &str) -> bool {
    match pattern.strip_suffix("/*") {
        Some(beginning) => repository.strip_prefix(beginning).is_some_and(|rest| rest.starts_with('/')),
        None => pattern == repository,
    }
}

/// A pull secret, and what was in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecretUsed {
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub credential_hash: String,
}

/// A service account that a program was told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountUsed {
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

/// Whose credentials something was pulled with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// The node's own, or none at all: every Pod of the node has them.
    Node,
    /// Those in a pull secret.
    Secret(SecretUsed),
    /// Those that a program gave for a service account.
    Account(AccountUsed),
}

/// Credentials and whose they are.
#[derive(Debug, Clone)]
pub struct Login {
    /// What the registry is shown.
    pub auth: AuthConfig,
    /// Whose it is.
    pub owner: Owner,
}

/// A text by which credentials are told from others, and that tells nothing of them.
pub fn hash(auth: &AuthConfig) -> String {
    let text = json!([auth.username, auth.password, auth.auth, auth.identity_token, auth.registry_token]);
    hex(text.to_string().as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who may use an image without pulling it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Every Pod.
    All,
    /// Pods with one of these; nobody where there are none.
    Holders(Holders),
}

/// Those who have pulled an image, by one of its names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Holders {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_secrets: Vec<SecretUsed>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kubernetes_service_accounts: Vec<AccountUsed>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    node_pods_accessible: bool,
}

impl Holders {
    /// Whether nobody may.
    pub fn is_empty(&self) -> bool {
        self.kubernetes_secrets.is_empty() && self.kubernetes_service_accounts.is_empty()
    }

    /// Whether one of those that a Pod has is among them: the same credentials, the same secret with others in it, or the
    /// same account.
    pub fn admit(&self, owner: &Owner) -> bool {
        match owner {
            Owner::Node => self.node_pods_accessible,
            Owner::Account(account) => self.kubernetes_service_accounts.contains(account),
            Owner::Secret(secret) => self
                .kubernetes_secrets
                .iter()
                .any(|known| known.credential_hash == secret.credential_hash || known.is_at_the_place_of(secret)),
        }
    }

    /// Writes somebody down; whether that changes anything.
    fn add(&mut self, owner: &Owner) -> bool {
        if self.node_pods_accessible {
            return false;
        }
        match owner {
            Owner::Node => *self = Self { node_pods_accessible: true, ..Self::default() },
            Owner::Account(account) if !self.kubernetes_service_accounts.contains(account) => {
                self.kubernetes_service_accounts.push(account.clone());
            }
            Owner::Secret(secret) if !self.kubernetes_secrets.contains(secret) => {
                self.kubernetes_secrets.retain(|known| !known.is_at_the_place_of(secret));
                self.kubernetes_secrets.push(secret.clone());
            }
            _ => return false,
        }
        true
    }
}

impl SecretUsed {
    fn is_at_the_place_of(&self, other: &Self) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

/// What is kept of an image that the agent has pulled.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    kind: String,
    api_version: String,
    last_updated_time: String,
    image_ref: String,
    /// By the image's name without tag and digest.
    #[serde(default)]
    credential_mapping: BTreeMap<String, Holders>,
}

#[derive(Default)]
struct Known {
    /// By the runtime's id of the image.
    records: BTreeMap<String, Record>,
    /// Images that are being pulled, by their names, and how often; those that an earlier run began have none.
    intents: BTreeMap<String, usize>,
}

/// What the agent knows of the images that it has pulled.
pub struct Pulled {
    folder: PathBuf,
    policy: Policy,
    clock: SharedClock,
    known: Mutex<Known>,
}

impl Pulled {
    /// Reads what earlier runs have left in the folder.
    pub fn load(folder: PathBuf, policy: Policy, clock: SharedClock) -> Self {
        let mut known = Known::default();
        for (file, text) in files(&folder.join("pulled")) {
            match serde_json::from_slice::<Record>(&text) {
                Ok(record) => drop(known.records.insert(record.image_ref.clone(), record)),
                Err(error) => tracing::warn!(file = %file.display(), %error, "a record of a pull cannot be read"),
            }
        }
        for (_, text) in files(&folder.join("pulling")) {
            let image = serde_json::from_slice::<serde_json::Value>(&text).ok();
            let image = image.and_then(|intent| intent["image"].as_str().map(str::to_owned));
            known.intents.extend(image.map(|image| (image, 0)));
        }
        Self { folder, policy, clock, known: Mutex::new(known) }
    }

    /// Who may use an image that is there, by its name and the runtime's id.
    pub fn access(&self, image: &str, image_ref: &str) -> Access {
        let known = self.known.lock();
        let record = known.records.get(image_ref);
        let is_pulled = record.is_some() || known.intents.contains_key(image);
        if !self.policy.asks(repository(image), is_pulled) {
            return Access::All;
        }
        match record.and_then(|record| record.credential_mapping.get(repository(image))) {
            Some(holders) if holders.node_pods_accessible => Access::All,
            Some(holders) => Access::Holders(holders.clone()),
            None => Access::Holders(Holders::default()),
        }
    }

    /// Notes that an image is about to be pulled: should the agent end before it has noted by whose credentials, nobody may
    /// use it unasked.
    ///
    /// # Errors
    /// It cannot be noted, so it must not be pulled: a later run would take it for one that was there before.
    pub fn begin(&self, image: &str) -> io::Result<()> {
        let mut known = self.known.lock();
        let intent = json!({"kind": "ImagePullIntent", "apiVersion": API_VERSION, "image": image});
        self.write("pulling", image, &intent.to_string())?;
        *known.intents.entry(image.to_owned()).or_default() += 1;
        Ok(())
    }

    /// Notes that the pull has ended, with what came of it. What cannot be noted stays a pull that nobody saw end.
    pub fn end(&self, image: &str, pulled: Option<(&str, &Owner)>) {
        let is_noted = pulled.is_none_or(|(image_ref, owner)| self.admitted(image, image_ref, owner));
        let mut known = self.known.lock();
        let left = known.intents.get(image).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            known.intents.insert(image.to_owned(), left);
            return;
        }
        known.intents.remove(image);
        if is_noted {
            remove(&self.file("pulling", image));
        }
    }

    /// Notes who could use an image; whether a later run will know it.
    pub fn admitted(&self, image: &str, image_ref: &str, owner: &Owner) -> bool {
        let mut known = self.known.lock();
        let record = known.records.entry(image_ref.to_owned()).or_insert_with(|| Record {
            kind: "ImagePulledRecord".to_owned(),
            api_version: API_VERSION.to_owned(),
            last_updated_time: String::new(),
            image_ref: image_ref.to_owned(),
            credential_mapping: BTreeMap::new(),
        });
        let holders = record.credential_mapping.entry(repository(image).to_owned()).or_default();
        let is_one_of_many = holders.kubernetes_secrets.len() >= MOST_SECRETS && holders.admit(owner);
        if is_one_of_many || !holders.add(owner) {
            return true;
        }
        record.last_updated_time = rfc3339(self.clock.now());
        let written = self.write("pulled", image_ref, &serde_json::to_string(record).expect("plain data"));
        written.map_err(|error| tracing::warn!(image, %error, "a pull cannot be noted")).is_ok()
    }

    /// Forgets the images that the runtime does not have any more.
    pub fn keep_only(&self, image_refs: &BTreeSet<&str>) {
        let mut known = self.known.lock();
        // One that is being pulled may be too new for the list.
        if known.intents.values().any(|count| *count > 0) {
            return;
        }
        known.records.retain(|image_ref, _| {
            let stays = image_refs.contains(image_ref.as_str());
            if !stays {
                remove(&self.file("pulled", image_ref));
            }
            stays
        });
    }

    fn file(&self, kind: &str, name: &str) -> PathBuf {
        self.folder.join(kind).join(format!("sha256-{}", hex(name.as_bytes())))
    }

    /// A file is there whole or not at all. Only one is written at a time, by whoever holds what is known.
    fn write(&self, kind: &str, name: &str, text: &str) -> io::Result<()> {
        let (file, draft) = (self.file(kind, name), self.folder.join(kind).join(".draft"));
        std::fs::create_dir_all(self.folder.join(kind))?;
        std::fs::write(&draft, text)?;
        std::fs::rename(&draft, &file)
    }
}

fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("sha256-"));
    files.filter_map(|entry| Some((entry.path(), std::fs::read(entry.path()).ok()?))).collect()
}

fn remove(file: &Path) {
    if let Err(error) = std::fs::remove_file(file)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(file = %file.display(), %error, "a note of a pull cannot be removed");
    }
}

/// An image's name without tag and digest.
pub(super) fn repository(image: &str) -> &str {
    let name = image.split('@').next().unwrap_or(image);
    let slash = name.rfind('/').map_or(0, |at| at + 1);
    name[slash..].find(':').map_or(name, |colon| &name[..slash + colon])
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use skiff_base::clock::ManualClock;

    use super::*;

    const IMAGE: &str = "r.example:5000/team/app:v1";

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(std::fs::remove_dir_all(&self.0));
        }
    }

    fn folder(name: &str) -> Folder {
        Folder(std::env::temp_dir().join(format!("skiff-pulled-{}-{name}", std::process::id())))
    }

    fn load(folder: &Folder, policy: Policy) -> Pulled {
        Pulled::load(folder.0.clone(), policy, Arc::new(ManualClock::at(skiff_base::Timestamp::UNIX_EPOCH)))
    }

    fn secret(name: &str, password: &str) -> Owner {
        let auth = AuthConfig { password: password.to_owned(), ..AuthConfig::default() };
        let (uid, namespace, name) = (format!("uid-{name}"), "team".to_owned(), name.to_owned());
        Owner::Secret(SecretUsed { uid, namespace, name, credential_hash: hash(&auth) })
    }

    fn may(pulled: &Pulled, image: &str, owner: &Owner) -> bool {
        match pulled.access(image, "id") {
            Access::All => true,
            Access::Holders(holders) => holders.admit(owner),
        }
    }

    #[test]
    fn who_has_what_an_image_was_pulled_with_may_use_it() {
        let folder = folder("who");
        let pulled = load(&folder, Policy::default());
        assert_eq!(pulled.access(IMAGE, "id"), Access::All, "it was there before");
        pulled.begin(IMAGE).expect("noted");
        pulled.end(IMAGE, Some(("id", &secret("a", "x"))));
        assert!(may(&pulled, IMAGE, &secret("a", "x")));
        assert!(may(&pulled, IMAGE, &secret("b", "x")), "the same credentials");
        assert!(may(&pulled, IMAGE, &secret("a", "y")), "the same secret");
        assert!(!may(&pulled, IMAGE, &secret("b", "y")));
        assert!(!may(&pulled, IMAGE, &Owner::Node));
        assert!(may(&pulled, "r.example:5000/team/app@sha256:1", &secret("a", "x")), "by another tag");
        assert!(!may(&pulled, "r.example:5000/other/app:v1", &secret("a", "x")), "by another name");
        let account = Owner::Account(AccountUsed { uid: "1".into(), namespace: "team".into(), name: "builder".into() });
        pulled.admitted(IMAGE, "id", &account);
        let again = load(&folder, Policy::default());
        assert!(may(&again, IMAGE, &account) && may(&again, IMAGE, &secret("a", "x")), "it is kept");
        again.admitted(IMAGE, "id", &Owner::Node);
        assert_eq!(again.access(IMAGE, "id"), Access::All);
        again.keep_only(&BTreeSet::from(["other"]));
        assert_eq!(load(&folder, Policy::default()).access(IMAGE, "id"), Access::All, "it is forgotten");
        assert_eq!(load(&folder, Policy::AlwaysVerify).access(IMAGE, "id"), Access::Holders(Holders::default()));
    }

    #[test]
    fn a_pull_that_nobody_saw_end_lets_nobody_in() {
        let folder = folder("unseen");
        load(&folder, Policy::default()).begin(IMAGE).expect("noted");
        let again = load(&folder, Policy::default());
        assert_eq!(again.access(IMAGE, "id"), Access::Holders(Holders::default()));
        again.begin(IMAGE).expect("noted");
        again.end(IMAGE, None);
        assert_eq!(again.access(IMAGE, "id"), Access::All);
        assert_eq!(load(&folder, Policy::NeverVerify).access(IMAGE, "id"), Access::All);
    }

    #[test]
    fn what_cannot_be_noted_lets_nobody_in_later() {
        let folder = folder("unwritten");
        std::fs::create_dir_all(&folder.0).expect("a folder");
        std::fs::write(folder.0.join("pulled"), "in the way").expect("written");
        let pulled = load(&folder, Policy::default());
        pulled.begin(IMAGE).expect("noted");
        pulled.end(IMAGE, Some(("id", &secret("a", "x"))));
        assert!(may(&pulled, IMAGE, &secret("a", "x")), "this run knows it");
        assert_eq!(load(&folder, Policy::default()).access(IMAGE, "id"), Access::Holders(Holders::default()));
        std::fs::remove_dir_all(folder.0.join("pulling")).expect("removed");
        std::fs::write(folder.0.join("pulling"), "in the way").expect("written");
        assert!(pulled.begin(IMAGE).is_err(), "it must not be pulled");
    }

    #[test]
    fn patterns_name_what_was_there_before() {
        let policy = Policy::NeverVerifyAllowlistedImages(vec!["r.example/base/*".into(), "r.example/tool".into()]);
        for (repository, is_pulled, asks) in [
            ("r.example/base/os", false, false),
            ("r.example/base/os", true, true),
            ("r.example/basement", false, true),
            ("r.example/tool", false, false),
            ("r.example/tools", false, true),
        ] {
            assert_eq!(policy.asks(repository, is_pulled), asks, "{repository}");
        }
    }

    #[test]
    fn names_lose_their_tags() {
        for (image, name) in [
            ("hello", "hello"),
            ("hello:v1", "hello"),
            ("localhost:5000/hello", "localhost:5000/hello"),
            ("localhost:5000/hello:v1@sha256:12", "localhost:5000/hello"),
        ] {
            assert_eq!(repository(image), name);
        }
    }
}
