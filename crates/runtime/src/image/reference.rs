//! Names of images, completed the way docker and containerd complete them. Pure.

use std::fmt;
use std::str::FromStr;

use super::digest::Digest;

/// Where a name without a registry is looked for.
const DEFAULT_DOMAIN: &str = "docker.io";
/// Where that registry keeps the names without a user.
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// The distribution specification's limits.
const NAME_LENGTH: usize = 255;
const TAG_LENGTH: usize = 128;

/// A complete name: registry, repository, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    version: Version,
}

/// What stands after the repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// A tag, which may move.
    Tag(String),
    /// A digest, which cannot.
    Digest(Digest),
}

/// Why a text is not the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not have the form of one.
    #[error("invalid reference format")]
    Format,
    /// Repositories are written in lower case.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// It looks like an id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Id(String),
    /// Too long.
    #[error("repository name must not be more than {NAME_LENGTH} characters")]
    Length,
}

impl Reference {
    /// The registry, with its port.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag or the digest.
    pub fn version(&self) -> &Version {
        &self.version
    }

    /// Registry and repository.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The same repository at a digest.
    pub fn at(&self, digest: &Digest) -> Self {
        Self { domain: self.domain.clone(), path: self.path.clone(), version: Version::Digest(digest.clone()) }
    }

    /// The same version of a repository elsewhere.
    pub fn moved(&self, domain: &str, path: &str) -> Self {
        Self { domain: domain.to_owned(), path: path.to_owned(), version: self.version.clone() }
    }

    /// Whether the registry is on this machine, and thus spoken to without TLS.
    pub fn is_local(&self) -> bool {
        let host = self.domain.rsplit_once(':').map_or(self.domain.as_str(), |(host, _)| host);
        host == "localhost" || host == "[::1]" || host.parse().is_ok_and(|ip: std::net::Ipv4Addr| ip.is_loopback())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}/{}:{tag}", self.domain, self.path),
            Version::Digest(digest) => write!(f, "{}/{}@{digest}", self.domain, self.path),
        }
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if text.len() == 64 && text.bytes().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()) {
            return Err(ReferenceError::Id(text.to_owned()));
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest.parse::<Digest>().map_err(|_| ReferenceError::Format)?)),
            None => (text, None),
        };
        let (name, tag) = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (name, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(ReferenceError::Format);
        }
        let (domain, path) = split_domain(name);
        if path.bytes().any(|c| c.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(path));
        }
        if !is_domain(&domain) || !path.split('/').all(is_component) {
            return Err(ReferenceError::Format);
        }
        if domain.len() + 1 + path.len() > NAME_LENGTH {
            return Err(ReferenceError::Length);
        }
        // With both, the digest says all; the tag is dropped.
        let version = match digest {
            Some(digest) => Version::Digest(digest),
            None => Version::Tag(tag.unwrap_or(DEFAULT_TAG).to_owned()),
        };
        Ok(Self { domain, path, version })
    }
}

/// The first part is a registry where it cannot be part of a repository's name, or is `localhost`.
fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, name),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !path.contains('/') {
        return (domain.to_owned(), format!("{OFFICIAL_PREFIX}{path}"));
    }
    (domain.to_owned(), path.to_owned())
}

fn is_registry(first: &str) -> bool {
    first == "localhost" || first.bytes().any(|c| c == b'.' || c == b':' || c.is_ascii_uppercase())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    host.split('.').all(label)
}

/// Letters and digits, with single separators between: `.`, `_`, `__` or any number of `-`.
fn is_component(component: &str) -> bool {
    let letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().is_some_and(|c| letter(*c)) && bytes.last().is_some_and(|c| letter(*c));
    let separator = |run: &str| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|c| c == b'-');
    ends && component.split(|c: char| c.is_ascii_alphanumeric()).all(separator)
}

fn is_tag(tag: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
    let first = tag.bytes().next().is_some_and(word);
    first && tag.len() <= TAG_LENGTH && tag.bytes().all(|c| word(c) || c == b'.' || c == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let found = text.parse::<Reference>().map_or_else(|error| error.to_string(), |reference| reference.to_string());
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn names_are_completed() {
        let digest = format!("sha256:{}", "a".repeat(64));
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.27", "docker.io/library/nginx:1.27");
        check("user/app", "docker.io/user/app:latest");
        check("index.docker.io/nginx", "docker.io/library/nginx:latest");
        check("docker.io/nginx", "docker.io/library/nginx:latest");
        check("localhost:5000/hello:v1", "localhost:5000/hello:v1");
        check("localhost/hello", "localhost/hello:latest");
        check("127.0.0.1:5000/a/b__c.d-e--f:V_1.x-y", "127.0.0.1:5000/a/b__c.d-e--f:V_1.x-y");
        check("[::1]:5000/a", "[::1]:5000/a:latest");
        check("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10");
        check(&format!("nginx@{digest}"), &format!("docker.io/library/nginx@{digest}"));
        check(&format!("quay.io/a/b:c@{digest}"), &format!("quay.io/a/b@{digest}"));
        check("MYHOST/app", "MYHOST/app:latest");
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let invalid = "invalid reference format";
        for text in
            ["", "a//b", "-a", "a-", "a:", "a:b:c", "a@sha256:12", "a b", "a/../b", "host:99999/a", "a___b", "a..b"]
        {
            check(text, invalid);
        }
        check("Nginx", "invalid reference format: repository name (library/Nginx) must be lowercase");
        let id = "a".repeat(64);
        check(&id, &format!("invalid repository name ({id}), cannot specify 64-byte hexadecimal strings"));
        check("a/".repeat(130).trim_end_matches('/'), "repository name must not be more than 255 characters");
    }

    #[test]
    fn registries_on_this_machine_are_known() {
        let local = |text: &str| text.parse::<Reference>().unwrap().is_local();
        assert!(local("localhost:5000/a") && local("localhost/a") && local("127.0.0.9:80/a") && local("[::1]:80/a"));
        assert!(!local("nginx") && !local("192.168.1.1:5000/a") && !local("localhost.example.com/a"));
    }
}
