//! Questions that a Pod's spec answers by itself.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Container, ContainerRestartRule, EphemeralContainer, Pod, PodSpec, Probe};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use skiff_base::Quantity;

use super::types::{Kind, ProbeKind};

/// One container of a Pod, from whichever list.
#[derive(Debug, Clone)]
pub struct Spec<'a> {
    /// How it lives.
    pub kind: Kind,
    /// What it is.
    pub container: Cow<'a, Container>,
}

impl Spec<'_> {
    /// The name.
    pub fn name(&self) -> &str {
        &self.container.name
    }

    /// The image as it is written.
    pub fn image(&self) -> &str {
        self.container.image.as_deref().unwrap_or("")
    }

    /// How events refer to it.
    pub fn field_path(&self) -> String {
        let list = match self.kind {
            Kind::Init | Kind::Sidecar => "initContainers",
            Kind::Regular => "containers",
            Kind::Ephemeral => "ephemeralContainers",
        };
        format!("spec.{list}{{{}}}", self.name())
    }

    /// Changes when the container must be replaced: with the name and the image, the one field that can change.
    pub fn hash(&self) -> String {
        // FNV-1a: the value is kept in the runtime over updates of this program, so it must not depend on a library.
        let bytes = self.name().bytes().chain([0]).chain(self.image().bytes());
        let hash =
            bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        format!("{hash:x}")
    }

    /// The probe of a kind.
    pub fn probe(&self, kind: ProbeKind) -> Option<&Probe> {
        match kind {
            ProbeKind::Liveness => self.container.liveness_probe.as_ref(),
            ProbeKind::Readiness => self.container.readiness_probe.as_ref(),
            ProbeKind::Startup => self.container.startup_probe.as_ref(),
        }
    }

    /// Whether there is a postStart hook.
    pub fn has_post_start(&self) -> bool {
        self.container.lifecycle.as_ref().is_some_and(|lifecycle| lifecycle.post_start.is_some())
    }

    /// Whether it comes back after it ended with `exit_code`: by the first of its own rules that speaks of that code, else by its
    /// own policy, else by the Pod's.
    /// See <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#restart-policy>.
    pub fn restarts(&self, pod: &PodSpec, exit_code: i32) -> bool {
        if matches!(self.kind, Kind::Regular | Kind::Init)
            && let Some(rule) =
                self.container.restart_policy_rules.iter().flatten().find(|rule| speaks(rule, exit_code))
        {
            return matches!(rule.action.as_str(), "Restart" | RESTART_ALL);
        }
        let policy = match self.kind {
            Kind::Ephemeral => "Never",
            Kind::Sidecar => "Always",
            _ => self.container.restart_policy.as_deref().unwrap_or_else(|| restart_policy(pod)),
        };
        match (policy, self.kind) {
            ("Never", _) => false,
            ("OnFailure", _) | (_, Kind::Init) => exit_code != 0,
            _ => true,
        }
    }

    /// Whether all containers of the Pod are restarted after one has ended so.
    pub fn restarts_all(&self, exit_code: i32) -> bool {
        let rule = self.container.restart_policy_rules.iter().flatten().find(|rule| speaks(rule, exit_code));
        self.kind != Kind::Ephemeral && rule.is_some_and(|rule| rule.action == RESTART_ALL)
    }

    /// Whether that may ever come.
    pub fn may_restart_all(&self) -> bool {
        self.container.restart_policy_rules.iter().flatten().any(|rule| rule.action == RESTART_ALL)
    }
}

/// The action of a rule that has all containers restarted.
const RESTART_ALL: &str = "RestartAllContainers";

/// Whether a restart rule is about this exit code.
fn speaks(rule: &ContainerRestartRule, exit_code: i32) -> bool {
    let Some(codes) = &rule.exit_codes else { return false };
    let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
    match codes.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        _ => false,
    }
}

/// The Pod's spec, which every Pod that comes to a node has.
pub fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

/// The Pod's restart policy.
pub fn restart_policy(spec: &PodSpec) -> &str {
    spec.restart_policy.as_deref().unwrap_or("Always")
}

/// All containers in the order in which they start.
pub fn containers(pod: &Pod) -> Vec<Spec<'_>> {
    let spec = spec(pod);
    let mut all: Vec<Spec<'_>> = spec.init_containers.iter().flatten().map(init).collect();
    all.extend(spec.containers.iter().map(|c| Spec { kind: Kind::Regular, container: Cow::Borrowed(c) }));
    all.extend(spec.ephemeral_containers.iter().flatten().map(ephemeral));
    all
}

