//! `certificates.k8s.io/v1` CertificateSigningRequest: asks a signer for a certificate.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, selectable, special, text, texts};
use crate::def::{Context, ResourceDef, Scope, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{prepare, table, tree};

/// `certificatesigningrequests`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("certificates.k8s.io"),
    plural: text("certificatesigningrequests"),
    singular: text("certificatesigningrequest"),
    kind: text("CertificateSigningRequest"),
    list_kind: text("CertificateSigningRequestList"),
    short_names: texts!["csr"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.certificates.v1.CertificateSigningRequest"),
    subresources: list![
        special(
            "approval",
            ("certificates.k8s.io", "v1", "CertificateSigningRequest"),
            texts!["get", "patch", "update"]
        ),
        Subresource::Status,
    ],
    selectable: selectable!["spec.signerName"],
    columns: list![
        NAME,
        AGE,
        column("SignerName", "string", "Who is asked to sign."),
        column("Requestor", "string", "Who asks."),
        column("RequestedDuration", "string", "For how long."),
        column("Condition", "string", "Whether it is approved, and issued."),
    ],
    prepare_update,
    row,
    validate,
    ..BASE
};

/// Only `approval` changes the conditions of approval, only `status` the certificate; the request itself stays.
fn prepare_update(context: &Context, new: &mut Object, old: &Object) {
    if context.subresource == "approval" {
        let conditions = new.at(&["status", "conditions"]).cloned();
        tree::carry_over(new, old, &["spec"]);
        tree::carry_over(new, old, &["status"]);
        if let Some(conditions) = conditions {
            new.set_at(&["status", "conditions"], conditions);
        }
        return;
    }
    prepare::update(context, new, old);
    tree::carry_over(new, old, &["spec"]);
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let expiry = object.int_at(&["spec", "expirationSeconds"]);
    cells![
        object.name(),
        table::age(object, now),
        table::text_or(object, &["spec", "signerName"], table::NONE),
        object.str_at(&["spec", "username"]),
        expiry.map_or_else(|| table::NONE.to_owned(), table::human_duration),
        condition(object),
    ]
}

fn condition(object: &Object) -> String {
    let has = |kind: &str| table::condition(object, kind).is_some();
    let mut text = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    }
    .to_owned();
    if has("Failed") {
        text.push_str(",Failed");
    }
    if !object.str_at(&["status", "certificate"]).is_empty() {
        text.push_str(",Issued");
    }
    text
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let spec = At::top(object, "spec");
    if spec.get("usages").is_blank() {
        faults.required(&spec.get("usages"), "usages must be provided");
    }
    if !spec.get("request").text().starts_with(PEM_HEADER) {
        faults.invalid(&spec.get("request"), "PEM block type must be CERTIFICATE REQUEST");
    }
    let signer = spec.get("signerName");
    if faults.needs(&signer)
        && !signer.text().split_once('/').is_some_and(|(domain, name)| domain.contains('.') && !name.is_empty())
    {
        faults.invalid(&signer, "must be a fully qualified domain and path of the form 'example.com/signer-name'");
    }
    let seconds = spec.get("expirationSeconds");
    if seconds.int().is_some_and(|seconds| seconds < EXPIRATION_MIN_SECONDS) {
        faults.invalid(&seconds, "may not specify a duration less than 600 seconds (10 minutes)");
    }
    faults.into_list()
}

/// `-----BEGIN CERTIFICATE REQUEST-----` in base64, as far as it is the same for every text behind it.
const PEM_HEADER: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS";
const EXPIRATION_MIN_SECONDS: i64 = 600;
