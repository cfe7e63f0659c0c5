//! An agent: a node of a cluster whose servers are other machines.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use skiff_apiserver::authorities::{ClientAuthorities, ServerAuthorities};
use skiff_client::{Client, HttpsTransport, Informers, Servers};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use super::certificates::{Kept, Wanted};
use super::token::Token;
use super::trust::Pinned;
use crate::answers::{NodeControl, wait_for_end};
use crate::certificates::{CHECK, Certificates};
use crate::commands::CommandError;
use crate::control;
use crate::images::NodeImages;
use crate::machine::{Ending, Machine};
use crate::paths::{Join, named, write_atomically};
use crate::pki;
use crate::ranges::Ranges;
use crate::worker::{Ways, Worker, ensure_pod_range};

/// The name that every API server's certificate has, wherever it stands.
const SERVER_NAME: &str = "kubernetes";
/// Where the cluster tells whom to believe; it is the same in every namespace.
const AUTHORITIES: &str = "/api/v1/namespaces/kube-system/configmaps/kube-root-ca.crt";
/// How often a server is tried that cannot be reached yet, and how often that is told.
const TRY_AGAIN: Duration = Duration::from_millis(250);
const TELL_EACH: u32 = 40;

/// Runs the agent until it is told to end.
///
/// # Errors
/// The cluster does not take the node, or a part does not start; the error says which and why.
pub async fn run(mut machine: Machine) -> Result<Ending, CommandError> {
    let join = machine.facts.join.clone().ok_or("this node belongs to no cluster; start it with skiff agent")?;
    let servers = Servers::new(join.servers.clone());
    let certificate = kept(&machine, "kubelet-client.pem", Wanted::Client);
    admit(&machine, &join, &servers, &certificate).await?;
    let connect = |authorities: &Arc<ServerAuthorities>, agent: &str| -> Result<Client, CommandError> {
        let tls = authorities.client_tls(certificate.current.clone())?;
        let transport = HttpsTransport::balanced(servers.clone(), SERVER_NAME, tls, None)?;
        Ok(Client::new(Arc::new(transport), agent))
    };
    let file = authorities_file(&machine);
    // The cluster may have got another authority while this node was away.
    let known = ServerAuthorities::new(&read_authorities(&file)?)?;
    if let Err(error) = learn_authorities(&file, &connect(&known, "kubelet")?).await {
        tracing::info!(%error, "the cluster does not tell its authorities yet");
    }
    let authorities = read_authorities(&file)?;
    known.replace(&authorities)?;
    let client = |agent: &str| connect(&known, agent);
    let node = client("kubelet")?;
    let mut patience = Patience::default();
    if machine.facts.ranges.is_none() && machine.facts.pod_range.is_some() {
        // It was set up before there was a choice.
        machine.settle(Ranges::default()).await?;
    }
    while machine.facts.ranges.is_none() {
        match Ranges::learn(&node).await {
            Ok(ranges) => machine.settle(ranges).await?,
            Err(error) => patience.with(error).await?,
        }
    }
    while let Err(error) = ensure_pod_range(&mut machine, &node, None).await {
        patience.with(error).await?;
    }
    let informers = Informers::new(client("skiff-agent")?);
    let serving = kept(&machine, "kubelet-serving.pem", Wanted::Serving(machine.addresses.clone()));
    serving.load()?;
    let (own, served) = (certificate.current.clone(), serving.current.clone());
    let looks = [certificate.looks.clone(), serving.looks.clone()];
    let mut tasks = JoinSet::new();
    tasks.spawn(certificate.clone().keep(node.clone()));
    let ways =
        Ways { node: node.clone(), provisioner: client("local-path-provisioner")?, informers: informers.clone() };
    let clients = ClientAuthorities::new(&authorities, "")?;
    let worker = Worker::start(&machine, ways, Arc::new(clients.server_tls(serving.current.clone())?)).await?;
    // The node has told its addresses by now, which the certificate is approved by.
    tasks.spawn(serving.keep(node.clone()));
    let certificates = Certificates::new(machine.clock.clone());
    let trust = Trust { servers: known.clone(), clients, told: certificates.clone() };
    let follower = Arc::new(Follower { file: authorities_file(&machine), client: node, trust, looks });
    tasks.spawn(follower.clone().follow());
    certificates.tell_of("kubelet-client", own);
    certificates.tell_of("kubelet-serving", served);
    certificates.tell_of_authority("ca", &pki::all(&authorities)?);
    let stop = watch::Sender::new(false);
    let command = Arc::new(NodeControl {
        node: informers.of::<Node>(),
        node_name: machine.facts.node_name.clone(),
        api: format!("https://{}", servers.list().first().cloned().unwrap_or_default()),
        ranges: machine.facts.ranges(),
        end: stop.clone(),
        images: Some(NodeImages::of(&worker.runtime)),
        containers_too: Mutex::new(false),
        savable: None,
        certificates,
        foundations: None,
        follower: Some(follower),
    });
    tracing::info!(node = %machine.facts.node_name, address = %machine.address, "the agent is up");
    control::serve(&machine.paths.control_socket(), command.clone())?;
    tasks.spawn(follow_servers(machine.clone(), informers, servers));
    let ending = wait_for_end(&stop, &machine).await?;
    let containers_too = *command.containers_too.lock();
    worker.end(containers_too).await?;
    Ok(ending)
}

