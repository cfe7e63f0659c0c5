//! What may be wrong with Ingresses, NetworkPolicies and endpoints.

use std::collections::BTreeSet;

use skiff_object::names;

use crate::rules::address::Range;
use crate::rules::check::{At, Faults};

/// Checks an Ingress.
pub fn ingress(faults: &mut Faults, spec: &At) {
    let (rules, backend) = (spec.get("rules"), spec.get("defaultBackend"));
    if rules.is_blank() && !backend.is_set() {
        faults.invalid_as(spec, rules.value().clone(), "either `defaultBackend` or `rules` must be specified");
    }
    if backend.is_set() {
        ingress_backend(faults, &backend);
    }
    for rule in rules.items() {
        host(faults, &rule.get("host"), true);
        let http = rule.get("http");
        if !http.is_set() {
            continue;
        }
        let paths = http.get("paths");
        if paths.is_blank() {
            faults.required(&paths, "");
        }
        for path in paths.items() {
            ingress_path(faults, &path);
            ingress_backend(faults, &path.get("backend"));
        }
    }
    for tls in spec.get("tls").items() {
        for name in tls.get("hosts").items() {
            host(faults, &name, false);
        }
        faults.name(&tls.get("secretName"), names::check_dns_subdomain);
    }
    let class = spec.get("ingressClassName");
    if class.is_set() {
        faults.all_invalid(&class, names::check_dns_subdomain(class.text()));
    }
}

fn host(faults: &mut Faults, host: &At, no_address: bool) {
    if host.is_blank() {
        return;
    }
    if no_address && host.text().parse::<std::net::IpAddr>().is_ok() {
        faults.invalid(host, "must be a DNS name, not an IP address");
    }
    let check =
        if host.text().contains('*') { names::check_wildcard_dns_subdomain } else { names::check_dns_subdomain };
    faults.all_invalid(host, check(host.text()));
}

