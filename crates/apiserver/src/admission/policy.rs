//! Admission policies: expressions of the user's that refuse what is written (ValidatingAdmissionPolicy) or change it
//! (MutatingAdmissionPolicy), each in force where a binding says so, perhaps with parameters.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/validating-admission-policy/> and
//! <https://kubernetes.io/docs/reference/access-authn-authz/mutating-admission-policy/>.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use serde_json::{Value as Json, json};
use skiff_cel::types::{ObjectType, any};
use skiff_cel::value::Map;
use skiff_cel::{Decl, Env, EvalError, Lazy, Machine, Program, Type, Value, compile};
use skiff_object::meta::Meta;
use skiff_object::patch::json_patch;
use skiff_object::{GroupVersion, LabelSelector, Object, Reason, Status};

use super::conditions::{Asker, CALL_LIMIT, CONDITION_ENV, Conditions, Seen, Verdict};
use super::matching::{self, Rule, Selectors, Shown};
use super::{Attributes, review};
use crate::custom::rules::fit_message;
use crate::failure::{Failure, Result};
use crate::storage::filter::Filter;

const GROUP: &str = "admissionregistration.k8s.io";
/// What one policy may cost for one request.
const POLICY_BUDGET: u64 = 10_000_000;
/// How long the value of a note for the record may be, as upstream has it.
const NOTE_LIMIT_BYTES: usize = 10 * 1024;
/// How often mutating policies that want to see the object again are asked again.
const ROUNDS: usize = 2;

type Compiled = std::result::Result<Program, String>;

/// A policy.
pub struct Policy {
    name: String,
    matched: Matched,
    param_kind: Option<(GroupVersion, String)>,
    conditions: Conditions,
    variables: Vec<(String, Compiled)>,
    validations: Vec<Validation>,
    mutations: Vec<Mutation>,
    /// What goes into the record of a request: keys and expressions.
    notes: Vec<(String, Compiled)>,
    ignores_failure: bool,
    reinvoke: bool,
}

struct Validation {
    text: String,
    program: Compiled,
    message: String,
    message_program: Option<Program>,
    reason: String,
}

struct Mutation {
    /// Whether the expression gives a JSON patch, not an object to apply.
    is_patch: bool,
    program: Compiled,
}

/// Which requests are concerned.
struct Matched {
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    selectors: Selectors,
}

impl Matched {
    fn of(node: &Json) -> Self {
        Self {
            rules: Rule::all(node.list_at(&["resourceRules"])),
            excluded: Rule::all(node.list_at(&["excludeResourceRules"])),
            selectors: Selectors::of(node),
        }
    }

    fn shown(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&Object>,
        old: Option<&Object>,
        namespace: Option<&Object>,
    ) -> Option<Shown> {
        if !self.selectors.select(attributes, object, old, namespace) {
            return None;
        }
        if matching::matches(attributes, &self.excluded, &self.selectors).is_some() {
            return None;
        }
        if self.rules.is_empty() {
            Some(Shown::Same)
        } else {
            matching::matches(attributes, &self.rules, &self.selectors)
        }
    }
}

/// A binding: it puts a policy in force.
pub struct Binding {
    name: String,
    policy: String,
    param: Option<Json>,
    matched: Option<Matched>,
    denies: bool,
    warns: bool,
    audits: bool,
    actions: Vec<Json>,
}

impl Binding {
    fn of(binding: &Object) -> Self {
        let actions = binding.list_at(&["spec", "validationActions"]);
        let has = |wanted: &str| actions.iter().any(|action| action == wanted);
        Self {
            name: binding.name().to_owned(),
            policy: binding.str_at(&["spec", "policyName"]).to_owned(),
            param: binding.at(&["spec", "paramRef"]).filter(|node| node.is_object()).cloned(),
            matched: binding.at(&["spec", "matchResources"]).filter(|node| node.is_object()).map(Matched::of),
            denies: has("Deny"),
            warns: has("Warn"),
            audits: has("Audit"),
            actions: actions.to_vec(),
        }
    }
}

