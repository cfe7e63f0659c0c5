//! Putting a Pod's volumes in place and taking them away. Blocking file work: run it off the executor's threads.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, HostPathVolumeSource, Pod, Volume};

use super::claims::{self, Source};
use super::empty::{self, Medium};
use super::payload::{File, Tokens, payload};
use super::{Mounter, Plugin, atomic, locations, owner};
use crate::config::{NodeFacts, Objects, container::sub_path, uid};
use crate::pod::spec::spec;

/// Makes the Pod's folders and volumes, or brings their generated files up to date. May be repeated.
/// `version` names this set of generated files, uniquely.
///
/// # Errors
/// The first volume that cannot be set up, in upstream's words.
pub fn set_up(
    pod: &Pod,
    objects: &Objects,
    tokens: &Tokens,
    node: &NodeFacts,
    mounter: &dyn Mounter,
    version: &str,
) -> Result<(), String> {
    let folder = node.paths.pod(uid(pod));
    make_folder(&folder, 0o750).map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    for volume in spec(pod).volumes.iter().flatten() {
        set_up_one(pod, volume, objects, tokens, node, mounter, version)
            .map_err(|why| format!("MountVolume.SetUp failed for volume {:?} : {why}", volume.name))?;
    }
    Ok(())
}

fn set_up_one(
    pod: &Pod,
    volume: &Volume,
    objects: &Objects,
    tokens: &Tokens,
    node: &NodeFacts,
    mounter: &dyn Mounter,
    version: &str,
) -> Result<(), String> {
    let plugin = Plugin::of(volume).ok_or("no volume plugin matched")?;
    let folder = node.paths.volume(uid(pod), plugin.folder(), &volume.name);
    let group = owner::group(pod).map(|(group, _)| group);
    match plugin {
        // The runtime and the drivers mount these.
        Plugin::Image | Plugin::Csi => Ok(()),
        Plugin::Nfs => volume.nfs.as_ref().map_or(Ok(()), |nfs| {
            let source = format!("{}:{}", nfs.server, nfs.path);
            let read_only = nfs.read_only.filter(|read_only| *read_only).map(|_| "ro".to_owned());
            nfs_mount(&folder, &source, &read_only.into_iter().collect::<Vec<_>>(), mounter)
        }),
        Plugin::Claim => set_up_claim(pod, volume, objects, node, mounter),
        Plugin::HostPath => volume.host_path.as_ref().map_or(Ok(()), check_host_path),
        Plugin::EmptyDir => {
            let medium = empty::medium(pod, volume.empty_dir.as_ref(), node)?;
            empty_dir(&folder, medium, group, mounter).map_err(|error| error.to_string())
        }
        _ => {
            let files = payload(pod, volume, objects, tokens, node)?.unwrap_or_default();
            let secret = matches!(plugin, Plugin::Secret | Plugin::Projected);
            generated(&folder, &files, secret, group, mounter, version).map_err(|error| error.to_string())
        }
    }
}

/// Puts the volume that a claim is bound to in place.
fn set_up_claim(
    pod: &Pod,
    volume: &Volume,
    objects: &Objects,
    node: &NodeFacts,
    mounter: &dyn Mounter,
) -> Result<(), String> {
    let bound = claims::bound(pod, volume, objects)?;
    let target = bound.path(pod, &node.paths);
    match &bound.source {
        Source::HostPath { path, kind } => {
            let path = path.to_string_lossy().into_owned();
            check_host_path(&HostPathVolumeSource { path, type_: kind.clone() })
        }
        Source::Local { path } if bound.is_block => attach(path, &target, mounter),
        Source::Local { path } => {
            if !path.exists() {
                return Err(format!("path {:?} does not exist", path.display().to_string()));
            }
            local(path, &target, bound.read_only, mounter).map_err(|error| error.to_string())?;
            match owner::group(pod).filter(|_| !bound.read_only) {
                Some((group, only_on_mismatch)) => {
                    owner::apply(&target, group, only_on_mismatch).map_err(|error| error.to_string())
                }
                None => Ok(()),
            }
        }
        Source::Nfs { server, path, read_only, options } => {
            let mut options = options.clone();
            options.extend((*read_only || bound.read_only).then(|| "ro".to_owned()));
            nfs_mount(&target, &format!("{server}:{path}"), &options, mounter)
        }
        Source::Csi(_) => Ok(()),
    }
}

