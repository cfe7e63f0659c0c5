//! What specifications come to.

use expect_test::{Expect, expect};
use skiff_cri::{Capability, ImageSpec, Int64Value, KeyValue, LinuxContainerConfig, MountPropagation, NamespaceOption};

use super::*;
use crate::oci::Device;

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
    check(&input, "/process/env", expect![[r#"["PATH=/bin","TERM=xterm","HOSTNAME=pod-1","COLOUR=a=b","HOME=/srv"]"#]]);
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
    check(&with(&["net_admin"], &["ALL"], &[]), "/process/capabilities/bounding", expect![[r#"["CAP_NET_ADMIN"]"#]]);
    check(&with(&["ALL"], &[], &[]), "/process/capabilities/effective/40", expect![[r#""CAP_CHECKPOINT_RESTORE""#]]);
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
    check(&input, "/mounts", expect!["/x: recursive read-only mount needs a read-only mount with private propagation"]);
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
    let with_text = |text: &str| SpecInput { seccomp_profile: text.to_owned(), ..with(ProfileType::Localhost, false) };
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
