//! Validation rules of custom resources (`x-kubernetes-validations`): compiled once for a version, evaluated at every
//! write, with their costs limited for each call and for each object.
//! See <https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules>.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;
use skiff_cel::schema::{Kind, ListKind, Schema};
use skiff_cel::value::Text;
use skiff_cel::{Activation, Decl, Env, EvalError, Program, Value, compile};
use skiff_object::field::ErrorKind;
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, Object};

use crate::metrics::expressions;

/// What one evaluation may cost.
pub const CALL_LIMIT: u64 = 1_000_000;
/// What all evaluations for one object may cost.
pub const OBJECT_BUDGET: u64 = 10_000_000;
/// The longest message that an expression may give.
const MESSAGE_LIMIT: usize = 5 * 1024;
/// The name of the type of `self` in messages.
pub const SELF_TYPE: &str = "selfType";

/// The rules of one version of a kind.
pub struct Rules {
    root: Node,
    schema: Arc<Schema>,
}

/// The rules at a place of the schema and below it.
struct Node {
    rules: Vec<Rule>,
    fields: BTreeMap<String, Node>,
    item: Option<Box<Node>>,
    all: Vec<Node>,
    type_name: String,
}

struct Rule {
    program: Result<Program, String>,
    /// What makes the message, and its text.
    message_program: Option<(Program, String)>,
    /// The message, or the rule itself, as errors of evaluation name it.
    shown: String,
    message: String,
    reason: String,
    path: String,
    optional_old: bool,
    uses_old: bool,
}

/// The variables that the rules of a schema see.
pub fn env(decl: &Arc<Decl>, optional_old: bool) -> Env {
    let old = if optional_old { Decl::of(skiff_cel::Type::optional(decl.ty.clone())) } else { decl.clone() };
    Env::new().with("self", decl.clone()).with("oldSelf", old)
}

impl Rules {
    /// The rules of a version's schema; `None` where it has none.
    pub fn of(schema: &Json) -> Option<Self> {
        if !mentions_rules(schema) {
            return None;
        }
        let typed = Schema::read(schema, true, SELF_TYPE);
        Self::below(schema, &typed)
    }

    /// The rules of a part of a schema that was read; `None` where it has none.
    pub fn below(schema: &Json, typed: &Arc<Schema>) -> Option<Self> {
        if !mentions_rules(schema) {
            return None;
        }
        let root = expressions::compiling(|| node(schema, typed))?;
        Some(Self { root, schema: typed.clone() })
    }

    /// What the rules find wrong with an object; what was wrong before and did not change becomes a warning.
    pub fn check(&self, new: &Object, old: Option<&Object>, warnings: &mut Vec<String>) -> ErrorList {
        let mut check = Check { budget: OBJECT_BUDGET, errors: ErrorList::new(), warnings, over: false };
        let place = Place { new, old, matched: old, parent: None };
        expressions::evaluating(|| check.node(&self.root, &self.schema, &FieldPath::default(), place));
        check.errors
    }

    /// What the rules find wrong with a default: where it stays as it was, and where it comes anew. What they cost at most is
    /// taken from the budget, of which nothing is left where it was exceeded.
    pub fn check_default(&self, default: &Json, path: &FieldPath, budget: &mut Option<u64>) -> ErrorList {
        let mut left = *budget;
        for old in [Some(default), None] {
            let Some(budget_now) = *budget else { break };
            let (mut warnings, errors) = (Vec::new(), ErrorList::new());
            let mut check = Check { budget: budget_now, errors, warnings: &mut warnings, over: false };
            let place = Place { new: default, old, matched: None, parent: None };
            expressions::evaluating(|| check.node(&self.root, &self.schema, path, place));
            left = left.min((!check.over).then_some(check.budget));
            if !check.errors.is_empty() {
                *budget = left;
                return check.errors;
            }
        }
        *budget = left;
        ErrorList::new()
    }
}

/// What stands for the rules of an object of another shape than they were written for, if it is: they are not evaluated.
pub fn unchecked(found: &[FieldError]) -> Option<FieldError> {
    let shapes =
        [ErrorKind::NotSupported, ErrorKind::Required, ErrorKind::TooLong, ErrorKind::TooMany, ErrorKind::TypeInvalid];
    let words = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
    let is_other = found.iter().any(|error| shapes.contains(&error.kind));
    is_other.then(|| FieldError::invalid(&shown_path(&FieldPath::default()), Json::Null, words))
}

