//! Images out of archives: what `docker save` writes, old and new, and OCI layouts, compressed or not.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::Ordering;

use serde::Deserialize;
use skiff_cri::{CriError, CriResult};

use super::content::{Content, disk_error};
use super::digest::Digest;
use super::manifest::{CONFIG_TYPE, ConfigFile, Descriptor, Document, LAYER_TYPE, MANIFEST_TYPE, Manifest, select};
use super::reference::{Reference, Version};
use super::snapshots::decompress;
use super::{Found, ImageRecord, ImageStore, blocking};

/// Documents of an archive, such as `manifest.json`, are read whole.
const DOCUMENT_BYTES: u64 = 8 * 1024 * 1024;
/// A link to a link to a link ends here.
const LINKS: usize = 8;
/// A complete name, as containerd and docker note it.
const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// A tag, or a complete name, as others note it.
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";
const INDEX_DEPTH: usize = 3;

impl ImageStore {
    /// Reads an archive and unpacks its images for this machine. `names` are given to its image beside those in it.
    pub async fn import(&self, archive: impl Into<PathBuf>, names: &[String]) -> CriResult<Vec<ImageRecord>> {
        let path: PathBuf = archive.into();
        let names = names.iter().map(|name| super::parse(name)).collect::<CriResult<Vec<Reference>>>()?;
        let failed = |mut error: CriError| {
            error.message = format!("importing {}: {}", path.display(), error.message);
            error
        };
        let imported = {
            let _adding = self.inner.adding.read().await;
            self.import_file(path.clone(), &names).await
        };
        // What was in the archive beside the images.
        self.inner.sweep_wanted.store(true, Ordering::Release);
        self.sweep_if_wanted().await;
        imported.map_err(failed)
    }

    async fn import_file(&self, path: PathBuf, names: &[Reference]) -> CriResult<Vec<ImageRecord>> {
        let inner = self.inner.clone();
        let found = blocking(move || {
            let file = File::open(&path).map_err(|error| CriError::invalid_argument(error.to_string()))?;
            let archive = Archive::read(&inner.content, file)?;
            archive.images(&inner.content)
        })
        .await?;
        if found.len() > 1 && !names.is_empty() {
            let message = format!("a name can be given to one image only, and there are {}", found.len());
            return Err(CriError::invalid_argument(message));
        }
        let mut records = Vec::new();
        for (found, mut references) in found {
            found.check()?;
            for (number, layer) in found.manifest.layers.iter().enumerate() {
                self.unpack(layer.digest.clone(), &found.config, number).await?;
            }
            references.extend(names.iter().cloned());
            records.push(self.finish(named(found, references)).await?);
        }
        Ok(records)
    }
}

/// A record with its names; one that stands by its digest as well as by its tag, so that it can be asked for by both.
fn named(found: Found, references: Vec<Reference>) -> ImageRecord {
    let target = found.manifests[0].clone();
    let (mut tags, mut digests) = (Vec::new(), Vec::new());
    for reference in references {
        digests.push(reference.at(&target).to_string());
        if matches!(reference.version(), Version::Tag(_)) {
            tags.push(reference.to_string());
        }
    }
    for names in [&mut tags, &mut digests] {
        names.sort();
        names.dedup();
    }
    found.record(tags, digests)
}

/// A file of the archive, stored by its digest.
struct Stored {
    digest: Digest,
    size: u64,
}

/// An archive that was read: its files are in the content store, its paths here.
struct Archive {
    files: HashMap<PathBuf, Stored>,
    links: HashMap<PathBuf, PathBuf>,
}

#[derive(Deserialize)]
struct Layout {
    manifests: Vec<Descriptor>,
}

/// An image of docker's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: PathBuf,
    repo_tags: Option<Vec<String>>,
    layers: Vec<PathBuf>,
}

