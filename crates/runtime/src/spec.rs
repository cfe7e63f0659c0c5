//! From the interface's request to an OCI specification. A pure function over plain data:
//! what must be looked up on the machine (devices, the image's user files) is handed in.

use std::collections::{BTreeMap, BTreeSet};

use skiff_cri::security_profile::ProfileType;
use skiff_cri::{
    Capability, ContainerConfig, CriError, CriResult, LinuxContainerResources, LinuxContainerSecurityContext,
    MountPropagation, NamespaceMode, PodSandboxConfig,
};

use crate::confine;
use crate::images::ImageConfig;
use crate::oci::*;
use crate::users::{self, UserDb};

/// The version of the OCI runtime specification that is written.
const OCI_VERSION: &str = "1.2.0";
/// The search path of containers whose image sets none.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container may do that asks for nothing: the set that containerd and CRI-O give.
const DEFAULT_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Every capability, by its number.
pub const ALL_CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A device of the host that the container gets, with what it may do with it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GrantedDevice {
    /// The node.
    pub node: Device,
    /// Some of `rwm`.
    pub access: String,
}

/// Everything that a specification is made from.
#[derive(Debug, Clone, Default)]
pub struct SpecInput<'a> {
    /// The container, as asked for.
    pub container: ContainerConfig,
    /// Its sandbox, as asked for.
    pub sandbox: PodSandboxConfig,
    /// What its image says.
    pub image: ImageConfig,
    /// The image's users.
    pub users: UserDb<'a>,
    /// Where its root will be mounted.
    pub rootfs: String,
    /// The sandbox's `/dev/shm` on the host.
    pub shm: String,
    /// The sandbox's files to mount: where in the container, and the file on the host.
    pub files: Vec<(&'static str, String)>,
    /// The pid namespace to join, for pods that share one and for debugging containers.
    pub pid_namespace: Option<String>,
    /// The container's cgroup.
    pub cgroups_path: String,
    /// Devices that were asked for, or all of the host's for a privileged container.
    pub devices: Vec<GrantedDevice>,
    /// Whether the machine has cgroup v2.
    pub cgroup_v2: bool,
    /// Which security modules the machine enforces.
    pub modules: confine::Modules,
    /// The ids of the pod's user namespace.
    pub user_namespace: Option<IdMaps>,
    /// The layers of the images that are mounted as volumes, by where they are mounted.
    pub image_volumes: BTreeMap<String, Vec<String>>,
    /// The text of the seccomp profile that [`localhost_seccomp`] names.
    pub seccomp_profile: String,
}

/// The file systems that containers get new ones of belong to the root of the pod's user namespace.
fn owned_by(mounts: &mut [Mount], maps: &IdMaps) {
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
fn labelled(mounts: &mut [Mount], label: &str) {
    for mount in mounts.iter_mut().filter(|mount| matches!(mount.kind.as_str(), "tmpfs" | "devpts")) {
        mount.options.push(format!("context={label}"));
    }
}

/// The specification of a container.
pub fn generate(input: &SpecInput<'_>) -> CriResult<Spec> {
    let linux = input.container.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let resources = linux.resources.unwrap_or_default();
    let process = process(input, &security, &resources)?;
    let mut mounts = mounts(input, security.privileged)?;
    if let Some(maps) = &input.user_namespace {
        owned_by(&mut mounts, maps);
    }
    if let Some(labels) = labels(input, &security) {
        labelled(&mut mounts, &labels.mount);
    }
    Ok(Spec {
        oci_version: OCI_VERSION.to_owned(),
        process,
        root: Root { path: input.rootfs.clone(), readonly: security.readonly_rootfs },
        hostname: String::new(),
        mounts,
        linux: Linux {
            namespaces: namespaces(input, &security),
            devices: devices(input),
            cgroups_path: input.cgroups_path.clone(),
            resources: Resources { devices: device_rules(input, security.privileged), ..limits(&resources) },
            rootfs_propagation: propagation(&input.container).to_owned(),
            mount_label: labels(input, &security).map(|labels| labels.mount).unwrap_or_default(),
            masked_paths: if security.privileged { Vec::new() } else { security.masked_paths.clone() },
            readonly_paths: if security.privileged { Vec::new() } else { security.readonly_paths.clone() },
        },
    })
}

fn process(
    input: &SpecInput<'_>,
    security: &LinuxContainerSecurityContext,
    resources: &LinuxContainerResources,
) -> CriResult<Process> {
    let container = &input.container;
    let user = users::resolve(security, &input.image.user, input.users)?;
    let cwd = [&container.working_dir, &input.image.working_dir].into_iter().find(|dir| !dir.is_empty());
    Ok(Process {
        terminal: container.tty,
        args: args(container, &input.image)?,
        env: environment(input, user.uid),
        cwd: cwd.cloned().unwrap_or_else(|| "/".to_owned()),
        capabilities: capabilities(security)?,
        rlimits: Vec::new(),
        no_new_privileges: security.no_new_privs,
        oom_score_adj: i32::try_from(resources.oom_score_adj).ok(),
        default_seccomp: seccomp_type(security) == Some(ProfileType::RuntimeDefault),
        seccomp_filter: seccomp_filter(input, security)?,
        user_namespace: input.user_namespace.clone(),
        apparmor_profile: confine::apparmor(security, input.modules)?,
        selinux_label: labels(input, security).map(|labels| labels.process).unwrap_or_default(),
        user,
    })
}

/// The pod's command replaces the image's entry point and its arguments; the pod's arguments alone replace
/// only the image's arguments.
fn args(container: &ContainerConfig, image: &ImageConfig) -> CriResult<Vec<String>> {
    let (command, arguments) = match (container.command.is_empty(), container.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &container.args),
        (false, _) => (&container.command, &container.args),
    };
    let args: Vec<String> = command.iter().chain(arguments).cloned().collect();
    if args.is_empty() || args[0].is_empty() {
        return Err(CriError::invalid_argument("no command specified"));
    }
    Ok(args)
}

