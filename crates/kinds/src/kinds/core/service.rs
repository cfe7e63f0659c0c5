//! `v1` Service: a stable name and address for a set of Pods.

use serde_json::{Value, json};
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::{BASE, list, selectable, special, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, SELECTOR, cells, column};
use crate::rules::{prepare, service_check, table, tree};

/// `services`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("services"),
    singular: text("service"),
    kind: text("Service"),
    list_kind: text("ServiceList"),
    short_names: texts!["svc"],
    categories: texts!["all"],
    schema: text("io.k8s.api.core.v1.Service"),
    subresources: list![
        special("proxy", ("", "v1", "ServiceProxyOptions"), texts!["create", "delete", "get", "patch", "update"]),
        Subresource::Status,
    ],
    create_on_update: true,
    name_rule: names::dns_1035_label,
    selectable: selectable!["spec.clusterIP", "spec.type"],
    columns: list![
        NAME,
        column("Type", "string", "How the Service is reached."),
        column("Cluster-IP", "string", "The address within the cluster."),
        column("External-IP", "string", "The addresses for others."),
        column("Port(s)", "string", "The ports, with those on the nodes."),
        AGE,
        SELECTOR,
    ],
    default: defaults,
    prepare_update,
    row,
    validate,
    validate_update,
    warnings,
    ..BASE
};

/// How long a client stays with one endpoint, where that is asked for without a time.
const AFFINITY_TIMEOUT_SECONDS: i64 = 3 * 60 * 60;

fn defaults(object: &mut Object) {
    let spec = tree::made_mut(object, &["spec"]);
    tree::default_text(spec, &["type"], "ClusterIP");
    tree::default_text(spec, &["sessionAffinity"], "None");
    if spec.str_at(&["sessionAffinity"]) == "ClientIP" {
        spec.default_at(&["sessionAffinityConfig", "clientIP", "timeoutSeconds"], AFFINITY_TIMEOUT_SECONDS);
    }
    for port in tree::items_mut(spec, &["ports"]) {
        tree::default_text(port, &["protocol"], "TCP");
        if is_unset(port.get("targetPort"))
            && let Some(number) = port.get("port").cloned()
        {
            port.set_at(&["targetPort"], number);
        }
    }
    traffic_defaults(spec);
    address_list(spec);
}

fn is_unset(port: Option<&Value>) -> bool {
    tree::is_blank(port) || port.and_then(Value::as_i64) == Some(0)
}

fn kind_of(spec: &Value) -> &str {
    spec.str_at(&["type"])
}

fn traffic_defaults(spec: &mut Value) {
    let kind = kind_of(spec).to_owned();
    let reached_from_outside = matches!(kind.as_str(), "NodePort" | "LoadBalancer")
        || kind == "ClusterIP" && !spec.list_at(&["externalIPs"]).is_empty();
    if reached_from_outside {
        tree::default_text(spec, &["externalTrafficPolicy"], "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        tree::default_text(spec, &["internalTrafficPolicy"], "Cluster");
    }
    if kind == "LoadBalancer" {
        spec.default_at(&["allocateLoadBalancerNodePorts"], true);
    }
}

/// Who writes the one address alone means a list of it. Families are decided where it is known which the cluster has.
fn address_list(spec: &mut Value) {
    let address = spec.str_at(&["clusterIP"]).to_owned();
    if kind_of(spec) != "ExternalName" && !address.is_empty() && tree::is_blank(spec.at(&["clusterIPs"])) {
        spec.set_at(&["clusterIPs"], json!([address]));
    }
}

/// What was allocated stays where the update leaves it out, and what the new type has no use for goes.
fn prepare_update(context: &Context, new: &mut Object, old: &Object) {
    prepare::update(context, new, old);
    if context.subresource != "status" {
        same_addresses(new, old);
        keep_allocations(new, old);
        drop_unused_fields(new, old);
        address_list(tree::made_mut(new, &["spec"]));
    }
    if kind_of_object(new) != "LoadBalancer" {
        new.set_at(&["status", "loadBalancer"], tree::empty());
    }
}

fn kind_of_object(object: &Object) -> &str {
    object.str_at(&["spec", "type"])
}

fn has_cluster_ip(object: &Object) -> bool {
    matches!(kind_of_object(object), "ClusterIP" | "NodePort" | "LoadBalancer")
}

fn has_node_ports(object: &Object) -> bool {
    match kind_of_object(object) {
        "NodePort" => true,
        "LoadBalancer" => object.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false)),
        _ => false,
    }
}