/// The variables of a policy's expressions before its own ones.
pub fn base_env(policy: &Object) -> Env {
    let env = CONDITION_ENV.clone().with("namespaceObject", any());
    let env = if policy.str_at(&["kind"]).starts_with("Mutating") || policy.at(&["spec", "mutations"]).is_some() {
        env.with_patches()
    } else {
        env
    };
    if policy.at(&["spec", "paramKind"]).is_some_and(Json::is_object) { env.with("params", any()) } else { env }
}

/// The environment with a policy's variables, each of which sees those before it.
pub fn with_variables(mut env: Env, policy: &Object, mut made: impl FnMut(&str, &Env, usize) -> Option<Type>) -> Env {
    let mut fields: BTreeMap<String, Arc<Decl>> = BTreeMap::new();
    let declared = |fields: &BTreeMap<String, Arc<Decl>>| {
        let object = ObjectType { name: "kubernetes.variables".into(), fields: fields.clone(), open: false };
        Decl::of(Type::Object(Arc::new(object)))
    };
    env = env.with("variables", declared(&fields));
    for (index, variable) in policy.list_at(&["spec", "variables"]).iter().enumerate() {
        let ty = made(variable.str_at(&["expression"]), &env, index).unwrap_or(Type::Dyn);
        fields.insert(variable.str_at(&["name"]).to_owned(), Decl::of(ty));
        env = env.with("variables", declared(&fields));
    }
    env
}

fn compiled(env: &Env, text: &str) -> Compiled {
    compile(env, text).map_err(|error| format!("compilation failed: {error}"))
}

impl Policy {
    fn of(policy: &Object) -> Self {
        let spec = policy.get("spec").cloned().unwrap_or_default();
        let mut variables = Vec::new();
        let base = base_env(policy);
        let env = with_variables(base.clone(), policy, |text, env, index| {
            let name = policy.list_at(&["spec", "variables"])[index].str_at(&["name"]).to_owned();
            let program = compiled(env, text);
            let ty = program.as_ref().ok().map(|program| program.result.clone());
            variables.push((name, program));
            ty
        });
        let validation = |json: &Json| Validation {
            text: json.str_at(&["expression"]).trim().to_owned(),
            program: compiled(&env, json.str_at(&["expression"])),
            message: json.str_at(&["message"]).trim().to_owned(),
            message_program: compile(&env, json.str_at(&["messageExpression"])).ok(),
            reason: json.str_at(&["reason"]).to_owned(),
        };
        let mutation = |json: &Json| {
            let is_patch = json.str_at(&["patchType"]) == "JSONPatch";
            let field = if is_patch { "jsonPatch" } else { "applyConfiguration" };
            Mutation { is_patch, program: compiled(&env, json.str_at(&[field, "expression"])) }
        };
        let note = |json: &Json| (json.str_at(&["key"]).to_owned(), compiled(&env, json.str_at(&["valueExpression"])));
        let kind = spec.at(&["paramKind"]).filter(|kind| kind.is_object()).map(|kind| {
            let (group, version) =
                kind.str_at(&["apiVersion"]).split_once('/').unwrap_or(("", kind.str_at(&["apiVersion"])));
            (GroupVersion::new(group, version), kind.str_at(&["kind"]).to_owned())
        });
        Self {
            name: policy.name().to_owned(),
            matched: Matched::of(spec.get("matchConstraints").unwrap_or(&Json::Null)),
            param_kind: kind,
            conditions: Conditions::in_env(&base, spec.list_at(&["matchConditions"])),
            validations: spec.list_at(&["validations"]).iter().map(validation).collect(),
            mutations: spec.list_at(&["mutations"]).iter().map(mutation).collect(),
            notes: spec.list_at(&["auditAnnotations"]).iter().map(note).collect(),
            variables,
            ignores_failure: spec.str_at(&["failurePolicy"]) == "Ignore",
            reinvoke: spec.str_at(&["reinvocationPolicy"]) == "IfNeeded",
        }
    }
}

