//! What an Ingress asks for beyond the API, by annotations. Those of ingress-nginx are understood where they mean the
//! same here, so that objects can be taken along.

use std::collections::BTreeMap;
use std::time::Duration;

const PREFIXES: [&str; 2] = ["ingress.skiff.io/", "nginx.ingress.kubernetes.io/"];

const CONNECT_SECONDS: u64 = 5;
const READ_SECONDS: u64 = 60;

/// How a backend is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1, which WebSockets need.
    Http1,
    /// HTTP/2 without TLS, known beforehand, which gRPC needs.
    Http2,
}

/// When a client without TLS is sent to where there is some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirect {
    /// Never.
    Never,
    /// If the Ingress has a certificate for the host.
    IfTls,
    /// Always: something before this proxy has the certificate, or the default one will do.
    Always,
}

/// What holds for all routes of an Ingress, or for a rule of the Gateway API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Whether to redirect (`ssl-redirect`, `force-ssl-redirect`).
    pub redirect: Redirect,
    /// The protocol, if it is asked for (`backend-protocol`).
    pub protocol: Option<Protocol>,
    /// How long a backend may take to accept a connection (`proxy-connect-timeout`, in seconds).
    pub connect_timeout: Duration,
    /// How long it may take to begin its answer (`proxy-read-timeout`, in seconds).
    pub read_timeout: Duration,
    /// How long an answer may take altogether, if there is a limit.
    pub request_timeout: Option<Duration>,
    /// Whether requests are written to the log (`enable-access-log`).
    pub logs_access: bool,
}

impl Options {
    /// What the annotations say; the texts are what they say in vain.
    pub fn read(annotations: Option<&BTreeMap<String, String>>) -> (Self, Vec<String>) {
        let find = |name: &str| {
            let mut keys = PREFIXES.iter().map(|prefix| format!("{prefix}{name}"));
            keys.find_map(|key| Some((annotations?.get(&key)?.trim().to_owned(), key)))
        };
        let mut faults = Vec::new();
        let mut flag = |name: &str| match find(name) {
            None => false,
            Some((value, key)) => value.parse().unwrap_or_else(|_| {
                faults.push(format!("annotation {key} is neither true nor false: {value:?}"));
                false
            }),
        };
        let redirect = match (flag("force-ssl-redirect"), flag("ssl-redirect")) {
            (true, _) => Redirect::Always,
            (_, true) => Redirect::IfTls,
            _ => Redirect::Never,
        };
        let logs_access = flag("enable-access-log");
        let mut seconds = |name: &str, default: u64| match find(name) {
            None => default,
            Some((value, key)) => value.parse().ok().filter(|seconds| *seconds > 0).unwrap_or_else(|| {
                faults.push(format!("annotation {key} is no number of seconds: {value:?}"));
                default
            }),
        };
        let connect_timeout = Duration::from_secs(seconds("proxy-connect-timeout", CONNECT_SECONDS));
        let read_timeout = Duration::from_secs(seconds("proxy-read-timeout", READ_SECONDS));
        let protocol = find("backend-protocol").and_then(|(value, key)| match value.to_ascii_uppercase().as_str() {
            "HTTP" | "AUTO_HTTP" => Some(Protocol::Http1),
            "GRPC" | "H2C" => Some(Protocol::Http2),
            _ => {
                faults.push(format!("annotation {key}: {value:?} is not supported, only HTTP, H2C and GRPC are"));
                None
            }
        });
        (Self { redirect, protocol, connect_timeout, read_timeout, request_timeout: None, logs_access }, faults)
    }
}
