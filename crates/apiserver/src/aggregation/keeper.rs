//! Keeps the table of other servers in step with the APIServices, the APIServices of this server's own in step with what
//! it serves, and looks after each other server: whether it can be asked, and what it says of itself.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::select_ok;
use http::Method;
use serde_json::{Value, json};
use skiff_object::meta::Meta;
use skiff_object::{Object, Status};
use tokio::task::JoinHandle;

use super::local::{self, Step};
use super::remote::{Remote, Verdict, condition, fault};
use super::told::{self, Told};
use super::{GROUP, PLURAL, proxy};
use crate::custom::keeper::send;
use crate::failure::Result;
use crate::server::ApiServer;
use crate::storage::cache::{ResourceCache, Start, Subscription};
use crate::storage::events::{Event, Happened, Message};
use crate::storage::filter::Filter;
use crate::usage;

/// How long to wait before all is looked at again after a failure.
const RETRY: Duration = Duration::from_millis(500);
/// How often a server that is in order is looked at, as upstream's.
const PERIOD: Duration = Duration::from_secs(30);
/// How soon one that is not is looked at again; each time twice as long, up to [`PERIOD`].
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// How long one look may take, as upstream's.
const LOOK_TIMEOUT: Duration = Duration::from_secs(6);
/// How many endpoints of a server are asked at a time: one that answers is enough.
const ATTEMPTS: usize = 5;
/// How long to wait after something changed for what else changes with it.
const SETTLE: Duration = Duration::from_millis(20);

fn services(server: &ApiServer) -> Option<Arc<ResourceCache>> {
    server.catalogue.cache(GROUP, PLURAL)
}

fn definitions(server: &ApiServer) -> Option<Arc<ResourceCache>> {
    server.catalogue.cache("apiextensions.k8s.io", "customresourcedefinitions")
}

/// Knows the other servers before the first request.
pub fn start(server: &ApiServer) -> Result<()> {
    if let Some(cache) = services(server) {
        let objects = cache.objects(&Filter::default())?;
        take_over(server, &objects.iter().collect::<Vec<_>>());
    }
    Ok(())
}

/// Takes over what the APIServices say. What is answered here unless another server has it is served accordingly.
fn take_over(server: &ApiServer, objects: &[&Object]) -> Arc<Vec<Arc<Remote>>> {
    let identity = server.config.front_proxy.as_ref().map(|proxy| &proxy.identity);
    let remotes = server.aggregator.take_over(objects, identity);
    let is_taken = super::of_version(&remotes, usage::GROUP, usage::VERSION).is_some();
    let is_served = server.catalogue.get(usage::GROUP, usage::VERSION, "nodes").is_some();
    if is_taken && is_served {
        server.catalogue.remove(|def| def.group == usage::GROUP && def.version == usage::VERSION);
    } else if !is_taken && !is_served {
        server.catalogue.add(usage::definitions());
    }
    remotes
}

