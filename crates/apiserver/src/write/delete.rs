//! Deleting: at once, gracefully, or once finalizers let go.
//! See <https://kubernetes.io/docs/concepts/overview/working-with-objects/finalizers/> and
//! <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>.

use futures_util::{FutureExt, StreamExt, TryStreamExt};
use serde_json::{Value, json};
use skiff_base::{Timestamp, clock};
use skiff_kinds::ResourceDef;
use skiff_kinds::def::Deletion;
use skiff_object::meta::Meta;
use skiff_object::{FieldError, FieldPath, GroupKind, Object, Status};

use crate::admission::Operation;
use crate::alloc::Claims;
use crate::call::Call;
use crate::custom::convert;
use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::read::{list, present};
use crate::server::ApiServer;
use crate::write::{Committed, Target, decode};

/// How often a deletion is tried against a moving object.
const TRIES: usize = 10;
/// How many objects of a collection are deleted at a time. Upstream's flag of this meaning is 1 by default; its store syncs
/// once for many clients all the same, ours waits for who writes together.
const COLLECTION_WORKERS: usize = 64;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Kinds that answer a delete with the object, where the others answer with a Status.
const RETURN_OBJECT: [&str; 7] = [
    "pods",
    "persistentvolumeclaims",
    "persistentvolumes",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "storageclasses",
];

/// What a delete asks for, from its body and its query.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DeleteOptions {
    grace: Option<i64>,
    policy: Option<Policy>,
    uid: Option<String>,
    revision: Option<String>,
}

/// What becomes of an object's dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// What is to be done with an object that is to be deleted.
#[derive(Debug, PartialEq)]
pub enum Plan {
    /// Remove it now.
    Remove,
    /// Write this, and wait for whoever holds it.
    Mark(Object),
    /// Nothing: it is on its way already.
    Wait,
}

impl DeleteOptions {
    /// Reads body and query; the body wins where it says something.
    pub fn read(call: &Call, body: &[u8]) -> Result<(Self, bool)> {
        let given = if body.is_empty() { json!({}) } else { decode::tree(call, body)? };
        Self::of(call, &given)
    }

    /// Reads options that are given as a tree, and the query.
    pub fn of(call: &Call, given: &Object) -> Result<(Self, bool)> {
        let (query, mut errors) = (&call.query, Vec::new());
        let kind = given.str_at(&["kind"]);
        if !matches!(kind, "" | "DeleteOptions") {
            let text = format!("{kind} cannot be handled as a DeleteOptions");
            return Err(Status::bad_request(text).into());
        }
        let grace = given.int_at(&["gracePeriodSeconds"]).or_else(|| query.text("gracePeriodSeconds").parse().ok());
        let orphan = given
            .at(&["orphanDependents"])
            .and_then(Value::as_bool)
            .or_else(|| query.get("orphanDependents").map(|_| query.flag("orphanDependents")));
        let policy = match given.str_at(&["propagationPolicy"]) {
            "" => query.text("propagationPolicy"),
            policy => policy,
        };
        if !policy.is_empty() && orphan.is_some() {
            let text = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(FieldError::invalid(&FieldPath::new("propagationPolicy"), policy, text));
        }
        let policy = match policy {
            "" => orphan.map(|orphan| if orphan { Policy::Orphan } else { Policy::Background }),
            "Background" => Some(Policy::Background),
            "Foreground" => Some(Policy::Foreground),
            "Orphan" => Some(Policy::Orphan),
            other => {
                let path = FieldPath::new("propagationPolicy");
                errors.push(FieldError::not_supported(&path, other, &["Background", "Foreground", "Orphan", "nil"]));
                None
            }
        };
        let dry: Vec<&str> = given.list_at(&["dryRun"]).iter().filter_map(Value::as_str).collect();
        if let Some(other) = dry.iter().find(|value| **value != "All") {
            errors.push(FieldError::not_supported(&FieldPath::new("dryRun"), *other, &["All"]));
        }
        if !errors.is_empty() {
            return Err(Status::invalid(&GroupKind::new("meta.k8s.io", "DeleteOptions"), "", &errors).into());
        }
        let text = |path: &[&str]| given.at(path).and_then(Value::as_str).map(str::to_owned);
        let options = Self {
            grace,
            policy,
            uid: text(&["preconditions", "uid"]),
            revision: text(&["preconditions", "resourceVersion"]),
        };
        Ok((options, !dry.is_empty()))
    }
}

