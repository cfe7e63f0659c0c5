//! Credentials of registries that programs of others give: which program is asked for which image, what it answers and how
//! long that holds. See <https://kubernetes.io/docs/tasks/administer-cluster/kubelet-credential-provider/>.

mod accounts;

use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use skiff_base::clock::SharedClock;
use skiff_base::duration;
use skiff_cri::AuthConfig;
use skiff_object::FieldPath;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;

pub use accounts::Account;
use accounts::{TokenAttributes, Told};

use crate::images::{AccountUsed, Login, Owner};
use crate::options::GoDuration;

const CONFIG_KIND: &str = "CredentialProviderConfig";
const CONFIG_GROUP: &str = "kubelet.config.k8s.io/";
/// The version in which programs are asked.
const API: &str = "credentialprovider.kubelet.k8s.io/v1";
/// How long a program has to answer; upstream's number.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long the rest of its answer may take once it has ended.
const AFTER_ITS_END: Duration = Duration::from_secs(2);
/// The most bytes of an answer that are read.
const MAX_ANSWER_BYTES: u64 = 1 << 20;
/// The key under which credentials for all images are kept.
const GLOBAL: &str = "<global>";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Config {
    api_version: String,
    kind: String,
    providers: Vec<Provider>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Provider {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: GoDuration,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    /// What it is told of the service account of the Pod that the image is for.
    token_attributes: Option<TokenAttributes>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'static str,
    api_version: &'static str,
    image: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    service_account_token: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_account_annotations: &'a BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Response {
    kind: String,
    api_version: String,
    cache_key_type: String,
    cache_duration: Option<String>,
    auth: Option<BTreeMap<String, Given>>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Given {
    username: String,
    password: String,
}

impl std::fmt::Debug for Given {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Given").field("username", &self.username).finish_non_exhaustive()
    }
}

type Logins = BTreeMap<String, Given>;

/// The programs that are asked, and what they have answered.
pub struct Providers {
    providers: Vec<Provider>,
    folder: PathBuf,
    clock: SharedClock,
    /// By program, by account where it was told of one, and by what the answer is for; until when it holds.
    cache: Mutex<BTreeMap<(String, String, String), (Duration, Logins)>>,
}

/// A program that is to be asked, and what it is told.
pub struct Asked {
    provider: Provider,
    told: Told,
}

impl Providers {
    /// None.
    pub fn none(clock: SharedClock) -> Self {
        Self { providers: Vec::new(), folder: PathBuf::new(), clock, cache: Mutex::default() }
    }

    /// Those of a CredentialProviderConfig; their programs are in `folder`.
    ///
    /// # Errors
    /// The configuration makes no sense, or a program is not there.
    pub fn read(config: &Path, folder: &Path, clock: SharedClock) -> Result<Self, String> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", config.display());
        let text = std::fs::read(config).map_err(|error| named(&error))?;
        let providers = parse(&text).map_err(|error| named(&error))?;
        for provider in &providers {
            let program = folder.join(&provider.name);
            if !program.is_file() {
                return Err(format!("plugin binary executable {} did not exist", program.display()));
            }
        }
        Ok(Self { providers, folder: folder.to_owned(), clock, cache: Mutex::default() })
    }

    /// The programs that are asked for an image of a Pod with that account.
    pub async fn asked(&self, image: &str, account: &dyn Account) -> Vec<Asked> {
        let mut asked = Vec::new();
        for provider in self.providers.iter().filter(|provider| provider.is_for(image)) {
            let told = match &provider.token_attributes {
                None => Ok(Some(Told::default())),
                Some(attributes) => attributes.told(account).await,
            };
            match told {
                Ok(told) => asked.extend(told.map(|told| Asked { provider: provider.clone(), told })),
                Err(error) => tracing::warn!(provider = provider.name, image, error, "no account is told"),
            }
        }
        asked
    }

    /// The credentials for an image, the most particular ones first. Blocks as long as programs run.
    pub fn credentials(&self, image: &str, asked: &[Asked]) -> Vec<Login> {
        let mut found = Vec::new();
        for Asked { provider, told } in asked {
            match self.logins(provider, image, told) {
                Ok(logins) => found.extend(logins.into_iter().map(|(key, given)| (key, given, &told.account))),
                Err(error) => tracing::warn!(provider = provider.name, image, error, "no credentials are provided"),
            }
        }
        found.retain(|(key, ..)| matches(key, image));
        found.sort_by_key(|(key, ..)| std::cmp::Reverse(key.len()));
        let login = |(key, given, account): (String, Given, &Option<AccountUsed>)| Login {
            auth: AuthConfig {
                username: given.username,
                password: given.password,
                server_address: key,
                ..AuthConfig::default()
            },
            owner: account.clone().map_or(Owner::Node, Owner::Account),
        };
        found.into_iter().map(login).collect()
    }

    fn logins(&self, provider: &Provider, image: &str, told: &Told) -> Result<Logins, String> {
        let now = self.clock.monotonic();
        let registry = image.split('/').next().unwrap_or(image);
        {
            let mut cache = self.cache.lock();
            cache.retain(|_, (until, _)| *until > now);
            for key in [image, registry, GLOBAL] {
                let place = (provider.name.clone(), told.key.clone(), key.to_owned());
                if let Some((_, logins)) = cache.get(&place) {
                    return Ok(logins.clone());
                }
            }
        }
        let request = Request {
            kind: "CredentialProviderRequest",
            api_version: API,
            image,
            service_account_token: &told.token,
            service_account_annotations: &told.annotations,
        };
        let request = serde_json::to_vec(&request).expect("plain data");
        let answer = run(provider, &self.folder, &request)?;
        let answer: Response = serde_json::from_slice(&answer).map_err(|error| format!("its answer: {error}"))?;
        let (key, holds) = answer.kept(provider, image, registry)?;
        let logins = answer.auth.unwrap_or_default();
        if !holds.is_zero() {
            let place = (provider.name.clone(), told.key.clone(), key);
            self.cache.lock().insert(place, (self.clock.monotonic() + holds, logins.clone()));
        }
        Ok(logins)
    }
}

