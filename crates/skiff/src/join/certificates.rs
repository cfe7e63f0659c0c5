//! The certificates of an agent's node: asked of the cluster by CertificateSigningRequests, kept in the node's folder, and
//! asked for anew before they run out. See <https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/>.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use serde_json::{Value, json};
use skiff_base::clock::SharedClock;
use skiff_client::Client;
use tokio::sync::Notify;

use crate::certificates::{CHECK, Current, Facts};
use crate::commands::CommandError;
use crate::paths::{named, write_atomically};
use crate::pki::{self, Leaf};

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const GROUP: &str = "system:nodes";
/// How often a request is looked at: at first often, because it is answered at once, later seldom.
const FIRST_LOOK: Duration = Duration::from_millis(10);
const SELDOM: Duration = Duration::from_secs(2);
/// How soon a renewal that failed is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// What a certificate is wanted for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// To be the node towards the API server.
    Client,
    /// To serve the node's API under its name and these addresses.
    Serving(Vec<IpAddr>),
}

impl Wanted {
    fn signer(&self) -> &'static str {
        match self {
            Self::Client => "kubernetes.io/kube-apiserver-client-kubelet",
            Self::Serving(_) => "kubernetes.io/kubelet-serving",
        }
    }

    fn usage(&self) -> &'static str {
        match self {
            Self::Client => "client auth",
            Self::Serving(_) => "server auth",
        }
    }

    /// The names and addresses that it must hold.
    fn addresses(&self) -> &[IpAddr] {
        match self {
            Self::Client => &[],
            Self::Serving(addresses) => addresses,
        }
    }
}

/// One certificate of the node: its file, what it is for, and where it is used.
#[derive(Clone)]
pub struct Kept {
    /// Where it lies, with its key.
    pub file: PathBuf,
    /// The node.
    pub node_name: String,
    /// What it is for.
    pub wanted: Wanted,
    /// The file with the cluster's authorities; the first one is to have signed it.
    pub authorities: PathBuf,
    /// Where it is used.
    pub current: Arc<Current>,
    /// The time.
    pub clock: SharedClock,
    /// Told when the cluster has other authorities: it is looked at then.
    pub looks: Arc<Notify>,
}

