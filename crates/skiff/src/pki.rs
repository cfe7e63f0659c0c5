//! How certificates are made: authorities that are kept, and what they sign.
//! See <https://kubernetes.io/docs/setup/best-practices/certificates/>.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use parking_lot::RwLock;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use skiff_base::Timestamp;
use skiff_base::clock::SharedClock;
use skiff_controllers::{SigningRequest, Subject};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::paths::{remove_file, write_atomically};

const DAY: Duration = Duration::from_secs(24 * 3600);
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// The authority's files are called so, and it calls itself so.
const CLUSTER_AUTHORITY: &str = "ca";
const CLUSTER_AUTHORITY_NAME: &str = "kubernetes";
/// The other authorities' files, and their names.
const FRONT_PROXY_AUTHORITY: &str = "front-proxy-ca";
const ETCD_AUTHORITY: &str = "etcd-ca";
/// Bytes of a line of PEM, before they are encoded.
const PEM_LINE_BYTES: usize = 48;

/// Nobody asks for less.
const SHORTEST_SECONDS: i32 = 600;

/// An authority of the cluster's own; what its files say may be read again while it is in use.
pub struct Authority {
    files: Files,
    clock: SharedClock,
    now: RwLock<Arc<Read>>,
}

/// What the files of an authority say.
struct Read {
    issuer: Issuer<'static, KeyPair>,
    /// What `certificate_pem` holds.
    certificates: Vec<CertificateDer<'static>>,
    /// The certificate that signs, then those of former authorities that are believed still.
    certificate_pem: String,
    /// By which those who know a former authority alone come to believe this one.
    along_pem: String,
}

/// The files of an authority.
struct Files {
    certificates: PathBuf,
    key: PathBuf,
    /// A key that is about to be in use, while the files are exchanged.
    next_key: PathBuf,
    /// This authority's certificate as former ones have signed it.
    along: PathBuf,
}

impl Files {
    fn new(folder: &Path, name: &str) -> Self {
        let file = |suffix: &str| folder.join(format!("{name}{suffix}"));
        Self { certificates: file(".crt"), key: file(".key"), next_key: file("-next.key"), along: file("-along.crt") }
    }

    /// Ends or undoes an exchange that was broken off: the certificates say which key is theirs.
    fn settle(&self) -> io::Result<()> {
        if !self.next_key.exists() {
            return Ok(());
        }
        let next = key_pair(&self.next_key)?;
        let certificate = first(&read(&self.certificates)?)?;
        let (_, certificate) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|error| failed("read the authority", error))?;
        if certificate.public_key().subject_public_key.data.as_ref() == next.public_key_raw() {
            fs::rename(&self.next_key, &self.key)
        } else {
            fs::remove_file(&self.next_key)
        }
        .map_err(|error| crate::paths::named(&self.next_key, "exchange", error))
    }
}

impl Read {
    fn from(files: &Files) -> io::Result<Self> {
        files.settle()?;
        let certificate_pem = read(&files.certificates)?;
        let certificates = all(&certificate_pem)?;
        let issuer = Issuer::from_ca_cert_der(&certificates[0], key_pair(&files.key)?)
            .map_err(|error| failed("read the authority", error))?;
        let along_pem = if files.along.exists() { read(&files.along)? } else { String::new() };
        Ok(Self { issuer, certificates, certificate_pem, along_pem })
    }
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
    /// One of several that are each other's servers and clients.
    Peer {
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
        Self::load_or_create_named(folder, CLUSTER_AUTHORITY, CLUSTER_AUTHORITY_NAME, clock)
    }

    /// The same of the authority by which aggregated API servers know this one: whoever has a certificate of it may
    /// speak to them in anybody's name, so that it signs nothing else.
    ///
    /// # Errors
    /// As [`Authority::load_or_create`].
    pub fn load_or_create_front_proxy(folder: &Path, clock: SharedClock) -> io::Result<Self> {
        Self::load_or_create_named(folder, FRONT_PROXY_AUTHORITY, FRONT_PROXY_AUTHORITY, clock)
    }

    /// The same of the authority that members of the cluster's own etcd, and its clients, know each other by.
    ///
    /// # Errors
    /// As [`Authority::load_or_create`].
    pub fn load_or_create_etcd(folder: &Path, clock: SharedClock) -> io::Result<Self> {
        Self::load_or_create_named(folder, ETCD_AUTHORITY, ETCD_AUTHORITY, clock)
    }

