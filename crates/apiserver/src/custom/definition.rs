//! What is wrong with the expressions and defaults in a CustomResourceDefinition that is written: rules that do not
//! compile, that cost too much, or that compare what cannot be compared; defaults that the schema itself refuses.

use std::sync::Arc;

use serde_json::Value as Json;
use skiff_cel::schema::{DEPTH_LIMIT, Kind, ListKind, Schema};
use skiff_cel::{Decl, Type, compile};
use skiff_kinds::rules::check::At;
use skiff_kinds::rules::crd_check;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, Object};

use super::rules::{self, OBJECT_BUDGET, Rules, SELF_TYPE};

/// What one rule may cost for one object at worst.
const RULE_COST_LIMIT: u64 = 10_000_000;
/// What all rules of a version may cost.
const VERSION_COST_LIMIT: u64 = 100_000_000;
/// The largest request, which bounds how often something can stand in an object.
const REQUEST_BYTES: u64 = 3 * 1024 * 1024;
/// How long a rule's message may be.
const MESSAGE_LIMIT: usize = 2048;
const REASONS: [&str; 4] = ["FieldValueRequired", "FieldValueInvalid", "FieldValueForbidden", "FieldValueDuplicate"];
const ADVICE: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";

/// Checks the schemas of a definition; what was there before in the same form is let pass.
pub fn check(new: &Object, old: Option<&Object>) -> ErrorList {
    let mut errors = ErrorList::new();
    let versions = At::top(new, "spec").get("versions");
    for at in crd_check::told_once(&versions, &["schema"], "validation") {
        let at = at.get("openAPIV3Schema");
        let Some(schema) = at.node() else { continue };
        let known = old.is_some_and(|old| {
            let same = |before: &&Json| before.at(&["schema", "openAPIV3Schema"]) == Some(schema);
            old.list_at(&["spec", "versions"]).iter().any(|before| same(&before))
        });
        if known {
            continue;
        }
        let typed = Schema::read(schema, true, SELF_TYPE);
        let mut walk = Walk { errors: ErrorList::new(), total: 0, costly: Vec::new(), has_bad_default: false };
        defaults(schema, &typed, at.path(), 0, &mut Some(OBJECT_BUDGET), &mut walk.errors);
        walk.has_bad_default = !walk.errors.is_empty();
        walk.part(schema, &typed, at.path(), Some(1), None, 0);
        walk.finish(at.path());
        errors.extend(walk.errors);
    }
    errors
}

/// What is wrong with the defaults of a schema: by the schema itself, and by its rules, which have one budget for all of
/// them, of which nothing is left once it was exceeded.
fn defaults(
    json: &Json,
    schema: &Arc<Schema>,
    path: &FieldPath,
    depth: usize,
    budget: &mut Option<u64>,
    errors: &mut ErrorList,
) {
    if depth > DEPTH_LIMIT || budget.is_none() {
        return;
    }
    if let Some(default) = json.get("default") {
        let (path, found) = (path.child("default"), errors.len());
        super::schema::check_default(json, default, &path, errors);
        if errors.len() == found
            && let Some(rules) = Rules::below(json, schema)
        {
            errors.extend(rules.check_default(default, &path, budget));
        }
    }
    if let (Kind::List, Some(items), Some(item)) = (schema.kind, json.get("items"), &schema.item) {
        defaults(items, item, &path.child("items"), depth + 1, budget, errors);
    }
    for (name, property) in json.map_at(&["properties"]).into_iter().flatten() {
        if let Some(field) = schema.fields.get(name) {
            defaults(property, field, &path.child("properties").key(name), depth + 1, budget, errors);
        }
    }
}

struct Walk {
    errors: ErrorList,
    total: u64,
    /// Rules with a cost that counts, for the message.
    costly: Vec<(u64, FieldPath)>,
    /// A default is wrong: what rules say is not looked at before that is mended.
    has_bad_default: bool,
}