impl Kept {
    /// Takes the certificate of an earlier run into use; says whether there was one that is good still, and fits.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(&self) -> io::Result<bool> {
        let Some(leaf) = read(&self.file)? else { return Ok(false) };
        let fits = facts_of(&leaf).is_some_and(|facts| {
            facts.until > self.clock.now()
                && facts.common_name == common_name(&self.node_name)
                && self.wanted.addresses().iter().all(|address| facts.addresses.contains(address))
        });
        if fits {
            self.current.set(&leaf)?;
        }
        Ok(fits)
    }

    /// Asks for a new one and takes it into use.
    ///
    /// # Errors
    /// The API server refuses, or somebody denied the request.
    pub async fn renew(&self, client: &Client) -> Result<(), CommandError> {
        let leaf = request(client, &self.node_name, &self.wanted).await?;
        write_atomically(&self.file, format!("{}{}", leaf.certificate_pem, leaf.key_pem).as_bytes(), 0o600)?;
        Ok(self.current.set(&leaf)?)
    }

    /// Renews it whenever most of its time has gone; for as long as it is polled.
    pub async fn keep(self, client: Client) {
        loop {
            let pause = match self.is_due() {
                Ok(false) => CHECK,
                Ok(true) => match self.renew(&client).await {
                    Ok(()) => {
                        tracing::info!(file = %self.file.display(), "a new certificate");
                        CHECK
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the node has no new certificate yet");
                        TRY_AGAIN
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot look at the node's certificate");
                    CHECK
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.looks.notified() => {}
            }
        }
    }

    /// The authority that signs now; none where it is not known.
    fn signer(&self) -> Option<Facts> {
        let authorities = pki::all(&fs::read_to_string(&self.authorities).ok()?).ok()?;
        Facts::of(authorities.first()?)
    }

    fn is_due(&self) -> io::Result<bool> {
        let facts = read(&self.file)?.and_then(|leaf| facts_of(&leaf));
        Ok(facts.is_none_or(|facts| {
            let fits = self.wanted.addresses().iter().all(|address| facts.addresses.contains(address));
            !fits
                || self.clock.now() >= facts.renewal()
                || self.signer().is_some_and(|signer| !facts.may_be_of(&signer))
        }))
    }
}

fn facts_of(leaf: &Leaf) -> Option<Facts> {
    Facts::of(leaf.der().ok()?.0.first()?)
}

fn common_name(node: &str) -> String {
    format!("system:node:{node}")
}

/// The certificate and the key of a file that has both.
fn read(file: &Path) -> io::Result<Option<Leaf>> {
    match fs::read_to_string(file) {
        // Both readers of PEM skip what is not theirs.
        Ok(text) => Ok(Some(Leaf { certificate_pem: text.clone(), key_pem: text })),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(named(file, "read", error)),
    }
}

/// Asks the cluster for a certificate and waits for it.
async fn request(client: &Client, node: &str, wanted: &Wanted) -> Result<Leaf, CommandError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, GROUP);
    params.distinguished_name.push(DnType::CommonName, common_name(node));
    if let Wanted::Serving(addresses) = wanted {
        params.subject_alt_names.push(SanType::DnsName(node.to_owned().try_into()?));
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
    }
    let pem = params.serialize_request(&key)?.pem()?;
    let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {"request": STANDARD.encode(pem), "signerName": wanted.signer(),
            "usages": ["digital signature", wanted.usage()]}});
    let made: Value = client.send_json(Method::POST, PATH, &object).await?;
    let name = made["metadata"]["name"].as_str().ok_or("the API server made a request without a name")?;
    let mut pause = FIRST_LOOK;
    loop {
        let seen: Value = client.get_path(&format!("{PATH}/{name}")).await?;
        if let Some(certificate) = seen["status"]["certificate"].as_str() {
            let certificate_pem = String::from_utf8(STANDARD.decode(certificate)?)?;
            return Ok(Leaf { certificate_pem, key_pem: key.serialize_pem() });
        }
        for condition in seen["status"]["conditions"].as_array().into_iter().flatten() {
            if let Some(kind @ ("Denied" | "Failed")) = condition["type"].as_str() {
                let message = condition["message"].as_str().unwrap_or_default();
                return Err(format!("the certificate request {name} was {}: {message}", kind.to_lowercase()).into());
            }
        }
        if pause == SELDOM {
            tracing::info!(name, "waiting for the certificate request to be approved and signed");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(SELDOM);
    }
}

#[cfg(test)]
mod tests {
    use rustls::client::ResolvesClientCert;
    use skiff_base::SystemClock;

    use super::*;
    use crate::pki::{Authority, Purpose};

    #[test]
    fn a_kept_certificate_serves_while_it_fits() {
        let folder = std::env::temp_dir().join(format!("skiff-kept-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a writable temporary folder");
        let clock: SharedClock = SystemClock::shared();
        let authority = Authority::load_or_create(&folder, clock.clone()).expect("made");
        let address: IpAddr = "10.0.0.1".parse().expect("an address");
        let kept = |wanted: Wanted| Kept {
            file: folder.join("kubelet.pem"),
            node_name: "a".into(),
            wanted,
            authorities: folder.join("ca.crt"),
            current: Arc::default(),
            clock: clock.clone(),
            looks: Arc::default(),
        };
        let serving = kept(Wanted::Serving(vec![address]));
        assert!(!serving.load().expect("readable") && serving.is_due().expect("readable"));
        let leaf =
            authority.issue("system:node:a", &Purpose::Server { names: &[], addresses: &[address] }).expect("issued");
        fs::write(&serving.file, format!("{}{}", leaf.certificate_pem, leaf.key_pem)).expect("written");
        assert!(serving.load().expect("readable") && serving.current.has_certs());
        assert!(!serving.is_due().expect("readable"));
        Authority::rotate(&folder, clock.clone()).expect("rotated");
        assert!(serving.is_due().expect("readable"), "another authority signs now");
        assert!(serving.load().expect("readable"), "it is believed still");
        let moved = kept(Wanted::Serving(vec!["10.0.0.2".parse().expect("an address")]));
        assert!(!moved.load().expect("readable") && moved.is_due().expect("readable"), "another address");
        let renamed = Kept { node_name: "b".into(), ..kept(Wanted::Client) };
        assert!(!renamed.load().expect("readable"), "another node");
        fs::remove_dir_all(&folder).expect("it was made above");
    }
}
