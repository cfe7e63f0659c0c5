//! Admission webhooks: programs of the user's that change or refuse what is written.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/>.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use futures_util::future::join_all;
use serde_json::{Value, json};
use skiff_object::meta::Meta;
use skiff_object::patch::json_patch;
use skiff_object::{Object, Reason, Status};

use super::conditions::{Conditions, Verdict};
use super::matching::{self, Rule, Selectors, Shown};
use super::{Attributes, review};
use crate::failure::{Failure, Result};
use crate::server::ApiServer;
use crate::webhook;

const GROUP: &str = "admissionregistration.k8s.io";
const DEFAULT_TIMEOUT_SECONDS: i64 = 10;
const MAX_TIMEOUT_SECONDS: i64 = 30;

/// A webhook of a configuration.
pub struct Hook {
    name: String,
    configuration: String,
    client: Value,
    rules: Vec<Rule>,
    selectors: Selectors,
    conditions: Conditions,
    ignores_failure: bool,
    timeout: Duration,
    has_side_effects: bool,
    mutates: bool,
    reinvoke: bool,
    /// The version of the review that the webhook understands best.
    review_version: &'static str,
}

/// The versions of reviews that this server speaks.
const REVIEW_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

impl Hook {
    fn of(configuration: &str, hook: &Value) -> Self {
        let seconds = hook.int_at(&["timeoutSeconds"]).unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        Self {
            name: hook.str_at(&["name"]).to_owned(),
            configuration: configuration.to_owned(),
            client: hook.get("clientConfig").cloned().unwrap_or_default(),
            rules: Rule::all(hook.list_at(&["rules"])),
            selectors: Selectors::of(hook),
            conditions: Conditions::of(hook.list_at(&["matchConditions"])),
            ignores_failure: hook.str_at(&["failurePolicy"]) == "Ignore",
            timeout: Duration::from_secs(seconds.clamp(1, MAX_TIMEOUT_SECONDS) as u64),
            has_side_effects: !matches!(hook.str_at(&["sideEffects"]), "None" | "NoneOnDryRun"),
            mutates: hook.get("reinvocationPolicy").is_some(),
            reinvoke: hook.str_at(&["reinvocationPolicy"]) == "IfNeeded",
            review_version: {
                let mut listed = hook.list_at(&["admissionReviewVersions"]).iter().filter_map(Value::as_str);
                let own = listed.find_map(|listed| REVIEW_VERSIONS.into_iter().find(|known| *known == listed));
                own.unwrap_or(REVIEW_VERSIONS[0])
            },
        }
    }
}

fn hooks_of(configuration: &Object) -> Vec<Arc<Hook>> {
    let hooks = configuration.list_at(&["webhooks"]).iter();
    hooks.map(|hook| Arc::new(Hook::of(configuration.name(), hook))).collect()
}

fn hooks(server: &ApiServer, plural: &str) -> Vec<Arc<Hook>> {
    let kept = if plural.starts_with("mutating") { &server.admission.mutating } else { &server.admission.validating };
    kept.all(server, GROUP, plural, hooks_of).iter().flat_map(|hooks| hooks.iter().cloned()).collect()
}

/// What a webhook answered.
struct Answer {
    patch: Option<Vec<u8>>,
}

/// Whether a webhook is asked, and in which version it sees the request.
fn asked(
    hook: &Hook,
    attributes: &Attributes<'_>,
    object: Option<&Object>,
    old: Option<&Object>,
    namespace: Option<&Object>,
) -> Result<Option<Shown>> {
    let Some(shown) = matching::matches(attributes, &hook.rules, &hook.selectors) else { return Ok(None) };
    if !hook.selectors.select(attributes, object, old, namespace) {
        return Ok(None);
    }
    match hook.conditions.check(attributes, &shown, object, old, namespace) {
        Verdict::Matches => Ok(Some(shown)),
        Verdict::Differs => Ok(None),
        Verdict::Unclear(_) if hook.ignores_failure => Ok(None),
        Verdict::Unclear(why) => Err(failure(hook, &why)),
    }
}

fn failure(hook: &Hook, why: &str) -> Failure {
    let text = format!("Internal error occurred: failed calling webhook {:?}: {why}", hook.name);
    Status::failure(500, Reason::InternalError, text).into()
}

