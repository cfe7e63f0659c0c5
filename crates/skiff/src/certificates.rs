//! The certificates that a running node shows: which they are, until when they hold, and those of a server made anew while
//! it runs. An agent asks its cluster for new ones (`join::certificates`).
//! See <https://kubernetes.io/docs/setup/best-practices/certificates/>.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_base::clock::{SharedClock, rfc3339};
use x509_parser::extensions::{GeneralName, ParsedExtension};

use crate::pki::{Leaf, address_of};

/// How often it is looked whether a certificate is to be renewed.
pub const CHECK: Duration = Duration::from_secs(600);

/// What the names of former authorities end in.
const FORMER: &str = " (former)";

/// A certificate that is in use and may be exchanged meanwhile.
#[derive(Debug, Default)]
pub struct Current(RwLock<Option<Arc<CertifiedKey>>>);

impl Current {
    /// Uses another from now on; connections that are there stay.
    ///
    /// # Errors
    /// It is no certificate with a key.
    pub fn set(&self, leaf: &Leaf) -> io::Result<()> {
        let (chain, key) = leaf.der()?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(io::Error::other)?;
        *self.0.write() = Some(Arc::new(CertifiedKey::new(chain, key)));
        Ok(())
    }

    fn facts(&self) -> Option<Facts> {
        self.0.read().as_ref().and_then(|certified| Facts::of(certified.cert.first()?))
    }
}

impl ResolvesClientCert for Current {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.read().clone()
    }

    fn has_certs(&self) -> bool {
        self.0.read().is_some()
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().clone()
    }
}

/// What matters of a certificate.
pub struct Facts {
    /// Whose it is.
    pub common_name: String,
    /// Who signed it.
    pub issuer: String,
    /// Which of those who have this name has signed it; empty where it does not say.
    signer_id: Vec<u8>,
    /// What it calls its own key; empty where it does not say.
    key_id: Vec<u8>,
    /// The addresses that it is for.
    pub addresses: Vec<IpAddr>,
    /// From when it holds.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

impl Facts {
    /// Reads a certificate; none where it cannot be read or names nobody.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let names = alternative.map(|names| names.value.general_names.clone()).unwrap_or_default();
        let addresses = names.iter().filter_map(|name| match name {
            GeneralName::IPAddress(octets) => address_of(octets),
            _ => None,
        });
        let name = |name: &x509_parser::x509::X509Name<'_>| Some(name.iter_common_name().next()?.as_str().ok()?.into());
        let (mut signer_id, mut key_id) = (Vec::new(), Vec::new());
        for extension in certificate.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => key_id = id.0.to_vec(),
                ParsedExtension::AuthorityKeyIdentifier(signer) => {
                    signer_id = signer.key_identifier.as_ref().map(|id| id.0.to_vec()).unwrap_or_default();
                }
                _ => {}
            }
        }
        let validity = certificate.validity();
        Some(Self {
            common_name: name(certificate.subject())?,
            issuer: name(certificate.issuer()).unwrap_or_default(),
            signer_id,
            key_id,
            addresses: addresses.collect(),
            from: Timestamp::from_second(validity.not_before.timestamp()).ok()?,
            until: Timestamp::from_second(validity.not_after.timestamp()).ok()?,
        })
    }

    /// Whether it may be signed by this authority.
    pub fn may_be_of(&self, authority: &Self) -> bool {
        self.signer_id.is_empty() || authority.key_id.is_empty() || self.signer_id == authority.key_id
    }

    /// Whether it is the authority that signed another one, by what both say.
    fn has_signed(&self, other: &Self) -> bool {
        self.common_name == other.issuer && !self.key_id.is_empty() && self.key_id == other.signer_id
    }

    /// When it is renewed: after four fifths of its time.
    pub fn renewal(&self) -> Timestamp {
        let seconds = self.from.as_second() + (self.until.as_second() - self.from.as_second()) / 5 * 4;
        Timestamp::from_second(seconds).unwrap_or(self.until)
    }
}

/// Makes a certificate anew.
type Recipe = Box<dyn Fn() -> io::Result<Leaf> + Send + Sync>;

struct Entry {
    name: &'static str,
    current: Arc<Current>,
    /// None where others see to it.
    recipe: Option<Recipe>,
}

/// All certificates of a node.
pub struct Certificates {
    clock: SharedClock,
    entries: Mutex<Vec<Entry>>,
    authorities: Mutex<Vec<(String, CertificateDer<'static>)>>,
}

impl Certificates {
    /// None yet.
    pub fn new(clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { clock, entries: Mutex::default(), authorities: Mutex::default() })
    }

    /// Makes a certificate by its recipe, now and whenever most of its time has gone.
    ///
    /// # Errors
    /// The recipe's.
    pub fn issue(
        &self,
        name: &'static str,
        recipe: impl Fn() -> io::Result<Leaf> + Send + Sync + 'static,
    ) -> io::Result<Arc<Current>> {
        let current = Arc::new(Current::default());
        current.set(&recipe()?)?;
        self.entries.lock().push(Entry { name, current: current.clone(), recipe: Some(Box::new(recipe)) });
        Ok(current)
    }

    /// Tells of a certificate that somebody else keeps.
    pub fn tell_of(&self, name: &'static str, current: Arc<Current>) {
        self.entries.lock().push(Entry { name, current, recipe: None });
    }

