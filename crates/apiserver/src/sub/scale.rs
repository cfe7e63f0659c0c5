//! The `scale` subresource of any kind that has one, by the paths that its definition names.
//! See <https://kubernetes.io/docs/reference/kubernetes-api/autoscaling-resources/scale-v1/>.

use serde_json::{Value, json};
use skiff_kinds::Subresource;
use skiff_object::meta::Meta;
use skiff_object::patch::PatchType;
use skiff_object::{FieldError, FieldPath, GroupKind, LabelSelector, Object, Status};

use crate::call::Call;
use crate::custom::convert;
use crate::failure::Result;
use crate::http::answer::{self, Answer};
use crate::http::negotiate::content_type;
use crate::read::present;
use crate::server::ApiServer;
use crate::write::patch::Patch;
use crate::write::{Target, decode, managed, update};

/// Where a kind keeps what its scale shows.
struct Paths<'a> {
    wanted: Vec<&'a str>,
    observed: Vec<&'a str>,
    selector: Vec<&'a str>,
}

fn paths(call: &Call) -> Result<Paths<'_>> {
    match call.served.def.subresource("scale") {
        Some(Subresource::Scale { spec_replicas, status_replicas, selector }) => Ok(Paths {
            wanted: segments(spec_replicas),
            observed: segments(status_replicas),
            selector: segments(selector),
        }),
        _ => Err(Status::no_such_path().into()),
    }
}

fn segments(path: &str) -> Vec<&str> {
    path.split('.').filter(|segment| !segment.is_empty()).collect()
}

/// Answers get, update and patch of a scale.
pub async fn answer(server: &ApiServer, call: &Call, body: &[u8]) -> Result<Answer> {
    let (mut target, paths) = (Target::of(server, call)?, paths(call)?);
    if call.info.verb == "get" {
        let (_, found) = server.store().get(&target.key(), None).await?;
        let pair = found.ok_or_else(|| target.not_found())?;
        let pair = convert::pair(server, &call.served, pair).await?;
        let object = present::decode(&call.served, &pair.value, pair.mod_revision)?;
        return Ok(answer::tree(200, &scale_of(&object, &paths), &call.accepted));
    }
    if content_type(&call.headers) == PatchType::Apply.media_type() {
        target.applied = true;
        let config = managed::configuration(&target, body)?;
        if !config.name().is_empty() {
            update::check_name(&config, &target.name)?;
        }
        let written = update::change(&target, |old| {
            let scale = managed::apply_scale(&target, old, scale_of(old, &paths), &config, &paths.wanted)?;
            let mut new = apply(&target, old, &scale, &paths)?;
            new.set_at(&["metadata", "managedFields"], scale.list_at(&["metadata", "managedFields"]));
            Ok(new)
        });
        let object = written.await?.object(&call.served)?;
        return Ok(answer::tree(200, &scale_of(&object, &paths), &call.accepted));
    }
    let is_update = call.info.verb == "update";
    let given = if is_update { decode::tree(call, body)? } else { Object::Null };
    let patch = if is_update { None } else { Some(Patch::read(call, body)?) };
    let written = update::change(&target, |old| {
        let wanted = match &patch {
            Some(patch) => patch.apply(&scale_of(old, &paths), "io.k8s.api.autoscaling.v1.Scale")?,
            None => given.clone(),
        };
        apply(&target, old, &wanted, &paths)
    });
    let object = written.await?.object(&call.served)?;
    Ok(answer::tree(200, &scale_of(&object, &paths), &call.accepted))
}

/// The object with the number that a scale wants.
fn apply(target: &Target<'_>, old: &Object, scale: &Object, paths: &Paths<'_>) -> Result<Object> {
    let replicas = scale.int_at(&["spec", "replicas"]).unwrap_or(0);
    if replicas < 0 {
        let path = FieldPath::new("spec.replicas");
        let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
        return Err(Status::invalid(&GroupKind::new("autoscaling", "Scale"), &target.name, &vec![error]).into());
    }
    let mut new = old.clone();
    new.set_at(&paths.wanted, replicas);
    match scale.resource_version() {
        "" => new.remove_at(&["metadata", "resourceVersion"]),
        revision => Some(std::mem::replace(&mut new["metadata"]["resourceVersion"], revision.into())),
    };
    if !scale.uid().is_empty() {
        new.set_at(&["metadata", "uid"], scale.uid());
    }
    Ok(new)
}

/// The scale of an object.
fn scale_of(object: &Object, paths: &Paths<'_>) -> Object {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.at(&["metadata", field]) {
            metadata[field] = value.clone();
        }
    }
    let mut status = json!({"replicas": object.int_at(&paths.observed).unwrap_or(0)});
    // Custom kinds need not say where their selector stands.
    let selector = if paths.selector.is_empty() { None } else { object.at(&paths.selector) };
    let selector = selector_text(selector.unwrap_or(&Value::Null));
    if !selector.is_empty() {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
        "spec": {"replicas": object.int_at(&paths.wanted).unwrap_or(0)}, "status": status})
}

/// A selector as text, whether the kind keeps it as such, as a map of labels or as a LabelSelector.
fn selector_text(selector: &Value) -> String {
    let structured = selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some();
    match selector {
        Value::String(text) => text.clone(),
        Value::Object(_) if structured => {
            LabelSelector::from_object(selector).map(|selector| selector.to_string()).unwrap_or_default()
        }
        Value::Object(_) => LabelSelector::from_map(selector).to_string(),
        _ => String::new(),
    }
}
