//! `certificates.k8s.io/v1` CertificateSigningRequest: asks a signer for a certificate.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object};

use crate::base::{BASE, list, selectable, special, text, texts};
use crate::def::{Context, ResourceDef, Scope, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{certificate_check, prepare, table, tree};

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
    name_rule: skiff_object::names::path_segment,
    validate,
    validate_update,
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

/// What a certificate may be used for.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    if !spec.get("request").text().starts_with(PEM_HEADER) {
        faults.invalid(&spec.get("request"), "PEM block type must be CERTIFICATE REQUEST");
    }
    let usages = spec.get("usages");
    if usages.is_blank() {
        faults.required(&usages, "usages must be provided");
    }
    let mut seen = BTreeSet::new();
    for usage in usages.items() {
        faults.choice(&usage, &USAGES);
        if !seen.insert(usage.text()) {
            faults.duplicate(&usage);
        }
    }
    let signer = spec.get("signerName");
    if signer.text() == LEGACY_SIGNER {
        faults.invalid(&signer, "the legacy signerName is not allowed via this API version");
    } else {
        certificate_check::signer_name(&mut faults, &signer);
    }
    let seconds = spec.get("expirationSeconds");
    if seconds.int().is_some_and(|seconds| seconds < EXPIRATION_MIN_SECONDS) {
        faults.invalid(&seconds, "may not specify a duration less than 600 seconds (10 minutes)");
    }
    conditions(&mut faults, &At::top(object, "status").get("conditions"));
    faults.into_list()
}

/// Approval, denial and failure are told, never taken back; and nothing is both approved and denied.
const FINAL: [&str; 3] = ["Approved", "Denied", "Failed"];

fn conditions(faults: &mut Faults, conditions: &At) {
    let mut seen = BTreeSet::new();
    for condition in conditions.items() {
        let (kind, status) = (condition.get("type"), condition.get("status"));
        faults.needs(&kind);
        if status.is_blank() {
            faults.required(&status, "");
        } else if FINAL.contains(&kind.text()) {
            faults.choice(&status, &["True"]);
        } else {
            faults.choice(&status, &["False", "True", "Unknown"]);
        }
        let other = match kind.text() {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        if seen.contains(other) {
            let words = "Approved and Denied conditions are mutually exclusive";
            faults.invalid_as(conditions, kind.text(), words);
        }
        if !seen.insert(kind.text()) {
            faults.duplicate(&kind);
        }
    }
}

fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let (status, was) = (At::top(new, "status"), At::top(old, "status"));
    let conditions = status.get("conditions");
    let has = |at: &At, kind: &str| at.get("conditions").items().iter().any(|c| c.get("type").text() == kind);
    for kind in FINAL {
        let may_add = match context.subresource {
            "approval" => kind != "Failed",
            "status" => kind == "Failed",
            _ => false,
        };
        match (has(&status, kind), has(&was, kind)) {
            (true, false) if !may_add => {
                faults.forbidden(&conditions, format!("updates may not add a condition of type {kind:?}"));
            }
            (false, true) => {
                faults.forbidden(&conditions, format!("updates may not remove a condition of type {kind:?}"));
            }
            _ => {}
        }
    }
    let (certificate, before) = (status.get("certificate"), was.get("certificate"));
    if certificate.text() != before.text() && (context.subresource != "status" || !before.is_blank()) {
        faults.forbidden(&certificate, "updates may not change the certificate once it is set");
    }
    faults.into_list()
}

/// The signer of requests that named none, in an older version of the API.
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// `-----BEGIN CERTIFICATE REQUEST-----` in base64, as far as it is the same for every text behind it.
const PEM_HEADER: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS";
const EXPIRATION_MIN_SECONDS: i64 = 600;
