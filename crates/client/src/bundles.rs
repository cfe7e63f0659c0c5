//! ClusterTrustBundles in either version: of the same shape, and never stable, so that a cluster may serve one, both or none.

use k8s_openapi::api::certificates::{v1alpha1, v1beta1};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::resource::Kind;

/// A ClusterTrustBundle of one version.
pub trait TrustBundle: Kind + Clone {
    /// A new one.
    fn of(name: String, signer: &str, certificates: &str) -> Self;
    /// Whose certificates they are; empty for nobody's.
    fn signer(&self) -> &str;
    /// The certificates in PEM.
    fn certificates(&self) -> &str;
    /// The same one with other certificates.
    fn with(&self, certificates: &str) -> Self;
}

macro_rules! trust_bundle {
    ($version:ident) => {
        impl TrustBundle for $version::ClusterTrustBundle {
            fn of(name: String, signer: &str, certificates: &str) -> Self {
                let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
                let (signer_name, trust_bundle) = (Some(signer.to_owned()), certificates.to_owned());
                Self { metadata, spec: $version::ClusterTrustBundleSpec { signer_name, trust_bundle } }
            }

            fn signer(&self) -> &str {
                self.spec.signer_name.as_deref().unwrap_or("")
            }

            fn certificates(&self) -> &str {
                &self.spec.trust_bundle
            }

            fn with(&self, certificates: &str) -> Self {
                let mut changed = self.clone();
                certificates.clone_into(&mut changed.spec.trust_bundle);
                changed
            }
        }
    };
}

trust_bundle!(v1alpha1);
trust_bundle!(v1beta1);