impl Walk {
    /// `count` is how often the part can stand in an object, where the schema bounds it; `blind` is where old values
    /// ceased to be comparable.
    fn part(
        &mut self,
        json: &Json,
        schema: &Arc<Schema>,
        path: &FieldPath,
        count: Option<u64>,
        blind: Option<&FieldPath>,
        depth: usize,
    ) {
        if depth > DEPTH_LIMIT {
            return;
        }
        let all = json.list_at(&["x-kubernetes-validations"]);
        for (index, rule) in all.iter().enumerate() {
            let path = path.child("x-kubernetes-validations").index(index);
            match &schema.decl {
                Some(decl) => self.rule(rule, decl, &path, count, blind),
                None => {
                    let preserve = json.bool_at(&["x-kubernetes-preserve-unknown-fields"]);
                    let words = format!(
                        "rule declared on schema that does not support validation rules type: '{}' x-kubernetes-preserve-unknown-fields: '{preserve}'",
                        json.str_at(&["type"])
                    );
                    self.errors.push(FieldError::invalid(&path.child("rule"), rule.str_at(&["rule"]), words));
                }
            }
        }
        for (name, property) in json.map_at(&["properties"]).into_iter().flatten() {
            if let Some(field) = schema.fields.get(name) {
                self.part(property, field, &path.child("properties").key(name), count, blind, depth + 1);
            }
        }
        let Some(item) = &schema.item else { return };
        let (field, limit) =
            if schema.kind == Kind::List { ("items", "maxItems") } else { ("additionalProperties", "maxProperties") };
        let comparable = schema.kind != Kind::List || matches!(schema.list, ListKind::Map(_));
        let limit = json.int_at(&[limit]).and_then(|limit| u64::try_from(limit).ok());
        let count = count.zip(limit).map(|(count, limit)| count.saturating_mul(limit));
        let blind = blind.or((!comparable).then_some(path));
        if let Some(inner) = json.get(field) {
            self.part(inner, item, &path.child(field), count, blind, depth + 1);
        }
    }

    fn rule(&mut self, json: &Json, decl: &Arc<Decl>, path: &FieldPath, count: Option<u64>, blind: Option<&FieldPath>) {
        let text = json.str_at(&["rule"]);
        if text.trim().is_empty() {
            return self.errors.push(FieldError::required(&path.child("rule"), "rule is not specified"));
        }
        self.words(json, path);
        if self.has_bad_default {
            return;
        }
        let optional = json.bool_at(&["optionalOldSelf"]);
        let env = rules::env(decl, optional);
        match compile(&env, text) {
            Err(error) => {
                let words = format!("compilation failed: {error}");
                self.errors.push(FieldError::invalid(&path.child("rule"), text, words));
            }
            Ok(program) if !matches!(program.result, Type::Bool | Type::Dyn) => {
                let words = "cel expression must evaluate to a bool";
                self.errors.push(FieldError::invalid(&path.child("rule"), text, words));
            }
            Ok(program) => {
                let times = count.unwrap_or(REQUEST_BYTES / (decl.least_bytes + 1));
                self.cost(program.cost.max.saturating_mul(times), &path.child("rule"), "rule");
                if let Some(blind) = blind.filter(|_| program.uses("oldSelf")) {
                    let words =
                        format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {blind}");
                    self.errors.push(FieldError::invalid(&path.child("rule"), text, words));
                }
                if optional && !program.uses("oldSelf") {
                    let words = "may not be set if oldSelf is not used in rule";
                    self.errors.push(FieldError::invalid(&path.child("optionalOldSelf"), true, words));
                }
            }
        }
        let expression = json.str_at(&["messageExpression"]);
        if expression.is_empty() {
            return;
        }
        let path = path.child("messageExpression");
        match compile(&env, expression) {
            _ if expression.trim().is_empty() => {
                self.errors.push(FieldError::required(&path, "must be non-empty if specified"));
            }
            Err(error) => {
                let words = format!("messageExpression compilation failed: {error}");
                self.errors.push(FieldError::invalid(&path, expression, words));
            }
            Ok(program) if program.result != Type::String => {
                let words = "messageExpression must evaluate to a string";
                self.errors.push(FieldError::invalid(&path, expression, words));
            }
            // It is evaluated once: then nothing is looked at any more.
            Ok(program) => self.cost(program.cost.max, &path, "messageExpression"),
        }
    }

