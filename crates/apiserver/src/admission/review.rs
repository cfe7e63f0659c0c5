//! What a webhook or a policy is told of a request: the fields of an AdmissionReview's request.

use serde_json::{Value, json};
use skiff_kinds::ResourceDef;
use skiff_object::Object;

use super::matching::Shown;
use super::{Attributes, Operation};
use crate::storage::catalogue::Served;
use crate::sub::user_tree;

fn kind(def: &ResourceDef) -> Value {
    json!({"group": def.group, "version": def.version, "kind": def.kind})
}

fn resource(def: &ResourceDef) -> Value {
    json!({"group": def.group, "version": def.version, "resource": def.plural})
}

/// The kind of what is written: a subresource may have one of its own.
fn written_kind(attributes: &Attributes<'_>, def: &ResourceDef) -> Value {
    let scale = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
    match def.subresource(attributes.subresource) {
        Some(skiff_kinds::Subresource::Scale { .. }) => scale,
        Some(skiff_kinds::Subresource::Special { kind: (group, version, kind), .. }) if !kind.is_empty() => {
            json!({"group": group, "version": version, "kind": kind})
        }
        _ => kind(def),
    }
}

/// The request without its objects, as expressions see it.
pub fn request(attributes: &Attributes<'_>, shown: &Shown) -> Value {
    let def: &ResourceDef = match shown {
        Shown::Same => attributes.def,
        Shown::As(served) => &served.def,
    };
    let mut request = json!({
        "kind": written_kind(attributes, def),
        "resource": resource(def),
        "requestKind": written_kind(attributes, attributes.def),
        "requestResource": resource(attributes.def),
        "name": attributes.name,
        "namespace": attributes.namespace,
        "operation": attributes.operation.name(),
        "userInfo": user_tree(&attributes.call.user),
        "dryRun": attributes.dry_run,
        "options": options(attributes),
    });
    if !attributes.subresource.is_empty() {
        request["subResource"] = attributes.subresource.into();
        request["requestSubResource"] = attributes.subresource.into();
    }
    request
}

fn options(attributes: &Attributes<'_>) -> Value {
    let kind = match (attributes.operation, attributes.call.info.verb.as_str()) {
        (Operation::Connect, _) => return Value::Null,
        (Operation::Delete, _) => "DeleteOptions",
        (_, "patch") => "PatchOptions",
        (Operation::Create, _) => "CreateOptions",
        (Operation::Update, _) => "UpdateOptions",
    };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if attributes.dry_run {
        options["dryRun"] = json!(["All"]);
    }
    let manager = attributes.call.query.text("fieldManager");
    if !manager.is_empty() {
        options["fieldManager"] = manager.into();
    }
    let validation = attributes.call.query.text("fieldValidation");
    if !validation.is_empty() {
        options["fieldValidation"] = validation.into();
    }
    options
}

/// A whole review.
pub fn review(
    attributes: &Attributes<'_>,
    shown: &Shown,
    uid: &str,
    object: Option<&Object>,
    old: Option<&Object>,
) -> Value {
    let mut request = request(attributes, shown);
    request["uid"] = uid.into();
    request["object"] = object.map_or(Value::Null, |object| convert(attributes, shown, object));
    request["oldObject"] = old.map_or(Value::Null, |old| convert(attributes, shown, old));
    json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request})
}

/// An object in the version in which it is shown.
pub fn convert(attributes: &Attributes<'_>, shown: &Shown, object: &Object) -> Object {
    let Shown::As(served) = shown else { return object.clone() };
    let own = attributes.server.catalogue.get(&attributes.def.group, &attributes.def.version, &attributes.def.plural);
    between(own.as_deref(), Some(served), object)
}

/// An object that was shown in another version, back in the one in which it came.
pub fn convert_back(attributes: &Attributes<'_>, shown: &Shown, object: &Object) -> Object {
    let Shown::As(served) = shown else { return object.clone() };
    let own = attributes.server.catalogue.get(&attributes.def.group, &attributes.def.version, &attributes.def.plural);
    between(Some(served), own.as_deref(), object)
}

fn between(from: Option<&Served>, to: Option<&Served>, object: &Object) -> Object {
    let mut object = object.clone();
    if let Some(conversion) = from.and_then(|served| served.conversion) {
        (conversion.to_storage)(&mut object);
    }
    if let Some(to) = to {
        if let Some(conversion) = to.conversion {
            (conversion.from_storage)(&mut object);
        }
        object["kind"] = to.def.kind.as_ref().into();
        object["apiVersion"] = to.def.group_version().to_string().into();
    }
    object
}
