//! Step 4: patches. See <https://kubernetes.io/docs/reference/using-api/api-concepts/#patch-and-apply>.

use http::header::CONTENT_TYPE;
use skiff_kinds::schema::definition;
use skiff_object::patch::{PatchType, json_patch, merge_patch, strategic_merge};
use skiff_object::{FieldError, FieldPath, GroupKind, Object, Status};

use crate::call::Call;
use crate::codec;
use crate::failure::Result;
use crate::http::answer::Answer;
use crate::http::negotiate::content_type;
use crate::server::ApiServer;
use crate::write::{Target, decode, managed, update};

/// A patch that was read.
pub enum Patch {
    /// A list of operations, as it came.
    Json(Vec<u8>),
    /// A part of the object.
    Merge(Object),
    /// A part of the object that merges by the type's facts.
    Strategic(Object),
}

impl Patch {
    /// Reads a request's patch, by its type; what the kind does not take is 415.
    pub fn read(call: &Call, body: &[u8]) -> Result<Self> {
        let custom = call.served.def.inline_schema.is_some();
        let header = call.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let tree =
            || codec::from_json(body).map_err(|error| Status::bad_request(format!("error decoding patch: {error}")));
        match PatchType::from_content_type(header) {
            Some(PatchType::Json) => Ok(Self::Json(body.to_vec())),
            Some(PatchType::Merge) => Ok(Self::Merge(tree()?)),
            Some(PatchType::Strategic) if !custom => Ok(Self::Strategic(tree()?)),
            _ => {
                let known = PatchType::ALL.into_iter();
                let usable =
                    known.filter(|kind| *kind != PatchType::Apply && !(custom && *kind == PatchType::Strategic));
                let types: Vec<_> = usable.map(PatchType::media_type).collect();
                Err(Status::unsupported_media_type(&types).into())
            }
        }
    }

    /// The tree that the patch makes of another; `schema` names its definition.
    pub fn apply(&self, old: &Object, schema: &str) -> Result<Object> {
        let old = old.clone();
        match self {
            Self::Json(operations) => Ok(json_patch(old, operations)?),
            Self::Merge(part) => Ok(merge_patch(old, part.clone())),
            Self::Strategic(part) => {
                let missing = || Status::internal(format_args!("there is no definition {schema:?}"));
                Ok(strategic_merge(old, part.clone(), definition(schema).ok_or_else(missing)?)?)
            }
        }
    }
}

/// Answers a patch.
pub async fn patch(server: &ApiServer, call: &Call, body: &[u8]) -> Result<Answer> {
    if content_type(&call.headers) == PatchType::Apply.media_type() {
        return managed::answer(server, call, body).await;
    }
    let target = Target::of(server, call)?;
    if target.options.force {
        let error = FieldError::forbidden(&FieldPath::new("force"), "may not be specified for non-apply patch");
        return Err(Status::invalid(&GroupKind::new("meta.k8s.io", "PatchOptions"), "", &vec![error]).into());
    }
    let patch = Patch::read(call, body)?;
    let schema = &call.served.def.schema;
    let written = update::change(&target, |old| rechecked(&target, &patch, patch.apply(old, schema)?));
    written.await?.answer(call)
}

/// Brings what a patch made into the shape of the kind. What does not fit it is the patch's fault: 422, in upstream's
/// words.
fn rechecked(target: &Target<'_>, patch: &Patch, tree: Object) -> Result<Object> {
    let shown = match patch {
        Patch::Strategic(part) => go_text(part),
        Patch::Json(_) | Patch::Merge(_) => tree.to_string(),
    };
    decode::recheck(target, tree).map_err(|failure| {
        let handled = format!("cannot be handled as a {}: ", target.served.def.kind);
        let why = failure.0.message.split_once(&handled).map(|(_, why)| why.to_owned());
        let Some(why) = why.filter(|_| failure.0.code == 400) else { return failure };
        let fault = FieldError::invalid(&FieldPath::new("patch"), shown, why);
        Status::invalid(&GroupKind::new("", ""), "", &vec![fault]).into()
    })
}

/// A tree as Go prints maps and lists.
fn go_text(tree: &Object) -> String {
    match tree {
        Object::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(name, _)| *name);
            let shown = sorted.into_iter().map(|(name, value)| format!("{name}:{}", go_text(value)));
            format!("map[{}]", shown.collect::<Vec<_>>().join(" "))
        }
        Object::Array(items) => format!("[{}]", items.iter().map(go_text).collect::<Vec<_>>().join(" ")),
        Object::String(text) => text.clone(),
        Object::Null => "<nil>".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patches_are_shown_as_go_shows_them() {
        let tree = json!({"b": [1, "x"], "a": {"c": null}});
        assert_eq!(go_text(&tree), "map[a:map[c:<nil>] b:[1 x]]");
    }
}
