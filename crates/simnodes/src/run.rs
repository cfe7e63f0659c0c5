//! Carries out what [`Fleet`] decides: a few connections, one watch of all Pods, a bounded number of requests.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use skiff_base::backoff::Backoff;
use skiff_base::clock::SharedClock;
use skiff_client::{Client, DeleteOptions, Error, ObjectList, Patch, Resource, Revision, WatchOptions};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::fleet::{Deed, Fleet, Next, Outcome, PodDeed};
use crate::objects::{self, About};
use crate::seen::SeenPod;

const PODS: Resource = Resource::fixed("", "v1", "pods", "Pod");
const NODES: &str = "/api/v1/nodes";
const JSON: &str = "application/json";
/// Pods that have a node.
const PLACED: &str = "spec.nodeName!=";
/// Pods are listed by so many, so that a list of all never lies in memory as one.
const PAGE: u32 = 500;
/// The shortest and the longest pause before a broken watch is made again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// How far the nodes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Nodes that are registered.
    pub nodes: usize,
    /// Pods that they have.
    pub pods: usize,
    /// Pods that they have said to run.
    pub running: usize,
}

/// Running nodes; they end, and their Node objects stay, when this is dropped.
pub struct SimNodes {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

struct Shared {
    config: Arc<Config>,
    clients: Vec<Client>,
    clock: SharedClock,
    fleet: Mutex<Fleet>,
    wake: Notify,
}

impl SimNodes {
    /// Starts the nodes. Requests go by all of `clients` (one connection each); the watch is the first one's.
    ///
    /// # Errors
    /// The nodes cannot be as `config` has them, or there is no client.
    pub fn start(config: Config, clients: Vec<Client>, clock: SharedClock) -> Result<Self, String> {
        config.check()?;
        if clients.is_empty() {
            return Err("nodes need a connection".to_owned());
        }
        let config = Arc::new(config);
        let fleet = Mutex::new(Fleet::new(config.clone(), clock.monotonic()));
        let shared = Arc::new(Shared { config, clients, clock, fleet, wake: Notify::new() });
        let mut tasks = JoinSet::new();
        tasks.spawn(watch_for_ever(shared.clone()));
        tasks.spawn(act_for_ever(shared.clone()));
        Ok(Self { shared, _tasks: tasks })
    }

    /// How far they are.
    pub fn counts(&self) -> Counts {
        let (nodes, pods, running) = self.shared.fleet.lock().counts();
        Counts { nodes, pods, running }
    }
}

async fn act_for_ever(shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(shared.config.in_flight));
    let mut deeds = JoinSet::new();
    loop {
        let permit = permits.clone().acquire_owned().await.expect("the semaphore is never closed");
        while deeds.try_join_next().is_some() {}
        let now = shared.clock.monotonic();
        let next = shared.fleet.lock().next(now);
        match next {
            Next::Do(deed) => {
                let shared = shared.clone();
                deeds.spawn(async move {
                    let outcome = shared.outcome_of(&deed).await;
                    shared.fleet.lock().finished(deed, outcome, shared.clock.monotonic());
                    shared.wake.notify_one();
                    drop(permit);
                });
            }
            Next::Wait(until) => {
                drop(permit);
                let asleep = tokio::time::sleep(until.map_or(Duration::MAX, |until| until.saturating_sub(now)));
                tokio::select! {
                    () = shared.wake.notified() => {}
                    () = asleep, if until.is_some() => {}
                }
            }
        }
    }
}

impl Shared {
    /// Requests about the same node or Pod take the same connection.
    fn client(&self, deed: &Deed) -> &Client {
        let number = match deed {
            Deed::Register(index) | Deed::Renew(index) | Deed::Report(index) => *index as usize,
            Deed::Pod(uid, ..) => uid.bytes().map(usize::from).sum(),
        };
        &self.clients[number % self.clients.len()]
    }

    async fn outcome_of(&self, deed: &Deed) -> Outcome {
        let client = self.client(deed);
        let done = match deed {
            Deed::Register(index) => self.register(client, *index).await,
            Deed::Renew(index) => self.renew(client, *index).await,
            Deed::Report(index) => self.report(client, *index).await,
            Deed::Pod(uid, deed, about) => self.attend_to(client, uid, *deed, about).await,
        };
        match done {
            Ok(()) => Outcome::Done,
            Err(error) if error.is_not_found() => Outcome::Gone,
            // Where the name is another object's by now, the watch soon tells.
            Err(error) => {
                tracing::warn!(?deed, %error, "to be tried again");
                Outcome::Failed
            }
        }
    }

