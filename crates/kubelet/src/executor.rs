//! Carrying out the actions of the Pod state machine through the Container Runtime Interface and the API.
//! Every choice has been made already; what comes back is only how an action ended.

use std::collections::BTreeMap;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use parking_lot::{Mutex, RwLock};
use skiff_base::Timestamp;
use skiff_base::clock::SharedClock;
use skiff_base::ids::Ids;
use skiff_client::{Client, DeleteOptions, Recorder};
use skiff_cri::{
    ContainerStatsRequest, CreateContainerRequest, CriError, NamespaceMode, PodSandboxConfig, RemoveContainerRequest,
    RemovePodSandboxRequest, RunPodSandboxRequest, RuntimeService, StartContainerRequest, StopContainerRequest,
    StopPodSandboxRequest, UpdateContainerResourcesRequest,
};

use crate::assign::keeper::Parts;
use crate::cgroups::{self, Layout, Limits};
use crate::config::container::Ingredients;
use crate::config::resources::CPU_PERIOD;
use crate::config::security::ImageUser;
use crate::config::{self, NodeFacts, hosts, name, namespace, sandbox, uid};
use crate::credentials::Account;
use crate::csi::{self, Drivers, Trouble, Wanted};
use crate::devices::keeper::Devices;
use crate::images::{AccountUsed, Images, Login, Owner};
use crate::options::Options;
use crate::pod::spec;
use crate::pod::types::{Action, ContainerView, Ended, NOT_ATTACHED, ProbeKind, ProbeResult, RuntimeView};
use crate::sources::Sources;
use crate::volumes::{self, DEFAULT_EXPIRATION_SECONDS, Mounter, TokenSource, Tokens};
use crate::{hooks, probe, userns};

/// The least time that a container gets to end after its preStop hook has used up the grace period; upstream's number.
const MINIMUM_STOP_SECONDS: i64 = 2;
/// The largest file that variables come from; upstream's number.
const MAX_ENV_FILE_BYTES: u64 = 64 << 10;
/// How soon drivers that want it are asked for the same volume again.
const REPUBLISH: Duration = Duration::from_secs(60);
/// Tokens are renewed after this part of their life, in percent.
const TOKEN_REFRESH_PERCENT: i64 = 80;

/// What all Pods of the node share.
pub struct Node {
    /// The facts that configurations are made from.
    pub facts: RwLock<Arc<NodeFacts>>,
    /// Sandboxes and containers.
    pub runtime: Arc<dyn RuntimeService>,
    /// Images.
    pub images: Images,
    /// The API.
    pub client: Client,
    /// Events.
    pub recorder: Recorder,
    /// ConfigMaps, Secrets and Services.
    pub sources: Sources,
    /// Mounts.
    pub mounter: Arc<dyn Mounter>,
    /// The time.
    pub clock: SharedClock,
    /// Unique names.
    pub ids: Arc<Ids>,
    /// The runtime's name.
    pub runtime_name: RwLock<String>,
    /// The cgroups of Pods and above; `None` where they are not this agent's to make.
    pub cgroups: Option<Layout>,
    /// How the node is configured.
    pub options: Arc<Options>,
    /// The parts of the machine that containers get for themselves.
    pub parts: Parts,
    /// Ids of Pods that have users of their own.
    pub users: userns::Ranges,
    /// Devices of plugins.
    pub devices: Arc<Devices>,
    /// Storage drivers.
    pub drivers: Arc<Drivers>,
    /// How full volumes were when somebody asked last.
    pub volume_figures: crate::server::volumes::Known,
    /// How often probes have answered what.
    pub probed: Mutex<BTreeMap<ProbeKey, u64>>,
}

/// One probe's answers of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProbeKey {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    pub container: String,
    pub kind: &'static str,
    pub result: &'static str,
}

impl Node {
    /// The facts as they are now.
    pub fn facts(&self) -> Arc<NodeFacts> {
        self.facts.read().clone()
    }
}

/// One Pod, as its actions see it.
#[derive(Clone)]
pub struct Subject {
    /// The Pod.
    pub pod: Arc<Pod>,
    /// The runtime when the action was decided.
    pub view: Arc<RuntimeView>,
    /// The tokens in its volumes.
    pub tokens: Arc<Mutex<BTreeMap<TokenSource, HeldToken>>>,
}

