//! What a controller wants done: plain data that a test can read and the runner carries out without choices of its own.

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use skiff_client::events::reference;
use skiff_client::{Kind, ObjectKey, Patch, Resource};

/// Steps to be taken in order, and when to look again though nothing changed.
#[derive(Debug, Default)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
    /// When to look again.
    pub again_after: Option<Duration>,
}

/// One step of a plan.
#[derive(Debug)]
pub enum Step {
    /// One action; where it fails the rest of the plan is not carried out.
    One(Box<Action>),
    /// Many alike, begun slowly (1, 2, 4, ... at once) so that a common cause of failure shows early.
    /// Where some fail the plan goes on, so that status is told, and the key is tried again.
    Burst(Vec<Action>),
}

/// A write with the events that tell of it.
#[derive(Debug)]
pub struct Action {
    /// What is written.
    pub write: Write,
    /// What is told when it succeeded.
    pub done: Option<Note>,
    /// What is told when it failed; the error is appended to the message.
    pub failed: Option<Note>,
    /// An object that must not be on its way out, asked of the server itself before the write: caches of different
    /// kinds are not equally new.
    pub guard: Option<Guard>,
}

/// An object that must be there still.
#[derive(Debug)]
pub struct Guard {
    /// Which.
    pub target: Target,
    /// Its UID.
    pub uid: String,
}

/// One request.
#[derive(Debug)]
pub enum Write {
    /// Nothing but the event.
    Nothing,
    /// A new object.
    Create(Target, Value),
    /// An object in place of the one with the same resourceVersion.
    Update(Target, Value),
    /// A change of parts.
    Patch(Target, Patch),
    /// The end of the object with this UID.
    Delete(Target, Deletion),
}

/// Which object is written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its resource.
    pub resource: Resource,
    /// Its namespace and name.
    pub key: ObjectKey,
    /// `status`, or empty.
    pub subresource: &'static str,
}

/// How an object is deleted.
#[derive(Debug, Clone, Default)]
pub struct Deletion {
    /// Only the object with this UID.
    pub uid: String,
    /// Only in the state of this resourceVersion.
    pub version: Option<String>,
    /// Overrides the object's own grace period.
    pub grace_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation: Option<&'static str>,
}

/// An event to be recorded.
#[derive(Debug, Clone)]
pub struct Note {
    /// What it is about.
    pub about: ObjectReference,
    /// Whether something is wrong.
    pub warning: bool,
    /// For programs.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Note {
    /// An event that all went as it should.
    pub fn normal<K: Kind>(about: &K, reason: &'static str, message: impl Into<String>) -> Self {
        Self { about: reference(about), warning: false, reason, message: message.into() }
    }

    /// An event that something went wrong.
    pub fn warning<K: Kind>(about: &K, reason: &'static str, message: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(about, reason, message) }
    }
}

impl Target {
    /// The object with this metadata.
    pub fn of<K: Kind>(meta: &ObjectMeta) -> Self {
        Self { resource: K::resource(), key: ObjectKey::of(meta), subresource: "" }
    }

    /// Its path in the API.
    pub fn path(&self) -> String {
        self.resource.object_path(&self.key.namespace, &self.key.name, self.subresource)
    }

    fn status(self) -> Self {
        Self { subresource: "status", ..self }
    }
}

impl Action {
    fn of(write: Write) -> Self {
        Self { write, done: None, failed: None, guard: None }
    }

    /// Creates the object.
    pub fn create<K: Kind>(object: &K) -> Self {
        Self::of(Write::Create(Target::of::<K>(object.metadata()), encoded(object)))
    }

    /// Replaces the object.
    pub fn update<K: Kind>(object: &K) -> Self {
        Self::of(Write::Update(Target::of::<K>(object.metadata()), encoded(object)))
    }

    /// Replaces the object's status.
    pub fn update_status<K: Kind>(object: &K) -> Self {
        Self::of(Write::Update(Target::of::<K>(object.metadata()).status(), encoded(object)))
    }

    /// Changes part of the object.
    pub fn patch<K: Kind>(meta: &ObjectMeta, patch: Patch) -> Self {
        Self::of(Write::Patch(Target::of::<K>(meta), patch))
    }

    /// Changes part of the object's status.
    pub fn patch_status<K: Kind>(meta: &ObjectMeta, patch: Patch) -> Self {
        Self::of(Write::Patch(Target::of::<K>(meta).status(), patch))
    }

    /// Deletes the object.
    pub fn delete<K: Kind>(object: &K) -> Self {
        let uid = object.metadata().uid.clone().unwrap_or_default();
        Self::of(Write::Delete(Target::of::<K>(object.metadata()), Deletion { uid, ..Deletion::default() }))
    }