    async fn register(&self, client: &Client, index: u32) -> Result<(), Error> {
        #[derive(Deserialize)]
        struct Meta {
            uid: String,
        }
        #[derive(Deserialize)]
        struct Head {
            metadata: Meta,
        }
        let (now, name) = (self.clock.now(), objects::node_name(&self.config, index));
        let node = objects::node(&self.config, index, now);
        let made = client.send_json::<Head>(http::Method::POST, NODES, &node).await;
        let head = match made {
            Err(error) if error.is_already_exists() => {
                self.report(client, index).await?;
                client.get_path(&format!("{NODES}/{name}")).await?
            }
            made => made?,
        };
        let lease = objects::lease(&name, &head.metadata.uid, now);
        match client.send_json::<serde::de::IgnoredAny>(http::Method::POST, objects::LEASES, &lease).await {
            Err(error) if error.is_already_exists() => {
                let path = format!("{}/{name}", objects::LEASES);
                client.patch_raw(&path, &Patch::Merge(lease)).await.map(drop)
            }
            made => made.map(drop),
        }
    }

    async fn renew(&self, client: &Client, index: u32) -> Result<(), Error> {
        let path = format!("{}/{}", objects::LEASES, objects::node_name(&self.config, index));
        client.patch_raw(&path, &Patch::Merge(objects::renewal(self.clock.now()))).await.map(drop)
    }

    async fn report(&self, client: &Client, index: u32) -> Result<(), Error> {
        let path = format!("{NODES}/{}/status", objects::node_name(&self.config, index));
        let status = json!({"status": objects::node_status(self.clock.now())});
        client.patch_raw(&path, &Patch::Strategic(status)).await.map(drop)
    }

    async fn attend_to(&self, client: &Client, uid: &str, deed: PodDeed, about: &About) -> Result<(), Error> {
        let now = self.clock.now();
        let said = match deed {
            PodDeed::Run => Some(objects::running(uid, about, now)),
            PodDeed::End(code) | PodDeed::EndAndRemove(code) => Some(objects::ended(uid, about, code, now)),
            PodDeed::Remove => None,
        };
        if let Some(said) = said {
            let path = PODS.object_path(&about.namespace, &about.name, "status");
            client.patch_raw(&path, &Patch::Strategic(said)).await?;
        }
        if let PodDeed::Remove | PodDeed::EndAndRemove(_) = deed {
            let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::of_uid(uid) };
            client.delete_path(&PODS.object_path(&about.namespace, &about.name, ""), &options).await?;
        }
        Ok(())
    }

    fn see(&self, pod: SeenPod) {
        self.fleet.lock().see(pod, self.clock.monotonic());
        self.wake.notify_one();
    }
}

/// Lists and watches the Pods of all nodes together, for ever.
async fn watch_for_ever(shared: Arc<Shared>) {
    let mut backoff = Backoff::new(RETRY.0, RETRY.1);
    let mut version = String::new();
    loop {
        let began = shared.clock.monotonic();
        match follow(&shared, &mut version).await {
            Ok(()) => {}
            Err(error) if error.is_expired() => version.clear(),
            Err(error) => tracing::warn!(%error, "the watch of all Pods broke off"),
        }
        let now = shared.clock.monotonic();
        if now.saturating_sub(began) > RETRY.1 {
            backoff.reset(&());
        }
        tokio::time::sleep(backoff.next(&(), now)).await;
    }
}

async fn follow(shared: &Shared, version: &mut String) -> Result<(), Error> {
    let client = &shared.clients[0];
    if version.is_empty() {
        *version = list(shared, client).await?;
    }
    let options = WatchOptions {
        field_selector: PLACED.to_owned(),
        resource_version: version.clone(),
        ..WatchOptions::default()
    };
    let mut events = client.watch(&PODS, "", &options, JSON).await?;
    while let Some(event) = events.next().await {
        let event = event?;
        let text = &event.object;
        if event.kind == "ERROR" {
            // A revision that is gone is the usual reason; a list cures all others, too.
            version.clear();
            tracing::info!(status = %String::from_utf8_lossy(text), "the watch of all Pods ended");
            return Ok(());
        }
        *version = Revision::of(text).unwrap_or_else(|| std::mem::take(version));
        if event.kind == "BOOKMARK" {
            continue;
        }
        match serde_json::from_slice::<SeenPod>(text) {
            Ok(pod) if event.kind == "DELETED" => shared.fleet.lock().forget(&pod.metadata.uid),
            Ok(pod) => shared.see(pod),
            Err(error) => tracing::error!(%error, "a Pod cannot be read"),
        }
    }
    Ok(())
}

async fn list(shared: &Shared, client: &Client) -> Result<String, Error> {
    shared.fleet.lock().list_begins();
    let mut next = String::new();
    loop {
        let path = format!("{}?fieldSelector=spec.nodeName%21%3D&limit={PAGE}{next}", PODS.path(""));
        let page: ObjectList<SeenPod> = client.get_path(&path).await?;
        page.items.into_iter().for_each(|pod| shared.see(pod));
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => next = format!("&continue={token}"),
            None => {
                shared.fleet.lock().list_ends();
                return Ok(page.metadata.resource_version.unwrap_or_default());
            }
        }
    }
}