/// A token, and when to ask for the next.
#[derive(Debug, Clone)]
pub struct HeldToken {
    token: String,
    /// Until when it is good, as the API writes it.
    expires: String,
    refresh_at: Timestamp,
}

fn failed(reason: &str, message: impl std::fmt::Display) -> Ended {
    Ended::Failed { reason: reason.to_owned(), message: message.to_string() }
}

fn well<T>(result: Result<T, CriError>) -> Ended {
    match result {
        Ok(_) => Ended::Well,
        Err(error) if error.is_not_found() => Ended::Well,
        Err(error) => failed("", error),
    }
}

/// Carries out one action.
pub async fn execute(node: &Node, subject: &Subject, action: &Action) -> Ended {
    let runtime = &node.runtime;
    match action {
        Action::SetUpVolumes => set_up_volumes(node, subject).await,
        Action::RunSandbox { attempt } => run_sandbox(node, subject, *attempt).await,
        Action::InspectImage { image, .. } => node.images.inspect(image, owners(node, subject, image)).await,
        Action::PullImage { name, image } => pull(node, subject, name, image).await,
        Action::StartContainer { name, attempt, sandbox_id, image_ref, volume_images, .. } => {
            match start(node, subject, name, *attempt, sandbox_id, (image_ref, volume_images)).await {
                Ok(id) => Ended::Started { id },
                Err((reason, message)) => failed(reason, message),
            }
        }
        Action::RunPostStart { name, id } => post_start(node, subject, name, id).await,
        Action::KillContainer { name, id, grace_seconds, pre_stop } => {
            kill(node, subject, name, id, *grace_seconds, *pre_stop).await
        }
        Action::StopSandbox { id } => {
            well(runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await)
        }
        Action::TearDownVolumes => tear_down(node, subject).await,
        Action::RemoveContainer { id, name, attempt } => remove_container(node, subject, id, name, *attempt).await,
        Action::RemoveSandbox { id } => remove_sandbox(node, subject, id).await,
        Action::DeletePod => delete(node, &subject.pod).await,
        Action::CleanUp => clean_up(node, subject).await,
        Action::Resize { containers } => resize(node, subject, containers).await,
        Action::Probe { name, id, probe, ip } => {
            let (result, message) = probe::run(node, &subject.pod, name, id, *probe, ip).await;
            count_probe(node, &subject.pod, name, *probe, result);
            Ended::Probed { result, message }
        }
    }
}

fn count_probe(node: &Node, pod: &Pod, container: &str, kind: ProbeKind, result: ProbeResult) {
    let key = ProbeKey {
        namespace: namespace(pod).to_owned(),
        pod: name(pod).to_owned(),
        uid: uid(pod).to_owned(),
        container: container.to_owned(),
        kind: kind.title(),
        result: match result {
            ProbeResult::Success => "successful",
            ProbeResult::Failure => "failed",
            ProbeResult::Unknown => "unknown",
        },
    };
    *node.probed.lock().entry(key).or_default() += 1;
}

async fn run_sandbox(node: &Node, subject: &Subject, attempt: u32) -> Ended {
    let facts = node.facts();
    let config = match sandbox_config(node, &subject.pod, attempt, &facts) {
        Ok(config) => config,
        Err(error) => return failed("", error),
    };
    if let Err(error) = hosts::check(&subject.pod, &facts.cluster_domain) {
        return failed("", error);
    }
    if let Err(error) = std::fs::create_dir_all(&config.log_directory) {
        return failed("", format!("cannot make {}: {error}", config.log_directory));
    }
    if let Err(error) = limit_pod(node, &subject.pod, &facts) {
        return failed("", error);
    }
    let runtime_handler = match handler(node, &subject.pod).await {
        Ok(handler) => handler,
        Err(error) => return failed("", error),
    };
    let request = RunPodSandboxRequest { config: Some(config), runtime_handler };
    match node.runtime.run_pod_sandbox(request).await {
        Ok(_) => Ended::Well,
        Err(error) => failed("", error),
    }
}

/// The sandbox of one attempt, with users of its own where the Pod wants them.
fn sandbox_config(node: &Node, pod: &Pod, attempt: u32, facts: &NodeFacts) -> Result<PodSandboxConfig, String> {
    let mut config = sandbox::config(pod, attempt, facts);
    if let Some(base) = node.users.of(pod, &facts.paths)? {
        userns::sandbox(&mut config, base);
    }
    Ok(config)
}

