//! ImagePolicyWebhook: a program of the user's says which images may run.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#imagepolicywebhook>.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use skiff_base::remembered::Remembered;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::admission::{Attributes, Operation};
use crate::failure::Result;
use crate::webhook::remote::{self, Remote};

/// How many answers are remembered, as upstream has it.
const REMEMBERED: usize = 1024;
/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(10);
const FAILED_OPEN: &str = "alpha.image-policy.k8s.io/failed-open";

/// What the plugin is told.
#[derive(Debug, Clone)]
pub struct Settings {
    remote: remote::Settings,
    allowed_for: Duration,
    denied_for: Duration,
    backoff: Duration,
    default_allow: bool,
}

impl Settings {
    /// Reads an `imagePolicy`, in which `kubeConfig` holds what its file says.
    ///
    /// # Errors
    /// The kubeconfig or a time cannot be used.
    pub fn read(config: &Value) -> std::result::Result<Self, String> {
        let policy = config.get("imagePolicy").cloned().unwrap_or_default();
        let named = |error: String| format!("ImagePolicyWebhook: {error}");
        let time = |field: &str, unit: Duration, usual: i64, most: i64| {
            let given = policy.int_at(&[field]).filter(|given| *given != 0).unwrap_or(usual);
            if !(1..=most).contains(&given) {
                return Err(named(format!("valid value for {field} is between 1 and {most}, got {given}")));
            }
            Ok(unit.saturating_mul(given as u32))
        };
        let (second, millisecond) = (Duration::from_secs(1), Duration::from_millis(1));
        Ok(Self {
            remote: remote::Settings::read(policy.get("kubeConfig").unwrap_or(&Value::Null)).map_err(named)?,
            allowed_for: time("allowTTL", second, 300, 1800)?,
            denied_for: time("denyTTL", second, 30, 1800)?,
            backoff: time("retryBackoff", millisecond, 500, 300_000)?,
            default_allow: policy.bool_at(&["defaultAllow"]),
        })
    }
}

/// What the program said of some images.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Verdict {
    allowed: bool,
    reason: String,
    notes: Vec<(String, String)>,
}

/// The way to the program, and what it has said.
pub struct Judge {
    settings: Settings,
    remote: Remote,
    /// By the question.
    known: Remembered<String, Verdict>,
}

impl Judge {
    /// A judge who has been asked nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { remote: Remote::new(settings.remote.clone()), settings, known: Remembered::new(REMEMBERED) }
    }

    async fn ask(&self, attributes: &Attributes<'_>, spec: Value) -> std::result::Result<Verdict, String> {
        let (question, now) = (spec.to_string(), attributes.server.clock().monotonic());
        if let Some(verdict) = self.known.get(&question, now) {
            return Ok(verdict);
        }
        let review = json!({"kind": "ImageReview", "apiVersion": "imagepolicy.k8s.io/v1alpha1", "spec": spec});
        let answer = self.remote.insist(review.to_string().into(), TIMEOUT, self.settings.backoff).await?;
        let verdict = read(&answer)?;
        let kept = if verdict.allowed { self.settings.allowed_for } else { self.settings.denied_for };
        self.known.put(question, verdict.clone(), now, kept);
        Ok(verdict)
    }
}

fn read(answer: &[u8]) -> std::result::Result<Verdict, String> {
    let answer: Value = serde_json::from_slice(answer).map_err(|error| error.to_string())?;
    let status = answer.get("status").filter(|status| status.is_object()).ok_or("the answer has no status")?;
    let notes = status.map_at(&["auditAnnotations"]).into_iter().flatten();
    let notes = notes.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    Ok(Verdict {
        allowed: status.bool_at(&["allowed"]),
        reason: status.str_at(&["reason"]).to_owned(),
        notes: notes.collect(),
    })
}