fn parse(text: &[u8]) -> Result<Vec<Provider>, String> {
    let tree = skiff_object::yaml::parse(text)?.into_value();
    let config: Config = serde_json::from_value(tree).map_err(|error| format!("{CONFIG_KIND}: {error}"))?;
    if config.kind != CONFIG_KIND || !config.api_version.starts_with(CONFIG_GROUP) {
        return Err(format!(
            "must be {CONFIG_KIND} of {CONFIG_GROUP}v1, not {} of {}",
            config.kind, config.api_version
        ));
    }
    for provider in &config.providers {
        let name = &provider.name;
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err(format!("provider name {name:?} must be the name of a file"));
        }
        if provider.api_version != API {
            return Err(format!("provider {name}: apiVersion {:?} is not {API}", provider.api_version));
        }
        if provider.match_images.is_empty() {
            return Err(format!("provider {name}: at least one entry of matchImages is required"));
        }
        let attributes = provider.token_attributes.iter();
        let wrong = attributes.flat_map(|attributes| attributes.check(&FieldPath::new("providers.tokenAttributes")));
        let wrong: Vec<String> = wrong.map(|error| error.to_string()).collect();
        if !wrong.is_empty() {
            return Err(format!("provider {name}: {}", wrong.join(", ")));
        }
    }
    Ok(config.providers)
}

impl Provider {
    fn is_for(&self, image: &str) -> bool {
        self.match_images.iter().any(|pattern| matches(pattern, image))
    }
}

impl Response {
    /// What the answer is for, and how long it holds.
    fn kept(&self, provider: &Provider, image: &str, registry: &str) -> Result<(String, Duration), String> {
        if self.kind != "CredentialProviderResponse" || self.api_version != API {
            return Err(format!("its answer is a {} of {:?}", self.kind, self.api_version));
        }
        let key = match self.cache_key_type.as_str() {
            "Image" => image,
            "Registry" => registry,
            "Global" => GLOBAL,
            other => return Err(format!("its answer has cacheKeyType {other:?}")),
        };
        let holds = match &self.cache_duration {
            Some(text) => duration::parse(text).ok_or_else(|| format!("its answer has cacheDuration {text:?}"))?,
            None => provider.default_cache_duration.0,
        };
        Ok((key.to_owned(), holds))
    }
}

