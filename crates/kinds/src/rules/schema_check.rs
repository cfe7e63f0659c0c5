//! What the schema alone tells of an object: required fields that are empty, and values outside their enumeration.
//! It is the check of every kind that has no further rules.

use serde_json::Value;
use skiff_object::{ErrorList, Object};

use crate::def::Context;
use crate::rules::check::{At, Faults};
use crate::rules::tree::is_blank;
use crate::schema::{Definition, Shape, Type, definition};

/// How deep types may nest; some refer to themselves.
const DEPTH_LIMIT: usize = 32;

/// Checks an object against the schema of its kind.
pub fn validate(context: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if let Some(definition) = definition(&context.def.schema) {
        let is_own = |name: &str| !matches!(name, "apiVersion" | "kind" | "metadata" | "status");
        fields(&mut faults, definition, &At::root(object), &is_own, 0);
    }
    faults.into_list()
}

fn fields(faults: &mut Faults, definition: &Definition, at: &At, wanted: &dyn Fn(&str) -> bool, depth: usize) {
    if definition.shape != Shape::Struct || depth > DEPTH_LIMIT {
        return;
    }
    for field in definition.fields.iter().filter(|field| wanted(field.name)) {
        let place = at.get(field.name);
        if field.required && is_missing(place.node(), &field.ty) {
            faults.required(&place, "");
            continue;
        }
        let allowed: Vec<_> = field.allowed.iter().map(String::as_str).collect();
        if !allowed.is_empty() && !place.is_blank() && place.value().is_string() {
            faults.choice(&place, &allowed);
        }
        parts(faults, &field.ty, &place, depth + 1);
    }
}

fn parts(faults: &mut Faults, ty: &Type, at: &At, depth: usize) {
    match ty {
        Type::List(inner) => at.items().iter().for_each(|item| parts(faults, inner, item, depth)),
        Type::Map(inner) => at.entries().iter().for_each(|(_, entry)| parts(faults, inner, entry, depth)),
        Type::Ref(_) if at.value().is_object() => {
            if let Some(definition) = ty.definition() {
                fields(faults, definition, at, &|_| true, depth);
            }
        }
        _ => {}
    }
}

/// Texts and lists must say something; numbers, flags and maps need only be there.
fn is_missing(node: Option<&Value>, ty: &Type) -> bool {
    match ty {
        Type::String | Type::List(_) => is_blank(node),
        _ => false,
    }
}
