//! Images on the node: looking for them, pulling each once however many Pods want it, and the credentials for that.

mod pulled;

use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use k8s_openapi::api::core::v1::Secret;
use parking_lot::Mutex;
use serde::Deserialize;
use skiff_base::clock::SharedClock;
use skiff_client::Client;
use skiff_cri::{
    AuthConfig, ImageService, ImageSpec, ImageStatusRequest, PodSandboxConfig, PullImageRequest, PullProgress,
};
use tokio::sync::Semaphore;

use crate::config::security::ImageUser;
use crate::credentials::{self, Account, Providers};
use crate::options::Options;
use crate::pod::types::Ended;

use pulled::{Access, hash, repository};
pub use pulled::{AccountUsed, Login, Owner, Policy, Pulled, SecretUsed};

/// The registry of image names that have none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// How credentials for it are filed in old Docker configurations.
const DEFAULT_REGISTRY_KEY: &str = "https://index.docker.io/v1/";
/// How often it is told how far a pull has come.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// The image service with one pull at a time for each image, and as many at a time in all as the node is told.
pub struct Images {
    service: Arc<dyn ImageService>,
    providers: Arc<Providers>,
    /// Credentials that the administrator of the node has given to all its Pods.
    config: PathBuf,
    pulls: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    places: Semaphore,
    pulled: Pulled,
}

impl Images {
    /// Over the runtime's image service. `config` is a Docker configuration with the node's own credentials, if it is there.
    pub fn new(
        service: Arc<dyn ImageService>,
        providers: Arc<Providers>,
        config: PathBuf,
        pulled: Pulled,
        options: &Options,
    ) -> Self {
        let places = Semaphore::new(options.parallel_image_pulls().min(Semaphore::MAX_PERMITS));
        Self { service, providers, config, pulls: Mutex::default(), places, pulled }
    }

    /// What is known of the images that were pulled.
    pub fn pulled(&self) -> &Pulled {
        &self.pulled
    }

    /// The credentials that the node itself has for an image: those of its own file, then those of providers, who may be told
    /// of the account of the Pod that it is for.
    pub async fn own_credentials(&self, image: &str, account: &dyn Account) -> Vec<Login> {
        // Without tag and digest, and with the names that programs know it by.
        let (registry, path) = split_registry(repository(image));
        let path = if registry.is_none() && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        let full = format!("{}/{path}", registry.unwrap_or(DEFAULT_REGISTRY));
        let asked = self.providers.asked(&full, account).await;
        let (providers, file, wanted) = (self.providers.clone(), self.config.clone(), image.to_owned());
        let ask = move || {
            let of_file = match std::fs::read(&file) {
                Ok(bytes) => match serde_json::from_slice::<DockerConfig>(&bytes) {
                    Ok(config) => of_config(config.auths, &wanted),
                    Err(error) => {
                        tracing::warn!(file = %file.display(), %error, "the node's credentials cannot be read");
                        vec![]
                    }
                },
                Err(_) => vec![],
            };
            let mut found: Vec<Login> = of_file.into_iter().map(|auth| Login { auth, owner: Owner::Node }).collect();
            found.extend(providers.credentials(&full, &asked));
            found
        };
        tokio::task::spawn_blocking(ask).await.unwrap_or_default()
    }

    /// Where images are kept, and the bytes that they take.
    pub async fn file_system(&self) -> Option<(std::path::PathBuf, u64)> {
        let info = self.service.image_fs_info(skiff_cri::ImageFsInfoRequest {}).await.ok()?;
        let found = info.image_filesystems.into_iter().next()?;
        let path = std::path::PathBuf::from(found.fs_id?.mountpoint);
        path.is_absolute().then(|| (path, found.used_bytes.map_or(0, |bytes| bytes.value)))
    }

    /// Whether the image is on the node for a Pod with such credentials, which are only asked for where it matters. One that
    /// the Pod could not have pulled is as good as absent.
    pub async fn inspect(&self, image: &str, owners: impl Future<Output = Vec<Owner>>) -> Ended {
        let Some(full) = with_tag(image) else { return invalid(image) };
        match self.find(&full).await {
            Ok(Some(found)) if self.may_use(&full, &found.id, owners).await => {
                Ended::ImagePresent { image_ref: found.id }
            }
            Ok(_) => Ended::ImageAbsent,
            Err(error) => Ended::Failed { reason: "ImageInspectError".to_owned(), message: error },
        }
    }

