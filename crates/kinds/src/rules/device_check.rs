//! What may be wrong with requests for devices, and with what drivers say of the devices that they offer.
//! Expressions are only measured here: whether they compile is for others to say.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use skiff_object::names;

use crate::rules::affinity_check::node_selector;
use crate::rules::check::{At, Faults};
use crate::rules::source_check::driver_name;

/// How many requests, constraints, configurations and selectors there may be.
const LIST_LIMIT: usize = 32;
const ALTERNATIVES_LIMIT: usize = 8;
/// The longest expression, and the longest parameters.
const EXPRESSION_LIMIT_BYTES: usize = 10 * 1024;
const PARAMETERS_LIMIT_BYTES: usize = 10 * 1024;
/// The longest parts of an attribute's name.
const DOMAIN_LIMIT_BYTES: usize = 63;
const IDENTIFIER_LIMIT_BYTES: usize = 32;

/// The requests of a claim, each with its alternatives.
type Requests<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// Checks a claim's specification.
pub fn claim(faults: &mut Faults, spec: &At) {
    let devices = spec.get("devices");
    let requests = request_names(&devices);
    let all = devices.get("requests");
    faults.at_most_items(&all, LIST_LIMIT);
    each_once(faults, &all, "name", request);
    let constraints = devices.get("constraints");
    faults.at_most_items(&constraints, LIST_LIMIT);
    for constraint in constraints.items() {
        references(faults, &constraint.get("requests"), &requests);
        let (same, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
        match (same.is_set(), distinct.is_set()) {
            (false, false) => faults.required(
                &constraint,
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
            ),
            (true, _) => full_attribute_name(faults, &same),
            (false, true) => full_attribute_name(faults, &distinct),
        }
    }
    let configs = devices.get("config");
    faults.at_most_items(&configs, LIST_LIMIT);
    for config in configs.items() {
        references(faults, &config.get("requests"), &requests);
        configuration(faults, &config);
    }
}

/// The names of a claim's requests and of their alternatives.
pub fn request_names<'a>(devices: &At<'a>) -> Requests<'a> {
    let requests = devices.get("requests").items();
    let alternatives = |request: &At<'a>| {
        request.get("firstAvailable").items().iter().map(|item| item.get("name").text()).collect::<BTreeSet<_>>()
    };
    requests.iter().map(|request| (request.get("name").text(), alternatives(request))).collect()
}

/// Checks the items of a list, whose keys must differ.
fn each_once(faults: &mut Faults, list: &At, key: &str, check: impl Fn(&mut Faults, &At)) {
    let mut seen = BTreeSet::new();
    for item in list.items() {
        check(faults, &item);
        if !seen.insert(item.get(key).text()) {
            faults.duplicate_as(&item, item.get(key).text());
        }
    }
}

fn label(faults: &mut Faults, name: &At) {
    for words in names::check_dns_label(name.text()) {
        faults.invalid_as(name, name.text(), words);
    }
}

fn request(faults: &mut Faults, request: &At) {
    label(faults, &request.get("name"));
    let (exact, alternatives) = (request.get("exactly"), request.get("firstAvailable"));
    let words = "exactly one of `exactly` or `firstAvailable` is required";
    match (exact.is_set(), alternatives.is_blank()) {
        (false, true) => faults.required(request, words),
        (true, false) => {
            faults.invalid_as(request, Value::Null, format!("{words}, but multiple fields are set"));
        }
        (true, true) => wanted(faults, &exact),
        (false, false) => {
            faults.at_most_items(&alternatives, ALTERNATIVES_LIMIT);
            each_once(faults, &alternatives, "name", |faults, alternative| {
                label(faults, &alternative.get("name"));
                wanted(faults, alternative);
            });
        }
    }
}

/// Which devices, and how many.
fn wanted(faults: &mut Faults, request: &At) {
    faults.needs_name(&request.get("deviceClassName"), names::check_dns_subdomain);
    selectors(faults, &request.get("selectors"));
    let (mode, count) = (request.get("allocationMode"), request.get("count"));
    let number = count.int().unwrap_or(0);
    match mode.text() {
        "All" if number != 0 => faults.invalid(&count, "must not be specified when allocationMode is 'All'"),
        "All" => {}
        "ExactCount" => faults.positive(&count, "must be greater than zero"),
        _ => faults.not_supported(&mode, &["All", "ExactCount"]),
    }
    request.get("tolerations").items().iter().for_each(|toleration| self::toleration(faults, toleration));
}

