//! What may be wrong with the volumes of a Pod: their names, and the sources that only Pods have.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skiff_object::names;

use crate::rules::check::{At, Faults};
use crate::rules::env_check::{field_reference, resource_reference};
use crate::rules::source_check;

/// What a volume is, as far as mounts care.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A claim, which alone may be a block device.
    Claim,
    /// Anything else.
    Other,
}

/// A Pod's volumes by name.
pub type Volumes<'a> = BTreeMap<&'a str, Source>;

/// The greatest mode of a file.
const MODE_LIMIT: i64 = 0o777;
/// The shortest life of a projected token.
const TOKEN_EXPIRATION_MIN_SECONDS: i64 = 10 * 60;
/// The longest life of a projected token.
const TOKEN_EXPIRATION_MAX_SECONDS: i64 = 1 << 32;
const DOWNWARD_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Checks a Pod's volumes; gives their names. `pod_name` is empty where it is not known yet.
pub fn volumes<'a>(faults: &mut Faults, volumes: &At<'a>, pod_name: &str) -> Volumes<'a> {
    let mut seen = Volumes::new();
    for volume in volumes.items() {
        source(faults, &volume);
        let name = volume.get("name");
        faults.needs_name(&name, names::check_dns_label);
        let is_claim = volume.get("persistentVolumeClaim").is_set() || volume.get("ephemeral").is_set();
        let kind = if is_claim { Source::Claim } else { Source::Other };
        if !name.is_blank() && seen.insert(name.text(), kind).is_some() {
            faults.duplicate(&name);
        }
        if volume.get("ephemeral").is_set() && !pod_name.is_empty() {
            let claim = format!("{pod_name}-{}", name.text());
            for words in names::check_dns_subdomain(&claim) {
                faults.invalid(&name, format!("PVC name {claim:?}: {words}"));
            }
        }
    }
    seen
}

/// Exactly one source, well-formed.
fn source(faults: &mut Faults, volume: &At) {
    let sources = volume.value().as_object().into_iter().flatten().filter(|(_, source)| !source.is_null());
    let sources: Vec<_> = sources.map(|(kind, _)| kind.as_str()).filter(|kind| *kind != "name").collect();
    if sources.is_empty() {
        faults.required(volume, "must specify a volume type");
    }
    for (index, kind) in sources.into_iter().enumerate() {
        let source = volume.get(kind);
        if index > 0 {
            faults.forbidden(&source, "may not specify more than 1 volume type");
        } else {
            source_of_kind(faults, kind, &source);
        }
    }
}

fn source_of_kind(faults: &mut Faults, kind: &str, source: &At) {
    match kind {
        "emptyDir" => {
            let limit = source.get("sizeLimit");
            if limit.quantity().is_some_and(|quantity| quantity.is_negative()) {
                faults.forbidden(&limit, "SizeLimit field must be a valid resource quantity");
            }
        }
        "secret" => {
            faults.needs(&source.get("secretName"));
            mode(faults, &source.get("defaultMode"));
            items(faults, &source.get("items"));
        }
        "configMap" => {
            faults.needs(&source.get("name"));
            mode(faults, &source.get("defaultMode"));
            items(faults, &source.get("items"));
        }
        "downwardAPI" => {
            mode(faults, &source.get("defaultMode"));
            downward_items(faults, source);
        }
        "projected" => projected(faults, source),
        "persistentVolumeClaim" => drop(faults.needs(&source.get("claimName"))),
        "ephemeral" => ephemeral(faults, source),
        "csi" => {
            source_check::driver_name(faults, &source.get("driver"));
            let secret = source.get("nodePublishSecretRef");
            if secret.is_set() && faults.needs(&secret.get("name")) {
                let at = secret.get("name").renamed(source.path().child("name"));
                faults.all_invalid(&at, names::check_dns_subdomain(at.text()));
            }
        }
        "image" => {
            faults.needs(&source.get("reference"));
            faults.choice(&source.get("pullPolicy"), &["Always", "IfNotPresent", "Never"]);
        }
        "gitRepo" => {
            faults.needs(&source.get("repository"));
            relative(faults, &source.get("directory"));
        }
        _ => source_check::storage_source(faults, kind, source, false),
    }
}