    /// The parts of a rule that are no expressions.
    fn words(&mut self, json: &Json, path: &FieldPath) {
        let message = json.str_at(&["message"]);
        let place = path.child("message");
        if !message.is_empty() && message.trim().is_empty() {
            self.errors.push(FieldError::invalid(&place, message, "message must be non-empty if specified"));
        } else if message.contains('\n') {
            self.errors.push(FieldError::invalid(&place, message, "message must not contain line breaks"));
        } else if message.len() > MESSAGE_LIMIT {
            let words = format!("message must have a maximum length of {MESSAGE_LIMIT} characters");
            self.errors.push(FieldError::invalid(&place, message, words));
        }
        if message.is_empty() && json.str_at(&["rule"]).trim().contains('\n') {
            self.errors.push(FieldError::required(&place, "message must be specified if rule contains line breaks"));
        }
        let reason = json.str_at(&["reason"]);
        if !reason.is_empty() && !REASONS.contains(&reason) {
            self.errors.push(FieldError::not_supported(&path.child("reason"), reason, &REASONS));
        }
        let field = json.str_at(&["fieldPath"]);
        if !field.is_empty() && !field.starts_with(['.', '[']) {
            let words = format!("fieldPath must be a valid path: expected [ or . but got: {field}");
            self.errors.push(FieldError::invalid(&path.child("fieldPath"), field, words));
        }
    }

    fn cost(&mut self, cost: u64, path: &FieldPath, what: &str) {
        self.total = self.total.saturating_add(cost);
        self.costly.push((cost, path.clone()));
        if cost > RULE_COST_LIMIT {
            let factor = factor(cost, RULE_COST_LIMIT);
            let words = format!("estimated {what} cost exceeds budget by factor of {factor} {ADVICE}");
            self.errors.push(FieldError::forbidden(path, words));
        }
    }

    fn finish(&mut self, path: &FieldPath) {
        if self.total <= VERSION_COST_LIMIT {
            return;
        }
        const LARGE_SHARE: u64 = VERSION_COST_LIMIT / 100;
        const SHOWN: usize = 4;
        self.costly.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        for (_, path) in self.costly.iter().filter(|(cost, _)| *cost >= LARGE_SHARE).take(SHOWN) {
            let words = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            self.errors.push(FieldError::forbidden(path, words));
        }
        let factor = factor(self.total, VERSION_COST_LIMIT);
        let words = format!(
            "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of {factor} {ADVICE}"
        );
        self.errors.push(FieldError::forbidden(path, words));
    }
}