    /// Tells of an authority, which is not renewed, and of former ones that are believed still.
    pub fn tell_of_authority(&self, name: &'static str, certificates: &[CertificateDer<'static>]) {
        let named = |(index, certificate): (usize, &CertificateDer<'static>)| {
            let name = if index == 0 { name.to_owned() } else { format!("{name}{FORMER}") };
            (name, certificate.clone())
        };
        let mut authorities = self.authorities.lock();
        authorities.retain(|(known, _)| known.strip_suffix(FORMER).unwrap_or(known) != name);
        authorities.extend(certificates.iter().enumerate().map(named));
    }

    /// Makes all certificates anew that are made here, as by a new authority.
    ///
    /// # Errors
    /// A recipe's.
    pub fn renew_all(&self) -> io::Result<()> {
        for entry in self.entries.lock().iter() {
            if let Some(recipe) = &entry.recipe {
                entry.current.set(&recipe()?)?;
            }
        }
        Ok(())
    }

    /// Renews what is due, for as long as it is polled.
    pub async fn keep(self: Arc<Self>) {
        loop {
            tokio::time::sleep(CHECK).await;
            self.renew();
        }
    }

    fn renew(&self) {
        let now = self.clock.now();
        for entry in self.entries.lock().iter() {
            let Some(recipe) = &entry.recipe else { continue };
            if entry.current.facts().is_some_and(|facts| now < facts.renewal()) {
                continue;
            }
            // What failed is tried again at the next look: a fifth of its time is left.
            match recipe().and_then(|leaf| entry.current.set(&leaf)) {
                Ok(()) => tracing::info!(name = entry.name, "a new certificate"),
                Err(error) => tracing::warn!(name = entry.name, %error, "no new certificate"),
            }
        }
    }

    /// What `skiff status` tells of them.
    pub fn told(&self) -> Value {
        let told = |name: &str, facts: Facts| {
            json!({"name": name, "authority": facts.issuer, "expires": rfc3339(facts.until),
                "seconds_left": facts.until.as_second() - self.clock.now().as_second()})
        };
        let entries = self.entries.lock();
        let authorities = self.authorities.lock();
        // Authorities that follow each other have one name.
        let former: Vec<Facts> = authorities
            .iter()
            .filter(|(name, _)| name.ends_with(FORMER))
            .filter_map(|(_, own)| Facts::of(own))
            .collect();
        let leaves = entries.iter().filter_map(|entry| {
            let mut facts = entry.current.facts()?;
            if former.iter().any(|own| own.has_signed(&facts)) {
                facts.issuer.push_str(FORMER);
            }
            Some(told(entry.name, facts))
        });
        let roots = authorities.iter().filter_map(|(name, certificate)| Some(told(name, Facts::of(certificate)?)));
        leaves.chain(roots).collect()
    }
}

#[cfg(test)]
mod tests {
    use skiff_base::clock::ManualClock;

    use super::*;
    use crate::pki::{Authority, Purpose};

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[test]
    fn a_certificate_is_renewed_when_most_of_its_time_has_gone() {
        let at = |text: &str| text.parse::<Timestamp>().expect("a time");
        let facts = Facts {
            common_name: String::new(),
            issuer: String::new(),
            signer_id: Vec::new(),
            key_id: Vec::new(),
            addresses: Vec::new(),
            from: at("2026-01-01T00:00:00Z"),
            until: at("2026-01-11T00:00:00Z"),
        };
        assert_eq!(facts.renewal(), at("2026-01-09T00:00:00Z"));
    }

    #[test]
    fn certificates_are_made_anew_while_the_node_runs() {
        let folder = std::env::temp_dir().join(format!("skiff-certificates-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a writable temporary folder");
        let clock = Arc::new(ManualClock::at("2026-05-06T12:00:00Z".parse().expect("a time")));
        let authority = Arc::new(Authority::load_or_create(&folder, clock.clone()).expect("made"));
        std::fs::remove_dir_all(&folder).expect("it was made above");
        let certificates = Certificates::new(clock.clone());
        let issuer = authority.clone();
        let recipe = move || issuer.issue("kube-apiserver", &Purpose::Client { groups: &[] });
        let current = certificates.issue("apiserver", recipe).expect("issued");
        certificates.tell_of("kubelet", Arc::default());
        certificates.tell_of_authority("ca", &authority.certificates());
        let expiry =
            || certificates.told().as_array().map(|all| all.iter().map(|one| one["expires"].clone()).collect());
        let before: Vec<Value> = expiry().expect("a list");
        assert_eq!(before, ["2027-05-06T00:00:00Z", "2036-05-03T00:00:00Z"], "what is not there yet is not told");
        assert_eq!(certificates.told()[0]["authority"], "kubernetes");
        let first = current.0.read().clone().expect("issued");
        clock.advance(200 * DAY);
        certificates.renew();
        assert!(Arc::ptr_eq(&first, &current.0.read().clone().expect("there")), "it is good for long");
        clock.advance(100 * DAY);
        certificates.renew();
        let after: Vec<Value> = expiry().expect("a list");
        assert_eq!(after, ["2028-03-01T00:00:00Z", "2036-05-03T00:00:00Z"], "an authority stays");
        assert!(!Arc::ptr_eq(&first, &current.0.read().clone().expect("there")));
    }
}
