//! From the API's matches to what requests are compared with.

use http::{HeaderName, Method};
use regex::{Regex, RegexBuilder};

use super::super::table::{Condition, PathMatch, Text};
use super::api::{GrpcMatch, HttpMatch, MethodMatch, ValueMatch};

/// How big a compiled expression may be: a few of them must not take the node's memory.
const EXPRESSION_LIMIT_BYTES: usize = 1 << 20;

/// What an HTTPRoute's match asks for, or why that cannot be.
pub fn of_http(wanted: &HttpMatch) -> Result<Condition, String> {
    let method = wanted.method.as_deref().map(|name| name.parse::<Method>().map_err(|_| format!("method {name:?}")));
    Ok(Condition {
        path: path(wanted.path.as_ref())?,
        method: method.transpose()?,
        headers: headers(&wanted.headers)?,
        query: first_by_name(&wanted.query_params, |name| name.to_owned())
            .map(|wanted| Ok((wanted.name.clone(), text(wanted)?)))
            .collect::<Result<_, String>>()?,
    })
}

/// What a GRPCRoute's match asks for: a call's path is its service and its method.
pub fn of_grpc(wanted: &GrpcMatch) -> Result<Condition, String> {
    let path = wanted.method.as_ref().map_or_else(|| Ok(PathMatch::prefix("/")), call)?;
    Ok(Condition { path, method: None, headers: headers(&wanted.headers)?, query: Vec::new() })
}

/// The prefix that a condition's path has, without a slash at its end.
pub fn prefix(condition: &Condition) -> &str {
    match &condition.path {
        PathMatch::Prefix(prefix) => prefix,
        _ => "",
    }
}

fn call(wanted: &MethodMatch) -> Result<PathMatch, String> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (service, method) = (given(&wanted.service), given(&wanted.method));
    match wanted.kind.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(match (service, method) {
            (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}")),
            (Some(service), None) => PathMatch::prefix(&format!("/{service}")),
            (None, Some(method)) => PathMatch::Last(method),
            (None, None) => PathMatch::prefix("/"),
        }),
        "RegularExpression" => {
            let any = || "[^/]+".to_owned();
            let (service, method) = (service.unwrap_or_else(any), method.unwrap_or_else(any));
            expression(&format!("/(?:{service})/(?:{method})")).map(PathMatch::Pattern)
        }
        other => Err(format!("method match of type {other:?}")),
    }
}

fn path(wanted: Option<&ValueMatch>) -> Result<PathMatch, String> {
    let Some(wanted) = wanted else { return Ok(PathMatch::prefix("/")) };
    let value = wanted.value.as_deref().unwrap_or("/");
    match wanted.kind.as_deref().unwrap_or("PathPrefix") {
        "Exact" => Ok(PathMatch::Exact(value.to_owned())),
        "PathPrefix" => Ok(PathMatch::prefix(value)),
        "RegularExpression" => expression(value).map(PathMatch::Pattern),
        other => Err(format!("path match of type {other:?}")),
    }
}

fn headers(wanted: &[ValueMatch]) -> Result<Vec<(HeaderName, Text)>, String> {
    let read = |wanted: &ValueMatch| {
        let name = wanted.name.parse::<HeaderName>().map_err(|_| format!("header name {:?}", wanted.name))?;
        Ok((name, text(wanted)?))
    };
    first_by_name(wanted, str::to_ascii_lowercase).map(read).collect()
}

/// Of several for one name only the first counts.
fn first_by_name(wanted: &[ValueMatch], key: impl Fn(&str) -> String) -> impl Iterator<Item = &ValueMatch> {
    let is_first = move |at: usize| wanted[..at].iter().all(|before| key(&before.name) != key(&wanted[at].name));
    wanted.iter().enumerate().filter(move |(at, _)| is_first(*at)).map(|(_, wanted)| wanted)
}

fn text(wanted: &ValueMatch) -> Result<Text, String> {
    let value = wanted.value.as_deref().unwrap_or_default();
    match wanted.kind.as_deref().unwrap_or("Exact") {
        "Exact" => Ok(Text::Exact(value.to_owned())),
        "RegularExpression" => expression(value).map(Text::Pattern),
        other => Err(format!("match of type {other:?}")),
    }
}

/// An expression that the whole of a value must fit.
fn expression(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(&format!("^(?:{text})$")).size_limit(EXPRESSION_LIMIT_BYTES).build();
    built.map_err(|_| format!("regular expression {text:?}"))
}
