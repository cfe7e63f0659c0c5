//! Where a tunnel leads: which container, which node's agent, which address and port.

use std::net::IpAddr;

use serde_json::Value;
use skiff_object::meta::Meta;
use skiff_object::{GroupResource, Object, Status};

use super::pipe::{Destination, Security};
use crate::call::Call;
use crate::failure::Result;
use crate::server::ApiServer;
use crate::storage::filter::Filter;

/// The port of a node's agent that names none.
const AGENT_PORT: u16 = 10250;

fn names(pod: &Object, list: &str) -> Vec<String> {
    pod.list_at(&["spec", list]).iter().map(|container| container.str_at(&["name"]).to_owned()).collect()
}

/// The container that is meant: the one that is named, or the only one.
pub fn container(pod: &Object, asked: &str, subresource: &str) -> Result<String> {
    let (own, init, ephemeral) =
        (names(pod, "containers"), names(pod, "initContainers"), names(pod, "ephemeralContainers"));
    if !asked.is_empty() {
        let known = [&own, &init, &ephemeral].into_iter().flatten().any(|name| name == asked);
        if !known {
            let text = format!("container {asked} is not valid for pod {}", pod.name());
            return Err(Status::bad_request(text).into());
        }
        return Ok(asked.to_owned());
    }
    let default =
        pod.annotation("kubectl.kubernetes.io/default-container").filter(|name| own.iter().any(|own| own == name));
    if let (Some(name), true) = (default, subresource != "log") {
        return Ok(name.to_owned());
    }
    if let [only] = own.as_slice() {
        return Ok(only.clone());
    }
    let mut text =
        format!("a container name must be specified for pod {}, choose one of: [{}]", pod.name(), own.join(" "));
    for (list, what) in [(init, "init"), (ephemeral, "ephemeral")] {
        if !list.is_empty() {
            text.push_str(&format!(" or one of the {what} containers: [{}]", list.join(" ")));
        }
    }
    Err(Status::bad_request(text).into())
}

/// A node's agent.
pub fn agent(server: &ApiServer, node: &str) -> Result<Destination> {
    let resource = GroupResource::new("", "nodes");
    let cache = server.catalogue.cache("", "nodes").ok_or_else(Status::no_such_path)?;
    let node = cache.object("", node)?.ok_or_else(|| Status::not_found(&resource, node))?;
    let port = node.int_at(&["status", "daemonEndpoints", "kubeletEndpoint", "Port"]).unwrap_or(0);
    let port = u16::try_from(port).ok().filter(|port| *port != 0).unwrap_or(AGENT_PORT);
    Ok(Destination::new(node_address(&node)?, port, Security::Agent))
}

fn node_address(node: &Object) -> Result<String> {
    let addresses = node.list_at(&["status", "addresses"]);
    let of = |kind: &str| addresses.iter().find(|address| address.str_at(&["type"]) == kind);
    let found = ["InternalIP", "ExternalIP", "Hostname"].into_iter().find_map(of);
    let text = || format!("no preferred addresses found for node {:?}; known addresses: []", node.name());
    Ok(found.ok_or_else(|| Status::internal(text()))?.str_at(&["address"]).to_owned())
}

/// Where a proxy request leads; its name may be `NAME`, `NAME:PORT` or `SCHEME:NAME:PORT`.
pub fn proxied(server: &ApiServer, call: &Call, resource: &str) -> Result<Destination> {
    let parts: Vec<&str> = call.info.name.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] if matches!(*scheme, "http" | "https" | "") => (*scheme, *name, *port),
        _ => {
            let text = format!("invalid {} request {:?}", resource.trim_end_matches('s'), call.info.name);
            return Err(Status::bad_request(text).into());
        }
    };
    let security = if scheme == "https" { Security::Unverified } else { Security::Plain };
    match resource {
        "nodes" => node(server, name, port, security),
        "pods" => pod(call, name, port, security),
        _ => service(server, call, name, port, security),
    }
}

fn node(server: &ApiServer, name: &str, port: &str, security: Security) -> Result<Destination> {
    let own = agent(server, name)?;
    if port.is_empty() || port == own.port.to_string() {
        return Ok(own);
    }
    Ok(Destination::new(own.host, number(port)?, security))
}

/// Refuses to lead a proxy's client to what listens for this machine alone, or on its links: 400, as by upstream. A name
/// leads from then on to the address that was looked at.
pub async fn check_address(server: &ApiServer, to: &mut Destination) -> Result<()> {
    let refused = || Status::bad_request("address not allowed");
    let addresses: Vec<IpAddr> = match to.host.parse() {
        Ok(address) => vec![address],
        Err(_) => {
            let found = tokio::net::lookup_host((to.host.as_str(), to.port)).await;
            found.map_err(|error| Status::bad_request(error.to_string()))?.map(|address| address.ip()).collect()
        }
    };
    let may = |address: &IpAddr| is_proxyable(*address) || (server.config.loopback_proxies && address.is_loopback());
    if addresses.is_empty() || !addresses.iter().all(may) {
        return Err(refused().into());
    }
    to.resolved = addresses.first().copied();
    Ok(())
}

