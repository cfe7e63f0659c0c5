//! What may be wrong with the security contexts of Pods and containers.

use std::collections::BTreeSet;

use skiff_object::FieldError;

use crate::rules::check::{At, Faults};
use crate::rules::os_check;
use crate::rules::volume_check::relative;

/// The greatest id of a user or group.
const ID_LIMIT: i64 = i32::MAX as i64;

/// Checks a container's security context.
pub fn container(faults: &mut Faults, context: &At, host_users: bool) {
    if !context.is_set() {
        return;
    }
    faults.between(&context.get("runAsUser"), 0, ID_LIMIT);
    faults.between(&context.get("runAsGroup"), 0, ID_LIMIT);
    let proc_mount = context.get("procMount");
    faults.choice(&proc_mount, &["Default", "Unmasked"]);
    if host_users && proc_mount.text() == "Unmasked" {
        faults.invalid(&proc_mount, "`hostUsers` must be false to use `Unmasked`");
    }
    seccomp(faults, &context.get("seccompProfile"));
    let escalation = context.get("allowPrivilegeEscalation");
    if escalation.is_set() && !escalation.flag() {
        if context.get("privileged").flag() {
            faults.invalid(context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        if context.walk(&["capabilities", "add"]).texts().contains(&"CAP_SYS_ADMIN") {
            let words = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            faults.invalid(context, words);
        }
    }
    os_check::windows_options(faults, &context.get("windowsOptions"));
    app_armor(faults, &context.get("appArmorProfile"));
}

/// Checks a Pod's security context.
pub fn pod(faults: &mut Faults, spec: &At) {
    let context = spec.get("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        faults.between(&context.get(field), 0, ID_LIMIT);
    }
    for group in context.get("supplementalGroups").items() {
        faults.between(&group, 0, ID_LIMIT);
    }
    let share = spec.get("shareProcessNamespace");
    if share.flag() && spec.get("hostPID").flag() {
        let at = share.renamed(context.path().child("shareProcessNamespace"));
        faults.invalid(&at, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    sysctls(faults, &context.get("sysctls"), spec);
    faults.choice(&context.get("fsGroupChangePolicy"), &["Always", "OnRootMismatch"]);
    seccomp(faults, &context.get("seccompProfile"));
    os_check::windows_options(faults, &context.get("windowsOptions"));
    app_armor(faults, &context.get("appArmorProfile"));
    faults.choice(&context.get("supplementalGroupsPolicy"), &["Merge", "Strict"]);
    faults.choice(&context.get("seLinuxChangePolicy"), &["MountOption", "Recursive"]);
}

/// On the host's network a container's port is the host's. Templates may leave the host's port out.
pub fn host_network(faults: &mut Faults, spec: &At, is_pod: bool) {
    if !spec.get("hostNetwork").flag() {
        return;
    }
    for container in spec.get("containers").items() {
        for port in container.get("ports").items() {
            let (host_port, own) = (port.get("hostPort"), port.get("containerPort").int().unwrap_or(0));
            let number = host_port.int().unwrap_or(0);
            if (is_pod || number != 0) && number != own {
                faults.invalid_as(&host_port, number, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

const PROFILE_TYPES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];

fn seccomp(faults: &mut Faults, profile: &At) {
    if !profile.is_set() {
        return;
    }
    let (kind, local) = (profile.get("type"), profile.get("localhostProfile"));
    if kind.is_blank() {
        faults.required(&kind, "type is required when seccompProfile is set");
    } else {
        faults.choice(&kind, &PROFILE_TYPES);
    }
    match (kind.text(), local.is_set()) {
        ("Localhost", false) => faults.required(&local, "must be set when seccomp type is Localhost"),
        ("Localhost", true) => relative(faults, &local),
        (_, true) => {
            let value = profile.value().clone();
            faults.invalid_as(&local, value, "can only be set when seccomp type is Localhost");
        }
        (_, false) => {}
    }
}

/// The longest path of a profile.
const APP_ARMOR_LIMIT_BYTES: usize = 4095;

fn app_armor(faults: &mut Faults, profile: &At) {
    if !profile.is_set() {
        return;
    }
    let (kind, local) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.text() {
        "Localhost" => {
            if local.text().trim() != local.text() {
                faults.invalid(&local, "must not be padded with whitespace");
            } else if local.is_blank() {
                faults.required(&local, "must be set when AppArmor type is Localhost");
            }
            faults.at_most_bytes(&local, APP_ARMOR_LIMIT_BYTES);
        }
        "RuntimeDefault" | "Unconfined" if local.is_set() => {
            faults.invalid(&local, "can only be set when AppArmor type is Localhost");
        }
        "" => faults.required(&kind, "type is required when appArmorProfile is set"),
        _ => faults.choice(&kind, &PROFILE_TYPES),
    }
}

const SYSCTL_PATTERN: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
const SYSCTL_LIMIT_BYTES: usize = 253;

fn sysctls(faults: &mut Faults, sysctls: &At, spec: &At) {
    let legal = |part: &str| {
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        let middle = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        ends(part.chars().next()) && ends(part.chars().last()) && part.chars().all(middle)
    };
    let mut seen = BTreeSet::new();
    for sysctl in sysctls.items() {
        let name = sysctl.get("name");
        if !faults.needs(&name) {
            continue;
        }
        if name.text().len() > SYSCTL_LIMIT_BYTES || !name.text().split(['.', '/']).all(legal) {
            let words = format!("must have at most {SYSCTL_LIMIT_BYTES} characters and match regex {SYSCTL_PATTERN}");
            faults.invalid(&name, words);
        } else if !seen.insert(name.text()) {
            faults.duplicate(&name);
        }
        let dotted = name.text().replace('/', ".");
        if spec.get("hostNetwork").flag() && dotted.starts_with("net.") {
            faults.invalid(&name, "may not be specified when 'hostNetwork' is true");
        }
        let of_ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|start| dotted.starts_with(start));
        if spec.get("hostIPC").flag() && (of_ipc || dotted == "kernel.sem") {
            faults.invalid(&name, "may not be specified when 'hostIPC' is true");
        }
    }
}

/// Old annotations that said what the fields say now.
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR_CONTAINER: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Annotations and fields that say the same must agree.
pub fn annotations_match(faults: &mut Faults, annotations: &At, spec: &At) {
    let pod_seccomp = spec.walk(&["securityContext", "seccompProfile"]);
    agrees(faults, &annotations.get(SECCOMP_POD), &pod_seccomp, &pod_seccomp, "seccomp");
    let pod_armor = spec.walk(&["securityContext", "appArmorProfile"]);
    for container in super::container_check::LISTS.iter().flat_map(|list| spec.get(list).items()) {
        let name = container.get("name").text();
        let own = container.walk(&["securityContext", "seccompProfile"]);
        agrees(faults, &annotations.get(&format!("{SECCOMP_CONTAINER}{name}")), &own, &own, "seccomp");
        let own = container.walk(&["securityContext", "appArmorProfile"]);
        if spec.walk(&["os", "name"]).text() != "windows" {
            let profile = if own.is_set() { own.clone() } else { pod_armor.renamed(own.path().clone()) };
            agrees(faults, &annotations.get(&format!("{APP_ARMOR_CONTAINER}{name}")), &profile, &own, "apparmor");
        }
    }
}

fn agrees(faults: &mut Faults, annotation: &At, profile: &At, told: &At, what: &str) {
    if !annotation.is_set() || !profile.is_set() {
        return;
    }
    let said = annotation.text();
    let type_agrees = match profile.get("type").text() {
        "Unconfined" => said == "unconfined",
        "RuntimeDefault" => said == "runtime/default" || (what == "seccomp" && said == "docker/default"),
        "Localhost" => said.starts_with("localhost/"),
        _ => true,
    };
    let path = told.path();
    if !type_agrees {
        let words = format!("{what} type in annotation and field must match");
        faults.extend([FieldError::forbidden(&path.child("type"), words)]);
    } else if profile.get("type").text() == "Localhost"
        && said.strip_prefix("localhost/") != Some(profile.get("localhostProfile").text())
    {
        let words = format!("{what} profile in annotation and field must match");
        faults.extend([FieldError::forbidden(&path.child("localhostProfile"), words)]);
    }
}