fn kept(machine: &Machine, file: &str, wanted: Wanted) -> Kept {
    Kept {
        file: machine.paths.pki().join(file),
        node_name: machine.facts.node_name.clone(),
        wanted,
        authorities: authorities_file(machine),
        current: Arc::default(),
        clock: machine.clock.clone(),
        looks: Arc::default(),
    }
}

/// Waits and tries again where nobody answers; a refusal ends it.
#[derive(Default)]
struct Patience(u32);

impl Patience {
    async fn with(&mut self, error: CommandError) -> Result<(), CommandError> {
        let is_silence = matches!(error.downcast_ref(), Some(skiff_client::Error::Transport(_)));
        if !is_silence {
            return Err(error);
        }
        if self.0.is_multiple_of(TELL_EACH) {
            tracing::warn!(%error, "waiting for a server of the cluster");
        }
        self.0 += 1;
        tokio::time::sleep(TRY_AGAIN).await;
        Ok(())
    }
}

fn authorities_file(machine: &Machine) -> PathBuf {
    machine.paths.pki().join("ca.crt")
}

/// Those who go by the cluster's authority.
struct Trust {
    servers: Arc<ServerAuthorities>,
    clients: Arc<ClientAuthorities>,
    told: Arc<Certificates>,
}

impl Trust {
    fn replace(&self, pem: &str) -> Result<(), CommandError> {
        self.servers.replace(pem)?;
        self.clients.replace(pem)?;
        self.told.tell_of_authority("ca", &pki::all(pem)?);
        Ok(())
    }
}

/// Learns whom the cluster believes, and does so too.
pub struct Follower {
    file: PathBuf,
    client: Client,
    trust: Trust,
    /// The node's certificates, which are to be of the authority that signs now.
    looks: [Arc<Notify>; 2],
}

impl Follower {
    /// Asks the cluster; says whether it told something new.
    ///
    /// # Errors
    /// The cluster does not answer, or what it tells cannot be kept.
    pub async fn look(&self) -> Result<bool, CommandError> {
        let is_new = learn_authorities(&self.file, &self.client).await?;
        if is_new {
            self.trust.replace(&read_authorities(&self.file)?)?;
            tracing::info!("the cluster has told of other authorities");
            self.looks.iter().for_each(|looks| looks.notify_one());
        }
        Ok(is_new)
    }

    /// Asks again and again, for as long as it is polled.
    async fn follow(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CHECK).await;
            if let Err(error) = self.look().await {
                tracing::debug!(%error, "the cluster does not tell its authorities");
            }
        }
    }
}

/// Keeps what the cluster tells; says whether it was something new.
async fn learn_authorities(file: &Path, client: &Client) -> Result<bool, CommandError> {
    let told: ConfigMap = client.get_path(AUTHORITIES).await?;
    let data = told.data.unwrap_or_default();
    let pem = data.get("ca.crt").ok_or("kube-root-ca.crt is empty")?;
    pki::all(pem)?;
    if std::fs::read_to_string(file).is_ok_and(|known| known == *pem) {
        return Ok(false);
    }
    write_atomically(file, pem.as_bytes(), 0o644)?;
    Ok(true)
}

/// The cluster's authorities in PEM.
fn read_authorities(file: &Path) -> Result<String, CommandError> {
    let pem = std::fs::read_to_string(file).map_err(|error| named(file, "read", error))?;
    pki::all(&pem).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(pem)
}

/// Gets the node a certificate of the cluster and the cluster's authorities, unless it has them.
async fn admit(machine: &Machine, join: &Join, servers: &Arc<Servers>, certificate: &Kept) -> Result<(), CommandError> {
    let file = authorities_file(machine);
    if file.exists() && certificate.load()? {
        return Ok(());
    }
    let token = join.token.as_deref().ok_or("the node has no certificate yet: it needs a --token to get one")?;
    let token: Token = token.parse()?;
    let pinned = Pinned::new(token.authority);
    let tls = rustls::ClientConfig::builder()
        .dangerous()
        .with_custom_certificate_verifier(pinned.clone())
        .with_no_client_auth();
    let transport = HttpsTransport::balanced(servers.clone(), SERVER_NAME, tls, Some(&token.bearer()))?;
    let client = Client::new(Arc::new(transport), "kubelet");
    let mut patience = Patience::default();
    while let Err(error) = certificate.renew(&client).await {
        if pinned.met_a_stranger() {
            return Err(error);
        }
        let status = error.downcast_ref().and_then(skiff_client::Error::status);
        if status.is_some_and(|status| status.code == 401) {
            let id = &token.id;
            return Err(format!("the cluster does not accept the token {id}: it was deleted or has run out").into());
        }
        patience.with(error).await?;
    }
    let authority = pinned.found().ok_or("the server's authority was not seen")?;
    write_atomically(&file, pki::to_pem(&authority).as_bytes(), 0o644)?;
    tracing::info!(node = %machine.facts.node_name, "the cluster has given the node a certificate");
    Ok(())
}