fn mode(faults: &mut Faults, mode: &At) {
    if mode.int().is_some_and(|mode| !(0..=MODE_LIMIT).contains(&mode)) {
        faults.invalid(mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn items(faults: &mut Faults, items: &At) {
    for item in items.items() {
        faults.needs(&item.get("key"));
        if faults.needs(&item.get("path")) {
            local_path(faults, &item.get("path"));
        }
        mode(faults, &item.get("mode"));
    }
}

/// Checks the path of a projected file: relative, and none that the kubelet keeps for itself.
pub fn local_path(faults: &mut Faults, path: &At) {
    relative(faults, path);
    if path.text().starts_with("..") && !path.text().starts_with("../") {
        faults.invalid(path, "must not start with '..'");
    }
}

/// Checks a relative path that does not climb.
pub fn relative(faults: &mut Faults, path: &At) {
    if path.text().starts_with('/') {
        faults.invalid(path, "must be a relative path");
    }
    no_backsteps(faults, path);
}

/// Checks a path that does not climb.
pub fn no_backsteps(faults: &mut Faults, path: &At) {
    if path.text().split('/').any(|part| part == "..") {
        faults.invalid(path, "must not contain '..'");
    }
}

/// As upstream has it, faults are told of the volume rather than of the item.
fn downward_items(faults: &mut Faults, source: &At) {
    for item in source.get("items").items() {
        let at = |field: &str| item.get(field).renamed(source.path().child(field));
        let (field, resource) = (at("fieldRef"), at("resourceFieldRef"));
        faults.needs(&at("path"));
        local_path(faults, &at("path"));
        match (field.is_set(), resource.is_set()) {
            (true, both) => {
                field_reference(faults, &field, &DOWNWARD_FIELDS);
                if both {
                    let words = "fieldRef and resourceFieldRef can not be specified simultaneously";
                    faults.invalid_as(source, "resource", words);
                }
            }
            (false, true) => resource_reference(faults, &resource, true),
            (false, false) => faults.required(source, "one of fieldRef and resourceFieldRef is required"),
        }
        mode(faults, &at("mode"));
    }
}

fn projected(faults: &mut Faults, projected: &At) {
    mode(faults, &projected.get("defaultMode"));
    let mut paths = BTreeSet::new();
    let mut conflict = |faults: &mut Faults, path: &str, shown: &str| {
        if !path.is_empty() && !paths.insert(path.to_owned()) {
            faults.invalid_as(projected, shown, "conflicting duplicate paths");
        }
    };
    for source in projected.get("sources").items() {
        for kind in ["secret", "configMap"] {
            let part = source.get(kind);
            if part.is_set() {
                faults.needs(&part.get("name"));
                items(faults, &part.get("items"));
                for item in part.get("items").items() {
                    conflict(faults, item.get("path").text(), part.get("name").text());
                }
            }
        }
        let downward = source.get("downwardAPI");
        downward_items(faults, &downward);
        for item in downward.get("items").items() {
            let path = item.get("path").text();
            conflict(faults, path, path);
        }
        if source.get("serviceAccountToken").is_set() {
            token_source(faults, &source.get("serviceAccountToken"), projected);
        }
        let bundle = source.get("clusterTrustBundle");
        if bundle.is_set() {
            trust_bundle(faults, &bundle);
            conflict(faults, bundle.get("path").text(), bundle.get("path").text());
        }
        let certificate = source.get("podCertificate");
        if certificate.is_set() {
            pod_certificate(faults, &certificate);
            for field in ["credentialBundlePath", "keyPath", "certificateChainPath"] {
                conflict(faults, certificate.get(field).text(), certificate.get(field).text());
            }
        }
        if source.value().as_object().map_or(0, |map| map.values().filter(|part| !part.is_null()).count()) > 1 {
            faults.forbidden(&source, "may not specify more than 1 volume type per source");
        }
    }
}

fn token_source(faults: &mut Faults, token: &At, projected: &At) {
    let seconds = token.get("expirationSeconds");
    if seconds.int().is_some_and(|seconds| seconds < TOKEN_EXPIRATION_MIN_SECONDS) {
        faults.invalid(&seconds, "may not specify a duration less than 10 minutes");
    }
    if seconds.int().is_some_and(|seconds| seconds > TOKEN_EXPIRATION_MAX_SECONDS) {
        faults.invalid(&seconds, "may not specify a duration larger than 2^32 seconds");
    }
    let path = token.get("path").renamed(projected.path().child("path"));
    if faults.needs(&path) {
        local_path(faults, &path);
    }
}

fn trust_bundle(faults: &mut Faults, bundle: &At) {
    let (name, signer, selector) = (bundle.get("name"), bundle.get("signerName"), bundle.get("labelSelector"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => faults.invalid(bundle, "only one of name and signerName may be used"),
        (true, false) => {
            if name.is_blank() {
                faults.required(&name, "must be a valid object name");
            }
            let own = name.text().rsplit(':').next().unwrap_or("");
            for words in names::check_dns_subdomain(own) {
                faults.invalid(&name, format!("not a valid clustertrustbundlename: {words}"));
            }
            if selector.is_set() {
                faults.invalid(&selector, "labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            if signer.is_blank() {
                faults.required(&signer, "must be a valid signer name");
            }
            crate::rules::certificate_check::signer_name(faults, &signer);
            faults.selector(&selector);
        }
        (false, false) => faults.required(bundle, "either name or signerName must be specified"),
    }
    faults.needs(&bundle.get("path"));
    local_path(faults, &bundle.get("path"));
}

/// How keys of projected certificates are made.
const KEY_TYPES: [&str; 6] = ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"];
/// The shortest and the longest life of a projected certificate.
const CERTIFICATE_MIN_SECONDS: i64 = 60 * 60;
const CERTIFICATE_MAX_SECONDS: i64 = 91 * 24 * 60 * 60;

fn pod_certificate(faults: &mut Faults, certificate: &At) {
    crate::rules::certificate_check::signer_name(faults, &certificate.get("signerName"));
    faults.needs_choice(&certificate.get("keyType"), &KEY_TYPES);
    let seconds = certificate.get("maxExpirationSeconds");
    if seconds.int().is_some_and(|seconds| seconds < CERTIFICATE_MIN_SECONDS) {
        faults.invalid(&seconds, format!("if provided, maxExpirationSeconds must be >= {CERTIFICATE_MIN_SECONDS}"));
    }
    if seconds.int().is_some_and(|seconds| seconds > CERTIFICATE_MAX_SECONDS) {
        faults.invalid(&seconds, format!("if provided, maxExpirationSeconds must be <= {CERTIFICATE_MAX_SECONDS}"));
    }
    let paths = ["credentialBundlePath", "keyPath", "certificateChainPath"].map(|field| certificate.get(field));
    if paths.iter().all(At::is_blank) {
        let words = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        faults.required(certificate, words);
    }
    paths.iter().filter(|path| !path.is_blank()).for_each(|path| local_path(faults, path));
}

/// Metadata that templates of objects may have; the rest is the server's to set.
pub fn template_metadata(faults: &mut Faults, metadata: &At) {
    let annotations = metadata.get("annotations");
    faults.extend(skiff_object::validate::annotations(annotations.node(), annotations.path()));
    faults.labels(&metadata.get("labels"));
    for (field, value) in metadata.value().as_object().into_iter().flatten() {
        if !matches!(field.as_str(), "annotations" | "labels") && !matches!(value, Value::Null) {
            faults.forbidden(&metadata.get(field), "cannot be set");
        }
    }
}

fn ephemeral(faults: &mut Faults, source: &At) {
    let template = source.get("volumeClaimTemplate");
    if !template.is_set() {
        faults.required(&template, "");
        return;
    }
    template_metadata(faults, &template.get("metadata"));
    crate::rules::storage_rules::check_claim(faults, &template.get("spec"));
}
