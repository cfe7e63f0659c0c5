//! CertificateApproval, CertificateSigning, ClusterTrustBundleAttest and CertificateSubjectRestriction: who may have which
//! certificates made or believed, and who asks for one.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/>.

use serde_json::{Value, json};
use skiff_object::Object;
use skiff_object::meta::Meta;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::admission::{Attributes, Operation};
use crate::authz::Action;
use crate::failure::Result;

const GROUP: &str = "certificates.k8s.io";
const PLURAL: &str = "certificatesigningrequests";
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

/// Writes into a new request who makes it, whatever the client has written there.
pub fn name_requester(attributes: &Attributes<'_>, request: &mut Object) {
    if attributes.operation != Operation::Create || !attributes.is(GROUP, PLURAL) {
        return;
    }
    let user = &attributes.call.user;
    let spec = request.map_mut(&["spec"]);
    let facts = [
        ("username", json!(user.name)),
        ("uid", json!(user.uid)),
        ("groups", json!(user.groups)),
        ("extra", json!(user.extra)),
    ];
    for (field, fact) in facts {
        let is_empty = match &fact {
            Value::String(text) => text.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        if is_empty {
            spec.remove(field);
        } else {
            spec.insert(field.to_owned(), fact);
        }
    }
}

fn is_subresource(attributes: &Attributes<'_>, subresource: &str) -> bool {
    attributes.operation == Operation::Update
        && attributes.def.group == GROUP
        && attributes.def.plural == PLURAL
        && attributes.subresource == subresource
}

/// Whether the user may do something for a signer, by its name or by its domain.
fn may(attributes: &Attributes<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    [signer.to_owned(), format!("{domain}/*")].into_iter().any(|name| {
        let action = Action {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Action::default()
        };
        attributes.server.authorizer.decide_here(&attributes.call.user, &action).allowed
    })
}

/// Only who may approve for a signer approves or denies.
pub fn approval(attributes: &Attributes<'_>, _: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let Some(old) = old.filter(|_| is_subresource(attributes, "approval")) else { return Ok(()) };
    let signer = old.str_at(&["spec", "signerName"]);
    if may(attributes, "approve", signer) {
        return Ok(());
    }
    Err(attributes.forbidden(format!("user not permitted to approve requests with signerName {signer:?}")))
}

/// Only who may sign for a signer gives a certificate, or says that there will be none.
pub fn signing(attributes: &Attributes<'_>, new: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
    if !is_subresource(attributes, "status") || answer(new) == answer(old) {
        return Ok(());
    }
    let signer = old.str_at(&["spec", "signerName"]);
    if may(attributes, "sign", signer) {
        return Ok(());
    }
    Err(attributes.forbidden(format!("user not permitted to sign requests with signerName {signer:?}")))
}

/// Only who may attest for a signer says which certificates are that signer's. Collecting garbage and writing an object as it
/// was are left to everybody.
pub fn attest(attributes: &Attributes<'_>, new: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let is_written = matches!(attributes.operation, Operation::Create | Operation::Update);
    let Some(new) = new.filter(|_| is_written && attributes.is(GROUP, "clustertrustbundles")) else { return Ok(()) };
    let signer = new.str_at(&["spec", "signerName"]);
    let is_told =
        signer.is_empty() || old.is_some_and(|old| bare(old) == bare(new)) || may(attributes, "attest", signer);
    if is_told {
        return Ok(());
    }
    Err(attributes.forbidden(format!("user not permitted to attest for signerName {signer:?}")))
}

/// An object without what garbage collection writes.
fn bare(object: &Object) -> Object {
    let mut bare = object.clone();
    for field in ["ownerReferences", "finalizers", "managedFields"] {
        bare.remove_at(&["metadata", field]);
    }
    bare
}

/// What only a signer writes.
fn answer(request: &Object) -> (&str, &[Value]) {
    (request.str_at(&["status", "certificate"]), request.list_at(&["status", "conditions"]))
}

/// Nobody becomes one who may do everything by asking for a certificate.
pub fn subject(attributes: &Attributes<'_>, request: Option<&Object>, _: Option<&Object>) -> Result<()> {
    let is_new = attributes.operation == Operation::Create && attributes.is(GROUP, PLURAL);
    let Some(request) = request.filter(|_| is_new) else { return Ok(()) };
    if request.str_at(&["spec", "signerName"]) != CLIENT_SIGNER {
        return Ok(());
    }
    let organizations = organizations(request.str_at(&["spec", "request"]))
        .map_err(|why| attributes.forbidden(format!("failed to parse CSR: {why}")))?;
    if organizations.iter().any(|organization| organization == MASTERS) {
        let text = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
        return Err(attributes.forbidden(text));
    }
    Ok(())
}

/// The organizations in the subject of a request, which is PEM in base64.
fn organizations(request: &str) -> std::result::Result<Vec<String>, String> {
    use base64::Engine;
    let pem = base64::engine::general_purpose::STANDARD.decode(request).map_err(|error| error.to_string())?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).map_err(|error| error.to_string())?;
    let (_, read) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| error.to_string())?;
    let all = read.certification_request_info.subject.iter_organization();
    Ok(all.filter_map(|organization| organization.as_str().ok()).map(str::to_owned).collect())
}