fn local(path: &Path, target: &Path, read_only: bool, mounter: &dyn Mounter) -> io::Result<()> {
    if target.exists() && is_bound(path, target)? {
        return Ok(());
    }
    make_folder(target, 0o750)?;
    mounter.bind(path, target, read_only)
}

/// Whether the same folder is at both places.
fn is_bound(path: &Path, target: &Path) -> io::Result<bool> {
    let (a, b) = (fs::metadata(path)?, fs::metadata(target)?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

fn nfs_mount(target: &Path, source: &str, options: &[String], mounter: &dyn Mounter) -> Result<(), String> {
    let mounted = target.exists() && is_mount_point(target).map_err(|error| error.to_string())?;
    if mounted {
        return Ok(());
    }
    make_folder(target, 0o750).map_err(|error| error.to_string())?;
    mounter.mount_nfs(source, target, options).map_err(|error| format!("mount failed: {error}"))
}

/// Makes the link by which a block volume's device is found; a plain file becomes a device first.
fn attach(path: &Path, link: &Path, mounter: &dyn Mounter) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    let kind = fs::metadata(path).map_err(text)?.file_type();
    let device = match (kind.is_block_device(), kind.is_file()) {
        (true, _) => path.to_owned(),
        (_, true) => mounter.attach_loop(path).map_err(text)?,
        _ => return Err(format!("{} is neither a block device nor a file", path.display())),
    };
    if fs::read_link(link).is_ok_and(|old| old == device) {
        return Ok(());
    }
    if let Some(folder) = link.parent() {
        make_folder(folder, 0o750).map_err(text)?;
    }
    match fs::remove_file(link) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.to_string()),
        _ => {}
    }
    std::os::unix::fs::symlink(&device, link).map_err(text)
}

/// Lets go of the devices that were made for block volumes.
fn detach_all(folder: &Path, mounter: &dyn Mounter) -> io::Result<()> {
    for plugin in folders(folder)? {
        for entry in fs::read_dir(plugin)? {
            let device = fs::read_link(entry?.path())?;
            // Others were there before.
            if device.to_string_lossy().starts_with("/dev/loop") {
                mounter.detach_loop(&device)?;
            }
        }
    }
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn empty_dir(folder: &Path, medium: Medium, group: Option<u32>, mounter: &dyn Mounter) -> io::Result<()> {
    if folder.exists() && (medium == Medium::Disk || is_mount_point(folder)?) {
        return Ok(());
    }
    make_folder(folder, 0o777)?;
    match medium {
        Medium::Disk => {}
        Medium::Memory { size_bytes } => mounter.mount_tmpfs(folder, size_bytes)?,
        Medium::HugePages { page_bytes } => mounter.mount_huge_pages(folder, page_bytes)?,
    }
    let mut mode = 0o777;
    if let Some(group) = group {
        std::os::unix::fs::chown(folder, None, Some(group))?;
        // New files in it belong to the group as well.
        mode |= 0o2000;
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
}

fn generated(
    folder: &Path,
    files: &[File],
    secret: bool,
    group: Option<u32>,
    mounter: &dyn Mounter,
    version: &str,
) -> io::Result<()> {
    if !folder.exists() || (secret && !is_mount_point(folder)?) {
        make_folder(folder, 0o777)?;
        if secret {
            // What is secret never touches the disk.
            mounter.mount_tmpfs(folder, None)?;
        }
        fs::set_permissions(folder, fs::Permissions::from_mode(0o777))?;
        if let Some(group) = group {
            std::os::unix::fs::chown(folder, None, Some(group))?;
            fs::set_permissions(folder, fs::Permissions::from_mode(0o2777))?;
        }
    }
    atomic::write(folder, files, group, version).map(drop)
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Whether another file system begins at `path`.
fn is_mount_point(path: &Path) -> io::Result<bool> {
    let Some(parent) = path.parent() else { return Ok(true) };
    Ok(fs::symlink_metadata(path)?.dev() != fs::symlink_metadata(parent)?.dev())
}

fn check_host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or("");
    let failed = |what: &str| Err(format!("hostPath type check failed: {} is not a {what}", source.path));
    let meta = fs::metadata(path);
    let is = |test: fn(&fs::Metadata) -> bool| meta.as_ref().is_ok_and(test);
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if meta.is_err() => make_folder(path, 0o755).map_err(|error| error.to_string()),
        "FileOrCreate" if meta.is_err() => {
            fs::write(path, []).map_err(|error| error.to_string())?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(|error| error.to_string())
        }
        "Directory" | "DirectoryOrCreate" if !is(fs::Metadata::is_dir) => failed("directory"),
        "File" | "FileOrCreate" if !is(fs::Metadata::is_file) => failed("file"),
        "Socket" if !is(|meta| meta.file_type().is_socket()) => failed("socket file"),
        "CharDevice" if !is(|meta| meta.file_type().is_char_device()) => failed("character device"),
        "BlockDevice" if !is(|meta| meta.file_type().is_block_device()) => failed("block device"),
        _ => Ok(()),
    }
}

/// Puts the parts of volumes that a container's `subPath`s name in places of their own, and refuses those that lead out of
/// their volume by links. Returns the places by the mounts' numbers.
///
/// # Errors
/// A path leads out of its volume or cannot be made.
pub fn prepare_sub_paths(
    pod: &Pod,
    container: &Container,
    variables: &BTreeMap<String, String>,
    objects: &Objects,
    node: &NodeFacts,
    mounter: &dyn Mounter,
) -> Result<Vec<(usize, PathBuf)>, String> {
    let volumes = locations(pod, &node.paths, objects);
    let places = node.paths.pod(uid(pod)).join(SUB_PATHS);
    let mut found = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let Some(sub_path) = sub_path(mount, variables).map_err(|error| error.0)? else { continue };
        let Some(volume) = volumes.get(&mount.name) else { continue };
        let why = |error: io::Error| {
            format!(
                "failed to prepare subPath for volumeMount {:?} of container {:?}: {error}",
                mount.name, container.name
            )
        };
        let target = places.join(&mount.name).join(&container.name).join(index.to_string());
        // The container before this one may have had another part.
        while target.symlink_metadata().is_ok() && mounter.unmount(&target).map_err(why)? {}
        found.push((index, mounter.bind_below(volume, &sub_path, &target).map_err(why)?));
    }
    Ok(found)
}

