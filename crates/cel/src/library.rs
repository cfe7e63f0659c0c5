//! The functions there are: their signatures, read once from tables of text, and what runs them; and the values that
//! only libraries know.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use skiff_base::quantity::Quantity;

use crate::eval::{Machine, no_overload};
use crate::functions::{basic, kube, lists, net, patch, text, when};
use crate::types::Type;
use crate::value::{Result, Value};

/// What runs a function.
pub type Run = for<'a> fn(&mut Machine<'a>, &[Value<'a>]) -> Result<Value<'a>>;

/// A function.
pub struct Function {
    /// Its name.
    pub name: &'static str,
    /// What it takes and gives.
    pub overloads: Vec<Overload>,
    /// What runs it.
    pub run: Run,
}

/// One form of a function.
pub struct Overload {
    /// Its name, for costs.
    pub id: &'static str,
    /// Whether the first parameter stands before the dot.
    pub member: bool,
    /// The parameters' types.
    pub params: Vec<Type>,
    /// The result's type.
    pub result: Type,
}

/// A library: lines of `function overload [type.](types) result`, and what runs each function.
pub(crate) struct Library {
    pub(crate) signatures: &'static str,
    pub(crate) runs: &'static [(&'static str, Run)],
}

/// The types of libraries.
pub(crate) const OPAQUE_TYPES: [&str; 9] = [
    "net.IP",
    "net.CIDR",
    "kubernetes.URL",
    "kubernetes.Quantity",
    "kubernetes.Semver",
    "kubernetes.NamedFormat",
    "kubernetes.authorization.Authorizer",
    "kubernetes.authorization.Check",
    "kubernetes.authorization.Decision",
];

static FUNCTIONS: LazyLock<HashMap<&'static str, Function>> = LazyLock::new(|| {
    let libraries = [
        &basic::LIBRARY,
        &text::LIBRARY,
        &when::LIBRARY,
        &lists::LIBRARY,
        &net::LIBRARY,
        &kube::LIBRARY,
        &patch::LIBRARY,
    ];
    let mut functions: HashMap<&'static str, Function> = HashMap::new();
    for library in libraries {
        for line in library.signatures.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, overload) = signature(line);
            let own = functions.entry(name);
            own.or_insert_with(|| Function { name, overloads: Vec::new(), run: missing }).overloads.push(overload);
        }
        for (name, run) in library.runs {
            if let Some(function) = functions.get_mut(name) {
                function.run = *run;
            }
        }
    }
    functions
});

fn missing<'a>(_: &mut Machine<'a>, _: &[Value<'a>]) -> Result<Value<'a>> {
    Err(no_overload())
}

/// The function of that name.
pub fn function(name: &str) -> Option<&'static Function> {
    FUNCTIONS.get(name)
}

fn signature(line: &'static str) -> (&'static str, Overload) {
    let mut words = line.splitn(3, ' ');
    let name = words.next().unwrap_or("");
    let id = words.next().unwrap_or("");
    let rest = words.next().unwrap_or("").trim();
    let open = top_level_open(rest);
    let (before, after) = rest.split_at(open);
    let close = matching_close(after);
    let mut params: Vec<Type> = Vec::new();
    let receiver = before.strip_suffix('.');
    params.extend(receiver.map(type_of));
    params.extend(split_types(&after[1..close]).into_iter().map(type_of));
    (name, Overload { id, member: receiver.is_some(), params, result: type_of(after[close + 1..].trim()) })
}

/// Where the parameters open: after the receiver's dot, or at the start.
fn top_level_open(rest: &str) -> usize {
    let mut depth = 0;
    for (index, letter) in rest.char_indices() {
        match letter {
            '(' if depth == 0 && (index == 0 || rest[..index].ends_with('.')) => return index,
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
    }
    0
}

fn matching_close(text: &str) -> usize {
    let mut depth = 0;
    for (index, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => {
                depth -= 1;
                if depth == 0 {
                    return index;
                }
            }
            _ => {}
        }
    }
    text.len()
}