fn needs_health_check(object: &Object) -> bool {
    kind_of_object(object) == "LoadBalancer" && object.str_at(&["spec", "externalTrafficPolicy"]) == "Local"
}

/// Who changes one of `clusterIP` and `clusterIPs` means both.
fn same_addresses(new: &mut Object, old: &Object) {
    let (one, all) = (new.str_at(&["spec", "clusterIP"]).to_owned(), new.list_at(&["spec", "clusterIPs"]).to_vec());
    let (was_one, was_all) = (old.str_at(&["spec", "clusterIP"]), old.list_at(&["spec", "clusterIPs"]));
    if one != was_one && all == was_all {
        match one.as_str() {
            "" => drop(new.remove_at(&["spec", "clusterIPs"])),
            _ => new.set_at(&["spec", "clusterIPs"], json!([one])),
        }
    } else if one == was_one && all != was_all {
        match all.first() {
            None => drop(new.remove_at(&["spec", "clusterIP"])),
            Some(first) => new.set_at(&["spec", "clusterIP"], first.clone()),
        }
    }
}

fn keep_allocations(new: &mut Object, old: &Object) {
    if has_cluster_ip(new) && has_cluster_ip(old) && tree::is_blank(new.at(&["spec", "clusterIP"])) {
        tree::carry_over(new, old, &["spec", "clusterIP"]);
        if tree::is_blank(new.at(&["spec", "clusterIPs"])) {
            tree::carry_over(new, old, &["spec", "clusterIPs"]);
        }
    }
    if has_node_ports(new) && has_node_ports(old) {
        keep_node_ports(new, old);
    }
    if needs_health_check(new) && needs_health_check(old) && table::number(new, &["spec", "healthCheckNodePort"]) == 0 {
        tree::carry_over(new, old, &["spec", "healthCheckNodePort"]);
    }
}

/// A port is the same one when its number and protocol are.
fn keep_node_ports(new: &mut Object, old: &Object) {
    let key = |port: &Value| (port.int_at(&["port"]), port.str_at(&["protocol"]).to_owned());
    let old_ports = old.list_at(&["spec", "ports"]);
    let taken: Vec<_> = new.list_at(&["spec", "ports"]).iter().filter_map(|port| port.int_at(&["nodePort"])).collect();
    for port in tree::items_mut(new, &["spec", "ports"]) {
        let kept = old_ports.iter().find(|old| key(old) == key(port)).and_then(|old| old.int_at(&["nodePort"]));
        if let Some(number) = kept.filter(|number| !taken.contains(number))
            && table::number(port, &["nodePort"]) == 0
        {
            port.set_at(&["nodePort"], number);
        }
    }
}

