//! Keeps the mandatory and suggested objects as upstream has them, and tells of schemas that lead nowhere. What to do is
//! decided by [`plan`]; it is done through the API.
//! See <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#defaults>.

use std::sync::{Arc, Weak};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use skiff_base::clock::rfc3339;
use skiff_kinds::bootstrap::flow_control_objects;
use skiff_object::meta::Meta;
use skiff_object::{GroupVersionKind, Object};

use super::{GROUP, MANDATORY};
use crate::custom::keeper::send;
use crate::failure::Result;
use crate::server::ApiServer;
use crate::storage::filter::Filter;

/// How often levels borrow from each other anew, as upstream's.
const ADJUSTMENT: Duration = Duration::from_secs(10);
/// The objects are looked at once in so many of these times, or when they change.
const TIMES_PER_LOOK: u64 = 6;
/// Whether a suggested object follows the server's version of it.
const FOLLOWS: &str = "apf.kubernetes.io/autoupdate-spec";

/// A change of an object.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// It is missing.
    Create(Object),
    /// It says something else than it should.
    Update(Object),
    /// It was suggested once, and is not any more.
    Delete(Object),
    /// Whether a schema leads nowhere, as a condition.
    Dangling(String, Value),
}

/// Follows the objects until the server is gone.
pub async fn run(server: Weak<ApiServer>) {
    let mut seen = None;
    for time in 1u64.. {
        tokio::time::sleep(ADJUSTMENT).await;
        let Some(server) = server.upgrade() else { return };
        server.flows.adjust(&server.metrics);
        let changed = ["flowschemas", "prioritylevelconfigurations"]
            .map(|plural| server.catalogue.cache(GROUP, plural).map(|cache| cache.changed()));
        if seen != Some(changed) || time.is_multiple_of(TIMES_PER_LOOK) {
            seen = Some(changed);
            if let Err(failure) = keep(&server).await {
                tracing::warn!(why = failure.0.message, "flow control objects are looked at again later");
            }
        }
    }
}

/// Does what there is to do.
///
/// # Errors
/// Something of it failed; the rest was done.
pub async fn keep(server: &Arc<ApiServer>) -> Result<()> {
    server.hub.fresh().await?;
    let read = |plural: &str| -> Result<Vec<Object>> {
        server.catalogue.cache(GROUP, plural).map_or(Ok(Vec::new()), |cache| cache.objects(&Filter::default()))
    };
    let (schemas, levels) = (read("flowschemas")?, read("prioritylevelconfigurations")?);
    let mut wanted = flow_control_objects();
    let snapshot = server.catalogue.snapshot();
    for object in &mut wanted {
        if let Some(served) = GroupVersionKind::of(object).and_then(|kind| snapshot.by_kind(&kind)) {
            (served.def.default)(object);
        }
    }
    let mut outcome = Ok(());
    for step in plan(&wanted, &schemas, &levels, &rfc3339(server.clock().now())) {
        outcome = done(server, &step).await.and(outcome);
    }
    outcome
}

async fn done(server: &Arc<ApiServer>, step: &Step) -> Result<()> {
    let collection = |kind: &str| {
        let plural = if kind == "FlowSchema" { "flowschemas" } else { "prioritylevelconfigurations" };
        format!("/apis/{GROUP}/v1/{plural}")
    };
    let of = |object: &Object| collection(object.str_at(&["kind"]));
    let sent = match step {
        Step::Create(object) => send(server, Method::POST, &of(object), object).await,
        Step::Update(object) => send(server, Method::PUT, &format!("{}/{}", of(object), object.name()), object).await,
        Step::Delete(object) => {
            send(server, Method::DELETE, &format!("{}/{}", of(object), object.name()), &Value::Null).await
        }
        Step::Dangling(name, condition) => {
            let path = format!("{}/{name}/status", collection("FlowSchema"));
            send(server, Method::PATCH, &path, &json!({"status": {"conditions": [condition]}})).await
        }
    };
    sent.map(drop)
}

/// What is to be done with the stored objects. `wanted` are the server's own, with their defaults.
pub fn plan(wanted: &[Object], schemas: &[Object], levels: &[Object], now: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    let stored = || schemas.iter().map(|object| ("FlowSchema", object));
    let stored = || stored().chain(levels.iter().map(|object| ("PriorityLevelConfiguration", object)));
    for own in wanted {
        let found = stored().find(|(kind, object)| own["kind"] == *kind && own.name() == object.name());
        match found {
            None => steps.push(Step::Create(own.clone())),
            Some((kind, object)) => steps.extend(mended(own, kind, object)),
        }
    }
    for (kind, object) in stored() {
        let is_known = wanted.iter().any(|own| own["kind"] == kind && own.name() == object.name());
        if !is_known && object.annotation(FOLLOWS) == Some("true") {
            let mut object = object.clone();
            object.set_at(&["kind"], kind);
            steps.push(Step::Delete(object));
        }
    }
    steps.extend(schemas.iter().filter_map(|schema| dangling(schema, levels, now)));
    steps
}