/// Learns from the `kubernetes` Service where servers are, and keeps that for the next start.
async fn follow_servers(mut machine: Machine, informers: Informers, servers: Arc<Servers>) {
    let slices = informers.of::<EndpointSlice>();
    let changed = Arc::new(Notify::new());
    let wake = changed.clone();
    slices.on_change(move |change| {
        if is_of_servers(change.object()) {
            wake.notify_one();
        }
    });
    let given = machine.facts.join.as_ref().map(|join| join.servers.clone()).unwrap_or_default();
    loop {
        changed.notified().await;
        let all = slices.list_namespace("default");
        let found = addresses(all.iter().map(Arc::as_ref).filter(|slice| is_of_servers(slice)));
        if found.is_empty() {
            continue;
        }
        servers.set(in_own_order(&machine.facts.node_name, found, &given));
        if let Some(join) = &mut machine.facts.join {
            join.servers = servers.list();
        }
        if let Err(error) = machine.facts.save(&machine.paths) {
            tracing::warn!(%error, "the cluster's servers are not kept");
        }
    }
}

fn is_of_servers(slice: &EndpointSlice) -> bool {
    let labels = slice.metadata.labels.as_ref();
    let service = labels.and_then(|labels| labels.get("kubernetes.io/service-name"));
    slice.metadata.namespace.as_deref() == Some("default") && service.is_some_and(|name| name == "kubernetes")
}

/// Where the servers listen, `host:port` each.
fn addresses<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> Vec<String> {
    let mut found = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten().filter(|port| port.name.as_deref() == Some("https"));
        let Some(port) = ports.filter_map(|port| port.port).next() else { continue };
        let ready =
            slice.endpoints.iter().flatten().filter(|endpoint| {
                endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
            });
        for address in ready.flat_map(|endpoint| &endpoint.addresses) {
            let host = if address.contains(':') { format!("[{address}]") } else { address.clone() };
            found.push(format!("{host}:{port}"));
        }
    }
    found
}

/// The servers in an order of this node's own, so that nodes spread over them; those that were given come last, in case
/// that what the cluster says of itself is not reachable from here.
fn in_own_order(node: &str, found: Vec<String>, given: &[String]) -> Vec<String> {
    let rank = |address: &String| {
        let mut hasher = DefaultHasher::new();
        (node, address).hash(&mut hasher);
        hasher.finish()
    };
    let mut ordered = found;
    ordered.sort_by_key(rank);
    ordered.dedup();
    let further: Vec<_> = given.iter().filter(|address| !ordered.contains(address)).cloned().collect();
    ordered.extend(further);
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_learnt_from_the_cluster() {
        let slice = |name: &str, address: &str, ready: bool| -> EndpointSlice {
            serde_json::from_value(serde_json::json!({
                "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
                "addressType": "IPv4", "ports": [{"name": "https", "port": 6443}],
                "endpoints": [{"addresses": [address], "conditions": {"ready": ready}}]}))
            .expect("a slice")
        };
        let slices = [slice("a", "10.0.0.1", true), slice("b", "10.0.0.2", false), slice("c", "fd00::1", true)];
        assert!(slices.iter().all(is_of_servers));
        assert_eq!(addresses(slices.iter()), ["10.0.0.1:6443", "[fd00::1]:6443"]);
    }

    #[test]
    fn nodes_spread_over_servers_and_keep_what_they_were_given() {
        let found = || ["a:1", "b:1", "c:1"].map(str::to_owned).to_vec();
        let given = ["outer:1".to_owned(), "b:1".to_owned()];
        let first = |node: usize| in_own_order(&format!("node-{node}"), found(), &given).remove(0);
        let mut firsts: Vec<_> = (0..20).map(first).collect();
        firsts.sort();
        firsts.dedup();
        assert_eq!(firsts, found());
        assert_eq!(in_own_order("n", found(), &given).last().map(String::as_str), Some("outer:1"));
        assert_eq!(in_own_order("n", found(), &given).len(), 4);
    }

    #[test]
    fn what_is_written_as_pem_reads_back() {
        let der: Vec<u8> = (0..=200).collect();
        let text = pki::to_pem(&der.clone().into());
        assert_eq!(pki::all(&text).expect("PEM")[0].as_ref(), der);
    }
}
