//! Who owns which fields: `metadata.managedFields` of every write, and server-side apply.
//! See <https://kubernetes.io/docs/reference/using-api/server-side-apply/>.

use skiff_base::{Timestamp, clock};
use skiff_kinds::decode::{FieldValidation, decode_definition, decode_tree};
use skiff_kinds::schema::{apply as schemas, definition};
use skiff_object::apply::{self, Custom, Schema, Set, Versions, Write};
use skiff_object::meta::Meta;
use skiff_object::node::Node;
use skiff_object::{FieldError, FieldPath, GroupKind, Object, Status, validate, yaml};

use crate::call::Call;
use crate::failure::Result;
use crate::http::answer::Answer;
use crate::server::ApiServer;
use crate::storage::catalogue::Served;
use crate::write::versions::Converted;
use crate::write::{Target, decode, metadata, update};

/// The longest name of a manager, as upstream's.
const MAX_MANAGER_BYTES: usize = 128;
/// How often a webhook is asked for what an apply has to see in other versions, while the object moves.
const MAX_LESSONS: usize = 16;

/// Who writes: the query says so, or the user agent.
fn manager(target: &Target<'_>) -> String {
    if !target.options.field_manager.is_empty() {
        return target.options.field_manager.clone();
    }
    let agent = target.call.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let program = agent.split('/').next().unwrap_or("");
    let printable = program.chars().filter(|letter| !letter.is_control());
    let name: String = printable.take(MAX_MANAGER_BYTES).collect();
    if name.is_empty() { "unknown".to_owned() } else { name }
}

/// What the ownership of a write is computed from.
struct Facts {
    manager: String,
    api_version: String,
    now: String,
    ignored: Set,
}

impl Facts {
    fn of(target: &Target<'_>) -> Self {
        let def = &target.served.def;
        Self {
            manager: manager(target),
            api_version: def.group_version().to_string(),
            now: clock::rfc3339(target.call.now),
            ignored: apply::ignored_fields(def.has_status(), &target.subresource, &def.status_keeps),
        }
    }

    fn write<'a>(
        &'a self,
        target: &'a Target<'_>,
        custom: Option<&'a Custom>,
        converted: Option<&'a Converted<'_>>,
    ) -> Write<'a> {
        let def = &target.served.def;
        let versions = converted.map_or(&**def as &dyn Versions, |converted| converted);
        let known = || definition(&def.schema).map_or(Schema::Deduced, schemas::of_definition);
        Write {
            manager: &self.manager,
            subresource: &target.subresource,
            api_version: &self.api_version,
            now: &self.now,
            schema: custom.map_or_else(known, |custom| Schema::Map(custom)),
            blank: target.served.blank(),
            ignored: &self.ignored,
            versions: Some(versions),
        }
    }
}

