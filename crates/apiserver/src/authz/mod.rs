//! Who may do what: everything for `system:masters`, and for all others what a chain of authorizers says, in the order
//! that the user gives: the first that has an opinion decides.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authorization/>.

pub mod abac;
pub mod escalation;
pub mod node;
pub mod rbac;
pub mod reviews;
pub mod structured;
pub mod webhook;

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::FutureExt;
use parking_lot::RwLock;
use serde_json::{Value, json};
use skiff_base::clock::SharedClock;
use skiff_object::selector::{FieldSelector, LabelSelector, Requirement};
use skiff_object::{Reason, Status};

use self::abac::Policies;
use self::structured::{Entry, ReadKubeconfig, SHAPE};
use self::webhook::Webhook;
use crate::call::UserInfo;
use crate::config::Config;
use crate::failure::{Result, plain};
use crate::files::Watched;
use crate::http::request::RequestInfo;
use crate::storage::catalogue::Catalogue;

/// What decides where nothing is said: nodes' own rules, then roles and bindings.
const USUAL: [&str; 2] = ["Node", "RBAC"];

/// One requirement of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The field or label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: &'static str,
    /// What it is or is not.
    pub values: Vec<String>,
}

impl Term {
    fn new(key: &str, operator: &'static str, values: Vec<String>) -> Self {
        Self { key: key.to_owned(), operator, values }
    }

    /// The terms of a field selector; none where it is no selector, because then it narrows nothing.
    pub fn of_fields(selector: &str) -> Vec<Self> {
        let terms = FieldSelector::parse(selector).map(|selector| selector.terms).unwrap_or_default();
        let term = |(field, value, equal): &(String, String, bool)| {
            Self::new(field, if *equal { "In" } else { "NotIn" }, vec![value.clone()])
        };
        terms.iter().map(term).collect()
    }

    /// The terms of a label selector; comparisons are left out, as upstream does.
    pub fn of_labels(selector: &str) -> Vec<Self> {
        let Ok(selector) = LabelSelector::parse(selector) else { return Vec::new() };
        let term = |requirement: &Requirement| match requirement {
            Requirement::In(key, values) => Some(Self::new(key, "In", values.clone())),
            Requirement::NotIn(key, values) => Some(Self::new(key, "NotIn", values.clone())),
            Requirement::Exists(key) => Some(Self::new(key, "Exists", Vec::new())),
            Requirement::DoesNotExist(key) => Some(Self::new(key, "DoesNotExist", Vec::new())),
            Requirement::GreaterThan(..) | Requirement::LessThan(..) => None,
        };
        selector.requirements().iter().filter_map(term).collect()
    }
}

/// What somebody wants to do, as rules see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Action {
    /// `get`, `create`, `impersonate`, ...
    pub verb: String,
    /// The path of what is no resource; empty for resources.
    pub path: String,
    /// The API group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The plural resource name; empty for other paths.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object.
    pub name: String,
    /// What a list, a watch or a deletion of a collection is narrowed to by fields.
    pub fields: Vec<Term>,
    /// The same by labels.
    pub labels: Vec<Term>,
}

impl Action {
    /// What a request wants.
    pub fn of(info: &RequestInfo) -> Self {
        let path = if info.is_resource { String::new() } else { info.path.clone() };
        let terms = |selector: &str, read: fn(&str) -> Vec<Term>| {
            if selector.is_empty() { Vec::new() } else { read(selector) }
        };
        Self {
            verb: info.verb.clone(),
            path,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: if info.name.is_empty() { info.selected_name.clone() } else { info.name.clone() },
            fields: terms(&info.field_selector, Term::of_fields),
            labels: terms(&info.label_selector, Term::of_labels),
        }
    }

    /// Whether a path, not a resource, is concerned.
    pub fn is_path(&self) -> bool {
        !self.path.is_empty()
    }