    async fn may_use(&self, image: &str, image_ref: &str, owners: impl Future<Output = Vec<Owner>>) -> bool {
        let holders = match self.pulled.access(image, image_ref) {
            Access::All => return true,
            Access::Holders(holders) => holders,
        };
        if holders.is_empty() {
            return false;
        }
        let owners = owners.await;
        let admitted = owners.iter().find(|owner| holders.admit(owner));
        if let Some(owner) = admitted {
            // The same credentials may be in another secret by now, or others in the same.
            self.pulled.admitted(image, image_ref, owner);
        }
        admitted.is_some()
    }

    async fn find(&self, image: &str) -> Result<Option<skiff_cri::Image>, String> {
        let spec = ImageSpec { image: image.to_owned(), ..ImageSpec::default() };
        let request = ImageStatusRequest { image: Some(spec), verbose: false };
        let response = self.service.image_status(request).await.map_err(|error| error.to_string())?;
        Ok(response.image)
    }

    /// The user that an image says to run as.
    ///
    /// # Errors
    /// The image is not there.
    pub async fn user(&self, image: &str) -> Result<ImageUser, String> {
        let full = with_tag(image).unwrap_or_else(|| image.to_owned());
        let found = self.find(&full).await?.ok_or_else(|| format!("image {image:?} is not on the node"))?;
        Ok(ImageUser { uid: found.uid.map(|uid| uid.value), name: found.username })
    }