/// Answers a delete.
pub async fn delete(server: &ApiServer, call: &Call, body: &[u8]) -> Result<Answer> {
    let mut target = Target::of(server, call)?;
    let (options, dry_run) = DeleteOptions::read(call, body)?;
    target.options.dry_run |= dry_run;
    let (object, gone) = object_of(&target, &options).await?;
    let def = &call.served.def;
    let shown = !gone || (def.group.is_empty() && RETURN_OBJECT.contains(&def.plural.as_ref()));
    if shown {
        return present::object_answer(call, 200, &object);
    }
    let mut status = json!(Status::success(&def.group_resource(), object.name(), object.uid()));
    status.remove_at(&["code"]);
    Ok(answer::tree(200, &status, &call.accepted))
}

/// Answers a deletecollection: every selected object is deleted on its own.
pub async fn collection(server: &ApiServer, call: &Call, body: &[u8]) -> Result<Answer> {
    let target = Target::of(server, call)?;
    let (options, dry_run) = DeleteOptions::read(call, body)?;
    let filter = list::filter_of(call)?;
    let page = list::page(server, call, &filter).await?;
    // Many at a time: their writes then share the disk's syncs, and a long list is done within a request's time.
    let mut deletions = Vec::with_capacity(page.entries.len());
    for entry in &page.entries {
        let mut one = target.clone();
        one.namespace = entry.namespace().to_owned();
        one.name = entry.name().to_owned();
        one.options.dry_run |= dry_run;
        deletions.push(delete_if_there(one, &options).boxed());
    }
    let deleted = futures_util::stream::iter(deletions).buffered(COLLECTION_WORKERS);
    let items: Vec<Object> = deleted.try_filter_map(|object| std::future::ready(Ok(object))).try_collect().await?;
    let def = &call.served.def;
    let list = json!({"kind": format!("{}List", def.kind), "apiVersion": def.group_version().to_string(),
        "metadata": {"resourceVersion": page.revision.to_string()}, "items": items});
    Ok(answer::tree(200, &list, &call.accepted))
}

