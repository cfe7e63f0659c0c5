//! `certificates.k8s.io/v1` CertificateSigningRequest: asks a signer for a certificate.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::Object;
use skiff_object::meta::Meta;

use crate::base::{BASE, list, selectable, special, text, texts};
use crate::def::{Context, ResourceDef, Scope, Subresource};
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
    prepare_update: prepare_update,
    row: row,
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
