//! The controls that the level `restricted` adds. Pure.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_object::Object;
use skiff_object::meta::Meta;

use super::checks::{
    Violation, has_own_users, is_confining, named, plural, pod_secured, quoted, seccomp_set, secured, setters, which,
};

/// From this version on what only Linux knows is not asked of Pods for Windows.
const WINDOWS_SINCE: u32 = 25;
/// From this version on Pods with users of their own may be root among themselves.
const OWN_USERS_SINCE: u32 = 35;
/// Kinds of volumes that everybody may use.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn is_windows(pod: &Object, minor: u32) -> bool {
    minor >= WINDOWS_SINCE && pod.str_at(&["spec", "os", "name"]) == "windows"
}

/// Programs that get more rights than who starts them.
pub fn escalation(pod: &Object, minor: u32) -> Option<Violation> {
    if is_windows(pod, minor) {
        return None;
    }
    let bad = which(pod, |container| secured(container, "allowPrivilegeEscalation") != Some(&Value::Bool(false)));
    if bad.is_empty() {
        return None;
    }
    let detail = format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&bad));
    Violation::new("allowPrivilegeEscalation != false", detail)
}

/// Capabilities: none, or the one for low ports.
pub fn capabilities(pod: &Object, minor: u32) -> Option<Violation> {
    if is_windows(pod, minor) {
        return None;
    }
    let list = |container: &Value, field: &str| -> Vec<String> {
        let all = container.list_at(&["securityContext", "capabilities", field]).iter().filter_map(Value::as_str);
        all.map(str::to_owned).collect()
    };
    let keeping = which(pod, |container| !list(container, "drop").iter().any(|name| name == "ALL"));
    let mut forbidden = BTreeSet::new();
    let adding = which(pod, |container| {
        let wrong: Vec<_> = list(container, "add").into_iter().filter(|name| name != "NET_BIND_SERVICE").collect();
        let any = !wrong.is_empty();
        forbidden.extend(wrong);
        any
    });
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeping)));
    }
    if !adding.is_empty() {
        let (who, what) = (named(&adding), quoted(forbidden));
        details.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    if details.is_empty() { None } else { Violation::new("unrestricted capabilities", details.join("; ")) }
}

/// Volumes of other kinds than those that every user may have.
pub fn volumes(pod: &Object, _: u32) -> Option<Violation> {
    let (mut names, mut kinds) = (Vec::new(), BTreeSet::new());
    for volume in pod.list_at(&["spec", "volumes"]) {
        let sources =
            volume.as_object().into_iter().flatten().filter(|(key, value)| *key != "name" && !value.is_null());
        let sources: Vec<_> = sources.map(|(key, _)| key.as_str()).collect();
        if sources.iter().any(|kind| VOLUMES.contains(kind)) {
            continue;
        }
        names.push(volume.str_at(&["name"]));
        kinds.insert(sources.first().copied().unwrap_or("unknown"));
    }
    if names.is_empty() {
        return None;
    }
    let detail = format!(
        "{} {} {} {} {}",
        plural("volume", "volumes", names.len()),
        quoted(&names),
        plural("uses", "use", names.len()),
        plural("restricted volume type", "restricted volume types", kinds.len()),
        quoted(kinds)
    );
    Violation::new("restricted volume types", detail)
}

/// Processes that may be root.
pub fn non_root(pod: &Object, minor: u32) -> Option<Violation> {
    const REASON: &str = "runAsNonRoot != true";
    if minor >= OWN_USERS_SINCE && has_own_users(pod) {
        return None;
    }
    let of_pod = pod_secured(pod, "runAsNonRoot").and_then(Value::as_bool);
    let own = |container: &Value| secured(container, "runAsNonRoot").and_then(Value::as_bool);
    let explicit = which(pod, |container| own(container) == Some(false));
    let who = setters(of_pod == Some(false), &explicit);
    if !who.is_empty() {
        return Violation::new(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = which(pod, |container| own(container).is_none() && of_pod != Some(true));
    if silent.is_empty() {
        return None;
    }
    Violation::new(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent)))
}

/// Processes that are root by their number.
pub fn user(pod: &Object, minor: u32) -> Option<Violation> {
    if minor >= OWN_USERS_SINCE && has_own_users(pod) {
        return None;
    }
    let is_root = |user: Option<&Value>| user.and_then(Value::as_i64) == Some(0);
    let bad = which(pod, |container| is_root(secured(container, "runAsUser")));
    let who = setters(is_root(pod_secured(pod, "runAsUser")), &bad);
    if who.is_empty() { None } else { Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0")) }
}

/// Containers without a seccomp profile.
pub fn seccomp(pod: &Object, minor: u32) -> Option<Violation> {
    if is_windows(pod, minor) {
        return None;
    }
    if let Some(set) = seccomp_set(pod) {
        return Some(set);
    }
    let of_pod = pod_secured(pod, "seccompProfile").is_some_and(|profile| is_confining(profile.str_at(&["type"])));
    let silent = which(pod, |container| secured(container, "seccompProfile").is_none() && !of_pod);
    if silent.is_empty() {
        return None;
    }
    let who = named(&silent);
    let detail =
        format!("pod or {who} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"");
    Violation::new("seccompProfile", detail)
}