    /// Pulls an image with the first credentials that are accepted. If it takes long, `tell` hears how far it has come.
    pub async fn pull(
        &self,
        image: &str,
        logins: Vec<Login>,
        sandbox: PodSandboxConfig,
        clock: &SharedClock,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> Ended {
        let Some(full) = with_tag(image) else { return invalid(image) };
        let asked = clock.monotonic();
        let turn = self.pulls.lock().entry(full.clone()).or_default().clone();
        let held = turn.lock().await;
        let place = self.places.acquire().await.expect("it is never closed");
        let began = clock.monotonic();
        let pulled = match self.pulled.begin(&full) {
            Ok(()) => {
                let pulled = self.pull_once(&full, logins, sandbox, tell).await;
                self.pulled.end(&full, pulled.as_ref().ok().map(|(image_ref, owner)| (image_ref.as_str(), owner)));
                pulled
            }
            Err(error) => Err(format!("Failed to record image pull intent for container image {full:?}: {error}")),
        };
        drop((place, held));
        self.pulls.lock().retain(|name, turn| *name != full || Arc::strong_count(turn) > 2);
        let done = clock.monotonic();
        match pulled {
            Ok((image_ref, _)) => {
                let size_bytes = match self.find(&full).await {
                    Ok(found) => found.map_or(0, |found| found.size),
                    Err(_) => 0,
                };
                Ended::ImagePulled { image_ref, size_bytes, took: done - began, waited: done - asked }
            }
            Err(message) => Ended::Failed { reason: "ErrImagePull".to_owned(), message },
        }
    }

    /// The runtime's id of the image, and whose credentials were accepted.
    async fn pull_once(
        &self,
        image: &str,
        logins: Vec<Login>,
        sandbox: PodSandboxConfig,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> Result<(String, Owner), String> {
        let with = |login: Login| (Some(login.auth), login.owner);
        let tries = if logins.is_empty() { vec![(None, Owner::Node)] } else { logins.into_iter().map(with).collect() };
        let mut errors = Vec::new();
        for (auth, owner) in tries {
            let spec = ImageSpec { image: image.to_owned(), ..ImageSpec::default() };
            let request = PullImageRequest { image: Some(spec), auth, sandbox_config: Some(sandbox.clone()) };
            let latest = Mutex::new(None);
            let progress = |now: PullProgress| *latest.lock() = Some(now);
            let mut pull = pin!(self.service.pull_image_with_progress(request, &progress));
            let pulled = loop {
                match tokio::time::timeout(TELL_EVERY, &mut pull).await {
                    Ok(pulled) => break pulled,
                    Err(_) => latest.lock().take().iter().for_each(|now| tell(how_far(image, now))),
                }
            };
            match pulled {
                Ok(response) => return Ok((response.image_ref, owner)),
                Err(error) => errors.push(error.to_string()),
            }
        }
        Err(if errors.len() == 1 { errors.remove(0) } else { format!("[{}]", errors.join(", ")) })
    }
}

/// How far a pull has come, for people.
fn how_far(image: &str, progress: &PullProgress) -> String {
    if progress.total_bytes == 0 {
        return format!("Pulling image {image:?}: {}", progress.phase.to_lowercase());
    }
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    format!(
        "Pulling image {image:?}: {:.1} of {:.1} MB downloaded, {} of {} layers in place",
        megabytes(progress.done_bytes),
        megabytes(progress.total_bytes),
        progress.done_layers,
        progress.total_layers
    )
}

fn invalid(image: &str) -> Ended {
    let message = format!(
        "Failed to apply default image tag {image:?}: couldn't parse image name {image:?}: invalid reference format"
    );
    Ended::Failed { reason: "InvalidImageName".to_owned(), message }
}

/// The image's name with `:latest` where it has neither tag nor digest; `None` where it is no name of an image.
/// The grammar is that of <https://github.com/distribution/reference>.
pub fn with_tag(image: &str) -> Option<String> {
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (repository, tag) = match rest[slash..].rfind(':') {
        Some(colon) => (&rest[..slash + colon], Some(&rest[slash + colon + 1..])),
        None => (rest, None),
    };
    let (registry, path) = split_registry(repository);
    let registry_ok = registry.is_none_or(|host| {
        !host.is_empty() && host.bytes().all(|c| c.is_ascii_alphanumeric() || b".-:[]_".contains(&c))
    });
    let tag_ok = tag.is_none_or(|tag| {
        let mut bytes = tag.bytes();
        let first = bytes.next().is_some_and(|c| c.is_ascii_alphanumeric() || c == b'_');
        first && tag.len() <= 128 && bytes.all(|c| c.is_ascii_alphanumeric() || b"_.-".contains(&c))
    });
    let digest_ok = digest.is_none_or(|digest| {
        let parts = digest.split_once(':');
        parts.is_some_and(|(kind, hex)| {
            !kind.is_empty() && hex.len() >= 32 && hex.bytes().all(|c| c.is_ascii_hexdigit())
        })
    });
    if !(registry_ok && tag_ok && digest_ok && path.split('/').all(is_path_component)) {
        return None;
    }
    Some(if tag.is_none() && digest.is_none() { format!("{image}:latest") } else { image.to_owned() })
}

/// A host comes first where the first part could not be a folder of the default registry.
fn split_registry(repository: &str) -> (Option<&str>, &str) {
    match repository.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        _ => (None, repository),
    }
}

fn is_path_component(part: &str) -> bool {
    let alphanumeric = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = |c: Option<&u8>| c.is_some_and(|c| alphanumeric(*c));
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|c| alphanumeric(*c) || b"._-".contains(c))
}

#[derive(Debug, Default, Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: HashMap<String, DockerAuth>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

/// The credentials for an image in the named pull secrets; secrets that are missing or unreadable are passed over, as
/// upstream does: the registry has the last word.
pub async fn credentials(client: &Client, namespace: &str, names: &[String], image: &str) -> Vec<Login> {
    let mut found = Vec::new();
    for name in names.iter().filter(|name| !name.is_empty()) {
        match client.get::<Secret>(namespace, name).await {
            Ok(secret) => found.extend(of_secret(&secret, image).into_iter().map(|auth| Login {
                owner: Owner::Secret(SecretUsed {
                    uid: secret.metadata.uid.clone().unwrap_or_default(),
                    namespace: namespace.to_owned(),
                    name: name.clone(),
                    credential_hash: hash(&auth),
                }),
                auth,
            })),
            Err(error) => tracing::warn!(namespace, secret = %name, %error, "cannot read a pull secret"),
        }
    }
    found
}