fn environment(input: &SpecInput<'_>, uid: u32) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut set = |entry: &str| {
        let name = entry.split('=').next().unwrap_or(entry);
        let known = env.iter_mut().find(|old| old.split('=').next() == Some(name));
        match known {
            Some(old) => *old = entry.to_owned(),
            None => env.push(entry.to_owned()),
        }
    };
    set(DEFAULT_PATH);
    if input.container.tty {
        set("TERM=xterm");
    }
    if !input.sandbox.hostname.is_empty() {
        set(&format!("HOSTNAME={}", input.sandbox.hostname));
    }
    input.image.env.iter().for_each(|entry| set(entry));
    for variable in &input.container.envs {
        set(&format!("{}={}", variable.key, variable.value));
    }
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", input.users.home(uid)));
    }
    env
}

fn seccomp_type(security: &LinuxContainerSecurityContext) -> Option<ProfileType> {
    let profile = security.seccomp.as_ref().filter(|_| !security.privileged)?;
    ProfileType::try_from(profile.profile_type).ok()
}

/// The file of the seccomp profile that a container asks for, if it is the administrator's own.
pub fn localhost_seccomp(container: &ContainerConfig) -> Option<&str> {
    let security = container.linux.as_ref()?.security_context.as_ref()?;
    let profile = security.seccomp.as_ref()?;
    (seccomp_type(security) == Some(ProfileType::Localhost)).then_some(profile.localhost_ref.as_str())
}

fn seccomp_filter(
    input: &SpecInput<'_>,
    security: &LinuxContainerSecurityContext,
) -> CriResult<Option<crate::seccomp::Filter>> {
    if seccomp_type(security) != Some(ProfileType::Localhost) {
        return Ok(None);
    }
    let file = localhost_seccomp(&input.container).unwrap_or_default();
    let filter = crate::seccomp::compile(&input.seccomp_profile)
        .map_err(|error| CriError::invalid_argument(format!("seccomp profile {file:?}: {error}")))?;
    Ok(Some(filter))
}

fn labels(input: &SpecInput<'_>, security: &LinuxContainerSecurityContext) -> Option<confine::Labels> {
    confine::labels(security.selinux_options.as_ref(), input.modules)
}

