//! Whom a machine believes that joins: a server whose certificate is of the authority that the token names. The server
//! sends the authority's certificate along, so that it is known from then on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::token::{Digest, digest_of};

/// Believes servers of one authority, of which only the digest is known at first.
#[derive(Debug)]
pub struct Pinned {
    authority: Digest,
    provider: Arc<CryptoProvider>,
    found: Mutex<Option<CertificateDer<'static>>>,
    stranger: AtomicBool,
}

impl Pinned {
    /// Believes the authority with this digest.
    pub fn new(authority: Digest) -> Arc<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Arc::new(Self { authority, provider, found: Mutex::default(), stranger: AtomicBool::new(false) })
    }

    /// Whether a server of another cluster was met.
    pub fn met_a_stranger(&self) -> bool {
        self.stranger.load(Ordering::Relaxed)
    }

    /// The authority's certificate, once a server was believed.
    pub fn found(&self) -> Option<CertificateDer<'static>> {
        self.found.lock().clone()
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.iter().find(|certificate| digest_of(certificate) == self.authority);
        let authority = authority.ok_or_else(|| {
            self.stranger.store(true, Ordering::Relaxed);
            Error::General("the server is of another cluster than the token: their authorities differ".into())
        })?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        *self.found.lock() = Some(authority.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use skiff_base::clock::ManualClock;

    use super::*;
    use crate::pki::{Authority, Purpose};

    #[test]
    fn a_server_is_believed_by_its_authority_alone() {
        let folder = std::env::temp_dir().join(format!("skiff-trust-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a writable temporary folder");
        let clock = Arc::new(ManualClock::at("2026-05-06T00:00:00Z".parse().expect("a time")));
        let ours = Authority::load_or_create(&folder, clock.clone()).expect("made");
        let theirs = Authority::load_or_create_front_proxy(&folder, clock).expect("made");
        std::fs::remove_dir_all(&folder).expect("it was made above");
        let names = ["kubernetes".to_owned()];
        let chain = |of: &Authority| {
            let leaf = of.issue("kube-apiserver", &Purpose::Server { names: &names, addresses: &[] }).expect("issued");
            (leaf.der().expect("PEM").0.remove(0), of.certificates()[0].clone())
        };
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_778_025_600));
        let name = ServerName::try_from("kubernetes").expect("a name");
        let pinned = Pinned::new(digest_of(&ours.certificates()[0]));
        let believes = |leaf: &CertificateDer<'_>, sent: &[CertificateDer<'_>]| {
            pinned.verify_server_cert(leaf, sent, &name, &[], at).is_ok()
        };
        let ((our_leaf, our_ca), (their_leaf, their_ca)) = (chain(&ours), chain(&theirs));
        assert!(!believes(&their_leaf, std::slice::from_ref(&their_ca)), "another cluster");
        assert!(
            !believes(&their_leaf, std::slice::from_ref(&our_ca)),
            "our authority sent along with their certificate"
        );
        assert!(!believes(&our_leaf, &[]), "the authority is not known yet");
        assert_eq!(pinned.found(), None);
        assert!(believes(&our_leaf, std::slice::from_ref(&our_ca)));
        assert_eq!(pinned.found(), Some(our_ca));
    }
}