/// How a custom kind merges.
pub(super) fn custom(served: &Served) -> Option<Custom> {
    let metadata = definition("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    let metadata = metadata.map_or(Schema::Deduced, schemas::of_definition);
    served.def.inline_schema.clone().map(|schema| Custom { schema, metadata })
}

/// Writes down who owns what a create or an update has changed.
pub async fn track(target: &Target<'_>, live: Option<&Object>, new: &mut Object) {
    match Converted::of(target.server, target.served) {
        None => apply::track(live, new, &Facts::of(target).write(target, custom(target.served).as_ref(), None)),
        // On the heap: few kinds have a webhook, and all have to make room for what is kept while it is asked.
        Some(converted) => Box::pin(track_converted(target, live, new, &converted)).await,
    }
}

async fn track_converted(target: &Target<'_>, live: Option<&Object>, new: &mut Object, converted: &Converted<'_>) {
    let (facts, custom) = (Facts::of(target), custom(target.served));
    let mut learnt = Ok(true);
    while let Ok(true) = learnt {
        let mut tracked = new.clone();
        apply::track(live, &mut tracked, &facts.write(target, custom.as_ref(), Some(converted)));
        learnt = converted.learn(target.server).await;
        if let Ok(false) = learnt {
            *new = tracked;
        }
    }
    if let Err(failure) = learnt {
        // As upstream does: the write goes on, and nobody owns what nobody can tell.
        tracing::warn!(why = failure.0.message, "the owners of a custom object's fields are lost");
        new.remove_at(&["metadata", "managedFields"]);
    }
}

/// An object with another merged into it by the rules of server-side apply; who owns what stays as it is.
pub fn overlay(served: &Served, now: Timestamp, object: &Object, part: &Object) -> Result<Object> {
    let def = &served.def;
    let mut part = part.clone();
    part["kind"] = def.kind.as_ref().into();
    part["apiVersion"] = def.group_version().to_string().into();
    let (ignored, api_version) = (apply::ignored_fields(false, "", &[""; 0]), def.group_version().to_string());
    let custom = custom(served);
    let known = || definition(&def.schema).map_or(Schema::Deduced, schemas::of_definition);
    let write = Write {
        manager: "admission",
        subresource: "",
        api_version: &api_version,
        now: &clock::rfc3339(now),
        schema: custom.as_ref().map_or_else(known, |custom| Schema::Map(custom)),
        blank: served.blank(),
        ignored: &ignored,
        versions: None,
    };
    let mut live = object.clone();
    let owners = live.remove_at(&["metadata", "managedFields"]);
    let mut merged = apply::apply(Some(&live), &part, &write, true)?;
    match owners {
        Some(owners) => merged.set_at(&["metadata", "managedFields"], owners),
        None => drop(merged.remove_at(&["metadata", "managedFields"])),
    }
    Ok(merged)
}

/// Reads what an apply wants, once its manager is known to have a good name.
pub fn configuration(target: &Target<'_>, body: &[u8]) -> Result<Object> {
    let path = FieldPath::new("fieldManager");
    let errors = if target.options.field_manager.is_empty() {
        vec![FieldError::required(&path, "is required for apply patch")]
    } else {
        validate::field_manager(&target.options.field_manager, &path)
    };
    if !errors.is_empty() {
        return Err(Status::invalid(&GroupKind::new("meta.k8s.io", "PatchOptions"), "", &errors).into());
    }
    let config = yaml::parse(body).map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    if target.options.field_validation != FieldValidation::Ignore && config.has_duplicates() {
        let (line, key) = yaml::duplicate(body).unwrap_or_default();
        let fault = format!("line {line}: key {key:?} already set in map");
        if target.options.field_validation == FieldValidation::Strict {
            let why = format!("error converting YAML to JSON: yaml: unmarshal errors:\n  {fault}");
            return Err(Status::bad_request(format!("error strict decoding YAML: {why}")).into());
        }
        target.call.warn(fault);
    }
    Ok(config.into_value())
}

/// Applies a configuration to the scale of an object, and gives the object's managed fields to it.
/// The number stands at `replicas` of the object.
pub fn apply_scale(
    target: &Target<'_>,
    old: &Object,
    mut scale: Object,
    config: &Object,
    replicas: &[&str],
) -> Result<Object> {
    const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";
    let definition =
        definition(SCALE).ok_or_else(|| Status::internal(format_args!("there is no definition {SCALE:?}")))?;
    let blank = decode_definition(definition, Node::Map(Vec::new())).map_err(Status::internal)?;
    let facts = Facts::of(target);
    let ignored = apply::ignored_fields(true, "", &[""; 0]);
    let schema = schemas::of_definition(definition);
    let write = Write {
        api_version: "autoscaling/v1",
        schema,
        blank: &blank,
        ignored: &ignored,
        versions: None,
        ..facts.write(target, None, None)
    };
    scale.set_at(&["metadata", "managedFields"], apply::scale_entries(old, replicas));
    let mut scale = apply::apply(Some(&scale), config, &write, target.options.force)?;
    let entries = apply::entries_behind_scale(old, &scale, replicas, &facts.api_version);
    scale.set_at(&["metadata", "managedFields"], entries);
    Ok(scale)
}

/// Answers a server-side apply: a patch that creates where there is nothing.
pub async fn answer(server: &ApiServer, call: &Call, body: &[u8]) -> Result<Answer> {
    let mut target = Target::of(server, call)?;
    target.applied = true;
    let config = configuration(&target, body)?;
    // Only to find mistyped fields: what is applied is what was sent, not what the decoder adds.
    let mut checked = decode_tree(&call.served.def, config.clone(), FieldValidation::Ignore)?.object;
    metadata::settle_namespace(&call.served.def, &mut checked, &target.namespace)?;
    let (facts, custom) = (Facts::of(&target), custom(target.served));
    let converted = Converted::of(server, &call.served);
    let write = facts.write(&target, custom.as_ref(), converted.as_ref());
    let force = target.options.force;
    let there = target.stored().await?;
    // What is there has its name; only what is made must bring one.
    if there.is_none() || !checked.name().is_empty() {
        update::check_name(&checked, &target.name)?;
    }
    if there.is_none() {
        if !target.subresource.is_empty() {
            return Err(target.not_found().into());
        }
        let object = apply::apply(None, &config, &write, force)?;
        let object = decode::recheck(&target, object)?;
        return update::create_instead(target.clone(), object).await;
    }
    let merged = |old: &Object| {
        let new = apply::apply(Some(old), &config, &write, force);
        if converted.as_ref().is_some_and(Converted::is_lacking) {
            return Err(Status::internal("another version is to be looked at first").into());
        }
        decode::recheck(&target, new?)
    };
    let Some(converted) = &converted else { return update::change(&target, merged).await?.answer(call) };
    for _ in 0..MAX_LESSONS {
        let changed = update::change(&target, merged).await;
        if !converted.learn(server).await? {
            return changed?.answer(call);
        }
    }
    Err(Status::modified(&call.served.def.group_resource(), &target.name).into())
}
