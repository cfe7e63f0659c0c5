//! The controls of the level `baseline`. Pure: each looks at a Pod (or a template of one) and says what is wrong with it.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_object::Object;
use skiff_object::meta::Meta;

/// What is wrong with a Pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// In few words, for many Pods at once.
    pub reason: String,
    /// Who does what.
    pub detail: String,
}

impl Violation {
    /// A violation in these words.
    pub fn new(reason: impl Into<String>, detail: impl Into<String>) -> Option<Self> {
        Some(Self { reason: reason.into(), detail: detail.into() })
    }
}

/// Capabilities that a container may add.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const APPARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
/// Kernel settings that are a Pod's own, with the version that knows each first.
const SYSCTLS: [(&str, u32); 10] = [
    ("kernel.shm_rmid_forced", 0),
    ("net.ipv4.ip_local_port_range", 0),
    ("net.ipv4.tcp_syncookies", 0),
    ("net.ipv4.ping_group_range", 0),
    ("net.ipv4.ip_unprivileged_port_start", 0),
    ("net.ipv4.ip_local_reserved_ports", 27),
    ("net.ipv4.tcp_keepalive_time", 29),
    ("net.ipv4.tcp_fin_timeout", 29),
    ("net.ipv4.tcp_keepalive_intvl", 29),
    ("net.ipv4.tcp_keepalive_probes", 29),
];
const SELINUX_TYPES: [(&str, u32); 5] =
    [("", 0), ("container_t", 0), ("container_init_t", 0), ("container_kvm_t", 0), ("container_engine_t", 31)];

/// All containers of a Pod: those that prepare it, those that are it, and those that came later.
pub fn containers(pod: &Object) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|list| pod.list_at(&["spec", list]))
}

/// A field of a container's security context; null counts as absent.
pub fn secured<'a>(container: &'a Value, field: &str) -> Option<&'a Value> {
    container.at(&["securityContext", field]).filter(|value| !value.is_null())
}

/// A field of the Pod's own security context.
pub fn pod_secured<'a>(pod: &'a Object, field: &str) -> Option<&'a Value> {
    pod.at(&["spec", "securityContext", field]).filter(|value| !value.is_null())
}

/// One word or the other.
pub fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `"a", "b"`.
pub fn quoted<S: AsRef<str>>(items: impl IntoIterator<Item = S>) -> String {
    let items: Vec<_> = items.into_iter().map(|item| format!("\"{}\"", item.as_ref())).collect();
    items.join(", ")
}

/// `container "a"`, or `containers "a", "b"`.
pub fn named(containers: &[&str]) -> String {
    format!("{} {}", plural("container", "containers", containers.len()), quoted(containers))
}

