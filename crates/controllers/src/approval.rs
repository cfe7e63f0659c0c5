//! Approving the certificate requests of nodes' agents: one that asks for a certificate of a node, in the form that such
//! have, is approved where whoever asks has the right to ask for it. Recognizing is pure; the question about the right is
//! put to the API server. A certificate by which an agent serves is approved where the agent itself asks for it, for its
//! own name and for addresses that its Node has and that are nobody else's; upstream leaves these to people.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/#approval>.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use http::Method;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use k8s_openapi::api::core::v1::{Node, Service};
use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::clock::SharedClock;
use skiff_client::{Client, Error, Informer, Kind, ObjectKey};

use crate::meta::time;
use crate::runner::Setup;

const SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";
/// Names by which people reach API servers: no agent may serve under them.
const FOREIGN_NAMES: [&str; 4] = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
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
    /// The DNS names among them.
    pub names: Vec<String>,
    /// The addresses among them.
    pub addresses: Vec<String>,
    /// Whether there are others: mail addresses and the like.
    pub has_other_names: bool,
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

/// What is to be done about a request for a certificate to serve by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serving {
    /// It is what an agent asks for itself.
    Approve,
    /// The Node does not say yet what addresses it has.
    Later,
    /// It is left to people.
    Leave,
}

const SERVING_MESSAGE: &str = "Auto approving kubelet serving certificate of the node's own name and addresses.";

