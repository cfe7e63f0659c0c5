//! Unpacks one layer into a folder, in overlayfs' form: removed names become devices 0/0, replaced folders are marked
//! opaque. Every path is resolved by the kernel inside the folder, so that no name and no link leads out of it.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

/// A name that starts with this says that the rest of it is gone.
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// Says that nothing of the folder below shows through.
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names of the union file system that wrote the first layers; they mean nothing here.
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
const PAX_XATTR: &str = "SCHILY.xattr.";
/// Attributes that would make overlayfs look elsewhere; an image must not bring them.
const OVERLAY_XATTRS: [&str; 2] = ["trusted.overlay.", "user.overlay."];
/// The mode of a folder that no layer describes.
const DEFAULT_FOLDER_MODE: u32 = 0o755;

/// Files are written in pieces of this size.
const COPY_BYTES: usize = 128 * 1024;

/// What a layer takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Usage {
    /// Bytes of files.
    pub bytes: u64,
    /// Files, folders and the rest.
    pub inodes: u64,
}

/// Unpacks the tar `reader` into `root`; `parents` are the layers below, the nearest first. Reads to the end of it.
pub(super) fn apply(reader: impl Read, root: OwnedFd, parents: &[OwnedFd]) -> io::Result<Usage> {
    let mut applier = Applier {
        root,
        parents,
        folder_times: Vec::new(),
        usage: Usage::default(),
        last_parent: None,
        buffer: vec![0; COPY_BYTES],
    };
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let named = |error: io::Error, entry: &[u8]| {
            io::Error::new(error.kind(), format!("{:?}: {error}", String::from_utf8_lossy(entry)))
        };
        let path = entry.path_bytes().into_owned();
        applier.entry(&mut entry, &path).map_err(|error| named(error, &path))?;
    }
    applier.set_folder_times()?;
    // The digest is of all bytes, the padding too.
    io::copy(&mut archive.into_inner(), &mut io::sink())?;
    Ok(applier.usage)
}

/// What an entry says about its file, with the extended headers applied.
struct Metadata {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    time: Timespec,
    xattrs: Vec<(String, Vec<u8>)>,
}

struct Applier<'a> {
    root: OwnedFd,
    parents: &'a [OwnedFd],
    /// Set at the end, because writing into a folder changes its time.
    folder_times: Vec<(PathBuf, Timespec)>,
    usage: Usage,
    /// The folder of the last entry, which most often is that of the next.
    last_parent: Option<(PathBuf, OwnedFd)>,
    /// For the bytes of files on their way.
    buffer: Vec<u8>,
}

