//! `networking.k8s.io/v1` Ingress: routes from outside to Services, by host and path.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldPath, Object, names};

use crate::base::{BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{network_check, service_check, table};

/// `ingresses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("networking.k8s.io"),
    plural: text("ingresses"),
    singular: text("ingress"),
    kind: text("Ingress"),
    list_kind: text("IngressList"),
    short_names: texts!["ing"],
    schema: text("io.k8s.api.networking.v1.Ingress"),
    subresources: list![Subresource::Status],
    has_generation: true,
    columns: list![
        NAME,
        column("Class", "string", "The class that serves it."),
        column("Hosts", "string", "The hosts that it serves."),
        column("Address", "string", "Where it is reached."),
        column("Ports", "string", "The ports where it is reached."),
        AGE,
    ],
    row,
    validate,
    validate_update,
    warnings,
    ..BASE
};

const SHOWN_LIMIT: usize = 3;

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let rules = object.list_at(&["spec", "rules"]).iter();
    let hosts: Vec<_> = rules.map(|rule| rule.str_at(&["host"]).to_owned()).filter(|host| !host.is_empty()).collect();
    let hosts = if hosts.is_empty() { "*".to_owned() } else { table::listed_with_more(&hosts, SHOWN_LIMIT, ",") };
    let ports = if object.list_at(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    cells![
        object.name(),
        table::text_or(object, &["spec", "ingressClassName"], table::NONE),
        hosts,
        table::load_balancer_addresses(object).join(","),
        ports,
        table::age(object, now),
    ]
}

fn validate(context: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource == "status" {
        return faults.into_list();
    }
    let spec = At::top(object, "spec");
    network_check::ingress(&mut faults, &spec);
    let (class, annotation) = (spec.get("ingressClassName"), object.annotation(CLASS_ANNOTATION));
    if object.resource_version().is_empty() && class.is_set() && annotation.is_some_and(|name| name != class.text()) {
        let at = class.renamed(FieldPath::new("annotations").child(CLASS_ANNOTATION));
        faults.invalid_as(&at, annotation, "must match `ingressClassName` when both are specified");
    }
    faults.into_list()
}

fn validate_update(context: &Context, new: &Object, _: &Object) -> ErrorList {
    let mut faults = Faults::new();
    if context.subresource == "status" {
        load_balancer_status(&mut faults, &At::top(new, "status").get("loadBalancer"));
    }
    faults.into_list()
}

fn load_balancer_status(faults: &mut Faults, status: &At) {
    service_check::load_balancer_status(faults, status, false);
    for port in status.get("ingress").items().iter().flat_map(|ingress| ingress.get("ports").items()) {
        faults.port(&port.get("port"));
        faults.choice(&port.get("protocol"), &["SCTP", "TCP", "UDP"]);
        faults.name(&port.get("error"), names::check_label_key);
    }
}

/// The old way of naming the class.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

fn warnings(object: &Object) -> Vec<String> {
    let old_way = object.annotation(CLASS_ANNOTATION).is_some();
    let words = format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead");
    old_way.then_some(words).into_iter().collect()
}
