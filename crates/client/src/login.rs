//! Reading a kubeconfig: which server, whom to trust, and who to be.
//! See <https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/>.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;

use crate::HttpsTransport;

/// Why a kubeconfig does not lead anywhere; for people.
pub type LoginError = Box<dyn std::error::Error + Send + Sync>;

/// The way into a cluster, of which any number of connections can be made.
pub struct Login {
    host: String,
    port: u16,
    tls: rustls::ClientConfig,
    token: Option<String>,
}

impl Login {
    /// Reads the current context of a kubeconfig.
    ///
    /// # Errors
    /// The file is not there, is no kubeconfig, or asks for what is not supported (plugins, no verification).
    pub fn read(path: &Path) -> Result<Self, LoginError> {
        let text = fs::read_to_string(path).map_err(|error| format!("read {}: {error}", path.display()))?;
        let config: Value = serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::of(&config, folder).map_err(|error| format!("{}: {error}", path.display()).into())
    }

    fn of(config: &Value, folder: &Path) -> Result<Self, LoginError> {
        let current = config["current-context"].as_str().unwrap_or_default();
        let context = &entry(config, "contexts", current)?["context"];
        let cluster = &entry(config, "clusters", context["cluster"].as_str().unwrap_or_default())?["cluster"];
        let user = &entry(config, "users", context["user"].as_str().unwrap_or_default())?["user"];
        for (what, is_there) in [
            ("insecure-skip-tls-verify", cluster["insecure-skip-tls-verify"] == true),
            ("exec", user["exec"].is_object()),
            ("auth-provider", user["auth-provider"].is_object()),
        ] {
            if is_there {
                return Err(format!("{what} is not supported here").into());
            }
        }
        let (host, port) = server(cluster["server"].as_str().unwrap_or_default())?;
        let mut roots = RootCertStore::empty();
        let authority = data(cluster, "certificate-authority", folder)?.ok_or("the cluster has no authority")?;
        for certificate in CertificateDer::pem_slice_iter(&authority) {
            roots.add(certificate.map_err(|error| format!("certificate-authority: {error:?}"))?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let tls = match (data(user, "client-certificate", folder)?, data(user, "client-key", folder)?) {
            (Some(chain), Some(key)) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
                let chain = chain.map_err(|error| format!("client-certificate: {error:?}"))?;
                let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| format!("client-key: {error:?}"))?;
                tls.with_client_auth_cert(chain, key)?
            }
            _ => tls.with_no_client_auth(),
        };
        let token = match (user["token"].as_str(), user["tokenFile"].as_str()) {
            (Some(token), _) => Some(token.to_owned()),
            (None, Some(file)) => Some(fs::read_to_string(folder.join(file))?.trim().to_owned()),
            (None, None) => None,
        };
        Ok(Self { host, port, tls, token })
    }

    /// One more connection, made when it is first used.
    ///
    /// # Errors
    /// The server's name or the token cannot be one.
    pub fn connection(&self) -> Result<HttpsTransport, LoginError> {
        Ok(HttpsTransport::new(&self.host, self.port, self.tls.clone(), self.token.as_deref())?)
    }
}

fn entry<'a>(config: &'a Value, list: &str, name: &str) -> Result<&'a Value, LoginError> {
    let found = config[list].as_array().into_iter().flatten().find(|entry| entry["name"] == name);
    found.ok_or_else(|| format!("{list} has no {name:?}").into())
}

/// Host and port of `https://HOST[:PORT]`.
fn server(url: &str) -> Result<(String, u16), LoginError> {
    let refused = || format!("server {url:?} is not https://HOST[:PORT]");
    let uri: http::Uri = url.parse().map_err(|_| refused())?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("https") && uri.path() == "/").ok_or_else(refused)?;
    Ok((host.trim_matches(['[', ']']).to_owned(), uri.port_u16().unwrap_or(443)))
}

/// What stands in the file itself (`NAME-data`), or in another that it names.
fn data(entry: &Value, name: &str, folder: &Path) -> Result<Option<Vec<u8>>, LoginError> {
    let inline = entry[format!("{name}-data")].as_str().filter(|text| !text.is_empty());
    if let Some(text) = inline {
        return Ok(Some(STANDARD.decode(text).map_err(|error| format!("{name}-data: {error}"))?));
    }
    let Some(file) = entry[name].as_str().filter(|file| !file.is_empty()) else { return Ok(None) };
    let file: PathBuf = folder.join(file);
    Ok(Some(fs::read(&file).map_err(|error| format!("read {}: {error}", file.display()))?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(cluster: Value, user: Value) -> String {
        let config = json!({
            "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": cluster}], "users": [{"name": "u", "user": user}],
        });
        Login::of(&config, Path::new("/")).err().expect("it is refused").to_string()
    }

    #[test]
    fn servers_are_addresses_with_a_port_or_without() {
        let of = |url| server(url).ok();
        assert_eq!(of("https://127.0.0.1:6443"), Some(("127.0.0.1".into(), 6443)));
        assert_eq!(of("https://[::1]:6443"), Some(("::1".into(), 6443)));
        assert_eq!(of("https://example.com/"), Some(("example.com".into(), 443)));
        for wrong in ["http://a", "https://a/path", "", "a:1"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_not_supported_is_refused_by_name() {
        assert_eq!(
            refusal(json!({"insecure-skip-tls-verify": true}), json!({})),
            "insecure-skip-tls-verify is not supported here"
        );
        assert_eq!(refusal(json!({}), json!({"exec": {}})), "exec is not supported here");
        assert_eq!(refusal(json!({"server": "https://a"}), json!({})), "the cluster has no authority");
    }
}