impl Applier<'_> {
    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &[u8]) -> io::Result<()> {
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        let path = clean(path);
        let metadata = metadata(entry)?;
        let Some(name) = path.file_name() else {
            self.usage.inodes += 1;
            self.folder_times.push((PathBuf::new(), metadata.time));
            return set_metadata(self.root.as_fd(), &metadata);
        };
        let parent = self.parent(path.parent().unwrap_or(Path::new("")))?;
        if name.as_bytes().starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(parent.as_fd(), name);
        }
        self.usage.inodes += 1;
        match kind {
            tar::EntryType::Directory => self.folder(parent.as_fd(), name, &path, &metadata),
            tar::EntryType::Link => self.hard_link(entry, parent.as_fd(), name, &path),
            _ => {
                self.make_way(parent.as_fd(), name)?;
                self.leaf(entry, kind, parent.as_fd(), name, &metadata)
            }
        }
    }

    /// Everything that holds no names and is no second name.
    fn leaf<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        kind: tar::EntryType,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        metadata: &Metadata,
    ) -> io::Result<()> {
        let node = |file_type: FileType, device: u64| fs::mknodat(parent, name, file_type, metadata.mode, device);
        match kind {
            tar::EntryType::Regular | tar::EntryType::Continuous | tar::EntryType::GNUSparse => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut file = std::fs::File::from(fs::openat(parent, name, flags, Mode::RUSR | Mode::WUSR)?);
                self.usage.bytes += copy(entry, &mut file, &mut self.buffer)?;
                set_metadata(file.as_fd(), metadata)?;
                return Ok(fs::futimens(&file, &times(metadata.time))?);
            }
            tar::EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| invalid("a symbolic link without a target"))?;
                fs::symlinkat(OsStr::from_bytes(&target), parent, name)?;
            }
            tar::EntryType::Char => node(FileType::CharacterDevice, device_number(entry.header())?)?,
            tar::EntryType::Block => node(FileType::BlockDevice, device_number(entry.header())?)?,
            tar::EntryType::Fifo => node(FileType::Fifo, 0)?,
            other => return Err(invalid(&format!("unknown type {:?}", other.as_byte() as char))),
        }
        fs::chownat(parent, name, Some(metadata.uid), Some(metadata.gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != tar::EntryType::Symlink {
            fs::chmodat(parent, name, metadata.mode, AtFlags::empty())?;
        }
        Ok(fs::utimensat(parent, name, &times(metadata.time), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn folder(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &Path, metadata: &Metadata) -> io::Result<()> {
        let present = lookup(parent, name)?;
        if present != Some(Present::Folder) {
            self.make_way(parent, name)?;
            fs::mkdirat(parent, name, Mode::RWXU)?;
        }
        let folder = open_folder(parent, name)?;
        if present == Some(Present::Whiteout) {
            // The layer removes the folder below and makes it anew.
            set_xattr(folder.as_fd(), OPAQUE_XATTR, b"y")?;
        }
        set_metadata(folder.as_fd(), metadata)?;
        self.folder_times.push((path.to_owned(), metadata.time));
        Ok(())
    }

    fn hard_link<R: Read>(
        &mut self,
        entry: &tar::Entry<'_, R>,
        parent: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
    ) -> io::Result<()> {
        let target = clean(&entry.link_name_bytes().ok_or_else(|| invalid("a hard link without a target"))?);
        let target_name = target.file_name().ok_or_else(|| invalid("a hard link to the root"))?;
        if target == path {
            return Ok(());
        }
        let target_parent = self.open(target.parent().unwrap_or(Path::new("")))?;
        fs::statat(&target_parent, target_name, AtFlags::SYMLINK_NOFOLLOW)?;
        self.make_way(parent, name)?;
        Ok(fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty())?)
    }

    fn whiteout(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        if name.as_bytes() == WHITEOUT_OPAQUE {
            let folder = open_folder(parent, OsStr::new("."))?;
            return set_xattr(folder.as_fd(), OPAQUE_XATTR, b"y");
        }
        if name.as_bytes().starts_with(WHITEOUT_META) {
            return Ok(());
        }
        let removed = OsStr::from_bytes(&name.as_bytes()[WHITEOUT_PREFIX.len()..]);
        if removed.is_empty() || removed == "." || removed == ".." {
            return Err(invalid("a whiteout of nothing"));
        }
        match lookup(parent, removed)? {
            None => Ok(fs::mknodat(parent, removed, FileType::CharacterDevice, Mode::empty(), 0)?),
            // The order within a layer does not matter: what it brings stays, and hides what is below.
            Some(Present::Folder) => set_xattr(open_folder(parent, removed)?.as_fd(), OPAQUE_XATTR, b"y"),
            Some(Present::Whiteout | Present::Other) => Ok(()),
        }
    }

    /// Removes what an earlier entry of the layer put there.
    fn make_way(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        match lookup(parent, name)? {
            None => Ok(()),
            Some(Present::Folder) => {
                self.last_parent = None;
                remove_folder(parent, name)
            }
            Some(_) => Ok(fs::unlinkat(parent, name, AtFlags::empty())?),
        }
    }

    /// A folder of the layer, with links followed inside the root.
    fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        open_in(self.root.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// The folder of an entry; made where the layer did not describe it.
    fn parent(&mut self, path: &Path) -> io::Result<OwnedFd> {
        if let Some((last, folder)) = &self.last_parent
            && last == path
        {
            return folder.try_clone();
        }
        let folder = match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.make_parents(path)?,
            folder => folder?,
        };
        self.last_parent = Some((path.to_owned(), folder.try_clone()?));
        Ok(folder)
    }

    fn make_parents(&mut self, path: &Path) -> io::Result<OwnedFd> {
        let mut folder = self.root.try_clone()?;
        let mut made = PathBuf::new();
        for name in path.components() {
            made.push(name);
            folder = match self.open(&made) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs::mkdirat(&folder, name.as_os_str(), Mode::from_raw_mode(DEFAULT_FOLDER_MODE))?;
                    let new = open_folder(folder.as_fd(), name.as_os_str())?;
                    self.usage.inodes += 1;
                    self.copy_from_below(&made, new.as_fd())?;
                    new
                }
                folder => folder?,
            };
        }
        Ok(folder)
    }

    /// A folder that the layer passes over in silence is as it was below.
    fn copy_from_below(&mut self, path: &Path, folder: BorrowedFd<'_>) -> io::Result<()> {
        for parent in self.parents {
            let below = match open_in(parent.as_fd(), path, OFlags::PATH | OFlags::NOFOLLOW) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                below => below?,
            };
            let stat = fs::fstat(&below)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                fs::fchown(folder, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
                fs::fchmod(folder, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
                let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0) };
                self.folder_times.push((path.to_owned(), time));
            }
            return Ok(());
        }
        Ok(())
    }

    fn set_folder_times(&mut self) -> io::Result<()> {
        for (path, time) in std::mem::take(&mut self.folder_times) {
            match open_in(self.root.as_fd(), &path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW) {
                Ok(folder) => fs::futimens(&folder, &times(time))?,
                // A later entry replaced the folder.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// All that is left of an entry into its file, in few calls.
fn copy(mut from: impl Read, to: &mut std::fs::File, buffer: &mut [u8]) -> io::Result<u64> {
    let mut total = 0;
    loop {
        match from.read(buffer) {
            Ok(0) => return Ok(total),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                total += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A path within the layer: no root, no `.`, and no `..` that leads above.
fn clean(path: &[u8]) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Present {
    Folder,
    Whiteout,
    Other,
}

fn lookup(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Present>> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(stat) => Ok(Some(match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Present::Folder,
            FileType::CharacterDevice if stat.st_rdev == 0 => Present::Whiteout,
            _ => Present::Other,
        })),
    }
}

fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// A folder by its one name, no link followed.
fn open_folder(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(fs::openat(parent, name, flags, Mode::empty())?)
}

fn remove_folder(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let folder = open_folder(parent, name)?;
    for entry in fs::Dir::read_from(&folder)? {
        let entry = entry?;
        let inner = OsStr::from_bytes(entry.file_name().to_bytes());
        if inner == "." || inner == ".." {
            continue;
        }
        match lookup(folder.as_fd(), inner)? {
            Some(Present::Folder) => remove_folder(folder.as_fd(), inner)?,
            _ => fs::unlinkat(&folder, inner, AtFlags::empty())?,
        }
    }
    Ok(fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

fn metadata<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Metadata> {
    let mut xattrs = Vec::new();
    let mut fraction = None;
    let header = entry.header();
    let fields = header.as_old();
    let mut uid = or_blank(&fields.uid, || header.uid())?;
    let mut gid = or_blank(&fields.gid, || header.gid())?;
    let mode = or_blank(&fields.mode, || header.mode())?;
    let mut seconds = i64::try_from(or_blank(&fields.mtime, || header.mtime())?).unwrap_or(0);
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            let extension = extension?;
            let (Ok(key), value) = (extension.key(), extension.value_bytes()) else { continue };
            let text = || std::str::from_utf8(value).map_err(|_| invalid(key));
            match key {
                "uid" => uid = text()?.parse().map_err(|_| invalid("uid"))?,
                "gid" => gid = text()?.parse().map_err(|_| invalid("gid"))?,
                "mtime" => (seconds, fraction) = parse_time(text()?).ok_or_else(|| invalid("mtime"))?,
                _ => xattrs.extend(key.strip_prefix(PAX_XATTR).map(|name| (name.to_owned(), value.to_vec()))),
            }
        }
    }
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| invalid("owner"));
    Ok(Metadata {
        uid: Uid::from_raw(id(uid)?),
        gid: Gid::from_raw(id(gid)?),
        mode: Mode::from_raw_mode(mode & 0o7777),
        time: Timespec { tv_sec: seconds, tv_nsec: fraction.unwrap_or(0) },
        xattrs,
    })
}

fn device_number(header: &tar::Header) -> io::Result<u64> {
    let number = |part: io::Result<Option<u32>>| part.map(Option::unwrap_or_default);
    Ok(fs::makedev(number(header.device_major())?, number(header.device_minor())?))
}

/// A field that was left blank is zero; some tools write no owner.
fn or_blank<T: Default>(field: &[u8], number: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    if field.iter().all(|c| matches!(c, 0 | b' ')) { Ok(T::default()) } else { number() }
}

/// Seconds with a fraction, as extended headers write a time.
fn parse_time(text: &str) -> Option<(i64, Option<i64>)> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let (seconds, nanoseconds): (i64, i64) = (seconds.parse().ok()?, digits.parse().ok()?);
    let negative = text.starts_with('-') && nanoseconds > 0;
    Some(if negative { (seconds - 1, Some(1_000_000_000 - nanoseconds)) } else { (seconds, Some(nanoseconds)) })
}

/// Owner, mode and attributes of an open file or folder, in the order in which none undoes another.
fn set_metadata(file: BorrowedFd<'_>, metadata: &Metadata) -> io::Result<()> {
    fs::fchown(file, Some(metadata.uid), Some(metadata.gid))?;
    fs::fchmod(file, metadata.mode)?;
    for (name, value) in &metadata.xattrs {
        if !OVERLAY_XATTRS.iter().any(|prefix| name.starts_with(prefix)) {
            set_optional_xattr(file, name, value)?;
        }
    }
    Ok(())
}

fn set_xattr(file: BorrowedFd<'_>, name: &str, value: &[u8]) -> io::Result<()> {
    Ok(fs::fsetxattr(file, name, value, XattrFlags::empty())?)
}

/// Attributes that the file system does not know are left out, as containerd does.
fn set_optional_xattr(file: BorrowedFd<'_>, name: &str, value: &[u8]) -> io::Result<()> {
    match fs::fsetxattr(file, name, value, XattrFlags::empty()) {
        Err(Errno::NOTSUP) => {
            tracing::debug!(name, "the file system does not take an extended attribute");
            Ok(())
        }
        done => Ok(done?),
    }
}

fn times(time: Timespec) -> Timestamps {
    Timestamps { last_access: time, last_modification: time }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("invalid entry: {what}"))
}
