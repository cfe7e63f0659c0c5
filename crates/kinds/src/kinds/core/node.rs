//! `v1` Node: a machine that runs Pods.

use std::collections::BTreeSet;

use serde_json::Value;
use skiff_base::Timestamp;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, Object, names};

use crate::base::{BASE, list, special, text, texts};
use crate::def::{Context, ResourceDef, Scope, SelectableField, Subresource};
use crate::rules::check::{At, Faults};
use crate::rules::table::{AGE, NAME, cells, column, wide};
use crate::rules::{address, prepare, resource_check, table, tree};

/// `nodes`.
pub static DEF: ResourceDef = ResourceDef {
    plural: text("nodes"),
    singular: text("node"),
    kind: text("Node"),
    list_kind: text("NodeList"),
    short_names: texts!["no"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.core.v1.Node"),
    subresources: list![
        special("proxy", ("", "v1", "NodeProxyOptions"), texts!["create", "delete", "get", "patch", "update"]),
        Subresource::Status,
    ],
    selectable: list![SelectableField {
        path: text("spec.unschedulable"),
        read: Some((&["spec.unschedulable"], unschedulable))
    }],
    columns: list![
        NAME,
        column("Status", "string", "Whether the node is ready, and whether it takes new Pods."),
        column("Roles", "string", "The roles of the node."),
        AGE,
        column("Version", "string", "The version of the node's agent."),
        wide("Internal-IP", "string", "The address within the cluster."),
        wide("External-IP", "string", "The address for others."),
        wide("OS-Image", "string", "The operating system."),
        wide("Kernel-Version", "string", "The version of the kernel."),
        wide("Container-Runtime", "string", "What runs the containers, and its version."),
    ],
    default: defaults,
    prepare_create,
    row,
    validate,
    validate_update,
    warnings,
    ..BASE
};

/// Labels of this prefix give a node its roles.
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
/// An older label with the same meaning.
const ROLE_LABEL: &str = "kubernetes.io/role";

/// What can be allocated is all that is there, where the node's agent says nothing else.
fn defaults(object: &mut Object) {
    if let Some(capacity) = object.at(&["status", "capacity"]).cloned() {
        object.default_at(&["status", "allocatable"], capacity);
    }
}

/// A node registers itself with its status in one write.
fn prepare_create(context: &Context, object: &mut Object) {
    let status = object.get("status").cloned().unwrap_or_else(tree::empty);
    prepare::create_with_status(context, object, status);
}

fn unschedulable(object: &Object) -> String {
    object.bool_at(&["spec", "unschedulable"]).to_string()
}

fn row(_: &ResourceDef, object: &Object, now: Timestamp) -> Vec<Value> {
    let info = |field: &'static str| table::text_or(object, &["status", "nodeInfo", field], table::UNKNOWN);
    cells![
        object.name(),
        status(object),
        roles(object),
        table::age(object, now),
        object.str_at(&["status", "nodeInfo", "kubeletVersion"]),
        address(object, "InternalIP"),
        address(object, "ExternalIP"),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

fn status(object: &Object) -> String {
    let ready = match table::condition(object, "Ready").map(|condition| condition.str_at(&["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if object.bool_at(&["spec", "unschedulable"]) { format!("{ready},SchedulingDisabled") } else { ready.to_owned() }
}

fn roles(object: &Object) -> String {
    let labels = object.labels();
    let named = labels.keys().filter_map(|key| key.strip_prefix(ROLE_PREFIX)).filter(|role| !role.is_empty());
    let roles: BTreeSet<_> = named.chain(object.label(ROLE_LABEL).filter(|role| !role.is_empty())).collect();
    if roles.is_empty() { table::NONE.to_owned() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn address<'a>(object: &'a Object, kind: &str) -> &'a str {
    let addresses = object.list_at(&["status", "addresses"]).iter();
    let mut found = addresses.filter(|address| address.str_at(&["type"]) == kind);
    found.next().map_or(table::NONE, |address| address.str_at(&["address"]))
}

fn validate(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    taints(&mut faults, &spec.get("taints"));
    for field in ["capacity", "allocatable"] {
        let amounts = At::top(object, "status").get(field);
        for (name, quantity) in amounts.entries() {
            resource_check::quantity(&mut faults, name, &quantity.renamed(amounts.path().child(name)));
        }
    }
    let ranges = spec.get("podCIDRs");
    let mut seen = BTreeSet::new();
    for range in ranges.items() {
        faults.cidr(&range);
        if !seen.insert(range.text()) {
            faults.duplicate(&range);
        }
    }
    let is_dual = address::is_dual_stack(ranges.texts());
    if ranges.count() > 1 && (is_dual == Some(false) || ranges.count() > 2) {
        faults.invalid(&ranges, "may specify no more than one CIDR for each IP family");
    }
    faults.into_list()
}

/// As upstream has it, the faults are told of the metadata, where taints once stood.
fn taints(faults: &mut Faults, taints: &At) {
    let mut seen = BTreeSet::new();
    for (index, taint) in taints.items().into_iter().enumerate() {
        let taint = taint.renamed(FieldPath::new("metadata").child("taints").index(index));
        let (key, value, effect) = (taint.get("key"), taint.get("value"), taint.get("effect"));
        for words in names::check_label_key(key.text()) {
            faults.invalid_as(&key, key.text(), words);
        }
        let wrong = names::check_label_value(value.text());
        if !wrong.is_empty() {
            faults.invalid(&value, wrong.join(";"));
        }
        faults.needs_choice(&effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if !seen.insert((key.text(), effect.text())) {
            let mut error = FieldError::duplicate(taint.path(), taint.value().clone());
            error.detail = "taints must be unique by key and effect pair".to_owned();
            faults.extend([error]);
        }
    }
}

/// The ranges of a node's Pods and its provider's name can be given once.
fn validate_update(_: &Context, new: &Object, old: &Object) -> ErrorList {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    let mut faults = Faults::new();
    if !was.get("podCIDRs").is_blank() && spec.get("podCIDRs").value() != was.get("podCIDRs").value() {
        let words = "node updates may not change podCIDR except from \"\" to valid";
        faults.forbidden(&spec.get("podCIDRs"), words);
    }
    if !was.get("providerID").is_blank() && spec.get("providerID").text() != was.get("providerID").text() {
        let words = "node updates may not change providerID except from \"\" to valid";
        faults.forbidden(&spec.get("providerID"), words);
    }
    if spec.get("externalID").text() != was.get("externalID").text() {
        faults.forbidden(&spec.get("externalID"), "may not be updated");
    }
    let mut seen = BTreeSet::new();
    for address in At::top(new, "status").get("addresses").items() {
        if !seen.insert((address.get("type").text(), address.get("address").text())) {
            faults.duplicate(&address);
        }
    }
    faults.into_list()
}

fn warnings(object: &Object) -> Vec<String> {
    let spec = At::top(object, "spec");
    let mut warnings = Vec::new();
    if spec.get("configSource").is_set() {
        let words = "the feature is removed, and the field has no effect";
        warnings.push(format!("spec.configSource: {words}"));
    }
    if !spec.get("externalID").is_blank() {
        warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    warnings
}
