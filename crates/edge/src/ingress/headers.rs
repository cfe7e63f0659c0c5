//! What becomes of the heads of requests and answers on their way through the proxy.

use std::net::IpAddr;

use http::header::{
    CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, StatusCode, Uri, Version, request, response};

use super::annotations::Protocol;

/// Those that are about one connection only.
pub const OF_CONNECTION: [HeaderName; 4] =
    [CONNECTION, TRANSFER_ENCODING, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];

/// Who asks, and how.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    /// From where.
    pub address: IpAddr,
    /// Whether by TLS.
    pub is_tls: bool,
    /// At which port of ours.
    pub port: u16,
}

/// The host that is asked for, with its port if it was said.
pub fn host_of(parts: &request::Parts) -> String {
    let by_header = || parts.headers.get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    parts.uri.authority().map(|authority| authority.as_str().to_owned()).or_else(by_header).unwrap_or_default()
}

/// What the connection is to become, if the client wants it to become something else.
pub fn wanted_upgrade(parts: &request::Parts) -> Option<HeaderValue> {
    let is_meant = parts.version == Version::HTTP_11 && tokens(&parts.headers, &CONNECTION).any(|it| it == "upgrade");
    parts.headers.get(UPGRADE).filter(|_| is_meant).cloned()
}

/// Whether the request may be sent a second time when it is not known what became of the first.
pub fn is_repeatable(method: &Method) -> bool {
    // Those that RFC 9110 calls idempotent.
    method.is_idempotent()
}

/// Makes the client's request one of ours. What the client says about where it comes from is not believed.
/// The backend is asked for the host `hostname`, if that is another.
pub fn prepare_request(parts: &mut request::Parts, caller: Caller, protocol: Protocol, hostname: Option<&str>) {
    let asked = host_of(parts);
    let upgrade = wanted_upgrade(parts).filter(|_| protocol == Protocol::Http1);
    let takes_trailers = tokens(&parts.headers, &TE).any(|it| it == "trailers");
    strip_connection(&mut parts.headers);
    for name in [UPGRADE, TE, EXPECT] {
        parts.headers.remove(name);
    }
    if takes_trailers {
        parts.headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(upgrade) = upgrade {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, upgrade);
    }
    forward(&mut parts.headers, caller, &asked);
    let host = hostname.unwrap_or(&asked);
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    match protocol {
        Protocol::Http1 => {
            join_cookies(&mut parts.headers);
            if let Ok(host) = HeaderValue::from_str(host) {
                parts.headers.insert(HOST, host);
            }
            parts.uri = Uri::from(path);
            parts.version = Version::HTTP_11;
        }
        Protocol::Http2 => {
            parts.headers.remove(HOST);
            let mut uri = http::uri::Parts::default();
            // HTTP/2 needs an authority; who asked for none is told apart by nobody.
            let nowhere = || Authority::from_static("localhost");
            (uri.scheme, uri.path_and_query) = (Some(Scheme::HTTP), Some(path));
            uri.authority = Some(Authority::try_from(host).unwrap_or_else(|_| nowhere()));
            parts.uri = Uri::from_parts(uri).unwrap_or_default();
            parts.version = Version::HTTP_2;
        }
    }
}

/// Makes the backend's answer one of ours.
pub fn prepare_response(parts: &mut response::Parts) {
    let upgrade = parts.headers.get(UPGRADE).filter(|_| parts.status == StatusCode::SWITCHING_PROTOCOLS).cloned();
    strip_connection(&mut parts.headers);
    parts.headers.remove(UPGRADE);
    if let Some(upgrade) = upgrade {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, upgrade);
    }
    // The connection to the client decides, not the one to the backend.
    parts.version = Version::HTTP_11;
}

fn forward(headers: &mut HeaderMap, caller: Caller, host: &str) {
    let scheme = if caller.is_tls { "https" } else { "http" };
    let texts = [
        ("x-forwarded-for", caller.address.to_string()),
        ("x-real-ip", caller.address.to_string()),
        ("x-forwarded-proto", scheme.to_owned()),
        ("x-forwarded-scheme", scheme.to_owned()),
        ("x-forwarded-host", host.to_owned()),
        ("x-forwarded-port", caller.port.to_string()),
    ];
    headers.remove("forwarded");
    for (name, text) in texts {
        headers.remove(name);
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// Removes what is about the connection, and what the connection's own header names.
fn strip_connection(headers: &mut HeaderMap) {
    let named: Vec<String> = tokens(headers, &CONNECTION).collect();
    for name in named {
        headers.remove(name);
    }
    for name in OF_CONNECTION {
        headers.remove(name);
    }
}

/// HTTP/2 may bring cookies in several headers, which HTTP/1.1 does not know.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// The words of a header that is a list, in small letters.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = String> + 'a {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(|word| word.trim().to_ascii_lowercase()).filter(|word| !word.is_empty())
}