fn of_secret(secret: &Secret, image: &str) -> Vec<AuthConfig> {
    let data = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.as_slice());
    let auths = match (data(".dockerconfigjson"), data(".dockercfg")) {
        (Some(bytes), _) => serde_json::from_slice::<DockerConfig>(bytes).map(|config| config.auths),
        (None, Some(bytes)) => serde_json::from_slice(bytes),
        (None, None) => return vec![],
    };
    let auths = match auths {
        Ok(auths) => auths,
        Err(error) => {
            tracing::warn!(secret = ?secret.metadata.name, %error, "a pull secret cannot be read");
            return vec![];
        }
    };
    of_config(auths, image)
}

/// The credentials for an image, the most particular ones first.
fn of_config(auths: HashMap<String, DockerAuth>, image: &str) -> Vec<AuthConfig> {
    let (registry, path) = split_registry(image);
    let registry = registry.unwrap_or(DEFAULT_REGISTRY);
    let full = format!("{registry}/{path}");
    let mut matching: Vec<_> = auths.into_iter().filter(|(key, _)| matches(key, registry, &full)).collect();
    // The longest, hence most particular, comes first.
    matching.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
    matching.into_iter().map(|(key, auth)| auth_config(&key, auth)).collect()
}

fn matches(key: &str, registry: &str, full: &str) -> bool {
    if key == DEFAULT_REGISTRY_KEY {
        return registry == DEFAULT_REGISTRY || registry == "index.docker.io";
    }
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2");
    if key.contains('*') {
        return credentials::matches(key, full);
    }
    registry == key || full.strip_prefix(key).is_some_and(|rest| rest.starts_with(['/', ':', '@']))
}

fn auth_config(server: &str, auth: DockerAuth) -> AuthConfig {
    let (mut username, mut password) = (auth.username, auth.password);
    if username.is_empty()
        && let Ok(decoded) = base64::engine::general_purpose::STANDARD.decode(auth.auth.trim())
        && let Ok(text) = String::from_utf8(decoded)
        && let Some((user, secret)) = text.split_once(':')
    {
        (username, password) = (user.to_owned(), secret.to_owned());
    }
    AuthConfig {
        username,
        password,
        identity_token: auth.identitytoken,
        server_address: server.to_owned(),
        ..AuthConfig::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pull_tells_how_far_it_has_come() {
        let mut progress =
            PullProgress { phase: "Resolving", done_bytes: 0, total_bytes: 0, done_layers: 0, total_layers: 0 };
        assert_eq!(how_far("a:v1", &progress), r#"Pulling image "a:v1": resolving"#);
        (progress.done_bytes, progress.total_bytes, progress.total_layers) = (12_340_000, 739_000_000, 3);
        let words = r#"Pulling image "a:v1": 12.3 of 739.0 MB downloaded, 0 of 3 layers in place"#;
        assert_eq!(how_far("a:v1", &progress), words);
    }

    #[test]
    fn names_get_a_tag_or_are_refused() {
        for (name, expected) in [
            ("nginx", Some("nginx:latest")),
            ("localhost:5000/hello:v1", Some("localhost:5000/hello:v1")),
            ("localhost:5000/hello", Some("localhost:5000/hello:latest")),
            ("a/b_c/d-e.f:1.0", Some("a/b_c/d-e.f:1.0")),
            ("Nginx", None),
            ("nginx:", None),
            ("", None),
            ("a//b", None),
            ("nginx:v1:v2", None),
            ("nginx@sha256:123", None),
        ] {
            assert_eq!(with_tag(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn credentials_are_found_by_registry() {
        assert!(matches("localhost:5000", "localhost:5000", "localhost:5000/hello:v1"));
        assert!(matches("https://r.example/v2/", "r.example", "r.example/a"));
        assert!(matches("*.example", "r.example", "r.example/a"));
        assert!(matches("*.kubernetes.*", "a.kubernetes.io", "a.kubernetes.io/a"));
        assert!(matches("r.example/team", "r.example", "r.example/team/a"));
        assert!(matches(DEFAULT_REGISTRY_KEY, "docker.io", "docker.io/library/nginx"));
        assert!(!matches("r.example/te", "r.example", "r.example/team/a"));
    }
}