    /// Deletes the object with a grace period of the caller's.
    pub fn delete_within<K: Kind>(object: &K, grace_seconds: i64) -> Self {
        let uid = object.metadata().uid.clone().unwrap_or_default();
        let deletion = Deletion { uid, grace_seconds: Some(grace_seconds), ..Deletion::default() };
        Self::of(Write::Delete(Target::of::<K>(object.metadata()), deletion))
    }

    /// Deletes the object only if it is still as it was seen.
    pub fn delete_as_seen<K: Kind>(object: &K) -> Self {
        let mut action = Self::delete(object);
        if let Write::Delete(_, deletion) = &mut action.write {
            deletion.version = object.metadata().resource_version.clone();
        }
        action
    }

    /// Deletes with this propagation policy.
    pub fn with_propagation(mut self, policy: &'static str) -> Self {
        if let Write::Delete(_, deletion) = &mut self.write {
            deletion.propagation = Some(policy);
        }
        self
    }

    /// Records an event and writes nothing.
    pub fn tell(note: Note) -> Self {
        Self { done: Some(note), ..Self::of(Write::Nothing) }
    }

    /// Writes only while the owner stays.
    pub fn only_while<K: Kind>(self, owner: &K) -> Self {
        let meta = owner.metadata();
        let guard = Guard { target: Target::of::<K>(meta), uid: meta.uid.clone().unwrap_or_default() };
        Self { guard: Some(guard), ..self }
    }

    /// Records `note` on success.
    pub fn and_tell(self, note: Note) -> Self {
        Self { done: Some(note), ..self }
    }

    /// Records `note` on failure, the error behind its message.
    pub fn or_tell(self, note: Note) -> Self {
        Self { failed: Some(note), ..self }
    }
}

fn encoded<K: Kind>(object: &K) -> Value {
    serde_json::to_value(object).unwrap_or_else(|error| {
        // The generated types serialize unconditionally; a plan with a null body is refused by the server.
        tracing::error!(%error, "object does not serialize");
        json!(null)
    })
}

impl Plan {
    /// Nothing to do.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Appends one action.
    pub fn then(&mut self, action: Action) {
        self.steps.push(Step::One(Box::new(action)));
    }

    /// Appends many actions that go together.
    pub fn burst(&mut self, actions: Vec<Action>) {
        if !actions.is_empty() {
            self.steps.push(Step::Burst(actions));
        }
    }

    /// Looks again after `delay` at the latest.
    pub fn look_again(&mut self, delay: Duration) {
        self.again_after = Some(self.again_after.map_or(delay, |earlier| earlier.min(delay)));
    }

    /// All actions in order.
    pub fn actions(&self) -> impl Iterator<Item = &Action> {
        self.steps.iter().flat_map(|step| match step {
            Step::One(action) => std::slice::from_ref(&**action),
            Step::Burst(actions) => actions.as_slice(),
        })
    }
}

impl fmt::Display for Plan {
    /// One line per action, as tests compare it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for action in self.actions() {
            writeln!(f, "{action}")?;
        }
        if let Some(delay) = self.again_after {
            writeln!(f, "look again in {} s", delay.as_secs())?;
        }
        Ok(())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.write {
            Write::Nothing => f.write_str("tell")?,
            Write::Create(target, body) => write!(f, "create {target} {}", brief(body, ""))?,
            Write::Update(target, body) => write!(f, "update {target} {}", brief(body, target.subresource))?,
            Write::Patch(target, Patch::Json(body) | Patch::Merge(body) | Patch::Strategic(body)) => {
                write!(f, "patch {target} {body}")?;
            }
            Write::Delete(target, _) => write!(f, "delete {target}")?,
        }
        if let Some(note) = &self.done {
            write!(f, " [{}: {}]", note.reason, note.message)?;
        }
        Ok(())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.resource.plural)?;
        if !self.subresource.is_empty() {
            write!(f, "/{}", self.subresource)?;
        }
        write!(f, " {}", self.key)
    }
}

/// The telling part of a body: status for status writes, otherwise all but the well-known boilerplate.
fn brief(body: &Value, subresource: &str) -> String {
    if !subresource.is_empty() {
        return body.get(subresource).unwrap_or(&Value::Null).to_string();
    }
    let mut body = body.clone();
    if let Some(map) = body.as_object_mut() {
        map.retain(|key, _| !matches!(key.as_str(), "apiVersion" | "kind" | "status"));
    }
    if let Some(meta) = body.get_mut("metadata").and_then(Value::as_object_mut) {
        let boilerplate = ["name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp"];
        meta.retain(|key, _| !boilerplate.contains(&key.as_str()));
    }
    body.to_string()
}