/// A server that is looked after, for as long as this is there.
struct Watched {
    remote: Arc<Remote>,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Follows the APIServices and the definitions for as long as the server lives.
pub async fn run(server: Weak<ApiServer>) {
    let (mut watched, mut at_start) = (HashMap::new(), true);
    loop {
        let Some((mut services, mut definitions)) = server.upgrade().and_then(|server| follow(&server)) else { return };
        let mut freed = false;
        loop {
            let done = match server.upgrade() {
                Some(server) => keep(&server, &mut watched, at_start, freed).await,
                None => return,
            };
            let is_done = done.is_ok();
            match done {
                Ok(()) => (at_start, freed) = (false, false),
                Err(failure) => tracing::warn!(error = %failure, "keeping APIServices"),
            }
            let message = tokio::select! {
                message = services.queue.next() => message,
                message = definitions.queue.next() => message,
                () = tokio::time::sleep(RETRY), if !is_done => continue,
            };
            let Some(message) = message else { break };
            freed |= frees_usage(&message);
            tokio::time::sleep(SETTLE).await;
            while let Some(message) = services.queue.next_waiting() {
                freed |= frees_usage(&message);
            }
            while definitions.queue.next_waiting().is_some() {}
        }
        tokio::time::sleep(RETRY).await;
    }
}

fn follow(server: &ApiServer) -> Option<(Subscription, Subscription)> {
    let reached = server.hub.reached();
    let of = |cache: Arc<ResourceCache>| cache.subscribe(Start::Now, Filter::default(), false, reached).ok();
    Some((of(services(server)?)?, of(definitions(server)?)?))
}

/// Whether another server of the usual metrics was taken out: then they are this one's again. Who removes this server's
/// own APIService of them wants to put another in its place.
fn frees_usage(message: &Message) -> bool {
    message.events().iter().any(is_usage_freed)
}

fn is_usage_freed(event: &Event) -> bool {
    let is_usage = event.happened == Happened::Deleted && event.entry.name() == usage::service_name();
    let object: Option<Value> = is_usage.then(|| serde_json::from_slice(&event.entry.value).ok()).flatten();
    object.is_some_and(|object| object.at(&["spec", "service"]).is_some_and(Value::is_object))
}

async fn keep(
    server: &Arc<ApiServer>,
    watched: &mut HashMap<String, Watched>,
    at_start: bool,
    freed: bool,
) -> Result<()> {
    // Both kinds are looked at as they stood at one moment: what a definition asks for is not there before it.
    server.hub.fresh().await?;
    // Definitions are large and many: each is read once, not whenever another one changes.
    let definitions = &server.aggregator.definitions;
    let wanted_of_definitions =
        definitions.all(server, "apiextensions.k8s.io", "customresourcedefinitions", local::of_definition);
    let services = server.aggregator.services.all(server, GROUP, PLURAL, Object::clone);
    let current: Vec<&Object> = services.iter().map(|object| &**object).collect();
    let remotes = take_over(server, &current);
    watched.retain(|_, watched| remotes.iter().any(|remote| Arc::ptr_eq(remote, &watched.remote)));
    for remote in remotes.iter() {
        watched.entry(remote.name.clone()).or_insert_with(|| {
            let task = tokio::spawn(look_after(Arc::downgrade(server), remote.clone()));
            Watched { remote: remote.clone(), task }
        });
    }
    let builtin = server.config.kinds.iter().copied();
    let mut wanted = local::of_builtin(builtin);
    wanted.extend(local::joined(wanted_of_definitions.iter().map(|wanted| wanted.as_slice())));
    for step in local::plan(&current, &wanted, at_start, server.clock().now()) {
        act(server, step).await?;
    }
    if freed {
        let [service, _] = usage::objects(server.clock().now());
        act(server, Step::Create(service)).await?;
    }
    Ok(())
}

async fn act(server: &Arc<ApiServer>, step: Step) -> Result<()> {
    let all = format!("/apis/{GROUP}/v1/{PLURAL}");
    let done = match step {
        Step::Create(object) => send(server, Method::POST, &all, &object).await,
        Step::Respecify(name, spec) => {
            send(server, Method::PATCH, &format!("{all}/{name}"), &json!({"spec": spec})).await
        }
        Step::Delete(name) => send(server, Method::DELETE, &format!("{all}/{name}"), &json!({})).await,
        Step::Tell(name, status) => {
            send(server, Method::PATCH, &format!("{all}/{name}/status"), &json!({"status": status})).await
        }
    };
    match done {
        // Another server was first, or somebody removed it: the next look will show.
        Err(failure) if matches!(failure.0.code, 404 | 409) => Ok(()),
        done => done.map(drop),
    }
}

/// Looks at one server time and again, and whenever its Service or the Service's endpoints change.
async fn look_after(server: Weak<ApiServer>, remote: Arc<Remote>) {
    let mut wait = FIRST_RETRY;
    loop {
        let Some(strong) = server.upgrade() else { return };
        let Some((mut service, mut slices)) = follow_service(&strong, &remote) else { return };
        let looked = look(&strong, &remote).await;
        drop(strong);
        let pause = match looked {
            Ok(true) => PERIOD,
            Ok(false) => wait,
            Err(failure) => {
                tracing::warn!(name = remote.name, error = %failure, "looking after an APIService");
                wait
            }
        };
        wait = if pause == PERIOD { FIRST_RETRY } else { (2 * wait).min(PERIOD) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = service.queue.next() => tokio::time::sleep(SETTLE).await,
            _ = slices.queue.next() => tokio::time::sleep(SETTLE).await,
        }
    }
}

fn follow_service(server: &ApiServer, remote: &Remote) -> Option<(Subscription, Subscription)> {
    let reached = server.hub.reached();
    let mut service = Filter::namespace(&remote.namespace);
    service.name = Some(remote.service.clone());
    let services = server.catalogue.cache("", "services")?;
    let (slices, filter) = slices_of(server, remote).ok()?;
    Some((
        services.subscribe(Start::Now, service, false, reached).ok()?,
        slices.subscribe(Start::Now, filter, false, reached).ok()?,
    ))
}

fn slices_of(server: &ApiServer, remote: &Remote) -> Result<(Arc<ResourceCache>, Filter)> {
    let slices = server.catalogue.cache("discovery.k8s.io", "endpointslices").ok_or_else(Status::no_such_path)?;
    let labels = format!("kubernetes.io/service-name={}", remote.service);
    let filter = Filter::new(&slices.def, &slices.def, &remote.namespace, &labels, "")?;
    Ok((slices, filter))
}

/// Looks once: whether the server can be asked, and what it says; tells whether it is in order.
async fn look(server: &Arc<ApiServer>, remote: &Remote) -> Result<bool> {
    server.hub.fresh().await?;
    let services = server.catalogue.cache("", "services");
    let service = services.map(|cache| cache.object(&remote.namespace, &remote.service)).transpose()?.flatten();
    let (slices, filter) = slices_of(server, remote)?;
    let verdict = match fault(remote, service.as_ref(), &slices.objects(&filter)?) {
        Some(verdict) => verdict,
        None => asked(server, remote).await,
    };
    let is_available = verdict.status == "True";
    if is_available {
        let heard = tokio::time::timeout(LOOK_TIMEOUT, listen(server, remote)).await;
        hear(remote, heard.ok().flatten());
    } else {
        hear(remote, None);
    }
    let was_available = remote.is_available();
    remote.set_available(is_available);
    if was_available && !is_available {
        server.metrics.aggregated_unavailable(&remote.name, verdict.reason);
    }
    let current = self::services(server).map(|cache| cache.object("", &remote.name)).transpose()?.flatten();
    let current = current.filter(|object| remote.is_still(object));
    if let Some(object) = current.filter(|object| !verdict.is_told(condition(object))) {
        let status = local::status_of(&object, &verdict, server.clock().now());
        act(server, Step::Tell(remote.name.clone(), status)).await?;
    }
    Ok(is_available)
}

/// Asks for what every server must have; one endpoint that answers is enough.
async fn asked(server: &ApiServer, remote: &Remote) -> Verdict {
    let path = remote.path();
    let url = format!("https://{}:{}{path}", remote.host(), remote.port);
    let attempt = async || {
        let tls = remote.tls_of_checks.as_ref().map_err(String::clone)?;
        let answered = tokio::time::timeout(LOOK_TIMEOUT, proxy::ask(server, remote, tls, &path, "*/*")).await;
        let failing = |why: String| format!("failing or missing response from {url}: {why}");
        match answered.map_err(|_| format!("timed out waiting for {url}"))? {
            Ok((code, _)) if code.is_success() => Ok(()),
            Ok((code, _)) => Err(failing(format!("bad status from {url}: {}", code.as_u16()))),
            Err(why) => Err(failing(format!("Get {url:?}: {why}"))),
        }
    };
    match select_ok((0..ATTEMPTS).map(|_| Box::pin(attempt()))).await {
        Ok(_) => Verdict::passed(),
        Err(why) => Verdict::failed("FailedDiscoveryCheck", why),
    }
}

/// What a server says of itself now; nothing where it does not say which resources it has.
async fn listen(server: &ApiServer, remote: &Remote) -> Option<Told> {
    let tls = remote.tls.as_ref().ok()?;
    let read = async |path: &str, accept: &'static str| -> Option<Value> {
        let (code, bytes) = proxy::ask(server, remote, tls, path, accept).await.ok()?;
        code.is_success().then(|| serde_json::from_slice(&bytes).ok()).flatten()
    };
    const JSON: &str = "application/json";
    let whole = read("/apis", told::ACCEPT_DISCOVERY).await;
    let resources = match whole.and_then(|document| told::in_aggregated(&document, remote)) {
        Some(resources) => resources,
        None => told::of_resource_list(&read(&remote.path(), JSON).await?, remote),
    };
    let v3 = read("/openapi/v3", JSON).await.and_then(|index| told::v3_fingerprint(&index, remote));
    let v2 = read("/openapi/v2", JSON).await.map(|document| Arc::new(told::part_of_v2(&document, remote)));
    Some(Told { resources: Some(Arc::new(resources)), is_fresh: true, v2, v3, fingerprint: 0 })
}

/// Keeps what was heard; where nothing was, what was heard last is stale from now on.
fn hear(remote: &Remote, heard: Option<Told>) {
    let mut told = remote.told.lock();
    let next = heard.unwrap_or_else(|| Told { is_fresh: false, ..told.clone() });
    *told = next.printed();
}
