//! Giving a volume's files to the group that a Pod names.
//! See <https://kubernetes.io/docs/tasks/configure-pod-container/security-context/>.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;

use crate::pod::spec::spec;

/// What the group gets on files, and on folders in addition: to enter them, and that new files belong to it.
const FILES: u32 = 0o660;
const FOLDERS: u32 = 0o2110;

/// The group of a Pod's volumes, and whether a volume whose top is right already is left alone.
pub fn group(pod: &Pod) -> Option<(u32, bool)> {
    let context = spec(pod).security_context.as_ref()?;
    let group = u32::try_from(context.fs_group?).ok()?;
    Some((group, context.fs_group_change_policy.as_deref() == Some("OnRootMismatch")))
}

/// Gives all below `root` to the group.
///
/// # Errors
/// A file cannot be changed.
pub fn apply(root: &Path, group: u32, only_on_mismatch: bool) -> io::Result<()> {
    let meta = fs::symlink_metadata(root)?;
    let wanted = FILES | FOLDERS;
    if only_on_mismatch && meta.gid() == group && meta.mode() & wanted == wanted {
        return Ok(());
    }
    // The top comes last: a change that was cut short is begun anew.
    let mut folders = vec![root.to_path_buf()];
    let mut at = 0;
    while at < folders.len() {
        for entry in fs::read_dir(&folders[at])? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else {
                give(&entry.path(), group, if kind.is_symlink() { None } else { Some(FILES) })?;
            }
        }
        at += 1;
    }
    folders.iter().rev().try_for_each(|folder| give(folder, group, Some(wanted)))
}

fn give(path: &Path, group: u32, bits: Option<u32>) -> io::Result<()> {
    lchown(path, None, Some(group))?;
    let Some(bits) = bits else { return Ok(()) };
    let mode = fs::symlink_metadata(path)?.mode();
    fs::set_permissions(path, fs::Permissions::from_mode((mode | bits) & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_folders_go_to_the_group() {
        let folder = std::env::temp_dir().join(format!("skiff-group-{}", skiff_base::ids::Ids::random().suffix(10)));
        fs::create_dir_all(folder.join("sub")).expect("folders for the test");
        let file = folder.join("sub/file");
        fs::write(&file, "x").expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        apply(&folder, 4321, false).expect("the test may change owners");
        let of = |path: &Path| fs::metadata(path).map(|meta| (meta.gid(), meta.mode() & 0o7777)).expect("it is there");
        assert_eq!(of(&file), (4321, 0o660));
        assert_eq!(of(&folder.join("sub")), (4321, 0o2775));
        lchown(&file, None, Some(0)).expect("the test may change owners");
        apply(&folder, 4321, true).expect("nothing is to be done");
        assert_eq!(of(&file).0, 0);
        fs::remove_dir_all(&folder).expect("the test's own folder");
    }
}
