//! What may be wrong with the security contexts of Pods and containers.

use crate::rules::check::{At, Faults};

/// The greatest id of a user or group.
const ID_LIMIT: i64 = i32::MAX as i64;

/// Checks a container's security context.
pub fn container(faults: &mut Faults, context: &At) {
    if !context.is_set() {
        return;
    }
    identities(faults, context);
    profiles(faults, context);
    faults.choice(&context.get("procMount"), &["Default", "Unmasked"]);
    let escalation = context.get("allowPrivilegeEscalation");
    if escalation.is_set() && !escalation.flag() {
        if context.get("privileged").flag() {
            faults.invalid(context, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
        }
        let added = context.walk(&["capabilities", "add"]);
        if added.items().iter().any(|capability| capability.text() == "CAP_SYS_ADMIN") {
            let words = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            faults.invalid(context, words);
        }
    }
}

/// Checks a Pod's security context.
pub fn pod(faults: &mut Faults, spec: &At) {
    let context = spec.get("securityContext");
    let share = spec.get("shareProcessNamespace");
    if share.flag() && spec.get("hostPID").flag() {
        faults.invalid_as(&share, true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    if !context.is_set() {
        return;
    }
    identities(faults, &context);
    faults.between(&context.get("fsGroup"), 0, ID_LIMIT);
    for group in context.get("supplementalGroups").items() {
        faults.between(&group, 0, ID_LIMIT);
    }
    profiles(faults, &context);
    faults.choice(&context.get("fsGroupChangePolicy"), &["Always", "OnRootMismatch"]);
    faults.choice(&context.get("supplementalGroupsPolicy"), &["Merge", "Strict"]);
    faults.choice(&context.get("seLinuxChangePolicy"), &["MountOption", "Recursive"]);
    sysctls(faults, &context.get("sysctls"));
}

/// On the host's network a container's port is the host's. Templates may leave the host's port out.
pub fn host_network(faults: &mut Faults, spec: &At) {
    if !spec.get("hostNetwork").flag() {
        return;
    }
    for container in spec.get("containers").items() {
        for port in container.get("ports").items() {
            let host_port = port.get("hostPort").int().unwrap_or(0);
            if host_port != 0 && Some(host_port) != port.get("containerPort").int() {
                let words = "must match `containerPort` when `hostNetwork` is true";
                faults.invalid(&port.get("hostPort"), words);
            }
        }
    }
}

fn identities(faults: &mut Faults, context: &At) {
    faults.between(&context.get("runAsUser"), 0, ID_LIMIT);
    faults.between(&context.get("runAsGroup"), 0, ID_LIMIT);
}

fn profiles(faults: &mut Faults, context: &At) {
    for field in ["seccompProfile", "appArmorProfile"] {
        let profile = context.get(field);
        if !profile.is_set() {
            continue;
        }
        let (kind, local) = (profile.get("type"), profile.get("localhostProfile"));
        faults.needs_choice(&kind, &["Localhost", "RuntimeDefault", "Unconfined"]);
        match (kind.text(), local.is_blank()) {
            ("Localhost", true) => faults.required(
                &local,
                &format!("must be set when {field} type is Localhost")
                    .replace("seccompProfile", "seccomp")
                    .replace("appArmorProfile", "AppArmor"),
            ),
            ("Localhost", false) if field == "seccompProfile" => {
                if local.text().starts_with('/') {
                    faults.invalid(&local, "must be a relative path");
                }
                if local.text().split('/').any(|part| part == "..") {
                    faults.invalid(&local, "must not contain '..'");
                }
            }
            (kind, false) if kind != "Localhost" => {
                faults.invalid(&local, "can only be set when type is set to Localhost");
            }
            _ => {}
        }
    }
}

fn sysctls(faults: &mut Faults, sysctls: &At) {
    let mut seen = std::collections::BTreeSet::new();
    for sysctl in sysctls.items() {
        let name = sysctl.get("name");
        if !faults.needs(&name) {
            continue;
        }
        let legal = |part: &str| {
            let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
            let middle = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
            ends(part.chars().next()) && ends(part.chars().last()) && part.chars().all(middle)
        };
        if name.text().len() > 253 || !name.text().split(['.', '/']).all(legal) {
            let pattern = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
            faults.invalid(&name, format!("must have at most 253 characters and match regex {pattern}"));
        } else if !seen.insert(name.text().replace('/', ".")) {
            faults.duplicate(&name);
        }
    }
}