/// Makes the Pod's cgroup and sets its limits.
fn limit_pod(node: &Node, pod: &Pod, facts: &NodeFacts) -> Result<(), String> {
    let Some(layout) = &node.cgroups else { return Ok(()) };
    let limits = cgroups::pod(pod, facts);
    layout.apply(&sandbox::cgroup(pod, facts), &limits).map_err(|error| format!("pod cgroup: {error}"))
}

/// The runtime's handler that the Pod's RuntimeClass names; empty for the default one.
async fn handler(node: &Node, pod: &Pod) -> Result<String, String> {
    match spec::spec(pod).runtime_class_name.as_deref() {
        None | Some("") => Ok(String::new()),
        Some(class) => match node.client.get::<RuntimeClass>("", class).await {
            Ok(found) => Ok(found.handler),
            Err(error) if error.is_not_found() => Err(format!("runtimeclass.node.k8s.io {class:?} not found")),
            Err(error) => Err(format!("failed to lookup RuntimeClass {class}: {error}")),
        },
    }
}

/// The credentials in the Pod's pull secrets.
async fn secret_credentials(node: &Node, subject: &Subject, image: &str) -> Vec<Login> {
    let secrets = spec::spec(&subject.pod).image_pull_secrets.clone().unwrap_or_default();
    let names: Vec<_> = secrets.into_iter().map(|secret| secret.name).collect();
    crate::images::credentials(&node.client, namespace(&subject.pod), &names, image).await
}

/// What the Pod has that an image may have been pulled with.
async fn owners(node: &Node, subject: &Subject, image: &str) -> Vec<Owner> {
    let secrets = secret_credentials(node, subject, image).await;
    let mut owners: Vec<Owner> = secrets.into_iter().map(|login| login.owner).collect();
    match (PodAccount { node, subject }).facts().await {
        Ok(account) => owners.extend(account.map(|(account, _)| Owner::Account(account))),
        Err(error) => tracing::warn!(image, error, "the account of a pod is not known"),
    }
    owners
}

async fn pull(node: &Node, subject: &Subject, name: &str, image: &str) -> Ended {
    let config = sandbox::config(&subject.pod, 0, &node.facts());
    let mut credentials = secret_credentials(node, subject, image).await;
    credentials.extend(node.images.own_credentials(image, &PodAccount { node, subject }).await);
    let tell = |words: String| {
        let mut about = skiff_client::events::reference(&*subject.pod);
        let containers = spec::containers(&subject.pod);
        about.field_path =
            containers.iter().find(|container| container.name() == name).map(|container| container.field_path());
        node.recorder.record(&about, false, "Pulling", words);
    };
    node.images.pull(image, credentials, config, &node.clock, &tell).await
}

/// The service account of a Pod, for programs that give credentials.
struct PodAccount<'a> {
    node: &'a Node,
    subject: &'a Subject,
}

#[async_trait::async_trait]
impl Account for PodAccount<'_> {
    async fn facts(&self) -> Result<Option<(AccountUsed, BTreeMap<String, String>)>, String> {
        let pod = &self.subject.pod;
        let Some(name) = spec::spec(pod).service_account_name.as_deref().filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let found = self.node.client.get::<ServiceAccount>(namespace(pod), name).await;
        let metadata = found.map_err(|error| error.to_string())?.metadata;
        let who = AccountUsed {
            uid: metadata.uid.unwrap_or_default(),
            namespace: namespace(pod).to_owned(),
            name: name.to_owned(),
        };
        Ok(Some((who, metadata.annotations.unwrap_or_default())))
    }

    async fn token(&self, audience: &str) -> Result<String, String> {
        let source = TokenSource { audience: audience.to_owned(), expiration_seconds: DEFAULT_EXPIRATION_SECONDS };
        held_token(self.node, self.subject, &source).await.map(|held| held.token)
    }
}

