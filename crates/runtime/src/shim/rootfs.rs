//! The container's view of files: its root from the image's layers, and what is mounted into it.
//! Runs in the container's first process, in a mount namespace of its own, so that nothing of it is
//! ever seen, or left behind, on the host.
//!
//! Every place in the container is reached through a descriptor that was resolved inside the container's
//! root (`openat2` with `RESOLVE_IN_ROOT`), so that no symbolic link of an image can lead out of it, and
//! mounts are made detached and then moved onto that descriptor, so that nothing can change in between.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, StatxFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

use super::{Step, StepContext};
use crate::oci::{Bundle, Device, Mount, Rootfs};
use crate::sys::{self, MountAttr};

/// How many dangling links are followed when a mount point is made.
const MAX_LINKS: u32 = 8;
/// What `statfs` says of procfs.
const PROC_MAGIC: i64 = 0x9fa0;

/// Mounts root and volumes and makes the root this process's own.
pub fn enter(bundle: &Bundle, user_namespace: Option<BorrowedFd<'_>>) -> Step<()> {
    sys::unshare(libc::CLONE_NEWNS).step(|| "unshare mount namespace".into())?;
    let sources = bundle.spec.mounts.iter().map(bind_source).collect::<Step<Vec<_>>>()?;
    // From here on nothing that is mounted here is seen on the host. The sources were taken before, so
    // that a volume with bidirectional propagation still belongs to its group.
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", slave).step(|| "separate mounts from the host's".into())?;
    let owner = match (&bundle.spec.process.user_namespace, user_namespace) {
        (Some(maps), Some(namespace)) => {
            map_layers(bundle, namespace)?;
            maps.outside(0, 0).map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid)))
        }
        (None, _) => None,
        (Some(_), None) => return Err("the sandbox has no user namespace".to_owned()),
    };
    let root = mount_root(&bundle.rootfs, &bundle.spec.root.path, &bundle.spec.linux.mount_label)?;
    let null = detached_clone("/dev/null", false).step(|| "open /dev/null".into())?;
    for (mount, source) in bundle.spec.mounts.iter().zip(sources) {
        let what =
            || format!("mount {} at {}", if source.is_some() { &mount.source } else { &mount.kind }, mount.destination);
        if let Some(source) = source.as_ref().filter(|_| !mount.uid_mappings.is_empty()) {
            map_volume(bundle, mount, source.as_fd(), user_namespace)
                .map_err(|error| format!("{}: {error}", what()))?;
        }
        make_mount(root.as_fd(), bundle, mount, source.as_ref(), owner)
            .map_err(|error| format!("{}: {error}", what()))?;
    }
    if !bundle.spec.mounts.iter().any(|mount| mount.destination == "/dev" && mount.kind == "bind") {
        populate_dev(root.as_fd(), &bundle.spec.linux.devices, owner)?;
    }
    ensure(root.as_fd(), &bundle.spec.process.cwd, FileType::Directory, 0, owner)
        .map_err(|error| format!("make working directory {}: {error}", bundle.spec.process.cwd))?;
    for path in &bundle.spec.linux.readonly_paths {
        make_readonly(root.as_fd(), path).map_err(|error| format!("make {path} read-only: {error}"))?;
    }
    mask_paths(root.as_fd(), &bundle.spec.linux.masked_paths, null.as_fd())?;
    if bundle.spec.root.readonly {
        let attr = MountAttr { set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()), ..MountAttr::default() };
        sys::mount_setattr(root.as_fd(), false, &attr).step(|| "make the root read-only".into())?;
    }
    pivot(root.as_fd())
}

fn pivot(root: BorrowedFd<'_>) -> Step<()> {
    rustix::process::fchdir(root).step(|| "enter the root".into())?;
    match rustix::process::pivot_root(".", ".") {
        // A machine that runs from its initial ramdisk has a root that cannot be exchanged.
        Err(Errno::INVAL) => {
            let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            rustix::mount::move_mount(root, "", CWD, "/", flags).step(|| "move the root".into())?;
            rustix::process::chroot(".").step(|| "change the root".into())?;
        }
        result => {
            result.step(|| "pivot_root".into())?;
            rustix::mount::unmount(".", UnmountFlags::DETACH).step(|| "unmount the host's root".into())?;
        }
    }
    rustix::process::chdir("/").step(|| "enter the root".into())
}