/// A policy's variables: each is evaluated when it is first used, and once.
struct Variables<'a> {
    programs: &'a [(String, Compiled)],
    base: Vec<(&'a str, Value<'a>)>,
    host: &'a Asker<'a>,
    known: RefCell<HashMap<String, std::result::Result<Value<'a>, EvalError>>>,
    me: RefCell<Weak<Variables<'a>>>,
}

impl<'a> Variables<'a> {
    fn new(policy: &'a Policy, seen: &'a Seen, host: &'a Asker<'a>) -> Rc<Self> {
        let variables = Rc::new(Self {
            programs: &policy.variables,
            base: seen.variables(),
            host,
            known: RefCell::default(),
            me: RefCell::default(),
        });
        *variables.me.borrow_mut() = Rc::downgrade(&variables);
        variables
    }

    /// All that an expression may name.
    fn all(&self) -> Vec<(&'a str, Value<'a>)> {
        let mut all = self.base.clone();
        if let Some(me) = self.me.borrow().upgrade() {
            all.push(("variables", Value::Map(Map::Lazy(me))));
        }
        all
    }
}

impl<'a> Lazy<'a> for Variables<'a> {
    fn get(&self, field: &str, machine: &mut Machine<'a>) -> Option<std::result::Result<Value<'a>, EvalError>> {
        if let Some(known) = self.known.borrow().get(field) {
            return Some(known.clone());
        }
        let (_, program) = self.programs.iter().find(|(name, _)| name == field)?;
        let value = match program {
            Err(why) => Err(EvalError::new(why.as_str())),
            Ok(program) => {
                let outcome = program.run(&self.all(), Some(self.host), machine.left());
                match machine.charge(outcome.cost) {
                    Err(error) => Err(error),
                    Ok(()) => outcome.value.map_err(|error| match error {
                        EvalError::Message(why) => {
                            EvalError::new(format!("composited variable {field:?} fails to evaluate: {why}"))
                        }
                        EvalError::Cost => EvalError::Cost,
                    }),
                }
            }
        };
        self.known.borrow_mut().insert(field.to_owned(), value.clone());
        Some(value)
    }
}

/// A parameter object for a policy, or that there is none.
enum Params {
    /// The policy takes none, or the binding names none.
    None,
    /// These, one after the other.
    Some(Vec<Object>),
}