impl Archive {
    fn read(content: &Content, file: File) -> CriResult<Self> {
        let broken = |error: io::Error| match error.kind() {
            io::ErrorKind::StorageFull => CriError::resource_exhausted(error.to_string()),
            _ => CriError::invalid_argument(format!("the archive is broken: {error}")),
        };
        let mut read = Self { files: HashMap::new(), links: HashMap::new() };
        let mut archive = tar::Archive::new(decompress(file).map_err(broken)?);
        for entry in archive.entries().map_err(broken)? {
            read.entry(content, entry.map_err(broken)?, &broken)?;
        }
        // A compressed archive that was cut off says so only at its end.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
        Ok(read)
    }

    fn entry<R: Read>(
        &mut self,
        content: &Content,
        mut entry: tar::Entry<'_, R>,
        broken: &dyn Fn(io::Error) -> CriError,
    ) -> CriResult<()> {
        let path = clean(&entry.path().map_err(broken)?);
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            if let Some(target) = entry.link_name().map_err(broken)? {
                let from = if kind.is_symlink() { path.parent().unwrap_or(Path::new("")) } else { Path::new("") };
                let target = clean(&from.join(target));
                self.links.insert(path, target);
            }
            return Ok(());
        }
        if !kind.is_file() {
            return Ok(());
        }
        let mut staged = content.stage()?;
        if let Err(error) = staged.fill(&mut entry) {
            staged.discard();
            return Err(broken(error));
        }
        let size = staged.size_bytes();
        let (digest, staging) = staged.finish()?;
        if let Some(claimed) = path.to_str().and_then(|path| path.strip_prefix("blobs/sha256/"))
            && claimed != digest.hex()
        {
            return Err(invalid(format!("{} is damaged: its digest is {digest}", path.display())));
        }
        let place = content.path(&digest);
        std::fs::rename(&staging, &place).map_err(|error| disk_error("renaming", &staging, &error))?;
        self.files.insert(path, Stored { digest, size });
        Ok(())
    }

    fn find(&self, path: &Path) -> Option<&Stored> {
        let mut path = clean(path);
        for _ in 0..LINKS {
            if let Some(stored) = self.files.get(&path) {
                return Some(stored);
            }
            path = self.links.get(&path)?.clone();
        }
        None
    }

    fn document(&self, content: &Content, name: &str) -> CriResult<Option<Vec<u8>>> {
        match self.find(Path::new(name)) {
            None => Ok(None),
            Some(stored) if stored.size > DOCUMENT_BYTES => Err(invalid(format!("{name} is too large"))),
            Some(stored) => content.read(&stored.digest).map(Some),
        }
    }

    /// The images for this machine, with their names.
    fn images(&self, content: &Content) -> CriResult<Vec<(Found, Vec<Reference>)>> {
        let saved = match self.document(content, "manifest.json")? {
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| invalid(format!("manifest.json: {error}")))?
            }
            None => Vec::<Saved>::new(),
        };
        let layout = match self.find(Path::new("oci-layout")) {
            Some(_) => self.document(content, "index.json")?,
            None => None,
        };
        let images = match layout {
            Some(bytes) => self.images_of_layout(content, &bytes, &saved)?,
            None => self.images_of_saved(content, &saved)?,
        };
        if images.is_empty() {
            return Err(invalid(
                "it is no image: there is neither an index.json (OCI) nor a manifest.json (docker save)".into(),
            ));
        }
        Ok(images)
    }

    fn images_of_layout(
        &self,
        content: &Content,
        bytes: &[u8],
        saved: &[Saved],
    ) -> CriResult<Vec<(Found, Vec<Reference>)>> {
        let layout: Layout = serde_json::from_slice(bytes).map_err(|error| invalid(format!("index.json: {error}")))?;
        // The same image stands there once for each of its names.
        let mut by_digest: BTreeMap<Digest, (Vec<Reference>, Descriptor)> = BTreeMap::new();
        for descriptor in layout.manifests {
            let names = names_of(&descriptor);
            by_digest.entry(descriptor.digest.clone()).or_insert((Vec::new(), descriptor)).0.extend(names);
        }
        let mut images = Vec::new();
        for (mut names, descriptor) in by_digest.into_values() {
            let Some(found) = self.follow(content, &descriptor)? else { continue };
            if names.is_empty() {
                names = self.names_by_config(saved, &found.manifest.config.digest);
            }
            images.push((found, names));
        }
        if images.is_empty() {
            return Err(CriError::not_found("no match for platform in manifest: not found"));
        }
        Ok(images)
    }

    /// From a descriptor to the image for this machine; `None` where there is none.
    fn follow(&self, content: &Content, descriptor: &Descriptor) -> CriResult<Option<Found>> {
        let mut descriptor = descriptor.clone();
        let mut manifests = Vec::new();
        while manifests.len() < INDEX_DEPTH {
            let bytes = content.read(&descriptor.digest)?;
            manifests.push(descriptor.digest.clone());
            match Document::parse(&bytes).map_err(invalid)? {
                Document::Image(manifest) => {
                    let config = content.read(&manifest.config.digest)?;
                    let config = ConfigFile::parse(&config).map_err(invalid)?;
                    if let Some(layer) = manifest.layers.iter().find(|layer| !content.has(&layer.digest)) {
                        return Err(CriError::not_found(format!("content digest {}: not found", layer.digest)));
                    }
                    let manifest_bytes = bytes.len() as u64;
                    return Ok(Some(Found { manifests, manifest, manifest_bytes, config }));
                }
                Document::Index(entries) => {
                    // An archive may hold a part of the platforms only.
                    let here: Vec<_> = entries.into_iter().filter(|entry| content.has(&entry.digest)).collect();
                    match select(&here) {
                        Some(entry) => descriptor = entry.clone(),
                        None => return Ok(None),
                    }
                }
            }
        }
        Err(invalid("the index leads to too many others".into()))
    }

    fn names_by_config(&self, saved: &[Saved], config: &Digest) -> Vec<Reference> {
        let same = |image: &&Saved| self.find(&image.config).is_some_and(|stored| stored.digest == *config);
        saved.iter().filter(same).flat_map(tags_of).collect()
    }

    fn images_of_saved(&self, content: &Content, saved: &[Saved]) -> CriResult<Vec<(Found, Vec<Reference>)>> {
        let missing = |path: &Path| invalid(format!("{} is missing", path.display()));
        let mut images = Vec::new();
        let mut seen = HashSet::new();
        for image in saved {
            let config = self.find(&image.config).ok_or_else(|| missing(&image.config))?;
            let layers = image.layers.iter().map(|path| {
                let stored = self.find(path).ok_or_else(|| missing(path))?;
                Ok(descriptor(LAYER_TYPE, stored))
            });
            let manifest = Manifest {
                schema_version: 2,
                media_type: MANIFEST_TYPE.into(),
                config: descriptor(CONFIG_TYPE, config),
                layers: layers.collect::<CriResult<Vec<_>>>()?,
            };
            let bytes = serde_json::to_vec(&manifest).map_err(|error| CriError::internal(error.to_string()))?;
            let digest = content.put(&bytes)?;
            if !seen.insert(digest.clone()) {
                continue;
            }
            let file = ConfigFile::parse(&content.read(&config.digest)?).map_err(invalid)?;
            let found = Found { manifests: vec![digest], manifest, manifest_bytes: bytes.len() as u64, config: file };
            images.push((found, tags_of(image)));
        }
        Ok(images)
    }
}

fn descriptor(media_type: &str, stored: &Stored) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: stored.digest.clone(),
        size: stored.size,
        platform: None,
        annotations: BTreeMap::new(),
    }
}

fn tags_of(image: &Saved) -> Vec<Reference> {
    image.repo_tags.iter().flatten().filter_map(|tag| tag.parse().ok()).collect()
}

/// The complete name that is noted; a tag alone names nothing.
fn names_of(descriptor: &Descriptor) -> Option<Reference> {
    let name = descriptor.annotations.get(NAME_ANNOTATION);
    let complete = |name: &&String| name.contains('/') || name.contains(':');
    name.or(descriptor.annotations.get(REF_ANNOTATION).filter(complete))?.parse().ok()
}

fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

fn invalid(message: String) -> CriError {
    CriError::invalid_argument(message)
}