async fn set_up_volumes(node: &Node, subject: &Subject) -> Ended {
    let pod = subject.pod.clone();
    let objects = match node.sources.of(&pod).await {
        Ok(objects) => objects,
        Err(error) => return failed("", error),
    };
    let (tokens, refresh_at) = match tokens(node, subject).await {
        Ok(tokens) => tokens,
        Err(error) => return failed("", error),
    };
    let drivers = match volumes::of_drivers(&pod, &objects) {
        Ok(wanted) => wanted,
        Err(error) => return failed("", error),
    };
    let (facts, mounter) = (node.facts(), node.mounter.clone());
    let version = format!("{}.{}", node.clock.now().strftime("%Y_%m_%d_%H_%M_%S"), node.ids.suffix(9));
    let work = move || volumes::set_up(&pod, &objects, &tokens, &facts, &*mounter, &version);
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => match publish(node, subject, &drivers).await {
            Ok(again_at) => Ended::VolumesReady { refresh_at: refresh_at.into_iter().chain(again_at).min() },
            Err(Trouble::Waits(why)) => failed(NOT_ATTACHED, why),
            Err(Trouble::Failed(why)) => failed("", why),
        },
        Ok(Err(message)) => failed("", message),
        Err(error) => failed("", error),
    }
}

/// Has storage drivers mount their volumes; when they want to be asked again.
async fn publish(node: &Node, subject: &Subject, wanted: &[Wanted]) -> Result<Option<Timestamp>, Trouble> {
    let (pod, mut again_at) = (&subject.pod, None);
    for volume in wanted {
        let named = |error: String| format!("MountVolume.SetUp failed for volume {:?} : {error}", volume.name);
        let about = csi::about(&node.client, &volume.driver).await.map_err(named)?;
        let mut tokens = BTreeMap::new();
        for source in csi::token_requests(&about) {
            let held = held_token(node, subject, &source).await.map_err(named)?;
            tokens.insert(source, (held.token, held.expires));
        }
        let tokens = csi::tokens_text(&tokens);
        let facts = node.facts();
        let asks = csi::Subject { pod, node: &facts.name, tokens: tokens.as_deref() };
        let published = node.drivers.publish(&node.client, &asks, volume, &about).await?;
        if let Some(grown) = published.grown {
            tell_growth(node, pod, volume, &grown)?;
        }
        if published.again {
            again_at = Some(node.clock.now() + REPUBLISH);
        }
    }
    Ok(again_at)
}

/// Tells of a volume that was to grow. A failure keeps the Pod from starting with less than it has been promised.
fn tell_growth(node: &Node, pod: &Pod, volume: &Wanted, grown: &csi::Grown) -> Result<(), Trouble> {
    let (warning, reason, message) = match &grown.refused {
        None => (
            false,
            "FileSystemResizeSuccessful",
            format!("MountVolume.NodeExpandVolume succeeded for volume {:?} ", volume.name),
        ),
        Some(why) => (true, "FileSystemResizeFailed", format!("MountVolume.{why}")),
    };
    let about = skiff_client::events::reference(pod);
    let claim = volume.growth.as_ref().map(|growth| skiff_client::events::reference(&*growth.claim));
    for object in [about].into_iter().chain(claim) {
        node.recorder.record(&object, warning, reason, message.clone());
    }
    if warning && !grown.in_vain { Err(Trouble::Failed(message)) } else { Ok(()) }
}

/// The tokens of the Pod's volumes, asked for where there is none or it is old; and when the next must be asked for.
async fn tokens(node: &Node, subject: &Subject) -> Result<(Tokens, Option<Timestamp>), String> {
    let pod = &subject.pod;
    let mut tokens = Tokens::new();
    let mut refresh_at: Option<Timestamp> = None;
    for source in volumes::token_sources(pod) {
        let held = held_token(node, subject, &source).await.map_err(|error| {
            let volumes = spec::spec(pod).volumes.iter().flatten();
            let volume = volumes.into_iter().find(|volume| volume.projected.is_some());
            let volume = volume.map_or("", |volume| volume.name.as_str());
            format!("MountVolume.SetUp failed for volume {volume:?} : failed to fetch token: {error}")
        })?;
        refresh_at = Some(refresh_at.map_or(held.refresh_at, |earlier| earlier.min(held.refresh_at)));
        tokens.insert(source, held.token);
    }
    Ok((tokens, refresh_at))
}

/// A token of the Pod's service account: the one that it has, or another where that is old.
async fn held_token(node: &Node, subject: &Subject, source: &TokenSource) -> Result<HeldToken, String> {
    let now = node.clock.now();
    let held = subject.tokens.lock().get(source).filter(|held| held.refresh_at > now).cloned();
    if let Some(held) = held {
        return Ok(held);
    }
    let held = request_token(node, &subject.pod, source).await?;
    subject.tokens.lock().insert(source.clone(), held.clone());
    Ok(held)
}