    fn load_or_create_named(folder: &Path, file: &str, name: &str, clock: SharedClock) -> io::Result<Self> {
        let files = Files::new(folder, file);
        if !files.certificates.exists() {
            let (certificate_pem, key_pem) = new_authority(name, clock.now())?;
            write_atomically(&files.key, key_pem.as_bytes(), 0o600)?;
            write_atomically(&files.certificates, certificate_pem.as_bytes(), 0o644)?;
        }
        let now = RwLock::new(Arc::new(Read::from(&files)?));
        Ok(Self { files, clock, now })
    }

    /// Goes by what the files say now; tells whether that is something else.
    ///
    /// # Errors
    /// They cannot be read; then nothing is changed.
    pub fn reload(&self) -> io::Result<bool> {
        let (before, next) = (self.now(), Read::from(&self.files)?);
        let is_new = (&before.certificate_pem, &before.along_pem) != (&next.certificate_pem, &next.along_pem);
        *self.now.write() = Arc::new(next);
        Ok(is_new)
    }

    fn now(&self) -> Arc<Read> {
        self.now.read().clone()
    }

    /// Puts a new authority into the place of the one in `folder`, for when its servers read it again. The former one is
    /// believed still; who knows that one alone believes the new one too, because the former has signed it.
    ///
    /// # Errors
    /// There is none, or its files cannot be written.
    pub fn rotate(folder: &Path, clock: SharedClock) -> io::Result<()> {
        let files = Files::new(folder, CLUSTER_AUTHORITY);
        if !files.certificates.exists() {
            return Err(io::Error::other(format!("there is no authority in {}", folder.display())));
        }
        let former = Read::from(&files)?;
        let key = KeyPair::generate().map_err(|error| failed("make the authority's key", error))?;
        let params = authority_params(CLUSTER_AUTHORITY_NAME, clock.now())?;
        let own = params.self_signed(&key).map_err(|error| failed("sign the authority", error))?;
        let along = params.signed_by(&key, &former.issuer).map_err(|error| failed("sign the authority", error))?;
        write_atomically(&files.next_key, key.serialize_pem().as_bytes(), 0o600)?;
        write_atomically(&files.along, (along.pem() + &former.along_pem).as_bytes(), 0o644)?;
        write_atomically(&files.certificates, (own.pem() + &former.certificate_pem).as_bytes(), 0o644)?;
        files.settle()
    }

    /// Lets nobody be believed any more for a certificate of a former authority, from when the servers read that.
    ///
    /// # Errors
    /// There is no authority, or its files cannot be written.
    pub fn forget_former(folder: &Path) -> io::Result<()> {
        let files = Files::new(folder, CLUSTER_AUTHORITY);
        files.settle()?;
        let own = to_pem(&first(&read(&files.certificates)?)?);
        write_atomically(&files.certificates, own.as_bytes(), 0o644)?;
        remove_file(&files.along)
    }

    /// Whom to believe, in PEM, as kubeconfigs and `kube-root-ca.crt` carry it: this authority, then former ones.
    pub fn certificate_pem(&self) -> String {
        self.now().certificate_pem.clone()
    }

    /// This authority's certificate, then those of former ones.
    pub fn certificates(&self) -> Vec<CertificateDer<'static>> {
        self.now().certificates.clone()
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
            Purpose::Server { names, addresses } | Purpose::Peer { names, addresses } => {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
                if matches!(purpose, Purpose::Peer { .. }) {
                    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
                }
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
        let now = self.now();
        let certificate = params.signed_by(&key, &now.issuer).map_err(|error| failed("sign a certificate", error))?;
        Ok(Leaf { certificate_pem: certificate.pem() + &now.along_pem, key_pem: key.serialize_pem() })
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
        let certificate = asked.signed_by(&self.now().issuer).map_err(|error| format!("unable to sign: {error}"))?;
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
        let chain = all(&self.certificate_pem)?;
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).map_err(|error| failed("read key", error))?;
        Ok((chain, key))
    }
}

/// The certificates of a text in PEM, one at least.
///
/// # Errors
/// There is none, or one cannot be read.
pub fn all(pem: &str) -> io::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| failed("read certificates", error))?;
    if all.is_empty() { Err(io::Error::other("read certificates: there is none")) } else { Ok(all) }
}

fn first(pem: &str) -> io::Result<CertificateDer<'static>> {
    Ok(all(pem)?.swap_remove(0))
}

/// A certificate as text.
pub fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let lines = certificate.chunks(PEM_LINE_BYTES).map(|line| STANDARD.encode(line) + "\n");
    format!("-----BEGIN CERTIFICATE-----\n{}-----END CERTIFICATE-----\n", lines.collect::<String>())
}

