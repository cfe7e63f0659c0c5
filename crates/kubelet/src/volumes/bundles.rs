//! What a projected ClusterTrustBundle is made of: pure, from the bundles as they are now.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ClusterTrustBundleProjection;
use skiff_client::selectors::{selector, selects_labels};
use skiff_object::pem;

use crate::config::Bundle;

/// What is said where this node or its API server has no bundles at all; the words are upstream's.
const NONE_AT_ALL: &str = "ClusterTrustBundle projection is not supported in static kubelet mode";
const LABEL: &str = "CERTIFICATE";

/// The certificates of the bundles that a projection names, each once, as PEM.
///
/// # Errors
/// There are none, and the projection is not optional; the words are upstream's.
pub fn certificates(projection: &ClusterTrustBundleProjection, bundles: Option<&[Bundle]>) -> Result<Vec<u8>, String> {
    let bundles = bundles.ok_or(NONE_AT_ALL)?;
    let (found, absent): (Vec<&Bundle>, String) = match (&projection.name, &projection.signer_name) {
        (Some(name), _) => {
            let found = bundles.iter().filter(|bundle| bundle.name == *name).collect();
            let what = format!("clustertrustbundle.certificates.k8s.io {name:?} not found");
            (found, format!("while getting ClusterTrustBundle: {what}"))
        }
        (None, signer) => {
            let labels = selector(projection.label_selector.as_ref());
            let is_meant = |bundle: &&Bundle| {
                Some(&bundle.signer) == signer.as_ref() && selects_labels(&labels, Some(&bundle.labels))
            };
            let absent = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
            (bundles.iter().filter(is_meant).collect(), absent.to_owned())
        }
    };
    if found.is_empty() && projection.optional != Some(true) {
        return Err(absent);
    }
    // In the order of their bytes, so that the file changes only where a certificate comes or goes.
    let blocks = found.iter().flat_map(|bundle| pem::blocks(&bundle.certificates));
    let distinct: BTreeSet<Vec<u8>> = blocks.map(|block| block.bytes).collect();
    Ok(distinct.iter().map(|bytes| pem::encode(LABEL, bytes)).collect::<String>().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(name: &str, signer: &str, label: &str, certificates: &[&str]) -> Bundle {
        let text = certificates.iter().map(|bytes| pem::encode(LABEL, bytes.as_bytes()));
        Bundle {
            name: name.to_owned(),
            signer: signer.to_owned(),
            labels: [("for".to_owned(), label.to_owned())].into(),
            certificates: format!("some words\n{}", text.collect::<String>()),
        }
    }

    fn check(projection: &str, expected: Result<&str, &str>) {
        let bundles = [
            bundle("a", "", "x", &["two", "one"]),
            bundle("s:1", "x.io/s", "x", &["one", "three"]),
            bundle("s:2", "x.io/s", "y", &["three", "four"]),
        ];
        let projection = serde_saphyr::from_str(projection).expect("valid YAML of a projection");
        let text = certificates(&projection, Some(&bundles)).map(|text| {
            let blocks = pem::blocks(std::str::from_utf8(&text).expect("it is text"));
            let all: Vec<_> = blocks.iter().map(|block| String::from_utf8_lossy(&block.bytes)).collect();
            all.join(" ")
        });
        assert_eq!(text, expected.map(str::to_owned).map_err(str::to_owned), "{projection:?}");
    }

    #[test]
    fn certificates_are_merged_and_each_is_there_once() {
        check("{name: a, path: p}", Ok("one two"));
        check("{signerName: x.io/s, labelSelector: {}, path: p}", Ok("four one three"));
        check("{signerName: x.io/s, labelSelector: {matchLabels: {for: y}}, path: p}", Ok("four three"));
    }

    #[test]
    fn what_is_absent_is_an_error_unless_it_is_optional() {
        let none = "while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io \"b\" not found";
        check("{name: b, path: p}", Err(none));
        check("{name: b, path: p, optional: true}", Ok(""));
        let none = "combination of signerName and labelSelector matched zero ClusterTrustBundles";
        check("{signerName: x.io/s, path: p}", Err(none));
        check("{signerName: x.io/t, labelSelector: {}, path: p}", Err(none));
        check("{signerName: x.io/s, path: p, optional: true}", Ok(""));
    }

    #[test]
    fn a_node_without_bundles_says_so() {
        let projection = ClusterTrustBundleProjection { optional: Some(true), ..Default::default() };
        assert_eq!(certificates(&projection, None), Err(NONE_AT_ALL.to_owned()));
    }
}