/// Which call of a request it is, as the notes in its record have it.
#[derive(Clone, Copy)]
struct Turn {
    kind: &'static str,
    round: usize,
    index: usize,
}

impl Turn {
    fn key(self, what: &str) -> String {
        format!("{what}.webhook.admission.k8s.io/round_{}_index_{}", self.round, self.index)
    }
}

/// Asks one webhook; a failure that its policy lets pass is no answer.
async fn ask(
    hook: &Hook,
    turn: Turn,
    attributes: &Attributes<'_>,
    shown: &Shown,
    object: Option<&Object>,
    old: Option<&Object>,
) -> Result<Option<Answer>> {
    if attributes.dry_run && hook.has_side_effects {
        let text = format!("admission webhook {:?} does not support dry run", hook.name);
        return Err(Status::bad_request(text).into());
    }
    let uid = attributes.server.ids().uid();
    let mut review = review::review(attributes, shown, &uid, object, old);
    review["apiVersion"] = format!("admission.k8s.io/{}", hook.review_version).into();
    let began = attributes.server.clock().monotonic();
    let answered = webhook::post(attributes.server, &hook.client, &review, hook.timeout).await;
    let answered = answered.and_then(|answer| read(answer, &uid));
    let is_refused = match &answered {
        Ok(response) => !response.bool_at(&["allowed"]),
        Err(_) => !hook.ignores_failure,
    };
    let took = attributes.server.clock().monotonic().saturating_sub(began);
    let what = (attributes.operation, if hook.mutates { "admit" } else { "validating" });
    attributes.server.metrics.webhook_took(&hook.name, what, is_refused, took);
    let response = match answered {
        Ok(response) => response,
        Err(why) if hook.ignores_failure => {
            let (name, configuration) = (&hook.name, &hook.configuration);
            tracing::warn!(webhook = name, configuration, why, "calling a webhook failed, failing open");
            attributes.call.annotate(turn.key(&format!("failed-open.{}", turn.kind)), name);
            return Ok(None);
        }
        Err(why) => return Err(failure(hook, &why)),
    };
    for warning in response.list_at(&["warnings"]).iter().filter_map(Value::as_str) {
        attributes.call.warn(warning);
    }
    for (key, value) in response.map_at(&["auditAnnotations"]).into_iter().flatten() {
        attributes.call.annotate(format!("{}/{key}", hook.name), value.as_str().unwrap_or_default());
    }
    if !response.bool_at(&["allowed"]) {
        return Err(refusal(hook, &response));
    }
    match patch_of(&response) {
        Ok(patch) => Ok(Some(Answer { patch })),
        Err(_) if hook.ignores_failure => Ok(None),
        Err(why) => Err(failure(hook, &why)),
    }
}

/// The response in a review, where it answers what was asked.
fn read(review: Value, uid: &str) -> std::result::Result<Value, String> {
    let version = review.str_at(&["apiVersion"]);
    if !matches!(version, "admission.k8s.io/v1" | "admission.k8s.io/v1beta1")
        || review.str_at(&["kind"]) != "AdmissionReview"
    {
        let kind = review.str_at(&["kind"]);
        return Err(format!(
            "received invalid webhook response: expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {version}, Kind={kind}"
        ));
    }
    let response = review.get("response").filter(|response| response.is_object());
    let response = response.ok_or("received invalid webhook response: webhook response was absent")?;
    let answered = response.str_at(&["uid"]);
    if version == "admission.k8s.io/v1" && answered != uid {
        return Err(format!("received invalid webhook response: expected response.uid={uid:?}, got {answered:?}"));
    }
    Ok(response.clone())
}