/// Deletes one object of a collection; `None` where it is gone already.
async fn delete_if_there(target: Target<'_>, options: &DeleteOptions) -> Result<Option<Object>> {
    match object_of(&target, options).await {
        Ok((object, _)) => Ok(Some(object)),
        Err(failure) if failure.0.is_not_found() => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Deletes an object, or marks it; gives the object and whether it is gone.
pub async fn object_of(target: &Target<'_>, options: &DeleteOptions) -> Result<(Object, bool)> {
    let resource = target.served.def.group_resource();
    for _ in 0..TRIES {
        let current = target.stored().await?.ok_or_else(|| target.not_found())?;
        let current = convert::pair(target.server, target.served, current).await?;
        let old = present::decode(target.served, &current.value, current.mod_revision)?;
        check_preconditions(target, options, &old)?;
        target.admit(Operation::Delete, None, Some(&old)).await?;
        let plan = plan(&target.served.def, options, &old, target.call.now);
        let (value, shown) = match &plan {
            Plan::Wait => return Ok((old, false)),
            Plan::Mark(marked) => (Some(target.encode(marked)), marked),
            Plan::Remove => (None, &old),
        };
        let gone = value.is_none();
        if target.options.dry_run {
            return Ok((shown.clone(), gone));
        }
        let claims = if gone { target.server.allocators.end(target, &old) } else { Claims::default() };
        if let Committed::At(revision) = target.commit(current.mod_revision, value, &claims).await? {
            let mut shown = shown.clone();
            if !gone {
                shown.set_at(&["metadata", "resourceVersion"], revision.to_string());
            }
            return Ok((shown, gone));
        }
        // Somebody changed the object: look at it again, unless the client named the revision that it meant.
    }
    Err(Status::modified(&resource, &target.name).into())
}

fn check_preconditions(target: &Target<'_>, options: &DeleteOptions, old: &Object) -> Result<()> {
    let check = |wanted: &Option<String>, actual: &str, what: &str| {
        let wanted = wanted.as_deref().unwrap_or(actual);
        if wanted == actual {
            return Ok(());
        }
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {actual}");
        Err(Status::conflict(&target.served.def.group_resource(), &target.name, why).into())
    };
    check(&options.uid, old.uid(), "UID")?;
    check(&options.revision, old.resource_version(), "ResourceVersion")
}

/// Decides what a delete does to an object.
pub fn plan(def: &ResourceDef, options: &DeleteOptions, old: &Object, now: Timestamp) -> Plan {
    let mut new = old.clone();
    set_finalizers(&mut new, options.policy);
    let held = !new.finalizers().is_empty();
    match def.deletion {
        Deletion::GracefulPod => plan_pod(options, old, new, held, now),
        Deletion::Namespace => plan_namespace(old, new, held, now),
        Deletion::Immediate if !held => Plan::Remove,
        Deletion::Immediate => {
            if !old.is_deleting() {
                mark(&mut new, now, 0);
            }
            if new == *old { Plan::Wait } else { Plan::Mark(new) }
        }
    }
}

/// The finalizers that stand for a propagation policy; without one, what the object has stays.
fn set_finalizers(object: &mut Object, policy: Option<Policy>) {
    let Some(policy) = policy else { return };
    let mut finalizers: Vec<String> = object
        .finalizers()
        .into_iter()
        .filter(|name| *name != ORPHAN && *name != FOREGROUND)
        .map(str::to_owned)
        .collect();
    match policy {
        Policy::Background => {}
        Policy::Foreground => finalizers.push(FOREGROUND.into()),
        Policy::Orphan => finalizers.push(ORPHAN.into()),
    }
    if finalizers.is_empty() {
        object.remove_at(&["metadata", "finalizers"]);
    } else {
        object.set_at(&["metadata", "finalizers"], finalizers);
    }
}

fn mark(object: &mut Object, at: Timestamp, grace: i64) {
    object.set_at(&["metadata", "deletionTimestamp"], clock::rfc3339(at));
    object.set_at(&["metadata", "deletionGracePeriodSeconds"], grace);
    if object.generation() > 0 {
        object.set_at(&["metadata", "generation"], object.generation() + 1);
    }
}

/// A namespace goes when neither its spec nor its metadata holds it.
fn plan_namespace(old: &Object, mut new: Object, held: bool, now: Timestamp) -> Plan {
    if !held && new.list_at(&["spec", "finalizers"]).is_empty() {
        return Plan::Remove;
    }
    if !old.is_deleting() {
        new.set_at(&["metadata", "deletionTimestamp"], clock::rfc3339(now));
    }
    new.set_at(&["status", "phase"], "Terminating");
    if new == *old { Plan::Wait } else { Plan::Mark(new) }
}

/// A Pod that runs on a node gets its grace period; the node's agent confirms with a grace period of 0.
fn plan_pod(options: &DeleteOptions, old: &Object, mut new: Object, held: bool, now: Timestamp) -> Plan {
    let set = old.int_at(&["metadata", "deletionGracePeriodSeconds"]);
    if let (true, Some(set)) = (old.is_deleting(), set) {
        let wanted = options.grace.map_or(set, |grace| if grace < 0 { 1 } else { grace });
        if wanted < set {
            // The period may only get shorter, and counts from when the deletion began.
            let began = deletion_time(old).unwrap_or(now) - std::time::Duration::from_secs(set.max(0) as u64);
            let at = began + std::time::Duration::from_secs(wanted as u64);
            new.set_at(&["metadata", "deletionTimestamp"], clock::rfc3339(at));
            new.set_at(&["metadata", "deletionGracePeriodSeconds"], wanted);
        }
        return match (wanted.min(set), held) {
            (0, false) => Plan::Remove,
            _ if new == *old => Plan::Wait,
            _ => Plan::Mark(new),
        };
    }
    let grace = pod_grace(options, old);
    if grace == 0 && !held {
        return Plan::Remove;
    }
    mark(&mut new, now + std::time::Duration::from_secs(grace as u64), grace);
    Plan::Mark(new)
}

fn deletion_time(object: &Object) -> Option<Timestamp> {
    object.str_at(&["metadata", "deletionTimestamp"]).parse().ok()
}

fn pod_grace(options: &DeleteOptions, pod: &Object) -> i64 {
    const DEFAULT_GRACE_SECONDS: i64 = 30;
    let never_ran = pod.str_at(&["spec", "nodeName"]).is_empty();
    if never_ran || matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
        return 0;
    }
    let own = pod.int_at(&["spec", "terminationGracePeriodSeconds"]).unwrap_or(DEFAULT_GRACE_SECONDS);
    let grace = options.grace.unwrap_or(own);
    if grace < 0 { 1 } else { grace }
}
