//! What may be wrong with probes and hooks: ways of asking or telling a running container something.

use skiff_object::names;

use crate::rules::check::{At, Faults};
use crate::rules::pod_check::Pod;

/// Checks hooks and probes, which only what keeps running has.
pub fn running_rules(faults: &mut Faults, container: &At, pod: &Pod) {
    for hook in ["postStart", "preStop"] {
        let hook = container.get("lifecycle").get(hook);
        if hook.is_set() {
            handler(faults, &hook, &["exec", "httpGet", "tcpSocket", "sleep"], pod.grace_seconds);
        }
    }
    stop_signal(faults, &container.get("lifecycle").get("stopSignal"), pod.os);
    for (name, once) in [("livenessProbe", true), ("readinessProbe", false), ("startupProbe", true)] {
        let probe = container.get(name);
        if probe.is_set() {
            check_probe(faults, &probe, once, name == "readinessProbe");
        }
    }
}

/// A signal means something on a system alone, which the Pod must therefore name.
fn stop_signal(faults: &mut Faults, signal: &At, os: &str) {
    if !signal.is_set() {
        return;
    }
    match os {
        "" => faults.forbidden(signal, "may not be set for containers with empty `spec.os.name`"),
        "windows" => faults.choice(signal, &["SIGKILL", "SIGTERM"]),
        _ if !signal.text().starts_with("SIG") => faults.invalid(signal, "must be the name of a signal"),
        _ => {}
    }
}

fn check_probe(faults: &mut Faults, probe: &At, succeeds_once: bool, is_readiness: bool) {
    handler(faults, probe, &["exec", "httpGet", "tcpSocket", "grpc"], None);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        faults.non_negative(&probe.get(field));
    }
    let grace = probe.get("terminationGracePeriodSeconds");
    if grace.int().is_some_and(|seconds| seconds <= 0) {
        faults.invalid(&grace, "must be greater than 0");
    }
    let threshold = probe.get("successThreshold");
    if succeeds_once && threshold.int().unwrap_or(0) != 1 {
        faults.invalid_as(&threshold, threshold.int().unwrap_or(0), "must be 1");
    }
    if is_readiness && grace.is_set() {
        faults.invalid(&grace, "must not be set for readinessProbes");
    }
}

/// Exactly one of the kinds.
fn handler(faults: &mut Faults, handler: &At, kinds: &[&str], grace_seconds: Option<i64>) {
    let given: Vec<_> = kinds.iter().map(|kind| (*kind, handler.get(kind))).filter(|(_, at)| at.is_set()).collect();
    if given.is_empty() {
        faults.required(handler, "must specify a handler type");
    }
    for (index, (kind, action)) in given.into_iter().enumerate() {
        if index > 0 {
            faults.forbidden(&action, "may not specify more than 1 handler type");
            continue;
        }
        match kind {
            "exec" => drop(faults.needs(&action.get("command"))),
            "httpGet" => http_get(faults, &action),
            "sleep" => sleep(faults, &action, grace_seconds),
            "grpc" => faults.port(&action.get("port")),
            _ => faults.port_or_name(&action.get("port")),
        }
    }
}

/// A container may sleep no longer than it is given to end.
fn sleep(faults: &mut Faults, action: &At, grace_seconds: Option<i64>) {
    let seconds = action.get("seconds").int().unwrap_or(0);
    if let Some(grace) = grace_seconds.filter(|grace| !(0..=*grace).contains(&seconds)) {
        let words = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        faults.invalid_as(action, seconds, words);
    }
}

fn http_get(faults: &mut Faults, action: &At) {
    faults.needs(&action.get("path"));
    faults.port_or_name(&action.get("port"));
    if !matches!(action.get("scheme").text(), "HTTP" | "HTTPS") {
        faults.not_supported(&action.get("scheme"), &["HTTP", "HTTPS"]);
    }
    for header in action.get("httpHeaders").items() {
        let name = header.get("name").text();
        for words in names::check_http_header_name(name) {
            faults.invalid_as(&action.get("httpHeaders"), name, words);
        }
    }
}
