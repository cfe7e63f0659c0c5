//! ClusterTrustBundles: what may be in them, and what they may be called.

mod common;

use expect_test::{Expect, expect};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use skiff_object::pem;

use common::{faults, row, update_faults};

/// A certificate, of an authority or not.
fn certificate(is_authority: bool) -> String {
    let mut params = CertificateParams::default();
    if is_authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    let key = KeyPair::generate().expect("a key");
    params.self_signed(&key).expect("a certificate").pem()
}

fn bundle(version: &str, name: &str, signer: &str, certificates: &str) -> String {
    let certificates = serde_json::to_string(certificates).expect("a text can be written");
    format!(
        "{{apiVersion: certificates.k8s.io/{version}, kind: ClusterTrustBundle, metadata: {{name: {name:?}}}, \
         spec: {{signerName: {signer:?}, trustBundle: {certificates}}}}}"
    )
}

#[test]
fn only_certificates_of_authorities_are_in_them() {
    let (one, two, leaf) = (certificate(true), certificate(true), certificate(false));
    let key = pem::encode("PRIVATE KEY", b"x");
    let headed = one.replacen("-----\n", "-----\nA: b\n\n", 1);
    let check = |certificates: &str, expected: Expect| {
        expected.assert_eq(&faults(&bundle("v1beta1", "a", "", certificates)));
    };
    check(&format!("words\n{one}more words\n{two}"), expect![""]);
    check(
        "",
        expect![[r#"
        spec.trustBundle: Invalid value: "<value omitted>": at least one trust anchor must be provided
    "#]],
    );
    check(
        &format!("{one}{key}{leaf}{}", pem::encode("CERTIFICATE", b"x")),
        expect![[r#"
        spec.trustBundle: Invalid value: "<value omitted>": entry 1 has bad block type: PRIVATE KEY
        spec.trustBundle: Invalid value: "<value omitted>": entry 2 does not have the CA bit set
        spec.trustBundle: Invalid value: "<value omitted>": entry 3 does not parse as X.509
    "#]],
    );
    check(
        &headed,
        expect![[r#"
        spec.trustBundle: Invalid value: "<value omitted>": entry 0 has PEM block headers
    "#]],
    );
    check(
        &format!("{one}{two}{one}"),
        expect![[r#"
        spec.trustBundle: Invalid value: "<value omitted>": duplicate trust anchor (indices [0 2])
    "#]],
    );
    check(
        &"x".repeat((1 << 20) + 1),
        expect![[r#"
        spec.trustBundle: Too long: may not be more than 1048576 bytes
    "#]],
    );
}

#[test]
fn names_tell_the_signer() {
    let authority = certificate(true);
    let mut text = String::new();
    for (name, signer) in [
        ("a", ""),
        ("x.io:s:a", ""),
        ("A", ""),
        ("x.io:s:a", "x.io/s"),
        ("a", "x.io/s"),
        ("x.io:s:", "x.io/s"),
        ("x.io:s:a:b", "x.io/s"),
        ("s:a", "s"),
    ] {
        let found = faults(&bundle("v1alpha1", name, signer, &authority));
        text.push_str(&format!("# {name} of {signer:?}\n{found}"));
    }
    expect![[r##"
        # a of ""
        # x.io:s:a of ""
        metadata.name: Invalid value: "x.io:s:a": ClusterTrustBundle without signer name must not have ":" in its name
        # A of ""
        metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        # x.io:s:a of "x.io/s"
        # a of "x.io/s"
        metadata.name: Invalid value: "a": ClusterTrustBundle for signerName x.io/s must be named with prefix x.io:s:
        # x.io:s: of "x.io/s"
        metadata.name: Invalid value: "x.io:s:": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        # x.io:s:a:b of "x.io/s"
        metadata.name: Invalid value: "x.io:s:a:b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')
        # s:a of "s"
        spec.signerName: Invalid value: "s": must be a fully qualified domain and path of the form 'example.com/signer-name'
    "##]].assert_eq(&text);
}

#[test]
fn the_signer_stays() {
    let authority = certificate(true);
    let of = |name: &str, signer: &str| bundle("v1beta1", name, signer, &authority);
    assert_eq!(update_faults(&of("a", ""), &of("a", "")), "");
    expect![[r#"
        spec.signerName: Invalid value: "x.io/t": field is immutable
    "#]]
    .assert_eq(&update_faults(&of("x.io:s:a", "x.io/s"), &of("x.io:s:a", "x.io/t")));
}

#[test]
fn the_signer_is_shown() {
    assert_eq!(row(&bundle("v1beta1", "x.io:s:a", "x.io/s", "")), "x.io:s:a | x.io/s");
    assert_eq!(row(&bundle("v1alpha1", "a", "", "")), "a | <none>");
}
