//! The documents that describe an image: index, manifest and configuration, of OCI and of docker alike. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::platform::{self, Platform};

/// Points at content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// Its address.
    pub digest: Digest,
    /// Its length.
    pub size: u64,
    /// For what it is, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Names and notes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// One image: a configuration and layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// OCI's or docker's type of it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// What a manifest's address may lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Image(Manifest),
    /// One of these, by platform.
    Index(Vec<Descriptor>),
}

/// Media types that are asked for.
pub(super) const ACCEPTED: &[&str] = &[
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "*/*",
];

/// OCI's type of a manifest.
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI's type of a configuration.
pub(super) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// OCI's type of a layer that is not compressed.
pub(super) const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";

impl Document {
    /// Reads a manifest or an index; which of them it is shows in its members, because the type may be missing.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Either {
            schema_version: u32,
            manifests: Option<Vec<Descriptor>>,
        }
        let error = |error: serde_json::Error| format!("invalid manifest: {error}");
        let either: Either = serde_json::from_slice(bytes).map_err(error)?;
        if either.schema_version != 2 {
            return Err(format!("manifest schema {} is no longer supported", either.schema_version));
        }
        match either.manifests {
            Some(manifests) => Ok(Self::Index(manifests)),
            None => serde_json::from_slice(bytes).map(Self::Image).map_err(error),
        }
    }
}

/// The image of an index that this machine can run.
pub fn select(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let suitable = |descriptor: &&Descriptor| descriptor.platform.as_ref().map_or(Some(usize::MAX), platform::rank);
    manifests.iter().filter(|descriptor| suitable(descriptor).is_some()).min_by_key(suitable)
}

/// An image's configuration, as far as it is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct ConfigFile {
    /// `amd64`, ...
    #[serde(default)]
    pub architecture: String,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// How to run it.
    #[serde(default)]
    pub config: Option<RunConfig>,
    /// What its layers unpack to.
    pub rootfs: RootFs,
}

/// How to run an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    /// `user[:group]`, names or numbers.
    pub user: Option<String>,
    /// `NAME=value`.
    pub env: Option<Vec<String>>,
    /// The command.
    pub entrypoint: Option<Vec<String>>,
    /// Its default arguments.
    pub cmd: Option<Vec<String>>,
    /// Where the command starts.
    pub working_dir: Option<String>,
    /// The signal that asks it to end.
    pub stop_signal: Option<String>,
    /// Notes.
    pub labels: Option<BTreeMap<String, String>>,
}

/// What the layers unpack to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct RootFs {
    /// The digests of the layers' tars, uncompressed, the lowest first.
    pub diff_ids: Vec<Digest>,
}

impl ConfigFile {
    /// Reads a configuration.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| format!("invalid image configuration: {error}"))
    }

    /// The chain ids: one for each layer, naming it and all below.
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::new();
        for diff in &self.rootfs.diff_ids {
            chain.push(match chain.last() {
                None => diff.clone(),
                Some(parent) => Digest::of(format!("{parent} {diff}").as_bytes()),
            });
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_name_a_layer_and_all_below() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let file = ConfigFile { rootfs: RootFs { diff_ids: vec![a.clone(), b.clone()] }, ..ConfigFile::default() };
        assert_eq!(file.chain_ids(), [a.clone(), Digest::of(format!("{a} {b}").as_bytes())]);
    }

    #[test]
    fn the_form_tells_an_index_from_an_image() {
        let digest = Digest::of(b"x");
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":1}}]}}"#);
        assert!(matches!(Document::parse(index.as_bytes()), Ok(Document::Index(manifests)) if manifests.len() == 1));
        let image = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{digest}","size":1}},"layers":[]}}"#);
        assert!(matches!(Document::parse(image.as_bytes()), Ok(Document::Image(_))));
        assert_eq!(Document::parse(br#"{"schemaVersion":1}"#), Err("manifest schema 1 is no longer supported".into()));
        assert!(Document::parse(b"<html>").unwrap_err().starts_with("invalid manifest: "));
    }

    #[test]
    fn the_nearest_platform_is_taken() {
        let entry = |name: &str, os: &str, architecture: &str, variant: &str| Descriptor {
            media_type: String::new(),
            digest: Digest::of(name.as_bytes()),
            size: 1,
            platform: Some(Platform { os: os.into(), architecture: architecture.into(), variant: variant.into() }),
            annotations: BTreeMap::new(),
        };
        let host = platform::candidates(std::env::consts::ARCH);
        let (arch, variant) = host[0];
        let all = [
            entry("note", "unknown", "unknown", ""),
            entry("windows", "windows", arch, variant),
            entry("other", "linux", "s390x", ""),
            entry("mine", "linux", arch, variant),
        ];
        assert_eq!(select(&all).map(|found| found.digest.clone()), Some(Digest::of(b"mine")));
        assert_eq!(select(&all[..3]), None);
    }
}
