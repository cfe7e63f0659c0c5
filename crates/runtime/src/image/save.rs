//! Images out of the store: as an archive of the OCI layout, which docker, containerd and this store read, and to a
//! registry. What goes out is what came in, byte by byte.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use futures_util::StreamExt;
use http::HeaderValue;
use oci_client::RegistryOperation;
use oci_client::errors::OciDistributionError;
use serde_json::json;
use skiff_cri::{AuthConfig, CriError, CriResult};

use super::content::{Content, disk_error};
use super::digest::Digest;
use super::manifest::{CONFIG_TYPE, LAYER_TYPE, MANIFEST_TYPE};
use super::pull::{connect, oci_name, with_causes};
use super::{ImageRecord, ImageStore, blocking, parse};

/// How much of a layer is read at a time.
const CHUNK_BYTES: usize = 1 << 20;

impl ImageStore {
    fn saved(&self, name: &str) -> CriResult<ImageRecord> {
        self.find(name).ok_or_else(|| CriError::not_found(format!("image {name:?} not found")))
    }

    /// Writes images to an archive.
    ///
    /// # Errors
    /// There is no such image, or the disk refuses.
    pub async fn save(&self, names: &[String], archive: impl Into<PathBuf>) -> CriResult<()> {
        let images = names.iter().map(|name| Ok((name.clone(), self.saved(name)?))).collect::<CriResult<Vec<_>>>()?;
        let (inner, path) = (self.inner.clone(), archive.into());
        // Nothing may be swept away meanwhile.
        let _reading = self.inner.adding.read().await;
        blocking(move || {
            let failed = |error: io::Error| disk_error("writing", &path, &error);
            let file = File::create(&path).map_err(failed)?;
            let mut tar = tar::Builder::new(io::BufWriter::new(file));
            write_layout(&inner.content, &images, &mut tar)?;
            let mut file = tar.into_inner().map_err(failed)?;
            file.flush().map_err(failed)
        })
        .await
    }

    /// Pushes an image to the registry that its name says.
    ///
    /// # Errors
    /// There is no such image, or the registry refuses.
    pub async fn push(&self, name: &str, auth: Option<&AuthConfig>) -> CriResult<()> {
        let reference = parse(name)?;
        let record = self.saved(name)?;
        let _reading = self.inner.adding.read().await;
        let registries = self.registries()?;
        let origin = registries.endpoints(&reference, &self.inner.options.insecure_registries).pop();
        let endpoint = origin.ok_or_else(|| CriError::internal("a name has no registry"))?;
        let (client, auth) = connect(&endpoint, auth, self.inner.options.silence)?;
        let target = oci_name(&endpoint.reference);
        let failed = |what: String| {
            move |error: OciDistributionError| CriError::unknown(format!("{what}: {}", with_causes(&error)))
        };
        client.auth(&target, &auth, RegistryOperation::Push).await.map_err(failed(format!("push {reference}")))?;
        let manifest = manifest_of(&self.inner.content, &record)?;
        for digest in record.layers.iter().chain([&record.id]) {
            if client.blob_exists(&target, &digest.to_string()).await.unwrap_or(false) {
                continue;
            }
            let file = self.inner.content.open_blob(digest)?;
            let size = file.metadata().map_err(|error| CriError::internal(error.to_string()))?.len();
            let chunks = chunks(file).map(|chunk| chunk.map_err(OciDistributionError::from));
            client
                .push_blob_stream(&target, chunks, &digest.to_string(), Some(size))
                .await
                .map_err(failed(format!("push blob {digest}")))?;
        }
        let kind = HeaderValue::from_str(&manifest.media_type)
            .map_err(|_| CriError::internal("the manifest's media type is none"))?;
        client
            .push_manifest_raw(&target, manifest.bytes, kind)
            .await
            .map_err(failed(format!("push manifest of {reference}")))?;
        Ok(())
    }
}

fn chunks(file: File) -> impl futures_util::Stream<Item = io::Result<bytes::Bytes>> + Send + 'static {
    futures_util::stream::unfold(Some(file), |file| async move {
        let mut file = file?;
        let read = tokio::task::spawn_blocking(move || {
            let mut chunk = vec![0; CHUNK_BYTES];
            let count = file.read(&mut chunk)?;
            chunk.truncate(count);
            Ok::<_, io::Error>((chunk, file))
        })
        .await;
        match read.map_err(io::Error::other).and_then(|read| read) {
            Ok((chunk, _)) if chunk.is_empty() => None,
            Ok((chunk, file)) => Some((Ok(chunk.into()), Some(file))),
            Err(error) => Some((Err(error), None)),
        }
    })
}

/// A manifest with its type.
struct ManifestBytes {
    digest: Digest,
    media_type: String,
    bytes: Vec<u8>,
}

/// The manifest of the image itself; an index that led to it also names images of other machines, which are not here.
/// Images of old docker archives have none, and get one.
fn manifest_of(content: &Content, record: &ImageRecord) -> CriResult<ManifestBytes> {
    if let Some(digest) = record.manifests.last().filter(|digest| content.has(digest)) {
        let bytes = content.read(digest)?;
        let stated: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| CriError::internal(format!("manifest {digest}: {error}")))?;
        let media_type = stated["mediaType"].as_str().unwrap_or(MANIFEST_TYPE).to_owned();
        return Ok(ManifestBytes { digest: digest.clone(), media_type, bytes });
    }
    let descriptor = |kind: &str, digest: &Digest| -> CriResult<serde_json::Value> {
        let path = content.path(digest);
        let size = std::fs::metadata(&path).map_err(|error| disk_error("looking at", &path, &error))?.len();
        Ok(json!({ "mediaType": kind, "digest": digest.to_string(), "size": size }))
    };
    let layers = record.layers.iter().map(|layer| descriptor(LAYER_TYPE, layer)).collect::<CriResult<Vec<_>>>()?;
    let manifest = json!({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": descriptor(CONFIG_TYPE, &record.id)?, "layers": layers,
    });
    let bytes = manifest.to_string().into_bytes();
    Ok(ManifestBytes { digest: Digest::of(&bytes), media_type: MANIFEST_TYPE.to_owned(), bytes })
}

fn write_layout<W: Write>(
    content: &Content,
    images: &[(String, ImageRecord)],
    tar: &mut tar::Builder<W>,
) -> CriResult<()> {
    let failed = |error: io::Error| CriError::internal(format!("writing the archive: {error}"));
    let mut written = std::collections::BTreeSet::new();
    let mut entries = Vec::new();
    append(tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).map_err(failed)?;
    for (name, record) in images {
        let manifest = manifest_of(content, record)?;
        let named = parse(name).ok().filter(|_| !name.starts_with("sha256:"));
        let mut entry = json!({
            "mediaType": manifest.media_type, "digest": manifest.digest.to_string(), "size": manifest.bytes.len(),
        });
        if let Some(name) = named {
            entry["annotations"] = json!({ "io.containerd.image.name": name.to_string() });
        }
        entries.push(entry);
        if written.insert(manifest.digest.clone()) {
            append(tar, &format!("blobs/sha256/{}", manifest.digest.hex()), &manifest.bytes).map_err(failed)?;
        }
        for digest in record.layers.iter().chain([&record.id]) {
            if written.insert(digest.clone()) {
                let mut file = content.open_blob(digest)?;
                tar.append_file(format!("blobs/sha256/{}", digest.hex()), &mut file).map_err(failed)?;
            }
        }
    }
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries,
    });
    append(tar, "index.json", index.to_string().as_bytes()).map_err(failed)?;
    tar.finish().map_err(failed)
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, path, bytes)
}
