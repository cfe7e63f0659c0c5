//! Keeps the catalogue in step with the CustomResourceDefinitions, and their status with the catalogue.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use skiff_base::clock;
use skiff_object::meta::Meta;
use skiff_object::{Object, Status};

use super::kinds_of;
use crate::call::UserInfo;
use crate::failure::{Failure, Result};
use crate::http::body;
use crate::server::ApiServer;
use crate::storage::cache::{Happened, Message, ResourceCache, Start};
use crate::storage::filter::Filter;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
/// Holds a definition until its objects are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// How long to wait before a definition is looked at again after a failure.
const RETRY: Duration = Duration::from_millis(500);

fn definitions(server: &ApiServer) -> Option<Arc<ResourceCache>> {
    server.catalogue.cache(GROUP, PLURAL)
}

/// Serves what the definitions in the store say, before the first request.
pub async fn start(server: &ApiServer) -> Result<()> {
    let Some(cache) = definitions(server) else { return Ok(()) };
    for definition in cache.objects(&Filter::default())? {
        if is_established(&definition) {
            serve(server, &definition).await?;
        }
    }
    Ok(())
}

/// Follows the definitions for as long as the server lives.
pub async fn run(server: Weak<ApiServer>) {
    loop {
        let Some(mut watch) = server.upgrade().and_then(|server| {
            let reached = server.hub.reached();
            definitions(&server)?.subscribe(Start::Everything, Filter::default(), false, reached).ok()
        }) else {
            return;
        };
        for event in std::mem::take(&mut watch.initial) {
            look_at(&server, event.entry.name(), event.happened).await;
        }
        while let Some(message) = watch.queue.recv().await {
            if let Message::Event(event) = message {
                look_at(&server, event.entry.name(), event.happened).await;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn look_at(server: &Weak<ApiServer>, name: &str, happened: Happened) {
    loop {
        let Some(server) = server.upgrade() else { return };
        if happened == Happened::Deleted {
            withdraw(&server, name);
            return;
        }
        match keep(&server, name).await {
            Ok(true) => return,
            Ok(false) => {}
            Err(failure) => tracing::warn!(definition = name, error = %failure, "keeping a custom resource definition"),
        }
        drop(server);
        tokio::time::sleep(RETRY).await;
    }
}

/// Brings one definition a step further; tells whether nothing is left to be done for now.
async fn keep(server: &Arc<ApiServer>, name: &str) -> Result<bool> {
    let Some(cache) = definitions(server) else { return Ok(true) };
    let Some(definition) = cache.object("", name)? else { return Ok(true) };
    let path = format!("/apis/{GROUP}/v1/{PLURAL}/{name}");
    if definition.is_deleting() {
        return clean_up(server, &definition, &path).await;
    }
    if !definition.finalizers().contains(&FINALIZER) {
        let mut finalizers: Vec<&str> = definition.finalizers();
        finalizers.push(FINALIZER);
        send(server, Method::PATCH, &path, &json!({"metadata": {"finalizers": finalizers}})).await?;
    }
    if let Some(why) = conflict(server, &definition) {
        if condition(&definition, "NamesAccepted") != "False" {
            let conditions = [("NamesAccepted", "False", "MultipleNamesAccepted", why.as_str())];
            report(server, &definition, &path, &conditions).await?;
        }
        return Ok(true);
    }
    serve(server, &definition).await?;
    if !is_established(&definition)
        || accepted(&definition) != definition.at(&["spec", "names"]).cloned().unwrap_or_default()
    {
        let conditions = [
            ("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
            ("Established", "True", "InitialNamesAccepted", "the initial names have been accepted"),
        ];
        report(server, &definition, &path, &conditions).await?;
    }
    Ok(true)
}

fn accepted(definition: &Object) -> Value {
    definition.at(&["status", "acceptedNames"]).cloned().unwrap_or_default()
}

fn condition<'a>(definition: &'a Object, kind: &str) -> &'a str {
    let conditions = definition.list_at(&["status", "conditions"]);
    conditions
        .iter()
        .find(|condition| condition.str_at(&["type"]) == kind)
        .map_or("", |found| found.str_at(&["status"]))
}

fn is_established(definition: &Object) -> bool {
    condition(definition, "Established") == "True"
}

/// Another resource of the group that has one of the names.
fn conflict(server: &ApiServer, definition: &Object) -> Option<String> {
    let text = |path: &[&str]| definition.str_at(path);
    let (group, plural, kind) =
        (text(&["spec", "group"]), text(&["spec", "names", "plural"]), text(&["spec", "names", "kind"]));
    let snapshot = server.catalogue.snapshot();
    let others = || snapshot.ordered.iter().filter(|served| served.def.group == group && served.def.plural != plural);
    if others().any(|served| served.def.kind == kind) {
        return Some(format!("{kind:?} is already in use"));
    }
    let taken = |name: &str| {
        others().any(|served| served.def.plural == name || served.def.short_names.iter().any(|short| short == name))
    };
    let short = definition.list_at(&["spec", "names", "shortNames"]).iter().filter_map(Value::as_str);
    short.chain([plural]).find(|name| taken(name)).map(|name| format!("{name:?} is already in use"))
}

/// Puts the definition's kinds into the catalogue, where they are not there just so.
async fn serve(server: &ApiServer, definition: &Object) -> Result<()> {
    let kinds = kinds_of(definition);
    let (group, plural) = (definition.str_at(&["spec", "group"]), definition.str_at(&["spec", "names", "plural"]));
    let is_new = server.catalogue.cache(group, plural).is_none();
    let versions: Vec<String> = kinds.iter().map(|kind| kind.version.to_string()).collect();
    server.catalogue.remove(|def| {
        def.group == group && def.plural == plural && !versions.iter().any(|version| *version == def.version)
    });
    let added = server.catalogue.add(kinds);
    if let Some(served) = added.first().filter(|_| is_new) {
        server.hub.fill_cache(&served.cache).await?;
    }
    Ok(())
}

/// `PLURAL.GROUP` is served no longer.
fn withdraw(server: &ApiServer, name: &str) {
    let Some((plural, group)) = name.split_once('.') else { return };
    if let Some(cache) = server.catalogue.cache(group, plural) {
        cache.disconnect();
    }
    server.catalogue.remove(|def| def.inline_schema.is_some() && def.group == group && def.plural == plural);
}

/// Deletes the objects of a definition, and lets it go when they are gone.
async fn clean_up(server: &Arc<ApiServer>, definition: &Object, path: &str) -> Result<bool> {
    if !definition.finalizers().contains(&FINALIZER) {
        return Ok(true);
    }
    if let Some(served) = kinds_of(definition).first() {
        let objects = format!("/apis/{}/{}/{}", served.group, served.version, served.plural);
        if server.catalogue.get(&served.group, &served.version, &served.plural).is_some() {
            send(server, Method::DELETE, &objects, &json!({})).await?;
            let left = send(server, Method::GET, &objects, &Value::Null).await?;
            if !left.list_at(&["items"]).is_empty() {
                return Ok(false);
            }
        }
    }
    let finalizers: Vec<&str> = definition.finalizers().into_iter().filter(|name| *name != FINALIZER).collect();
    send(server, Method::PATCH, path, &json!({"metadata": {"finalizers": finalizers}})).await?;
    Ok(true)
}

async fn report(
    server: &Arc<ApiServer>,
    definition: &Object,
    path: &str,
    wanted: &[(&str, &str, &str, &str)],
) -> Result<()> {
    let now = clock::rfc3339(server.clock().now());
    let mut conditions = definition.list_at(&["status", "conditions"]).to_vec();
    for (kind, status, reason, message) in wanted {
        let same = |condition: &&mut Value| condition.str_at(&["type"]) == *kind;
        let new =
            json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
        match conditions.iter_mut().find(same) {
            Some(condition) if condition.str_at(&["status"]) == *status => {}
            Some(condition) => *condition = new,
            None => conditions.push(new),
        }
    }
    let mut status = json!({"conditions": conditions});
    if wanted[0].1 == "True" {
        status["acceptedNames"] = definition.at(&["spec", "names"]).cloned().unwrap_or_default();
    }
    send(server, Method::PATCH, &format!("{path}/status"), &json!({"status": status})).await?;
    Ok(())
}

/// A request of the server's own, through the one door.
async fn send(server: &Arc<ApiServer>, method: Method, path: &str, body: &Value) -> Result<Object> {
    let content = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let kind = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.header("user-agent", "kube-apiserver").body(body::full(content));
    let mut request = request.map_err(|error| Failure::from(Status::internal(error)))?;
    request.extensions_mut().insert(UserInfo::new("system:apiserver", &["system:masters"]));
    let answer = server.handle(request).await;
    let is_success = answer.status().is_success();
    let bytes = answer.into_body().collect().await.map_err(Status::internal)?.to_bytes();
    if is_success {
        return serde_json::from_slice(&bytes).map_err(|error| Status::internal(error).into());
    }
    let status: Status = serde_json::from_slice(&bytes).map_err(Status::internal)?;
    Err(status.into())
}
