//! What may be wrong with the names of signers.

use skiff_object::names::{self, LABEL_LIMIT_BYTES, SUBDOMAIN_LIMIT_BYTES};

use crate::rules::check::{At, Faults};

/// The longest name of a signer: a domain, a slash, a label, a dot and a domain.
const SIGNER_LIMIT_BYTES: usize = SUBDOMAIN_LIMIT_BYTES + 1 + LABEL_LIMIT_BYTES + 1 + SUBDOMAIN_LIMIT_BYTES;

/// Checks the name of a signer, `example.com/signer`: a domain of at least two parts, a slash and a path of dotted names.
pub fn signer_name(faults: &mut Faults, name: &At) {
    if !faults.needs(name) {
        return;
    }
    let Some((domain, path)) = name.text().split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let words = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        faults.invalid(name, words);
        return;
    };
    if domain.len() > SUBDOMAIN_LIMIT_BYTES {
        faults.too_long(name, SUBDOMAIN_LIMIT_BYTES);
    }
    labels(faults, name, domain, names::check_dns_label);
    if !domain.contains('.') {
        faults.invalid_as(name, domain, "should be a domain with at least two segments separated by dots");
    }
    labels(faults, name, path, names::check_dns_subdomain);
    faults.at_most_bytes(name, SIGNER_LIMIT_BYTES);
}

fn labels(faults: &mut Faults, name: &At, part: &str, check: fn(&str) -> Vec<String>) {
    for label in part.split('.') {
        for words in check(label) {
            faults.invalid_as(name, part, format!("validating label {label:?}: {words}"));
        }
    }
}