/// Whether rules stand anywhere in a schema; most have none, and cost nothing.
fn mentions_rules(schema: &Json) -> bool {
    match schema {
        Json::Object(map) => map.iter().any(|(key, value)| key == "x-kubernetes-validations" || mentions_rules(value)),
        Json::Array(items) => items.iter().any(mentions_rules),
        _ => false,
    }
}

fn node(json: &Json, schema: &Arc<Schema>) -> Option<Node> {
    let mut fields = BTreeMap::new();
    for (name, property) in json.map_at(&["properties"]).into_iter().flatten() {
        if let Some(field) = schema.fields.get(name)
            && let Some(node) = node(property, field)
        {
            fields.insert(name.clone(), node);
        }
    }
    let inner = if schema.kind == Kind::List { json.get("items") } else { json.get("additionalProperties") };
    let item = match (inner, &schema.item) {
        (Some(inner), Some(item)) => node(inner, item).map(Box::new),
        _ => None,
    };
    let all = json.list_at(&["allOf"]).iter().filter_map(|part| node(part, schema)).collect();
    let rules: Vec<Rule> = match &schema.decl {
        Some(decl) => json.list_at(&["x-kubernetes-validations"]).iter().filter_map(|json| rule(json, decl)).collect(),
        None => Vec::new(),
    };
    let node = Node { rules, fields, item, all, type_name: json.str_at(&["type"]).to_owned() };
    let is_empty = node.rules.is_empty() && node.fields.is_empty() && node.item.is_none() && node.all.is_empty();
    (!is_empty).then_some(node)
}

fn rule(json: &Json, decl: &Arc<Decl>) -> Option<Rule> {
    let text = json.str_at(&["rule"]).trim();
    if text.is_empty() {
        return None;
    }
    let optional_old = json.bool_at(&["optionalOldSelf"]);
    let env = env(decl, optional_old);
    let program = compile(&env, json.str_at(&["rule"])).map_err(|error| error.to_string());
    let message = json.str_at(&["message"]).trim();
    let expression = json.str_at(&["messageExpression"]);
    Some(Rule {
        uses_old: program.as_ref().is_ok_and(|program| program.uses("oldSelf")),
        program,
        message_program: match expression.trim() {
            "" => None,
            _ => compile(&env, expression).ok().map(|program| (program, expression.to_owned())),
        },
        shown: if message.is_empty() { text.to_owned() } else { message.to_owned() },
        message: if message.is_empty() { format!("failed rule: {text}") } else { message.to_owned() },
        reason: json.str_at(&["reason"]).to_owned(),
        path: field_path(json.str_at(&["fieldPath"])),
        optional_old,
    })
}

/// `.a['b.c']` as it is appended to a path of a field.
fn field_path(path: &str) -> String {
    let mut out = String::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("['")
            && let Some((name, after)) = quoted.split_once("']")
        {
            out.push_str(&format!("[{}]", name.replace("\\'", "'")));
            rest = after;
            continue;
        }
        rest = rest.strip_prefix('.').unwrap_or(rest);
        let end = rest.find(['.', '[']).unwrap_or(rest.len());
        if end == 0 {
            break;
        }
        if !out.is_empty() {
            out.push('.');
        }
        out.push_str(&rest[..end]);
        rest = &rest[end..];
    }
    out
}

/// A value, the old one that rules compare it with, and the old one that tells whether anything changed.
#[derive(Clone, Copy)]
struct Place<'a> {
    new: &'a Json,
    old: Option<&'a Json>,
    matched: Option<&'a Json>,
    /// The nearest value above that has an old one: both.
    parent: Option<(&'a Json, &'a Json)>,
}

impl<'a> Place<'a> {
    fn below(self, new: &'a Json, old: Option<&'a Json>, matched: Option<&'a Json>) -> Self {
        let parent = self.matched.map(|old| (self.new, old)).or(self.parent);
        Self { new, old, matched, parent }
    }

    /// Whether nothing changed here, so that an error is an old one.
    fn is_unchanged(self) -> bool {
        match (self.matched, self.parent) {
            (Some(old), _) => self.new == old,
            (None, Some((new, old))) => new == old,
            (None, None) => false,
        }
    }
}

struct Check<'w> {
    budget: u64,
    errors: ErrorList,
    warnings: &'w mut Vec<String>,
    /// The budget is used up: nothing more is evaluated.
    over: bool,
}

