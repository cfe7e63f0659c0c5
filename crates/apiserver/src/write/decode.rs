//! Step 3: from a request's body to the tree of the kind that the path names.

use serde_json::Value;
use skiff_kinds::ResourceDef;
use skiff_object::{GroupVersion, Object, Status};

use crate::call::Call;
use crate::failure::Result;
use crate::http::negotiate::content_type;
use crate::write::Target;

/// The media types of request bodies.
pub const BODY_TYPES: [&str; 2] = ["application/json", "application/yaml"];

/// Reads a body as a tree, JSON or YAML as its type says.
pub fn tree(call: &Call, body: &[u8]) -> Result<Object> {
    match content_type(&call.headers) {
        "" | "application/json" | "*/*" => parse_json(body),
        "application/yaml" | "application/x-yaml" | "text/yaml" => crate::codec::from_yaml(body),
        _ => Err(Status::unsupported_media_type(&BODY_TYPES).into()),
    }
}

/// Reads JSON.
pub fn parse_json(body: &[u8]) -> Result<Object> {
    serde_json::from_slice(body).map_err(|error| {
        let excerpt = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        Status::bad_request(format!(
            "couldn't get version/kind; json parse error: {error}, error found near {excerpt:?}"
        ))
        .into()
    })
}

/// Reads a patch, JSON or YAML as its type allows.
pub fn parse_patch(call: &Call, body: &[u8]) -> Result<Object> {
    match content_type(&call.headers) {
        "application/apply-patch+yaml" => crate::codec::from_yaml(body),
        _ => parse_json(body),
    }
}

/// Reads an object of a kind: fills its kind and version in, or refuses another's.
pub fn object(call: &Call, def: &ResourceDef, body: &[u8]) -> Result<Object> {
    if body.is_empty() {
        return Err(Status::bad_request("EOF").into());
    }
    let mut object = tree(call, body)?;
    check_kind(def, &mut object)?;
    if def.inline_schema.is_none() {
        prune_nulls(&mut object);
    }
    Ok(object)
}

/// Reads the object that a create or an update carries.
pub fn checked(target: &Target<'_>, body: &[u8]) -> Result<Object> {
    object(target.call, &target.served.def, body)
}

/// Checks (or fills in) `kind` and `apiVersion`, with upstream's words.
pub fn check_kind(def: &ResourceDef, object: &mut Object) -> Result<()> {
    let Some(map) = object.as_object_mut() else {
        let text = "couldn't get version/kind; json parse error: json: cannot unmarshal into Go value of type struct";
        return Err(Status::bad_request(text).into());
    };
    let text = |key: &str| map.get(key).and_then(Value::as_str).unwrap_or("").to_owned();
    let (kind, version, expected) = (text("kind"), text("apiVersion"), def.group_version().to_string());
    if !kind.is_empty() && kind != def.kind {
        let version = if version.is_empty() { expected } else { version };
        let text = format!("{kind} in version {:?} cannot be handled as a {}", version_of(&version), def.kind);
        return Err(Status::bad_request(text).into());
    }
    if !version.is_empty() && version != expected {
        let text = format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        );
        return Err(Status::bad_request(text).into());
    }
    map.insert("kind".into(), def.kind.as_ref().into());
    map.insert("apiVersion".into(), expected.into());
    Ok(())
}

fn version_of(api_version: &str) -> String {
    GroupVersion::parse(api_version).map_or_else(|| api_version.to_owned(), |parsed| parsed.version)
}

/// Built-in kinds know no nulls: a field that is null is absent.
pub fn prune_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, value| !value.is_null());
            map.values_mut().for_each(prune_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(prune_nulls),
        _ => {}
    }
}