fn capabilities(security: &LinuxContainerSecurityContext) -> CriResult<Capabilities> {
    if security.privileged {
        let all: Vec<String> = ALL_CAPABILITIES.iter().map(|&name| name.to_owned()).collect();
        return Ok(Capabilities {
            bounding: all.clone(),
            effective: all.clone(),
            permitted: all,
            ..Capabilities::default()
        });
    }
    let Capability { add_capabilities, drop_capabilities, add_ambient_capabilities } =
        security.capabilities.clone().unwrap_or_default();
    let (add, drop) = (capability_names(&add_capabilities)?, capability_names(&drop_capabilities)?);
    let ambient = capability_names(&add_ambient_capabilities)?;
    let everything = || ALL_CAPABILITIES.iter().copied();
    let mut set: BTreeSet<&str> = DEFAULT_CAPABILITIES.iter().copied().collect();
    // "ALL" comes first, so that single names can make exceptions from it.
    if add.contains("ALL") {
        set.extend(everything());
    }
    if drop.contains("ALL") {
        set.clear();
    }
    set.extend(add.iter().chain(&ambient).copied().filter(|&name| name != "ALL"));
    set.retain(|name| !drop.contains(name));
    let ambient: Vec<String> = ambient.into_iter().filter(|name| set.contains(name)).map(str::to_owned).collect();
    let set: Vec<String> = everything().filter(|name| set.contains(name)).map(str::to_owned).collect();
    Ok(Capabilities {
        bounding: set.clone(),
        effective: set.clone(),
        permitted: set,
        inheritable: ambient.clone(),
        ambient,
    })
}

fn capability_names(names: &[String]) -> CriResult<BTreeSet<&'static str>> {
    names.iter().map(|name| capability_name(name)).collect()
}

fn capability_name(name: &str) -> CriResult<&'static str> {
    let upper = name.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok("ALL");
    }
    let wanted = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let known = ALL_CAPABILITIES.iter().find(|known| &known["CAP_".len()..] == wanted);
    known.copied().ok_or_else(|| CriError::invalid_argument(format!("unknown capability {name:?}")))
}

fn namespaces(input: &SpecInput<'_>, security: &LinuxContainerSecurityContext) -> Vec<Namespace> {
    let options = security.namespace_options.clone().unwrap_or_default();
    let mut list = vec![Namespace { kind: "mount".to_owned(), path: String::new() }];
    let joined = input.pid_namespace.clone().filter(|_| options.pid != NamespaceMode::Node as i32);
    match joined {
        Some(path) => list.push(Namespace { kind: "pid".to_owned(), path }),
        None if options.pid != NamespaceMode::Node as i32 => {
            list.push(Namespace { kind: "pid".to_owned(), path: String::new() })
        }
        None => {}
    }
    if input.cgroup_v2 && !security.privileged {
        list.push(Namespace { kind: "cgroup".to_owned(), path: String::new() });
    }
    list
}

fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    Mount {
        destination: destination.to_owned(),
        kind: kind.to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..Mount::default()
    }
}

fn mounts(input: &SpecInput<'_>, privileged: bool) -> CriResult<Vec<Mount>> {
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

fn propagation(container: &ContainerConfig) -> &'static str {
    let any = |mode: MountPropagation| container.mounts.iter().any(|mount| mount.propagation == mode as i32);
    match () {
        () if any(MountPropagation::PropagationBidirectional) => "rshared",
        () if any(MountPropagation::PropagationHostToContainer) => "rslave",
        () => "",
    }
}