/// The container of a name.
pub fn container<'a>(pod: &'a Pod, name: &str) -> Option<Spec<'a>> {
    containers(pod).into_iter().find(|spec| spec.name() == name)
}

/// The image volumes that a container mounts, each as if it were a container to be started from its image.
pub fn image_volumes(pod: &Pod, container: &Container) -> Vec<Spec<'static>> {
    let mounted = |name: &str| container.volume_mounts.iter().flatten().any(|mount| mount.name == name);
    let volumes = spec(pod).volumes.iter().flatten().filter(|volume| mounted(&volume.name));
    let images = volumes.filter_map(|volume| {
        let image = volume.image.as_ref()?;
        let container = Container {
            name: format!("{}{}", super::resize::IMAGE_VOLUME, volume.name),
            image: image.reference.clone(),
            image_pull_policy: image.pull_policy.clone(),
            ..Container::default()
        };
        Some(Spec { kind: Kind::Regular, container: Cow::Owned(container) })
    });
    images.collect()
}

fn init(container: &Container) -> Spec<'_> {
    let sidecar = container.restart_policy.as_deref() == Some("Always");
    Spec { kind: if sidecar { Kind::Sidecar } else { Kind::Init }, container: Cow::Borrowed(container) }
}

fn ephemeral(from: &EphemeralContainer) -> Spec<'_> {
    let from = from.clone();
    let container = Container {
        args: from.args,
        command: from.command,
        env: from.env,
        env_from: from.env_from,
        image: from.image,
        image_pull_policy: from.image_pull_policy,
        name: from.name,
        resources: from.resources,
        security_context: from.security_context,
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        termination_message_path: from.termination_message_path,
        termination_message_policy: from.termination_message_policy,
        tty: from.tty,
        volume_mounts: from.volume_mounts,
        working_dir: from.working_dir,
        ..Container::default()
    };
    Spec { kind: Kind::Ephemeral, container: Cow::Owned(container) }
}

/// The containers that run as the Pod's status says: names and ids.
pub fn running(pod: &Pod) -> Vec<(String, String)> {
    let Some(status) = &pod.status else { return vec![] };
    let lists = [&status.container_statuses, &status.init_container_statuses, &status.ephemeral_container_statuses];
    let all = lists.into_iter().flat_map(|list| list.iter().flatten());
    let running = all.filter(|status| status.state.as_ref().is_some_and(|state| state.running.is_some()));
    let named = running.filter_map(|status| {
        let (_, id) = status.container_id.as_ref()?.split_once("://")?;
        Some((status.name.clone(), id.to_owned()))
    });
    named.collect()
}

/// `name_namespace(uid)`, as messages of upstream's kubelet identify a Pod.
pub fn pod_ref(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let part = |field: &Option<String>| field.clone().unwrap_or_default();
    format!("{}_{}({})", part(&meta.name), part(&meta.namespace), part(&meta.uid))
}

/// The grace period of the Pod: what its deletion says, else what its spec says.
pub fn grace_seconds(pod: &Pod) -> i64 {
    let from_spec = spec(pod).termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
    match pod.metadata.deletion_timestamp {
        Some(_) => pod.metadata.deletion_grace_period_seconds.unwrap_or(from_spec),
        None => from_spec,
    }
}

/// What upstream's defaulting writes where a spec says nothing.
const DEFAULT_GRACE_SECONDS: i64 = 30;

/// Whether the Pod shares the node's network.
pub fn host_network(pod: &Pod) -> bool {
    spec(pod).host_network == Some(true)
}

/// A quantity of the API as a number; what cannot be read counts as zero (the API server has validated it).
pub fn quantity(text: &ApiQuantity) -> Quantity {
    text.0.parse().unwrap_or(Quantity::ZERO)
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
/// See <https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>.
pub fn qos_class(pod: &Pod) -> &'static str {
    let spec = spec(pod);
    let all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let (mut any, mut guaranteed) = (false, true);
    let whole = spec.resources.as_ref();
    let each = all.map(|container| container.resources.as_ref());
    let considered: Vec<_> = if whole.is_some() { vec![whole] } else { each.collect() };
    for resources in considered {
        let get = |limits: bool, name: &str| {
            let list = if limits { resources?.limits.as_ref() } else { resources?.requests.as_ref() };
            list?.get(name).map(quantity).filter(|amount| !amount.is_zero())
        };
        for name in ["cpu", "memory"] {
            let (request, limit) = (get(false, name), get(true, name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.or(limit) == limit;
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
