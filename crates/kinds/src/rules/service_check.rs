//! What may be wrong with a Service.

use std::collections::BTreeSet;

use serde_json::json;
use skiff_object::{FieldError, names};

use crate::rules::check::{At, Faults};

/// The port of the node's agent, which no load balancer may expose.
const KUBELET_PORT: i64 = 10250;
/// The longest session affinity.
const AFFINITY_LIMIT_SECONDS: i64 = 24 * 60 * 60;

/// Checks a Service's specification.
pub fn spec(faults: &mut Faults, spec: &At) {
    let kind = spec.get("type").text();
    let is_headless = spec.get("clusterIP").text() == "None";
    let ports = spec.get("ports");
    if ports.is_blank() && !is_headless && kind != "ExternalName" {
        faults.required(&ports, "");
    }
    of_type(faults, spec, kind, is_headless);
    let all = ports.items();
    let mut seen = BTreeSet::new();
    for port in &all {
        service_port(faults, port, all.len() > 1, &mut seen);
    }
    faults.labels(&spec.get("selector"));
    affinity(faults, spec);
    addresses(faults, spec);
    faults.needs_choice(&spec.get("type"), &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    distinct_ports(faults, &all, kind);
    load_balancer(faults, spec, kind);
    traffic(faults, spec, kind);
}

fn of_type(faults: &mut Faults, spec: &At, kind: &str, is_headless: bool) {
    let first_address = spec.get("clusterIPs");
    let first_address = first_address.items().first().cloned().unwrap_or_else(|| spec.get("clusterIP"));
    match kind {
        "LoadBalancer" => {
            for port in spec.get("ports").items() {
                if port.get("port").int() == Some(KUBELET_PORT) {
                    let words = "may not expose port 10250 externally since it is used by kubelet";
                    faults.invalid_as(&port, KUBELET_PORT, words);
                }
            }
            if is_headless {
                faults.invalid_as(&first_address, "None", "may not be set to 'None' for LoadBalancer services");
            }
        }
        "NodePort" if is_headless => {
            faults.invalid_as(&first_address, "None", "may not be set to 'None' for NodePort services");
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !spec.get(field).is_blank() {
                    faults.forbidden(&spec.get(field), "may not be set for ExternalName services");
                }
            }
            let name = spec.get("externalName");
            match name.text().strip_suffix('.').unwrap_or(name.text()) {
                "" => faults.required(&name, ""),
                plain => names::check_dns_subdomain(plain)
                    .into_iter()
                    .for_each(|words| faults.invalid_as(&name, plain, words)),
            }
        }
        _ => {}
    }
}

fn service_port<'a>(faults: &mut Faults, port: &At<'a>, needs_name: bool, seen: &mut BTreeSet<&'a str>) {
    let name = port.get("name");
    if name.is_blank() {
        if needs_name {
            faults.required(&name, "");
        }
    } else {
        faults.all_invalid(&name, names::check_dns_label(name.text()));
        if !seen.insert(name.text()) {
            faults.duplicate(&name);
        }
    }
    faults.port(&port.get("port"));
    faults.needs_choice(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
    faults.port_or_name(&port.get("targetPort"));
    faults.name(&port.get("appProtocol"), names::check_label_key);
}

fn affinity(faults: &mut Faults, spec: &At) {
    let (affinity, config) = (spec.get("sessionAffinity"), spec.get("sessionAffinityConfig"));
    faults.needs_choice(&affinity, &["ClientIP", "None"]);
    let seconds = config.walk(&["clientIP", "timeoutSeconds"]);
    match affinity.text() {
        "ClientIP" if !seconds.is_set() => {
            faults.required(&seconds, "when session affinity type is ClientIP");
        }
        "ClientIP" if seconds.int().is_none_or(|seconds| !(1..=AFFINITY_LIMIT_SECONDS).contains(&seconds)) => {
            faults.invalid(&seconds, format!("must be greater than 0 and less than {AFFINITY_LIMIT_SECONDS}"));
        }
        "None" if config.is_set() => faults.forbidden(&config, "must not be set when session affinity is None"),
        _ => {}
    }
}