/// What is asked about a Pod: its images, and the notes that are meant for the program.
fn question(pod: &Object, ephemeral: bool, namespace: &str) -> Value {
    let lists: &[&str] = if ephemeral { &["ephemeralContainers"] } else { &["containers", "initContainers"] };
    let containers = lists.iter().flat_map(|list| pod.list_at(&["spec", list]));
    let images: Vec<Value> = containers.map(|container| json!({"image": container.str_at(&["image"])})).collect();
    let notes = pod
        .map_at(&["metadata", "annotations"])
        .into_iter()
        .flatten()
        .filter(|(key, _)| key.split_once('/').is_some_and(|(domain, _)| domain.ends_with(".image-policy.k8s.io")));
    let notes: serde_json::Map<String, Value> = notes.map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut spec = json!({"containers": images, "namespace": namespace});
    if !notes.is_empty() {
        spec["annotations"] = notes.into();
    }
    spec
}

/// Refuses Pods with images that may not run.
pub fn validate<'a>(
    attributes: &'a Attributes<'_>,
    object: Option<&'a Object>,
    _: Option<&'a Object>,
) -> BoxFuture<'a, Result<()>> {
    async move {
        let is_pod = attributes.def.group.is_empty() && attributes.def.plural == "pods";
        let concerned = is_pod && matches!(attributes.subresource, "" | "ephemeralcontainers");
        let Some(pod) = object.filter(|_| concerned && attributes.operation != Operation::Delete) else {
            return Ok(());
        };
        let Some(judge) = &attributes.server.plugins.images else { return Ok(()) };
        let ephemeral = !attributes.subresource.is_empty();
        match judge.ask(attributes, question(pod, ephemeral, attributes.namespace)).await {
            Ok(verdict) => {
                for (key, value) in verdict.notes {
                    attributes.call.annotate(format!("imagepolicywebhook.image-policy.k8s.io/{key}"), value);
                }
                match (verdict.allowed, verdict.reason.as_str()) {
                    (true, _) => Ok(()),
                    (false, "") => Err(attributes.forbidden("one or more images rejected by webhook backend")),
                    (false, why) => Err(attributes
                        .forbidden(format_args!("image policy webhook backend denied one or more images: {why}"))),
                }
            }
            Err(error) if judge.settings.default_allow => {
                tracing::warn!(error, "nobody can be asked about images: all are allowed");
                attributes.call.annotate(FAILED_OPEN, "true");
                Ok(())
            }
            Err(error) => Err(attributes.forbidden(error)),
        }
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_notes_are_asked_about() {
        let pod = json!({"metadata": {"annotations": {"x.image-policy.k8s.io/ticket": "7", "other": "y"}}, "spec": {
            "containers": [{"image": "a"}], "initContainers": [{"image": "b"}], "ephemeralContainers": [{"image": "c"}]}});
        assert_eq!(
            question(&pod, false, "n"),
            json!({"containers": [{"image": "a"}, {"image": "b"}], "namespace": "n",
                "annotations": {"x.image-policy.k8s.io/ticket": "7"}})
        );
        assert_eq!(
            question(&json!({"spec": pod["spec"]}), true, "n"),
            json!({"containers": [{"image": "c"}], "namespace": "n"})
        );
    }

    #[test]
    fn answers_are_read() {
        let verdict = read(br#"{"status": {"allowed": false, "reason": "old", "auditAnnotations": {"k": "v"}}}"#);
        let expected = Verdict { allowed: false, reason: "old".into(), notes: vec![("k".into(), "v".into())] };
        assert_eq!(verdict, Ok(expected));
        assert!(read(b"{}").is_err() && read(b"x").is_err());
    }

    #[test]
    fn times_are_bounded() {
        let config = |more: Value| {
            let mut policy = json!({"kubeConfig": {"current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k"}}],
                "clusters": [{"name": "k", "cluster": {"server": "http://localhost:1"}}]}});
            policy.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
            Settings::read(&json!({"imagePolicy": policy}))
        };
        let usual = config(json!({})).expect("enough is said");
        assert_eq!(
            (usual.allowed_for.as_secs(), usual.denied_for.as_secs(), usual.backoff.as_millis()),
            (300, 30, 500)
        );
        let fault = config(json!({"allowTTL": 2000})).expect_err("too long");
        assert_eq!(fault, "ImagePolicyWebhook: valid value for allowTTL is between 1 and 1800, got 2000");
        assert!(Settings::read(&json!({})).is_err(), "nobody is named");
    }
}