/// The key that signs service-account tokens, and former ones that are believed still.
///
/// # Errors
/// The files cannot be read or written.
pub fn service_account_keys(folder: &Path) -> io::Result<TokenKeys> {
    let (own, former) = token_key_files(folder);
    if !own.exists() {
        let key = KeyPair::generate().map_err(|error| failed("make a key", error))?;
        write_atomically(&own, key.serialize_pem().as_bytes(), 0o600)?;
    }
    let former = if former.exists() { read(&former)? } else { String::new() };
    let former = SubjectPublicKeyInfoDer::pem_slice_iter(former.as_bytes()).map(|key| key.map(|key| key.to_vec()));
    let former = former.collect::<Result<_, _>>().map_err(|error| failed("read sa-former.pub", error))?;
    Ok(TokenKeys { signing: key_pair(&own)?.serialize_der(), former })
}

/// The keys of service-account tokens.
#[derive(Debug, PartialEq, Eq)]
pub struct TokenKeys {
    /// As PKCS #8 DER; made at the first start.
    pub signing: Vec<u8>,
    /// Public keys, as SubjectPublicKeyInfo in DER.
    pub former: Vec<Vec<u8>>,
}

/// Puts a new key into the place of the one that signs service-account tokens, for the next start of the servers. Tokens
/// of the former one are believed still.
///
/// # Errors
/// The files cannot be read or written.
pub fn rotate_service_account_key(folder: &Path) -> io::Result<()> {
    let (own, former) = token_key_files(folder);
    let known = if former.exists() { read(&former)? } else { String::new() };
    let next = KeyPair::generate().map_err(|error| failed("make a key", error))?;
    // Where this is broken off, the key is believed twice: that does no harm.
    write_atomically(&former, (key_pair(&own)?.public_key_pem() + &known).as_bytes(), 0o644)?;
    write_atomically(&own, next.serialize_pem().as_bytes(), 0o600)
}

/// Lets no token of a former key be believed any more, from the next start of the servers on.
///
/// # Errors
/// The file cannot be removed.
pub fn forget_former_service_account_keys(folder: &Path) -> io::Result<()> {
    let (_, former) = token_key_files(folder);
    remove_file(&former)
}

/// What all servers of a cluster have in common, each file that there may be by its name: the authorities and the keys of
/// tokens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Shared(BTreeMap<String, Option<String>>);

impl Shared {
    /// What is in a server's folder.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(folder: &Path) -> io::Result<Self> {
        let text = |file: PathBuf| match fs::read_to_string(&file) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(crate::paths::named(&file, "read", error)),
        };
        Self::files(folder).map(|(name, file)| Ok((name, text(file)?))).collect::<io::Result<_>>().map(Self)
    }

    /// Every file that there may be, with its name.
    fn files(folder: &Path) -> impl Iterator<Item = (String, PathBuf)> {
        let (own, former) = token_key_files(folder);
        let authorities = [CLUSTER_AUTHORITY, FRONT_PROXY_AUTHORITY, ETCD_AUTHORITY].into_iter().flat_map(|name| {
            let Files { certificates, key, next_key, along } = Files::new(folder, name);
            [certificates, key, next_key, along]
        });
        let all = [own, former].into_iter().chain(authorities);
        all.filter_map(|file| Some((file.file_name()?.to_string_lossy().into_owned(), file)))
    }

    /// Puts it into a server's folder. What others believe no more that one is not to believe either.
    ///
    /// # Errors
    /// A file cannot be written or removed.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        for (name, file) in Self::files(folder) {
            let mode = if name.ends_with(".key") { 0o600 } else { 0o644 };
            match self.0.get(&name).and_then(Option::as_ref) {
                Some(text) => write_atomically(&file, text.as_bytes(), mode)?,
                None => remove_file(&file)?,
            }
        }
        Ok(())
    }

    /// Whether there is an authority among it.
    pub fn has_authority(&self) -> bool {
        self.0.get(&format!("{CLUSTER_AUTHORITY}.crt")).is_some_and(Option::is_some)
    }
}

fn token_key_files(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("sa.key"), folder.join("sa-former.pub"))
}

fn key_pair(path: &Path) -> io::Result<KeyPair> {
    KeyPair::from_pem(&read(path)?).map_err(|error| failed(&format!("read {}", path.display()), error))
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map_err(|error| crate::paths::named(path, "read", error))
}

