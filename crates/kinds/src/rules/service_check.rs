//! What may be wrong with a Service.

use std::collections::BTreeSet;

use serde_json::json;
use skiff_object::{FieldError, names};

use crate::rules::address;
use crate::rules::check::{At, Faults};

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
        "LoadBalancer" if is_headless => {
            faults.invalid_as(&first_address, "None", "may not be set to 'None' for LoadBalancer services");
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
    match affinity.text() {
        "ClientIP" => {
            let places = [config.clone(), config.get("clientIP"), config.walk(&["clientIP", "timeoutSeconds"])];
            if let Some(missing) = places.iter().find(|at| !at.is_set()) {
                faults.required(missing, "when session affinity type is ClientIP");
            } else if places[2].int().is_none_or(|seconds| !(1..=AFFINITY_LIMIT_SECONDS).contains(&seconds)) {
                let words = format!("must be greater than 0 and less than {AFFINITY_LIMIT_SECONDS}");
                faults.invalid(&places[2], words);
            }
        }
        "None" => faults.forbid(&config, "must not be set when session affinity is None"),
        _ => {}
    }
}

fn addresses(faults: &mut Faults, spec: &At) {
    if spec.get("type").text() != "ExternalName" {
        cluster_addresses(faults, spec);
    }
    for address in spec.get("externalIPs").items() {
        faults.particular_ip(&address);
    }
}

/// The most addresses of a Service: one of each family.
const ADDRESSES_LIMIT: usize = 2;