fn addresses(faults: &mut Faults, spec: &At) {
    let addresses = spec.get("clusterIPs");
    if spec.get("type").text() != "ExternalName" {
        for (index, address) in addresses.items().iter().enumerate() {
            match address.text() {
                "None" if index == 0 && addresses.items().len() > 1 => {
                    faults.invalid(&addresses, "'None' must be the first and only value");
                }
                "None" if index == 0 => {}
                _ => faults.ip(address),
            }
        }
        let first = addresses.items().first().map_or("", |address| address.text());
        if !addresses.is_blank() && first != spec.get("clusterIP").text() {
            faults.invalid(&addresses, "first value must match `clusterIP`");
        }
        for family in spec.get("ipFamilies").items() {
            faults.choice(&family, &["IPv4", "IPv6"]);
        }
        faults.choice(&spec.get("ipFamilyPolicy"), &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    }
    for address in spec.get("externalIPs").items() {
        faults.particular_ip(&address);
    }
}

fn distinct_ports(faults: &mut Faults, ports: &[At], kind: &str) {
    let mut node_ports = BTreeSet::new();
    let mut numbers = BTreeSet::new();
    for port in ports {
        let node_port = port.get("nodePort");
        let protocol = port.get("protocol").text();
        if node_port.int().unwrap_or(0) != 0 {
            if kind == "ClusterIP" {
                faults.forbidden(&node_port, "may not be used when `type` is 'ClusterIP'");
            }
            if !node_ports.insert((protocol, node_port.int())) {
                faults.duplicate(&node_port);
            }
        }
        let number = port.get("port").int();
        if !numbers.insert((protocol, number)) {
            let value = json!({"protocol": protocol, "port": number});
            faults.extend([FieldError::duplicate(port.path(), value)]);
        }
    }
}

fn load_balancer(faults: &mut Faults, spec: &At, kind: &str) {
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = spec.get("loadBalancerSourceRanges");
    if !ranges.is_blank() && kind != "LoadBalancer" {
        faults.forbidden(&ranges, only);
    }
    ranges.items().iter().for_each(|range| faults.cidr(range));
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    match (kind == "LoadBalancer", allocate.is_set()) {
        (true, false) => faults.required(&allocate, ""),
        (false, true) => faults.forbidden(&allocate, only),
        _ => {}
    }
    let class = spec.get("loadBalancerClass");
    if class.is_set() {
        faults.all_invalid(&class, names::check_label_key(class.text()));
        if kind != "LoadBalancer" {
            faults.forbidden(&class, only);
        }
    }
}

fn traffic(faults: &mut Faults, spec: &At, kind: &str) {
    let (external, internal) = (spec.get("externalTrafficPolicy"), spec.get("internalTrafficPolicy"));
    let is_reached =
        matches!(kind, "NodePort" | "LoadBalancer") || kind == "ClusterIP" && !spec.get("externalIPs").is_blank();
    if is_reached {
        faults.needs_choice(&external, &["Cluster", "Local"]);
    } else if !external.is_blank() {
        faults.invalid(&external, "may only be set for externally-accessible services");
    }
    let health = spec.get("healthCheckNodePort");
    if health.int().unwrap_or(0) != 0 && !(kind == "LoadBalancer" && external.text() == "Local") {
        let words = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        faults.invalid(&health, words);
    }
    if matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        faults.needs_choice(&internal, &["Cluster", "Local"]);
    }
    faults.choice(&spec.get("trafficDistribution"), &["PreferClose", "PreferSameNode", "PreferSameZone"]);
}

/// An address does not change once it is given, unless the Service stops having one.
pub fn update(faults: &mut Faults, spec: &At, was: &At) {
    let has_address = |spec: &At| spec.get("type").text() != "ExternalName";
    let (new, old) = (spec.get("clusterIP"), was.get("clusterIP"));
    if has_address(spec) && has_address(was) && !old.is_blank() && new.text() != old.text() {
        let all = spec.get("clusterIPs");
        let path = all.path().index(0);
        faults.invalid_as(&all.renamed(path), all.value().clone(), "may not change once set");
    }
    let both_balanced = [spec, was].iter().all(|spec| spec.get("type").text() == "LoadBalancer");
    for field in ["loadBalancerClass", "healthCheckNodePort"] {
        if both_balanced && was.get(field).is_set() && spec.get(field).value() != was.get(field).value() {
            let both_local = [spec, was].iter().all(|spec| spec.get("externalTrafficPolicy").text() == "Local");
            if field == "loadBalancerClass" || both_local {
                faults.invalid(&spec.get(field), "may not change once set");
            }
        }
    }
}