fn factor(cost: u64, limit: u64) -> String {
    const SHOWN: f64 = 100.0;
    /// What is little more than once is told exactly.
    const LITTLE: f64 = 1.5;
    match cost as f64 / limit as f64 {
        factor if factor > SHOWN => "more than 100x".into(),
        factor if factor < LITTLE => format!("{factor:.6}x"),
        factor => format!("{factor:.1}x"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_spec(spec: Json, expected: &[&str]) {
        let definition = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object",
            "properties": {"spec": spec}}}}]}});
        let prefix = "spec.validation.openAPIV3Schema";
        let shown: Vec<String> =
            check(&definition, None).iter().map(|error| error.to_string().replace(prefix, "~")).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn rules_must_compile() {
        check_spec(
            json!({"type": "object", "properties": {"n": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "self.nope > 1"}, {"rule": "self.n"}, {"rule": ""},
                    {"rule": "self.n > 1", "message": "a\nb", "reason": "Because", "fieldPath": "n"},
                    {"rule": "self.n > 1", "messageExpression": "self.n"},
                    {"rule": "self.n > 1", "optionalOldSelf": true}]}),
            &[
                "~.properties[spec].x-kubernetes-validations[0].rule: Invalid value: \"self.nope > 1\": compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n | self.nope > 1\n | ....^",
                "~.properties[spec].x-kubernetes-validations[1].rule: Invalid value: \"self.n\": cel expression must evaluate to a bool",
                "~.properties[spec].x-kubernetes-validations[2].rule: Required value: rule is not specified",
                "~.properties[spec].x-kubernetes-validations[3].message: Invalid value: \"a\\nb\": message must not contain line breaks",
                "~.properties[spec].x-kubernetes-validations[3].reason: Unsupported value: \"Because\": supported values: \"FieldValueRequired\", \"FieldValueInvalid\", \"FieldValueForbidden\", \"FieldValueDuplicate\"",
                "~.properties[spec].x-kubernetes-validations[3].fieldPath: Invalid value: \"n\": fieldPath must be a valid path: expected [ or . but got: n",
                "~.properties[spec].x-kubernetes-validations[4].messageExpression: Invalid value: \"self.n\": messageExpression must evaluate to a string",
                "~.properties[spec].x-kubernetes-validations[5].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
            ],
        );
    }

    #[test]
    fn rules_must_not_cost_too_much() {
        check_spec(
            json!({"type": "array", "items": {"type": "string"},
                "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}),
            &[
                "~.properties[spec].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)",
                "~.properties[spec].x-kubernetes-validations[0].rule: Forbidden: contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema",
                "~: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)",
            ],
        );
        check_spec(
            json!({"type": "array", "maxItems": 10, "items": {"type": "string", "maxLength": 10},
                "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}),
            &[],
        );
    }

    #[test]
    fn transition_rules_need_comparable_places_and_defaults_must_fit() {
        check_spec(
            json!({"type": "array", "maxItems": 10, "items": {"type": "integer", "default": "x",
                "x-kubernetes-validations": [{"rule": "self > oldSelf"}]}}),
            &[
                "~.properties[spec].items.default: Invalid value: \"string\": ~.properties[spec].items.default in body must be of type integer: \"string\"",
            ],
        );
        // Rules are looked at once the defaults are mended.
        check_spec(
            json!({"type": "array", "maxItems": 10, "items": {"type": "integer", "default": 1,
                "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}),
            &[
                "~.properties[spec].items.x-kubernetes-validations[0].rule: Invalid value: \"self >= oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within ~.properties[spec]",
            ],
        );
    }

    /// The largest list of texts of that length that a rule may walk, as measured on upstream's v1.36.
    #[test]
    fn costs_are_estimated_by_the_limits_of_each_part() {
        for (letters, items) in [(16u64, 909_090u64), (63, 333_333), (253, 94_339), (1024, 24_154)] {
            let spec = |items: u64| {
                json!({"type": "object", "properties": {"tags": {"type": "array", "maxItems": items,
                "items": {"type": "string", "maxLength": letters},
                "x-kubernetes-validations": [{"rule": "self.all(x, x.contains('gpu'))"}]}}})
            };
            check_spec(spec(items), &[]);
            let told = "~.properties[spec].properties[tags].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of 1.00";
            let definition = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema":
                {"type": "object", "properties": {"spec": spec(items + items / 1000)}}}}]}});
            let errors = check(&definition, None);
            assert_eq!(errors.len(), 1, "{errors:?}");
            let shown = errors[0].to_string().replace("spec.validation.openAPIV3Schema", "~");
            assert!(shown.starts_with(told), "{shown}");
        }
    }

    #[test]
    fn the_dearest_four_are_told_and_messages_count_once() {
        let rule = json!({"rule": "self.all(x, x.contains('a'))", "messageExpression": "self[0] + self[1]"});
        let list = json!({"type": "array", "maxItems": 80_000, "items": {"type": "string", "maxLength": 253},
            "x-kubernetes-validations": [rule]});
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"];
        let fields: serde_json::Map<String, Json> = names.iter().map(|name| ((*name).into(), list.clone())).collect();
        let definition = json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema":
            {"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}}}]}});
        let shown: Vec<String> = check(&definition, None).iter().map(ToString::to_string).collect();
        let parts: Vec<&String> = shown.iter().filter(|error| error.contains("contributed")).collect();
        assert_eq!((shown.len(), parts.len()), (5, 4), "{shown:?}");
        assert!(parts.iter().all(|error| error.contains(".rule: Forbidden")), "{parts:?}");
        assert!(shown[4].contains("exceeds budget by factor of 1."), "{}", shown[4]);
        // What stands in a list that has no limit is looked at very often, its message is made once.
        check_spec(
            json!({"type": "array", "items": {"type": "string", "maxLength": 10,
                "x-kubernetes-validations": [{"rule": "true", "messageExpression": "self + self"}]}}),
            &[],
        );
    }

    #[test]
    fn defaults_must_hold_to_the_rules() {
        let rule = json!({"rule": "self.all(x, x > 1)", "message": "too small"});
        let list = |default: Json| {
            json!({"type": "array", "maxItems": 10, "items": {"type": "integer"},
            "default": default, "x-kubernetes-validations": [rule]})
        };
        check_spec(list(json!([2, 3])), &[]);
        check_spec(list(json!([2, 1])), &[r#"~.properties[spec].default: Invalid value: "array": too small"#]);
        // Also where it comes for the first time.
        let rule =
            json!({"rule": "oldSelf.hasValue() || self > 5", "optionalOldSelf": true, "message": "starts too low"});
        check_spec(
            json!({"type": "integer", "default": 3, "x-kubernetes-validations": [rule]}),
            &[r#"~.properties[spec].default: Invalid value: "integer": starts too low"#],
        );
    }

    #[test]
    fn atomic_maps_are_compared_as_wholes() {
        check_spec(
            json!({"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"a": {"type": "integer",
                "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}),
            &[],
        );
    }
}