fn mount_root(rootfs: &Rootfs, path: &str, label: &str) -> Step<OwnedFd> {
    match overlay(rootfs, label) {
        Ok(mount) => {
            rustix::mount::move_mount(mount.as_fd(), "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .step(|| format!("attach the root at {path}"))?;
        }
        // Kernels before 6.5 cannot take layers one by one.
        Err(Errno::INVAL) => overlay_by_options(rootfs, path, label)?,
        Err(error) => return Err(format!("mount overlay of {} layers: {error}", rootfs.layers.len())),
    }
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .step(|| format!("open {path}"))
}

/// Whom new files of the container's root belong to: the root of its user namespace.
type Owner = Option<(Uid, Gid)>;

/// Covers the layers by views of themselves whose owners are seen through the user namespace. Only this process sees it.
fn map_layers(bundle: &Bundle, namespace: BorrowedFd<'_>) -> Step<()> {
    let volumes = bundle.spec.mounts.iter().flat_map(|mount| mount.layers.iter());
    let layers: BTreeSet<&String> = bundle.rootfs.layers.iter().chain(volumes).collect();
    for layer in layers {
        let view = detached_clone(layer, false).step(|| format!("open {layer}"))?;
        map_ids(view.as_fd(), false, namespace).step(|| format!("map the ids of {layer}"))?;
        rustix::mount::move_mount(view.as_fd(), "", CWD, layer.as_str(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .step(|| format!("attach the mapped {layer}"))?;
    }
    Ok(())
}

fn map_volume(bundle: &Bundle, mount: &Mount, tree: BorrowedFd<'_>, namespace: Option<BorrowedFd<'_>>) -> Step<()> {
    let maps = bundle.spec.process.user_namespace.as_ref();
    let same = maps.is_some_and(|maps| maps.uids == mount.uid_mappings && maps.gids == mount.gid_mappings);
    let namespace = namespace.filter(|_| same).ok_or("its id mappings are not those of its pod")?;
    map_ids(tree, true, namespace).step(|| "map its ids (its file system must support id-mapped mounts)".into())
}

fn map_ids(tree: BorrowedFd<'_>, recursive: bool, namespace: BorrowedFd<'_>) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let user_namespace = u64::try_from(namespace.as_raw_fd()).expect("an open descriptor is no negative number");
    sys::mount_setattr(tree, recursive, &MountAttr { set: MOUNT_ATTR_IDMAP, user_namespace, ..MountAttr::default() })
}

/// An image as a read-only tree. One layer is its own tree: an overlay needs two.
fn mount_image(mount: &Mount) -> rustix::io::Result<OwnedFd> {
    if let [layer] = &mount.layers[..] {
        return detached_clone(layer, false);
    }
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let stacked: Vec<&str> = mount.layers.iter().rev().map(String::as_str).collect();
    let one_by_one =
        stacked.iter().try_for_each(|layer| rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir+", *layer));
    if one_by_one.is_err() {
        // Kernels before 6.5 cannot take layers one by one.
        let escaped: Vec<String> =
            stacked.iter().map(|layer| layer.replace('\\', "\\\\").replace(':', "\\:")).collect();
        rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir", escaped.join(":"))?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// Mounts an image, or a part of it. The part is found in the whole, mounted at the same place and covered then.
fn make_image_mount(root: BorrowedFd<'_>, mount: &Mount, parsed: &Options<'_>, owner: Owner) -> Step<()> {
    let image = mount_image(mount).step(|| "mount the image".into())?;
    let attributes = |tree: BorrowedFd<'_>| apply_attributes(tree, parsed).step(|| "set its options".into());
    attributes(image.as_fd())?;
    if mount.sub_path.is_empty() {
        let target = ensure(root, &mount.destination, FileType::Directory, 0, owner)?;
        return attach(image.as_fd(), target.as_fd());
    }
    let wanted = open_inside(image.as_fd(), &mount.sub_path, OFlags::empty())
        .step(|| format!("find {:?} in the image", mount.sub_path))?;
    let kind = kind_of(wanted.as_fd())?;
    let target = ensure(root, &mount.destination, kind, 0, owner)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let part = match rustix::mount::open_tree(wanted.as_fd(), "", flags) {
        // Older kernels clone only what is attached: the whole image is, for this moment, on a folder of the container.
        Err(Errno::INVAL) => {
            let stage = ensure(root, "/dev", FileType::Directory, 0, owner)?;
            attach(image.as_fd(), stage.as_fd())?;
            let part = rustix::mount::open_tree(wanted.as_fd(), "", flags).step(|| "take its part".into())?;
            rustix::process::fchdir(image.as_fd()).step(|| "find the image".into())?;
            rustix::mount::unmount(".", UnmountFlags::DETACH).step(|| "unmount the whole image".into())?;
            part
        }
        part => part.step(|| "take its part".into())?,
    };
    attributes(part.as_fd())?;
    attach(part.as_fd(), target.as_fd())
}

fn overlay(rootfs: &Rootfs, label: &str) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in rootfs.layers.iter().rev() {
        rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir+", layer)?;
    }
    rustix::mount::fsconfig_set_string(context.as_fd(), "upperdir", &rootfs.upper)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "workdir", &rootfs.work)?;
    // What a container writes is never mounted again, so it need not be synchronised when it ends.
    rustix::mount::fsconfig_set_flag(context.as_fd(), "volatile")?;
    if !label.is_empty() {
        rustix::mount::fsconfig_set_string(context.as_fd(), "context", label)?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// The older way, with all layers in one string of at most a page; so they are named from their common folder.
fn overlay_by_options(rootfs: &Rootfs, path: &str, label: &str) -> Step<()> {
    let parents: Vec<&Path> =
        rootfs.layers.iter().map(|layer| Path::new(layer).parent().unwrap_or(Path::new("/"))).collect();
    let common = parents[0].ancestors().find(|folder| parents.iter().all(|parent| parent.starts_with(folder)));
    let common = common.unwrap_or(Path::new("/"));
    rustix::process::chdir(common).step(|| format!("enter {}", common.display()))?;
    let relative = |layer: &String| {
        let short = Path::new(layer).strip_prefix(common).unwrap_or(Path::new(layer));
        short.display().to_string().replace('\\', "\\\\").replace(':', "\\:")
    };
    let lower: Vec<String> = rootfs.layers.iter().rev().map(relative).collect();
    let context = if label.is_empty() { String::new() } else { format!(",context=\"{label}\"") };
    let (lower, upper, work) = (lower.join(":"), &rootfs.upper, &rootfs.work);
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work},volatile{context}");
    let options = std::ffi::CString::new(options).map_err(|_| "a layer's path holds a zero byte".to_owned())?;
    rustix::mount::mount("overlay", path, "overlay", rustix::mount::MountFlags::empty(), Some(options.as_c_str()))
        .step(|| format!("mount overlay of {} layers", rootfs.layers.len()))
}

/// What a mount's options say.
struct Options<'a> {
    attributes: MountAttrFlags,
    recursive_attributes: bool,
    propagation: u64,
    recursive_bind: bool,
    data: Vec<(&'a str, Option<&'a str>)>,
}

impl Default for Options<'_> {
    fn default() -> Self {
        Self {
            attributes: MountAttrFlags::empty(),
            recursive_attributes: false,
            propagation: 0,
            recursive_bind: false,
            data: Vec::new(),
        }
    }
}

fn options(mount: &Mount) -> Options<'_> {
    let mut parsed = Options::default();
    for option in &mount.options {
        match option.as_str() {
            "bind" | "rw" => {}
            "rbind" => parsed.recursive_bind = true,
            "ro" => parsed.attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY,
            "rro" => {
                parsed.attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
                parsed.recursive_attributes = true;
            }
            "nosuid" => parsed.attributes |= MountAttrFlags::MOUNT_ATTR_NOSUID,
            "nodev" => parsed.attributes |= MountAttrFlags::MOUNT_ATTR_NODEV,
            "noexec" => parsed.attributes |= MountAttrFlags::MOUNT_ATTR_NOEXEC,
            "strictatime" => parsed.attributes |= MountAttrFlags::MOUNT_ATTR_STRICTATIME,
            "noatime" => parsed.attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME,
            "relatime" => {}
            "private" | "rprivate" => parsed.propagation = libc::MS_PRIVATE,
            "slave" | "rslave" => parsed.propagation = libc::MS_SLAVE,
            "shared" | "rshared" => parsed.propagation = libc::MS_SHARED,
            other => parsed.data.push(match other.split_once('=') {
                Some((key, value)) => (key, Some(value)),
                None => (other, None),
            }),
        }
    }
    parsed
}

fn detached_clone(path: &str, recursive: bool) -> rustix::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    rustix::mount::open_tree(CWD, path, flags)
}