    /// `pods/log`, or `pods`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// A question as others are asked it: the spec of a `SubjectAccessReview`.
pub fn review_spec(user: &UserInfo, action: &Action) -> Value {
    let mut spec = json!({"user": user.name});
    for (field, value) in [("uid", json!(user.uid)), ("groups", json!(user.groups)), ("extra", json!(user.extra))] {
        let is_empty = value == "" || value.as_array().is_some_and(Vec::is_empty);
        if !is_empty && value.as_object().is_none_or(|map| !map.is_empty()) {
            spec[field] = value;
        }
    }
    if action.is_path() {
        spec["nonResourceAttributes"] = json!({"path": action.path, "verb": action.verb});
        return spec;
    }
    let texts = [
        ("namespace", &action.namespace),
        ("verb", &action.verb),
        ("group", &action.group),
        ("version", &action.version),
        ("resource", &action.resource),
        ("subresource", &action.subresource),
        ("name", &action.name),
    ];
    let mut resource = json!({});
    for (field, text) in texts.into_iter().filter(|(_, text)| !text.is_empty()) {
        resource[field] = text.as_str().into();
    }
    for (field, terms) in [("fieldSelector", &action.fields), ("labelSelector", &action.labels)] {
        if !terms.is_empty() {
            let whole = |term: &Term| match term.values.as_slice() {
                [] => json!({"key": term.key, "operator": term.operator}),
                values => json!({"key": term.key, "operator": term.operator, "values": values}),
            };
            resource[field] = json!({"requirements": terms.iter().map(whole).collect::<Vec<_>>()});
        }
    }
    spec["resourceAttributes"] = resource;
    spec
}

/// What was decided, and why. What is neither allowed nor denied is somebody else's to decide, and refused in the end.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Whether it is refused, whatever others would say.
    pub denied: bool,
    /// Why; mostly empty for refusals.
    pub reason: String,
    /// What went wrong while it was decided.
    pub error: String,
}

impl Decision {
    /// It is allowed.
    pub fn allow(reason: impl Into<String>) -> Self {
        Self { allowed: true, reason: reason.into(), ..Self::default() }
    }

    /// It is refused.
    pub fn deny(reason: impl Into<String>) -> Self {
        Self { denied: true, reason: reason.into(), ..Self::default() }
    }

    /// Others decide.
    pub fn no_opinion(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..Self::default() }
    }
}

/// Who is asked, in their order.
#[derive(Debug, Clone, Default)]
pub enum Chain {
    /// Nodes' own rules, then roles and bindings.
    #[default]
    Usual,
    /// Everybody may do everything.
    Everything,
    /// An AuthorizationConfiguration that flags stand for.
    Given(Value),
    /// One in a file; it is read again when it changes.
    File(PathBuf),
}

/// What the server is told of those who decide.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who is asked.
    pub chain: Chain,
    /// The policies of ABAC.
    pub policies: Arc<Policies>,
    /// Reads a kubeconfig with what is in its files in it.
    pub kubeconfig: Option<ReadKubeconfig>,
}

/// One authorizer.
enum Step {
    Node,
    Rbac,
    Abac,
    AlwaysAllow,
    AlwaysDeny,
    Webhook(Box<Webhook>),
}

/// Decides who may do what.
pub struct Authorizer {
    catalogue: Arc<Catalogue>,
    rbac: rbac::Rbac,
    settings: Settings,
    steps: RwLock<Arc<[Step]>>,
    file: Option<Watched>,
    clock: SharedClock,
}

impl Authorizer {
    /// Reads who is to be asked.
    ///
    /// # Errors
    /// The configuration has a fault.
    pub fn new(config: &Config, catalogue: Arc<Catalogue>) -> Result<Self> {
        Self::build(config, catalogue).map_err(|error| plain(500, error))
    }

