//! From the interface's request to an OCI specification. A pure function over plain data:
//! what must be looked up on the machine (devices, the image's user files) is handed in.

mod capabilities;
mod mounts;
mod resources;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use skiff_cri::security_profile::ProfileType;
use skiff_cri::{
    ContainerConfig, CriError, CriResult, LinuxContainerResources, LinuxContainerSecurityContext, NamespaceMode,
    PodSandboxConfig,
};

use crate::confine;
use crate::images::ImageConfig;
use crate::oci::*;
use crate::users::{self, UserDb};

pub use capabilities::ALL_CAPABILITIES;
use capabilities::capabilities;
pub use mounts::user_namespace;
use mounts::{labelled, mounts, owned_by, propagation};
pub use resources::{GrantedDevice, limits};
use resources::{device_rules, devices};

/// The version of the OCI runtime specification that is written.
const OCI_VERSION: &str = "1.2.0";
/// The search path of containers whose image sets none.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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
