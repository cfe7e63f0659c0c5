//! The configuration of one container.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{Pod, VolumeMount};
use skiff_cri::{
    ContainerConfig, ContainerMetadata, Device, ImageSpec, KeyValue, LinuxContainerConfig, Mount, MountPropagation,
    Signal,
};

use super::env::{self, EnvError};
use super::{NodeFacts, Objects, paths, resources, sandbox, security, uid};
use crate::pod::spec::{self, Spec};
use crate::volumes::Plugin;

/// Where the agent notes, on each container, what it will need when it finds it again.
pub const HASH: &str = "io.kubernetes.container.hash";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Where in the container its termination message is.
pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// `File` or `FallbackToLogsOnError`.
pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

const DEFAULT_MESSAGE_PATH: &str = "/dev/termination-log";
const HOSTS_PATH: &str = "/etc/hosts";

/// What a container is made from beyond the Pod itself.
#[derive(Debug)]
pub struct Ingredients<'a> {
    /// How many containers of this name there were before.
    pub attempt: u32,
    /// What the runtime calls the image.
    pub image_ref: &'a str,
    /// The Pod's addresses.
    pub ips: &'a [String],
    /// The objects it refers to.
    pub objects: &'a Objects,
    /// Where each volume of the Pod is on the node.
    pub volumes: &'a BTreeMap<String, PathBuf>,
    /// What the runtime calls the images of those that are images.
    pub volume_images: &'a BTreeMap<String, String>,
}

/// The configuration of one attempt of a container.
///
/// # Errors
/// Something that the spec refers to is not there; the words are upstream's.
pub fn config(
    pod: &Pod,
    spec: &Spec<'_>,
    from: &Ingredients<'_>,
    node: &NodeFacts,
) -> Result<ContainerConfig, EnvError> {
    let variables = env::build(pod, spec, from.ips, from.objects, node)?;
    let known: BTreeMap<_, _> = variables.iter().cloned().collect();
    let expand = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| env::expand(word, &known)).collect()
    };
    let container = &spec.container;
    let mut labels = sandbox::identity(pod);
    labels.insert(sandbox::CONTAINER_NAME.to_owned(), spec.name().to_owned());
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: spec.name().to_owned(), attempt: from.attempt }),
        image: Some(ImageSpec {
            image: from.image_ref.to_owned(),
            user_specified_image: spec.image().to_owned(),
            ..ImageSpec::default()
        }),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: variables.into_iter().map(|(key, value)| KeyValue { key, value }).collect(),
        mounts: mounts(pod, spec, from, node, &known)?,
        devices: devices(pod, spec, from)?,
        labels,
        annotations: annotations(pod, spec, from.attempt),
        log_path: paths::log_path(spec.name(), from.attempt).to_string_lossy().into_owned(),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        tty: container.tty == Some(true),
        linux: Some(LinuxContainerConfig {
            resources: Some(resources::container(pod, container, node)),
            security_context: Some(security::container(
                pod,
                spec,
                &node.paths.root.join("seccomp"),
                node.seccomp_default,
            )),
        }),
        stop_signal: stop_signal(spec),
        ..ContainerConfig::default()
    })
}