fn split_types(text: &'static str) -> Vec<&'static str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (index, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..index].trim());
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn type_of(text: &'static str) -> Type {
    if let Some(inner) = text.strip_suffix(')')
        && let Some((name, inner)) = inner.split_once('(')
    {
        let parts: Vec<Type> = split_types(inner).into_iter().map(type_of).collect();
        return match (name, parts.as_slice()) {
            ("list", [item]) => Type::list(item.clone()),
            ("map", [key, value]) => Type::map(key.clone(), value.clone()),
            ("optional", [of]) => Type::optional(of.clone()),
            ("type", [of]) => Type::Type(Arc::new(of.clone())),
            _ => Type::Dyn,
        };
    }
    match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "IP" => Type::Opaque("net.IP"),
        "CIDR" => Type::Opaque("net.CIDR"),
        "URL" => Type::Opaque("kubernetes.URL"),
        "Quantity" => Type::Opaque("kubernetes.Quantity"),
        "Semver" => Type::Opaque("kubernetes.Semver"),
        "Format" => Type::Opaque("kubernetes.NamedFormat"),
        "Authorizer" => Type::Opaque("kubernetes.authorization.Authorizer"),
        "PathCheck" => Type::Opaque("kubernetes.authorization.PathCheck"),
        "GroupCheck" => Type::Opaque("kubernetes.authorization.GroupCheck"),
        "ResourceCheck" => Type::Opaque("kubernetes.authorization.ResourceCheck"),
        "Decision" => Type::Opaque("kubernetes.authorization.Decision"),
        name => Type::Param(name),
    }
}

/// What an expression may ask the world: whether someone may do something.
pub trait Host {
    /// Decides a question.
    fn authorize(&self, question: &Question) -> Decision;
}

/// A question to the authorizer, as far as it is put together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Question {
    /// A service account in place of the user who makes the request: namespace and name.
    pub service_account: Option<(String, String)>,
    /// A path, for what is no resource.
    pub path: Option<String>,
    /// The API group.
    pub group: String,
    /// The resource; empty until it is chosen.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object's name.
    pub name: String,
    /// A field selector.
    pub field_selector: Option<String>,
    /// A label selector.
    pub label_selector: Option<String>,
    /// The verb; empty until the question is asked.
    pub verb: String,
    /// How far it is put together.
    pub stage: Stage,
}

/// How far a question is put together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// Nothing is said but who.
    #[default]
    Who,
    /// A path is given.
    Path,
    /// A group is given.
    Group,
    /// A resource is given.
    Resource,
}

/// The authorizer's answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why.
    pub reason: String,
    /// What went wrong.
    pub error: Option<String>,
}

/// The parts of a URL.
#[derive(Debug, PartialEq, Eq)]
pub struct Url {
    /// The whole.
    pub text: String,
    /// `https`
    pub scheme: String,
    /// With the port, and brackets around IPv6.
    pub host: String,
    /// Without them.
    pub hostname: String,
    /// The digits of the port.
    pub port: String,
    /// The path, escaped.
    pub path: String,
    /// The query, without its question mark.
    pub query: String,
}

/// A semantic version.
#[derive(Debug, PartialEq, Eq)]
pub struct Semver {
    /// Major, minor, patch.
    pub numbers: [u64; 3],
    /// What stands behind `-`, between dots.
    pub pre: Vec<String>,
    /// What stands behind `+`.
    pub build: String,
}

/// A value that only a library knows.
#[derive(Clone)]
pub enum Opaque {
    /// An error that a loop holds until a later item decides.
    Error(Arc<str>),
    /// An address.
    Ip(IpAddr),
    /// A range of addresses.
    Cidr(IpAddr, u8),
    /// A URL.
    Url(Arc<Url>),
    /// A quantity.
    Quantity(Quantity),
    /// A semantic version.
    Semver(Arc<Semver>),
    /// A named format.
    Format(&'static kube::NamedFormat),
    /// A question to the authorizer.
    Question(Arc<Question>),
    /// Its answer.
    Decision(Arc<Decision>),
}

impl Opaque {
    /// The type's name.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Error(_) => "error",
            Self::Ip(_) => "net.IP",
            Self::Cidr(..) => "net.CIDR",
            Self::Url(_) => "kubernetes.URL",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Question(question) => match question.stage {
                Stage::Who => "kubernetes.authorization.Authorizer",
                Stage::Path => "kubernetes.authorization.PathCheck",
                Stage::Group => "kubernetes.authorization.GroupCheck",
                Stage::Resource => "kubernetes.authorization.ResourceCheck",
            },
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    /// How the value counts in costs.
    pub fn size(&self) -> u64 {
        match self {
            Self::Ip(IpAddr::V4(_)) => 4,
            Self::Ip(IpAddr::V6(_)) => 16,
            Self::Cidr(_, bits) => u64::from(bits.div_ceil(8)),
            _ => 1,
        }
    }

    /// Whether two values are equal.
    pub fn equals(&self, other: &Opaque) -> bool {
        match (self, other) {
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a, m), Self::Cidr(b, n)) => a == b && m == n,
            (Self::Url(a), Self::Url(b)) => a.text == b.text,
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Semver(a), Self::Semver(b)) => kube::compare_semver(a, b).is_eq(),
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            (Self::Question(a), Self::Question(b)) => a == b,
            (Self::Decision(a), Self::Decision(b)) => a == b,
            _ => false,
        }
    }
}