/// Where in a Pod's folder the parts of volumes are.
const SUB_PATHS: &str = "volume-subpaths";

/// Takes the parts of volumes away.
fn tear_down_sub_paths(places: &Path, mounter: &dyn Mounter) -> io::Result<()> {
    for volume in folders(places)? {
        for container in folders(&volume)? {
            for entry in fs::read_dir(container)? {
                let path = entry?.path();
                while mounter.unmount(&path)? {}
            }
        }
    }
    match fs::remove_dir_all(places) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Unmounts and removes the volumes of a Pod. May be repeated. Host paths are only named by the Pod and stay.
///
/// # Errors
/// A mount cannot be taken away or a file cannot be removed.
pub fn tear_down(pod_folder: &Path, mounter: &dyn Mounter) -> io::Result<()> {
    // What is mounted from a volume goes before the volume.
    tear_down_sub_paths(&pod_folder.join(SUB_PATHS), mounter)?;
    detach_all(&pod_folder.join("volumeDevices"), mounter)?;
    let volumes = pod_folder.join("volumes");
    for folder in folders(&volumes)?.iter().map(|plugin| folders(plugin)).collect::<io::Result<Vec<_>>>()?.concat() {
        // Several mounts can lie on one another where a set-up was cut short. The kernel is asked itself, each time: the
        // device does not tell of a mount of the same file system, and its list is as long as the node has mounts.
        while mounter.unmount(&folder)? {}
        if folder.parent().is_some_and(|plugin| plugin.ends_with(crate::csi::FOLDER)) {
            // What a driver has mounted and left: its data must not be taken for the volume's folder.
            while mounter.unmount(&folder.join("mount"))? {}
        }
    }
    match fs::remove_dir_all(&volumes) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(path) {
        Ok(entries) => {
            let mut found = Vec::new();
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    found.push(entry.path());
                }
            }
            Ok(found)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(vec![]),
        Err(error) => Err(error),
    }
}
