//! Match conditions: expressions that decide whether a webhook or a policy is asked at all; and what expressions of
//! admission see in general.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/extensible-admission-controllers/#matching-requests-matchconditions>.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use serde_json::Value as Json;
use skiff_cel::library::{Opaque, Stage};
use skiff_cel::types::{any, string};
use skiff_cel::{Decision, Decl, Env, Host, Program, Question, Type, Value, compile};
use skiff_object::meta::Meta;
use skiff_object::{ErrorList, FieldError, FieldPath, Object};

use super::matching::Shown;
use super::{Attributes, review};
use crate::authz::{Action, Term};
use crate::call::UserInfo;

/// What one expression may cost.
pub const CALL_LIMIT: u64 = 1_000_000;
/// What the match conditions of one webhook or policy may cost together.
const CONDITIONS_BUDGET: u64 = 2_500_000;

fn kind_decl() -> Arc<Decl> {
    Decl::object("kubernetes.GroupVersionKind", [("group", string()), ("version", string()), ("kind", string())])
}

fn resource_decl() -> Arc<Decl> {
    let fields = [("group", string()), ("version", string()), ("resource", string())];
    Decl::object("kubernetes.GroupVersionResource", fields)
}

fn request_decl() -> Arc<Decl> {
    let user = Decl::object(
        "kubernetes.UserInfo",
        [
            ("username", string()),
            ("uid", string()),
            ("groups", Decl::list(string())),
            ("extra", Decl::map(Decl::list(string()))),
        ],
    );
    Decl::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind_decl()),
            ("resource", resource_decl()),
            ("subResource", string()),
            ("requestKind", kind_decl()),
            ("requestResource", resource_decl()),
            ("requestSubResource", string()),
            ("name", string()),
            ("namespace", string()),
            ("operation", string()),
            ("userInfo", user),
            ("dryRun", Decl::of(Type::Bool)),
            ("options", any()),
        ],
    )
}

/// The variables of match conditions.
pub static CONDITION_ENV: LazyLock<Env> = LazyLock::new(|| {
    Env::new()
        .with("object", any())
        .with("oldObject", any())
        .with("request", request_decl())
        .with("authorizer", Decl::of(Type::Opaque("kubernetes.authorization.Authorizer")))
        .with("authorizer.requestResource", Decl::of(Type::Opaque("kubernetes.authorization.ResourceCheck")))
});

/// Conditions, compiled.
#[derive(Default)]
pub struct Conditions {
    all: Vec<(String, Result<Program, String>)>,
}

/// What conditions say.
pub enum Verdict {
    /// All are true.
    Matches,
    /// One is false.
    Differs,
    /// None is false, and at least one could not be evaluated.
    Unclear(String),
}

impl Conditions {
    /// Compiles `matchConditions`.
    pub fn of(list: &[Json]) -> Self {
        Self::in_env(&CONDITION_ENV, list)
    }

    /// Compiles `matchConditions` with further variables.
    pub fn in_env(env: &Env, list: &[Json]) -> Self {
        let one = |condition: &Json| {
            let program = compile(env, condition.str_at(&["expression"])).map_err(|error| error.to_string());
            (condition.str_at(&["name"]).to_owned(), program)
        };
        Self { all: list.iter().map(one).collect() }
    }

    /// Evaluates the conditions of a webhook.
    pub fn check(
        &self,
        attributes: &Attributes<'_>,
        shown: &Shown,
        object: Option<&Object>,
        old: Option<&Object>,
        namespace: Option<&Object>,
    ) -> Verdict {
        if self.all.is_empty() {
            return Verdict::Matches;
        }
        let seen = Seen::of(attributes, shown, object, old, namespace, None);
        self.verdict(&seen, attributes)
    }

    /// Evaluates the conditions with what is seen.
    pub fn verdict(&self, seen: &Seen, attributes: &Attributes<'_>) -> Verdict {
        let host = Asker { attributes };
        let variables = seen.variables();
        let mut budget = CONDITIONS_BUDGET;
        let mut unclear = None;
        for (name, program) in &self.all {
            let program = match program {
                Ok(program) => program,
                Err(why) => {
                    unclear.get_or_insert_with(|| format!("match condition {name:?} does not compile: {why}"));
                    continue;
                }
            };
            let outcome = program.run(&variables, Some(&host), CALL_LIMIT.min(budget));
            budget = budget.saturating_sub(outcome.cost);
            match outcome.value {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Verdict::Differs,
                Ok(_) => {
                    unclear.get_or_insert_with(|| format!("match condition {name:?} gave no truth value"));
                }
                Err(error) => {
                    unclear.get_or_insert_with(|| format!("failed to evaluate match condition {name:?}: {error}"));
                }
            }
        }
        unclear.map_or(Verdict::Matches, Verdict::Unclear)
    }
}