fn bind_source(mount: &Mount) -> Step<Option<OwnedFd>> {
    if mount.kind != "bind" {
        return Ok(None);
    }
    let parsed = options(mount);
    let tree = detached_clone(&mount.source, parsed.recursive_bind)
        .step(|| format!("mount {} at {}: open the source", mount.source, mount.destination))?;
    Ok(Some(tree))
}

fn make_mount(
    root: BorrowedFd<'_>,
    bundle: &Bundle,
    mount: &Mount,
    source: Option<&OwnedFd>,
    owner: Owner,
) -> Step<()> {
    let parsed = options(mount);
    let tree = match source {
        Some(tree) => {
            apply_attributes(tree.as_fd(), &parsed).step(|| "set its options".into())?;
            tree.try_clone().step(|| "keep its descriptor".into())?
        }
        None if mount.kind == "cgroup" => return mount_cgroups(root, bundle, mount, &parsed),
        None if mount.kind == "image" => return make_image_mount(root, mount, &parsed, owner),
        None => new_file_system(&mount.kind, &mount.source, &parsed).step(|| "make the file system".into())?,
    };
    let kind = kind_of(tree.as_fd())?;
    let target = ensure(root, &mount.destination, kind, 0, owner)?;
    if mount.kind != "proc" && is_proc(target.as_fd())? {
        return Err("a mount may not lie inside /proc".to_owned());
    }
    attach(tree.as_fd(), target.as_fd())
}

