//! CertificateSigningRequests: signing those that were approved, and removing those that nobody needs any more.
//! The signature itself is made by a function that the program hands in: the authority's key is not here.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use skiff_base::Timestamp;
use skiff_client::{Informer, ObjectKey};

use crate::meta::time;
use crate::plan::{Action, Plan};
use crate::runner::{Controller, Failure, Setup};

/// A request that was answered goes after this long.
const ANSWERED: Duration = Duration::from_secs(3600);
/// One that nobody answers goes after this long.
const PENDING: Duration = Duration::from_secs(24 * 3600);

const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";
const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// What is to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningRequest {
    /// The request in PEM.
    pub pem: String,
    /// What the key may be used for, as the API names it: `client auth`.
    pub usages: Vec<String>,
    /// How long the certificate is to be good, where that is asked for.
    pub seconds: Option<i32>,
    /// What its subject has to look like: the organizations, and what its common name begins with.
    pub subject: Option<(&'static str, &'static str)>,
}

/// Signs with the cluster's authority; gives the certificate in PEM, or what is wrong with the request.
pub type Signer = Arc<dyn Fn(&SigningRequest) -> Result<String, String> + Send + Sync>;

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == kind)
}

/// What is to be done about a request.
pub fn reconcile(request: &CertificateSigningRequest, sign: Option<&Signer>, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    if request.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let left = time_left(request, now);
    if left.is_zero() {
        plan.then(Action::delete(request));
        return plan;
    }
    plan.look_again(left);
    let answered = request.status.as_ref().is_some_and(|status| status.certificate.is_some());
    let wanted = has(request, "Approved") && !has(request, "Denied") && !has(request, "Failed") && !answered;
    if let (true, Some(sign), Some(what)) = (wanted, sign, to_sign(request)) {
        let mut status = request.status.clone().unwrap_or_default();
        match what.and_then(|what| sign(&what)) {
            Ok(pem) => status.certificate = Some(ByteString(pem.into_bytes())),
            Err(fault) => fail(&mut status, fault, now),
        }
        plan.then(Action::update_status(&CertificateSigningRequest { status: Some(status), ..request.clone() }));
    }
    plan
}

fn fail(status: &mut CertificateSigningRequestStatus, message: String, now: Timestamp) {
    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
        type_: "Failed".to_owned(),
        status: "True".to_owned(),
        reason: Some("SignerValidationFailure".to_owned()),
        message: Some(message),
        last_update_time: Some(time(now)),
        last_transition_time: Some(time(now)),
    });
}

/// What is asked to be signed, if it is for one of the cluster's own signers; an error where they would not.
fn to_sign(request: &CertificateSigningRequest) -> Option<Result<SigningRequest, String>> {
    let spec = &request.spec;
    let (needed, allowed, subject): (&str, &[&str], _) = match spec.signer_name.as_str() {
        CLIENT => ("client auth", &["client auth", "digital signature", "key encipherment"], None),
        NODE_CLIENT => {
            let subject = Some(("system:nodes", "system:node:"));
            ("client auth", &["client auth", "digital signature", "key encipherment"], subject)
        }
        NODE_SERVING => {
            let subject = Some(("system:nodes", "system:node:"));
            ("server auth", &["server auth", "digital signature", "key encipherment"], subject)
        }
        LEGACY => ("", &[], None),
        _ => return None,
    };
    let usages = spec.usages.clone().unwrap_or_default();
    let strange = usages.iter().any(|usage| !allowed.is_empty() && !allowed.contains(&usage.as_str()));
    let lacking = !needed.is_empty() && !usages.iter().any(|usage| usage == needed);
    if strange || lacking {
        return Some(Err(format!("invalid usages for certificate: {}", usages.join(", "))));
    }
    let pem = String::from_utf8_lossy(&spec.request.0).into_owned();
    Some(Ok(SigningRequest { pem, usages, seconds: spec.expiration_seconds, subject }))
}

