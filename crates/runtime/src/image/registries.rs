//! How registries are reached: mirrors, rewritten names, private authorities and credentials, from a `registries.yaml` in
//! the form that k3s has made known. Pure but for reading the files that it names.
//!
//! ```yaml
//! mirrors:
//!   docker.io:
//!     endpoint: ["https://mirror.example:5000", "http://10.0.0.7:5000/v2/cache"]
//!     rewrite: {"^library/(.*)": "hub/$1"}
//!   "*":
//!     endpoint: ["https://mirror.example:5000"]
//! configs:
//!   "mirror.example:5000":
//!     auth: {username: me, password: secret}
//!     tls: {ca_file: /etc/ssl/mirror.pem}
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use skiff_cri::AuthConfig;

use super::reference::Reference;

/// The mirrors of registries that have none of their own.
const ANY: &str = "*";

/// What is known of registries.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    configs: BTreeMap<String, Host>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Mirror {
    endpoint: Vec<String>,
    rewrite: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Host {
    auth: Option<Login>,
    tls: Tls,
}

#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Login {
    username: String,
    password: String,
    auth: String,
    identity_token: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").field("username", &self.username).finish_non_exhaustive()
    }
}

/// How a host's certificate is checked.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tls {
    /// An authority beside the machine's own.
    pub ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    /// Whether it is not checked at all.
    pub insecure_skip_verify: bool,
}

/// One place where an image may be had.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Endpoint {
    /// What the image is called there.
    pub reference: Reference,
    /// Whether it is spoken to without TLS.
    pub plain_http: bool,
    pub tls: Tls,
    /// Credentials of the file; those that come with a request are for the registry that its image names alone.
    pub auth: Option<AuthConfig>,
    /// Whether it is that registry.
    pub is_origin: bool,
}

impl Registries {
    /// Reads the text of the file.
    ///
    /// # Errors
    /// It is not what it should be, or asks for what is not offered.
    pub fn parse(text: &str) -> Result<Self, String> {
        let read: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        for (host, config) in &read.configs {
            if config.tls.cert_file.is_some() || config.tls.key_file.is_some() {
                return Err(format!("configs.{host:?}.tls: client certificates are not offered"));
            }
        }
        for (host, mirror) in &read.mirrors {
            for endpoint in &mirror.endpoint {
                split(endpoint).map_err(|error| format!("mirrors.{host:?}.endpoint: {error}"))?;
            }
            for pattern in mirror.rewrite.keys() {
                regex::Regex::new(pattern).map_err(|error| format!("mirrors.{host:?}.rewrite: {error}"))?;
            }
        }
        Ok(read)
    }

    /// Where to ask for an image, in order: the mirrors of its registry, then the registry itself.
    pub(super) fn endpoints(&self, wanted: &Reference, insecure: &[String]) -> Vec<Endpoint> {
        let mirror = self.mirrors.get(wanted.domain()).or_else(|| self.mirrors.get(ANY));
        let mut found: Vec<Endpoint> = Vec::new();
        for url in mirror.iter().flat_map(|mirror| &mirror.endpoint) {
            let Ok((plain_http, host, prefix)) = split(url) else { continue };
            let path = mirror.map_or_else(|| wanted.path().to_owned(), |mirror| mirror.rewritten(wanted.path()));
            let reference = wanted.moved(&host, &format!("{prefix}{path}"));
            found.push(self.endpoint(reference, plain_http, host == wanted.domain()));
        }
        let origin = wanted.is_local() || insecure.iter().any(|registry| registry == wanted.domain());
        if !found.iter().any(|endpoint| endpoint.is_origin) {
            found.push(self.endpoint(wanted.clone(), origin, true));
        }
        found
    }

    fn endpoint(&self, reference: Reference, plain_http: bool, is_origin: bool) -> Endpoint {
        let config = self.configs.get(reference.domain()).cloned().unwrap_or_default();
        let auth = config.auth.map(|login| AuthConfig {
            username: login.username,
            password: login.password,
            auth: login.auth,
            identity_token: login.identity_token,
            ..AuthConfig::default()
        });
        Endpoint { reference, plain_http, tls: config.tls, auth, is_origin }
    }
}

impl Mirror {
    /// The repository's name at the mirror, by the first pattern that matches.
    fn rewritten(&self, path: &str) -> String {
        for (pattern, replacement) in &self.rewrite {
            // They were tried when the file was read.
            let Ok(pattern) = regex::Regex::new(pattern) else { continue };
            if pattern.is_match(path) {
                return pattern.replace(path, replacement.as_str()).into_owned();
            }
        }
        path.to_owned()
    }
}

/// An endpoint's scheme, host, and what stands before repositories' names.
fn split(url: &str) -> Result<(bool, String, String), String> {
    let (plain, rest) = match url.split_once("://") {
        Some(("http", rest)) => (true, rest),
        Some(("https", rest)) => (false, rest),
        Some(_) => return Err(format!("{url:?} is neither http nor https")),
        None => (false, url),
    };
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || host.contains('@') {
        return Err(format!("{url:?} names no host"));
    }
    let path = path.trim_matches('/');
    let path = path.strip_prefix("v2").map_or(path, |rest| rest.trim_start_matches('/'));
    let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
    Ok((plain, host.to_owned(), prefix))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint: ["https://mirror.example:5000", "http://10.0.0.7/v2/cache"]
    rewrite: {"^library/(.*)": "hub/$1"}
  "*":
    endpoint: ["everything.example"]
configs:
  "mirror.example:5000":
    auth: {username: me, password: secret}
    tls: {ca_file: /ca.pem}
"#;

    fn check(image: &str, expected: Expect) {
        let registries = Registries::parse(FILE).expect("a file");
        let endpoints = registries.endpoints(&image.parse().expect("a name"), &["plain.example".to_owned()]);
        let line = |endpoint: &Endpoint| {
            let user = endpoint.auth.as_ref().map_or("-", |auth| auth.username.as_str());
            let scheme = if endpoint.plain_http { "http" } else { "https" };
            let authority = endpoint.tls.ca_file.as_deref().map_or_else(String::new, |file| file.display().to_string());
            format!("{scheme} {} {user} {authority} {}\n", endpoint.reference, endpoint.is_origin)
        };
        expected.assert_eq(&endpoints.iter().map(line).collect::<String>());
    }

    #[test]
    fn mirrors_are_asked_before_the_registry() {
        check(
            "busybox:1",
            expect![[r#"
                https mirror.example:5000/hub/busybox:1 me /ca.pem false
                http 10.0.0.7/cache/hub/busybox:1 -  false
                https docker.io/library/busybox:1 -  true
            "#]],
        );
        check(
            "plain.example/a/b:1",
            expect![[r#"
                https everything.example/a/b:1 -  false
                http plain.example/a/b:1 -  true
            "#]],
        );
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let refused = |text: &str| Registries::parse(text).expect_err("refused");
        assert!(refused("mirors: {}").contains("mirors"));
        assert!(refused("mirrors: {a: {endpoint: ['ftp://b']}}").contains("neither http nor https"));
        assert!(refused("configs: {a: {tls: {cert_file: /x}}}").contains("client certificates are not offered"));
        assert_eq!(Registries::parse("{}"), Ok(Registries::default()));
    }
}