async fn request_token(node: &Node, pod: &Pod, source: &TokenSource) -> Result<HeldToken, String> {
    let account = spec::spec(pod).service_account_name.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let audience = Some(source.audience.clone()).filter(|audience| !audience.is_empty());
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(audience.into_iter().collect()),
            expiration_seconds: Some(source.expiration_seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(name(pod).to_owned()),
                uid: Some(uid(pod).to_owned()),
            }),
        }),
        ..TokenRequest::default()
    };
    let path = format!("/api/v1/namespaces/{}/serviceaccounts/{account}/token", namespace(pod));
    let answer: TokenRequest =
        node.client.send_json(http::Method::POST, &path, &request).await.map_err(|error| error.to_string())?;
    let status = answer.status.ok_or("the API server answered without a token")?;
    let now = node.clock.now();
    let expires =
        status.expiration_timestamp.map_or(source.expiration_seconds, |at| at.0.as_second() - now.as_second());
    let life = expires.max(1);
    let wait = Duration::from_secs(u64::try_from(life * TOKEN_REFRESH_PERCENT / 100).unwrap_or(1));
    let until =
        (now + Duration::from_secs(u64::try_from(life).unwrap_or(1))).strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Ok(HeldToken { token: status.token.unwrap_or_default(), expires: until, refresh_at: now + wait })
}