/// Checks what a Service says of its addresses and their families.
pub fn cluster_addresses(faults: &mut Faults, spec: &At) {
    let (all, families) = (spec.get("clusterIPs"), spec.get("ipFamilies"));
    let one = spec.get("clusterIP").text();
    match (one.is_empty(), all.texts().first()) {
        (false, None) => faults.required(&all, ""),
        (false, Some(first)) if *first != one => faults.invalid(&all, "first value must match `clusterIP`"),
        (true, Some(_)) => faults.invalid(&all, "must be empty when `clusterIP` is not specified"),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for family in families.items() {
        faults.choice(&family, &["IPv4", "IPv6"]);
        if !seen.insert(family.text()) {
            faults.duplicate(&family);
        }
    }
    faults.choice(&spec.get("ipFamilyPolicy"), &["PreferDualStack", "RequireDualStack", "SingleStack"]);
    let before = faults.0.len();
    for (index, address) in all.items().iter().enumerate() {
        match address.text() {
            "None" if index == 0 && all.count() > 1 => faults.invalid(&all, "'None' must be the first and only value"),
            "None" if index == 0 => {}
            _ => faults.ip(address),
        }
    }
    let is_sound = faults.0.len() == before;
    if all.count() > ADDRESSES_LIMIT {
        faults.invalid(&all, "may only hold up to 2 values");
    }
    if !is_sound {
        return;
    }
    if all.count() > 1 && address::is_dual_stack(all.texts()) == Some(false) {
        faults.invalid(&all, "may specify no more than one IP for each IP family");
    }
    for (index, (address, family)) in all.items().iter().zip(families.texts()).enumerate() {
        let is_other = match family {
            "IPv4" => address.text().contains(':'),
            "IPv6" => address.text().contains('.'),
            _ => false,
        };
        if is_other {
            let words = format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            faults.invalid(address, words);
        }
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
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    match (kind == "LoadBalancer", allocate.is_set()) {
        (true, false) => faults.required(&allocate, ""),
        (false, true) => faults.forbidden(&allocate, only),
        _ => {}
    }
    let class = spec.get("loadBalancerClass");
    if kind != "LoadBalancer" {
        faults.forbid(&class, only);
    } else if class.is_set() {
        faults.all_invalid(&class, names::check_label_key(class.text()));
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
    } else if health.int().unwrap_or(0) != 0 {
        faults.port(&health);
    }
    faults.choice(&internal, &["Cluster", "Local"]);
    if !internal.is_set() && matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        faults.required(&internal, "");
    }
    faults.choice(&spec.get("trafficDistribution"), &["PreferClose", "PreferSameNode", "PreferSameZone"]);
}

/// The older way of saying from where a load balancer may be reached.
const RANGES_ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const TOPOLOGY_MODE: &str = "service.kubernetes.io/topology-mode";
/// The older name of the same.
const TOPOLOGY_HINTS: &str = "service.kubernetes.io/topology-aware-hints";

/// Checks what a Service's annotations say of it, and the ranges that one of them may give.
pub fn annotations(faults: &mut Faults, annotations: &At, spec: &At) {
    let (mode, hints) = (annotations.get(TOPOLOGY_MODE), annotations.get(TOPOLOGY_HINTS));
    if mode.is_set() && hints.is_set() && mode.text() != hints.text() {
        let at = mode.renamed(annotations.path().key(TOPOLOGY_MODE));
        faults.invalid(&at, format!("must match annotations[{TOPOLOGY_HINTS}] when both are specified"));
    }
    let only = "may only be used when `type` is 'LoadBalancer'";
    let is_balanced = spec.get("type").text() == "LoadBalancer";
    let ranges = spec.get("loadBalancerSourceRanges");
    let ranges = ranges.renamed(spec.path().child("LoadBalancerSourceRanges"));
    let noted = annotations.get(RANGES_ANNOTATION);
    let noted = noted.renamed(annotations.path().key(RANGES_ANNOTATION));
    if !ranges.is_blank() {
        if !is_balanced {
            faults.forbidden(&ranges, only);
        }
        // They may be padded with spaces, as those of the annotation.
        for range in ranges.items() {
            for words in address::cidr_faults(range.text().trim()) {
                faults.invalid_as(&range, range.text().trim(), words);
            }
        }
    } else if noted.is_set() {
        if !is_balanced {
            faults.forbidden(&noted, only);
        }
        for range in noted.text().split(',').map(str::trim).filter(|_| !noted.text().trim().is_empty()) {
            address::cidr_faults(range).into_iter().for_each(|words| faults.invalid_as(&noted, range, words));
        }
    }
}

/// Checks a change: the first address and family do not change once they are given, unless the Service stops having one.
pub fn update(faults: &mut Faults, spec: &At, was: &At) {
    let both = |kind: &str| [spec, was].iter().all(|spec| spec.get("type").text() == kind);
    if [spec, was].iter().all(|spec| spec.get("type").text() != "ExternalName") {
        let is_headless = |spec: &At| spec.get("clusterIP").text() == "None";
        if !(is_headless(spec) && is_headless(was)) {
            kept_first(faults, spec, was, "clusterIPs", "clusterIP");
        }
        kept_first(faults, spec, was, "ipFamilies", "ipFamily");
    }
    let class = (spec.get("loadBalancerClass"), was.get("loadBalancerClass"));
    if both("LoadBalancer") && class.0.value() != class.1.value() {
        faults.invalid(&class.0, "may not change once set");
    }
    let needs_check =
        |spec: &At| spec.get("type").text() == "LoadBalancer" && spec.get("externalTrafficPolicy").text() == "Local";
    let health = (spec.get("healthCheckNodePort"), was.get("healthCheckNodePort"));
    let was_given = health.1.int().unwrap_or(0) != 0;
    if needs_check(spec) && needs_check(was) && was_given && health.0.int() != health.1.int() {
        faults.forbidden(&health.0, crate::rules::check::IMMUTABLE);
    }
}

/// A second one may come and go; it goes by the policy alone.
fn kept_first(faults: &mut Faults, spec: &At, was: &At, field: &str, what: &str) {
    let (new, old) = (spec.get(field), was.get(field));
    let at = |index: usize| new.renamed(new.path().index(index));
    let (now, before) = (new.texts(), old.texts());
    if now.len() == before.len() {
        for index in (0..now.len()).filter(|index| now[*index] != before[*index]) {
            faults.invalid(&at(index), "may not change once set");
        }
        return;
    }
    match (now.first(), before.first()) {
        (None, Some(_)) => faults.invalid(&at(0), format!("primary {what} can not be unset")),
        (Some(now), Some(before)) if now != before => faults.invalid(&at(0), "may not change once set"),
        _ => {}
    }
    let policy = spec.get("ipFamilyPolicy");
    if now.len() < before.len() && now.len() == 1 && policy.text() != "SingleStack" {
        faults.invalid(&policy, format!("must be set to 'SingleStack' when releasing the secondary {what}"));
    }
}

/// Checks where a load balancer can be reached, of a Service or of an Ingress.
pub fn load_balancer_status(faults: &mut Faults, status: &At, of_service: bool) {
    for ingress in status.get("ingress").items() {
        let (ip, mode, host) = (ingress.get("ip"), ingress.get("ipMode"), ingress.get("hostname"));
        if !ip.is_blank() {
            faults.ip(&ip);
        }
        match (mode.is_set(), ip.is_blank()) {
            (false, false) if of_service => faults.required(&mode, "must be specified when `ip` is set"),
            (true, true) => faults.forbidden(&mode, "may not be specified when `ip` is not set"),
            _ => faults.choice(&mode, &["Proxy", "VIP"]),
        }
        if !host.is_blank() {
            faults.all_invalid(&host, names::check_dns_subdomain(host.text()));
            if host.text().parse::<std::net::IpAddr>().is_ok() {
                faults.invalid(&host, "must be a DNS name, not an IP address");
            }
        }
    }
}