/// Runs a program: the request goes in, its answer comes out. Blocking; nothing of it is left when it returns, whatever the
/// program leaves behind.
fn run(provider: &Provider, folder: &Path, request: &[u8]) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut child = Command::new(folder.join(&provider.name))
        .args(&provider.args)
        .envs(provider.env.iter().map(|variable| (&variable.name, &variable.value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(text)?;
    let (input, output) = (child.stdin.take().map(OwnedFd::from), child.stdout.take().map(OwnedFd::from));
    let (input, output) = (input.expect("it was asked for"), output.expect("it was asked for"));
    let here = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(text)?;
    let outcome = here.block_on(async {
        let input = pipe::Sender::from_owned_fd(input).map_err(text)?;
        let output = pipe::Receiver::from_owned_fd(output).map_err(text)?;
        converse(&mut child, talk(&provider.name, request, input, output)).await
    });
    if outcome.is_err() {
        // It may run still. Where it does not, it was waited for, and is nobody else yet.
        child.kill().and_then(|()| child.wait()).map_err(text)?;
    }
    outcome
}

/// Says the request and hears the answer to its end.
async fn talk(
    provider: &str,
    request: &[u8],
    mut input: pipe::Sender,
    output: pipe::Receiver,
) -> std::io::Result<Vec<u8>> {
    // One that reads nothing may still answer.
    if let Err(error) = input.write_all(request).await {
        tracing::debug!(provider, %error, "the request was not read");
    }
    drop(input);
    let mut answer = Vec::new();
    output.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Waits until a program has ended, and for what it said.
async fn converse(child: &mut Child, talk: impl Future<Output = std::io::Result<Vec<u8>>>) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut talk = pin!(talk);
    let mut answer = None;
    let mut waited = Duration::ZERO;
    let status = loop {
        tokio::select! {
            said = &mut talk, if answer.is_none() => answer = Some(said),
            () = tokio::time::sleep(LOOK_AGAIN) => waited += LOOK_AGAIN,
        }
        match child.try_wait().map_err(text)? {
            Some(status) => break status,
            None if waited >= PATIENCE => return Err("it did not answer in time".to_owned()),
            None => {}
        }
    };
    let answer = match answer {
        Some(answer) => answer,
        // What it has left behind may hold its output open for ever.
        None => match tokio::time::timeout(AFTER_ITS_END, talk).await {
            Ok(answer) => answer,
            Err(_) => return Err("what it started holds its output open".to_owned()),
        },
    };
    let answer = answer.map_err(text)?;
    if status.success() { Ok(answer) } else { Err(format!("it ended with {status}")) }
}

/// Whether a pattern is about an image: host and path, where `*` stands for a part of the host's name.
pub fn matches(pattern: &str, image: &str) -> bool {
    let bare = |text: &str| {
        let text = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
        text.trim_end_matches('/').to_owned()
    };
    let (pattern, image) = (bare(pattern), bare(image));
    let split = |text: &str| match text.split_once('/') {
        Some((host, path)) => (host.to_owned(), format!("/{path}")),
        None => (text.to_owned(), String::new()),
    };
    let ((pattern_host, pattern_path), (host, path)) = (split(&pattern), split(&image));
    let port = |host: &str| match host.rsplit_once(':') {
        Some((name, port)) => (name.to_owned(), port.to_owned()),
        None => (host.to_owned(), String::new()),
    };
    let ((pattern_name, pattern_port), (name, port)) = (port(&pattern_host), port(&host));
    let (patterns, parts): (Vec<_>, Vec<_>) = (pattern_name.split('.').collect(), name.split('.').collect());
    pattern_port == port
        && patterns.len() == parts.len()
        && patterns.iter().zip(parts).all(|(pattern, part)| glob(pattern, part))
        && path.starts_with(&pattern_path)
}

/// Whether a text is what a pattern says, where `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((head, rest)) => text.strip_prefix(head).is_some_and(|text| {
            (0..=text.len()).filter(|at| text.is_char_boundary(*at)).any(|at| glob(rest, &text[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use futures_util::FutureExt;
    use skiff_base::SystemClock;

    use super::*;

    /// A Pod without an account.
    struct Nobody;

    #[async_trait::async_trait]
    impl Account for Nobody {
        async fn facts(&self) -> Result<Option<(AccountUsed, BTreeMap<String, String>)>, String> {
            Ok(None)
        }

        async fn token(&self, _: &str) -> Result<String, String> {
            Err("it has none".to_owned())
        }
    }

    #[test]
    fn patterns_speak_of_hosts_ports_and_paths() {
        for (pattern, image, expected) in [
            ("*.dkr.ecr.*.amazonaws.com", "1.dkr.ecr.eu.amazonaws.com/team/app", true),
            ("*.dkr.ecr.*.amazonaws.com", "dkr.ecr.eu.amazonaws.com/app", false),
            ("gcr.io", "gcr.io/a/b", true),
            ("*.io", "gcr.io/a", true),
            ("app*.io", "app7.io/a", true),
            ("registry.io:8080/path", "registry.io:8080/path/app", true),
            ("registry.io:8080/path", "registry.io/path/app", false),
            ("registry.io/other", "registry.io/path", false),
            ("https://registry.io/", "registry.io/x", true),
        ] {
            assert_eq!(matches(pattern, image), expected, "{pattern} {image}");
        }
    }

    #[test]
    fn configurations_that_make_no_sense_are_refused() {
        let config = |provider: &str| {
            parse(
                format!(
                    "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders: [{provider}]"
                )
                .as_bytes(),
            )
            .map(|all| all.len())
        };
        let good = "name: p, matchImages: ['*.io'], defaultCacheDuration: 12h, apiVersion: credentialprovider.kubelet.k8s.io/v1";
        assert_eq!(config(&format!("{{{good}}}")), Ok(1));
        let first = |provider: &str| config(provider).expect_err(provider);
        assert!(
            first(&format!("{{{}}}", good.replace("name: p", "name: ../p"))).contains("must be the name of a file")
        );
        assert!(first(&format!("{{{}}}", good.replace("io/v1", "io/v9"))).contains("is not credentialprovider"));
        let attributes = "{serviceAccountTokenAudience: r, cacheType: Token, requireServiceAccount: true}";
        assert_eq!(config(&format!("{{{good}, tokenAttributes: {attributes}}}")), Ok(1));
        let wrong = first(&format!("{{{good}, tokenAttributes: {{}}}}"));
        assert!(wrong.contains("providers.tokenAttributes.requireServiceAccount: Required value"), "{wrong}");
        assert!(parse(b"kind: Pod\napiVersion: v1\nproviders: []").is_err());
    }

    #[test]
    fn a_program_that_leaves_another_behind_is_not_waited_for() {
        let folder = std::env::temp_dir().join(format!("skiff-cred-{}", skiff_base::ids::Ids::random().suffix(8)));
        std::fs::create_dir_all(&folder).expect("a folder");
        let hold = folder.join("hold");
        std::fs::write(&hold, "").expect("a file");
        let text = "#!/bin/sh\nwhile [ -e \"$1\" ]; do sleep 0.05; done &\n";
        std::fs::write(folder.join("p"), text).expect("a program");
        std::fs::set_permissions(folder.join("p"), std::fs::Permissions::from_mode(0o755)).expect("its mode");
        let provider = format!(
            "{{name: p, matchImages: [r.example], defaultCacheDuration: 1h, apiVersion: {API}, args: [{}]}}",
            hold.display()
        );
        let answer = run(&serde_saphyr::from_str(&provider).expect("a provider"), &folder, b"{}");
        // With this the one that was left behind ends.
        std::fs::remove_dir_all(&folder).expect("it goes");
        assert_eq!(answer, Err("what it started holds its output open".to_owned()));
    }

    #[test]
    fn a_program_is_asked_once_as_long_as_its_answer_holds() {
        let folder = std::env::temp_dir().join(format!("skiff-cred-{}", skiff_base::ids::Ids::random().suffix(8)));
        std::fs::create_dir_all(&folder).expect("a folder");
        let program = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).expect("a program");
            std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755)).expect("its mode");
        };
        let answer = r#"{"kind": "CredentialProviderResponse", "apiVersion": "credentialprovider.kubelet.k8s.io/v1", "cacheKeyType": "Registry", "auth": {"*.example": {"username": "wide", "password": "w"}, "r.example/team": {"username": "near", "password": "n"}, "other.io": {"username": "no", "password": "n"}}}"#;
        program("good", &format!("#!/bin/sh\ncat >> $ASKED\necho >> $ASKED\necho '{answer}'\n"));
        program("bad", "#!/bin/sh\nexit 3\n");
        let asked = folder.join("asked");
        let one = |name: &str| {
            format!(
                "{{name: {name}, matchImages: [r.example], defaultCacheDuration: 1h, apiVersion: {API}, env: [{{name: ASKED, value: {}}}]}}",
                asked.display()
            )
        };
        let config = folder.join("config.yaml");
        let text = format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders: [{}, {}]",
            one("bad"),
            one("good")
        );
        std::fs::write(&config, text).expect("a configuration");
        let providers = Providers::read(&config, &folder, SystemClock::shared()).expect("it makes sense");
        let names = |image: &str| -> Vec<String> {
            let asked = providers.asked(image, &Nobody).now_or_never().expect("nothing is waited for");
            providers.credentials(image, &asked).into_iter().map(|login| login.auth.username).collect()
        };
        let told = [names("r.example/team/app"), names("r.example/else"), names("elsewhere.example/app")];
        let times = std::fs::read_to_string(&asked).expect("it was asked");
        let missing = Providers::read(&config, &folder.join("none"), SystemClock::shared()).err();
        std::fs::remove_dir_all(&folder).expect("it goes");
        assert_eq!(told, [vec!["near".to_owned(), "wide".to_owned()], vec!["wide".to_owned()], vec![]]);
        assert_eq!(
            times,
            "{\"kind\":\"CredentialProviderRequest\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"image\":\"r.example/team/app\"}\n"
        );
        assert!(missing.is_some_and(|error| error.contains("did not exist")));
    }
}