    fn build(config: &Config, catalogue: Arc<Catalogue>) -> Result<Self, String> {
        let settings = config.access.authorization.clone();
        let chain = if config.authorization { settings.chain.clone() } else { Chain::Everything };
        let own = Self {
            rbac: rbac::Rbac::new(&catalogue),
            catalogue,
            settings,
            steps: RwLock::new(Arc::new([])),
            file: None,
            clock: config.clock.clone(),
        };
        let simple = |modes: &[&str]| modes.iter().map(|mode| Entry::Own((*mode).to_owned())).collect();
        match chain {
            Chain::Usual => own.hold(simple(&USUAL)),
            Chain::Everything => own.hold(simple(&["AlwaysAllow"])),
            Chain::Given(tree) => own.hold(own.entries(&tree)?),
            Chain::File(path) => {
                let (file, text) = Watched::open(path)?;
                let named = |error| format!("{}: {error}", file.shown());
                own.hold(SHAPE.read(&text).and_then(|tree| own.entries(&tree)).map_err(named)?);
                return Ok(Self { file: Some(file), ..own });
            }
        }
        Ok(own)
    }

    fn entries(&self, tree: &Value) -> Result<Vec<Entry>, String> {
        let none = |_: &std::path::Path| Err("no kubeconfig can be read here".to_owned());
        structured::entries(tree, self.settings.kubeconfig.unwrap_or(none))
    }

    fn hold(&self, entries: Vec<Entry>) {
        let step = |entry: Entry| match entry {
            Entry::Webhook(settings) => Step::Webhook(Box::new(Webhook::new(*settings, self.clock.clone()))),
            Entry::Own(mode) => match mode.as_str() {
                "Node" => Step::Node,
                "ABAC" => Step::Abac,
                "AlwaysAllow" => Step::AlwaysAllow,
                "AlwaysDeny" => Step::AlwaysDeny,
                _ => Step::Rbac,
            },
        };
        *self.steps.write() = entries.into_iter().map(step).collect();
    }

    /// The file of the configuration.
    pub(crate) fn file(&self) -> Option<&Watched> {
        self.file.as_ref()
    }

    /// Takes over an AuthorizationConfiguration.
    ///
    /// # Errors
    /// It has a fault, or an authorizer of the server's own is no longer in it; what was before still holds.
    pub(crate) fn configure(&self, text: &[u8]) -> Result<(), String> {
        let entries = self.entries(&SHAPE.read(text)?)?;
        let modes = |steps: &[Step]| steps.iter().filter_map(Step::mode).collect::<Vec<_>>();
        let (before, after) = (modes(&self.steps.read()), entries.iter().filter_map(Entry::mode).collect::<Vec<_>>());
        let gone: Vec<&str> = before.iter().copied().filter(|mode| !after.contains(mode)).collect();
        let new: Vec<&str> = after.iter().copied().filter(|mode| !before.contains(mode)).collect();
        if !gone.is_empty() || !new.is_empty() {
            return Err(format!(
                "authorizers of other types than Webhook can only be moved: missing {gone:?}, new {new:?}"
            ));
        }
        self.hold(entries);
        Ok(())
    }

    /// Whether a user may do something.
    pub async fn decide(&self, user: &UserInfo, action: &Action) -> Decision {
        if user.in_group("system:masters") {
            return Decision::allow("");
        }
        let steps = self.steps.read().clone();
        let (mut reasons, mut errors) = (Vec::new(), Vec::new());
        for step in steps.iter() {
            let decision = match step {
                Step::Node => match node::allows(&self.catalogue, user, action) {
                    Some(reason) => Decision::allow(reason),
                    None => Decision::default(),
                },
                Step::Rbac => self.rbac.decide(user, action),
                Step::Abac => self.settings.policies.decide(user, action),
                Step::AlwaysAllow => Decision::allow(""),
                Step::AlwaysDeny => Decision::no_opinion("Everything is forbidden."),
                Step::Webhook(webhook) => Box::pin(webhook.decide(user, action)).await,
            };
            if decision.allowed || decision.denied {
                return decision;
            }
            reasons.extend(Some(decision.reason).filter(|reason| !reason.is_empty()));
            errors.extend(Some(decision.error).filter(|error| !error.is_empty()));
        }
        Decision { error: errors.join(", "), ..Decision::no_opinion(reasons.join("\n")) }
    }