/// What expressions of admission see of a request.
pub struct Seen {
    /// The object, or null.
    pub object: Json,
    /// The object before, or null.
    pub old: Json,
    /// The request.
    pub request: Json,
    /// Its namespace, or null.
    pub namespace: Json,
    /// The parameter object of a policy.
    pub params: Option<Json>,
    resource: Question,
}

impl Seen {
    /// What is seen of a request.
    pub fn of(
        attributes: &Attributes<'_>,
        shown: &Shown,
        object: Option<&Object>,
        old: Option<&Object>,
        namespace: Option<&Object>,
        params: Option<Json>,
    ) -> Self {
        let converted =
            |object: Option<&Object>| object.map_or(Json::Null, |own| review::convert(attributes, shown, own));
        let def = attributes.def;
        Self {
            object: converted(object),
            old: converted(old),
            request: review::request(attributes, shown),
            namespace: namespace.cloned().unwrap_or_default(),
            params,
            resource: Question {
                group: def.group.to_string(),
                resource: def.plural.to_string(),
                subresource: attributes.subresource.to_owned(),
                namespace: attributes.namespace.to_owned(),
                name: attributes.name.to_owned(),
                stage: Stage::Resource,
                ..Question::default()
            },
        }
    }

    /// The variables that expressions name.
    pub fn variables(&self) -> Vec<(&str, Value<'_>)> {
        let question = |question: Question| Value::Opaque(Opaque::Question(Arc::new(question)));
        let mut variables = vec![
            ("object", Value::json(&self.object, None)),
            ("oldObject", Value::json(&self.old, None)),
            ("request", Value::json(&self.request, None)),
            ("namespaceObject", Value::json(&self.namespace, None)),
            ("authorizer", question(Question::default())),
            ("authorizer.requestResource", question(self.resource.clone())),
        ];
        if let Some(params) = &self.params {
            variables.push(("params", Value::json(params, None)));
        }
        variables
    }
}

/// Asks the server's own authorizer.
pub struct Asker<'a> {
    /// The request for whose user it asks.
    pub attributes: &'a Attributes<'a>,
}

impl Host for Asker<'_> {
    fn authorize(&self, question: &Question) -> Decision {
        let action = Action {
            verb: question.verb.clone(),
            path: question.path.clone().unwrap_or_default(),
            group: question.group.clone(),
            version: if question.path.is_some() { String::new() } else { "*".into() },
            resource: question.resource.clone(),
            subresource: question.subresource.clone(),
            namespace: question.namespace.clone(),
            name: question.name.clone(),
            fields: question.field_selector.as_deref().map(Term::of_fields).unwrap_or_default(),
            labels: question.label_selector.as_deref().map(Term::of_labels).unwrap_or_default(),
        };
        let other = question.service_account.as_ref().map(|(namespace, name)| {
            let all = format!("system:serviceaccounts:{namespace}");
            UserInfo::new(format!("system:serviceaccount:{namespace}:{name}"), &["system:serviceaccounts", &all])
        });
        let user = other.as_ref().unwrap_or(&self.attributes.call.user);
        let decision = self.attributes.server.authorizer.decide_here(user, &action);
        let error = Some(decision.error).filter(|error| !error.is_empty());
        Decision { allowed: decision.allowed, reason: decision.reason, error }
    }
}

/// What is wrong with the expressions of `matchConditions`.
pub fn check_conditions(env: &Env, list: &[Json], path: &FieldPath, errors: &mut ErrorList) {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (index, condition) in list.iter().enumerate() {
        let place = path.index(index);
        let name = condition.str_at(&["name"]);
        if !name.is_empty() && seen.insert(name, index).is_some() {
            errors.push(FieldError::duplicate(&place.child("name"), name));
        }
        check_expression(env, condition.str_at(&["expression"]), &[Type::Bool], &place.child("expression"), errors);
    }
}

/// What is wrong with one expression, which must give one of these types.
pub fn check_expression(
    env: &Env,
    text: &str,
    types: &[Type],
    path: &FieldPath,
    errors: &mut ErrorList,
) -> Option<Type> {
    if text.trim().is_empty() {
        // That it is missing is told by the kind's own validation.
        return None;
    }
    match compile(env, text) {
        Err(error) => {
            errors.push(FieldError::invalid(path, text, format!("compilation failed: {error}")));
            None
        }
        Ok(program) => {
            let fits = types.is_empty() || program.result == Type::Dyn || types.contains(&program.result);
            if !fits {
                let wanted: Vec<String> = types.iter().map(ToString::to_string).collect();
                let words = match wanted.as_slice() {
                    [one] => format!("must evaluate to {one}"),
                    many => format!("must evaluate to one of the types: {}", many.join(", ")),
                };
                errors.push(FieldError::invalid(path, text, words));
            }
            Some(program.result.clone())
        }
    }
}
