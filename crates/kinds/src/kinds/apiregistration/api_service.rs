//! `apiregistration.k8s.io/v1` APIService: a group and version, and who serves it.

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::base::{ALL_METADATA, BASE, list, text, texts};
use crate::def::{Context, ResourceDef, Scope, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column};
use crate::rules::{table, tree};

/// `apiservices`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("apiregistration.k8s.io"),
    plural: text("apiservices"),
    singular: text("apiservice"),
    kind: text("APIService"),
    list_kind: text("APIServiceList"),
    categories: texts!["api-extensions"],
    scope: Scope::Cluster,
    schema: text("io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService"),
    subresources: list![Subresource::Status],
    unconditional_update: false,
    columns: list![
        NAME,
        column("Service", "string", "What serves the version."),
        column("Available", "string", "Whether it can be reached."),
        AGE,
    ],
    default: defaults,
    row,
    validate,
    status_keeps: ALL_METADATA,
    ..BASE
};

const HTTPS_PORT: i64 = 443;

fn defaults(object: &mut Object) {
    if let Some(service) = tree::node_mut(object, &["spec", "service"]).filter(|node| node.is_object()) {
        service.default_at(&["port"], HTTPS_PORT);
    }
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let service = object.at(&["spec", "service"]).map_or_else(
        || "Local".to_owned(),
        |service| format!("{}/{}", service.str_at(&["namespace"]), service.str_at(&["name"])),
    );
    let available = table::condition(object, "Available").map_or_else(
        || "Unknown".to_owned(),
        |condition| match condition.str_at(&["status"]) {
            "True" => "True".to_owned(),
            status => format!("{status} ({})", condition.str_at(&["reason"])),
        },
    );
    cells![object.name(), service, available, table::age(object, now)]
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let mut faults = Faults::new();
    let (name, spec) = (At::top(object, "metadata").get("name"), At::top(object, "spec"));
    let wanted = format!("{}.{}", spec.get("version").text(), spec.get("group").text());
    if name.text() != wanted {
        faults.invalid(&name, format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
    }
    if spec.get("group").is_blank() && spec.get("version").text() != "v1" {
        faults.required(&spec.get("group"), "only v1 may have an empty group and it better be legacy kube");
    }
    faults.name(&spec.get("group"), names::check_dns_subdomain);
    for words in names::check_dns_1035_label(spec.get("version").text()) {
        faults.invalid_as(&spec.get("version"), spec.get("version").text(), words);
    }
    for (field, limit) in [("groupPriorityMinimum", GROUP_PRIORITY_LIMIT), ("versionPriority", VERSION_PRIORITY_LIMIT)]
    {
        let priority = spec.get(field);
        if !(1..=limit).contains(&priority.int().unwrap_or(0)) {
            let words = format!("must be positive and less than {limit}");
            faults.invalid_as(&priority, priority.int().unwrap_or(0), words);
        }
    }
    let (service, bundle) = (spec.get("service"), spec.get("caBundle"));
    if !service.is_set() {
        if !bundle.is_blank() {
            let shown = format!("{} bytes", bundle.text().trim_end_matches('=').len() * 3 / 4);
            faults.invalid_as(&bundle, shown, "local APIServices may not have a caBundle");
        }
        if spec.get("insecureSkipTLSVerify").flag() {
            let words = "local APIServices may not have insecureSkipTLSVerify";
            faults.invalid(&spec.get("insecureSkipTLSVerify"), words);
        }
        return faults.into_list();
    }
    faults.needs(&service.get("namespace"));
    faults.needs(&service.get("name"));
    let port = service.get("port");
    let wrong = names::check_port_number(port.int().unwrap_or(0));
    if !wrong.is_empty() {
        faults.invalid(&port, format!("port is not valid: {}", wrong.join(",")));
    }
    if spec.get("insecureSkipTLSVerify").flag() && !bundle.is_blank() {
        faults.invalid(&spec.get("insecureSkipTLSVerify"), "may not be true if caBundle is present");
    }
    faults.into_list()
}

const GROUP_PRIORITY_LIMIT: i64 = 20_000;
const VERSION_PRIORITY_LIMIT: i64 = 1000;