/// The object as it should be, where it is not.
fn mended(own: &Object, kind: &str, stored: &Object) -> Option<Step> {
    let is_mandatory = MANDATORY.contains(&own.name());
    let follows = match stored.annotation(FOLLOWS) {
        Some(text) => text == "true",
        // Nobody has touched it yet.
        None => stored.int_at(&["metadata", "generation"]) == Some(1),
    };
    if !is_mandatory && !follows {
        return None;
    }
    let mut spec = own["spec"].clone();
    // The seats of the exempt level are the user's to choose.
    if is_mandatory && spec.get("exempt").is_some() && stored["spec"].get("exempt").is_some() {
        spec["exempt"] = stored["spec"]["exempt"].clone();
    }
    let is_marked = stored.annotation(FOLLOWS) == Some("true");
    if stored["spec"] == spec && is_marked {
        return None;
    }
    let mut object = stored.clone();
    object.set_at(&["apiVersion"], format!("{GROUP}/v1"));
    object.set_at(&["kind"], kind);
    object.set_at(&["spec"], spec);
    object.set_at(&["metadata", "annotations", FOLLOWS], "true");
    Some(Step::Update(object))
}

/// Whether a schema leads nowhere, where it does not say so yet.
fn dangling(schema: &Object, levels: &[Object], now: &str) -> Option<Step> {
    let level = schema.str_at(&["spec", "priorityLevelConfiguration", "name"]);
    let is_there = levels.iter().any(|object| object.name() == level);
    let (status, reason) = if is_there { ("False", "Found") } else { ("True", "NotFound") };
    let known = schema.list_at(&["status", "conditions"]).iter().find(|known| known["type"] == "Dangling");
    if known.is_some_and(|known| known["status"] == status && known["reason"] == reason) {
        return None;
    }
    let what = if is_there { "and it exists" } else { "but there is no such object" };
    let message = format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {what}");
    let condition = json!({"type": "Dangling", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": now});
    Some(Step::Dangling(schema.name().to_owned(), condition))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn split(objects: &[Object]) -> (Vec<Object>, Vec<Object>) {
        let found = |object: &Object| {
            let mut object = object.clone();
            if object["kind"] == "FlowSchema" {
                object.set_at(
                    &["status", "conditions"],
                    json!([{"type": "Dangling", "status": "False", "reason": "Found"}]),
                );
            }
            object
        };
        objects.iter().map(found).partition(|object| object["kind"] == "FlowSchema")
    }

    fn shown(steps: &[Step]) -> Vec<String> {
        let show = |step: &Step| match step {
            Step::Create(object) => format!("create {} {}", object.str_at(&["kind"]), object.name()),
            Step::Update(object) => format!("update {} {}", object.str_at(&["kind"]), object.name()),
            Step::Delete(object) => format!("delete {} {}", object.str_at(&["kind"]), object.name()),
            Step::Dangling(name, condition) => format!("{name} {}", condition["message"].as_str().unwrap_or("")),
        };
        steps.iter().map(show).collect()
    }

    #[test]
    fn objects_are_kept_unless_their_users_say_otherwise() {
        let wanted = flow_control_objects();
        let (schemas, levels) = split(&wanted);
        assert_eq!(shown(&plan(&wanted, &schemas, &levels, NOW)), Vec::<String>::new());
        assert_eq!(plan(&wanted, &[], &[], NOW).len(), wanted.len());
        let check = |name: &str, follows: &str, expected: &[&str]| {
            let mut levels = levels.clone();
            let level = levels.iter_mut().find(|level| level.name() == name).expect("a level");
            let part = if name == "exempt" { "exempt" } else { "limited" };
            level.set_at(&["spec", part, "nominalConcurrencyShares"], 77);
            level.set_at(&["metadata", "annotations", FOLLOWS], follows);
            assert_eq!(shown(&plan(&wanted, &schemas, &levels, NOW)), expected, "{name} {follows}");
        };
        check("workload-low", "true", &["update PriorityLevelConfiguration workload-low"]);
        check("workload-low", "false", &[]);
        check("catch-all", "false", &["update PriorityLevelConfiguration catch-all"]);
        check("exempt", "true", &[]);
    }

    #[test]
    fn schemas_that_lead_nowhere_say_so_and_old_suggestions_go() {
        let wanted = flow_control_objects();
        let (mut schemas, mut levels) = split(&wanted);
        let own = json!({"metadata": {"name": "own"}, "spec": {"priorityLevelConfiguration": {"name": "gone"}}});
        schemas.push(own);
        levels.push(json!({"metadata": {"name": "old", "annotations": {FOLLOWS: "true"}}}));
        levels.push(json!({"metadata": {"name": "mine"}}));
        let expected = [
            "delete PriorityLevelConfiguration old",
            "own This FlowSchema references the PriorityLevelConfiguration object named \"gone\" but there is no such object",
        ];
        assert_eq!(shown(&plan(&wanted, &schemas, &levels, NOW)), expected);
    }
}
