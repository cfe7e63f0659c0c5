//! `pods/binding`: how the scheduler gives a Pod to a node.

use serde_json::{Value, json};
use skiff_base::clock;
use skiff_object::meta::Meta;
use skiff_object::{FieldError, FieldPath, GroupKind, GroupResource, Object, Status};

use crate::admission;
use crate::call::Call;
use crate::failure::Result;
use crate::http::answer::Answer;
use crate::server::ApiServer;
use crate::sub;
use crate::write::{Options, Target, decode, update};

/// What of a Pod is looked at and changed when it is given to a node.
const PARTS: [&str; 8] = [
    "metadata.name",
    "metadata.uid",
    "metadata.generation",
    "metadata.labels",
    "metadata.annotations",
    "spec.nodeName",
    "spec.schedulingGates",
    "status.conditions",
];

/// Answers `POST .../pods/NAME/binding`.
pub async fn answer(server: &ApiServer, call: &Call, body: &[u8]) -> Result<Answer> {
    let binding = decode::as_kind(call, sub::definition("", "v1", "Binding")?, body)?;
    if !binding.name().is_empty() && binding.name() != call.info.name {
        return Err(Status::bad_request("name in URL does not match name in Binding object").into());
    }
    write(server, call, &call.info.name, &binding).await
}

/// Answers `POST .../bindings`, where the Binding names the Pod.
pub async fn bind(server: &ApiServer, call: &Call, binding: Object) -> Result<Answer> {
    write(server, call, binding.name(), &binding).await
}

async fn write(server: &ApiServer, call: &Call, pod: &str, binding: &Object) -> Result<Answer> {
    let kind = binding.str_at(&["target", "kind"]);
    let node = binding.str_at(&["target", "name"]).to_owned();
    let mut errors = Vec::new();
    if !matches!(kind, "" | "Node") {
        errors.push(FieldError::not_supported(&FieldPath::new("target.kind"), kind, &["Node", "<empty>"]));
    }
    if node.is_empty() {
        errors.push(FieldError::required(&FieldPath::new("target.name"), ""));
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&GroupKind::new("", "Binding"), pod, &errors).into());
    }
    let pods = server.catalogue.get("", "v1", "pods").ok_or_else(Status::no_such_path)?;
    let target = Target {
        server,
        call,
        served: &pods,
        namespace: call.info.namespace.clone(),
        name: pod.to_owned(),
        subresource: "binding".into(),
        options: Options::of(call)?,
        own: true,
        applied: false,
    };
    let topology = admission::plugins::pods::topology_labels(server, &node);
    update::change_part(&target, &PARTS, |old| {
        let mut pod = assigned(old, &node, binding, &clock::rfc3339(call.now))?;
        for (key, value) in &topology {
            pod.map_mut(&["metadata", "labels"]).insert(key.clone(), value.as_str().into());
        }
        Ok(pod)
    })
    .await?;
    Ok(sub::done(call, 201))
}

/// The Pod, given to a node.
fn assigned(old: &Object, node: &str, binding: &Object, now: &str) -> Result<Object> {
    let name = old.name();
    let refuse = |why: String| Err(Status::conflict(&GroupResource::new("", "pods/binding"), name, why).into());
    if !binding.uid().is_empty() && binding.uid() != old.uid() {
        let (wanted, own) = (binding.uid(), old.uid());
        return refuse(format!("Precondition failed: UID in precondition: {wanted}, UID in object meta: {own}"));
    }
    if old.is_deleting() {
        return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let present = old.str_at(&["spec", "nodeName"]);
    if !present.is_empty() {
        return refuse(format!("pod {name} is already assigned to node {present:?}"));
    }
    if !old.list_at(&["spec", "schedulingGates"]).is_empty() {
        return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    let mut new = old.clone();
    new.remove_at(&["metadata", "resourceVersion"]);
    new.set_at(&["spec", "nodeName"], node);
    for facts in ["labels", "annotations"] {
        for (key, value) in binding.map_at(&["metadata", facts]).into_iter().flatten() {
            new.map_mut(&["metadata", facts]).insert(key.clone(), value.clone());
        }
    }
    set_scheduled(&mut new, now);
    Ok(new)
}

fn set_scheduled(pod: &mut Object, now: &str) {
    let mut conditions: Vec<Value> = pod.list_at(&["status", "conditions"]).to_vec();
    let generation = pod.generation();
    let mut scheduled =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now});
    if generation > 0 {
        scheduled["observedGeneration"] = generation.into();
    }
    match conditions.iter_mut().find(|condition| condition.str_at(&["type"]) == "PodScheduled") {
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
    pod.set_at(&["status", "conditions"], conditions);
}