/// The names of the containers of which something is true.
pub fn which<'a>(pod: &'a Object, mut is_bad: impl FnMut(&'a Value) -> bool) -> Vec<&'a str> {
    containers(pod).filter(|container| is_bad(container)).map(|container| container.str_at(&["name"])).collect()
}

/// `pod and containers "a", "b"`; empty where it is neither.
pub fn setters(by_pod: bool, containers: &[&str]) -> String {
    let mut parts = Vec::new();
    if by_pod {
        parts.push("pod".to_owned());
    }
    if !containers.is_empty() {
        parts.push(named(containers));
    }
    parts.join(" and ")
}

/// Windows containers that are processes of the host.
pub fn host_process(pod: &Object, _: u32) -> Option<Violation> {
    let is_set = |options: Option<&Value>| options.is_some_and(|options| options.bool_at(&["hostProcess"]));
    let bad = which(pod, |container| is_set(secured(container, "windowsOptions")));
    let who = setters(is_set(pod_secured(pod, "windowsOptions")), &bad);
    if who.is_empty() {
        return None;
    }
    Violation::new("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

/// The node's namespaces.
pub fn host_namespaces(pod: &Object, _: u32) -> Option<Violation> {
    let used = ["hostNetwork", "hostPID", "hostIPC"].into_iter().filter(|field| pod.bool_at(&["spec", field]));
    let used: Vec<_> = used.map(|field| format!("{field}=true")).collect();
    if used.is_empty() { None } else { Violation::new("host namespaces", used.join(", ")) }
}

/// Containers without any bound.
pub fn privileged(pod: &Object, _: u32) -> Option<Violation> {
    let bad = which(pod, |container| container.bool_at(&["securityContext", "privileged"]));
    if bad.is_empty() {
        return None;
    }
    Violation::new("privileged", format!("{} must not set securityContext.privileged=true", named(&bad)))
}

/// Capabilities beyond those that containers have anyway.
pub fn capabilities(pod: &Object, _: u32) -> Option<Violation> {
    let mut forbidden = BTreeSet::new();
    let bad = which(pod, |container| {
        let added = container.list_at(&["securityContext", "capabilities", "add"]).iter().filter_map(Value::as_str);
        let wrong: Vec<_> = added.filter(|name| !CAPABILITIES.contains(name)).collect();
        forbidden.extend(wrong.iter().copied());
        !wrong.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must not include {} in securityContext.capabilities.add", named(&bad), quoted(forbidden));
    Violation::new("non-default capabilities", detail)
}

/// Folders of the node.
pub fn host_paths(pod: &Object, _: u32) -> Option<Violation> {
    let volumes = pod.list_at(&["spec", "volumes"]).iter();
    let bad: Vec<_> = volumes
        .filter(|volume| volume.get("hostPath").is_some_and(|path| !path.is_null()))
        .map(|volume| volume.str_at(&["name"]))
        .collect();
    if bad.is_empty() {
        return None;
    }
    Violation::new("hostPath volumes", format!("{} {}", plural("volume", "volumes", bad.len()), quoted(&bad)))
}

/// Ports of the node.
pub fn host_ports(pod: &Object, _: u32) -> Option<Violation> {
    let mut ports = BTreeSet::new();
    let bad = which(pod, |container| {
        let own = container.list_at(&["ports"]).iter().filter_map(|port| port.int_at(&["hostPort"]));
        let own: Vec<_> = own.filter(|port| *port != 0).map(|port| port.to_string()).collect();
        let any = !own.is_empty();
        ports.extend(own);
        any
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {}",
        named(&bad),
        plural("uses", "use", bad.len()),
        plural("hostPort", "hostPorts", ports.len()),
        ports.into_iter().collect::<Vec<_>>().join(", ")
    );
    Violation::new("hostPort", detail)
}

/// Hosts that the node is made to talk to.
pub fn probe_hosts(pod: &Object, _: u32) -> Option<Violation> {
    let mut hosts = BTreeSet::new();
    let handlers: [&[&str]; 5] = [
        &["livenessProbe"],
        &["readinessProbe"],
        &["startupProbe"],
        &["lifecycle", "postStart"],
        &["lifecycle", "preStop"],
    ];
    let mut bad = which(pod, |container| {
        let handlers = handlers.iter().filter_map(|path| container.at(path));
        let own =
            handlers.flat_map(|handler| [handler.str_at(&["httpGet", "host"]), handler.str_at(&["tcpSocket", "host"])]);
        let own: Vec<_> = own.filter(|host| !host.is_empty()).collect();
        hosts.extend(own.iter().copied());
        !own.is_empty()
    });
    if bad.is_empty() {
        return None;
    }
    bad.sort_unstable();
    let (uses, what) =
        (plural("uses", "use", bad.len()), plural("probe or lifecycle host", "probe or lifecycle hosts", hosts.len()));
    Violation::new("probe or lifecycle host", format!("{} {uses} {what} {}", named(&bad), quoted(hosts)))
}

/// AppArmor profiles that do not confine.
pub fn apparmor(pod: &Object, _: u32) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut is_bad = |profile: Option<&Value>| {
        let kind = profile.map(|profile| profile.str_at(&["type"])).unwrap_or_default();
        let bad = profile.is_some() && !matches!(kind, "" | "RuntimeDefault" | "Localhost");
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let by_pod = is_bad(pod_secured(pod, "appArmorProfile"));
    let bad = which(pod, |container| is_bad(secured(container, "appArmorProfile")));
    let allowed = |value: &str| value.is_empty() || value == "runtime/default" || value.starts_with("localhost/");
    let annotations = pod.map_at(&["metadata", "annotations"]).into_iter().flatten();
    let mut annotations: Vec<_> = annotations
        .filter_map(|(key, value)| Some((key, value.as_str()?)))
        .filter(|(key, value)| key.starts_with(APPARMOR) && !allowed(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    annotations.sort();
    let mut who = setters(by_pod, &bad);
    if !annotations.is_empty() {
        if !who.is_empty() {
            who.push_str(" and ");
        }
        who.push_str(plural("annotation", "annotations", annotations.len()));
    }
    if who.is_empty() {
        return None;
    }
    let all: Vec<_> = values.into_iter().chain(annotations).collect();
    let reason = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", all.len());
    Violation::new(reason, format!("{who} must not set AppArmor profile type to {}", quoted(all)))
}

/// Labels of SELinux that a Pod gives itself.
pub fn selinux(pod: &Object, minor: u32) -> Option<Violation> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut is_bad = |options: Option<&Value>| {
        let Some(options) = options else { return false };
        let kind = options.str_at(&["type"]);
        let bad_type = !SELINUX_TYPES.iter().any(|(known, since)| *known == kind && minor >= *since);
        if bad_type {
            types.insert(kind.to_owned());
        }
        let (sets_user, sets_role) = (!options.str_at(&["user"]).is_empty(), !options.str_at(&["role"]).is_empty());
        (user, role) = (user || sets_user, role || sets_role);
        bad_type || sets_user || sets_role
    };
    let by_pod = is_bad(pod_secured(pod, "seLinuxOptions"));
    let bad = which(pod, |container| is_bad(secured(container, "seLinuxOptions")));
    let who = setters(by_pod, &bad);
    if who.is_empty() {
        return None;
    }
    let mut what = Vec::new();
    if !types.is_empty() {
        what.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
    }
    if user {
        what.push("user may not be set".to_owned());
    }
    if role {
        what.push("role may not be set".to_owned());
    }
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    Violation::new("seLinuxOptions", detail)
}

/// Whether the Pod has users of its own, so that its root is nobody on the node.
pub fn has_own_users(pod: &Object) -> bool {
    pod.at(&["spec", "hostUsers"]) == Some(&Value::Bool(false))
}

/// All of `/proc`; a Pod with users of its own may see it from 1.35 on.
pub fn proc_mount_baseline(pod: &Object, minor: u32) -> Option<Violation> {
    const RELAXED_SINCE: u32 = 35;
    if minor >= RELAXED_SINCE && has_own_users(pod) { None } else { proc_mount(pod, minor) }
}

/// All of `/proc`.
pub fn proc_mount(pod: &Object, _: u32) -> Option<Violation> {
    let mut kinds = BTreeSet::new();
    let bad = which(pod, |container| {
        let kind = container.str_at(&["securityContext", "procMount"]);
        let is_bad = !matches!(kind, "" | "Default");
        if is_bad {
            kinds.insert(kind);
        }
        is_bad
    });
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must not set securityContext.procMount to {}", named(&bad), quoted(kinds));
    Violation::new("procMount", detail)
}

/// Seccomp profiles by annotation, as they were given before 1.19.
pub fn seccomp_annotations(pod: &Object, _: u32) -> Option<Violation> {
    let allowed =
        |value: &str| matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/");
    let keys = containers(pod).map(|container| format!("{SECCOMP_CONTAINER}{}", container.str_at(&["name"])));
    let keys = keys.chain([SECCOMP_POD.to_owned()]);
    let bad: BTreeSet<_> = keys
        .filter_map(|key| pod.annotation(&key).map(|value| (key.clone(), value.to_owned())))
        .filter(|(_, value)| !allowed(value))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let list = bad.iter().cloned().collect::<Vec<_>>().join(", ");
    let detail = format!("forbidden {} {list}", plural("annotation", "annotations", bad.len()));
    Violation::new("seccompProfile", detail)
}

/// Seccomp profiles that let everything through, where they are given.
pub fn seccomp_baseline(pod: &Object, _: u32) -> Option<Violation> {
    seccomp_set(pod)
}

/// Who sets a seccomp profile that lets everything through.
pub fn seccomp_set(pod: &Object) -> Option<Violation> {
    let mut values = BTreeSet::new();
    let mut is_bad = |profile: Option<&Value>| {
        let Some(profile) = profile else { return false };
        let kind = profile.str_at(&["type"]);
        let bad = !is_confining(kind);
        if bad {
            values.insert(kind.to_owned());
        }
        bad
    };
    let by_pod = is_bad(pod_secured(pod, "seccompProfile"));
    let bad = which(pod, |container| is_bad(secured(container, "seccompProfile")));
    let who = setters(by_pod, &bad);
    if who.is_empty() {
        return None;
    }
    let detail = format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(values));
    Violation::new("seccompProfile", detail)
}

/// Whether a seccomp profile of this type confines.
pub fn is_confining(kind: &str) -> bool {
    matches!(kind, "RuntimeDefault" | "Localhost")
}

/// Kernel settings that reach beyond the Pod.
pub fn sysctls(pod: &Object, minor: u32) -> Option<Violation> {
    let all = pod.list_at(&["spec", "securityContext", "sysctls"]).iter().map(|sysctl| sysctl.str_at(&["name"]));
    let safe = |name: &str| SYSCTLS.iter().any(|(known, since)| *known == name && minor >= *since);
    let bad: Vec<_> = all.filter(|name| !safe(name)).collect();
    if bad.is_empty() { None } else { Violation::new("forbidden sysctls", bad.join(", ")) }
}