fn params(attributes: &Attributes<'_>, policy: &Policy, binding: &Binding) -> std::result::Result<Params, String> {
    let (Some((version, kind)), Some(reference)) = (&policy.param_kind, &binding.param) else {
        return Ok(Params::None);
    };
    let snapshot = attributes.server.catalogue.snapshot();
    let gvk = skiff_object::GroupVersionKind::new(version.group.as_str(), version.version.as_str(), kind.as_str());
    let served = snapshot.by_kind(&gvk);
    let served = served.ok_or_else(|| format!("paramKind kind `{gvk}` not known"))?;
    let name = reference.str_at(&["name"]);
    let namespace = match (served.def.is_namespaced(), reference.str_at(&["namespace"])) {
        (false, "") => "",
        (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
        (true, "") => attributes.namespace,
        (true, own) => own,
    };
    if served.def.is_namespaced() && namespace.is_empty() {
        return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
    }
    let found: Vec<Object> = if name.is_empty() {
        let node = reference.get("selector").unwrap_or(&Json::Null);
        let selector = LabelSelector::from_object(node).map_err(|error| error.to_string())?;
        let all = served.cache.objects(&Filter::namespace(namespace)).map_err(|failure| failure.to_string())?;
        all.into_iter().filter(|object| selector.matches_object(object)).collect()
    } else {
        served.cache.object(namespace, name).map_err(|failure| failure.to_string())?.into_iter().collect()
    };
    if found.is_empty() && reference.str_at(&["parameterNotFoundAction"]) != "Allow" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    let typed = found.into_iter().map(|mut object| {
        object["kind"] = kind.as_str().into();
        object["apiVersion"] = version.to_string().into();
        object
    });
    Ok(Params::Some(typed.collect()))
}

/// The pairs of policy and binding that concern a request, with the version in which they see it.
fn concerned(
    attributes: &Attributes<'_>,
    kind: &str,
    object: Option<&Object>,
    old: Option<&Object>,
    namespace: Option<&Object>,
) -> Vec<(Arc<Policy>, Arc<Binding>, Shown)> {
    let own = &attributes.server.admission;
    let (policies, bindings) = if kind == "mutating" {
        (&own.mutating_policies, &own.mutating_bindings)
    } else {
        (&own.validating_policies, &own.validating_bindings)
    };
    let plural = |suffix: &str| format!("{kind}admissionpolic{suffix}");
    let policies = policies.all(attributes.server, GROUP, &plural("ies"), Policy::of);
    if policies.is_empty() || matching::is_exempt(attributes) {
        return Vec::new();
    }
    let bindings = bindings.all(attributes.server, GROUP, &plural("ybindings"), Binding::of);
    let mut all = Vec::new();
    for policy in policies {
        for binding in bindings.iter().filter(|binding| binding.policy == policy.name) {
            let Some(shown) = policy.matched.shown(attributes, object, old, namespace) else { break };
            let bound = binding.matched.as_ref();
            if bound.is_none_or(|matched| matched.shown(attributes, object, old, namespace).is_some()) {
                all.push((policy.clone(), binding.clone(), shown));
            }
        }
    }
    all
}

/// A refusal of a policy.
#[derive(Default)]
struct Refused {
    message: String,
    reason: String,
    /// Which of the validations it is of.
    index: usize,
}

impl From<String> for Refused {
    fn from(message: String) -> Self {
        Self { message, ..Self::default() }
    }
}

/// What a policy says of a request.
#[derive(Default)]
struct Judged {
    refused: Vec<Refused>,
    /// For the record: keys and values.
    notes: Vec<(String, String)>,
}

impl From<String> for Judged {
    fn from(message: String) -> Self {
        Self { refused: vec![message.into()], notes: Vec::new() }
    }
}

/// Evaluates a validating policy with one parameter; what it finds wrong, and what it wants to have written down.
fn judge(policy: &Policy, seen: &Seen, attributes: &Attributes<'_>) -> Judged {
    match policy.conditions.verdict(seen, attributes) {
        Verdict::Matches => {}
        Verdict::Differs => return Judged::default(),
        Verdict::Unclear(_) if policy.ignores_failure => return Judged::default(),
        Verdict::Unclear(why) => return why.into(),
    }
    let host = Asker { attributes };
    let variables = Variables::new(policy, seen, &host);
    let mut budget = POLICY_BUDGET;
    let mut refused = Vec::new();
    for (index, validation) in policy.validations.iter().enumerate() {
        let failed = |message: String| Refused { message, reason: String::new(), index };
        let program = match &validation.program {
            Ok(program) => program,
            Err(_) if policy.ignores_failure => continue,
            Err(why) => {
                refused.push(failed(why.clone()));
                continue;
            }
        };
        let all = variables.all();
        let outcome = program.run(&all, Some(&host), CALL_LIMIT.min(budget));
        budget = budget.saturating_sub(outcome.cost);
        match outcome.value {
            Ok(Value::Bool(true)) => {}
            Ok(Value::Bool(false)) => {
                let message = validation.message_program.as_ref().and_then(|program| {
                    let outcome = program.run(&all, Some(&host), CALL_LIMIT.min(budget));
                    budget = budget.saturating_sub(outcome.cost);
                    match outcome.value {
                        Ok(Value::String(text)) => fit_message(&text),
                        _ => None,
                    }
                });
                let own = if validation.message.is_empty() {
                    format!("failed expression: {}", validation.text)
                } else {
                    validation.message.clone()
                };
                refused.push(Refused { message: message.unwrap_or(own), reason: validation.reason.clone(), index });
            }
            _ if policy.ignores_failure => {}
            Ok(_) => refused.push(failed(format!("expression '{}' gave no truth value", validation.text))),
            Err(error) => {
                refused.push(failed(format!("expression '{}' resulted in error: {error}", validation.text)));
            }
        }
        if budget == 0 {
            let words = "validation failed due to running out of cost budget, no further validation rules will be run";
            if !policy.ignores_failure {
                refused.push(failed(words.into()));
            }
            break;
        }
    }
    let mut notes = Vec::new();
    for (key, program) in &policy.notes {
        let value = program.as_ref().map_err(Clone::clone).and_then(|program| {
            let outcome = program.run(&variables.all(), Some(&host), CALL_LIMIT.min(budget));
            budget = budget.saturating_sub(outcome.cost);
            outcome.value.map_err(|error| error.to_string())
        });
        match value {
            Ok(Value::String(text)) if !text.is_empty() => {
                notes.push((key.clone(), text[..text.floor_char_boundary(NOTE_LIMIT_BYTES)].to_owned()))
            }
            Err(why) if !policy.ignores_failure => {
                refused.push(format!("audit annotation {key:?} resulted in error: {why}").into());
            }
            _ => {}
        }
    }
    Judged { refused, notes }
}

/// What the validating policies add to the record of a request.
#[derive(Default)]
struct Notes {
    failures: Vec<Json>,
    values: BTreeMap<String, Vec<String>>,
}

impl Notes {
    fn add(&mut self, policy: &Policy, binding: &Binding, judged: &Judged) {
        for (key, value) in &judged.notes {
            let values = self.values.entry(format!("{}/{key}", policy.name)).or_default();
            if !values.contains(value) {
                values.push(value.clone());
            }
        }
        if binding.audits {
            self.failures.extend(judged.refused.iter().map(|refused| {
                json!({"message": refused.message, "policy": policy.name, "binding": binding.name,
                    "expressionIndex": refused.index, "validationActions": binding.actions})
            }));
        }
    }

    fn write(self, attributes: &Attributes<'_>) {
        for (key, values) in self.values {
            attributes.call.annotate(key, values.join(", "));
        }
        if !self.failures.is_empty() {
            let text = Json::Array(self.failures).to_string();
            attributes.call.annotate("validation.policy.admission.k8s.io/validation_failure", text);
        }
    }
}

/// Refuses what the validating policies refuse; where they only warn, the answer carries it.
pub fn validate(
    attributes: &Attributes<'_>,
    object: Option<&Object>,
    old: Option<&Object>,
    namespace: Option<&Object>,
) -> Result<()> {
    let mut denial: Option<Failure> = None;
    let mut notes = Notes::default();
    for (policy, binding, shown) in concerned(attributes, "validating", object, old, namespace) {
        let judged = match params(attributes, &policy, &binding) {
            Err(_) if policy.ignores_failure => Judged::default(),
            Err(why) => format!("failed to configure binding: {why}").into(),
            Ok(params) => {
                let all = match params {
                    Params::None => vec![policy.param_kind.as_ref().map(|_| Json::Null)],
                    Params::Some(all) => all.into_iter().map(Some).collect(),
                };
                let mut whole = Judged::default();
                for param in all {
                    let seen = Seen::of(attributes, &shown, object, old, namespace, param);
                    let Judged { refused, notes } = judge(&policy, &seen, attributes);
                    whole.refused.extend(refused);
                    whole.notes.extend(notes);
                }
                whole
            }
        };
        notes.add(&policy, &binding, &judged);
        for Refused { message, reason, .. } in judged.refused {
            if binding.denies && denial.is_none() {
                denial = Some(denied(attributes, &policy, &binding, &message, &reason));
            }
            if binding.warns {
                let (policy, binding) = (&policy.name, &binding.name);
                attributes.call.warn(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{policy}' with binding '{binding}': {message}"
                ));
            }
        }
    }
    notes.write(attributes);
    denial.map_or(Ok(()), Err)
}

