//! Kubernetes' libraries of quantities, semantic versions, named formats, and questions to the authorizer.

use std::cmp::Ordering;
use std::sync::Arc;

use skiff_base::quantity::{Format as QuantityFormat, Quantity};
use skiff_object::names;

use crate::error::EvalError;
use crate::eval::{Machine, no_overload};
use crate::library::{Decision, Library, Opaque, Question, Semver, Stage};
use crate::value::{Result, Value};

pub(crate) static LIBRARY: Library = Library {
    signatures: "
        quantity string_to_quantity (string) Quantity
        isQuantity is_quantity_string (string) bool
        sign quantity_sign Quantity.() int
        isInteger quantity_is_integer Quantity.() bool
        asInteger quantity_as_integer Quantity.() int
        asApproximateFloat quantity_as_approximate_float Quantity.() double
        add quantity_add Quantity.(Quantity) Quantity
        add quantity_add_int Quantity.(int) Quantity
        sub quantity_sub Quantity.(Quantity) Quantity
        sub quantity_sub_int Quantity.(int) Quantity
        isLessThan quantity_is_less_than Quantity.(Quantity) bool
        isLessThan semver_is_less_than Semver.(Semver) bool
        isGreaterThan quantity_is_greater_than Quantity.(Quantity) bool
        isGreaterThan semver_is_greater_than Semver.(Semver) bool
        compareTo quantity_compare_to Quantity.(Quantity) int
        compareTo semver_compare_to Semver.(Semver) int
        semver string_to_semver (string) Semver
        semver string_bool_to_semver (string, bool) Semver
        isSemver is_semver_string (string) bool
        isSemver is_semver_string_bool (string, bool) bool
        major semver_major Semver.() int
        minor semver_minor Semver.() int
        patch semver_patch Semver.() int
        format.named format-named (string) optional(Format)
        validate format-validate Format.(string) optional(list(string))
        format.dns1123Label format-dns1123Label () Format
        format.dns1123Subdomain format-dns1123Subdomain () Format
        format.dns1035Label format-dns1035Label () Format
        format.qualifiedName format-qualifiedName () Format
        format.dns1123LabelPrefix format-dns1123LabelPrefix () Format
        format.dns1123SubdomainPrefix format-dns1123SubdomainPrefix () Format
        format.dns1035LabelPrefix format-dns1035LabelPrefix () Format
        format.labelValue format-labelValue () Format
        format.uri format-uri () Format
        format.uuid format-uuid () Format
        format.byte format-byte () Format
        format.date format-date () Format
        format.datetime format-datetime () Format
        path authorizer_path Authorizer.(string) PathCheck
        group authorizer_group Authorizer.(string) GroupCheck
        serviceAccount authorizer_serviceaccount Authorizer.(string, string) Authorizer
        resource groupcheck_resource GroupCheck.(string) ResourceCheck
        subresource resourcecheck_subresource ResourceCheck.(string) ResourceCheck
        namespace resourcecheck_namespace ResourceCheck.(string) ResourceCheck
        name resourcecheck_name ResourceCheck.(string) ResourceCheck
        fieldSelector authorizer_fieldselector ResourceCheck.(string) ResourceCheck
        labelSelector authorizer_labelselector ResourceCheck.(string) ResourceCheck
        check pathcheck_check PathCheck.(string) Decision
        check resourcecheck_check ResourceCheck.(string) Decision
        allowed decision_allowed Decision.() bool
        reason decision_reason Decision.() string
        errored decision_errored Decision.() bool
        error decision_error Decision.() string
    ",
    runs: &[
        ("quantity", |_, args| Ok(Value::Opaque(Opaque::Quantity(parse_quantity(&args[0])?)))),
        ("isQuantity", |_, args| match &args[0] {
            Value::String(_) => Ok(Value::Bool(parse_quantity(&args[0]).is_ok())),
            _ => Err(no_overload()),
        }),
        ("sign", |_, args| Ok(Value::Int(quantity(&args[0])?.nanos().signum() as i64))),
        ("isInteger", |_, args| Ok(Value::Bool(whole(quantity(&args[0])?).is_some()))),
        ("asInteger", |_, args| {
            let found = whole(quantity(&args[0])?);
            found.map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
        }),
        ("asApproximateFloat", |_, args| Ok(Value::Double(quantity(&args[0])?.nanos() as f64 / 1e9))),
        ("add", |_, args| combine(args, Quantity::plus)),
        ("sub", |_, args| combine(args, Quantity::minus)),
        ("isLessThan", |_, args| Ok(Value::Bool(compare(args)?.is_lt()))),
        ("isGreaterThan", |_, args| Ok(Value::Bool(compare(args)?.is_gt()))),
        ("compareTo", |_, args| Ok(Value::Int(compare(args)? as i64))),
        ("semver", |_, args| Ok(Value::Opaque(Opaque::Semver(Arc::new(semver_of(args)?))))),
        ("isSemver", |_, args| Ok(Value::Bool(semver_of(args).is_ok()))),
        ("major", |_, args| number(args, 0)),
        ("minor", |_, args| number(args, 1)),
        ("patch", |_, args| number(args, 2)),
        ("format.named", named),
        ("validate", validate),
        ("format.dns1123Label", |_, _| Ok(format_value("dns1123Label"))),
        ("format.dns1123Subdomain", |_, _| Ok(format_value("dns1123Subdomain"))),
        ("format.dns1035Label", |_, _| Ok(format_value("dns1035Label"))),
        ("format.qualifiedName", |_, _| Ok(format_value("qualifiedName"))),
        ("format.dns1123LabelPrefix", |_, _| Ok(format_value("dns1123LabelPrefix"))),
        ("format.dns1123SubdomainPrefix", |_, _| Ok(format_value("dns1123SubdomainPrefix"))),
        ("format.dns1035LabelPrefix", |_, _| Ok(format_value("dns1035LabelPrefix"))),
        ("format.labelValue", |_, _| Ok(format_value("labelValue"))),
        ("format.uri", |_, _| Ok(format_value("uri"))),
        ("format.uuid", |_, _| Ok(format_value("uuid"))),
        ("format.byte", |_, _| Ok(format_value("byte"))),
        ("format.date", |_, _| Ok(format_value("date"))),
        ("format.datetime", |_, _| Ok(format_value("datetime"))),
        ("path", |_, args| {
            asked(args, Stage::Who, |question, text| {
                question.path = Some(text.to_owned());
                question.stage = Stage::Path;
            })
        }),
        ("group", |_, args| {
            asked(args, Stage::Who, |question, text| {
                question.group = text.to_owned();
                question.stage = Stage::Group;
            })
        }),
        ("serviceAccount", service_account),
        ("resource", |_, args| {
            asked(args, Stage::Group, |question, text| {
                question.resource = text.to_owned();
                question.stage = Stage::Resource;
            })
        }),
        ("subresource", |_, args| asked(args, Stage::Resource, |q, text| q.subresource = text.to_owned())),
        ("namespace", |_, args| asked(args, Stage::Resource, |q, text| q.namespace = text.to_owned())),
        ("name", |_, args| asked(args, Stage::Resource, |q, text| q.name = text.to_owned())),
        ("fieldSelector", |_, args| asked(args, Stage::Resource, |q, text| q.field_selector = Some(text.to_owned()))),
        ("labelSelector", |_, args| asked(args, Stage::Resource, |q, text| q.label_selector = Some(text.to_owned()))),
        ("check", check),
        ("allowed", |_, args| Ok(Value::Bool(decision(&args[0])?.allowed))),
        ("reason", |_, args| Ok(Value::text(decision(&args[0])?.reason.as_str()))),
        ("errored", |_, args| Ok(Value::Bool(decision(&args[0])?.error.is_some()))),
        ("error", |_, args| Ok(Value::text(decision(&args[0])?.error.as_deref().unwrap_or("")))),
    ],
};

