//! Unpacked layers by chain id, each a folder in overlayfs' form. Blocking; callers bring the thread.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use skiff_cri::{CriError, CriResult};

use super::apply::{self, Usage};
use super::content::{Content, disk_error, names};
use super::digest::Digest;
use super::pipeline;

/// Layers are decompressed in pieces of this size.
const BUFFER_BYTES: usize = 128 * 1024;

/// The folder of the snapshots.
#[derive(Debug)]
pub(super) struct Snapshots {
    root: PathBuf,
}

impl Snapshots {
    pub(super) fn open(root: &Path) -> CriResult<Self> {
        let root = root.join("snapshots");
        std::fs::create_dir_all(&root).map_err(|error| disk_error("creating", &root, &error))?;
        Ok(Self { root })
    }

    pub(super) fn path(&self, chain: &Digest) -> PathBuf {
        self.root.join(chain.hex())
    }

    pub(super) fn has(&self, chain: &Digest) -> bool {
        self.path(chain).is_dir()
    }

    /// Unpacks `layer` as `chain` upon `below` (the lowest first), and verifies that it is what `diff_id` says.
    pub(super) fn unpack(
        &self,
        content: &Content,
        layer: &Digest,
        diff_id: &Digest,
        chain: &Digest,
        below: &[Digest],
    ) -> CriResult<Usage> {
        let staging = content.staging_path();
        std::fs::create_dir(&staging).map_err(|error| disk_error("creating", &staging, &error))?;
        let unpacked = self.unpack_into(content, layer, diff_id, below, &staging).and_then(|usage| {
            let place = self.path(chain);
            match std::fs::rename(&staging, &place) {
                // A pull that was given up unpacked the same while this one did.
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => remove_tree(&staging)?,
                done => done.map_err(|error| disk_error("renaming", &staging, &error))?,
            }
            Ok(usage)
        });
        if unpacked.is_err() {
            remove_tree(&staging)?;
        }
        unpacked
    }

    fn unpack_into(
        &self,
        content: &Content,
        layer: &Digest,
        diff_id: &Digest,
        below: &[Digest],
        staging: &Path,
    ) -> CriResult<Usage> {
        let failed = |error: &io::Error| match error.kind() {
            io::ErrorKind::StorageFull => disk_error("unpacking into", staging, error),
            _ => CriError::internal(format!("failed to extract layer {diff_id}: {error}")),
        };
        set_mode(staging).map_err(|error| disk_error("opening", staging, &error))?;
        let root = open_folder(staging).map_err(|error| disk_error("opening", staging, &error))?;
        let parents = below.iter().rev().map(|chain| open_folder(&self.path(chain))).collect::<io::Result<Vec<_>>>();
        let parents = parents.map_err(|error| failed(&error))?;
        let tar = decompress(content.open_blob(layer)?).map_err(|error| failed(&error))?;
        let unpacked = pipeline::hashed(tar, |chunks| apply::apply(chunks, root, &parents));
        let (usage, actual) = unpacked.map_err(|error| failed(&error))?;
        if actual != *diff_id {
            return Err(CriError::failed_precondition(format!(
                "wrong diff id {actual} calculated on extraction, expected {diff_id}"
            )));
        }
        Ok(usage)
    }

    /// Moves a snapshot away, so that it is gone at once, and removes it.
    pub(super) fn remove(&self, content: &Content, name: &str) -> CriResult<()> {
        let (place, away) = (self.root.join(name), content.staging_path());
        match std::fs::rename(&place, &away) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => done.map_err(|error| disk_error("renaming", &place, &error))?,
        }
        remove_tree(&away)
    }

    /// The names of all that is there.
    pub(super) fn names(&self) -> CriResult<Vec<String>> {
        names(&self.root)
    }

    /// Returns when all that was unpacked would survive a power cut.
    pub(super) fn sync(&self) -> CriResult<()> {
        let sync = || -> io::Result<()> { Ok(rustix::fs::syncfs(open_folder(&self.root)?)?) };
        sync().map_err(|error| disk_error("syncing", &self.root, &error))
    }
}

fn remove_tree(path: &Path) -> CriResult<()> {
    std::fs::remove_dir_all(path).map_err(|error| disk_error("removing", path, &error))
}

fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// A root that its layer does not describe can be entered by all.
fn set_mode(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

/// The tar of a layer; how it is compressed shows in its first bytes, whatever its media type says.
pub(super) fn decompress(file: File) -> io::Result<Box<dyn Read + Send>> {
    let mut start = [0; 6];
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    let length = peek(&mut reader, &mut start)?;
    Ok(match &start[..length] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(reader)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(reader)?),
        [b'B', b'Z', b'h', ..] => return Err(unsupported("bzip2")),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(unsupported("xz")),
        _ => Box::new(reader),
    })
}

fn unsupported(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, format!("{name} compression is not supported, only gzip and zstd are"))
}

fn peek(reader: &mut BufReader<File>, start: &mut [u8]) -> io::Result<usize> {
    use std::io::BufRead;
    let filled = reader.fill_buf()?;
    let length = filled.len().min(start.len());
    start[..length].copy_from_slice(&filled[..length]);
    Ok(length)
}