fn denied(attributes: &Attributes<'_>, policy: &Policy, binding: &Binding, message: &str, reason: &str) -> Failure {
    let why = format!(
        "ValidatingAdmissionPolicy '{}' with binding '{}' denied request: {message}",
        policy.name, binding.name
    );
    let mut status = Status::forbidden(&attributes.def.group_resource(), attributes.name, &why);
    (status.code, status.reason) = match reason {
        "Unauthorized" => (401, Reason::Unauthorized),
        "Forbidden" => (403, Reason::Forbidden),
        "RequestEntityTooLarge" => (413, Reason::RequestEntityTooLarge),
        _ => (422, Reason::Invalid),
    };
    status.details.get_or_insert_default().causes.push(skiff_object::status::Cause {
        reason: String::new(),
        message: message.to_owned(),
        field: String::new(),
    });
    status.into()
}

/// Lets the mutating policies change an object, in the order of their names.
pub fn mutate(
    attributes: &Attributes<'_>,
    object: &mut Object,
    old: Option<&Object>,
    namespace: Option<&Object>,
) -> Result<bool> {
    let mut changed_any = false;
    for round in 0..ROUNDS {
        let mut changed_now = false;
        let all = concerned(attributes, "mutating", Some(object), old, namespace);
        if all.is_empty() {
            break;
        }
        for (policy, binding, shown) in all {
            if round > 0 && !policy.reinvoke {
                continue;
            }
            let changed = change(attributes, &policy, &binding, &shown, object, old, namespace);
            match changed {
                Ok(Some(new)) => {
                    *object = super::reshaped(attributes, new)?;
                    changed_now = true;
                }
                Ok(None) => {}
                Err(_) if policy.ignores_failure => {}
                Err(why) => {
                    let why = format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name);
                    return Err(Status::forbidden(&attributes.def.group_resource(), attributes.name, why).into());
                }
            }
        }
        changed_any |= changed_now;
        if !changed_now {
            break;
        }
    }
    Ok(changed_any)
}