type StartError = (&'static str, String);

async fn start(
    node: &Node,
    subject: &Subject,
    container: &str,
    attempt: u32,
    sandbox_id: &str,
    (image_ref, volume_images): (&str, &BTreeMap<String, String>),
) -> Result<String, StartError> {
    let (pod, facts) = (&subject.pod, node.facts());
    let config_error = |error: String| ("CreateContainerConfigError", error);
    let spec = spec::container(pod, container).ok_or_else(|| config_error(format!("no container {container}")))?;
    let ips = pod_ips(subject, &facts);
    let objects = node.sources.of(pod).await.map_err(config_error)?;
    check_user(node, subject, &spec).await.map_err(config_error)?;
    let locations = volumes::locations(pod, &facts.paths, &objects);
    let objects = config::Objects { files: env_files(&spec, &locations), ..objects };
    let from = Ingredients { attempt, image_ref, ips: &ips, objects: &objects, volumes: &locations, volume_images };
    let mut config = config::container::config(pod, &spec, &from, &facts).map_err(|error| config_error(error.0))?;
    let known = config.envs.iter().map(|env| (env.key.clone(), env.value.clone())).collect();
    let sub_paths = prepare_sub_paths(node, pod, &spec, known, &objects).await.map_err(config_error)?;
    for (index, path) in sub_paths {
        config.mounts[index].host_path = path.to_string_lossy().into_owned();
    }
    prepare_files(subject, &spec, attempt, &ips, &facts).map_err(|error| config_error(error.to_string()))?;
    resolve_target(&mut config, subject);
    if let Some(base) = node.users.of(pod, &facts.paths).map_err(config_error)? {
        userns::container(&mut config, base, spec.container.volume_mounts.as_ref().map_or(0, Vec::len));
    }
    node.devices.equip(uid(pod), container, &mut config).await.map_err(config_error)?;
    if let Some(linux) = config.linux.as_mut().and_then(|linux| linux.resources.as_mut()) {
        node.parts.pin(pod, container, linux);
    }
    let sandbox_attempt = subject.view.sandboxes.iter().find(|sandbox| sandbox.id == sandbox_id);
    let request = CreateContainerRequest {
        pod_sandbox_id: sandbox_id.to_owned(),
        config: Some(config),
        sandbox_config: Some(
            sandbox_config(node, pod, sandbox_attempt.map_or(0, |sandbox| sandbox.attempt), &facts)
                .map_err(config_error)?,
        ),
    };
    let created = node.runtime.create_container(request).await;
    let id = created.map_err(|error| ("CreateContainerError", error.message))?.container_id;
    let request = StartContainerRequest { container_id: id.clone() };
    node.runtime.start_container(request).await.map_err(|error| ("RunContainerError", error.message))?;
    link_log(subject, container, attempt, &id, &facts);
    Ok(id)
}

/// Puts the parts of volumes that a container mounts where they cannot be exchanged for something else; blocking work, done aside.
async fn prepare_sub_paths(
    node: &Node,
    pod: &Arc<Pod>,
    spec: &spec::Spec<'_>,
    variables: BTreeMap<String, String>,
    objects: &config::Objects,
) -> Result<Vec<(usize, std::path::PathBuf)>, String> {
    if !spec
        .container
        .volume_mounts
        .iter()
        .flatten()
        .any(|mount| mount.sub_path.is_some() || mount.sub_path_expr.is_some())
    {
        return Ok(vec![]);
    }
    let (pod, container, objects) = (pod.clone(), spec.container.clone().into_owned(), objects.clone());
    let (facts, mounter) = (node.facts(), node.mounter.clone());
    let work = move || volumes::prepare_sub_paths(&pod, &container, &variables, &objects, &facts, &*mounter);
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

/// The Pod's addresses, as the container's environment and hosts file name them.
fn pod_ips(subject: &Subject, facts: &NodeFacts) -> Vec<String> {
    if spec::host_network(&subject.pod) {
        return facts.ips.clone();
    }
    subject.view.ready_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
}

/// The files that variables of the container come from, as far as they are there.
fn env_files(
    spec: &spec::Spec<'_>,
    volumes: &BTreeMap<String, std::path::PathBuf>,
) -> BTreeMap<(String, String), String> {
    let sources = spec.container.env.iter().flatten().filter_map(|env| env.value_from.as_ref()?.file_key_ref.as_ref());
    let files = sources.filter_map(|source| {
        let root = std::fs::canonicalize(volumes.get(&source.volume_name)?).ok()?;
        // Links in the volume are the Pod's own to make: they must not lead out of it.
        let path = std::fs::canonicalize(root.join(&source.path)).ok().filter(|path| path.starts_with(&root))?;
        let small = std::fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_ENV_FILE_BYTES);
        let text = small.then(|| std::fs::read_to_string(&path).ok()).flatten()?;
        Some(((source.volume_name.clone(), source.path.clone()), text))
    });
    files.collect()
}

async fn check_user(node: &Node, subject: &Subject, spec: &spec::Spec<'_>) -> Result<(), String> {
    let context = spec::spec(&subject.pod).security_context.as_ref();
    let own = spec.container.security_context.as_ref();
    if own.and_then(|own| own.run_as_non_root).or(context.and_then(|c| c.run_as_non_root)) != Some(true) {
        return Ok(());
    }
    let user: ImageUser = node.images.user(spec.image()).await?;
    config::security::verify_non_root(&subject.pod, spec, &user)
}

/// The files that a container gets from the agent itself.
fn prepare_files(
    subject: &Subject,
    spec: &spec::Spec<'_>,
    attempt: u32,
    ips: &[String],
    facts: &NodeFacts,
) -> std::io::Result<()> {
    let pod = &subject.pod;
    let hosts = facts.paths.hosts(uid(pod));
    let text = hosts::file(pod, ips, facts);
    if std::fs::read(&hosts).ok().as_deref() != Some(text.as_bytes()) {
        std::fs::create_dir_all(facts.paths.pod(uid(pod)))?;
        std::fs::write(&hosts, text)?;
        std::fs::set_permissions(&hosts, std::fs::Permissions::from_mode(0o644))?;
    }
    let message = facts.paths.termination_log(uid(pod), spec.name(), attempt);
    if let Some(folder) = message.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&message, [])?;
    // Whoever the container runs as may leave its message.
    std::fs::set_permissions(&message, std::fs::Permissions::from_mode(0o666))?;
    if let Some(folder) = facts.paths.container_log(pod, spec.name(), attempt).parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(())
}

/// Puts the id of a debug container's target in the place of its name.
fn resolve_target(config: &mut skiff_cri::ContainerConfig, subject: &Subject) {
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    let Some(options) = context.and_then(|context| context.namespace_options.as_mut()) else { return };
    if options.pid == NamespaceMode::Target as i32 {
        match subject.view.latest(&options.target_id) {
            Some(target) => options.target_id = target.id.clone(),
            None => {
                options.pid = NamespaceMode::Container as i32;
                options.target_id.clear();
            }
        }
    }
}