/// How long the request stays.
fn time_left(request: &CertificateSigningRequest, now: Timestamp) -> Duration {
    let conditions = request.status.as_ref().and_then(|status| status.conditions.as_ref());
    let answered = request.status.as_ref().is_some_and(|status| status.certificate.is_some());
    let final_ones = conditions.into_iter().flatten().filter(|c| c.type_ != "Approved" || answered);
    let answer = final_ones.filter_map(|condition| condition.last_update_time.as_ref()).map(|time| time.0).max();
    let made = request.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0);
    let (from, stay) = answer.map_or((made, PENDING), |answer| (answer, ANSWERED));
    stay.saturating_sub(Duration::try_from(now.duration_since(from)).unwrap_or_default())
}

/// The controller.
pub struct Certificates {
    requests: Informer<CertificateSigningRequest>,
    sign: Option<Signer>,
}

impl Certificates {
    /// Sets up queue and caches.
    pub fn controller(setup: &mut Setup, sign: Option<Signer>) -> Arc<dyn Controller> {
        setup.for_each::<CertificateSigningRequest>();
        Arc::new(Self { requests: setup.informer(), sign })
    }
}

impl Controller for Certificates {
    fn plan(&self, key: &ObjectKey, now: Timestamp, _failure: Option<&Failure>) -> Plan {
        let request = self.requests.by_key(key);
        request.map_or_else(Plan::nothing, |request| reconcile(&request, self.sign.as_ref(), now))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::testing::{now, object};

    fn check(spec: &str, status: &str, expected: Expect) {
        let request: CertificateSigningRequest = object(&format!(
            "{{metadata: {{name: c, creationTimestamp: '2026-01-31T11:00:00Z'}}, spec: {{request: UEVN, {spec}}}, status: {{{status}}}}}"
        ));
        let sign: Signer = Arc::new(|what: &SigningRequest| {
            if what.subject.is_some() { Err("not a node".to_owned()) } else { Ok(format!("signed {}", what.pem)) }
        });
        expected.assert_eq(&reconcile(&request, Some(&sign), now()).to_string());
    }

    const APPROVED: &str = "conditions: [{type: Approved, status: 'True', lastUpdateTime: '2026-01-31T11:30:00Z'}]";

    #[test]
    fn what_is_approved_is_signed() {
        let client = "signerName: kubernetes.io/kube-apiserver-client, usages: [client auth]";
        check(
            client,
            "",
            expect![[r#"
            look again in 82800 s
        "#]],
        );
        check(
            client,
            APPROVED,
            expect![[r#"
            update certificatesigningrequests/status c {"certificate":"c2lnbmVkIFBFTQ==","conditions":[{"lastUpdateTime":"2026-01-31T11:30:00Z","status":"True","type":"Approved"}]}
            look again in 82800 s
        "#]],
        );
        check(
            "signerName: kubernetes.io/kube-apiserver-client, usages: [server auth]",
            APPROVED,
            expect![[r#"
            update certificatesigningrequests/status c {"conditions":[{"lastUpdateTime":"2026-01-31T11:30:00Z","status":"True","type":"Approved"},{"lastTransitionTime":"2026-01-31T12:00:00Z","lastUpdateTime":"2026-01-31T12:00:00Z","message":"invalid usages for certificate: server auth","reason":"SignerValidationFailure","status":"True","type":"Failed"}]}
            look again in 82800 s
        "#]],
        );
        check(
            "signerName: kubernetes.io/kubelet-serving, usages: [server auth]",
            APPROVED,
            expect![[r#"
            update certificatesigningrequests/status c {"conditions":[{"lastUpdateTime":"2026-01-31T11:30:00Z","status":"True","type":"Approved"},{"lastTransitionTime":"2026-01-31T12:00:00Z","lastUpdateTime":"2026-01-31T12:00:00Z","message":"not a node","reason":"SignerValidationFailure","status":"True","type":"Failed"}]}
            look again in 82800 s
        "#]],
        );
        check(
            "signerName: example.org/own",
            APPROVED,
            expect![[r#"
            look again in 82800 s
        "#]],
        );
    }

    #[test]
    fn what_was_answered_goes_after_an_hour() {
        let old = "conditions: [{type: Denied, status: 'True', lastUpdateTime: '2026-01-31T11:00:00Z'}]";
        check(
            "signerName: example.org/own",
            old,
            expect![[r#"
            delete certificatesigningrequests c
        "#]],
        );
    }
}
