//! A program of the user's says who may do what.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/webhook/>.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Value as Json, json};
use skiff_base::clock::SharedClock;
use skiff_base::figures::Family;
use skiff_base::remembered::Remembered;
use skiff_cel::types::string;
use skiff_cel::{Decl, Env, Program, Value};
use skiff_object::meta::Meta;

use crate::admission::conditions::CALL_LIMIT;
use crate::authz::{Action, Decision, Term, review_spec};
use crate::call::UserInfo;
use crate::webhook::remote::{self, Remote};

/// The first pause before a program that failed is asked again.
const PAUSE: Duration = Duration::from_millis(500);
/// How many answers are remembered.
const REMEMBERED: usize = 8192;
/// Questions that are longer are not remembered: whoever asks could fill the memory with them.
const QUESTION_LIMIT_BYTES: usize = 10_000;

static EVALUATIONS: Family =
    Family::counter("apiserver_authorization_webhook_evaluations_total", "Round-trips to authorization webhooks.");

/// What expressions see of a question.
pub static CONDITION_ENV: LazyLock<Env> = LazyLock::new(|| {
    let requirement = [("key", string()), ("operator", string()), ("values", Decl::list(string()))];
    let requirements = Decl::list(Decl::object("kubernetes.SelectorRequirement", requirement));
    let selector =
        |name: &'static str| Decl::object(name, [("rawSelector", string()), ("requirements", requirements.clone())]);
    let mut fields: Vec<(&'static str, Arc<Decl>)> =
        ["namespace", "verb", "group", "version", "resource", "subresource", "name"]
            .map(|name| (name, string()))
            .into();
    fields.push(("fieldSelector", selector("kubernetes.FieldSelectorAttributes")));
    fields.push(("labelSelector", selector("kubernetes.LabelSelectorAttributes")));
    let resource = Decl::object("kubernetes.ResourceAttributes", fields);
    let path = Decl::object("kubernetes.NonResourceAttributes", [("path", string()), ("verb", string())]);
    let spec = [
        ("resourceAttributes", resource),
        ("nonResourceAttributes", path),
        ("user", string()),
        ("groups", Decl::list(string())),
        ("extra", Decl::map(Decl::list(string()))),
        ("uid", string()),
    ];
    Env::new().with("request", Decl::object("kubernetes.SubjectAccessReviewSpec", spec))
});

/// What the server is told of the program.
#[derive(Debug)]
pub struct Settings {
    /// Its name in the configuration.
    pub name: String,
    /// Where it is.
    pub remote: remote::Settings,
    /// The version of `SubjectAccessReview` that it understands: `v1` or `v1beta1`.
    pub version: String,
    /// How long one question may take.
    pub timeout: Duration,
    /// How long a permission holds.
    pub allowed_for: Duration,
    /// How long anything else holds.
    pub refused_for: Duration,
    /// Whether nobody may do anything while the program cannot be asked.
    pub fails_closed: bool,
    /// It is asked only where all of these are true.
    pub conditions: Vec<Program>,
}

/// The way to the program, and what it said.
pub struct Webhook {
    settings: Settings,
    remote: Remote,
    clock: SharedClock,
    known: Remembered<String, Decision>,
}

impl Webhook {
    /// Nobody was asked yet.
    pub fn new(settings: Settings, clock: SharedClock) -> Self {
        Self { remote: Remote::new(settings.remote.clone()), settings, clock, known: Remembered::new(REMEMBERED) }
    }

    /// What the program says of an action.
    pub async fn decide(&self, user: &UserInfo, action: &Action) -> Decision {
        match self.concerns(user, action) {
            Ok(true) => {}
            Ok(false) => return Decision::default(),
            Err(why) => return self.failed(why),
        }
        let spec = review_spec(user, action);
        let question = spec.to_string();
        let now = self.clock.monotonic();
        if let Some(decision) = self.known.get(&question, now) {
            return decision;
        }
        let result = self.ask(spec).await;
        let outcome = if result.is_ok() { "success" } else { "error" };
        EVALUATIONS.with(&format!("name={:?},result={outcome:?}", self.settings.name)).inc();
        match result {
            Ok(decision) => {
                let held = if decision.allowed { self.settings.allowed_for } else { self.settings.refused_for };
                if question.len() <= QUESTION_LIMIT_BYTES {
                    self.known.put(question, decision.clone(), now, held);
                }
                decision
            }
            Err(why) => {
                tracing::error!(webhook = self.settings.name, why, "failed to make webhook authorizer request");
                self.failed(why)
            }
        }
    }

    async fn ask(&self, spec: Json) -> Result<Decision, String> {
        let version = format!("authorization.k8s.io/{}", self.settings.version);
        let mut review =
            json!({"kind": "SubjectAccessReview", "apiVersion": version, "metadata": {}, "status": {"allowed": false}});
        review["spec"] = spec;
        // The old version has the groups under another name.
        if self.settings.version == "v1beta1"
            && let Some(groups) = review["spec"].as_object_mut().and_then(|spec| spec.remove("groups"))
        {
            review["spec"]["group"] = groups;
        }
        let answer = self.remote.insist(review.to_string().into(), self.settings.timeout, PAUSE);
        // The time is for all tries together: a request waits for the answer.
        let answer = tokio::time::timeout(self.settings.timeout, answer).await;
        let answer = answer.map_err(|_| "context deadline exceeded".to_owned())??;
        let answer: Json =
            serde_json::from_slice(&answer).map_err(|error| format!("couldn't decode the answer: {error}"))?;
        let status = answer.get("status").cloned().unwrap_or_default();
        let reason = status.str_at(&["reason"]);
        Ok(match (status.bool_at(&["denied"]), status.bool_at(&["allowed"])) {
            (true, both) => Decision {
                error: if both {
                    "webhook subject access review returned both allow and deny response".to_owned()
                } else {
                    String::new()
                },
                ..Decision::deny(reason)
            },
            (false, true) => Decision::allow(reason),
            (false, false) => Decision::no_opinion(reason),
        })
    }

    fn failed(&self, why: String) -> Decision {
        Decision { denied: self.settings.fails_closed, error: why, ..Decision::default() }
    }

    /// Whether the program is to be asked: not where a condition is false, even if another cannot be evaluated.
    fn concerns(&self, user: &UserInfo, action: &Action) -> Result<bool, String> {
        if self.settings.conditions.is_empty() {
            return Ok(true);
        }
        let seen = seen(user, action);
        let variables = vec![("request", Value::json(&seen, None))];
        let mut fault = None;
        for condition in &self.settings.conditions {
            match condition.run(&variables, None, CALL_LIMIT).value {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Ok(false),
                Ok(_) => fault = Some("a match condition gave no truth value".to_owned()),
                Err(error) => fault = Some(format!("a match condition cannot be evaluated: {error}")),
            }
        }
        fault.map_or(Ok(true), Err)
    }
}

/// A question as expressions see it: all of its texts are there, also empty ones.
fn seen(user: &UserInfo, action: &Action) -> Json {
    let mut seen = json!({"user": user.name, "groups": user.groups, "uid": user.uid, "extra": user.extra});
    if action.is_path() {
        seen["nonResourceAttributes"] = json!({"verb": action.verb, "path": action.path});
        return seen;
    }
    let mut resource = json!({"namespace": action.namespace, "verb": action.verb, "group": action.group,
        "version": action.version, "resource": action.resource, "subresource": action.subresource, "name": action.name});
    for (field, terms) in [("fieldSelector", &action.fields), ("labelSelector", &action.labels)] {
        if !terms.is_empty() {
            let whole = |term: &Term| json!({"key": term.key, "operator": term.operator, "values": term.values});
            resource[field] = json!({"requirements": terms.iter().map(whole).collect::<Vec<_>>()});
        }
    }
    seen["resourceAttributes"] = resource;
    seen
}
