//! Approving the certificate requests of nodes' agents: one that asks for a certificate of a node, in the form that such
//! have, is approved where whoever asks has the right to ask for it. Recognizing is pure; the question about the right is
//! put to the API server. Certificates by which agents serve are approved by people, as upstream has it.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/#approval>.

use std::sync::Arc;

use futures_util::future::join_all;
use http::Method;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::clock::SharedClock;
use skiff_client::{Client, Error, Informer, Kind, ObjectKey};

use crate::meta::time;
use crate::runner::Setup;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const GROUP: &str = "system:nodes";
const PREFIX: &str = "system:node:";
/// Requests that are worked on at the same time.
const WORKERS: usize = 2;

/// What a request says of who the certificate is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// `system:node:a`.
    pub common_name: String,
    /// `system:nodes`.
    pub organizations: Vec<String>,
    /// Whether it asks for names or addresses beside that.
    pub has_alternative_names: bool,
}

/// Reads the subject of a request in PEM.
pub type SubjectReader = Arc<dyn Fn(&str) -> Result<Subject, String> + Send + Sync>;

/// A right that suffices to have a request approved, and what is told then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// The subresource of requests that the user must be allowed to create.
    pub subresource: &'static str,
    /// For people.
    pub message: &'static str,
}

const SELF: Right = Right {
    subresource: "selfnodeclient",
    message: "Auto approving self kubelet client certificate after SubjectAccessReview.",
};
const OTHER: Right = Right {
    subresource: "nodeclient",
    message: "Auto approving kubelet client certificate after SubjectAccessReview.",
};

/// The rights of which one suffices for a request; none where it is not what a node's agent asks for.
pub fn rights(request: &CertificateSigningRequest, subject: &Subject) -> Vec<Right> {
    let spec = &request.spec;
    let mut usages: Vec<_> = spec.usages.iter().flatten().map(String::as_str).collect();
    usages.retain(|usage| *usage != "key encipherment");
    usages.sort_unstable();
    let is_node = spec.signer_name == SIGNER
        && subject.organizations == [GROUP]
        && subject.common_name.starts_with(PREFIX)
        && !subject.has_alternative_names
        && usages == ["client auth", "digital signature"];
    if !is_node {
        return Vec::new();
    }
    let is_self = spec.username.as_deref() == Some(subject.common_name.as_str());
    if is_self { vec![SELF, OTHER] } else { vec![OTHER] }
}

/// Whether nobody has said anything to a request yet.
fn is_open(request: &CertificateSigningRequest) -> bool {
    let status = request.status.as_ref();
    let answered = status.is_some_and(|status| {
        status.certificate.is_some() || status.conditions.iter().flatten().any(|c| c.type_ != "Failed")
    });
    !answered && request.metadata.deletion_timestamp.is_none()
}

/// The request, approved.
fn approved(request: &CertificateSigningRequest, right: Right, now: Timestamp) -> CertificateSigningRequest {
    let mut request = request.clone();
    let conditions = request.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("AutoApproved".to_owned()),
        message: Some(right.message.to_owned()),
        last_update_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    });
    request
}

/// The question whether whoever made a request has a right.
fn question(request: &CertificateSigningRequest, right: Right) -> Value {
    let spec = &request.spec;
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
        "user": spec.username, "uid": spec.uid, "groups": spec.groups, "extra": spec.extra,
        "resourceAttributes": {"group": "certificates.k8s.io", "version": "*", "resource": "certificatesigningrequests",
            "subresource": right.subresource, "verb": "create"}}})
}

/// The controller.
pub struct Approver {
    requests: Informer<CertificateSigningRequest>,
    read: SubjectReader,
    client: Client,
    clock: SharedClock,
}

impl Approver {
    /// Runs until dropped.
    pub async fn run(mut setup: Setup, client: Client, clock: SharedClock, read: SubjectReader) {
        setup.on_change::<CertificateSigningRequest>(|change| {
            let request = change.object();
            let ours = request.spec.signer_name == SIGNER && is_open(request);
            ours.then(|| ObjectKey::of(&request.metadata)).into_iter().collect()
        });
        let (requests, queue) = (setup.informer(), setup.queue.clone());
        setup.synced().await;
        let controller = Self { requests, read, client, clock };
        let attend_to = |key: ObjectKey| {
            let controller = &controller;
            async move { controller.attend_to(&key).await.map(|()| true) }
        };
        join_all((0..WORKERS).map(|_| queue.work("certificate request", attend_to))).await;
    }

    async fn attend_to(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(request) = self.requests.by_key(key).filter(|request| is_open(request)) else { return Ok(()) };
        let pem = String::from_utf8_lossy(&request.spec.request.0).into_owned();
        let subject = match (self.read)(&pem) {
            Ok(subject) => subject,
            Err(why) => {
                tracing::debug!(%key, why, "certificate request cannot be read");
                return Ok(());
            }
        };
        for right in rights(&request, &subject) {
            let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
            let answer: Value = self.client.send_json(Method::POST, path, &question(&request, right)).await?;
            if answer["status"]["allowed"] == true {
                let path = CertificateSigningRequest::resource().object_path("", &key.name, "approval");
                let body = json!(approved(&request, right, self.clock.now()));
                return self.client.send_json::<Value>(Method::PUT, &path, &body).await.map(drop);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{now, object};

    fn request(spec: &str) -> CertificateSigningRequest {
        object(&format!("{{metadata: {{name: c}}, spec: {{request: UEVN, signerName: {SIGNER}, {spec}}}}}"))
    }

    #[test]
    fn what_agents_ask_for_is_recognized() {
        let usages = "usages: [digital signature, client auth]";
        let node = Subject {
            common_name: "system:node:a".into(),
            organizations: vec![GROUP.into()],
            has_alternative_names: false,
        };
        let check = |spec: &str, subject: &Subject, expected: &[&str]| {
            let found: Vec<_> = rights(&request(spec), subject).iter().map(|right| right.subresource).collect();
            assert_eq!(found, expected, "{spec} {subject:?}");
        };
        check(&format!("{usages}, username: 'system:node:a'"), &node, &["selfnodeclient", "nodeclient"]);
        check(&format!("{usages}, username: 'system:bootstrap:x'"), &node, &["nodeclient"]);
        check("usages: [key encipherment, digital signature, client auth]", &node, &["nodeclient"]);
        check("usages: [digital signature, server auth]", &node, &[]);
        check("usages: [client auth]", &node, &[]);
        check(usages, &Subject { common_name: "jane".into(), ..node.clone() }, &[]);
        check(usages, &Subject { organizations: vec!["system:masters".into()], ..node.clone() }, &[]);
        check(usages, &Subject { has_alternative_names: true, ..node.clone() }, &[]);
    }

    #[test]
    fn an_approval_says_why_and_is_given_once() {
        let open = request("usages: [client auth]");
        assert!(is_open(&open));
        let done = approved(&open, SELF, now());
        assert!(!is_open(&done));
        let condition = done.status.and_then(|status| status.conditions).expect("conditions").remove(0);
        assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("Approved", Some("AutoApproved")));
        assert_eq!(condition.message.as_deref(), Some(SELF.message));
    }
}
