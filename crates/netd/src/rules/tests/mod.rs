//! The rules as text, as traced packets, and as the kernel takes them.

mod golden;
mod kernel;
mod policies;
mod traced;
mod tracer;
mod traffic;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use super::*;

pub(super) const NODE: &str = "node-1";

pub(super) fn frame() -> Frame {
    Frame {
        bridge: "skiff0".into(),
        pod_range: "10.244.0.0/16".parse().expect("a range"),
        service_range: "10.96.0.0/12".parse().expect("a range"),
        balancer_ranges: vec!["203.0.113.0/24".parse().expect("a range")],
    }
}

/// Brings the rules to what these objects (YAML documents, Services and EndpointSlices) say.
pub(super) fn apply(ruleset: &mut Ruleset, objects: &str) -> Transaction {
    let mut services: Vec<core::Service> = Vec::new();
    let mut slices: Vec<discovery::EndpointSlice> = Vec::new();
    for document in objects.split("\n---\n") {
        if document.is_empty() {
            continue;
        }
        if document.contains("kind: EndpointSlice") {
            slices.push(serde_saphyr::from_str(document).expect("a slice"));
        } else {
            services.push(serde_saphyr::from_str(document).expect("a Service"));
        }
    }
    let mut fragments: Vec<(String, Fragment)> =
        ruleset.owners().map(|owner| (owner.to_owned(), Fragment::default())).collect();
    for object in &services {
        let Some(service) = api::service(object) else { continue };
        let name = object.metadata.name.as_deref();
        let mine = slices.iter().filter(|slice| api::service_of(slice) == name);
        let owner = service::owner("default", name.expect("it has a name"));
        let before = ruleset.fragment(&owner);
        let fragment = service::fragment(&service, &api::backends(mine, NODE), frame().pod_range, before);
        fragments.retain(|(known, _)| *known != owner);
        fragments.push((owner, fragment));
    }
    ruleset.replace(fragments)
}

pub(super) fn ruleset(objects: &str) -> Ruleset {
    let mut ruleset = Ruleset::new(frame());
    apply(&mut ruleset, objects);
    ruleset
}

/// A Service named `name` with these lines in its spec.
pub(super) fn service_yaml(name: &str, spec: &str) -> String {
    let spec: String = spec.trim().lines().map(|line| format!("  {line}\n")).collect();
    format!("kind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n{spec}")
}

/// A slice of that Service with one port; endpoints as `address node conditions`, where conditions are letters:
/// `r` ready, `s` serving, `t` terminating.
pub(super) fn slice_yaml(service: &str, port: &str, endpoints: &[&str]) -> String {
    let mut text = format!(
        "kind: EndpointSlice\nmetadata:\n  name: {service}-1\n  labels: {{kubernetes.io/service-name: {service}}}\naddressType: IPv4\nports:\n- {port}\nendpoints:\n"
    );
    for endpoint in endpoints {
        let mut words = endpoint.split(' ');
        let (address, node, flags) = (words.next(), words.next(), words.next().unwrap_or("rs"));
        let has = |flag| flags.contains(flag);
        text += &format!(
            "- addresses: [{}]\n  nodeName: {}\n  conditions: {{ready: {}, serving: {}, terminating: {}}}\n",
            address.expect("an address"),
            node.unwrap_or(NODE),
            has('r'),
            has('s'),
            has('t'),
        );
    }
    text
}

pub(super) fn objects(parts: &[String]) -> String {
    parts.join("\n---\n")
}
