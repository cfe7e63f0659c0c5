//! What may be wrong with FlowSchemas and priority levels.

use std::collections::BTreeSet;

use skiff_object::meta::Meta;
use skiff_object::{ErrorList, Object, names};

use crate::def::Context;
use crate::rules::check::{At, Faults};

const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
/// Schemas are tried in the order of their precedence, up to this one.
const PRECEDENCE_LIMIT: i64 = 10_000;
const QUEUES_LIMIT: i64 = 10_000_000;
/// The bits of a hash by which requests are dealt to queues.
const HASH_BITS: i64 = 60;

/// Checks a FlowSchema.
pub fn flow_schema(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    let precedence = spec.get("matchingPrecedence");
    faults.positive(&precedence, "must be a positive value");
    if precedence.int().is_some_and(|number| number > PRECEDENCE_LIMIT) {
        faults.invalid(&precedence, format!("must not be greater than {PRECEDENCE_LIMIT}"));
    }
    if precedence.int() == Some(1) && object.name() != "exempt" {
        faults.invalid(&precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
    }
    let method = spec.get("distinguisherMethod");
    if method.is_set() && !matches!(method.get("type").text(), "ByNamespace" | "ByUser") {
        let value = method.value().clone();
        faults.not_supported_as(&method.get("type"), value, &["ByNamespace", "ByUser"]);
    }
    let level = spec.get("priorityLevelConfiguration").get("name");
    if level.is_blank() {
        faults.required(&level, "must reference a priority level");
    }
    faults.name(&level, names::check_dns_subdomain);
    spec.get("rules").items().iter().for_each(|rule| policy_rule(&mut faults, rule));
    conditions(&mut faults, object);
    faults.into_list()
}

fn policy_rule(faults: &mut Faults, rule: &At) {
    let (subjects, resources, others) = (rule.get("subjects"), rule.get("resourceRules"), rule.get("nonResourceRules"));
    if subjects.is_blank() {
        faults.required(&subjects, "subjects must contain at least one value");
    }
    subjects.items().iter().for_each(|subject| self::subject(faults, subject));
    if resources.is_blank() && others.is_blank() {
        faults.required(rule, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for rule in resources.items() {
        verbs(faults, &rule.get("verbs"));
        resource_rule(faults, &rule);
    }
    for rule in others.items() {
        verbs(faults, &rule.get("verbs"));
        let urls = rule.get("nonResourceURLs");
        if urls.is_blank() {
            faults.required(&urls, "nonResourceURLs must contain at least one value");
        } else if !wildcard(faults, &urls, "other non-resource URLs") {
            urls.items().iter().for_each(|url| path(faults, url));
        }
    }
}

/// Whether one of the texts stands for all; then there should be no others.
fn wildcard(faults: &mut Faults, list: &At, others: &str) -> bool {
    let is_there = list.texts().contains(&"*");
    if is_there && list.count() > 1 {
        faults.invalid(list, format!("if '*' is present, must not specify {others}"));
    }
    is_there
}

fn verbs(faults: &mut Faults, verbs: &At) {
    if verbs.is_blank() {
        faults.required(verbs, "verbs must contain at least one value");
    } else if !wildcard(faults, verbs, "other verbs") && verbs.texts().iter().any(|verb| !VERBS.contains(verb)) {
        faults.not_supported_as(verbs, verbs.value().clone(), &VERBS);
    }
}

fn resource_rule(faults: &mut Faults, rule: &At) {
    for (field, words, others) in [
        ("apiGroups", "resource rules must supply at least one api group", "other api groups"),
        ("resources", "resource rules must supply at least one resource", "other resources"),
    ] {
        let list = rule.get(field);
        if list.is_blank() {
            faults.required(&list, words);
        } else {
            wildcard(faults, &list, others);
        }
    }
    let namespaces = rule.get("namespaces");
    if namespaces.is_blank() && !rule.get("clusterScope").flag() {
        let words = "resource rules that are not cluster scoped must supply at least one namespace";
        faults.required(&namespaces, words);
    } else if !wildcard(faults, &namespaces, "other namespaces") {
        for namespace in namespaces.items() {
            for words in names::check_dns_label(namespace.text()) {
                faults
                    .invalid(&namespace, format!("each member of this list must be '*' or a DNS-1123 label; {words}"));
            }
        }
    }
}

fn path(faults: &mut Faults, url: &At) {
    let text = url.text();
    let words = match text {
        "/" => return,
        "" => "must not be empty",
        _ if !text.starts_with('/') => "must start with slash",
        _ if text.contains(' ') => "must not contain white-space",
        _ if text.contains("//") => "must not contain double slash",
        _ if text.matches('*').count() > 1 || (text.contains('*') && !text.ends_with("/*")) => {
            "wildcard can only do suffix matching"
        }
        _ => return,
    };
    faults.invalid_as(url, text, words);
}

fn subject(faults: &mut Faults, subject: &At) {
    const KINDS: [(&str, &str); 3] = [("Group", "group"), ("ServiceAccount", "serviceAccount"), ("User", "user")];
    let kind = subject.get("kind");
    let Some((name, field)) = KINDS.iter().find(|(name, _)| *name == kind.text()) else {
        faults.not_supported(&kind, &KINDS.map(|(name, _)| name));
        return;
    };
    let own = subject.get(field);
    if !own.is_set() {
        faults.required(&own, &format!("{field} is required when subject kind is '{name}'"));
    } else {
        faults.needs(&own.get("name"));
        if *name == "ServiceAccount" {
            account(faults, &own);
        }
    }
    for (other, field) in KINDS.iter().filter(|(other, _)| other != name) {
        faults.forbid(&subject.get(field), &format!("{field} is forbidden when subject kind is not '{other}'"));
    }
}

fn account(faults: &mut Faults, account: &At) {
    let (name, namespace) = (account.get("name"), account.get("namespace"));
    if name.text() != "*" {
        faults.name(&name, names::check_dns_subdomain);
    }
    if namespace.is_blank() {
        faults.required(&namespace, "must specify namespace for service account");
    }
    faults.name(&namespace, names::check_dns_label);
}

fn conditions(faults: &mut Faults, object: &Object) {
    let mut seen = BTreeSet::new();
    for condition in At::top(object, "status").get("conditions").items() {
        let kind = condition.get("type");
        if !seen.insert(kind.text()) {
            faults.duplicate_as(&kind, kind.text());
        }
        if kind.is_blank() {
            faults.required(&kind, "must not be empty");
        }
    }
}

/// Checks a priority level.
pub fn priority_level(_: &Context, object: &Object) -> ErrorList {
    let (spec, mut faults) = (At::top(object, "spec"), Faults::new());
    let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
    if (object.name() == "exempt") != (kind.text() == "Exempt") {
        faults.invalid(&kind, "type must be 'Exempt' if and only if name is 'exempt'");
    }
    match kind.text() {
        "Exempt" => {
            faults.forbid(&limited, "must be nil if the type is not Limited");
            shares(&mut faults, &exempt);
        }
        "Limited" => {
            faults.forbid(&exempt, "must be nil if the type is Limited");
            if limited.is_set() {
                self::limited(&mut faults, &limited);
            } else {
                faults.required(&limited, "must not be empty when type is Limited");
            }
        }
        _ => faults.not_supported(&kind, &["Exempt", "Limited"]),
    }
    conditions(&mut faults, object);
    faults.into_list()
}

fn shares(faults: &mut Faults, level: &At) {
    let (shares, lendable) = (level.get("nominalConcurrencyShares"), level.get("lendablePercent"));
    if shares.int().is_some_and(|number| number < 0) {
        faults.invalid(&shares, "must be a non-negative integer");
    }
    if lendable.int().is_some_and(|percents| !(0..=100).contains(&percents)) {
        faults.invalid(&lendable, "must be between 0 and 100, inclusive");
    }
}

fn limited(faults: &mut Faults, limited: &At) {
    shares(faults, limited);
    let borrowing = limited.get("borrowingLimitPercent");
    if borrowing.int().is_some_and(|percents| percents < 0) {
        faults.invalid(&borrowing, "if specified, must be a non-negative integer");
    }
    let response = limited.get("limitResponse");
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.text() {
        "Reject" => faults.forbid(&queuing, "must be nil if limited.limitResponse.type is not Limited"),
        "Queue" if !queuing.is_set() => {
            faults.required(&queuing, "must not be empty if limited.limitResponse.type is Limited");
        }
        "Queue" => self::queuing(faults, &queuing),
        _ => faults.not_supported(&kind, &["Queue", "Reject"]),
    }
}

fn queuing(faults: &mut Faults, queuing: &At) {
    faults.positive(&queuing.get("queueLengthLimit"), "must be positive");
    let (queues, hand) = (queuing.get("queues"), queuing.get("handSize"));
    let (deck, size) = (queues.int().unwrap_or(0), hand.int().unwrap_or(0));
    faults.positive(&queues, "must be positive");
    if deck > QUEUES_LIMIT {
        faults.invalid(&queues, format!("must not be greater than {QUEUES_LIMIT}"));
    }
    faults.positive(&hand, "must be positive");
    if size > deck {
        faults.invalid(&hand, format!("should not be greater than queues ({deck})"));
    } else if size > 0 && entropy_bits(deck, size) > HASH_BITS {
        let words = format!(
            "required entropy bits of deckSize {deck} and handSize {size} should not be greater than {HASH_BITS}"
        );
        faults.invalid(&hand, words);
    }
}

/// How many bits a hash needs so that any hand of that size can be dealt from that deck.
fn entropy_bits(deck: i64, hand: i64) -> i64 {
    let product = (0..hand).map(|dealt| ((deck - dealt) as f64).log2()).sum::<f64>();
    product.ceil() as i64
}
