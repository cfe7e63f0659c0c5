//! What is mounted in a container: the kernel's own file systems, the sandbox's files, volumes and images.

use skiff_cri::{ContainerConfig, CriError, CriResult, MountPropagation, NamespaceMode};

use super::SpecInput;
use crate::oci::{IdMaps, IdRange, Mount};

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Mount::default()
    }
}

pub(super) fn mounts(input: &SpecInput<'_>, privileged: bool) -> CriResult<Vec<Mount>> {
    let access = if privileged { "rw" } else { "ro" };
    let mut list = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
        mount("/dev/shm", "bind", &input.shm, &["bind", "rprivate", "nosuid", "noexec", "nodev"]),
    ];
    let read_only_root =
        input.container.linux.as_ref().and_then(|l| l.security_context.as_ref()).is_some_and(|s| s.readonly_rootfs);
    for (destination, source) in &input.files {
        list.push(mount(destination, "bind", source, &["bind", "rprivate", if read_only_root { "ro" } else { "rw" }]));
    }
    for wanted in &input.container.mounts {
        // A mount by the pod replaces the runtime's own at the same place.
        list.retain(|known| known.destination != wanted.container_path);
        list.push(if wanted.image.is_some() { image_volume(input, wanted)? } else { volume(wanted)? });
    }
    // Parents before what lies in them; the order of equals stays.
    list.sort_by_key(|mount| mount.destination.split('/').filter(|part| !part.is_empty()).count());
    Ok(list)
}

/// An image as a volume is always read-only, and nothing in it gains privileges.
fn image_volume(input: &SpecInput<'_>, wanted: &skiff_cri::Mount) -> CriResult<Mount> {
    let escapes = wanted.image_sub_path.split('/').any(|part| part == "..");
    if escapes || wanted.image_sub_path.starts_with('/') {
        let what = format!("image sub path {:?} leads out of the image", wanted.image_sub_path);
        return Err(CriError::invalid_argument(what));
    }
    let layers = input.image_volumes.get(&wanted.container_path).cloned().unwrap_or_default();
    if layers.is_empty() {
        return Err(CriError::internal(format!("the image of the volume at {} has no layers", wanted.container_path)));
    }
    Ok(Mount {
        layers,
        sub_path: wanted.image_sub_path.clone(),
        ..mount(&wanted.container_path, "image", "", &["ro", "nosuid", "nodev"])
    })
}

fn id_ranges(ranges: &[skiff_cri::IdMapping]) -> Vec<IdRange> {
    let range = |range: &skiff_cri::IdMapping| IdRange {
        container_id: range.container_id,
        host_id: range.host_id,
        size: range.length,
    };
    ranges.iter().map(range).collect()
}

/// The ids of a pod's user namespace; none when it is on the host's.
///
/// # Errors
/// The ranges are missing or do not fit.
pub fn user_namespace(options: &skiff_cri::NamespaceOption) -> CriResult<Option<IdMaps>> {
    let Some(asked) = options.userns_options.as_ref().filter(|asked| asked.mode == NamespaceMode::Pod as i32) else {
        return Ok(None);
    };
    if options.network == NamespaceMode::Node as i32 {
        return Err(CriError::invalid_argument("user namespaces cannot be used together with the host's network"));
    }
    let maps = IdMaps { uids: id_ranges(&asked.uids), gids: id_ranges(&asked.gids) };
    if maps.outside(0, 0).is_none() {
        return Err(CriError::invalid_argument("a user namespace needs ranges of user and group ids that include 0"));
    }
    Ok(Some(maps))
}

fn volume(wanted: &skiff_cri::Mount) -> CriResult<Mount> {
    let propagation = match MountPropagation::try_from(wanted.propagation) {
        Ok(MountPropagation::PropagationBidirectional) => "rshared",
        Ok(MountPropagation::PropagationHostToContainer) => "rslave",
        _ => "rprivate",
    };
    if wanted.recursive_read_only && (!wanted.readonly || propagation != "rprivate") {
        let what = "recursive read-only mount needs a read-only mount with private propagation";
        return Err(CriError::invalid_argument(format!("{}: {what}", wanted.container_path)));
    }
    let access = match (wanted.recursive_read_only, wanted.readonly) {
        (true, _) => "rro",
        (false, true) => "ro",
        (false, false) => "rw",
    };
    Ok(Mount {
        uid_mappings: id_ranges(&wanted.uid_mappings),
        gid_mappings: id_ranges(&wanted.gid_mappings),
        ..mount(&wanted.container_path, "bind", &wanted.host_path, &["rbind", propagation, access])
    })
}

pub(super) fn propagation(container: &ContainerConfig) -> &'static str {
    let any = |mode: MountPropagation| container.mounts.iter().any(|mount| mount.propagation == mode as i32);
    match () {
        () if any(MountPropagation::PropagationBidirectional) => "rshared",
        () if any(MountPropagation::PropagationHostToContainer) => "rslave",
        () => "",
    }
}

/// The file systems that containers get new ones of belong to the root of the pod's user namespace.
pub(super) fn owned_by(mounts: &mut [Mount], maps: &IdMaps) {
    const TERMINAL_GROUP: &str = "gid=5";
    for mount in mounts {
        match mount.kind.as_str() {
            "tmpfs" => {
                if let Some((uid, gid)) = maps.outside(0, 0) {
                    mount.options.extend([format!("uid={uid}"), format!("gid={gid}")]);
                }
            }
            "devpts" => {
                if let Some(option) = mount.options.iter_mut().find(|option| *option == TERMINAL_GROUP)
                    && let Some((_, gid)) = maps.outside(0, 5)
                {
                    *option = format!("gid={gid}");
                }
            }
            _ => {}
        }
    }
}

/// The file systems that containers get new ones of bear their label; of others the files do.
pub(super) fn labelled(mounts: &mut [Mount], label: &str) {
    for mount in mounts.iter_mut().filter(|mount| matches!(mount.kind.as_str(), "tmpfs" | "devpts")) {
        mount.options.push(format!("context={label}"));
    }
}
