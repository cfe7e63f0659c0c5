//! Users, capabilities, profiles and namespaces of a Pod's containers.
//! See <https://kubernetes.io/docs/tasks/configure-pod-container/security-context/>.

use std::path::Path;

use k8s_openapi::api::core::v1::{Pod, PodSecurityContext, SeccompProfile, SecurityContext};
use skiff_cri::{
    Capability, Int64Value, LinuxContainerSecurityContext, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    SeLinuxOption, SecurityProfile, SupplementalGroupsPolicy, security_profile::ProfileType,
};

use crate::pod::spec::{self, Spec, spec as pod_spec};
use crate::pod::types::Kind;

/// Paths of `/proc` and `/sys` that an ordinary container does not see.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
/// Paths that an ordinary container cannot write.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The user that an image says to run as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageUser {
    /// The number, where it is one.
    pub uid: Option<i64>,
    /// The name, where it is not.
    pub name: String,
}

/// The namespaces shared with the Pod or the node.
pub fn namespaces(pod: &Pod) -> NamespaceOption {
    let spec = pod_spec(pod);
    let mode = |host: Option<bool>, otherwise: NamespaceMode| {
        (if host == Some(true) { NamespaceMode::Node } else { otherwise }) as i32
    };
    let pid = if spec.share_process_namespace == Some(true) { NamespaceMode::Pod } else { NamespaceMode::Container };
    NamespaceOption {
        network: mode(spec.host_network, NamespaceMode::Pod),
        pid: mode(spec.host_pid, pid),
        ipc: mode(spec.host_ipc, NamespaceMode::Pod),
        ..NamespaceOption::default()
    }
}

/// The security of the sandbox.
pub fn sandbox(pod: &Pod) -> LinuxSandboxSecurityContext {
    let context = pod_spec(pod).security_context.clone().unwrap_or_default();
    let privileged = spec::containers(pod)
        .iter()
        .any(|spec| spec.container.security_context.as_ref().is_some_and(|context| context.privileged == Some(true)));
    LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: context.se_linux_options.as_ref().map(selinux),
        run_as_user: context.run_as_user.map(|value| Int64Value { value }),
        run_as_group: context.run_as_group.map(|value| Int64Value { value }),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        privileged,
        seccomp: Some(SecurityProfile {
            profile_type: ProfileType::RuntimeDefault as i32,
            ..SecurityProfile::default()
        }),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// The security of one container; `profiles` is the folder of seccomp profiles.
pub fn container(pod: &Pod, spec: &Spec<'_>, profiles: &Path, seccomp_default: bool) -> LinuxContainerSecurityContext {
    let context = pod_spec(pod).security_context.clone().unwrap_or_default();
    let own = spec.container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged == Some(true);
    let unmasked = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| if unmasked { vec![] } else { list.iter().map(|path| (*path).to_owned()).collect() };
    let user = own.run_as_user.or(context.run_as_user);
    let group = own.run_as_group.or(context.run_as_group);
    LinuxContainerSecurityContext {
        capabilities: own.capabilities.as_ref().map(|capabilities| Capability {
            add_capabilities: capabilities.add.clone().unwrap_or_default(),
            drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
            ..Capability::default()
        }),
        privileged,
        namespace_options: Some(namespaces_of(pod, spec)),
        selinux_options: own.se_linux_options.as_ref().or(context.se_linux_options.as_ref()).map(selinux),
        run_as_user: user.map(|value| Int64Value { value }),
        run_as_group: group.map(|value| Int64Value { value }),
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        supplemental_groups: groups(&context),
        supplemental_groups_policy: groups_policy(&context),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: Some(if privileged {
            seccomp(None, profiles)
        } else {
            let named = own.seccomp_profile.as_ref().or(context.seccomp_profile.as_ref());
            let default = SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None };
            seccomp(named.or(seccomp_default.then_some(&default)), profiles)
        }),
        apparmor: apparmor(&own, &context),
        ..LinuxContainerSecurityContext::default()
    }
}

fn namespaces_of(pod: &Pod, spec: &Spec<'_>) -> NamespaceOption {
    let mut options = namespaces(pod);
    if spec.kind == Kind::Ephemeral && options.pid == NamespaceMode::Container as i32 {
        let all = pod_spec(pod).ephemeral_containers.iter().flatten();
        let target = all.filter(|c| c.name == spec.name()).find_map(|c| c.target_container_name.clone());
        if let Some(target) = target.filter(|target| !target.is_empty()) {
            // The executor puts the target's id in the place of its name.
            options.pid = NamespaceMode::Target as i32;
            options.target_id = target;
        }
    }
    options
}

fn groups(context: &PodSecurityContext) -> Vec<i64> {
    context.fs_group.iter().chain(context.supplemental_groups.iter().flatten()).copied().collect()
}

fn groups_policy(context: &PodSecurityContext) -> i32 {
    match context.supplemental_groups_policy.as_deref() {
        Some("Strict") => SupplementalGroupsPolicy::Strict as i32,
        _ => SupplementalGroupsPolicy::Merge as i32,
    }
}

fn selinux(options: &k8s_openapi::api::core::v1::SELinuxOptions) -> SeLinuxOption {
    SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

fn seccomp(profile: Option<&SeccompProfile>, profiles: &Path) -> SecurityProfile {
    let (profile_type, localhost_ref) = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => (ProfileType::RuntimeDefault, String::new()),
        Some("Localhost") => {
            let file = profile.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default();
            (ProfileType::Localhost, profiles.join(file).to_string_lossy().into_owned())
        }
        _ => (ProfileType::Unconfined, String::new()),
    };
    SecurityProfile { profile_type: profile_type as i32, localhost_ref }
}

fn apparmor(own: &SecurityContext, context: &PodSecurityContext) -> Option<SecurityProfile> {
    let profile = own.app_armor_profile.as_ref().or(context.app_armor_profile.as_ref())?;
    let profile_type = match profile.type_.as_str() {
        "Localhost" => ProfileType::Localhost,
        "Unconfined" => ProfileType::Unconfined,
        _ => ProfileType::RuntimeDefault,
    };
    let localhost_ref = profile.localhost_profile.clone().unwrap_or_default();
    Some(SecurityProfile { profile_type: profile_type as i32, localhost_ref })
}

/// Whether `runAsNonRoot` lets the container run.
///
/// # Errors
/// The words of upstream, where it does not.
pub fn verify_non_root(pod: &Pod, spec: &Spec<'_>, image: &ImageUser) -> Result<(), String> {
    let context = pod_spec(pod).security_context.as_ref();
    let own = spec.container.security_context.as_ref();
    let asked = own.and_then(|own| own.run_as_non_root).or(context.and_then(|context| context.run_as_non_root));
    if asked != Some(true) {
        return Ok(());
    }
    let place = format!("(pod: {:?}, container: {})", spec::pod_ref(pod), spec.name());
    let user = own.and_then(|own| own.run_as_user).or(context.and_then(|context| context.run_as_user));
    match (user, image.uid, image.name.as_str()) {
        (Some(0), _, _) => Err(format!("container's runAsUser breaks non-root policy {place}")),
        (Some(_), _, _) => Ok(()),
        (None, Some(0), _) => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        (None, None, "") => Err(format!("container has runAsNonRoot and image will run as root {place}")),
        (None, None, name) => Err(format!(
            "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {place}"
        )),
        (None, Some(_), _) => Ok(()),
    }
}
