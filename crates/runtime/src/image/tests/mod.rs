//! The image store on images that the tests make themselves.

mod archives;
mod layers;
mod pulls;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use super::*;

/// A folder that is gone when the test is.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("skiff-image-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("removing {}: {error}", self.0.display());
        }
    }
}

pub(super) fn open(folder: &Folder) -> ImageStore {
    ImageStore::open(folder.path().join("images"), ImageStoreOptions::default()).unwrap()
}

/// A tar with files of these names and contents.
pub(super) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(super) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// An image and all its content.
pub(super) struct Sample {
    pub(super) config: Vec<u8>,
    /// As they are fetched, with the digests of their tars.
    pub(super) layers: Vec<(Vec<u8>, Digest)>,
    pub(super) manifest: Vec<u8>,
}

impl Sample {
    /// An image of these layers, given as tars; every second one is compressed.
    pub(super) fn new(name: &str, tars: &[Vec<u8>]) -> Self {
        let diffs: Vec<Digest> = tars.iter().map(|tar| Digest::of(tar)).collect();
        let pack = |(number, tar): (usize, &Vec<u8>)| match number % 3 {
            0 => gzip(tar),
            1 => tar.clone(),
            _ => zstd::encode_all(tar.as_slice(), 1).unwrap(),
        };
        let layers: Vec<_> = tars.iter().enumerate().map(pack).zip(diffs.clone()).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux", "author": name,
            "config": {
                "User": "1000:1000", "Env": ["PATH=/bin"], "Entrypoint": ["/hello"], "Cmd": ["--port=80"],
                "WorkingDir": "/work", "StopSignal": "SIGQUIT",
            },
            "rootfs": { "type": "layers", "diff_ids": diffs },
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": pointer("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|(blob, _)| pointer("application/vnd.oci.image.layer.v1.tar", blob)).collect::<Vec<_>>(),
        });
        Self { config, layers, manifest: manifest.to_string().into_bytes() }
    }

    pub(super) fn hello() -> Self {
        let tars = [
            tar_of(&[("bin/hello", b"hello"), ("etc/a", b"1")]),
            tar_of(&[("etc/a", b"2"), ("etc/.wh.b", b"")]),
            tar_of(&[("etc/c", b"3")]),
        ];
        Self::new("hello", &tars)
    }

    pub(super) fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    /// Everything that the image consists of.
    pub(super) fn blobs(&self) -> Vec<&[u8]> {
        let layers = self.layers.iter().map(|(blob, _)| blob.as_slice());
        layers.chain([self.config.as_slice(), self.manifest.as_slice()]).collect()
    }
}

/// A descriptor of some content.
pub(super) fn pointer(media_type: &str, content: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(content), "size": content.len() })
}

/// What a container would see of these files, by the lowest layer first.
pub(super) fn contents(rootfs: &Rootfs, path: &str) -> Vec<String> {
    let read = |layer: &PathBuf| std::fs::read_to_string(layer.join(path)).ok();
    rootfs.layers.iter().filter_map(read).collect()
}

#[tokio::test]
async fn removed_images_take_their_layers_along() {
    let folder = Folder::new("remove");
    let store = open(&folder);
    let shared = tar_of(&[("shared", b"1")]);
    let one = Sample::new("one", &[shared.clone(), tar_of(&[("one", b"1")])]);
    let two = Sample::new("two", &[shared, tar_of(&[("two", b"1")])]);
    for (sample, name) in [(&one, "a/one"), (&two, "a/two")] {
        let archive = folder.path().join("archive.tar");
        std::fs::write(&archive, archives::layout(sample, Some("x"))).unwrap();
        store.import(&archive, &[name.to_owned()]).await.unwrap();
    }
    let count = |folder_name: &str| std::fs::read_dir(store.root().join(folder_name)).unwrap().count();
    assert_eq!((count("snapshots"), count("blobs/sha256"), store.images().len()), (3, 7, 2));
    let kept = store.rootfs("a/one").unwrap();
    store.remove("a/one").await.unwrap();
    store.remove("a/one").await.unwrap();
    assert_eq!((count("snapshots"), store.images().len()), (3, 1), "its layers were handed out a moment ago");
    assert!(kept.layers.iter().all(|layer| layer.is_dir()));
    drop(store);
    let store = open(&folder);
    let layers: HashSet<PathBuf> = kept.layers.iter().cloned().collect();
    store.set_usage(Arc::new(move || layers.clone()));
    store.sweep().await.unwrap();
    let count = |folder_name: &str| std::fs::read_dir(store.root().join(folder_name)).unwrap().count();
    assert_eq!(count("snapshots"), 3, "a container stands on them");
    store.set_usage(Arc::new(HashSet::new));
    store.sweep().await.unwrap();
    assert_eq!((count("snapshots"), count("blobs/sha256"), count("staging")), (2, 4, 0));
    assert_eq!(store.find(&two.id().to_string()).unwrap().tags, ["docker.io/a/two:latest"]);
}

#[tokio::test]
async fn unfinished_work_is_gone_after_a_restart() {
    let folder = Folder::new("restart");
    let sample = Sample::hello();
    let archive = folder.path().join("archive.tar");
    std::fs::write(&archive, archives::layout(&sample, Some("docker.io/library/hello:v1"))).unwrap();
    let store = open(&folder);
    store.import(&archive, &[]).await.unwrap();
    let in_use = ImageStore::open(store.root(), ImageStoreOptions::default()).map(|_| ()).unwrap_err();
    assert!(in_use.message.ends_with("is in use by another process"), "{in_use}");
    let root = store.root().to_owned();
    assert_eq!(std::fs::metadata(&root).unwrap().permissions().mode() & 0o777, 0o700);
    drop(store);
    std::fs::create_dir_all(root.join("staging/7/half")).unwrap();
    std::fs::create_dir_all(root.join("snapshots").join("a".repeat(64))).unwrap();
    let store = open(&folder);
    assert_eq!(std::fs::read_dir(root.join("staging")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(root.join("snapshots")).unwrap().count(), 3);
    assert_eq!(store.rootfs("hello:v1").unwrap().layers.len(), 3);
    std::fs::remove_dir_all(&store.rootfs("hello:v1").unwrap().layers[1]).unwrap();
    drop(store);
    assert!(open(&folder).find("hello:v1").is_none(), "an image without all its layers is none");
    std::fs::write(root.join("index.json"), "{").unwrap();
    let corrupt = ImageStore::open(&root, ImageStoreOptions::default()).map(|_| ()).unwrap_err();
    assert!(corrupt.message.contains("index.json is corrupt"), "{corrupt}");
}

#[tokio::test]
async fn names_can_be_taken_away_and_images_pinned() {
    let folder = Folder::new("names");
    let store = open(&folder);
    let archive = folder.path().join("archive.tar");
    std::fs::write(&archive, archives::layout(&Sample::hello(), Some("quay.io/a/hello:v1"))).unwrap();
    store.import(&archive, &["hello:v2".to_owned()]).await.unwrap();
    store.set_pinned("hello:v2", true).await.unwrap();
    store.untag("quay.io/a/hello:v1").await.unwrap();
    let image = store.find("hello:v2").unwrap();
    assert_eq!((image.tags.len(), image.digests.len(), image.pinned), (1, 2, true));
    assert!(store.untag("quay.io/a/hello:v1").await.unwrap_err().is_not_found());
    assert!(store.set_pinned("other", true).await.unwrap_err().is_not_found());
    assert!(store.rootfs("other").unwrap_err().is_not_found());
}