fn ingress_path(faults: &mut Faults, path: &At) {
    const BAD_PARTS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
    const BAD_ENDS: [&str; 2] = ["/..", "/."];
    let (kind, text) = (path.get("pathType"), path.get("path"));
    match kind.text() {
        "" => faults.required(&kind, "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !text.text().starts_with('/') {
                faults.invalid_as(&text, text.text(), "must be an absolute path");
            }
            for bad in BAD_PARTS.iter().filter(|bad| text.text().contains(**bad)) {
                faults.invalid(&text, format!("must not contain '{bad}'"));
            }
            for bad in BAD_ENDS.iter().filter(|bad| text.text().ends_with(**bad)) {
                faults.invalid(&text, format!("cannot end with '{bad}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_blank() && !text.text().starts_with('/') {
                faults.invalid(&text, "must be an absolute path");
            }
        }
        _ => faults.not_supported(&kind, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
}

fn ingress_backend(faults: &mut Faults, backend: &At) {
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => faults.invalid_as(backend, "", "cannot set both resource and service backends"),
        (false, true) => {
            let group = resource.get("apiGroup");
            if group.is_set() {
                faults.all_invalid(&group, names::check_dns_subdomain(group.text()));
            }
            for field in ["kind", "name"] {
                faults.needs_name(&resource.get(field), names::check_path_segment);
            }
        }
        (false, false) => faults.required(backend, "service or resource backend is required"),
        (true, false) => {
            faults.needs_name(&service.get("name"), names::check_dns_1035_label);
            let port = service.get("port");
            let (name, number) = (port.get("name"), port.get("number"));
            match (!name.is_blank(), number.int().unwrap_or(0) != 0) {
                (true, true) => {
                    faults.invalid_as(&port, port.value().clone(), "cannot set both port name & port number")
                }
                (true, false) => faults.all_invalid(&name, names::check_port_name(name.text())),
                (false, true) => faults.port(&number),
                (false, false) => faults.required(&port, "port name or number is required"),
            }
        }
    }
}

/// Checks a NetworkPolicy.
pub fn network_policy(faults: &mut Faults, spec: &At) {
    faults.selector(&spec.get("podSelector"));
    for (direction, side) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(direction).items() {
            rule.get("ports").items().iter().for_each(|port| policy_port(faults, port));
            rule.get(side).items().iter().for_each(|peer| policy_peer(faults, peer));
        }
    }
    let types = spec.get("policyTypes");
    if types.items().len() > 2 {
        faults.invalid(&types, "may not specify more than two policyTypes");
    } else {
        types.items().iter().for_each(|kind| faults.choice(kind, &["Ingress", "Egress"]));
    }
}

fn policy_port(faults: &mut Faults, port: &At) {
    faults.choice(&port.get("protocol"), &["TCP", "UDP", "SCTP"]);
    let (number, end) = (port.get("port"), port.get("endPort"));
    if number.is_set() {
        faults.port_or_name(&number);
        if end.is_set() {
            faults.port(&end);
            match number.int() {
                None => faults.invalid(&end, "may not be specified when `port` is non-numeric"),
                Some(number) if end.int().is_some_and(|end| end < number) => {
                    faults.invalid(&end, "must be greater than or equal to `port`");
                }
                Some(_) => {}
            }
        }
    } else if end.is_set() {
        faults.invalid(&end, "may not be specified when `port` is not specified");
    }
}

fn policy_peer(faults: &mut Faults, peer: &At) {
    let (pods, namespaces, block) = (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    faults.selector(&pods);
    faults.selector(&namespaces);
    if block.is_set() {
        ip_block(faults, &block);
        if pods.is_set() || namespaces.is_set() {
            faults.forbidden(peer, "may not specify both ipBlock and another peer");
        }
    }
    if !pods.is_set() && !namespaces.is_set() && !block.is_set() {
        faults.required(peer, "must specify a peer");
    }
}

fn ip_block(faults: &mut Faults, block: &At) {
    let range = block.get("cidr");
    if !faults.needs(&range) {
        return;
    }
    faults.cidr(&range);
    for except in block.get("except").items() {
        faults.cidr(&except);
        if let (Some(inner), Some(outer)) = (Range::read(except.text()), Range::read(range.text()))
            && !inner.is_strictly_within(outer)
        {
            faults.invalid(&except, "must be a strict subset of `cidr`");
        }
    }
}

/// The most addresses of one endpoint, the most endpoints and ports of one slice.
const ADDRESSES_LIMIT: usize = 100;
const ENDPOINTS_LIMIT: usize = 1000;
const PORTS_LIMIT: usize = 20_000;
/// The most labels of an endpoint's place, and the most hints of where it should be used.
const TOPOLOGY_LIMIT: usize = 16;
const HINTS_LIMIT: usize = 8;

/// Checks an EndpointSlice.
pub fn endpoint_slice(faults: &mut Faults, slice: &At) {
    let kind = slice.get("addressType");
    faults.needs_choice(&kind, &["FQDN", "IPv4", "IPv6"]);
    if faults.at_most_items(&slice.get("endpoints"), ENDPOINTS_LIMIT) {
        for endpoint in slice.get("endpoints").items() {
            slice_endpoint(faults, &endpoint, kind.text());
        }
    }
    if !faults.at_most_items(&slice.get("ports"), PORTS_LIMIT) {
        return;
    }
    let mut seen = BTreeSet::new();
    for port in slice.get("ports").items() {
        let name = port.get("name");
        faults.name(&name, names::check_dns_label);
        if !seen.insert(name.text()) {
            faults.duplicate_as(&name, name.text());
        }
        faults.needs_choice(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
        let protocol = port.get("appProtocol");
        if protocol.is_set() {
            faults.all_invalid(&protocol, names::check_label_key(protocol.text()));
        }
    }
}

fn slice_endpoint(faults: &mut Faults, endpoint: &At, kind: &str) {
    let addresses = endpoint.get("addresses");
    if addresses.is_blank() {
        faults.required(&addresses, "must contain at least 1 address");
    }
    faults.at_most_items(&addresses, ADDRESSES_LIMIT);
    for address in addresses.items() {
        match (kind, address.text().parse::<std::net::IpAddr>()) {
            ("IPv4", Ok(ip)) if ip.is_ipv6() => faults.invalid(&address, "must be an IPv4 address"),
            ("IPv6", Ok(ip)) if ip.is_ipv4() => faults.invalid(&address, "must be an IPv6 address"),
            ("IPv4" | "IPv6", _) => faults.particular_ip(&address),
            ("FQDN", _) => full_domain_name(faults, &address),
            _ => {}
        }
    }
    let node = endpoint.get("nodeName");
    if node.is_set() {
        faults.all_invalid(&node, names::check_dns_subdomain(node.text()));
    }
    faults.at_most_items(&endpoint.get("deprecatedTopology"), TOPOLOGY_LIMIT);
    faults.labels(&endpoint.get("deprecatedTopology"));
    let host = endpoint.get("hostname");
    if host.is_set() {
        faults.all_invalid(&host, names::check_dns_label(host.text()));
    }
    for (field, check) in
        [("forZones", names::check_label_value as fn(&str) -> Vec<String>), ("forNodes", names::check_dns_subdomain)]
    {
        hints(faults, &endpoint.get("hints").get(field), check);
    }
}

/// A domain name of at least two labels, perhaps with a dot behind it.
fn full_domain_name(faults: &mut Faults, name: &At) {
    if !faults.needs(name) {
        return;
    }
    let plain = name.text().strip_suffix('.').unwrap_or(name.text());
    let wrong = names::check_dns_subdomain(plain);
    if !wrong.is_empty() {
        faults.invalid_as(name, plain, wrong.join(","));
        return;
    }
    if !plain.contains('.') {
        faults.invalid_as(name, plain, "should be a domain with at least two segments separated by dots");
    }
}

fn hints(faults: &mut Faults, hints: &At, check: fn(&str) -> Vec<String>) {
    if !faults.at_most_items(hints, HINTS_LIMIT) {
        return;
    }
    let mut seen = BTreeSet::new();
    for hint in hints.items() {
        let name = hint.get("name");
        if !seen.insert(name.text()) {
            faults.duplicate(&name);
        }
        faults.all_invalid(&name, check(name.text()));
    }
}

/// Checks Endpoints.
pub fn endpoints(faults: &mut Faults, subsets: &At) {
    for subset in subsets.items() {
        let (ready, not_ready) = (subset.get("addresses"), subset.get("notReadyAddresses"));
        if ready.is_blank() && not_ready.is_blank() {
            faults.required(&subset, "must specify `addresses` or `notReadyAddresses`");
        }
        for address in ready.items().into_iter().chain(not_ready.items()) {
            faults.particular_ip(&address.get("ip"));
            faults.name(&address.get("hostname"), names::check_dns_label);
            let node = address.get("nodeName");
            if node.is_set() {
                faults.all_invalid(&node, names::check_dns_subdomain(node.text()));
            }
        }
        let ports = subset.get("ports").items();
        for port in &ports {
            let (name, protocol) = (port.get("name"), port.get("appProtocol"));
            if name.is_blank() && ports.len() > 1 {
                faults.required(&name, "");
            }
            faults.name(&name, names::check_dns_label);
            faults.port(&port.get("port"));
            faults.needs_choice(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
            if protocol.is_set() {
                faults.all_invalid(&protocol, names::check_label_key(protocol.text()));
            }
        }
    }
}