fn parse_quantity(value: &Value) -> Result<Quantity> {
    let Value::String(text) = value else { return Err(no_overload()) };
    text.parse().map_err(|error| EvalError::new(format!("{error}")))
}

fn quantity(value: &Value) -> Result<Quantity> {
    match value {
        Value::Opaque(Opaque::Quantity(quantity)) => Ok(*quantity),
        _ => Err(no_overload()),
    }
}

fn whole(quantity: Quantity) -> Option<i64> {
    const NANOS: i128 = 1_000_000_000;
    let nanos = quantity.nanos();
    i64::try_from(nanos / NANOS).ok().filter(|_| nanos % NANOS == 0)
}

fn combine<'a>(args: &[Value<'a>], how: fn(Quantity, Quantity) -> Quantity) -> Result<Value<'a>> {
    let other = match &args[1] {
        Value::Int(units) => Quantity::from_units(*units, QuantityFormat::DecimalSi),
        other => quantity(other)?,
    };
    Ok(Value::Opaque(Opaque::Quantity(how(quantity(&args[0])?, other))))
}

fn compare(args: &[Value]) -> Result<Ordering> {
    match (&args[0], &args[1]) {
        (Value::Opaque(Opaque::Quantity(a)), Value::Opaque(Opaque::Quantity(b))) => Ok(a.cmp(b)),
        (Value::Opaque(Opaque::Semver(a)), Value::Opaque(Opaque::Semver(b))) => Ok(compare_semver(a, b)),
        _ => Err(no_overload()),
    }
}

