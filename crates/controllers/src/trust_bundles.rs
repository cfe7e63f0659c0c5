//! Publishes what the API server's own certificate is verified with, as a ClusterTrustBundle whose name says what is in it.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/#cluster-trust-bundles>.

use std::sync::Arc;

use skiff_base::Timestamp;
use skiff_client::bundles::TrustBundle;
use skiff_client::{Informer, ObjectKey};

use crate::plan::{Action, Plan};
use crate::root_bundle::RootBundle;
use crate::runner::{Controller, Failure, Setup};

const SIGNER: &str = "kubernetes.io/kube-apiserver-serving";
/// The name under which the controller is woken.
const NAME: &str = "kube-apiserver-serving-clustertrustbundle-publisher";
/// How much of the digest of a bundle is in its name.
const DIGEST_BYTES: usize = 12;

/// What is to be done where these are the signer's bundles: one that is right, and no others.
pub fn plan<K: TrustBundle>(present: &[Arc<K>], certificates: &str) -> Plan {
    let mut plan = Plan::nothing();
    if certificates.is_empty() {
        return plan;
    }
    let name = name_of(certificates);
    let has_name = |bundle: &&Arc<K>| bundle.metadata().name.as_ref() == Some(&name);
    match present.iter().find(has_name) {
        None => plan.then(Action::create(&K::of(name.clone(), SIGNER, certificates))),
        Some(bundle) if bundle.certificates() != certificates => {
            plan.then(Action::update(&bundle.with(certificates)));
        }
        Some(_) => {}
    }
    plan.burst(present.iter().filter(|bundle| !has_name(bundle)).map(|bundle| Action::delete(&**bundle)).collect());
    plan
}

fn name_of(certificates: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, certificates.as_bytes());
    let digest: String = digest.as_ref()[..DIGEST_BYTES].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{digest}", SIGNER.replace('/', ":"))
}

struct Publisher<K> {
    bundles: Informer<K>,
    root_ca: Arc<RootBundle>,
}

impl<K: TrustBundle> Controller for Publisher<K> {
    fn plan(&self, _: &ObjectKey, _now: Timestamp, _failure: Option<&Failure>) -> Plan {
        plan(&self.bundles.list(), &self.root_ca.get())
    }
}

/// The publisher, of bundles in the version that is served.
pub fn publisher<K: TrustBundle>(setup: &mut Setup, root_ca: Arc<RootBundle>) -> Arc<dyn Controller> {
    let key = || ObjectKey::new("", SIGNER);
    let bundles = setup.selected::<K>(&format!("spec.signerName={SIGNER}"), move |_| vec![key()]);
    let queue = setup.queue.clone();
    queue.add(key());
    root_ca.on_change(NAME, move || queue.add(key()));
    Arc::new(Publisher { bundles, root_ca })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use k8s_openapi::api::certificates::v1beta1::ClusterTrustBundle;

    use super::*;
    use crate::testing::object;

    #[test]
    fn the_right_bundle_stays_alone() {
        let none: [Arc<ClusterTrustBundle>; 0] = [];
        expect![[r#"
            create clustertrustbundles kubernetes.io:kube-apiserver-serving:384fb9a44fabe158be2757b9 {"metadata":{},"spec":{"signerName":"kubernetes.io/kube-apiserver-serving","trustBundle":"PEM"}}
        "#]]
        .assert_eq(&plan(&none, "PEM").to_string());
        let of =
            |certificates: &str, name: &str| Arc::new(ClusterTrustBundle::of(name.to_owned(), SIGNER, certificates));
        let (right, wrong) = (of("PEM", &name_of("PEM")), of("OLD", &name_of("PEM")));
        assert!(plan(std::slice::from_ref(&right), "PEM").steps.is_empty());
        expect![[r#"
            update clustertrustbundles kubernetes.io:kube-apiserver-serving:384fb9a44fabe158be2757b9 {"metadata":{},"spec":{"signerName":"kubernetes.io/kube-apiserver-serving","trustBundle":"PEM"}}
        "#]].assert_eq(&plan(&[wrong], "PEM").to_string());
        let old: ClusterTrustBundle = object("{metadata: {name: old, uid: u}, spec: {trustBundle: OLD}}");
        expect![[r#"
            delete clustertrustbundles old
        "#]]
        .assert_eq(&plan(&[Arc::new(old), right.clone()], "PEM").to_string());
        assert!(plan(&[right], "").steps.is_empty(), "nothing is known yet");
    }
}
