//! What may be wrong with a CustomResourceDefinition, as far as its own fields tell.
//! See <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/>.

use std::collections::BTreeSet;

use skiff_object::{Object, names};

use crate::rules::check::{At, Faults};

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const SCHEMA_TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// Checks a definition.
pub fn definition(faults: &mut Faults, object: &Object) {
    let (metadata, spec) = (At::top(object, "metadata"), At::top(object, "spec"));
    let name = metadata.get("name");
    let (group, plural) = (spec.get("group"), spec.walk(&["names", "plural"]));
    if name.text() != format!("{}.{}", plural.text(), group.text()) {
        faults.invalid(&name, "must be spec.names.plural+\".\"+spec.group");
    }
    faults.needs_name(&group, names::check_dns_subdomain);
    if !group.is_blank() && !group.text().contains('.') {
        faults.invalid(&group, "should be a domain with at least one dot");
    }
    faults.needs_choice(&spec.get("scope"), &["Cluster", "Namespaced"]);
    own_names(faults, &spec.get("names"));
    versions(faults, &spec.get("versions"));
    conversion(faults, &spec.get("conversion"));
}

fn own_names(faults: &mut Faults, given: &At) {
    faults.needs_name(&given.get("plural"), names::check_dns_1035_label);
    faults.needs_name(&given.get("singular"), names::check_dns_1035_label);
    for field in ["kind", "listKind"] {
        let kind = given.get(field);
        if faults.needs(&kind) {
            for words in names::check_dns_1035_label(&kind.text().to_lowercase()) {
                faults.invalid(&kind, format!("may have mixed case, but should otherwise match: {words}"));
            }
        }
    }
    for field in ["shortNames", "categories"] {
        for name in given.get(field).items() {
            faults.all_invalid(&name, names::check_dns_1035_label(name.text()));
        }
    }
    if !given.get("kind").is_blank() && given.get("kind").text() == given.get("listKind").text() {
        faults.invalid(&given.get("listKind"), "kind and listKind may not be the same");
    }
}

fn versions(faults: &mut Faults, versions: &At) {
    let all = versions.items();
    if all.is_empty() {
        faults.required(versions, "must have at least one version");
        return;
    }
    let mut seen = BTreeSet::new();
    if !all.iter().all(|version| seen.insert(version.get("name").text())) {
        faults.invalid(versions, "must contain unique version names");
    }
    if all.iter().filter(|version| version.get("storage").flag()).count() != 1 {
        faults.invalid(versions, "must have exactly one version marked as storage version");
    }
    for version in all {
        self::version(faults, &version);
    }
}

fn version(faults: &mut Faults, version: &At) {
    faults.all_invalid(&version.get("name"), names::check_dns_1035_label(version.get("name").text()));
    let schema = version.walk(&["schema", "openAPIV3Schema"]);
    if !schema.is_set() {
        faults.required(&schema, "schemas are required");
    } else {
        if schema.get("type").is_blank() {
            faults.required(&schema.get("type"), "must not be empty at the root");
        } else if schema.get("type").text() != "object" {
            faults.invalid(&schema.get("type"), "must be object at the root");
        }
        parts(faults, &schema);
    }
    for column in version.get("additionalPrinterColumns").items() {
        faults.needs(&column.get("name"));
        faults.needs_choice(&column.get("type"), &COLUMN_TYPES);
        let path = column.get("jsonPath");
        if faults.needs(&path) && !path.text().starts_with('.') {
            faults.invalid(&path, "is an invalid path: must start with .");
        }
    }
    let scale = version.walk(&["subresources", "scale"]);
    if scale.is_set() {
        replica_path(faults, &scale.get("specReplicasPath"), ".spec.");
        replica_path(faults, &scale.get("statusReplicasPath"), ".status.");
    }
}

fn replica_path(faults: &mut Faults, path: &At, under: &str) {
    if faults.needs(path) && !path.text().starts_with(under) {
        faults.invalid(path, format!("should be a json path under {}", under.trim_end_matches('.')));
    }
}

/// Every part of a schema says what it is: the rules of a structural schema.
fn parts(faults: &mut Faults, schema: &At) {
    for (name, property) in schema.get("properties").entries() {
        if property.value().is_object() {
            part(
                faults,
                &property,
                &format!("must not be empty for specified object fields ({name})").replace(&format!(" ({name})"), ""),
            );
        }
    }
    let items = schema.get("items");
    if items.value().is_object() {
        part(faults, &items, "must not be empty for specified array items");
    }
    let additional = schema.get("additionalProperties");
    if additional.value().is_object() {
        part(faults, &additional, "must not be empty for specified object fields");
    }
    if additional.is_set() && !schema.get("properties").is_blank() {
        faults.forbidden(&additional, "additionalProperties and properties are mutual exclusive");
    }
    if schema.get("type").text() == "array" && !items.is_set() {
        faults.required(&items, "must be specified");
    }
}

fn part(faults: &mut Faults, schema: &At, words: &str) {
    let kind = schema.get("type");
    let is_open = ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"]
        .iter()
        .any(|mark| schema.get(mark).flag());
    if kind.is_blank() {
        if !is_open {
            faults.required(&kind, words);
        }
    } else {
        faults.choice(&kind, &SCHEMA_TYPES);
    }
    parts(faults, schema);
}

fn conversion(faults: &mut Faults, conversion: &At) {
    if !conversion.is_set() {
        return;
    }
    let strategy = conversion.get("strategy");
    faults.needs_choice(&strategy, &["None", "Webhook"]);
    let webhook = conversion.get("webhook");
    match strategy.text() {
        "Webhook" if !webhook.get("clientConfig").is_set() => {
            faults.required(&webhook.get("clientConfig"), "required when strategy is set to Webhook");
        }
        "Webhook" => {
            let versions = webhook.get("conversionReviewVersions");
            if versions.is_blank() {
                faults.required(&versions, "");
            }
        }
        "None" if webhook.is_set() => {
            faults.forbidden(&webhook, "should not be set when strategy is not set to Webhook")
        }
        _ => {}
    }
}

/// What a definition may not change.
pub fn update(faults: &mut Faults, new: &Object, old: &Object) {
    let (spec, was) = (At::top(new, "spec"), At::top(old, "spec"));
    faults.immutable(&spec.get("group"), &was.get("group"));
    faults.immutable(&spec.get("scope"), &was.get("scope"));
    faults.immutable(&spec.walk(&["names", "kind"]), &was.walk(&["names", "kind"]));
    faults.immutable(&spec.walk(&["names", "plural"]), &was.walk(&["names", "plural"]));
    let kept: Vec<_> = spec.get("versions").items().iter().map(|version| version.get("name").text()).collect();
    for (index, stored) in At::top(old, "status").get("storedVersions").items().iter().enumerate() {
        if !kept.contains(&stored.text()) {
            let at = At::top(new, "status").get("storedVersions");
            let path = at.path().index(index);
            let name = stored.text();
            faults.invalid_as(&at.renamed(path), name, "missing from spec.versions; ".to_owned() + name + " was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in " + name + " and removes " + name + " from status.storedVersions");
        }
    }
}