fn number<'a>(args: &[Value<'a>], index: usize) -> Result<Value<'a>> {
    match &args[0] {
        Value::Opaque(Opaque::Semver(version)) => {
            i64::try_from(version.numbers[index]).map(Value::Int).map_err(|_| EvalError::new("integer overflow"))
        }
        _ => Err(no_overload()),
    }
}

fn semver_of(args: &[Value]) -> Result<Semver> {
    match args {
        [Value::String(text)] => parse_semver(text),
        [Value::String(text), Value::Bool(false)] => parse_semver(text),
        [Value::String(text), Value::Bool(true)] => parse_semver(&normalized(text)),
        _ => Err(no_overload()),
    }
}

/// A version with its `v` taken away, missing numbers added and leading zeros dropped.
fn normalized(text: &str) -> String {
    let text = text.strip_prefix('v').unwrap_or(text);
    let end = text.find(['-', '+']).unwrap_or(text.len());
    let (numbers, rest) = text.split_at(end);
    let mut parts: Vec<&str> = numbers
        .split('.')
        .map(|part| {
            let plain = part.trim_start_matches('0');
            if plain.is_empty() && !part.is_empty() { "0" } else { plain }
        })
        .collect();
    while parts.len() < 3 {
        parts.push("0");
    }
    format!("{}{rest}", parts.join("."))
}

fn parse_semver(text: &str) -> Result<Semver> {
    let bad = |why: String| EvalError::new(format!("{why} in version {text:?}"));
    let (rest, build) = text.split_once('+').unwrap_or((text, ""));
    let (numbers, pre) = rest.split_once('-').map_or((rest, None), |(numbers, pre)| (numbers, Some(pre)));
    let parts: Vec<&str> = numbers.split('.').collect();
    let mut version = Semver { numbers: [0; 3], pre: Vec::new(), build: build.to_owned() };
    if parts.len() != 3 {
        return Err(EvalError::new("No Major.Minor.Patch elements found"));
    }
    for (slot, part) in version.numbers.iter_mut().zip(&parts) {
        if part.is_empty() || !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad(format!("Invalid character(s) found in number {part:?}")));
        }
        if part.len() > 1 && part.starts_with('0') {
            return Err(bad(format!("number must not contain leading zeroes {part:?}")));
        }
        *slot = part.parse().map_err(|_| bad(format!("number out of range {part:?}")))?;
    }
    let identifier =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if let Some(pre) = pre {
        version.pre = pre.split('.').map(str::to_owned).collect();
        let zeros = |part: &String| part.len() > 1 && part.starts_with('0') && part.bytes().all(|b| b.is_ascii_digit());
        if !version.pre.iter().all(|part| identifier(part)) || version.pre.iter().any(zeros) {
            return Err(bad("Invalid character(s) found in prerelease".into()));
        }
    }
    if text.contains('+') && !build.split('.').all(identifier) {
        return Err(bad("Invalid character(s) found in build meta data".into()));
    }
    Ok(version)
}

/// The order of versions: a pre-release is before its release.
pub fn compare_semver(a: &Semver, b: &Semver) -> Ordering {
    let by_numbers = a.numbers.cmp(&b.numbers);
    if by_numbers.is_ne() {
        return by_numbers;
    }
    match (a.pre.is_empty(), b.pre.is_empty()) {
        (true, true) => return Ordering::Equal,
        (true, false) => return Ordering::Greater,
        (false, true) => return Ordering::Less,
        (false, false) => {}
    }
    for (x, y) in a.pre.iter().zip(&b.pre) {
        let order = match (x.parse::<u64>(), y.parse::<u64>()) {
            (Ok(x), Ok(y)) => x.cmp(&y),
            (Ok(_), Err(_)) => Ordering::Less,
            (Err(_), Ok(_)) => Ordering::Greater,
            (Err(_), Err(_)) => x.cmp(y),
        };
        if order.is_ne() {
            return order;
        }
    }
    a.pre.len().cmp(&b.pre.len())
}

/// A format with a name.
pub struct NamedFormat {
    /// The name.
    pub name: &'static str,
    /// What is wrong with a text; empty where it is of the format.
    pub check: fn(&str) -> Vec<String>,
}