fn change(
    attributes: &Attributes<'_>,
    policy: &Policy,
    binding: &Binding,
    shown: &Shown,
    object: &Object,
    old: Option<&Object>,
    namespace: Option<&Object>,
) -> std::result::Result<Option<Object>, String> {
    let all = match params(attributes, policy, binding).map_err(|why| format!("failed to configure binding: {why}"))? {
        Params::None => vec![policy.param_kind.as_ref().map(|_| Json::Null)],
        Params::Some(all) => all.into_iter().map(Some).collect(),
    };
    let mut current = object.clone();
    for param in all {
        for mutation in &policy.mutations {
            let seen = Seen::of(attributes, shown, Some(&current), old, namespace, param.clone());
            match policy.conditions.verdict(&seen, attributes) {
                Verdict::Matches => {}
                Verdict::Differs => continue,
                Verdict::Unclear(why) => return Err(why),
            }
            let made = evaluate(policy, mutation, &seen, attributes)?;
            let changed = if mutation.is_patch {
                json_patch(seen.object.clone(), made.to_string().as_bytes()).map_err(|status| status.to_string())?
            } else {
                super::merged(attributes, &seen.object, &made)?
            };
            current = review::convert_back(attributes, shown, &changed);
        }
    }
    Ok((current != *object).then_some(current))
}

/// What a mutation's expression gives, as JSON.
fn evaluate(
    policy: &Policy,
    mutation: &Mutation,
    seen: &Seen,
    attributes: &Attributes<'_>,
) -> std::result::Result<Json, String> {
    let program = mutation.program.as_ref().map_err(Clone::clone)?;
    let host = Asker { attributes };
    let variables = Variables::new(policy, seen, &host);
    let all = variables.all();
    let mut machine = Machine::new(program, &all, Some(&host), CALL_LIMIT);
    let value = machine.run().map_err(|error| error.to_string())?;
    value.to_json(&mut machine).map_err(|error| error.to_string())
}

/// What a server keeps of what admission reads.
#[derive(Default)]
pub struct Known {
    pub(crate) mutating: super::kept::Kept<Vec<Arc<super::webhooks::Hook>>>,
    pub(crate) validating: super::kept::Kept<Vec<Arc<super::webhooks::Hook>>>,
    mutating_policies: super::kept::Kept<Policy>,
    mutating_bindings: super::kept::Kept<Binding>,
    validating_policies: super::kept::Kept<Policy>,
    validating_bindings: super::kept::Kept<Binding>,
}
