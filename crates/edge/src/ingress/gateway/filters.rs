//! From the API's filters to what is done to requests and answers.

use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

use super::super::filters::{Filters, HeaderEdit, PathEdit, Redirection, Rewrite};
use super::super::headers::OF_CONNECTION;
use super::api::{Filter, Header, HeaderModifier, PathModifier, RequestMirror, RequestRedirect};

/// What the filters do, but for copies, and who gets copies; or why that cannot be.
pub fn read(filters: &[Filter]) -> Result<(Filters, Vec<&RequestMirror>), String> {
    let (mut read, mut mirrors) = (Filters::default(), Vec::new());
    for filter in filters {
        let missing = || format!("a filter of type {} without its field", filter.kind);
        match filter.kind.as_str() {
            "RequestHeaderModifier" => {
                read.request = edit(filter.request_header_modifier.as_ref().ok_or_else(missing)?)?;
            }
            "ResponseHeaderModifier" => {
                read.response = edit(filter.response_header_modifier.as_ref().ok_or_else(missing)?)?;
            }
            "RequestMirror" => mirrors.push(filter.request_mirror.as_ref().ok_or_else(missing)?),
            "RequestRedirect" => {
                read.redirect = Some(redirection(filter.request_redirect.as_ref().ok_or_else(missing)?)?);
            }
            "URLRewrite" => {
                let rewrite = filter.url_rewrite.as_ref().ok_or_else(missing)?;
                let path = rewrite.path.as_ref().map(path_edit).transpose()?;
                read.rewrite = Some(Rewrite { hostname: rewrite.hostname.clone(), path });
            }
            other => return Err(format!("a filter of type {other}")),
        }
    }
    Ok((read, mirrors))
}

/// What the filters of one backend do: only headers can be changed for it alone.
pub fn read_for_backend(filters: &[Filter]) -> Result<Filters, String> {
    let is_other =
        |filter: &&Filter| !matches!(filter.kind.as_str(), "RequestHeaderModifier" | "ResponseHeaderModifier");
    match filters.iter().find(is_other) {
        Some(filter) => Err(format!("a filter of type {} for one backend", filter.kind)),
        None => read(filters).map(|(filters, _)| filters),
    }
}

fn edit(wanted: &HeaderModifier) -> Result<HeaderEdit, String> {
    let name = |text: &str| {
        let name = text.parse::<HeaderName>().ok().filter(|name| !OF_CONNECTION.contains(name));
        name.ok_or_else(|| format!("a change of header {text:?}"))
    };
    let headers = |list: &[Header]| {
        let read = |header: &Header| {
            let value =
                HeaderValue::from_str(&header.value).map_err(|_| format!("a value of header {}", header.name))?;
            Ok((name(&header.name)?, value))
        };
        list.iter().map(read).collect::<Result<Vec<_>, String>>()
    };
    let remove = wanted.remove.iter().map(|text| name(text)).collect::<Result<_, _>>()?;
    Ok(HeaderEdit { set: headers(&wanted.set)?, add: headers(&wanted.add)?, remove })
}

fn path_edit(wanted: &PathModifier) -> Result<PathEdit, String> {
    let full = || wanted.replace_full_path.clone().map(PathEdit::Full);
    let prefix = || wanted.replace_prefix_match.clone().map(PathEdit::Prefix);
    let read = match wanted.kind.as_str() {
        "ReplaceFullPath" => full(),
        "ReplacePrefixMatch" => prefix(),
        _ => None,
    };
    read.ok_or_else(|| format!("a path modifier of type {:?}", wanted.kind))
}

fn redirection(wanted: &RequestRedirect) -> Result<Redirection, String> {
    let code = wanted.status_code.unwrap_or(StatusCode::FOUND.as_u16());
    let status = StatusCode::from_u16(code).ok().filter(StatusCode::is_redirection);
    let scheme = wanted.scheme.as_deref().map(str::to_ascii_lowercase);
    if let Some(scheme) = scheme.as_deref().filter(|scheme| !matches!(*scheme, "http" | "https")) {
        return Err(format!("a redirect to scheme {scheme:?}"));
    }
    Ok(Redirection {
        scheme,
        hostname: wanted.hostname.clone(),
        path: wanted.path.as_ref().map(path_edit).transpose()?,
        port: wanted.port,
        status: status.ok_or_else(|| format!("a redirect by status {code}"))?,
    })
}
