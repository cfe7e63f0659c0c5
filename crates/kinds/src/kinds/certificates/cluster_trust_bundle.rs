//! `certificates.k8s.io` ClusterTrustBundle: certificates of authorities, for everybody in the cluster. It is served in
//! versions that have to be asked for.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#cluster-trust-bundles>.

use std::collections::BTreeMap;

use serde_json::Value;
use skiff_base::{Timestamp, gates};
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names, pem};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::base::{BASE, list, selectable, text};
use crate::def::{Context, ResourceDef, Scope, Text};
use crate::rules::check::{At, Faults};
use crate::rules::table::{NAME, cells, column};
use crate::rules::{certificate_check, table};

/// `clustertrustbundles` in `v1beta1`, which is what is stored.
pub static DEF: ResourceDef = in_version(
    "v1beta1",
    None,
    "io.k8s.api.certificates.v1beta1.ClusterTrustBundle",
    "certificates.k8s.io/v1beta1 ClusterTrustBundle is deprecated in v1.36+, unavailable in v1.39+",
);

/// `clustertrustbundles` in `v1alpha1`, of the same shape.
pub static ALPHA: ResourceDef = in_version(
    "v1alpha1",
    Some((text("certificates.k8s.io"), text("v1beta1"))),
    "io.k8s.api.certificates.v1alpha1.ClusterTrustBundle",
    "certificates.k8s.io/v1alpha1 ClusterTrustBundle is deprecated in v1.34+, unavailable in v1.37+",
);

const fn in_version(
    version: &'static str,
    storage: Option<(Text, Text)>,
    schema: &'static str,
    deprecation: &'static str,
) -> ResourceDef {
    ResourceDef {
        group: text("certificates.k8s.io"),
        version: text(version),
        gate: text(gates::CLUSTER_TRUST_BUNDLE),
        plural: text("clustertrustbundles"),
        singular: text("clustertrustbundle"),
        kind: text("ClusterTrustBundle"),
        list_kind: text("ClusterTrustBundleList"),
        scope: Scope::Cluster,
        schema: text(schema),
        storage,
        selectable: selectable!["spec.signerName"],
        columns: list![NAME, column("SignerName", "string", "Whose certificates these are.")],
        unconditional_update: false,
        name_rule: any_name,
        deprecation: text(deprecation),
        validate,
        validate_update,
        row,
        ..BASE
    }
}

fn row(_: &ResourceDef, object: &Object, _: Timestamp) -> Vec<Value> {
    cells![object.name(), table::text_or(object, &["spec", "signerName"], table::NONE)]
}

/// Which names are good depends on the signer.
fn any_name(_: &str, _: bool) -> Vec<String> {
    Vec::new()
}

fn name_check(signer: &str, name: &str, is_prefix: bool) -> Vec<String> {
    if signer.is_empty() {
        if name.contains(':') {
            return vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()];
        }
        return names::dns_subdomain(name, is_prefix);
    }
    let prefix = format!("{}:", signer.replace('/', ":"));
    match name.strip_prefix(&prefix) {
        Some(rest) => names::dns_subdomain(rest, is_prefix),
        None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")],
    }
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    let signer = spec.get("signerName");
    let metadata = At::top(object, "metadata");
    for (field, is_prefix) in [("generateName", true), ("name", false)] {
        let name = metadata.get(field);
        if !name.is_blank() {
            faults.all_invalid(&name, name_check(signer.text(), name.text(), is_prefix));
        }
    }
    if !signer.is_blank() {
        certificate_check::signer_name(&mut faults, &signer);
    }
    trust_bundle(&mut faults, &spec.get("trustBundle"));
    faults.into_list()
}

fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let signer = |object| At::top(object, "spec").get("signerName");
    faults.immutable(&signer(new), &signer(old));
    faults.into_list()
}

/// The longest bundle.
const BUNDLE_LIMIT_BYTES: usize = 1 << 20;
/// Shown in place of the bundle.
const OMITTED: &str = "<value omitted>";

fn trust_bundle(faults: &mut Faults, bundle: &At) {
    if bundle.text().len() > BUNDLE_LIMIT_BYTES {
        faults.too_long(bundle, BUNDLE_LIMIT_BYTES);
        return;
    }
    let blocks = pem::blocks(bundle.text());
    let wrong: Vec<_> = blocks.iter().enumerate().filter_map(|(index, block)| wrong_with(index, block)).collect();
    if !wrong.is_empty() {
        wrong.into_iter().for_each(|words| faults.invalid_as(bundle, OMITTED, words));
        return;
    }
    if blocks.is_empty() {
        faults.invalid_as(bundle, OMITTED, "at least one trust anchor must be provided");
    }
    let mut places: BTreeMap<&[u8], Vec<String>> = BTreeMap::new();
    for (index, block) in blocks.iter().enumerate() {
        places.entry(&block.bytes).or_default().push(index.to_string());
    }
    for twice in places.values().filter(|places| places.len() > 1) {
        faults.invalid_as(bundle, OMITTED, format!("duplicate trust anchor (indices [{}])", twice.join(" ")));
    }
}

/// What is wrong with one block, which has to be the certificate of an authority.
fn wrong_with(index: usize, block: &pem::Block) -> Option<String> {
    if block.label != "CERTIFICATE" {
        return Some(format!("entry {index} has bad block type: {}", block.label));
    }
    if block.has_headers {
        return Some(format!("entry {index} has PEM block headers"));
    }
    let Some(certificate) = X509Certificate::from_der(&block.bytes).ok().filter(|(rest, _)| rest.is_empty()) else {
        return Some(format!("entry {index} does not parse as X.509"));
    };
    match certificate.1.basic_constraints() {
        Err(_) => Some(format!("entry {index} does not parse as X.509")),
        Ok(constraints) if constraints.as_ref().is_none_or(|found| !found.value.ca) => {
            Some(format!("entry {index} does not have the CA bit set"))
        }
        Ok(_) => None,
    }
}