fn drop_unused_fields(new: &mut Object, old: &Object) {
    let same = |new: &Object, path: &[&str]| new.at(path) == old.at(path);
    if has_cluster_ip(old) && !has_cluster_ip(new) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if same(new, &["spec", field]) {
                new.remove_at(&["spec", field]);
            }
        }
    }
    if has_node_ports(old) && !has_node_ports(new) {
        let numbers = |object: &Object| {
            let ports = object.list_at(&["spec", "ports"]).iter();
            ports.map(|port| port.int_at(&["nodePort"])).collect::<Vec<_>>()
        };
        if numbers(new) == numbers(old) {
            for port in tree::items_mut(new, &["spec", "ports"]) {
                port.remove_at(&["nodePort"]);
            }
        }
    }
    let drop_unless = |new: &mut Object, fits: fn(&Object) -> bool, fields: &[&str]| {
        for field in fields {
            if fits(old) && !fits(new) && same(new, &["spec", field]) {
                new.remove_at(&["spec", field]);
            }
        }
    };
    drop_unless(new, needs_health_check, &["healthCheckNodePort"]);
    drop_unless(new, |o| kind_of_object(o) == "LoadBalancer", &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
    drop_unless(new, |o| matches!(kind_of_object(o), "NodePort" | "LoadBalancer"), &["externalTrafficPolicy"]);
    drop_unless(new, has_cluster_ip, &["internalTrafficPolicy"]);
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let address = object.list_at(&["spec", "clusterIPs"]).first().and_then(Value::as_str);
    let ports = object.list_at(&["spec", "ports"]).iter().map(port_text).collect::<Vec<_>>();
    cells![
        object.name(),
        kind_of_object(object),
        address.unwrap_or(table::text_or(object, &["spec", "clusterIP"], table::NONE)),
        external_address(object),
        if ports.is_empty() { table::NONE.to_owned() } else { ports.join(",") },
        table::age(object, now),
        table::labels_text(object.at(&["spec", "selector"])),
    ]
}

fn port_text(port: &Value) -> String {
    let (number, protocol) = (table::number(port, &["port"]), port.str_at(&["protocol"]));
    match table::number(port, &["nodePort"]) {
        0 => format!("{number}/{protocol}"),
        node_port => format!("{number}:{node_port}/{protocol}"),
    }
}

fn external_address(object: &Object) -> String {
    let own = object.list_at(&["spec", "externalIPs"]);
    match kind_of_object(object) {
        "ClusterIP" | "NodePort" => table::joined_or_none(own),
        "LoadBalancer" => {
            let given = table::load_balancer_addresses(object);
            let all: Vec<_> = given.into_iter().chain(own.iter().filter_map(Value::as_str)).collect();
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => object.str_at(&["spec", "externalName"]).to_owned(),
        _ => table::UNKNOWN.to_owned(),
    }
}

fn validate(context: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource == "status" {
        return faults.into_list();
    }
    let spec = At::top(object, "spec");
    service_check::spec(&mut faults, &spec);
    service_check::annotations(&mut faults, &At::top(object, "metadata").get("annotations"), &spec);
    faults.into_list()
}

fn validate_update(context: &Context, new: &Object, old: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource == "status" {
        let status = At::top(new, "status").get("loadBalancer");
        if kind_of_object(new) != "LoadBalancer" && !status.get("ingress").is_blank() {
            faults.forbidden(&status.get("ingress"), "may only be used when `spec.type` is 'LoadBalancer'");
        }
        service_check::load_balancer_status(&mut faults, &status, true);
    } else {
        service_check::update(&mut faults, &At::top(new, "spec"), &At::top(old, "spec"));
    }
    faults.into_list()
}

/// See `GetWarningsForService` of upstream: what is ignored, or will be one day.
fn warnings(object: &Object) -> Vec<String> {
    let (spec, annotations) = (At::top(object, "spec"), At::top(object, "metadata").get("annotations"));
    let mut warnings = Vec::new();
    for (old, new) in [("service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode")] {
        if annotations.get(old).is_set() {
            warnings.push(format!("annotation {old} is deprecated, please use {new} instead"));
        }
    }
    if spec.get("clusterIP").text() == "None" {
        for field in ["loadBalancerIP", "externalIPs"] {
            if !spec.get(field).is_blank() {
                warnings.push(format!("spec.{field} is ignored for headless services"));
            }
        }
        if spec.get("sessionAffinity").text() != "None" {
            warnings.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    if kind_of_object(object) != "ExternalName" && !spec.get("externalName").is_blank() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if kind_of_object(object) == "ExternalName" && !spec.get("externalIPs").is_blank() {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    warnings
}
