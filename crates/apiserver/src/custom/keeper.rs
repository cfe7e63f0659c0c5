//! Keeps the catalogue in step with the CustomResourceDefinitions, and their status with the catalogue.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{Method, Request};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::clock;
use skiff_kinds::ResourceDef;
use skiff_kinds::rules::crd_check;
use skiff_object::meta::Meta;
use skiff_object::{Object, Status};

use super::kinds_of;
use crate::call::UserInfo;
use crate::failure::{Failure, Result};
use crate::http::body;
use crate::server::ApiServer;
use crate::storage::cache::{ResourceCache, Start};
use crate::storage::filter::Filter;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
/// Holds a definition until its objects are gone.
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// Tells what is wrong with a definition's schemas.
const NOT_STRUCTURAL: &str = "NonStructuralSchema";
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

/// Works on definitions, each by itself: one that waits for its objects to go holds up no other.
struct Keeper {
    server: Weak<ApiServer>,
    /// The definitions that are worked on, and whether they are to be looked at again.
    busy: Mutex<HashMap<String, bool>>,
    /// Names are given out one after the other.
    naming: tokio::sync::Mutex<()>,
}

/// Follows the definitions for as long as the server lives.
pub async fn run(server: Weak<ApiServer>) {
    let keeper = Arc::new(Keeper { server: server.clone(), busy: Mutex::default(), naming: Default::default() });
    loop {
        let Some(mut watch) = server.upgrade().and_then(|server| {
            let reached = server.hub.reached();
            definitions(&server)?.subscribe(Start::Everything, Filter::default(), false, reached).ok()
        }) else {
            return;
        };
        for event in std::mem::take(&mut watch.initial) {
            keeper.wake(event.entry.name());
        }
        while let Some(message) = watch.queue.next().await {
            for event in message.events() {
                keeper.wake(event.entry.name());
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl Keeper {
    /// Has a definition looked at, now or when it is free again.
    fn wake(self: &Arc<Self>, name: &str) {
        let mut busy = self.busy.lock();
        if let Some(again) = busy.get_mut(name) {
            *again = true;
            return;
        }
        busy.insert(name.to_owned(), false);
        tokio::spawn(self.clone().work(name.to_owned()));
    }

    /// Whether the work on a definition is over: nobody asked for another look meanwhile.
    fn is_over(&self, name: &str) -> bool {
        let mut busy = self.busy.lock();
        match busy.get_mut(name) {
            Some(again) if *again => {
                *again = false;
                false
            }
            _ => {
                busy.remove(name);
                true
            }
        }
    }

    async fn work(self: Arc<Self>, name: String) {
        loop {
            let Some(server) = self.server.upgrade() else { return };
            match self.keep(&server, &name).await {
                Ok(true) if self.is_over(&name) => return,
                Ok(true) => continue,
                Ok(false) => {}
                Err(failure) => {
                    tracing::warn!(definition = name, error = %failure, "keeping a custom resource definition");
                }
            }
            drop(server);
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Brings one definition a step further; tells whether nothing is left to be done for now.
    async fn keep(self: &Arc<Self>, server: &Arc<ApiServer>, name: &str) -> Result<bool> {
        let Some(cache) = definitions(server) else { return Ok(true) };
        let Some(definition) = cache.object("", name)? else {
            withdraw(server, name);
            self.wake_refused(&cache)?;
            return Ok(true);
        };
        let path = format!("/apis/{GROUP}/v1/{PLURAL}/{name}");
        if definition.is_deleting() {
            return clean_up(server, &definition, &path).await;
        }
        if !definition.finalizers().contains(&FINALIZER) {
            let mut finalizers: Vec<&str> = definition.finalizers();
            finalizers.push(FINALIZER);
            send(server, Method::PATCH, &path, &json!({"metadata": {"finalizers": finalizers}})).await?;
        }
        let turn = self.naming.lock().await;
        let conflict = conflict(server, &definition);
        if conflict.is_none() {
            serve(server, &definition).await?;
        }
        drop(turn);
        let mut conditions = match &conflict {
            Some((reason, why)) => {
                vec![("NamesAccepted", "False", *reason, why.clone())]
            }
            None => names_accepted(),
        };
        if conflict.is_some() && condition(&definition, "Established") != "True" {
            conditions.push(("Established", "False", "NotAccepted", "not all names are accepted".to_owned()));
        }
        conditions.extend(approval(&definition));
        let violations = crd_check::violations(&definition);
        if !violations.is_empty() {
            conditions.push((NOT_STRUCTURAL, "True", "Violations", violations.join(", ")));
        }
        let is_mended = violations.is_empty() && !condition(&definition, NOT_STRUCTURAL).is_empty();
        let names = definition.at(&["spec", "names"]).cloned().unwrap_or_default();
        let is_told = conditions.iter().all(|(kind, status, reason, _)| is_so(&definition, kind, status, reason));
        if !is_told || is_mended || (conflict.is_none() && accepted(&definition) != names) {
            report(server, &definition, &path, &conditions, conflict.is_none()).await?;
        }
        Ok(true)
    }

    /// Names that went may be what others wait for.
    fn wake_refused(self: &Arc<Self>, cache: &ResourceCache) -> Result<()> {
        for definition in cache.objects(&Filter::default())? {
            if condition(&definition, "NamesAccepted") == "False" {
                self.wake(definition.name());
            }
        }
        Ok(())
    }
}

/// What is said of a definition whose names are free.
fn names_accepted() -> Vec<Condition> {
    vec![
        ("NamesAccepted", "True", "NoConflicts", "no conflicts found".to_owned()),
        ("Established", "True", "InitialNamesAccepted", "the initial names have been accepted".to_owned()),
    ]
}

/// Makes a definition of a new cluster what it would become: its kinds are served before the first request, and nothing
/// of it is written and checked again.
pub fn establish(definition: &mut Object, now: &str) {
    let conditions = names_accepted().into_iter().chain(approval(definition));
    let conditions: Vec<Value> = conditions
        .map(|(kind, status, reason, message)| {
            json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now})
        })
        .collect();
    let names = definition["spec"]["names"].clone();
    definition["metadata"]["finalizers"] = json!([FINALIZER]);
    definition["status"]["conditions"] = conditions.into();
    definition["status"]["acceptedNames"] = names;
}

/// Whether a condition says so already.
fn is_so(definition: &Object, kind: &str, status: &str, reason: &str) -> bool {
    definition.list_at(&["status", "conditions"]).iter().any(|condition| {
        condition.str_at(&["type"]) == kind
            && condition.str_at(&["status"]) == status
            && condition.str_at(&["reason"]) == reason
    })
}

type Condition = (&'static str, &'static str, &'static str, String);

/// Whether a definition in a group of the project's own was approved by it.
fn approval(definition: &Object) -> Option<Condition> {
    const KIND: &str = "KubernetesAPIApprovalPolicyConformant";
    if !crd_check::is_protected(definition.str_at(&["spec", "group"])) {
        return None;
    }
    let given = definition.annotation(crd_check::APPROVAL).unwrap_or("");
    Some(if given.is_empty() {
        let words = format!(
            "protected groups must have approval annotation {:?}, see https://github.com/kubernetes/enhancements/pull/1111",
            crd_check::APPROVAL
        );
        (KIND, "False", "MissingAnnotation", words)
    } else if given.starts_with("unapproved") {
        (KIND, "False", "UnapprovedAnnotation", format!("not approved: {given:?}"))
    } else {
        (KIND, "True", "ApprovedAnnotation", format!("approved in {given}"))
    })
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

/// Another resource of the group that has one of the names: the condition's reason and message.
fn conflict(server: &ApiServer, definition: &Object) -> Option<(&'static str, String)> {
    let text = |path: &[&str]| definition.str_at(path);
    let (group, plural) = (text(&["spec", "group"]), text(&["spec", "names", "plural"]));
    let snapshot = server.catalogue.snapshot();
    let others: Vec<_> =
        snapshot.ordered.iter().filter(|served| served.def.group == group && served.def.plural != plural).collect();
    if others.is_empty() {
        return None;
    }
    let is_resource = |name: &str| {
        others.iter().any(|served| {
            served.def.plural == name
                || served.def.singular == name
                || served.def.short_names.iter().any(|short| short == name)
        })
    };
    let is_kind = |name: &str| others.iter().any(|served| served.def.kind == name || served.def.list_kind == name);
    let taken = |name: &str| format!("{name:?} is already in use");
    let names = |field: &str| definition.str_at(&["spec", "names", field]);
    if is_resource(plural) {
        return Some(("PluralConflict", taken(plural)));
    }
    if is_resource(names("singular")) {
        return Some(("SingularConflict", taken(names("singular"))));
    }
    let short = definition.list_at(&["spec", "names", "shortNames"]).iter().filter_map(Value::as_str);
    if let Some(name) = short.into_iter().find(|name| is_resource(name)) {
        return Some(("ShortNamesConflict", taken(name)));
    }
    if is_kind(names("kind")) {
        return Some(("KindConflict", taken(names("kind"))));
    }
    is_kind(names("listKind")).then(|| ("ListKindConflict", taken(names("listKind"))))
}

/// Puts the definition's kinds into the catalogue, where they are not there just so.
async fn serve(server: &ApiServer, definition: &Object) -> Result<()> {
    let kinds = kinds_of(definition);
    // A change of status alone makes no new kinds: what was compiled for the old ones is kept.
    let is_known = |kind: &ResourceDef| {
        let served = server.catalogue.get(&kind.group, &kind.version, &kind.plural);
        served.is_some_and(|served| served.def.custom == kind.custom)
    };
    let all = server.catalogue.snapshot();
    let (own_group, own_plural) =
        (definition.str_at(&["spec", "group"]), definition.str_at(&["spec", "names", "plural"]));
    let served = all.ordered.iter().filter(|served| served.def.group == own_group && served.def.plural == own_plural);
    if kinds.iter().all(is_known) && served.count() == kinds.len() && !kinds.is_empty() {
        return Ok(());
    }
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
    if condition(definition, "Terminating") != "True" {
        let words = "CustomResource deletion is in progress".to_owned();
        let conditions = [("Terminating", "True", "InstanceDeletionInProgress", words)];
        report(server, definition, path, &conditions, false).await?;
    }
    let kinds = kinds_of(definition);
    // In the version that they are stored in they need no conversion, which may be out of order.
    let stored =
        kinds.iter().find(|kind| kind.custom.as_ref().is_some_and(|custom| custom.storage_version == kind.version));
    if let Some(served) = stored.or(kinds.first()) {
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
    wanted: &[Condition],
    accepts_names: bool,
) -> Result<()> {
    let now = clock::rfc3339(server.clock().now());
    let mut conditions = definition.list_at(&["status", "conditions"]).to_vec();
    // Unlike the others it is there only where it holds.
    if !wanted.iter().any(|(kind, ..)| *kind == NOT_STRUCTURAL) {
        conditions.retain(|condition| condition.str_at(&["type"]) != NOT_STRUCTURAL);
    }
    for (kind, status, reason, message) in wanted {
        let same = |condition: &&mut Value| condition.str_at(&["type"]) == *kind;
        let new =
            json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": now});
        match conditions.iter_mut().find(same) {
            Some(condition) => {
                let moved = condition.str_at(&["status"]) != *status;
                let since = condition.str_at(&["lastTransitionTime"]).to_owned();
                *condition = new;
                if !moved && !since.is_empty() {
                    condition["lastTransitionTime"] = since.into();
                }
            }
            None => conditions.push(new),
        }
    }
    let mut status = json!({"conditions": conditions});
    if accepts_names {
        status["acceptedNames"] = definition.at(&["spec", "names"]).cloned().unwrap_or_default();
    }
    send(server, Method::PATCH, &format!("{path}/status"), &json!({"status": status})).await?;
    Ok(())
}

/// A request of the server's own, through the one door.
pub(crate) async fn send(server: &Arc<ApiServer>, method: Method, path: &str, body: &Value) -> Result<Object> {
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
