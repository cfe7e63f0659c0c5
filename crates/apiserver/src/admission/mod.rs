//! Built-in admission: what may be created where, and what the cluster adds to objects on their way in.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/>.

pub mod conditions;
pub mod definition;
pub mod kept;
pub mod lifecycle;
pub mod matching;
pub mod plugins;
pub mod policy;
pub mod review;
pub mod status;
pub mod webhooks;

use std::fmt;
use std::time::Duration;

use skiff_kinds::ResourceDef;
use skiff_kinds::decode::{FieldValidation, decode_tree};
use skiff_object::meta::Meta;
use skiff_object::{GroupVersionKind, Object, Status};

use crate::authz::escalation;
use crate::call::Call;
use crate::custom;
use crate::failure::{Failure, Result};
use crate::metrics::{Step, WHOLE};
use crate::server::ApiServer;
use crate::write::managed;

use plugins::{Mutate, Validate};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// An object is created.
    Create,
    /// An object is changed.
    Update,
    /// An object is deleted.
    Delete,
    /// A tunnel is opened.
    Connect,
}

/// What admission knows of a write.
pub struct Attributes<'a> {
    /// The server.
    pub server: &'a ApiServer,
    /// The request.
    pub call: &'a Call,
    /// The kind.
    pub def: &'a ResourceDef,
    /// What is being done.
    pub operation: Operation,
    /// The namespace, or empty.
    pub namespace: &'a str,
    /// The name.
    pub name: &'a str,
    /// The subresource, or empty.
    pub subresource: &'a str,
    /// Whether nothing will be stored.
    pub dry_run: bool,
}

impl Attributes<'_> {
    /// Whether the object itself (not a subresource) of a kind is concerned.
    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.def.group == group && self.def.plural == resource && self.subresource.is_empty()
    }

    /// 403 with these words.
    pub fn forbidden(&self, why: impl fmt::Display) -> Failure {
        Status::forbidden(&self.def.group_resource(), self.name, why).into()
    }
}

/// Step 6: changes an object on its way in, or refuses it; tells whether the user's own programs changed it.
pub async fn mutate(attributes: &Attributes<'_>, object: &mut Object, old: Option<&Object>) -> Result<bool> {
    plugins::name_requester(attributes, object);
    let mut timer = Timer::new(attributes, Step::Admit);
    let mut changed = Ok(false);
    for (at, plugin) in attributes.server.plugins.active() {
        let outcome = match plugin.mutate {
            Mutate::No => continue,
            Mutate::Plain(mutate) => mutate(attributes, object, old).map(|()| false),
            Mutate::Waits(mutate) => mutate(attributes, object).await.map(|()| false),
            Mutate::Asks(mutate) => mutate(attributes, object, old).await,
        };
        timer.lap(at, outcome.is_err());
        changed = outcome.map(|more| more || changed.unwrap_or(false));
        if changed.is_err() {
            break;
        }
    }
    timer.finish(changed.is_err());
    changed
}

/// Step 9: refuses what may not be.
pub async fn validate(attributes: &Attributes<'_>, object: Option<&Object>, old: Option<&Object>) -> Result<()> {
    escalation::check(attributes, object, old).await?;
    let mut timer = Timer::new(attributes, Step::Validate);
    let mut outcome = Ok(());
    for (at, plugin) in attributes.server.plugins.active() {
        outcome = match plugin.validate {
            Validate::No => continue,
            Validate::Plain(validate) => validate(attributes, object, old),
            Validate::Waits(validate) => validate(attributes, object, old).await,
        };
        timer.lap(at, outcome.is_err());
        if outcome.is_err() {
            break;
        }
    }
    timer.finish(outcome.is_err());
    outcome
}

/// Whether somebody may want to see all of an object of which the server itself changes a part: rules and programs of the
/// user's. The plugins look at the objects that clients write.
pub fn must_see(attributes: &Attributes<'_>) -> bool {
    ["validatingadmissionpolicies", "validatingwebhookconfigurations"]
        .iter()
        .any(|plural| matching::is_any(attributes, plural))
}

/// Takes the time of a step and of each plugin in it.
struct Timer<'a> {
    attributes: &'a Attributes<'a>,
    step: Step,
    began: Duration,
    last: Duration,
}

impl<'a> Timer<'a> {
    fn new(attributes: &'a Attributes<'a>, step: Step) -> Self {
        let began = attributes.server.clock().monotonic();
        Self { attributes, step, began, last: began }
    }

    fn note(&self, plugin: usize, is_refused: bool, since: Duration) {
        let what = (self.attributes.operation, self.step);
        self.attributes.server.metrics.admitted(plugin, what, is_refused, self.last.saturating_sub(since));
    }

    fn lap(&mut self, plugin: usize, is_refused: bool) {
        let since = self.last;
        self.last = self.attributes.server.clock().monotonic();
        self.note(plugin, is_refused, since);
    }

    fn finish(self, is_refused: bool) {
        self.note(WHOLE, is_refused, self.began);
    }
}

/// Whether a tunnel may be opened; `options` is what its query asks for, as an object.
pub async fn connect(server: &ApiServer, call: &Call, options: &Object) -> Result<()> {
    let attributes = Attributes {
        server,
        call,
        def: &call.served.def,
        operation: Operation::Connect,
        namespace: call.info.namespace_of(&call.served.def),
        name: &call.info.name,
        subresource: &call.info.subresource,
        dry_run: false,
    };
    plugins::validating_policies(&attributes, Some(options), None).await?;
    plugins::validating_webhooks(&attributes, Some(options), None).await
}

/// An object as a webhook or a policy has left it, in the shape of its kind: unknown fields go, defaults come.
fn reshaped(attributes: &Attributes<'_>, object: Object) -> Result<Object> {
    let mut object = decode_tree(attributes.def, object, FieldValidation::Ignore)?.object;
    (attributes.def.default)(&mut object);
    if let Some(schema) = &attributes.def.inline_schema {
        custom::schema::prune(schema, &mut object);
        custom::schema::default(schema, &mut object);
    }
    Ok(object)
}

/// An object with another applied to it.
fn merged(attributes: &Attributes<'_>, object: &Object, part: &Object) -> std::result::Result<Object, String> {
    let (version, kind) = (object.str_at(&["apiVersion"]), object.str_at(&["kind"]));
    let (group, version) = version.split_once('/').unwrap_or(("", version));
    let snapshot = attributes.server.catalogue.snapshot();
    let served = snapshot.by_kind(&GroupVersionKind::new(group, version, kind));
    let served = served.ok_or_else(|| format!("{kind} of {group}/{version} is not served"))?;
    managed::overlay(served, attributes.call.now, object, part).map_err(|failure| failure.to_string())
}