/// Whether an address is one among many: no loopback, no link, no group.
fn is_proxyable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast() || v4.is_unspecified())
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => is_proxyable(v4.into()),
            None => !(v6.is_loopback() || v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()),
        },
    }
}

fn number(port: &str) -> Result<u16> {
    port.parse().map_err(|_| Status::bad_request(format!("invalid port {port:?}")).into())
}

fn pod(call: &Call, name: &str, port: &str, security: Security) -> Result<Destination> {
    let found = call.served.cache.object(&call.info.namespace, name)?;
    let pod = found.ok_or_else(|| Status::not_found(&call.served.def.group_resource(), name))?;
    let host = pod.str_at(&["status", "podIP"]);
    if host.is_empty() {
        return Err(Status::bad_request("address not allowed: pod has no address").into());
    }
    let all = || pod.list_at(&["spec", "containers"]).iter().flat_map(|container| container.list_at(&["ports"]));
    let port = match port {
        "" => all()
            .find_map(|port| port.int_at(&["containerPort"]))
            .and_then(|port| u16::try_from(port).ok())
            .unwrap_or(80),
        port => match all().find(|own| own.str_at(&["name"]) == port).and_then(|own| own.int_at(&["containerPort"])) {
            Some(named) => u16::try_from(named).unwrap_or(0),
            None => number(port)?,
        },
    };
    Ok(Destination::new(host.to_owned(), port, security))
}

fn service(server: &ApiServer, call: &Call, name: &str, port: &str, security: Security) -> Result<Destination> {
    let resource = call.served.def.group_resource();
    let namespace = &call.info.namespace;
    let service = call.served.cache.object(namespace, name)?.ok_or_else(|| Status::not_found(&resource, name))?;
    let ports = service.list_at(&["spec", "ports"]);
    let wanted = ports.iter().find(|own| {
        (port.is_empty() && ports.len() == 1)
            || own.str_at(&["name"]) == port
            || own.int_at(&["port"]).is_some_and(|number| number.to_string() == port)
    });
    let unavailable = |why: String| Status::unavailable(why);
    let wanted = wanted.ok_or_else(|| unavailable(format!("no service port {port:?} found for service {name:?}")))?;
    let (host, port) = endpoint_of(server, namespace, name, wanted.str_at(&["name"]))?;
    Ok(Destination::new(host, port, security))
}

/// An endpoint that is ready, of a Service and the port of that name.
fn endpoint_of(server: &ApiServer, namespace: &str, name: &str, port_name: &str) -> Result<(String, u16)> {
    let none = || Status::unavailable(format!("no endpoints available for service {name:?}"));
    let slices = server.catalogue.cache("discovery.k8s.io", "endpointslices").ok_or_else(none)?;
    let labels = format!("kubernetes.io/service-name={name}");
    let filter = Filter::new(&slices.def, &slices.def, namespace, &labels, "")?;
    let mut choices = Vec::new();
    for slice in slices.objects(&filter)? {
        let own = slice.list_at(&["ports"]).iter().find(|own| own.str_at(&["name"]) == port_name);
        let Some(port) = own.and_then(|own| own.int_at(&["port"])).and_then(|port| u16::try_from(port).ok()) else {
            continue;
        };
        for endpoint in slice.list_at(&["endpoints"]) {
            let ready = endpoint.at(&["conditions", "ready"]) != Some(&Value::Bool(false));
            if let (true, Some(address)) = (ready, endpoint.list_at(&["addresses"]).first().and_then(Value::as_str)) {
                choices.push((address.to_owned(), port));
            }
        }
    }
    if choices.is_empty() {
        return Err(none().into());
    }
    Ok(choices.swap_remove((server.ids().next_u64() % choices.len() as u64) as usize))
}

/// An endpoint that is ready, of a Service and one of its ports; why there is none is for people.
pub fn endpoint(
    server: &ApiServer,
    namespace: &str,
    name: &str,
    port: u16,
) -> std::result::Result<(String, u16), String> {
    let services = server.catalogue.cache("", "services").ok_or("services are not served")?;
    let service = services.object(namespace, name).map_err(|failure| failure.to_string())?;
    let service = service.ok_or_else(|| format!("service {name:?} not found"))?;
    if service.str_at(&["spec", "type"]) == "ExternalName" {
        return Ok((service.str_at(&["spec", "externalName"]).to_owned(), port));
    }
    let ports = service.list_at(&["spec", "ports"]);
    let wanted = ports.iter().find(|own| own.int_at(&["port"]) == Some(i64::from(port)));
    let wanted = wanted.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    endpoint_of(server, namespace, name, wanted.str_at(&["name"])).map_err(|failure| failure.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_lead_to_addresses_of_the_network_only() {
        let check = |text: &str| is_proxyable(text.parse().expect("an address"));
        for good in ["10.0.0.1", "192.168.1.1", "8.8.8.8", "fd00::1", "2001:db8::1"] {
            assert!(check(good), "{good}");
        }
        let bad = [
            "127.0.0.1",
            "127.8.8.8",
            "169.254.169.254",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
        ];
        for bad in bad {
            assert!(!check(bad), "{bad}");
        }
    }
}