fn new_authority(name: &str, now: Timestamp) -> io::Result<(String, String)> {
    let key = KeyPair::generate().map_err(|error| failed("make the authority's key", error))?;
    let certificate =
        authority_params(name, now)?.self_signed(&key).map_err(|error| failed("sign the authority", error))?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn authority_params(name: &str, now: Timestamp) -> io::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment, KeyUsagePurpose::KeyCertSign];
    params.serial_number = Some(SerialNumber::from(u64::from(now.subsec_nanosecond().unsigned_abs()) + 1));
    // Authorities that follow each other have one name; this tells whose signature it is.
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, now, AUTHORITY_VALIDITY)?;
    Ok(params)
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
    use rustls_pki_types::UnixTime;
    use skiff_apiserver::authorities::ClientAuthorities;
    use skiff_base::Clock;
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
        fs::remove_dir_all(&folder).expect("it was made above");
    }

    #[test]
    fn a_new_authority_is_believed_by_those_who_know_the_former_one() {
        let folder = std::env::temp_dir().join(format!("skiff-rotated-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a writable temporary folder");
        let clock = Arc::new(ManualClock::at("2026-05-06T00:00:00Z".parse().expect("a time")));
        let load = || Authority::load_or_create(&folder, clock.clone()).expect("readable");
        let at = UnixTime::since_unix_epoch(Duration::from_secs(clock.now().as_second().unsigned_abs()));
        let believes = |knows: &Authority, shown: &Leaf| {
            let (chain, _) = shown.der().expect("PEM");
            let clients = ClientAuthorities::new(&knows.certificate_pem(), "").expect("roots");
            clients.believes(&chain, true, at)
        };
        let issue = |of: &Authority| of.issue("jane", &Purpose::Client { groups: &[] }).expect("issued");
        let mut known = vec![load()];
        let mut leaves = vec![issue(&known[0])];
        for _ in 0..2 {
            Authority::rotate(&folder, clock.clone()).expect("rotated");
            known.push(load());
            leaves.push(issue(known.last().expect("one")));
        }
        for (knowing, known) in known.iter().enumerate() {
            for (shown, leaf) in leaves.iter().enumerate() {
                assert!(believes(known, leaf), "who knows authority {knowing} sees a certificate of {shown}");
            }
        }
        Authority::forget_former(&folder).expect("forgotten");
        let last = load();
        assert!(believes(&last, &leaves[2]) && !believes(&last, &leaves[1]) && !believes(&last, &leaves[0]));
        assert!(!believes(&known[1], &issue(&last)), "who knows a former one alone is not led to the new one any more");
        fs::remove_dir_all(&folder).expect("it was made above");
    }

    #[test]
    fn an_exchange_of_authorities_that_was_broken_off_is_ended_or_undone() {
        let folder = std::env::temp_dir().join(format!("skiff-broken-off-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a writable temporary folder");
        let clock = Arc::new(ManualClock::at("2026-05-06T00:00:00Z".parse().expect("a time")));
        let load = || Authority::load_or_create(&folder, clock.clone()).expect("readable");
        let files = Files::new(&folder, CLUSTER_AUTHORITY);
        load();
        let before = (read(&files.certificates).expect("there"), read(&files.key).expect("there"));
        Authority::rotate(&folder, clock.clone()).expect("rotated");
        let after = (read(&files.certificates).expect("there"), read(&files.key).expect("there"));
        assert!(before.0 != after.0 && before.1 != after.1);
        for certificates in [&before.0, &after.0] {
            // The machine stopped before, or after, the certificates were exchanged.
            fs::write(&files.certificates, certificates).expect("writable");
            fs::write(&files.key, &before.1).expect("writable");
            fs::write(&files.next_key, &after.1).expect("writable");
            load().issue("jane", &Purpose::Client { groups: &[] }).expect("issued");
            let key = if *certificates == before.0 { &before.1 } else { &after.1 };
            assert_eq!(read(&files.key).expect("there"), *key);
            assert!(!files.next_key.exists());
        }
        fs::remove_dir_all(&folder).expect("it was made above");
    }

    #[test]
    fn former_keys_of_tokens_are_kept_until_they_are_forgotten() {
        let folder = std::env::temp_dir().join(format!("skiff-token-keys-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a writable temporary folder");
        let keys = || service_account_keys(&folder).expect("readable");
        let first = keys();
        assert_eq!((&first, first.former.len()), (&keys(), 0));
        rotate_service_account_key(&folder).expect("rotated");
        assert_ne!(keys().signing, first.signing);
        rotate_service_account_key(&folder).expect("rotated");
        assert_eq!(keys().former.len(), 2);
        forget_former_service_account_keys(&folder).expect("forgotten");
        assert_eq!(keys().former, Vec::<Vec<u8>>::new());
        fs::remove_dir_all(&folder).expect("it was made above");
    }
}