    /// The same where nobody can wait, as in the middle of an expression. A program is waited for on this thread, which
    /// the runtime is told of.
    pub fn decide_here(&self, user: &UserInfo, action: &Action) -> Decision {
        let deciding = self.decide(user, action);
        if !self.steps.read().iter().any(|step| matches!(step, Step::Webhook(_))) {
            return deciding.now_or_never().expect("without a webhook nothing is waited for");
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread => {
                tokio::task::block_in_place(|| runtime.block_on(deciding))
            }
            _ => Decision { error: "no webhook can be asked here".to_owned(), ..Decision::default() },
        }
    }

    /// The rules that roles give a user in a namespace.
    pub(crate) fn granted(&self, user: &UserInfo, namespace: &str) -> Vec<rbac::Rule> {
        self.rbac.rules_of(user, namespace)
    }

    /// The rules that hold for a user in a namespace, and why they are not all, where they are not.
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> (Vec<rbac::Rule>, Option<&'static str>) {
        if user.in_group("system:masters") {
            return (rbac::Rule::everything(), None);
        }
        let (mut rules, mut lacking) = (Vec::new(), None);
        for step in self.steps.read().iter() {
            match step {
                Step::Rbac => rules.extend(self.granted(user, namespace)),
                Step::Abac => rules.extend(self.settings.policies.rules(user, namespace)),
                Step::AlwaysAllow => rules.extend(rbac::Rule::everything()),
                Step::AlwaysDeny => {}
                Step::Webhook(_) => lacking = Some("webhook authorizer does not support user rule resolution"),
                Step::Node if node::node_of(user).is_some() => {
                    lacking = Some("node authorizer does not support user rule resolution");
                }
                Step::Node => {}
            }
        }
        (rules, lacking)
    }
}

impl Step {
    /// Its type, where it is one of the server's own.
    fn mode(&self) -> Option<&'static str> {
        match self {
            Self::Node => Some("Node"),
            Self::Rbac => Some("RBAC"),
            Self::Abac => Some("ABAC"),
            Self::AlwaysAllow => Some("AlwaysAllow"),
            Self::AlwaysDeny => Some("AlwaysDeny"),
            Self::Webhook(_) => None,
        }
    }
}

impl Entry {
    fn mode(&self) -> Option<&str> {
        match self {
            Self::Own(mode) => Some(mode),
            Self::Webhook(_) => None,
        }
    }
}

/// Why the user may; 403 in upstream's words where they may not.
pub async fn require(authorizer: &Authorizer, user: &UserInfo, action: &Action) -> Result<String> {
    let decision = authorizer.decide(user, action).await;
    if decision.allowed {
        return Ok(decision.reason);
    }
    if !decision.error.is_empty() && !decision.denied && decision.reason.is_empty() {
        tracing::warn!(user = user.name, error = decision.error, "an authorizer could not decide");
    }
    Err(forbidden(user, action, &decision.reason).into())
}

/// The refusal of an action.
pub fn forbidden(user: &UserInfo, action: &Action, reason: &str) -> Status {
    let name = &user.name;
    let mut why = if action.is_path() {
        format!("User {name:?} cannot {} path {:?}", action.verb, action.path)
    } else {
        let scope = if action.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", action.namespace)
        };
        format!(
            "User {name:?} cannot {} resource {:?} in API group {:?} {scope}",
            action.verb,
            action.full_resource(),
            action.group
        )
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let resource = skiff_object::GroupResource::new(&action.group, &action.resource);
    if action.is_path() {
        return Status::failure(403, Reason::Forbidden, format!("forbidden: {why}"));
    }
    Status::forbidden(&resource, &action.name, why)
}