fn apply_attributes(tree: BorrowedFd<'_>, parsed: &Options<'_>) -> std::io::Result<()> {
    let set = u64::from(parsed.attributes.bits());
    if parsed.recursive_attributes || !parsed.recursive_bind {
        let attr = MountAttr { set, propagation: parsed.propagation, ..MountAttr::default() };
        return sys::mount_setattr(tree, parsed.recursive_attributes, &attr);
    }
    // Propagation holds for all that is mounted below, the attributes only for the mount itself.
    if parsed.propagation != 0 {
        let attr = MountAttr { propagation: parsed.propagation, ..MountAttr::default() };
        sys::mount_setattr(tree, true, &attr)?;
    }
    if set == 0 {
        return Ok(());
    }
    sys::mount_setattr(tree, false, &MountAttr { set, ..MountAttr::default() })
}

fn new_file_system(kind: &str, source: &str, parsed: &Options<'_>) -> rustix::io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if !source.is_empty() {
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", source)?;
    }
    for (key, value) in &parsed.data {
        match value {
            Some(value) => rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?,
            None => rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?,
        }
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, parsed.attributes)
}

/// The container's own cgroups: on v2 a mount of its namespace, on v1 a folder for each hierarchy.
fn mount_cgroups(root: BorrowedFd<'_>, bundle: &Bundle, mount: &Mount, parsed: &Options<'_>) -> Step<()> {
    let target = ensure(root, &mount.destination, FileType::Directory, 0, None)?;
    if bundle.cgroup_mounts.is_empty() {
        let tree = new_file_system("cgroup2", "cgroup", parsed).step(|| "make the file system".into())?;
        return attach(tree.as_fd(), target.as_fd());
    }
    let data = vec![("mode", Some("755"))];
    let writable = parsed.attributes - MountAttrFlags::MOUNT_ATTR_RDONLY;
    let folder = Options { data, attributes: writable, ..Options::default() };
    let tree = new_file_system("tmpfs", "tmpfs", &folder).step(|| "make its folder".into())?;
    attach(tree.as_fd(), target.as_fd())?;
    for (controllers, path) in &bundle.cgroup_mounts {
        let hierarchy = detached_clone(path, false).step(|| format!("open {path}"))?;
        apply_attributes(
            hierarchy.as_fd(),
            &Options { propagation: libc::MS_PRIVATE, attributes: parsed.attributes, ..Options::default() },
        )
        .step(|| format!("set options of {path}"))?;
        let place = ensure(tree.as_fd(), controllers, FileType::Directory, 0, None)?;
        attach(hierarchy.as_fd(), place.as_fd())?;
        for alias in controllers.split(',').filter(|_| controllers.contains(',')) {
            rustix::fs::symlinkat(controllers.as_str(), tree.as_fd(), alias).step(|| format!("link {alias}"))?;
        }
    }
    apply_attributes(tree.as_fd(), &Options { attributes: parsed.attributes, ..Options::default() })
        .step(|| "set its options".into())
}

fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Step<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, "", target, "", flags).step(|| "attach".into())
}

fn kind_of(fd: BorrowedFd<'_>) -> Step<FileType> {
    let stat = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE).step(|| "look at the source".into())?;
    let kind = FileType::from_raw_mode(u32::from(stat.stx_mode));
    Ok(if kind == FileType::Directory { FileType::Directory } else { FileType::RegularFile })
}

fn is_proc(fd: BorrowedFd<'_>) -> Step<bool> {
    Ok(rustix::fs::fstatfs(fd).step(|| "look at the mount point".into())?.f_type as i64 == PROC_MAGIC)
}

fn open_inside(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    sys::open_inside(root, path, flags | OFlags::PATH)
}

/// Opens a place in the container, making it and the folders above it where they do not exist.
fn ensure(root: BorrowedFd<'_>, path: &str, kind: FileType, links: u32, owner: Owner) -> Step<OwnedFd> {
    match open_inside(root, path, OFlags::empty()) {
        Err(Errno::NOENT) if links <= MAX_LINKS => {}
        result => return result.step(|| format!("open {path}")),
    }
    let trimmed = path.trim_end_matches('/');
    let (parent_path, name) = trimmed.rsplit_once('/').unwrap_or(("/", trimmed));
    let parent_path = if parent_path.is_empty() { "/" } else { parent_path };
    let parent = ensure(root, parent_path, FileType::Directory, links, owner)?;
    if let Ok(link) = rustix::fs::readlinkat(parent.as_fd(), name, Vec::new()) {
        // The image has a link to something that it lacks (`/etc/resolv.conf` often is one): make that.
        let link = link.to_str().map_err(|_| format!("{path} is a link to a name that is not text"))?;
        let target = if link.starts_with('/') { link.to_owned() } else { format!("{parent_path}/{link}") };
        return ensure(root, &target, kind, links + 1, owner);
    }
    let made = match kind {
        FileType::Directory => rustix::fs::mkdirat(parent.as_fd(), name, Mode::from_raw_mode(0o755)),
        _ => rustix::fs::mknodat(parent.as_fd(), name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0),
    };
    if let (Ok(()), Some((uid, gid))) = (made, owner) {
        rustix::fs::chownat(parent.as_fd(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .step(|| format!("give {path} to the container"))?;
    }
    match made {
        Ok(()) | Err(Errno::EXIST) => open_inside(root, path, OFlags::empty()).step(|| format!("open {path}")),
        Err(error) => Err(format!("make {path}: {error}")),
    }
}

fn populate_dev(root: BorrowedFd<'_>, devices: &[Device], owner: Owner) -> Step<()> {
    let old_mask = rustix::process::umask(Mode::empty());
    for device in devices {
        make_device(root, device, owner).map_err(|error| format!("make device {}: {error}", device.path))?;
    }
    let dev = open_inside(root, "/dev", OFlags::DIRECTORY).step(|| "open /dev".into())?;
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    for (name, target) in links {
        match rustix::fs::symlinkat(target, dev.as_fd(), name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(format!("link /dev/{name}: {error}")),
        }
    }
    rustix::process::umask(old_mask);
    Ok(())
}

fn make_device(root: BorrowedFd<'_>, device: &Device, owner: Owner) -> Step<()> {
    let (folder, name) = device.path.rsplit_once('/').ok_or("its path has no folder")?;
    let folder = ensure(root, if folder.is_empty() { "/" } else { folder }, FileType::Directory, 0, owner)?;
    let kind = match device.kind.as_str() {
        "b" => FileType::BlockDevice,
        "p" => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    let number = |value: i64| u32::try_from(value).map_err(|_| format!("{value} is no device number"));
    let id = rustix::fs::makedev(number(device.major)?, number(device.minor)?);
    match rustix::fs::mknodat(folder.as_fd(), name, kind, Mode::from_raw_mode(device.file_mode), id) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(format!("mknod: {error}")),
    }
    let given = Some((device.uid, device.gid)).filter(|ids| *ids != (0, 0));
    if let Some((uid, gid)) = given.map(|(uid, gid)| (Uid::from_raw(uid), Gid::from_raw(gid))).or(owner) {
        rustix::fs::chownat(folder.as_fd(), name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .step(|| "chown".into())?;
    }
    Ok(())
}

fn make_readonly(root: BorrowedFd<'_>, path: &str) -> Step<()> {
    let place = match open_inside(root, path, OFlags::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        result => result.step(|| "open".into())?,
    };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let copy = rustix::mount::open_tree(place.as_fd(), "", flags).step(|| "clone".into())?;
    let attr = MountAttr { set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()), ..MountAttr::default() };
    sys::mount_setattr(copy.as_fd(), false, &attr).step(|| "set its options".into())?;
    attach(copy.as_fd(), place.as_fd())
}

/// Hides folders under an empty one and files under the null device.
fn mask_paths(root: BorrowedFd<'_>, paths: &[String], null: BorrowedFd<'_>) -> Step<()> {
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let place = match open_inside(root, path, OFlags::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            result => result.step(|| format!("mask {path}"))?,
        };
        let cover = match (kind_of(place.as_fd())?, &empty) {
            (FileType::Directory, None) => {
                let parsed = Options {
                    attributes: MountAttrFlags::MOUNT_ATTR_RDONLY,
                    data: vec![("size", Some("0"))],
                    ..Options::default()
                };
                let folder = new_file_system("tmpfs", "tmpfs", &parsed).step(|| format!("mask {path}"))?;
                empty = Some(folder.try_clone().step(|| format!("mask {path}"))?);
                folder
            }
            (FileType::Directory, Some(folder)) => clone_attached(folder.as_fd()).step(|| format!("mask {path}"))?,
            // The source was taken from the host before, so that an image cannot slip something else in.
            _ => clone_of_null(null).step(|| format!("mask {path}"))?,
        };
        attach(cover.as_fd(), place.as_fd()).map_err(|error| format!("mask {path}: {error}"))?;
    }
    Ok(())
}

fn clone_attached(mount: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    rustix::mount::open_tree(mount, "", flags)
}

fn clone_of_null(null: BorrowedFd<'_>) -> rustix::io::Result<OwnedFd> {
    match clone_attached(null) {
        // Older kernels clone only what is attached; the host's own node still is, at this time.
        Err(Errno::INVAL) => detached_clone("/dev/null", false),
        result => result,
    }
}
