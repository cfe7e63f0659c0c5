//! What every kind does before it is written: a creation starts without status, a write of the object keeps the
//! status, a write of the status keeps the rest, and a change of the specification raises the generation.

use serde_json::Value;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::decode::decode_definition;
use crate::def::{Context, ResourceDef};
use crate::rules::tree::{carry_over, empty};
use crate::schema::definition;

/// The metadata that no write of the status changes; labels and annotations are free, as upstream has it.
const KEPT_METADATA: &[&str] = &["generation", "deletionTimestamp", "deletionGracePeriodSeconds", "ownerReferences"];

/// Prepares a creation: no status yet, and the first generation.
pub fn create(context: &Context, object: &mut Object) {
    if context.def.has_status() {
        object.set_at(&["status"], empty_status(context.def));
    }
    if context.def.has_generation {
        object.set_at(&["metadata", "generation"], 1);
    }
}

/// A status that says nothing: what upstream writes always (such as `replicas: 0`) is there.
fn empty_status(def: &ResourceDef) -> Value {
    let field = definition(&def.schema).and_then(|definition| definition.field("status"));
    let status = field.and_then(|field| field.ty.definition());
    status.and_then(|status| decode_definition(status, empty().into()).ok()).unwrap_or_else(empty)
}

/// Prepares a creation that starts with a status of its own.
pub fn create_with_status(context: &Context, object: &mut Object, status: Value) {
    create(context, object);
    object.set_at(&["status"], status);
}

/// Prepares an update of the object or of its status.
pub fn update(context: &Context, new: &mut Object, old: &Object) {
    if context.subresource == "status" {
        keep_all_but_status(new, old);
        for field in context.def.status_keeps.iter() {
            carry_over(new, old, &["metadata", field]);
        }
        return;
    }
    if context.def.has_status() {
        carry_over(new, old, &["status"]);
    }
    raise_generation(context, new, old);
}

/// Makes a write of the status one that changes nothing else but labels, annotations and the like.
pub fn keep_all_but_status(new: &mut Object, old: &Object) {
    let mut written = std::mem::replace(new, old.clone());
    for field in ["metadata", "status"] {
        let value = written.get_mut(field).map(Value::take).unwrap_or_else(empty);
        new.set_at(&[field], value);
    }
    for field in KEPT_METADATA {
        carry_over(new, old, &["metadata", field]);
    }
}

/// Gives the object the generation that follows where anything but metadata and status has changed,
/// and when a deletion begins; otherwise the one that it had.
pub fn raise_generation(context: &Context, new: &mut Object, old: &Object) {
    if !context.def.has_generation {
        return;
    }
    let begins_deletion = new.is_deleting() && !old.is_deleting();
    let generation = old.generation() + i64::from(begins_deletion || is_respecified(new, old));
    new.set_at(&["metadata", "generation"], generation);
}

/// Gives the object the generation that follows, unless that was done already.
pub fn raise_generation_for(new: &mut Object, old: &Object, is_changed: bool) {
    if is_changed && new.generation() == old.generation() {
        new.set_at(&["metadata", "generation"], old.generation() + 1);
    }
}

fn is_respecified(new: &Object, old: &Object) -> bool {
    let own = |object: &Object| {
        let fields = object.as_object().into_iter().flatten();
        let own = fields.filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status" | "kind" | "apiVersion"));
        own.map(|(name, value)| (name.clone(), value.clone())).collect::<Vec<_>>()
    };
    own(new) != own(old)
}