/// A link by which log collectors find the log; without it the container runs all the same.
fn link_log(subject: &Subject, container: &str, attempt: u32, id: &str, facts: &NodeFacts) {
    let pod = &subject.pod;
    let link = facts.paths.log_link(namespace(pod), name(pod), container, id);
    let made = link.parent().map_or(Ok(()), std::fs::create_dir_all);
    let linked = made.and_then(|()| symlink(facts.paths.container_log(pod, container, attempt), &link));
    if let Err(error) = linked {
        tracing::warn!(link = %link.display(), %error, "cannot link a container's log");
    }
}

/// Changes the limits of running containers to what the Pod has been allocated.
async fn resize(node: &Node, subject: &Subject, containers: &[(String, String)]) -> Ended {
    let facts = node.facts();
    // The Pod's own limits give way first: those of its containers may grow beyond them.
    if let Some(layout) = &node.cgroups {
        let open = Limits { memory: Some(-1), cpu_quota: Some((-1, CPU_PERIOD)), ..Limits::default() };
        if let Err(error) = layout.apply(&sandbox::cgroup(&subject.pod, &facts), &open) {
            return failed("", format!("pod cgroup: {error}"));
        }
    }
    let ended = resize_containers(node, subject, containers, &facts).await;
    match limit_pod(node, &subject.pod, &facts) {
        Err(error) if ended == Ended::Well => failed("", error),
        _ => ended,
    }
}

async fn resize_containers(
    node: &Node,
    subject: &Subject,
    containers: &[(String, String)],
    facts: &NodeFacts,
) -> Ended {
    for (name, id) in containers {
        let Some(spec) = spec::container(&subject.pod, name) else { continue };
        let mut linux = config::resources::container(&subject.pod, &spec.container, facts);
        node.parts.pin(&subject.pod, name, &mut linux);
        if let Err(error) = check_memory(node, id, linux.memory_limit_in_bytes).await {
            return failed("", error);
        }
        let request = UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(linux),
            ..UpdateContainerResourcesRequest::default()
        };
        if let Err(error) = node.runtime.update_container_resources(request).await {
            return failed("", format!("resizing container {name}: {error}"));
        }
    }
    Ended::Well
}

/// A limit below what the container uses would have it killed, not resized.
async fn check_memory(node: &Node, id: &str, limit_bytes: i64) -> Result<(), String> {
    let limit = u64::try_from(limit_bytes).unwrap_or(0);
    if limit == 0 {
        return Ok(());
    }
    let request = ContainerStatsRequest { container_id: id.to_owned() };
    let stats = node.runtime.container_stats(request).await.ok().and_then(|response| response.stats);
    let used = stats.and_then(|stats| stats.memory?.working_set_bytes).map_or(0, |bytes| bytes.value);
    if used > limit {
        return Err(format!("attempting to set container memory limit ({limit}) below current usage ({used})"));
    }
    Ok(())
}

async fn post_start(node: &Node, subject: &Subject, name: &str, id: &str) -> Ended {
    let Some(spec) = spec::container(&subject.pod, name) else { return Ended::Well };
    let Some(handler) = spec.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
        return Ended::Well;
    };
    let ip = pod_ips(subject, &node.facts()).into_iter().next().unwrap_or_default();
    match hooks::run(node, &spec.container, handler, id, &ip, None).await {
        Ok(()) => Ended::Well,
        Err(error) => failed("PostStartHookError", error),
    }
}

async fn kill(node: &Node, subject: &Subject, name: &str, id: &str, grace_seconds: i64, pre_stop: bool) -> Ended {
    let began = node.clock.monotonic();
    let spec = spec::container(&subject.pod, name);
    let lifecycle = spec.as_ref().and_then(|spec| spec.container.lifecycle.as_ref());
    let mut hook_failed = false;
    if pre_stop
        && grace_seconds > 0
        && let (Some(spec), Some(handler)) = (&spec, lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref()))
    {
        let ip = pod_ips(subject, &node.facts()).into_iter().next().unwrap_or_default();
        let limit = Duration::from_secs(u64::try_from(grace_seconds).unwrap_or(0));
        hook_failed = hooks::run(node, &spec.container, handler, id, &ip, Some(limit)).await.is_err();
    }
    let used = i64::try_from((node.clock.monotonic() - began).as_secs()).unwrap_or(i64::MAX);
    let timeout = if used == 0 { grace_seconds } else { (grace_seconds - used).max(MINIMUM_STOP_SECONDS) };
    let stopped = node.runtime.stop_container(StopContainerRequest { container_id: id.to_owned(), timeout }).await;
    match well(stopped) {
        Ended::Well if hook_failed => failed("FailedPreStopHook", ""),
        ended => ended,
    }
}

