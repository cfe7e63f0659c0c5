//! The rules as text, as traced packets, and as the kernel takes them.

mod golden;
mod kernel;
mod policies;
mod sctp;
mod six;
mod traced;
mod tracer;
mod traffic;
mod trial;
mod world;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;

use super::*;
use crate::Family;
pub(crate) use six::said;

pub(super) const NODE: &str = "node-1";
const ZONE: &str = "zone-a";

pub(super) fn here() -> topology::Here {
    topology::Here { node: NODE.into(), zone: Some(ZONE.into()) }
}

pub(super) fn frame() -> Frame {
    frame_of(&[Family::V4])
}

/// A node of a cluster with these families. What is said of IPv4 is said of IPv6 in the same words.
pub(super) fn frame_of(families: &[Family]) -> Frame {
    let each = |range: &str| families.iter().map(|family| said(*family, range).parse().expect("a range")).collect();
    Frame {
        bridge: "skiff0".into(),
        pod_ranges: each("10.244.0.0/16"),
        service_ranges: each("10.96.0.0/12"),
        balancer_ranges: each("203.0.113.0/24"),
    }
}

/// What these objects (YAML documents, Services and EndpointSlices) are.
fn parse(objects: &str) -> (Vec<core::Service>, Vec<discovery::EndpointSlice>) {
    let documents = objects.split("\n---\n").filter(|document| !document.is_empty());
    let (slices, services): (Vec<&str>, Vec<&str>) =
        documents.partition(|document| document.contains("kind: EndpointSlice"));
    let service = |document: &str| serde_saphyr::from_str(document).expect("a Service");
    let slice = |document: &str| serde_saphyr::from_str(document).expect("a slice");
    (services.into_iter().map(service).collect(), slices.into_iter().map(slice).collect())
}

/// The one Service of these objects, and what is behind it.
pub(crate) fn service_and_backends(objects: &str) -> (service::Service, Vec<service::Backend>) {
    service_and_backends_of(objects, Family::V4)
}

/// The same in either family.
pub(crate) fn service_and_backends_of(objects: &str, family: Family) -> (service::Service, Vec<service::Backend>) {
    let (services, slices) = parse(objects);
    (api::service(&services[0], family).expect("it is ours to serve"), api::backends(&slices, &here(), family))
}

/// Brings the rules to what these objects say.
pub(super) fn apply(ruleset: &mut Ruleset, objects: &str) -> Transaction {
    let (services, slices) = parse(objects);
    let family = ruleset.family();
    let mut fragments: Vec<(String, Fragment)> =
        ruleset.owners().map(|owner| (owner.to_owned(), Fragment::default())).collect();
    for object in &services {
        let Some(service) = api::service(object, family) else { continue };
        let name = object.metadata.name.as_deref();
        let mine = slices.iter().filter(|slice| skiff_client::slices::service_name(slice) == name);
        let owner = service::owner("default", name.expect("it has a name"));
        let before = ruleset.fragment(&owner);
        let backends = api::backends(mine, &here(), family);
        let fragment = service::fragment(&service, &backends, ruleset.frame(), before);
        fragments.retain(|(known, _)| *known != owner);
        fragments.push((owner, fragment));
    }
    ruleset.replace(fragments)
}

pub(super) fn ruleset(objects: &str) -> Ruleset {
    ruleset_of(&[Family::V4], Family::V4, objects)
}

/// The rules of one of these families.
pub(super) fn ruleset_of(families: &[Family], family: Family, objects: &str) -> Ruleset {
    let mut ruleset = Ruleset::new(frame_of(families), family);
    apply(&mut ruleset, objects);
    ruleset
}

/// A Service named `name` with these lines in its spec.
pub(crate) fn service_yaml(name: &str, spec: &str) -> String {
    let spec: String = spec.trim().lines().map(|line| format!("  {line}\n")).collect();
    format!("kind: Service\nmetadata: {{name: {name}, namespace: default}}\nspec:\n{spec}")
}

/// A slice of that Service with one port, of the family of its first endpoint; endpoints as `address node conditions`, where conditions are letters:
/// `r` ready, `s` serving, `t` terminating; then hints such as `zone=zone-a,zone-b` and `node=node-1`.
pub(crate) fn slice_yaml(service: &str, port: &str, endpoints: &[&str]) -> String {
    let family = if endpoints.first().is_some_and(|first| first.contains(':')) { Family::V6 } else { Family::V4 };
    let mut text = format!(
        "kind: EndpointSlice\nmetadata:\n  name: {service}-1\n  labels: {{kubernetes.io/service-name: {service}}}\naddressType: {family}\nports:\n- {port}\nendpoints:\n"
    );
    for endpoint in endpoints {
        let mut words = endpoint.split(' ');
        let (address, node, flags) = (words.next(), words.next(), words.next().unwrap_or("rs"));
        let has = |flag| flags.contains(flag);
        text += &format!(
            "- addresses: ['{}']\n  nodeName: {}\n  conditions: {{ready: {}, serving: {}, terminating: {}}}\n",
            address.expect("an address"),
            node.unwrap_or(NODE),
            has('r'),
            has('s'),
            has('t'),
        );
        text += &hints_yaml(words);
    }
    text
}

fn hints_yaml<'a>(hints: impl Iterator<Item = &'a str>) -> String {
    let named = |hint: &str| {
        let (field, names) = hint.split_once('=').expect("zone=... or node=...");
        let names: Vec<String> = names.split(',').map(|name| format!("{{name: {name}}}")).collect();
        format!("    for{}{}s: [{}]\n", field[..1].to_uppercase(), &field[1..], names.join(", "))
    };
    let hints: String = hints.map(named).collect();
    if hints.is_empty() { hints } else { format!("  hints:\n{hints}") }
}

pub(crate) fn objects(parts: &[String]) -> String {
    parts.join("\n---\n")
}
