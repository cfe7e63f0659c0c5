//! Content by digest: staged, verified, then moved to its place in one step. Blocking; callers bring the thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use skiff_cri::{CriError, CriResult};

use super::digest::{Digest, Hasher};

/// Manifests and configurations are read whole; containerd allows 8 MiB.
const DOCUMENT_BYTES: u64 = 8 * 1024 * 1024;

/// The folders of the content.
#[derive(Debug)]
pub(super) struct Content {
    blobs: PathBuf,
    staging: PathBuf,
    next: AtomicU64,
}

/// An error of the disk, with what was being done; a full one has a code of its own.
pub(super) fn disk_error(operation: &str, path: &Path, error: &io::Error) -> CriError {
    let message = format!("{operation} {}: {error}", path.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => CriError::resource_exhausted(message),
        _ => CriError::internal(message),
    }
}

impl Content {
    /// Makes the folders, and empties the one where unfinished work lies.
    pub(super) fn open(root: &Path) -> CriResult<Self> {
        let (blobs, staging) = (root.join("blobs/sha256"), root.join("staging"));
        match std::fs::remove_dir_all(&staging) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(disk_error("emptying", &staging, &error));
            }
            _ => {}
        }
        for folder in [&blobs, &staging] {
            std::fs::create_dir_all(folder).map_err(|error| disk_error("creating", folder, &error))?;
        }
        Ok(Self { blobs, staging, next: AtomicU64::new(0) })
    }

    /// Where content of this digest lies, if it is there.
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.hex())
    }

    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    /// A name of its own among unfinished work.
    pub(super) fn staging_path(&self) -> PathBuf {
        self.staging.join(self.next.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Begins a blob.
    pub(super) fn stage(&self) -> CriResult<Staged> {
        let path = self.staging_path();
        let file = OpenOptions::new().create_new(true).write(true).open(&path);
        let file = file.map_err(|error| disk_error("creating", &path, &error))?;
        Ok(Staged { file, path, hasher: Hasher::default(), size_bytes: 0 })
    }

    /// Puts a verified blob in its place.
    pub(super) fn commit(&self, staged: Staged, digest: &Digest) -> CriResult<()> {
        let (actual, path) = staged.finish()?;
        if actual != *digest {
            remove(&path);
            let message = format!("unexpected commit digest {actual}, expected {digest}: failed precondition");
            return Err(CriError::failed_precondition(message));
        }
        std::fs::rename(&path, self.path(digest)).map_err(|error| disk_error("renaming", &path, &error))
    }

    /// Stores a document that is in memory.
    pub(super) fn put(&self, content: &[u8]) -> CriResult<Digest> {
        let digest = Digest::of(content);
        if !self.has(&digest) {
            let mut staged = self.stage()?;
            staged.write(content)?;
            self.commit(staged, &digest)?;
        }
        Ok(digest)
    }

    /// Reads a document.
    pub(super) fn read(&self, digest: &Digest) -> CriResult<Vec<u8>> {
        let path = self.path(digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CriError::not_found(format!("content digest {digest}: not found")));
            }
            file => file.map_err(|error| disk_error("opening", &path, &error))?,
        };
        let mut content = Vec::new();
        file.take(DOCUMENT_BYTES + 1)
            .read_to_end(&mut content)
            .map_err(|error| disk_error("reading", &path, &error))?;
        if content.len() as u64 > DOCUMENT_BYTES {
            return Err(CriError::internal(format!("content {digest} is larger than {DOCUMENT_BYTES} bytes")));
        }
        Ok(content)
    }

    /// Opens a blob.
    pub(super) fn open_blob(&self, digest: &Digest) -> CriResult<File> {
        let path = self.path(digest);
        File::open(&path).map_err(|error| disk_error("opening", &path, &error))
    }

    /// Removes what `keep` does not hold.
    pub(super) fn sweep(&self, keep: impl Fn(&Digest) -> bool) -> CriResult<()> {
        for name in names(&self.blobs)? {
            let path = self.blobs.join(&name);
            if !format!("sha256:{name}").parse().is_ok_and(|digest| keep(&digest)) {
                std::fs::remove_file(&path).map_err(|error| disk_error("removing", &path, &error))?;
            }
        }
        Ok(())
    }
}

/// The names in a folder.
pub(super) fn names(folder: &Path) -> CriResult<Vec<String>> {
    let read = || -> io::Result<Vec<String>> {
        std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    };
    read().map_err(|error| disk_error("reading", folder, &error))
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "removing an unfinished blob");
    }
}

/// A blob that is being written. Dropped unfinished, its file stays until the next start empties the folder.
pub(super) struct Staged {
    file: File,
    path: PathBuf,
    hasher: Hasher,
    size_bytes: u64,
}

impl Staged {
    pub(super) fn write(&mut self, chunk: &[u8]) -> CriResult<()> {
        self.file.write_all(chunk).map_err(|error| disk_error("writing", &self.path, &error))?;
        self.hasher.update(chunk);
        self.size_bytes += chunk.len() as u64;
        Ok(())
    }

    /// Copies all of `reader`.
    pub(super) fn fill(&mut self, mut reader: impl Read) -> io::Result<u64> {
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(self.size_bytes),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.file.write_all(&buffer[..count])?;
            self.hasher.update(&buffer[..count]);
            self.size_bytes += count as u64;
        }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The digest of what was written, and where it lies.
    pub(super) fn finish(self) -> CriResult<(Digest, PathBuf)> {
        Ok((self.hasher.finish(), self.path))
    }

    /// Gives up.
    pub(super) fn discard(self) {
        remove(&self.path);
    }
}