async fn tear_down(node: &Node, subject: &Subject) -> Ended {
    let folder = node.facts().paths.pod(uid(&subject.pod));
    if let Err(error) = node.drivers.unpublish_all(uid(&subject.pod)).await {
        return failed("", error);
    }
    let mounter = node.mounter.clone();
    off_thread(move || volumes::tear_down(&folder, &*mounter)).await
}

async fn remove_container(node: &Node, subject: &Subject, id: &str, container: &str, attempt: u32) -> Ended {
    let removed = node.runtime.remove_container(RemoveContainerRequest { container_id: id.to_owned() }).await;
    let ended = well(removed);
    if ended != Ended::Well {
        return ended;
    }
    let (paths, pod) = (node.facts().paths.clone(), &subject.pod);
    let link = paths.log_link(namespace(pod), name(pod), container, id);
    let log = paths.container_log(pod, container, attempt);
    let message = paths.termination_log(uid(pod), container, attempt);
    off_thread(move || {
        remove_file(&link);
        if let Err(error) = crate::rotate::remove(&log) {
            tracing::warn!(log = %log.display(), %error, "cannot remove a log");
        }
        remove_file(&message);
        Ok::<_, std::convert::Infallible>(())
    })
    .await
}

/// Carries out what waits for the disk or the kernel, on a thread that nobody else waits for.
async fn off_thread<E: std::fmt::Display + Send + 'static>(
    work: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> Ended {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(())) => Ended::Well,
        Ok(Err(error)) => failed("", error),
        Err(error) => failed("", error),
    }
}

async fn remove_sandbox(node: &Node, subject: &Subject, id: &str) -> Ended {
    let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
    let ended = well(node.runtime.remove_pod_sandbox(request).await);
    if ended != Ended::Well {
        return ended;
    }
    let (facts, pod) = (node.facts(), &subject.pod);
    let inside = subject.view.containers.iter().filter(|container| container.sandbox_id == id);
    let link =
        |container: &ContainerView| facts.paths.log_link(namespace(pod), name(pod), &container.name, &container.id);
    let links: Vec<_> = inside.map(link).collect();
    off_thread(move || {
        links.iter().for_each(|link| remove_file(link));
        Ok::<_, std::convert::Infallible>(())
    })
    .await
}

fn remove_file(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "cannot remove a file");
    }
}

async fn delete(node: &Node, pod: &Pod) -> Ended {
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(uid(pod)) };
    match node.client.delete::<Pod>(namespace(pod), name(pod), &options).await {
        Ok(()) => Ended::Well,
        // Gone, or another Pod of that name has come in its place.
        Err(error) if error.is_not_found() || error.is_conflict() => Ended::Well,
        Err(error) => failed("", error),
    }
}

async fn clean_up(node: &Node, subject: &Subject) -> Ended {
    let (facts, pod, cgroups) = (node.facts(), subject.pod.clone(), node.cgroups.clone());
    let mounter = node.mounter.clone();
    node.sources.forget(uid(&pod));
    node.users.release(uid(&pod));
    node.probed.lock().retain(|key, _| key.uid != uid(&pod));
    let work = move || {
        if let Some(layout) = &cgroups {
            layout.remove(&sandbox::cgroup(&pod, &facts), &|pid| mounter.end_process(pid));
        }
        let logs = facts.paths.pod_logs(namespace(&pod), name(&pod), uid(&pod));
        unlink_logs(&facts.paths.logs.join("containers"), name(&pod), &logs)?;
        let folders = [facts.paths.pod(uid(&pod)), logs];
        folders.iter().try_for_each(|folder| match std::fs::remove_dir_all(folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        })
    };
    off_thread(work).await
}

/// Removes the links into a Pod's folder of logs that are left, for containers that the runtime lost before the agent did.
/// Their names begin with the Pod's, where that is known still: other links need not be read.
fn unlink_logs(links: &Path, pod: &str, logs: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(links) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(pod.as_bytes()) {
            continue;
        }
        let path = entry.path();
        if std::fs::read_link(&path).is_ok_and(|target| target.starts_with(logs)) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}
