//! Which images there are, and under which names: one document, replaced as a whole.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use skiff_cri::{CriError, CriResult};

use super::apply::Usage;
use super::content::{Content, disk_error};
use super::digest::Digest;
use super::manifest::RunConfig;
use super::reference::{Reference, Version};

/// An image on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// Its id: the digest of its configuration.
    pub id: Digest,
    /// Its names with a tag, complete.
    pub tags: Vec<String>,
    /// Its names with a digest, complete.
    pub digests: Vec<String>,
    /// What its names lead to: its manifest, or the index that holds it, and all that lies between.
    pub manifests: Vec<Digest>,
    /// Its layers as they were fetched, the lowest first.
    pub layers: Vec<Digest>,
    /// Its layers as they are unpacked, the lowest first.
    pub chain: Vec<Digest>,
    /// The bytes of all its content.
    pub size_bytes: u64,
    /// Never to be removed to make room.
    pub pinned: bool,
    /// How to run it.
    pub config: RunConfig,
}

/// All images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) images: BTreeMap<Digest, ImageRecord>,
    /// What is unpacked, and was on the disk for good when this was written.
    pub(super) snapshots: BTreeMap<Digest, Usage>,
}

impl Index {
    pub(super) fn load(path: &Path) -> CriResult<Self> {
        let text = match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            text => text.map_err(|error| disk_error("reading", path, &error))?,
        };
        serde_json::from_slice(&text).map_err(|error| {
            let path = path.display();
            CriError::internal(format!("{path} is corrupt ({error}); remove its folder, images are then fetched anew"))
        })
    }

    pub(super) fn save(&self, content: &Content, path: &Path) -> CriResult<()> {
        let text = serde_json::to_vec(self).map_err(|error| CriError::internal(format!("writing {error}")))?;
        let staging = content.staging_path();
        let write = || -> io::Result<()> {
            let mut file = File::create(&staging)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&staging, path)?;
            path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
        };
        write().map_err(|error| disk_error("writing", path, &error))
    }

    /// Adds an image, or its new names; a name leads to one image only.
    pub(super) fn add(&mut self, record: ImageRecord) {
        for image in self.images.values_mut() {
            image.tags.retain(|tag| !record.tags.contains(tag));
            image.digests.retain(|digest| !record.digests.contains(digest));
        }
        match self.images.get_mut(&record.id) {
            None => {
                self.images.insert(record.id.clone(), record);
            }
            Some(image) => {
                for (known, new) in [(&mut image.tags, record.tags), (&mut image.digests, record.digests)] {
                    known.extend(new);
                    known.sort();
                }
                image.manifests.extend(record.manifests);
                image.manifests.sort();
                image.manifests.dedup();
                image.layers = record.layers;
                image.pinned |= record.pinned;
            }
        }
    }

    /// The image that an id, the beginning of one, or a name leads to.
    pub(super) fn find(&self, name: &str) -> Option<&ImageRecord> {
        if let Ok(id) = name.parse::<Digest>() {
            return self.images.get(&id);
        }
        if let Ok(reference) = name.parse::<Reference>() {
            let text = reference.to_string();
            let names = |image: &&ImageRecord| match reference.version() {
                Version::Tag(_) => image.tags.contains(&text),
                Version::Digest(_) => image.digests.contains(&text),
            };
            if let Some(image) = self.images.values().find(names) {
                return Some(image);
            }
        }
        self.find_short(name.strip_prefix("sha256:").unwrap_or(name))
    }

    /// The beginning of an id, where it is the beginning of one only.
    fn find_short(&self, digits: &str) -> Option<&ImageRecord> {
        let mut matching =
            self.images.values().filter(|image| !digits.is_empty() && image.id.hex().starts_with(digits));
        matching.next().filter(|_| matching.next().is_none())
    }

    /// Whether an image needs this content.
    pub(super) fn needs_blob(&self, digest: &Digest) -> bool {
        let needs = |image: &ImageRecord| {
            image.id == *digest || image.manifests.contains(digest) || image.layers.contains(digest)
        };
        self.images.values().any(needs)
    }

    /// Whether an image needs this snapshot.
    pub(super) fn needs_snapshot(&self, chain: &Digest) -> bool {
        self.images.values().any(|image| image.chain.contains(chain))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(content: &str, tags: &[&str]) -> ImageRecord {
        ImageRecord {
            id: Digest::of(content.as_bytes()),
            tags: tags.iter().map(|tag| (*tag).to_owned()).collect(),
            digests: Vec::new(),
            manifests: Vec::new(),
            layers: Vec::new(),
            chain: Vec::new(),
            size_bytes: 1,
            pinned: false,
            config: RunConfig::default(),
        }
    }

    #[test]
    fn a_name_leads_to_one_image() {
        let mut index = Index::default();
        index.add(record("one", &["docker.io/library/a:latest"]));
        index.add(record("two", &["docker.io/library/a:latest", "localhost:5000/b:v1"]));
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        let find = |name: &str| index.find(name).map(|image| image.id.clone());
        assert_eq!(find("a"), Some(two.clone()));
        assert_eq!(find("localhost:5000/b:v1"), Some(two.clone()));
        assert_eq!(find("b:v1"), None);
        assert_eq!(find(&one.to_string()), Some(one.clone()));
        assert_eq!(find(&one.hex()[..12]), Some(one.clone()));
        assert_eq!(find(one.hex()), Some(one));
        assert_eq!(find(""), None);
    }
}