static FORMATS: [NamedFormat; 13] = [
    NamedFormat { name: "dns1123Label", check: names::check_dns_label },
    NamedFormat { name: "dns1123Subdomain", check: names::check_dns_subdomain },
    NamedFormat { name: "dns1035Label", check: names::check_dns_1035_label },
    NamedFormat { name: "qualifiedName", check: names::check_label_key },
    NamedFormat { name: "dns1123LabelPrefix", check: |text| names::check_dns_label(&prefix(text)) },
    NamedFormat { name: "dns1123SubdomainPrefix", check: |text| names::check_dns_subdomain(&prefix(text)) },
    NamedFormat { name: "dns1035LabelPrefix", check: |text| names::check_dns_1035_label(&prefix(text)) },
    NamedFormat { name: "labelValue", check: names::check_label_value },
    NamedFormat { name: "uri", check: |text| verdict(super::net::parse_url(text).is_ok(), "invalid URI") },
    NamedFormat { name: "uuid", check: |text| verdict(is_uuid(text), "does not match the UUID format") },
    NamedFormat { name: "byte", check: |text| verdict(is_base64(text), "invalid base64") },
    NamedFormat { name: "date", check: |text| verdict(is_date(text), "invalid date") },
    NamedFormat {
        name: "datetime",
        check: |text| verdict(crate::time::parse_timestamp(text).is_ok(), "invalid datetime"),
    },
];

fn verdict(good: bool, words: &str) -> Vec<String> {
    if good { Vec::new() } else { vec![words.to_owned()] }
}

/// A prefix of a name may end with the dash that the rest of the name follows.
fn prefix(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(start) => format!("{start}a"),
        None => text.to_owned(),
    }
}

/// Whether a text is a UUID, dashes or not.
pub fn is_uuid(text: &str) -> bool {
    let groups = [8, 4, 4, 4, 12];
    let hex = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let parts: Vec<&str> = text.split('-').collect();
    match parts.as_slice() {
        [whole] => whole.len() == 32 && hex(whole),
        parts => parts.len() == 5 && parts.iter().zip(groups).all(|(part, length)| part.len() == length && hex(part)),
    }
}

fn is_base64(text: &str) -> bool {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}

fn is_date(text: &str) -> bool {
    text.len() == 10 && crate::time::parse_timestamp(&format!("{text}T00:00:00Z")).is_ok()
}

fn format_named(name: &str) -> Option<&'static NamedFormat> {
    FORMATS.iter().find(|format| format.name == name)
}

fn format_value<'a>(name: &str) -> Value<'a> {
    format_named(name).map_or(Value::Null, |format| Value::Opaque(Opaque::Format(format)))
}

fn named<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::String(name)] => {
            let found = format_named(name).map(|format| std::rc::Rc::new(Value::Opaque(Opaque::Format(format))));
            Ok(Value::Optional(found))
        }
        _ => Err(no_overload()),
    }
}

fn validate<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::Opaque(Opaque::Format(format)), Value::String(text)] => {
            machine.work(text.len() as u64)?;
            let wrong = (format.check)(text);
            if wrong.is_empty() {
                return Ok(Value::Optional(None));
            }
            Ok(Value::some(Value::list(wrong.into_iter().map(Value::text).collect())))
        }
        _ => Err(no_overload()),
    }
}

fn asked<'a>(args: &[Value<'a>], stage: Stage, change: impl Fn(&mut Question, &str)) -> Result<Value<'a>> {
    match args {
        [Value::Opaque(Opaque::Question(question)), Value::String(text)] if question.stage == stage => {
            let mut question = (**question).clone();
            change(&mut question, text);
            Ok(Value::Opaque(Opaque::Question(Arc::new(question))))
        }
        _ => Err(no_overload()),
    }
}

fn service_account<'a>(_: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::Opaque(Opaque::Question(question)), Value::String(namespace), Value::String(name)]
            if question.stage == Stage::Who =>
        {
            if !names::check_dns_label(namespace).is_empty() {
                return Err(EvalError::new("Invalid service account namespace"));
            }
            if !names::check_dns_subdomain(name).is_empty() {
                return Err(EvalError::new("Invalid service account name"));
            }
            let mut question = (**question).clone();
            question.service_account = Some((namespace.to_string(), name.to_string()));
            Ok(Value::Opaque(Opaque::Question(Arc::new(question))))
        }
        _ => Err(no_overload()),
    }
}

fn check<'a>(machine: &mut Machine<'a>, args: &[Value<'a>]) -> Result<Value<'a>> {
    match args {
        [Value::Opaque(Opaque::Question(question)), Value::String(verb)]
            if matches!(question.stage, Stage::Path | Stage::Resource) =>
        {
            let question = Question { verb: verb.to_string(), ..(**question).clone() };
            let host = machine.host.ok_or_else(|| EvalError::new("no authorizer is here to be asked"))?;
            Ok(Value::Opaque(Opaque::Decision(Arc::new(host.authorize(&question)))))
        }
        _ => Err(no_overload()),
    }
}

fn decision<'v>(value: &'v Value<'_>) -> Result<&'v Decision> {
    match value {
        Value::Opaque(Opaque::Decision(decision)) => Ok(decision),
        _ => Err(no_overload()),
    }
}