/// The devices of every container: their name in `/dev`, major and minor number.
const STANDARD_DEVICES: &[(&str, i64, i64)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

fn devices(input: &SpecInput<'_>) -> Vec<Device> {
    let standard = STANDARD_DEVICES.iter().map(|&(name, major, minor)| Device {
        path: format!("/dev/{name}"),
        kind: "c".to_owned(),
        major,
        minor,
        file_mode: 0o666,
        uid: 0,
        gid: 0,
    });
    let mut by_path: BTreeMap<String, Device> = standard.map(|device| (device.path.clone(), device)).collect();
    for granted in &input.devices {
        by_path.insert(granted.node.path.clone(), granted.node.clone());
    }
    by_path.into_values().collect()
}

fn device_rules(input: &SpecInput<'_>, privileged: bool) -> Vec<DeviceRule> {
    let rule = |allow, kind: &str, major, minor, access: &str| DeviceRule {
        allow,
        kind: kind.to_owned(),
        major,
        minor,
        access: access.to_owned(),
    };
    if privileged {
        return vec![rule(true, "a", None, None, "rwm")];
    }
    // Nodes may be made of any device, but only these be opened. 136 is pts, 5:2 is ptmx, 5:1 the console.
    let mut rules =
        vec![rule(false, "a", None, None, "rwm"), rule(true, "c", None, None, "m"), rule(true, "b", None, None, "m")];
    for &(_, major, minor) in STANDARD_DEVICES {
        rules.push(rule(true, "c", Some(major), Some(minor), "rwm"));
    }
    rules.push(rule(true, "c", Some(136), None, "rwm"));
    rules.push(rule(true, "c", Some(5), Some(2), "rwm"));
    rules.push(rule(true, "c", Some(5), Some(1), "rwm"));
    for granted in &input.devices {
        rules.push(rule(true, &granted.node.kind, Some(granted.node.major), Some(granted.node.minor), &granted.access));
    }
    rules
}

/// Limits as the OCI specification has them; zero means "not given" in the interface.
pub fn limits(wanted: &LinuxContainerResources) -> Resources {
    let positive = |value: i64| (value > 0).then_some(value);
    let nonzero = |value: i64| (value != 0).then_some(value);
    let unsigned = |value: i64| u64::try_from(value).ok().filter(|&value| value > 0);
    Resources {
        devices: Vec::new(),
        memory: Memory {
            limit: nonzero(wanted.memory_limit_in_bytes),
            swap: positive(wanted.memory_swap_limit_in_bytes),
        },
        cpu: Cpu {
            shares: unsigned(wanted.cpu_shares),
            quota: nonzero(wanted.cpu_quota),
            period: unsigned(wanted.cpu_period),
            cpus: wanted.cpuset_cpus.clone(),
            mems: wanted.cpuset_mems.clone(),
        },
        pids: None,
        hugepage_limits: wanted
            .hugepage_limits
            .iter()
            .map(|limit| HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: wanted.unified.clone().into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use skiff_cri::{ImageSpec, Int64Value, KeyValue, LinuxContainerConfig, NamespaceOption};

    use super::*;

    const USERS: UserDb<'_> = UserDb { passwd: "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/srv:/bin/sh\n", group: "" };

    fn image() -> ImageConfig {
        ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["serve".into()],
            env: vec!["COLOUR=red".into(), "PATH=/bin".into()],
            ..ImageConfig::default()
        }
    }

    fn input(security: LinuxContainerSecurityContext) -> SpecInput<'static> {
        let linux = LinuxContainerConfig { security_context: Some(security), resources: None };
        SpecInput {
            container: ContainerConfig {
                image: Some(ImageSpec { image: "app".into(), ..Default::default() }),
                linux: Some(linux),
                ..Default::default()
            },
            sandbox: PodSandboxConfig { hostname: "pod-1".into(), ..Default::default() },
            image: image(),
            users: USERS,
            rootfs: "/r".into(),
            shm: "/run/shm".into(),
            files: vec![("/etc/hostname", "/run/hostname".into())],
            cgroups_path: "/pod/c".into(),
            ..SpecInput::default()
        }
    }

    fn own_pids() -> LinuxContainerSecurityContext {
        let options = NamespaceOption { pid: NamespaceMode::Container as i32, ..Default::default() };
        LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() }
    }

    /// The part of the specification at a JSON pointer.
    fn check(input: &SpecInput<'_>, pointer: &str, expected: Expect) {
        let text = match generate(input) {
            Ok(spec) => {
                let tree = serde_json::to_value(spec).expect("plain data");
                serde_json::to_string(tree.pointer(pointer).expect("is there")).expect("plain data")
            }
            Err(error) => error.message,
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn commands_and_arguments_replace_the_images() {
        let with = |command: &[&str], args: &[&str]| {
            let mut input = input(own_pids());
            let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
            (input.container.command, input.container.args) = (list(command), list(args));
            input
        };
        check(&with(&[], &[]), "/process/args", expect![[r#"["/entry","serve"]"#]]);
        check(&with(&[], &["x"]), "/process/args", expect![[r#"["/entry","x"]"#]]);
        check(&with(&["c"], &[]), "/process/args", expect![[r#"["c"]"#]]);
        check(&with(&["c"], &["x"]), "/process/args", expect![[r#"["c","x"]"#]]);
        let nothing = SpecInput { image: ImageConfig::default(), ..with(&[], &[]) };
        check(&nothing, "/process/args", expect!["no command specified"]);
    }

    #[test]
    fn the_environment_is_the_images_then_the_pods() {
        let mut input = input(own_pids());
        input.container.envs = vec![KeyValue { key: "COLOUR".into(), value: "a=b".into() }];
        check(&input, "/process/env", expect![[r#"["PATH=/bin","HOSTNAME=pod-1","COLOUR=a=b","HOME=/root"]"#]]);
        input.container.tty = true;
        input.image.user = "web".into();
        check(
            &input,
            "/process/env",
            expect![[r#"["PATH=/bin","TERM=xterm","HOSTNAME=pod-1","COLOUR=a=b","HOME=/srv"]"#]],
        );
        check(&input, "/process/user", expect![[r#"{"additionalGids":[34],"gid":34,"uid":33}"#]]);
        check(&input, "/process/cwd", expect![[r#""/""#]]);
        input.image.working_dir = "/image".into();
        check(&input, "/process/cwd", expect![[r#""/image""#]]);
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        let with = |add: &[&str], drop: &[&str], ambient: &[&str]| {
            let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            let capabilities = Capability {
                add_capabilities: list(add),
                drop_capabilities: list(drop),
                add_ambient_capabilities: list(ambient),
            };
            input(LinuxContainerSecurityContext { capabilities: Some(capabilities), ..own_pids() })
        };
        check(
            &with(&["net_admin"], &["ALL"], &[]),
            "/process/capabilities/bounding",
            expect![[r#"["CAP_NET_ADMIN"]"#]],
        );
        check(
            &with(&["ALL"], &[], &[]),
            "/process/capabilities/effective/40",
            expect![[r#""CAP_CHECKPOINT_RESTORE""#]],
        );
        check(&with(&["NET_RAW"], &["ALL", "NET_RAW"], &[]), "/process/capabilities/effective", expect!["[]"]);
        check(&with(&[], &["ALL"], &["KILL"]), "/process/capabilities/ambient", expect![[r#"["CAP_KILL"]"#]]);
        check(&with(&["FLY"], &[], &[]), "/process", expect![[r#"unknown capability "FLY""#]]);
        check(
            &with(&[], &["MKNOD", "CHOWN"], &[]),
            "/process/capabilities/permitted",
            expect![[
                r#"["CAP_DAC_OVERRIDE","CAP_FOWNER","CAP_FSETID","CAP_KILL","CAP_SETGID","CAP_SETUID","CAP_SETPCAP","CAP_NET_BIND_SERVICE","CAP_NET_RAW","CAP_SYS_CHROOT","CAP_AUDIT_WRITE","CAP_SETFCAP"]"#
            ]],
        );
    }

    #[test]
    fn privileged_containers_see_everything() {
        let security = LinuxContainerSecurityContext {
            privileged: true,
            masked_paths: vec!["/proc/kcore".into()],
            readonly_paths: vec!["/proc/sys".into()],
            ..own_pids()
        };
        let node = Device { path: "/dev/sda".into(), kind: "b".into(), major: 8, ..Device::default() };
        let input = SpecInput { devices: vec![GrantedDevice { node, access: "rwm".into() }], ..input(security) };
        check(&input, "/linux/resources/devices", expect![[r#"[{"access":"rwm","allow":true,"type":"a"}]"#]]);
        check(&input, "/linux/devices/3/path", expect![[r#""/dev/sda""#]]);
        check(&input, "/mounts/2/options", expect![[r#"["nosuid","noexec","nodev","rw"]"#]]);
        let spec = generate(&input).expect("a specification");
        assert!(spec.linux.masked_paths.is_empty() && spec.linux.readonly_paths.is_empty());
    }

    #[test]
    fn volumes_come_after_what_they_lie_in_and_replace_the_runtimes_own() {
        let mut input = input(own_pids());
        let volume = |to: &str, propagation: MountPropagation| skiff_cri::Mount {
            container_path: to.into(),
            host_path: "/host".into(),
            propagation: propagation as i32,
            ..Default::default()
        };
        input.container.mounts = vec![
            volume("/data/deep/er", MountPropagation::PropagationPrivate),
            volume("/data", MountPropagation::PropagationBidirectional),
            volume("/etc/hostname", MountPropagation::PropagationHostToContainer),
        ];
        let spec = generate(&input).expect("a specification");
        let order: Vec<&str> = spec.mounts.iter().map(|mount| mount.destination.as_str()).collect();
        assert_eq!(
            order,
            [
                "/proc",
                "/dev",
                "/sys",
                "/data",
                "/dev/pts",
                "/dev/mqueue",
                "/dev/shm",
                "/etc/hostname",
                "/sys/fs/cgroup",
                "/data/deep/er"
            ]
        );
        assert_eq!(spec.mounts[3].options, ["rbind", "rshared", "rw"]);
        assert_eq!(spec.mounts[7].options, ["rbind", "rslave", "rw"]);
        assert_eq!(spec.linux.rootfs_propagation, "rshared");
        input.container.mounts =
            vec![skiff_cri::Mount { recursive_read_only: true, ..volume("/x", MountPropagation::PropagationPrivate) }];
        check(
            &input,
            "/mounts",
            expect!["/x: recursive read-only mount needs a read-only mount with private propagation"],
        );
    }

    #[test]
    fn namespaces_follow_the_pod() {
        let with = |mode: NamespaceMode| {
            let options = NamespaceOption { pid: mode as i32, ..Default::default() };
            input(LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() })
        };
        check(&with(NamespaceMode::Container), "/linux/namespaces", expect![[r#"[{"type":"mount"},{"type":"pid"}]"#]]);
        check(&with(NamespaceMode::Node), "/linux/namespaces", expect![[r#"[{"type":"mount"}]"#]]);
        let shared =
            SpecInput { pid_namespace: Some("/proc/5/ns/pid".into()), cgroup_v2: true, ..with(NamespaceMode::Pod) };
        check(
            &shared,
            "/linux/namespaces",
            expect![[r#"[{"type":"mount"},{"path":"/proc/5/ns/pid","type":"pid"},{"type":"cgroup"}]"#]],
        );
    }

    #[test]
    fn seccomp_is_the_default_profile_or_none() {
        use skiff_cri::SecurityProfile;
        let with = |kind: ProfileType, privileged| {
            let profile = SecurityProfile { profile_type: kind as i32, localhost_ref: String::new() };
            input(LinuxContainerSecurityContext { seccomp: Some(profile), privileged, ..own_pids() })
        };
        check(&input(own_pids()), "/process/defaultSeccomp", expect!["false"]);
        check(&with(ProfileType::RuntimeDefault, false), "/process/defaultSeccomp", expect!["true"]);
        check(&with(ProfileType::RuntimeDefault, true), "/process/defaultSeccomp", expect!["false"]);
        check(&with(ProfileType::Unconfined, false), "/process/defaultSeccomp", expect!["false"]);
        let with_text =
            |text: &str| SpecInput { seccomp_profile: text.to_owned(), ..with(ProfileType::Localhost, false) };
        let kill_nothing = r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#;
        check(&with_text(kill_nothing), "/process/seccompFilter/flags", expect!["0"]);
        let broken = expect![[r#"seccomp profile "": EOF while parsing a value at line 1 column 0"#]];
        check(&with_text(""), "/process", broken);
    }

    #[test]
    fn security_modules_get_what_the_pod_says() {
        use skiff_cri::{SeLinuxOption, SecurityProfile};
        let apparmor =
            Some(SecurityProfile { profile_type: ProfileType::Localhost as i32, localhost_ref: "strict".into() });
        let selinux_options = Some(SeLinuxOption { level: "s0:c1,c2".into(), ..Default::default() });
        let mut input = input(LinuxContainerSecurityContext { apparmor, selinux_options, ..own_pids() });
        check(
            &input,
            "/process",
            expect![[r#"apparmor is not supported on this machine, and profile "strict" is asked for"#]],
        );
        input.modules.apparmor = true;
        check(&input, "/process/apparmorProfile", expect![[r#""strict""#]]);
        input.modules.selinux = true;
        check(&input, "/process/selinuxLabel", expect![[r#""system_u:system_r:container_t:s0:c1,c2""#]]);
        check(&input, "/linux/mountLabel", expect![[r#""system_u:object_r:container_file_t:s0:c1,c2""#]]);
        check(&input, "/mounts/1/options/4", expect![[r#""context=system_u:object_r:container_file_t:s0:c1,c2""#]]);
    }

    #[test]
    fn the_security_context_reaches_the_process() {
        let security = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 1000 }),
            run_as_group: Some(Int64Value { value: 3000 }),
            supplemental_groups: vec![2000],
            no_new_privs: true,
            readonly_rootfs: true,
            ..own_pids()
        };
        let mut input = input(security);
        let linux = input.container.linux.as_mut().expect("set");
        linux.resources =
            Some(LinuxContainerResources { oom_score_adj: 995, memory_limit_in_bytes: 5, ..Default::default() });
        check(&input, "/process/user", expect![[r#"{"additionalGids":[2000,3000],"gid":3000,"uid":1000}"#]]);
        check(&input, "/process/oomScoreAdj", expect!["995"]);
        check(&input, "/process/noNewPrivileges", expect!["true"]);
        check(&input, "/root", expect![[r#"{"path":"/r","readonly":true}"#]]);
        check(&input, "/linux/resources/memory", expect![[r#"{"limit":5}"#]]);
        check(
            &input,
            "/mounts/6",
            expect![[
                r#"{"destination":"/etc/hostname","options":["bind","rprivate","ro"],"source":"/run/hostname","type":"bind"}"#
            ]],
        );
    }
}
