//! What Pods of each operating system may say.

use crate::rules::check::{At, Faults};
use crate::rules::container_check::LISTS;

/// Checks a Pod's operating system, and that it asks for nothing that the other system has.
pub fn operating_system(faults: &mut Faults, spec: &At) {
    let os = spec.get("os");
    if !os.is_set() {
        return;
    }
    match os.get("name").text() {
        "" => faults.required(&os.get("name"), "cannot be empty"),
        "linux" => linux(faults, spec),
        "windows" => windows(faults, spec),
        other => faults.not_supported_as(&os, other, &["linux", "windows"]),
    }
}

fn contexts<'a>(spec: &At<'a>) -> Vec<At<'a>> {
    let init_first = ["initContainers", "containers", "ephemeralContainers"];
    init_first.iter().flat_map(|list| spec.get(list).items()).map(|c| c.get("securityContext")).collect()
}

fn linux(faults: &mut Faults, spec: &At) {
    let words = "windows options cannot be set for a linux pod";
    faults.forbid(&spec.walk(&["securityContext", "windowsOptions"]), words);
    for context in contexts(spec) {
        faults.forbid(&context.get("windowsOptions"), words);
    }
}

fn windows(faults: &mut Faults, spec: &At) {
    const POD: [&str; 11] = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
    ];
    const CONTAINER: [&str; 10] = [
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ];
    let words = "cannot be set for a windows pod";
    for field in POD {
        faults.forbid(&spec.walk(&["securityContext", field]), words);
    }
    faults.forbid(&spec.get("hostUsers"), words);
    faults.forbid(&spec.get("shareProcessNamespace"), words);
    for field in ["hostPID", "hostIPC"] {
        if spec.get(field).flag() {
            faults.forbidden(&spec.get(field), words);
        }
    }
    for context in contexts(spec) {
        for field in CONTAINER {
            faults.forbid(&context.get(field), words);
        }
    }
}

const CREDENTIAL_SPEC_LIMIT_KIB: usize = 64;
const DOMAIN_LIMIT_CHARS: usize = 256;
const USER_LIMIT_CHARS: usize = 104;
/// The longest NetBIOS name.
const NETBIOS_LIMIT_CHARS: usize = 15;

/// Checks the options of containers on Windows.
pub fn windows_options(faults: &mut Faults, options: &At) {
    let spec_name = options.get("gmsaCredentialSpecName");
    if spec_name.is_set() {
        faults.all_invalid(&spec_name, skiff_object::names::check_dns_subdomain(spec_name.text()));
    }
    let spec = options.get("gmsaCredentialSpec");
    if spec.is_set() && spec.is_blank() {
        faults.invalid(&spec, "gmsaCredentialSpec cannot be an empty string");
    } else if spec.text().len() > CREDENTIAL_SPEC_LIMIT_KIB * 1024 {
        faults.invalid(&spec, format!("gmsaCredentialSpec size must be under {CREDENTIAL_SPEC_LIMIT_KIB} KiB"));
    }
    let user = options.get("runAsUserName");
    if user.is_set() {
        user_faults(user.text()).into_iter().for_each(|words| faults.invalid(&user, words));
    }
}

fn user_faults(name: &str) -> Vec<String> {
    let one = |words: &str| vec![words.to_owned()];
    let parts: Vec<_> = name.split('\\').collect();
    let (domain, user) = match parts[..] {
        [""] => return one("runAsUserName cannot be an empty string"),
        _ if name.contains(char::is_control) => return one("runAsUserName cannot contain control characters"),
        [user] => (None, user),
        [domain, user] => (Some(domain), user),
        _ => return one("runAsUserName cannot contain more than one backslash"),
    };
    let mut faults = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= DOMAIN_LIMIT_CHARS) {
        faults.push(format!("runAsUserName's Domain length must be under {DOMAIN_LIMIT_CHARS} characters"));
    }
    if domain.is_some_and(|domain| !is_netbios(domain) && !is_dns(domain)) {
        faults.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format".to_owned());
    }
    if user.is_empty() {
        faults.push("runAsUserName's User cannot be empty".to_owned());
    } else if user.len() > USER_LIMIT_CHARS {
        faults.push(format!("runAsUserName's User length must not be longer than {USER_LIMIT_CHARS} characters"));
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        faults.push("runAsUserName's User cannot contain only periods or spaces".to_owned());
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        faults.push("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]".to_owned());
    }
    faults
}

fn is_netbios(domain: &str) -> bool {
    let bad = ['\\', '/', ':', '*', '?', '"', '<', '>', '|'];
    (1..=NETBIOS_LIMIT_CHARS).contains(&domain.chars().count()) && !domain.starts_with('.') && !domain.contains(bad)
}

fn is_dns(domain: &str) -> bool {
    skiff_object::names::check_dns_subdomain(&domain.to_lowercase()).is_empty()
}

/// Containers that run as processes of a Windows host come all or none, and on the host's network.
pub fn host_processes(faults: &mut Faults, spec: &At) {
    let of_pod = spec.walk(&["securityContext", "windowsOptions", "hostProcess"]);
    let (mut all, mut on_host) = (0, 0);
    for container in LISTS.iter().flat_map(|list| spec.get(list).items()) {
        let own = container.walk(&["securityContext", "windowsOptions", "hostProcess"]);
        if own.is_set() && of_pod.is_set() && own.flag() != of_pod.flag() {
            let words = format!("pod hostProcess value must be identical if both are specified, was {}", of_pod.flag());
            faults.invalid(&own, words);
        }
        all += 1;
        on_host += usize::from(if own.is_set() { own.flag() } else { of_pod.flag() });
    }
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let words = "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        faults.invalid_as(spec, "", words);
    }
    if !spec.get("hostNetwork").flag() {
        let words = "hostNetwork must be true if pod contains any hostProcess containers";
        faults.invalid_as(&spec.get("hostNetwork"), false, words);
    }
}