fn annotations(pod: &Pod, spec: &Spec<'_>, attempt: u32) -> HashMap<String, String> {
    let container = &spec.container;
    let policy = container.termination_message_policy.as_deref().unwrap_or("File");
    let grace = spec::spec(pod).termination_grace_period_seconds.unwrap_or(30);
    [
        (HASH, spec.hash()),
        (RESTART_COUNT, attempt.to_string()),
        (MESSAGE_PATH, message_path(spec).to_owned()),
        (MESSAGE_POLICY, policy.to_owned()),
        (POD_GRACE, grace.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into()
}

/// Where in the container its termination message goes.
pub fn message_path<'a>(spec: &'a Spec<'_>) -> &'a str {
    let path = spec.container.termination_message_path.as_deref();
    path.filter(|path| !path.is_empty()).unwrap_or(DEFAULT_MESSAGE_PATH)
}

fn mounts(
    pod: &Pod,
    spec: &Spec<'_>,
    from: &Ingredients<'_>,
    node: &NodeFacts,
    variables: &BTreeMap<String, String>,
) -> Result<Vec<Mount>, EnvError> {
    let mut mounts = Vec::new();
    let mut has_hosts = false;
    for mount in spec.container.volume_mounts.iter().flatten() {
        has_hosts |= mount.mount_path == HOSTS_PATH;
        if let Some(image_ref) = from.volume_images.get(&mount.name) {
            mounts.push(image_mount(pod, mount, image_ref, variables)?);
            continue;
        }
        mounts.push(Mount {
            container_path: absolute(&mount.mount_path),
            host_path: host_path(pod, mount, from.volumes, variables)?.to_string_lossy().into_owned(),
            readonly: mount.read_only == Some(true),
            selinux_relabel: is_made_here(pod, &mount.name),
            propagation: match mount.mount_propagation.as_deref() {
                Some("HostToContainer") => MountPropagation::PropagationHostToContainer,
                Some("Bidirectional") => MountPropagation::PropagationBidirectional,
                _ => MountPropagation::PropagationPrivate,
            } as i32,
            recursive_read_only: match mount.recursive_read_only.as_deref() {
                Some("Enabled") => true,
                Some("IfPossible") => mount.read_only == Some(true) && node.recursive_read_only,
                _ => false,
            },
            ..Mount::default()
        });
    }
    let own_file = |container_path: &str, host_path: PathBuf| Mount {
        selinux_relabel: true,
        container_path: container_path.to_owned(),
        host_path: host_path.to_string_lossy().into_owned(),
        ..Mount::default()
    };
    if !has_hosts {
        mounts.push(own_file(HOSTS_PATH, node.paths.hosts(uid(pod))));
    }
    let message = node.paths.termination_log(uid(pod), spec.name(), from.attempt);
    mounts.push(own_file(message_path(spec), message));
    Ok(mounts)
}

/// Whether a volume is made by the node for this Pod alone, so that it may bear the Pod's label.
fn is_made_here(pod: &Pod, volume: &str) -> bool {
    let volume = spec::spec(pod).volumes.iter().flatten().find(|one| one.name == volume);
    let plugin = volume.and_then(Plugin::of);
    plugin.is_some_and(|plugin| !matches!(plugin, Plugin::HostPath | Plugin::Nfs | Plugin::Claim | Plugin::Image))
}

/// The block volumes that the container gets as devices.
fn devices(pod: &Pod, spec: &Spec<'_>, from: &Ingredients<'_>) -> Result<Vec<Device>, EnvError> {
    let devices = spec.container.volume_devices.iter().flatten().map(|device| {
        let place = || spec::pod_ref(pod);
        let path = from.volumes.get(&device.name).ok_or_else(|| {
            EnvError(format!("cannot find volume {:?} to pass into container of {}", device.name, place()))
        })?;
        // The link leads to the device.
        let path = std::fs::read_link(path).unwrap_or_else(|_| path.clone());
        Ok(Device {
            container_path: device.device_path.clone(),
            host_path: path.to_string_lossy().into_owned(),
            permissions: "mrw".to_owned(),
        })
    });
    devices.collect()
}

/// The files of an image in the container, read-only whatever the mount says.
fn image_mount(
    pod: &Pod,
    mount: &VolumeMount,
    image_ref: &str,
    variables: &BTreeMap<String, String>,
) -> Result<Mount, EnvError> {
    let volume = spec::spec(pod).volumes.iter().flatten().find(|volume| volume.name == mount.name);
    let reference = volume.and_then(|volume| volume.image.as_ref()).and_then(|image| image.reference.clone());
    let sub_path = sub_path(mount, variables)?.map(|path| path.to_string_lossy().into_owned());
    Ok(Mount {
        container_path: absolute(&mount.mount_path),
        readonly: true,
        image: Some(ImageSpec {
            image: image_ref.to_owned(),
            user_specified_image: reference.unwrap_or_default(),
            ..ImageSpec::default()
        }),
        image_sub_path: sub_path.unwrap_or_default(),
        ..Mount::default()
    })
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Where the mounted volume, or the part of it that `subPath` names, is on the node.
fn host_path(
    pod: &Pod,
    mount: &VolumeMount,
    volumes: &BTreeMap<String, PathBuf>,
    variables: &BTreeMap<String, String>,
) -> Result<PathBuf, EnvError> {
    let Some(volume) = volumes.get(&mount.name) else {
        let place = spec::pod_ref(pod);
        return Err(EnvError(format!("cannot find volume {:?} to mount into container of {place}", mount.name)));
    };
    match sub_path(mount, variables)? {
        Some(sub_path) => Ok(volume.join(sub_path)),
        None => Ok(volume.clone()),
    }
}

/// The part of its volume that a mount names, checked to stay below it as far as its text says.
///
/// # Errors
/// The path leaves the volume, or names a variable that has no value.
pub fn sub_path(mount: &VolumeMount, variables: &BTreeMap<String, String>) -> Result<Option<PathBuf>, EnvError> {
    let expression = mount.sub_path_expr.as_deref().filter(|text| !text.is_empty());
    let text = match expression {
        Some(expression) => expanded(expression, variables)?,
        None => mount.sub_path.clone().unwrap_or_default(),
    };
    if text.is_empty() {
        return Ok(None);
    }
    let path = Path::new(&text);
    if path.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(EnvError(format!("subPath {text:?} must be a relative path without '..'")));
    }
    Ok(Some(path.to_owned()))
}

/// A path in which every variable has a value: without one it would be another folder, or the whole volume.
fn expanded(expression: &str, variables: &BTreeMap<String, String>) -> Result<String, EnvError> {
    let mut missing = None;
    let text = env::expand_with(expression, |name| {
        let value = variables.get(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing = Some(name.to_owned());
        }
        value.cloned().unwrap_or_default()
    });
    missing.map_or(Ok(text), |name| Err(EnvError(format!("missing value for {name:?}"))))
}

fn stop_signal(spec: &Spec<'_>) -> i32 {
    let wanted = spec.container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    let number = wanted.and_then(|name| (1..=65).find(|number| signal_name(*number).as_deref() == Some(name)));
    number.unwrap_or(Signal::RuntimeDefault as i32)
}

/// The name of a signal of the interface, `SIGTERM`.
fn signal_name(number: i32) -> Option<String> {
    Signal::try_from(number).ok().map(|signal| {
        let name = format!("{signal:?}").to_uppercase();
        name.replace("MINUS", "-").replace("PLUS", "+")
    })
}