/// Checks expressions that select devices.
pub fn selectors(faults: &mut Faults, selectors: &At) {
    faults.at_most_items(selectors, LIST_LIMIT);
    for selector in selectors.items() {
        if selector.get("cel").is_set() {
            faults.at_most_bytes(&selector.walk(&["cel", "expression"]), EXPRESSION_LIMIT_BYTES);
        } else {
            faults.required(&selector.get("cel"), "");
        }
    }
}

fn toleration(faults: &mut Faults, toleration: &At) {
    let (operator, value) = (toleration.get("operator"), toleration.get("value"));
    faults.name(&toleration.get("key"), names::check_label_key);
    match operator.text() {
        "Exists" if !value.is_blank() => faults.invalid(&value, "must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => faults.name(&value, names::check_label_value),
        "" => faults.required(&operator, ""),
        _ => faults.not_supported(&operator, &["Equal", "Exists"]),
    }
    if !toleration.get("effect").is_blank() {
        faults.choice(&toleration.get("effect"), &["NoExecute", "NoSchedule", "None"]);
    }
}

fn references(faults: &mut Faults, list: &At, requests: &Requests) {
    faults.at_most_items(list, LIST_LIMIT);
    let mut seen = BTreeSet::new();
    for reference in list.items() {
        request_reference(faults, &reference, requests);
        if !seen.insert(reference.text()) {
            faults.duplicate(&reference);
        }
    }
}

/// `request`, or `request/alternative`.
fn request_reference(faults: &mut Faults, reference: &At, requests: &Requests) {
    let parts: Vec<_> = reference.text().split('/').collect();
    let is_known = match parts[..] {
        [request] => requests.contains_key(request),
        [request, alternative] => requests.get(request).is_some_and(|known| known.contains(alternative)),
        _ => false,
    };
    if parts.len() <= 2 {
        for words in parts.iter().flat_map(|part| names::check_dns_label(part)) {
            faults.invalid(reference, words);
        }
    }
    if !is_known {
        let words =
            "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        faults.invalid(reference, words);
    }
}

/// Checks what a driver is told.
pub fn configuration(faults: &mut Faults, config: &At) {
    let opaque = config.get("opaque");
    if !opaque.is_set() {
        faults.required(&opaque, "");
        return;
    }
    driver_name(faults, &opaque.get("driver"));
    let parameters = opaque.get("parameters");
    if !parameters.is_set() {
        faults.required(&parameters, "");
    } else if !parameters.value().is_object() {
        faults.invalid_as(&parameters, "<value omitted>", "must be a valid JSON object");
    } else if parameters.value().to_string().len() > PARAMETERS_LIMIT_BYTES {
        faults.too_long(&parameters, PARAMETERS_LIMIT_BYTES);
    }
}

fn full_attribute_name(faults: &mut Faults, name: &At) {
    attribute_name(faults, name, name.text());
    if !name.text().contains('/') {
        faults.invalid(name, "must include a domain");
    }
}

/// Checks the name of an attribute: an identifier, perhaps after a domain and a slash.
fn attribute_name(faults: &mut Faults, at: &At, name: &str) {
    let identifier = match name.split_once('/') {
        None if name.is_empty() => return faults.required(at, "name required"),
        None => name,
        Some((domain, identifier)) => {
            if domain.is_empty() {
                faults.required(at, "the domain must not be empty");
            } else {
                if domain.len() > DOMAIN_LIMIT_BYTES {
                    faults.too_long(at, DOMAIN_LIMIT_BYTES);
                }
                names::check_dns_subdomain(domain).into_iter().for_each(|words| faults.invalid_as(at, domain, words));
            }
            if identifier.is_empty() {
                return faults.required(at, "the name must not be empty");
            }
            identifier
        }
    };
    if identifier.len() > IDENTIFIER_LIMIT_BYTES {
        faults.too_long(at, IDENTIFIER_LIMIT_BYTES);
    }
    names::check_c_identifier(identifier).into_iter().for_each(|words| faults.invalid_as(at, identifier, words));
}

/// The most devices of a slice, and of one whose devices say more.
const DEVICES_LIMIT: usize = 128;
const RICH_DEVICES_LIMIT: usize = 64;
const COUNTER_SETS_LIMIT: usize = 8;
const COUNTERS_LIMIT: usize = 32;
const ATTRIBUTES_LIMIT: usize = 32;
const ATTRIBUTE_LIMIT_BYTES: usize = 64;
const TAINTS_LIMIT: usize = 16;
const POOL_NAME_LIMIT_BYTES: usize = 253;

/// Checks what a driver offers.
pub fn slice(faults: &mut Faults, spec: &At) {
    driver_name(faults, &spec.get("driver"));
    pool(faults, &spec.get("pool"));
    where_devices_are(faults, spec);
    let (devices, counters) = (spec.get("devices"), spec.get("sharedCounters"));
    if devices.is_set() && counters.is_set() {
        faults.invalid_as(spec, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let is_rich = |device: &At| !device.get("taints").is_blank() || !device.get("consumesCounters").is_blank();
    let limit = if devices.items().iter().any(is_rich) { RICH_DEVICES_LIMIT } else { DEVICES_LIMIT };
    faults.at_most_items(&devices, limit);
    let by_device = spec.get("perDeviceNodeSelection").flag();
    each_once(faults, &devices, "name", |faults, device| self::device(faults, device, by_device));
    faults.at_most_items(&counters, COUNTER_SETS_LIMIT);
    each_once(faults, &counters, "name", |faults, set| counter_set(faults, set, "name"));
}

fn pool(faults: &mut Faults, pool: &At) {
    pool_name(faults, &pool.get("name"));
    faults.positive(&pool.get("resourceSliceCount"), "must be greater than zero");
    if pool.get("generation").int().is_some_and(|number| number < 0) {
        faults.invalid(&pool.get("generation"), "must be greater than or equal to zero");
    }
}

fn pool_name(faults: &mut Faults, name: &At) {
    if !faults.needs(name) {
        return;
    }
    faults.at_most_bytes(name, POOL_NAME_LIMIT_BYTES);
    for part in name.text().split('/') {
        names::check_dns_subdomain(part).into_iter().for_each(|words| faults.invalid_as(name, part, words));
    }
}

/// Devices are on one node, on those that a selector names, on all, or each says for itself.
fn where_devices_are(faults: &mut Faults, spec: &At) {
    let mut given = Vec::new();
    let node = spec.get("nodeName");
    if node.is_set() && node.is_blank() {
        faults.invalid(&node, "must be either unset or set to a non-empty string");
    } else if node.is_set() {
        given.push("`nodeName`");
        faults.all_invalid(&node, names::check_dns_subdomain(node.text()));
    }
    let selector = spec.get("nodeSelector");
    if selector.is_set() {
        given.push("`nodeSelector`");
        node_selector(faults, &selector);
        if selector.get("nodeSelectorTerms").count() != 1 {
            faults.invalid(&selector.get("nodeSelectorTerms"), "must have exactly one node selector term");
        }
    }
    for (field, shown) in [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")] {
        let flag = spec.get(field);
        if flag.flag() {
            given.push(shown);
        } else if flag.is_set() {
            faults.invalid(&flag, "must be either unset or set to true");
        }
    }
    let words = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match given.len() {
        0 => faults.required(spec, words),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", given.join(", "));
            faults.invalid_as(spec, shown, format!("{words}, but multiple fields are set"));
        }
    }
}

fn device(faults: &mut Faults, device: &At, by_device: bool) {
    label(faults, &device.get("name"));
    let (attributes, capacity) = (device.get("attributes"), device.get("capacity"));
    let count = attributes.count() + capacity.count();
    if count > ATTRIBUTES_LIMIT {
        let words = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES_LIMIT}");
        faults.invalid_as(device, count, words);
    }
    for (name, value) in attributes.entries() {
        attribute_name(faults, &value, name);
        attribute(faults, &value);
    }
    for (name, value) in capacity.entries() {
        attribute_name(faults, &value, name);
        if value.get("requestPolicy").is_set() && !device.get("allowMultipleAllocations").flag() {
            faults.forbidden(&value.get("requestPolicy"), "allowMultipleAllocations must be true");
        }
    }
    faults.at_most_items(&device.get("taints"), TAINTS_LIMIT);
    for taint in device.get("taints").items() {
        faults.needs_name(&taint.get("key"), names::check_label_key);
        faults.name(&taint.get("value"), names::check_label_value);
        faults.needs_choice(&taint.get("effect"), &["NoExecute", "NoSchedule", "None"]);
    }
    each_once(faults, &device.get("consumesCounters"), "counterSet", |faults, set| {
        counter_set(faults, set, "counterSet");
    });
    own_place(faults, device, by_device);
}

fn own_place(faults: &mut Faults, device: &At, by_device: bool) {
    let fields = ["nodeName", "nodeSelector", "allNodes"].map(|field| device.get(field));
    let given = fields.iter().filter(|at| at.is_set()).count();
    if !by_device {
        if given > 0 {
            let words = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            faults.invalid_as(device, Value::Null, words);
        }
        return;
    }
    let words = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match given {
        0 => faults.required(device, words),
        1 => {}
        _ => faults.invalid(device, words),
    }
    if fields[0].is_set() {
        faults.all_invalid(&fields[0], names::check_dns_subdomain(fields[0].text()));
    }
    if fields[1].is_set() {
        node_selector(faults, &fields[1]);
    }
}

fn attribute(faults: &mut Faults, attribute: &At) {
    if attribute.count() != 1 {
        faults.invalid_as(attribute, attribute.value().clone(), "exactly one value must be specified");
    }
    faults.at_most_bytes(&attribute.get("string"), ATTRIBUTE_LIMIT_BYTES);
    let version = attribute.get("version");
    if version.is_set() && !is_semantic(version.text()) {
        faults.invalid(&version, "must be a string compatible with semver.org spec 2.0.0");
    }
    faults.at_most_bytes(&version, ATTRIBUTE_LIMIT_BYTES);
}

/// Whether a text is a semantic version: three numbers, perhaps a stage, perhaps a build.
fn is_semantic(version: &str) -> bool {
    let (rest, build) = version.split_once('+').map_or((version, None), |(rest, build)| (rest, Some(build)));
    let (core, stage) = rest.split_once('-').map_or((rest, None), |(core, stage)| (core, Some(stage)));
    let number = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let staged = |part: &str| word(part) && (number(part) || !part.bytes().all(|b| b.is_ascii_digit()));
    let parts: Vec<_> = core.split('.').collect();
    parts.len() == 3
        && parts.iter().all(|part| number(part))
        && stage.is_none_or(|stage| stage.split('.').all(staged))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn counter_set(faults: &mut Faults, set: &At, name: &str) {
    faults.needs_name(&set.get(name), names::check_dns_label);
    let counters = set.get("counters");
    if counters.is_blank() {
        faults.required(&counters, "");
    }
    faults.at_most_items(&counters, COUNTERS_LIMIT);
    for (name, counter) in counters.entries() {
        names::check_dns_label(name).into_iter().for_each(|words| faults.invalid_as(&counter, name, words));
    }
}

/// The most consumers of one claim, and results of one allocation.
const CONSUMERS_LIMIT: usize = 256;
const RESULTS_LIMIT: usize = 32;

/// Checks a change of a claim's status.
pub fn claim_status(faults: &mut Faults, status: &At, was: &At, devices: &At, is_deleted: bool) {
    let (consumers, allocation) = (status.get("reservedFor"), status.get("allocation"));
    faults.at_most_items(&consumers, CONSUMERS_LIMIT);
    each_once(faults, &consumers, "uid", |faults, consumer| {
        for field in ["resource", "name", "uid"] {
            faults.needs(&consumer.get(field));
        }
    });
    if !consumers.is_blank() && !allocation.is_set() {
        faults.forbidden(&consumers, "may not be specified when `allocated` is not set");
    } else if is_deleted {
        let before = was.get("reservedFor").items();
        let is_new = |consumer: &At| before.iter().all(|old| old.value() != consumer.value());
        if consumers.items().iter().any(is_new) {
            let words = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            faults.forbidden(&consumers, words);
        }
    }
    if was.get("allocation").is_set() && allocation.is_set() {
        faults.immutable(&allocation, &was.get("allocation"));
    } else if allocation.is_set() {
        self::allocation(faults, &allocation, &request_names(devices));
    }
}

fn allocation(faults: &mut Faults, allocation: &At, requests: &Requests) {
    let results = allocation.walk(&["devices", "results"]);
    faults.at_most_items(&results, RESULTS_LIMIT);
    for result in results.items() {
        request_reference(faults, &result.get("request"), requests);
        driver_name(faults, &result.get("driver"));
        pool_name(faults, &result.get("pool"));
        label(faults, &result.get("device"));
    }
    for config in allocation.walk(&["devices", "config"]).items() {
        faults.needs_choice(&config.get("source"), &["FromClaim", "FromClass"]);
        references(faults, &config.get("requests"), requests);
        configuration(faults, &config);
    }
    if allocation.get("nodeSelector").is_set() {
        node_selector(faults, &allocation.get("nodeSelector"));
    }
}