/// Whether a request is that of a node's agent for its own name and addresses, as the Nodes say.
/// No node may serve under the address of another, nor of a Service.
pub fn serving(
    request: &CertificateSigningRequest,
    subject: &Subject,
    nodes: &[Arc<Node>],
    services: &[Arc<Service>],
) -> Serving {
    let spec = &request.spec;
    let mut usages: Vec<_> = spec.usages.iter().flatten().map(String::as_str).collect();
    usages.retain(|usage| *usage != "key encipherment");
    usages.sort_unstable();
    let Some(name) = subject.common_name.strip_prefix(PREFIX) else { return Serving::Leave };
    let is_own = spec.signer_name == SERVING
        && subject.organizations == [GROUP]
        && spec.username.as_deref() == Some(subject.common_name.as_str())
        && spec.groups.iter().flatten().any(|group| group == GROUP)
        && usages == ["digital signature", "server auth"]
        && !subject.has_other_names
        && !subject.addresses.is_empty()
        && subject.names.iter().all(|own| own == name && !FOREIGN_NAMES.contains(&own.as_str()));
    if !is_own {
        return Serving::Leave;
    }
    let (own, others): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.metadata.name.as_deref() == Some(name));
    let read = |text: &String| text.parse::<IpAddr>().ok();
    let addresses_of = |nodes: &[&Arc<Node>]| -> BTreeSet<IpAddr> {
        let statuses = nodes.iter().filter_map(|node| node.status.as_ref());
        let addresses = statuses.flat_map(|status| status.addresses.iter().flatten());
        addresses.filter(|address| address.type_.ends_with("IP")).filter_map(|address| read(&address.address)).collect()
    };
    let (own, mut others) = (addresses_of(&own), addresses_of(&others));
    let specs = services.iter().filter_map(|service| service.spec.as_ref());
    others.extend(specs.flat_map(|spec| spec.cluster_ips.iter().flatten().filter_map(read)));
    let Some(asked) = subject.addresses.iter().map(read).collect::<Option<Vec<IpAddr>>>() else {
        return Serving::Leave;
    };
    if asked.iter().any(|address| others.contains(address) || address.is_loopback()) {
        return Serving::Leave;
    }
    if asked.iter().all(|address| own.contains(address)) { Serving::Approve } else { Serving::Later }
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
fn approved(request: &CertificateSigningRequest, message: &str, now: Timestamp) -> CertificateSigningRequest {
    let mut request = request.clone();
    let conditions = request.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.push(CertificateSigningRequestCondition {
        type_: "Approved".to_owned(),
        status: "True".to_owned(),
        reason: Some("AutoApproved".to_owned()),
        message: Some(message.to_owned()),
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
    nodes: Informer<Node>,
    services: Informer<Service>,
    read: SubjectReader,
    client: Client,
    clock: SharedClock,
}

impl Approver {
    /// Runs until dropped.
    pub async fn run(mut setup: Setup, client: Client, clock: SharedClock, read: SubjectReader) {
        setup.on_change::<CertificateSigningRequest>(|change| {
            let request = change.object();
            let ours = [SIGNER, SERVING].contains(&request.spec.signer_name.as_str()) && is_open(request);
            ours.then(|| ObjectKey::of(&request.metadata)).into_iter().collect()
        });
        let (requests, nodes, services) = (setup.informer(), setup.informer(), setup.informer());
        let queue = setup.queue.clone();
        setup.synced().await;
        let controller = Self { requests, nodes, services, read, client, clock };
        let attend_to = |key: ObjectKey| {
            let controller = &controller;
            async move { controller.attend_to(&key).await }
        };
        join_all((0..WORKERS).map(|_| queue.work("certificate request", attend_to))).await;
    }

    /// Says whether there is nothing more to be done about the request for now.
    async fn attend_to(&self, key: &ObjectKey) -> Result<bool, Error> {
        let Some(request) = self.requests.by_key(key).filter(|request| is_open(request)) else { return Ok(true) };
        let pem = String::from_utf8_lossy(&request.spec.request.0).into_owned();
        let subject = match (self.read)(&pem) {
            Ok(subject) => subject,
            Err(why) => {
                tracing::debug!(%key, why, "certificate request cannot be read");
                return Ok(true);
            }
        };
        if request.spec.signer_name == SERVING {
            return match serving(&request, &subject, &self.nodes.list(), &self.services.list()) {
                Serving::Approve => self.approve(&request, SERVING_MESSAGE).await,
                Serving::Later => Ok(false),
                Serving::Leave => Ok(true),
            };
        }
        for right in rights(&request, &subject) {
            let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
            let answer: Value = self.client.send_json(Method::POST, path, &question(&request, right)).await?;
            if answer["status"]["allowed"] == true {
                return self.approve(&request, right.message).await;
            }
        }
        Ok(true)
    }

    async fn approve(&self, request: &CertificateSigningRequest, message: &str) -> Result<bool, Error> {
        let name = request.metadata.name.clone().unwrap_or_default();
        let path = CertificateSigningRequest::resource().object_path("", &name, "approval");
        let body = json!(approved(request, message, self.clock.now()));
        self.client.send_json::<Value>(Method::PUT, &path, &body).await.map(|_| true)
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
        let node =
            Subject { common_name: "system:node:a".into(), organizations: vec![GROUP.into()], ..Subject::default() };
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
    fn an_agent_may_serve_under_its_own_addresses_only() {
        let node = |name: &str, address: &str| -> Arc<Node> {
            Arc::new(object(&format!(
                "{{metadata: {{name: {name}}}, status: {{addresses: [{{type: InternalIP, address: {address}}}]}}}}"
            )))
        };
        let nodes = [
            node("a", "10.0.0.1"),
            node("a", "10.96.0.1"),
            node("a", "'2001:db8::a'"),
            node("a", "'fd00:10:96::1'"),
            node("b", "10.0.0.2"),
        ];
        let services: [Arc<Service>; 1] =
            [Arc::new(object("{metadata: {name: kubernetes}, spec: {clusterIPs: ['10.96.0.1', 'FD00:10:96:0::1']}}"))];
        let request = |user: &str| -> CertificateSigningRequest {
            object(&format!(
                "{{metadata: {{name: c}}, spec: {{request: UEVN, signerName: {SERVING}, username: '{user}', \
                 groups: ['{GROUP}'], usages: [digital signature, server auth]}}}}"
            ))
        };
        let check = |user: &str, names: &[&str], addresses: &[&str], expected: Serving| {
            let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
            let subject = Subject {
                common_name: "system:node:a".into(),
                organizations: vec![GROUP.into()],
                has_alternative_names: true,
                names: owned(names),
                addresses: owned(addresses),
                has_other_names: false,
            };
            assert_eq!(
                serving(&request(user), &subject, &nodes, &services),
                expected,
                "{user} {names:?} {addresses:?}"
            );
        };
        check("system:node:a", &["a"], &["10.0.0.1"], Serving::Approve);
        check("system:node:a", &[], &["10.0.0.1"], Serving::Approve);
        check("system:node:a", &["a"], &["10.0.0.1", "10.0.0.3"], Serving::Later);
        check("system:node:a", &["a"], &[], Serving::Leave);
        check("system:node:a", &["a"], &["10.0.0.1", "10.0.0.2"], Serving::Leave);
        check("system:node:a", &["a"], &["10.0.0.1", "127.0.0.1"], Serving::Leave);
        check("system:node:a", &["a"], &["10.96.0.1"], Serving::Leave);
        check("system:node:a", &["a"], &["10.0.0.1", "2001:db8::a"], Serving::Approve);
        check("system:node:a", &["a"], &["fd00:10:96::1"], Serving::Leave);
        check("system:node:a", &["a", "kubernetes"], &["10.0.0.1"], Serving::Leave);
        check("system:node:b", &["a"], &["10.0.0.1"], Serving::Leave);
    }

    #[test]
    fn an_approval_says_why_and_is_given_once() {
        let open = request("usages: [client auth]");
        assert!(is_open(&open));
        let done = approved(&open, SELF.message, now());
        assert!(!is_open(&done));
        let condition = done.status.and_then(|status| status.conditions).expect("conditions").remove(0);
        assert_eq!((condition.type_.as_str(), condition.reason.as_deref()), ("Approved", Some("AutoApproved")));
        assert_eq!(condition.message.as_deref(), Some(SELF.message));
    }
}
