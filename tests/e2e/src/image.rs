//! Test images: a busybox root with the test program in it, as an OCI layout.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

/// An image in memory: its blobs by digest, and the digest of its manifest.
pub struct Image {
    /// Blobs by `sha256:...`.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// The manifest's digest.
    pub manifest: String,
    /// The config's and layers' digests, in the order in which a registry wants them.
    pub parts: Vec<String>,
}

/// The digest of a blob, `sha256:...`.
pub fn digest_of(bytes: &[u8]) -> String {
    let hex: String = digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The image that most tests run: busybox, `/hello` and `/version`.
///
/// # Errors
/// One of the programs cannot be read.
pub fn hello(version: &str, hello: &Path, busybox: &Path) -> io::Result<Image> {
    let base = base(busybox)?;
    let program = layer(&|tar| {
        add(tar, "hello", tar::EntryType::Regular, 0o755, &std::fs::read(hello)?)?;
        add(tar, "version", tar::EntryType::Regular, 0o644, version.as_bytes())
    })?;
    Ok(assemble(vec![base, program], &["/hello"]))
}

/// An image that waits for ever.
///
/// # Errors
/// The program cannot be read.
pub fn pause(busybox: &Path) -> io::Result<Image> {
    Ok(assemble(vec![base(busybox)?], &["sleep", "infinity"]))
}

/// An image of one layer that was packed already.
///
/// # Errors
/// A file cannot be read.
pub fn of_layer(plain: &Path, packed: &Path, packing: &str) -> io::Result<Image> {
    let diff_id = digest_of(&std::fs::read(plain)?);
    let layer = std::fs::read(packed)?;
    Ok(put_together(vec![(layer, diff_id)], &format!("application/vnd.oci.image.layer.v1.tar+{packing}"), &["/none"]))
}

/// A busybox root.
fn base(busybox: &Path) -> io::Result<Vec<u8>> {
    layer(&|tar| {
        for folder in ["bin", "etc", "tmp", "proc", "sys", "dev", "root", "var"] {
            add(tar, folder, tar::EntryType::Directory, if folder == "tmp" { 0o1777 } else { 0o755 }, &[])?;
        }
        add(tar, "bin/busybox", tar::EntryType::Regular, 0o755, &std::fs::read(busybox)?)?;
        for applet in applets(busybox)?.lines().filter(|applet| *applet != "busybox") {
            link(tar, &format!("bin/{applet}"), "busybox")?;
        }
        add(
            tar,
            "etc/passwd",
            tar::EntryType::Regular,
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n",
        )?;
        add(tar, "etc/group", tar::EntryType::Regular, 0o644, b"root:x:0:\nweb:x:1000:\n")
    })
}

/// What busybox can be called.
fn applets(busybox: &Path) -> io::Result<String> {
    let listed = std::process::Command::new(busybox).arg("--list").output()?;
    String::from_utf8(listed.stdout).map_err(io::Error::other)
}

fn layer(fill: &dyn Fn(&mut tar::Builder<Vec<u8>>) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    fill(&mut tar)?;
    tar.into_inner()
}

fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)
}

fn link(tar: &mut tar::Builder<Vec<u8>>, path: &str, to: &str) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_mode(0o777);
    header.set_size(0);
    tar.append_link(&mut header, path, to)
}

fn assemble(layers: Vec<Vec<u8>>, command: &[&str]) -> Image {
    let layers = layers.into_iter().map(|layer| {
        let diff_id = digest_of(&layer);
        (layer, diff_id)
    });
    put_together(layers.collect(), "application/vnd.oci.image.layer.v1.tar", command)
}

/// An image of layers with the digests of what is packed in them.
fn put_together(layers: Vec<(Vec<u8>, String)>, layer_media: &str, command: &[&str]) -> Image {
    let mut blobs = BTreeMap::new();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let (layers, diff_ids): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
    let config = json!({
        "architecture": architecture, "os": "linux",
        "config": {"Cmd": command, "Env": ["PATH=/bin"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let descriptor =
        |media: &str, blob: &[u8]| json!({"mediaType": media, "digest": digest_of(blob), "size": blob.len()});
    let manifest = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers.iter().map(|layer| descriptor(layer_media, layer)).collect::<Vec<Value>>(),
    });
    let manifest = manifest.to_string().into_bytes();
    let manifest_digest = digest_of(&manifest);
    let parts = std::iter::once(&config).chain(&layers).map(|blob| digest_of(blob)).collect();
    for blob in layers.into_iter().chain([config, manifest]) {
        blobs.insert(digest_of(&blob), blob);
    }
    Image { blobs, manifest: manifest_digest, parts }
}

impl Image {
    /// Writes the image as a tar of the OCI layout, called `name`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, name: &str, file: &Path) -> io::Result<()> {
        let manifest = &self.blobs[&self.manifest];
        let index = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": self.manifest, "size": manifest.len(),
                "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
            }],
        });
        let mut tar = tar::Builder::new(Vec::new());
        add(&mut tar, "oci-layout", tar::EntryType::Regular, 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        add(&mut tar, "index.json", tar::EntryType::Regular, 0o644, index.to_string().as_bytes())?;
        for (digest, blob) in &self.blobs {
            add(&mut tar, &format!("blobs/{}", digest.replace(':', "/")), tar::EntryType::Regular, 0o644, blob)?;
        }
        std::fs::write(file, tar.into_inner()?)
    }
}
