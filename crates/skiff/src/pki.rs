//! How certificates are made: authorities that are kept, and what they sign.
//! See <https://kubernetes.io/docs/setup/best-practices/certificates/>.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use skiff_base::Timestamp;
use skiff_base::clock::SharedClock;
use skiff_controllers::{SigningRequest, Subject};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::paths::write_atomically;

const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// Nobody asks for less.
const SHORTEST_SECONDS: i32 = 600;

/// The cluster's own authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    clock: SharedClock,
}

/// A certificate with its key, both in PEM.
pub struct Leaf {
    /// The certificate, and what is shown along with it.
    pub certificate_pem: String,
    /// The private key (PKCS #8).
    pub key_pem: String,
}

/// What a leaf certificate is for.
pub enum Purpose<'a> {
    /// A client: the common name is the user, the organizations are the groups.
    Client {
        /// The groups.
        groups: &'a [&'a str],
    },
    /// A server, reached under these names and addresses.
    Server {
        /// DNS names.
        names: &'a [String],
        /// Addresses.
        addresses: &'a [IpAddr],
    },
}

fn failed(what: &str, error: impl std::fmt::Display) -> io::Error {
    io::Error::other(format!("{what}: {error}"))
}

impl Authority {
    /// Reads the authority from `folder`, or makes one there.
    ///
    /// # Errors
    /// The files cannot be read or written, or are no certificate and key.
    pub fn load_or_create(folder: &Path, clock: SharedClock) -> io::Result<Self> {
        Self::load_or_create_named(folder, "ca", "kubernetes", clock)
    }

    /// The same of the authority by which aggregated API servers know this one: whoever has a certificate of it may
    /// speak to them in anybody's name, so that it signs nothing else.
    ///
    /// # Errors
    /// As [`Authority::load_or_create`].
    pub fn load_or_create_front_proxy(folder: &Path, clock: SharedClock) -> io::Result<Self> {
        Self::load_or_create_named(folder, "front-proxy-ca", "front-proxy-ca", clock)
    }

    fn load_or_create_named(folder: &Path, file: &str, name: &str, clock: SharedClock) -> io::Result<Self> {
        let (certificate, key) = (folder.join(format!("{file}.crt")), folder.join(format!("{file}.key")));
        if !certificate.exists() {
            let (certificate_pem, key_pem) = new_authority(name, clock.now())?;
            write_atomically(&key, key_pem.as_bytes(), 0o600)?;
            write_atomically(&certificate, certificate_pem.as_bytes(), 0o644)?;
        }
        let certificate_pem = read(&certificate)?;
        let key_pair = KeyPair::from_pem(&read(&key)?).map_err(|error| failed("read ca.key", error))?;
        let issuer =
            Issuer::from_ca_cert_pem(&certificate_pem, key_pair).map_err(|error| failed("read ca.crt", error))?;
        Ok(Self { issuer, certificate_pem, clock })
    }