impl Check<'_> {
    fn node(&mut self, node: &Node, schema: &Schema, path: &FieldPath, place: Place<'_>) {
        if place.new.is_null() || self.over {
            return;
        }
        if self.budget == 0 && !node.rules.is_empty() {
            return self.exhausted(path, node);
        }
        for rule in &node.rules {
            self.rule(rule, node, schema, path, place);
            if self.over {
                return;
            }
        }
        for part in &node.all {
            let uncompared = Place { matched: None, ..place };
            self.node(part, schema, path, uncompared);
        }
        match place.new {
            Json::Array(items) => self.items(node, schema, path, place, items),
            Json::Object(map) => {
                for (name, value) in map {
                    let child = match (&node.item, schema.kind) {
                        (Some(item), Kind::Map) => schema.item.as_ref().map(|schema| (&**item, schema)),
                        _ => node.fields.get(name).zip(schema.fields.get(name)),
                    };
                    let Some((child, schema)) = child else { continue };
                    let old = place.old.and_then(|old| old.get(name));
                    let matched = place.matched.and_then(|old| old.get(name));
                    let is_entry = node.item.is_some();
                    let path = if is_entry { path.key(name) } else { path.child(name) };
                    self.node(child, schema, &path, place.below(value, old, matched));
                }
            }
            _ => {}
        }
    }

    fn items(&mut self, node: &Node, schema: &Schema, path: &FieldPath, place: Place<'_>, items: &[Json]) {
        let (Some(item), Some(item_schema)) = (&node.item, &schema.item) else { return };
        for (index, value) in items.iter().enumerate() {
            let twin = match &schema.list {
                ListKind::Map(keys) => {
                    let same = |old: &&Json| keys.iter().all(|key| old.get(key) == value.get(key));
                    place.old.and_then(Json::as_array).and_then(|old| old.iter().find(same))
                }
                ListKind::Atomic | ListKind::Set => None,
            };
            let matched = twin.filter(|_| place.matched.is_some());
            self.node(item, item_schema, &path.index(index), place.below(value, twin, matched));
        }
    }

    fn rule<'a>(&mut self, rule: &'a Rule, node: &Node, schema: &'a Schema, path: &FieldPath, place: Place<'a>) {
        let program = match &rule.program {
            Ok(program) => program,
            Err(why) => return self.refuse(path, node, format!("rule compile error: compilation failed: {why}")),
        };
        if rule.uses_old && place.old.is_none() && !rule.optional_old {
            return;
        }
        let old = place.old.map(|old| Value::json(old, Some(schema)));
        let old = match (old, rule.optional_old) {
            (Some(old), true) => Some(Value::some(old)),
            (None, true) => Some(Value::Optional(None)),
            (old, false) => old,
        };
        let mut variables = vec![("self", Value::json(place.new, Some(schema)))];
        variables.extend(old.map(|old| ("oldSelf", old)));
        let outcome = program.run(&variables, None, CALL_LIMIT);
        if outcome.cost > self.budget {
            return self.exhausted(path, node);
        }
        self.budget -= outcome.cost;
        let shown = &rule.shown;
        match outcome.value {
            Ok(Value::Bool(true)) => return,
            Ok(_) => {}
            Err(EvalError::Cost) => {
                let why = format!(
                    "'{}': no further validation rules will be run due to call cost exceeds limit for rule: {shown}",
                    EvalError::Cost
                );
                self.over = true;
                return self.refuse(path, node, why);
            }
            Err(EvalError::Message(why)) if why.starts_with("no such overload") => {
                let why = format!(
                    "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {shown}"
                );
                return self.refuse(path, node, why);
            }
            Err(EvalError::Message(why)) => return self.refuse(path, node, format!("{why} evaluating rule: {shown}")),
        }
        let error = match self.message(rule, &variables) {
            Ok(detail) => error_of(rule, node, path, detail.unwrap_or_else(|| rule.message.clone())),
            Err(why) => {
                self.over = true;
                FieldError::invalid(&path_of(rule, path), node.type_name.as_str(), why)
            }
        };
        if !rule.uses_old && place.is_unchanged() {
            self.warnings.push(error.to_string());
        } else {
            self.errors.push(error);
        }
    }

    /// What the rule's own expression says, where it says something fit to be shown.
    ///
    /// # Errors
    /// It costs too much: nothing more is evaluated.
    fn message<'a>(&mut self, rule: &'a Rule, variables: &dyn Activation<'a>) -> Result<Option<String>, String> {
        let Some((program, text)) = &rule.message_program else { return Ok(None) };
        let outcome = program.run(variables, None, CALL_LIMIT);
        let Some(left) = self.budget.checked_sub(outcome.cost) else {
            let words = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
            return Err(words.to_owned());
        };
        match outcome.value {
            Err(EvalError::Cost) => Err(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {text:?}"
            )),
            value => {
                self.budget = left;
                Ok(value.ok().and_then(|value| if let Value::String(text) = value { fit_message(&text) } else { None }))
            }
        }
    }

    fn refuse(&mut self, path: &FieldPath, node: &Node, detail: String) {
        self.errors.push(FieldError::invalid(&shown_path(path), node.type_name.as_str(), detail));
    }

    fn exhausted(&mut self, path: &FieldPath, node: &Node) {
        self.over = true;
        let words = "validation failed due to running out of cost budget, no further validation rules will be run";
        self.refuse(path, node, words.into());
    }
}

