//! `certificates.k8s.io/v1` CertificateSigningRequest: asks a signer for a certificate.

use crate::base::{BASE, list, special, text, texts};
use crate::def::{ResourceDef, Scope, Subresource};

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
    ..BASE
};