    /// The authority's certificate in PEM, as kubeconfigs and `kube-root-ca.crt` carry it.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The authority's certificate.
    ///
    /// # Errors
    /// It is no PEM (it was checked when it was read).
    pub fn certificate(&self) -> io::Result<CertificateDer<'static>> {
        CertificateDer::from_pem_slice(self.certificate_pem.as_bytes()).map_err(|error| failed("read ca.crt", error))
    }

    /// A store of trusted roots that holds this authority alone.
    ///
    /// # Errors
    /// As [`Authority::certificate`].
    pub fn roots(&self) -> io::Result<Arc<rustls::RootCertStore>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate()?).map_err(|error| failed("trust ca.crt", error))?;
        Ok(Arc::new(roots))
    }

    /// Signs a new certificate.
    ///
    /// # Errors
    /// A name is no DNS name.
    pub fn issue(&self, common_name: &str, purpose: &Purpose<'_>) -> io::Result<Leaf> {
        let mut params = CertificateParams::default();
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, common_name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        set_validity(&mut params, self.clock.now(), LEAF_VALIDITY)?;
        match purpose {
            Purpose::Client { groups } => {
                groups.iter().for_each(|group| subject.push(DnType::OrganizationName, *group));
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            }
            Purpose::Server { names, addresses } => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                for name in *names {
                    let name =
                        name.clone().try_into().map_err(|error| failed(&format!("server name {name:?}"), error))?;
                    params.subject_alt_names.push(SanType::DnsName(name));
                }
                params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
            }
        }
        params.distinguished_name = subject;
        let key = KeyPair::generate().map_err(|error| failed("make a key", error))?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(|error| failed("sign a certificate", error))?;
        Ok(Leaf { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

impl Authority {
    /// Signs what somebody asked for and somebody else approved; the error is for people.
    ///
    /// # Errors
    /// The request cannot be read, is not sound, or has a subject that it may not have.
    pub fn sign(&self, request: &SigningRequest) -> Result<String, String> {
        let unreadable = |error: &dyn std::fmt::Display| format!("unable to parse certificate request: {error}");
        let Subject { common_name: name, organizations, .. } = subject_of(&request.pem)?;
        if let Some((organization, prefix)) = request.subject
            && (organizations != [organization] || !name.starts_with(prefix))
        {
            return Err(format!(
                "subject organization is not {organization:?} or common name does not begin with {prefix}"
            ));
        }
        if organizations.len() > 1 {
            // The library that writes certificates keeps one value of each kind.
            return Err("a subject with several organizations cannot be signed".to_owned());
        }
        let mut asked = CertificateSigningRequestParams::from_pem(&request.pem).map_err(|error| unreadable(&error))?;
        let longest = i32::try_from(LEAF_VALIDITY.as_secs()).unwrap_or(i32::MAX);
        let seconds = request.seconds.unwrap_or(longest).clamp(SHORTEST_SECONDS, longest).unsigned_abs();
        // Whole days are what the library knows: rounded up.
        let validity = Duration::from_secs(u64::from(seconds)).max(DAY);
        set_validity(&mut asked.params, self.clock.now(), validity).map_err(|error| error.to_string())?;
        asked.params.is_ca = IsCa::ExplicitNoCa;
        asked.params.use_authority_key_identifier_extension = true;
        asked.params.key_usages = request.usages.iter().filter_map(|usage| key_usage(usage)).collect();
        asked.params.extended_key_usages = request.usages.iter().filter_map(|usage| extended_usage(usage)).collect();
        let certificate = asked.signed_by(&self.issuer).map_err(|error| format!("unable to sign: {error}"))?;
        Ok(certificate.pem())
    }
}

/// Who a request asks a certificate for.
///
/// # Errors
/// It cannot be read.
pub fn subject_of(request_pem: &str) -> Result<Subject, String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("unable to parse certificate request: {error}");
    let (_, pem) = x509_parser::pem::parse_x509_pem(request_pem.as_bytes()).map_err(|error| unreadable(&error))?;
    let (_, read) = X509CertificationRequest::from_der(&pem.contents).map_err(|error| unreadable(&error))?;
    let subject = &read.certification_request_info.subject;
    let texts = |name: &x509_parser::x509::AttributeTypeAndValue<'_>| name.as_str().ok().map(str::to_owned);
    let mut found = Subject {
        common_name: subject.iter_common_name().find_map(texts).unwrap_or_default(),
        organizations: subject.iter_organization().filter_map(texts).collect(),
        ..Subject::default()
    };
    for extension in read.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(alternative) = extension else { continue };
        found.has_alternative_names = true;
        for name in &alternative.general_names {
            match name {
                GeneralName::DNSName(name) => found.names.push((*name).to_owned()),
                GeneralName::IPAddress(octets) => match address_of(octets) {
                    Some(address) => found.addresses.push(address.to_string()),
                    None => found.has_other_names = true,
                },
                _ => found.has_other_names = true,
            }
        }
    }
    Ok(found)
}

/// The address that a certificate has as so many bytes.
pub fn address_of(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from)).ok()
}

fn key_usage(name: &str) -> Option<KeyUsagePurpose> {
    Some(match name {
        "signing" | "digital signature" => KeyUsagePurpose::DigitalSignature,
        "content commitment" => KeyUsagePurpose::ContentCommitment,
        "key encipherment" => KeyUsagePurpose::KeyEncipherment,
        "data encipherment" => KeyUsagePurpose::DataEncipherment,
        "key agreement" => KeyUsagePurpose::KeyAgreement,
        _ => return None,
    })
}

fn extended_usage(name: &str) -> Option<ExtendedKeyUsagePurpose> {
    Some(match name {
        "any" => ExtendedKeyUsagePurpose::Any,
        "server auth" => ExtendedKeyUsagePurpose::ServerAuth,
        "client auth" => ExtendedKeyUsagePurpose::ClientAuth,
        "code signing" => ExtendedKeyUsagePurpose::CodeSigning,
        "email protection" | "s/mime" => ExtendedKeyUsagePurpose::EmailProtection,
        "timestamping" => ExtendedKeyUsagePurpose::TimeStamping,
        "ocsp signing" => ExtendedKeyUsagePurpose::OcspSigning,
        _ => return None,
    })
}