/// A message that is neither empty nor too long and stands on one line.
pub fn fit_message(text: &Text<'_>) -> Option<String> {
    let text = text.trim();
    (!text.is_empty() && text.len() <= MESSAGE_LIMIT && !text.contains('\n')).then(|| text.to_owned())
}

/// The root of an object has no name; upstream shows it so.
fn shown_path(path: &FieldPath) -> FieldPath {
    if *path == FieldPath::default() { FieldPath::new("<nil>") } else { path.clone() }
}

/// Where an error of a rule is told.
fn path_of(rule: &Rule, path: &FieldPath) -> FieldPath {
    match rule.path.as_str() {
        "" => shown_path(path),
        below if below.starts_with('[') => FieldPath::new(format!("{path}{below}")),
        below => path.child(below),
    }
}

fn error_of(rule: &Rule, node: &Node, path: &FieldPath, detail: String) -> FieldError {
    let path = path_of(rule, path);
    match rule.reason.as_str() {
        "FieldValueForbidden" => FieldError::forbidden(&path, detail),
        "FieldValueRequired" => FieldError::required(&path, detail),
        "FieldValueDuplicate" => FieldError::duplicate(&path, node.type_name.as_str()),
        _ => FieldError::invalid(&path, node.type_name.as_str(), detail),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Json {
        json!({"type": "object",
            "x-kubernetes-validations": [{"rule": "self.metadata.name != 'bad'"}],
            "properties": {"spec": {"type": "object",
                "x-kubernetes-validations": [
                    {"rule": "self.min <= self.max", "message": "min above max", "fieldPath": ".min"},
                    {"rule": "self.max >= oldSelf.max", "messageExpression": "'max shrank from ' + string(oldSelf.max)"},
                    {"rule": "oldSelf.hasValue() || self.max < 50", "optionalOldSelf": true, "message": "starts too large"}],
                "properties": {
                    "min": {"type": "integer"}, "max": {"type": "integer"},
                    "port": {"x-kubernetes-int-or-string": true, "x-kubernetes-validations": [
                        {"rule": "type(self) == int ? self > 0 : self.endsWith('%')", "reason": "FieldValueForbidden", "message": "no such port"}]},
                    "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                        "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer",
                            "x-kubernetes-validations": [{"rule": "self >= oldSelf", "message": "only up"}, {"rule": "1 / self > -1"}]}}}},
                    "free": {"type": "object", "additionalProperties": {"type": "string",
                        "x-kubernetes-validations": [{"rule": "size(self) > 1", "message": "too short"}]}}}}}})
    }

    fn check(new: Json, old: Option<Json>, expected: &[&str]) {
        let rules = Rules::of(&schema()).expect("there are rules");
        let mut warnings = Vec::new();
        let errors = rules.check(&new, old.as_ref(), &mut warnings);
        let mut shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
        shown.extend(warnings.into_iter().map(|warning| format!("warning: {warning}")));
        assert_eq!(shown, expected, "{new}");
    }

    #[test]
    fn rules_are_evaluated_where_they_stand() {
        let spec = |spec: Json| json!({"metadata": {"name": "w"}, "spec": spec});
        check(spec(json!({"min": 1, "max": 2})), None, &[]);
        check(
            json!({"metadata": {"name": "bad"}}),
            None,
            &[r#"<nil>: Invalid value: "object": failed rule: self.metadata.name != 'bad'"#],
        );
        check(spec(json!({"min": 3, "max": 2})), None, &[r#"spec.min: Invalid value: "object": min above max"#]);
        check(
            spec(json!({"min": 1})),
            None,
            &[
                r#"spec: Invalid value: "object": no such key: max evaluating rule: min above max"#,
                r#"spec: Invalid value: "object": no such key: max evaluating rule: starts too large"#,
            ],
        );
        check(
            spec(json!({"min": 1, "max": 2})),
            Some(spec(json!({"min": 1, "max": 5}))),
            &[r#"spec: Invalid value: "object": max shrank from 5"#],
        );
        check(spec(json!({"min": 1, "max": 70})), None, &[r#"spec: Invalid value: "object": starts too large"#]);
        check(spec(json!({"min": 1, "max": 70})), Some(spec(json!({"min": 1, "max": 5}))), &[]);
        check(spec(json!({"min": 1, "max": 2, "port": "5%"})), None, &[]);
        check(spec(json!({"min": 1, "max": 2, "port": "5"})), None, &["spec.port: Forbidden: no such port"]);
    }

    #[test]
    fn items_are_compared_by_their_keys_and_unchanged_faults_are_let_pass() {
        let spec = |list: Json, free: Json| json!({"metadata": {"name": "w"}, "spec": {"min": 1, "max": 2, "list": list, "free": free}});
        check(
            spec(json!([{"k": "b", "v": 1}, {"k": "a", "v": 1}]), json!({})),
            Some(spec(json!([{"k": "a", "v": 2}, {"k": "b", "v": 1}]), json!({}))),
            &[r#"spec.list[1].v: Invalid value: "integer": only up"#],
        );
        check(
            spec(json!([{"k": "a", "v": 0}]), json!({})),
            None,
            &[r#"spec.list[0].v: Invalid value: "integer": division by zero evaluating rule: 1 / self > -1"#],
        );
        check(
            spec(json!([]), json!({"x": "a", "y": "b"})),
            Some(spec(json!([]), json!({"x": "a", "y": "long"}))),
            &[
                r#"spec.free[y]: Invalid value: "string": too short"#,
                r#"warning: spec.free[x]: Invalid value: "string": too short"#,
            ],
        );
    }

    /// What remains to be said once nothing more is evaluated, and what rules of that cost find in so many items.
    fn costly(rule: Json, items: usize, letters: usize) -> Vec<String> {
        let list = json!({"type": "array", "items": {"type": "string", "x-kubernetes-validations": [rule]}});
        let rules = Rules::of(&json!({"type": "object", "properties": {"list": list}})).expect("there are rules");
        let mut warnings = Vec::new();
        let object = json!({"list": vec!["x".repeat(letters); items]});
        rules.check(&object, None, &mut warnings).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_one_rule_leaves_is_for_the_next() {
        // Each costs a tenth of a call's limit: a tenth of a letter, a hundred times.
        let rule = json!({"rule": "[1,2,3,4,5,6,7,8,9,10].all(x, self.contains('y') || true)"});
        assert_eq!(costly(rule.clone(), 90, 100_000), [""; 0]);
        let over = "Invalid value: \"string\": validation failed due to running out of cost budget, no further validation rules will be run";
        let told = costly(rule, 110, 100_000);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("list[") && told[0].ends_with(over), "{told:?}");
        // One that costs more than a call may.
        let rule = json!({"rule": "[1,2,3,4,5,6,7,8,9,10].all(x, self.contains('y') || true)", "message": "m"});
        assert_eq!(
            costly(rule, 3, 2_000_000),
            [
                "list[0]: Invalid value: \"string\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: m"
            ]
        );
    }

    #[test]
    fn messages_cost_as_well() {
        let rule = |message: &str| json!({"rule": "false", "messageExpression": message});
        let dear = "[1,2,3,4,5,6,7,8,9,10].all(x, self.contains('y') || true) ? 'dear' : ''";
        let told = costly(rule(dear), 2, 2_000_000);
        let limit = "no further validation rules will be run due to call cost exceeds limit for messageExpression";
        assert_eq!(told, [format!("list[0]: Invalid value: \"string\": {limit}: {dear:?}")]);
        let told = costly(rule(dear), 110, 100_000);
        assert!(told[..told.len() - 1].iter().all(|error| error.ends_with(": dear")), "{told:?}");
        assert!((90..110).contains(&told.len()));
        let over = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
        assert!(told[told.len() - 1].ends_with(over), "{told:?}");
    }

    #[test]
    fn an_object_of_another_shape_is_not_looked_at() {
        let path = FieldPath::new("spec.a");
        assert_eq!(unchecked(&[FieldError::invalid(&path, 7, "should be less")]), None);
        let told = unchecked(&[FieldError::required(&path, "")]).expect("it is told");
        assert_eq!(
            told.to_string(),
            "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"
        );
    }
}
