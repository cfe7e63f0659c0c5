//! Writing a set of files so that readers see either all of the old ones or all of the new ones: each visible name is a link
//! through `..data`, and `..data` is a link that is swapped by a rename. Upstream's layout, since programs rely on it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::payload::File;

const DATA: &str = "..data";
const DATA_NEW: &str = "..data_tmp";

/// Makes the folder show exactly `files`; returns whether anything had to change. `version` names the set, uniquely.
///
/// # Errors
/// A file operation failed; the old files stay visible.
pub(super) fn write(folder: &Path, files: &[File], group: Option<u32>, version: &str) -> io::Result<bool> {
    for file in files {
        check_path(&file.path)?;
    }
    let current = fs::read_link(folder.join(DATA)).ok().map(|name| folder.join(name));
    if current.as_deref().is_some_and(|current| is_same(current, files)) {
        return Ok(false);
    }
    let fresh = folder.join(format!("..{version}"));
    fs::DirBuilder::new().mode(0o755).create(&fresh)?;
    for file in files {
        write_file(&fresh, file, group)?;
    }
    let staged = folder.join(DATA_NEW);
    remove_if_there(&staged)?;
    symlink(fresh.file_name().unwrap_or_default(), &staged)?;
    fs::rename(&staged, folder.join(DATA))?;
    link_names(folder, files)?;
    if let Some(old) = current {
        fs::remove_dir_all(old)?;
    }
    Ok(true)
}

/// A payload's path stays below its folder and does not use the names that belong to the mechanism.
fn check_path(path: &str) -> io::Result<()> {
    let inside = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !inside || path.starts_with("..") {
        return Err(io::Error::new(ErrorKind::InvalidInput, format!("path {path:?} may not leave its volume")));
    }
    Ok(())
}

fn is_same(current: &Path, files: &[File]) -> bool {
    let mut found = BTreeMap::new();
    if collect(current, current, &mut found).is_err() || found.len() != files.len() {
        return false;
    }
    files.iter().all(|file| {
        let path = current.join(&file.path);
        found.contains_key(&PathBuf::from(&file.path)) && fs::read(path).is_ok_and(|data| data == file.data)
    })
}

fn collect(root: &Path, folder: &Path, found: &mut BTreeMap<PathBuf, u32>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            collect(root, &entry.path(), found)?;
        } else if let Ok(path) = entry.path().strip_prefix(root) {
            found.insert(path.to_owned(), meta.mode());
        }
    }
    Ok(())
}

fn write_file(root: &Path, file: &File, group: Option<u32>) -> io::Result<()> {
    let path = root.join(&file.path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut open = fs::OpenOptions::new();
    let mut written = open.write(true).create_new(true).mode(0o600).open(&path)?;
    io::Write::write_all(&mut written, &file.data)?;
    if file.owner.is_some() || group.is_some() {
        std::os::unix::fs::fchown(&written, file.owner, group)?;
    }
    // A group that owns the volume may read its files.
    let mode = if group.is_some() { file.mode | 0o440 } else { file.mode };
    written.set_permissions(fs::Permissions::from_mode(mode))
}

/// The first part of each path is a link in the folder; links of files that are gone go.
fn link_names(folder: &Path, files: &[File]) -> io::Result<()> {
    let tops: BTreeSet<&str> = files.iter().filter_map(|file| file.path.split('/').next()).collect();
    for top in &tops {
        let link = folder.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(top), &link)?;
        }
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if !name.starts_with("..") && !tops.contains(name) && entry.file_type()?.is_symlink() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