fn patch_of(response: &Value) -> std::result::Result<Option<Vec<u8>>, String> {
    let patch = response.str_at(&["patch"]);
    if patch.is_empty() {
        return Ok(None);
    }
    let kind = response.str_at(&["patchType"]);
    if kind != "JSONPatch" {
        return Err(format!("received invalid webhook response: unsupported response.patchType {kind:?}"));
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(patch);
    decoded.map(Some).map_err(|error| format!("received invalid webhook response: response.patch: {error}"))
}

/// The Status of a refusal: what the webhook says, with its name before it, and never a code of success.
fn refusal(hook: &Hook, response: &Value) -> Failure {
    const LEAST_CODE: i64 = 400;
    let status = response.get("status").cloned().unwrap_or_default();
    let denied = format!("admission webhook {:?} denied the request", hook.name);
    let text = match (status.str_at(&["message"]), status.str_at(&["reason"])) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    let code = status.int_at(&["code"]).unwrap_or(0).max(LEAST_CODE);
    let mut whole = status;
    if !whole.is_object() {
        whole = json!({});
    }
    whole["status"] = "Failure".into();
    whole["message"] = text.as_str().into();
    whole["code"] = code.into();
    whole["metadata"] = json!({});
    serde_json::from_value::<Status>(whole)
        .unwrap_or_else(|_| Status::failure(u16::try_from(code).unwrap_or(400), Reason::Forbidden, text))
        .into()
}

/// Lets the mutating webhooks change an object, in the order of their names; those that want it see it again where a
/// later one has changed it.
pub async fn mutate(
    attributes: &Attributes<'_>,
    object: &mut Object,
    old: Option<&Object>,
    namespace: Option<&Object>,
) -> Result<bool> {
    let hooks = hooks(attributes.server, "mutatingwebhookconfigurations");
    if hooks.is_empty() || matching::is_exempt(attributes) {
        return Ok(false);
    }
    let before = object.clone();
    let mut seen: Vec<(usize, Object)> = Vec::new();
    for (index, hook) in hooks.iter().enumerate() {
        let turn = Turn { kind: "mutating", round: 0, index };
        if run(hook, turn, attributes, object, old, namespace).await? {
            seen.push((index, object.clone()));
        }
    }
    for (index, left) in seen {
        if hooks[index].reinvoke && left != *object {
            let turn = Turn { kind: "mutating", round: 1, index };
            run(&hooks[index], turn, attributes, object, old, namespace).await?;
        }
    }
    Ok(*object != before)
}

/// Asks one mutating webhook and applies its patch; tells whether it was asked.
async fn run(
    hook: &Hook,
    turn: Turn,
    attributes: &Attributes<'_>,
    object: &mut Object,
    old: Option<&Object>,
    namespace: Option<&Object>,
) -> Result<bool> {
    let Some(shown) = asked(hook, attributes, Some(object), old, namespace)? else { return Ok(false) };
    let Some(answer) = ask(hook, turn, attributes, &shown, Some(object), old).await? else { return Ok(true) };
    let note = |mutated: bool| {
        let text = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": mutated});
        attributes.call.annotate(turn.key("mutation"), text.to_string());
    };
    let Some(patch) = answer.patch else {
        note(false);
        return Ok(true);
    };
    let before = review::convert(attributes, &shown, object);
    match json_patch(before, &patch) {
        Ok(patched) => {
            let changed = super::reshaped(attributes, review::convert_back(attributes, &shown, &patched))?;
            note(changed != *object);
            note_patch(attributes, hook, turn, &patch);
            *object = changed;
            Ok(true)
        }
        Err(_) if hook.ignores_failure => Ok(true),
        Err(status) => Err(failure(hook, &status.to_string())),
    }
}

/// What a webhook changed is told of only where whole objects are.
fn note_patch(attributes: &Attributes<'_>, hook: &Hook, turn: Turn, patch: &[u8]) {
    if attributes.call.audit.as_ref().is_some_and(|trail| trail.has_objects())
        && let Ok(patch) = serde_json::from_slice::<Value>(patch)
    {
        let text = json!({"configuration": hook.configuration, "webhook": hook.name, "patch": patch,
            "patchType": "JSONPatch"});
        attributes.call.annotate(turn.key("patch"), text.to_string());
    }
}

/// Asks the validating webhooks, all at once.
pub async fn validate(
    attributes: &Attributes<'_>,
    object: Option<&Object>,
    old: Option<&Object>,
    namespace: Option<&Object>,
) -> Result<()> {
    let hooks = hooks(attributes.server, "validatingwebhookconfigurations");
    if hooks.is_empty() || matching::is_exempt(attributes) {
        return Ok(());
    }
    let mut calls = Vec::new();
    for (index, hook) in hooks.iter().enumerate() {
        let turn = Turn { kind: "validating", round: 0, index };
        if let Some(shown) = asked(hook, attributes, object, old, namespace)? {
            calls.push(async move { ask(hook, turn, attributes, &shown, object, old).await.map(|_| ()) });
        }
    }
    join_all(calls).await.into_iter().collect()
}