impl Leaf {
    /// The certificate chain and key as the TLS stack takes them.
    ///
    /// # Errors
    /// They are no PEM.
    pub fn der(&self) -> io::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let chain = CertificateDer::pem_slice_iter(self.certificate_pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let chain = chain.map_err(|error| failed("read certificate", error))?;
        if chain.is_empty() {
            return Err(io::Error::other("read certificate: there is none"));
        }
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|error| failed("read key", error))?;
        Ok((chain, key))
    }
}

/// The key that signs service-account tokens, as PKCS #8 DER; made at the first start.
///
/// # Errors
/// The file cannot be read or written.
pub fn service_account_key(folder: &Path) -> io::Result<Vec<u8>> {
    let path: PathBuf = folder.join("sa.key");
    if !path.exists() {
        let key = KeyPair::generate().map_err(|error| failed("make a key", error))?;
        write_atomically(&path, key.serialize_pem().as_bytes(), 0o600)?;
    }
    let key = KeyPair::from_pem(&read(&path)?).map_err(|error| failed("read sa.key", error))?;
    Ok(key.serialize_der())
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| crate::paths::named(path, "read", error))
}

fn new_authority(name: &str, now: Timestamp) -> io::Result<(String, String)> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(SerialNumber::from(u64::from(now.subsec_nanosecond().unsigned_abs()) + 1));
    set_validity(&mut params, now, AUTHORITY_VALIDITY)?;
    let key = KeyPair::generate().map_err(|error| failed("make the authority's key", error))?;
    let certificate = params.self_signed(&key).map_err(|error| failed("sign the authority", error))?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Valid from a day ago, so that a clock that is set back a little does no harm.
fn set_validity(params: &mut CertificateParams, now: Timestamp, validity: Duration) -> io::Result<()> {
    let date = |at: Timestamp| {
        let date = at.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    let shifted = |by: Duration, later: bool| {
        let at = if later { now.checked_add(by) } else { now.checked_sub(by) };
        at.map_err(|error| failed("the machine's clock", error))
    };
    params.not_before = date(shifted(DAY, false)?);
    params.not_after = date(shifted(validity, true)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use skiff_base::clock::ManualClock;

    use super::*;

    #[test]
    fn a_leaf_is_signed_by_the_authority_that_is_kept() {
        let folder = std::env::temp_dir().join(format!("skiff-pki-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a writable temporary folder");
        let clock = Arc::new(ManualClock::at("2026-05-06T00:00:00Z".parse().expect("a time")));
        let first = Authority::load_or_create(&folder, clock.clone()).expect("made");
        let again = Authority::load_or_create(&folder, clock.clone()).expect("read");
        assert_eq!(first.certificate_pem(), again.certificate_pem());
        let other = Authority::load_or_create_front_proxy(&folder, clock.clone()).expect("made");
        assert_ne!(first.certificate_pem(), other.certificate_pem());
        let leaf = again.issue("jane", &Purpose::Client { groups: &["dev"] }).expect("issued");
        let (chain, _) = leaf.der().expect("PEM");
        let (_, certificate) = x509_parser::parse_x509_certificate(&chain[0]).expect("DER");
        assert_eq!(certificate.subject().to_string(), "CN=jane, O=dev");
        assert_eq!(certificate.issuer().to_string(), "CN=kubernetes");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "joe");
        params.distinguished_name.push(DnType::OrganizationName, "ops");
        let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        let asked = |subject| SigningRequest {
            pem: pem.clone(),
            usages: vec!["client auth".into()],
            seconds: Some(3600),
            subject,
        };
        let signed = again.sign(&asked(None)).expect("signed");
        let (_, signed) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).expect("PEM");
        let certificate = signed.parse_x509().expect("DER");
        assert_eq!(certificate.issuer().to_string(), "CN=kubernetes");
        assert!(certificate.subject().to_string().contains("CN=joe"));
        assert!(again.sign(&asked(Some(("system:nodes", "system:node:")))).is_err());
        assert_eq!(service_account_key(&folder).expect("made"), service_account_key(&folder).expect("read"));
        fs::remove_dir_all(&folder).expect("it was made above");
    }
}
