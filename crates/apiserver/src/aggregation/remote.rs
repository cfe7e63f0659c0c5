//! An APIService with a service: another server that has a group and version, as requests and checks see it. Whether
//! what its Service says lets it be asked at all is decided here, purely.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base64::Engine as _;
use hyper::client::conn::http1::SendRequest;
use parking_lot::Mutex;
use rustls::ClientConfig;
use serde_json::Value;
use skiff_object::Object;
use skiff_object::meta::Meta;

use super::told::Told;
use crate::http::body::Body;
use crate::trust::{self, Identity};

/// The condition that tells whether a server can be asked.
pub const AVAILABLE: &str = "Available";
const HTTPS_PORT: u16 = 443;
/// How many idle connections to one server are kept.
const IDLE_LIMIT: usize = 8;

/// A server that has a group and version.
pub struct Remote {
    /// The APIService's name.
    pub name: String,
    /// The group.
    pub group: String,
    /// The version.
    pub version: String,
    /// Where discovery puts the group, the highest first.
    pub group_priority: i64,
    /// Where discovery puts the version within the group.
    pub version_priority: i64,
    /// The namespace of its Service.
    pub namespace: String,
    /// The name of its Service.
    pub service: String,
    /// The port of its Service.
    pub port: u16,
    /// How it is spoken to; for people why it cannot be.
    pub tls: Result<Arc<ClientConfig>, String>,
    /// How it is asked whether it is there: whoever answers will do, as upstream has it.
    pub tls_of_checks: Result<Arc<ClientConfig>, String>,
    /// What it says of itself.
    pub told: Mutex<Told>,
    spec: Value,
    available: AtomicBool,
    idle: Mutex<Vec<SendRequest<Body>>>,
}

impl Remote {
    /// Reads an APIService; `None` where it is of this server.
    pub fn of(object: &Object, identity: Option<&Identity>) -> Option<Self> {
        let spec = object.get("spec")?;
        let service = spec.get("service").filter(|service| service.is_object())?;
        let bundle = base64::engine::general_purpose::STANDARD.decode(spec.str_at(&["caBundle"]));
        let verified = bundle.map_err(|error| format!("unable to load root certificates: {error}"));
        let unverified = trust::unverified(identity).map(Arc::new);
        let tls = if spec.bool_at(&["insecureSkipTLSVerify"]) {
            unverified.clone()
        } else {
            verified.and_then(|bundle| trust::verified(&bundle, identity)).map(Arc::new)
        };
        let text = |path: &[&str]| spec.str_at(path).to_owned();
        Some(Self {
            name: object.name().to_owned(),
            group: text(&["group"]),
            version: text(&["version"]),
            group_priority: spec.int_at(&["groupPriorityMinimum"]).unwrap_or(0),
            version_priority: spec.int_at(&["versionPriority"]).unwrap_or(0),
            namespace: text(&["service", "namespace"]),
            service: text(&["service", "name"]),
            port: service.int_at(&["port"]).and_then(|port| u16::try_from(port).ok()).unwrap_or(HTTPS_PORT),
            tls,
            tls_of_checks: unverified,
            told: Mutex::default(),
            available: AtomicBool::new(is_said_available(object)),
            spec: spec.clone(),
            idle: Mutex::default(),
        })
    }

    /// Whether an APIService still says what this was read from.
    pub fn is_still(&self, object: &Object) -> bool {
        self.name == object.name() && object.get("spec") == Some(&self.spec)
    }

    /// Whether the last look found it in order.
    pub fn is_available(&self) -> bool {
        self.available.load(Ordering::Relaxed)
    }

    /// What the last look found.
    pub fn set_available(&self, available: bool) {
        self.available.store(available, Ordering::Relaxed);
    }

    /// The name by which its certificate is checked.
    pub fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    /// Where it tells what it has.
    pub fn path(&self) -> String {
        format!("/apis/{}/{}", self.group, self.version)
    }

    /// A connection that waits for the next request.
    pub fn take_idle(&self) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock();
        idle.retain(|sender| !sender.is_closed());
        let ready = idle.iter().position(SendRequest::is_ready)?;
        Some(idle.swap_remove(ready))
    }

    /// Keeps a connection for the next request; it is used once its answer has been read.
    pub fn keep_idle(&self, sender: SendRequest<Body>) {
        let mut idle = self.idle.lock();
        if !sender.is_closed() && idle.len() < IDLE_LIMIT {
            idle.push(sender);
        }
    }
}

/// Whether an APIService's condition says that its server can be asked.
fn is_said_available(object: &Object) -> bool {
    condition(object).is_some_and(|condition| condition.str_at(&["status"]) == "True")
}

/// The condition that tells whether a server can be asked.
pub fn condition(object: &Object) -> Option<&Value> {
    object.list_at(&["status", "conditions"]).iter().find(|condition| condition.str_at(&["type"]) == AVAILABLE)
}

/// What the condition is to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `True`, `False`, `Unknown`.
    pub status: &'static str,
    /// Upstream's reason.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl Verdict {
    /// What this server has itself.
    pub fn local() -> Self {
        Self { status: "True", reason: "Local", message: "Local APIServices are always available".to_owned() }
    }

    /// The server answered.
    pub fn passed() -> Self {
        Self { status: "True", reason: "Passed", message: "all checks passed".to_owned() }
    }

    /// The server is not in order.
    pub fn failed(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }

    /// Whether a condition says so already.
    pub fn is_told(&self, condition: Option<&Value>) -> bool {
        condition.is_some_and(|condition| {
            condition.str_at(&["status"]) == self.status
                && condition.str_at(&["reason"]) == self.reason
                && condition.str_at(&["message"]) == self.message
        })
    }
}

/// What is wrong with a server by what its Service and the Service's EndpointSlices say; `None` where only asking can
/// tell.
pub fn fault(remote: &Remote, service: Option<&Object>, slices: &[Object]) -> Option<Verdict> {
    let place = format!("service/{} in {:?}", remote.service, remote.namespace);
    let Some(service) = service else {
        return Some(Verdict::failed("ServiceNotFound", format!("{place} is not present")));
    };
    if !matches!(service.str_at(&["spec", "type"]), "" | "ClusterIP") {
        return None;
    }
    let ports = service.list_at(&["spec", "ports"]);
    let Some(port) = ports.iter().find(|port| port.int_at(&["port"]) == Some(i64::from(remote.port))) else {
        let message = format!("{place} is not listening on port {}", remote.port);
        return Some(Verdict::failed("ServicePortError", message));
    };
    if slices.is_empty() {
        let message = format!("cannot find endpointslices for {place}");
        return Some(Verdict::failed("EndpointsNotFound", message));
    }
    let name = port.str_at(&["name"]);
    let has_ready = |slice: &Object| {
        let endpoints = slice.list_at(&["endpoints"]);
        endpoints.iter().any(|endpoint| endpoint.at(&["conditions", "ready"]) != Some(&Value::Bool(false)))
    };
    let has_port = |slice: &Object| slice.list_at(&["ports"]).iter().any(|port| port.str_at(&["name"]) == name);
    if slices.iter().any(|slice| has_ready(slice) && has_port(slice)) {
        return None;
    }
    let message = format!("endpointslices for {place} have no addresses with port name {name:?}");
    Some(Verdict::failed("MissingEndpoints", message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn remote() -> Remote {
        let object = json!({"metadata": {"name": "v1.a.io"}, "spec": {"group": "a.io", "version": "v1",
            "groupPriorityMinimum": 1, "versionPriority": 1, "insecureSkipTLSVerify": true,
            "service": {"namespace": "n", "name": "s"}}});
        Remote::of(&object, None).expect("it has a service")
    }

    fn check(service: Value, slices: &[Value], expected: Option<(&str, &str)>) {
        let service = (!service.is_null()).then_some(service);
        let found = fault(&remote(), service.as_ref(), slices);
        assert_eq!(found.as_ref().map(|verdict| (verdict.reason, verdict.message.as_str())), expected);
    }

    #[test]
    fn what_its_service_says_is_looked_at_first() {
        let service = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 443, "name": "api"}]}});
        let slice = |ready: bool, name: &str| json!({"ports": [{"name": name, "port": 8443}], "endpoints": [{"conditions": {"ready": ready}}]});
        check(json!(null), &[], Some(("ServiceNotFound", r#"service/s in "n" is not present"#)));
        check(
            json!({"spec": {"ports": [{"port": 80}]}}),
            &[],
            Some(("ServicePortError", r#"service/s in "n" is not listening on port 443"#)),
        );
        check(service.clone(), &[], Some(("EndpointsNotFound", r#"cannot find endpointslices for service/s in "n""#)));
        let missing =
            Some(("MissingEndpoints", r#"endpointslices for service/s in "n" have no addresses with port name "api""#));
        check(service.clone(), &[slice(false, "api"), slice(true, "other")], missing);
        check(service, &[slice(false, "api"), slice(true, "api")], None);
        check(json!({"spec": {"type": "ExternalName"}}), &[], None);
    }

    #[test]
    fn what_cannot_be_trusted_is_told() {
        let object = json!({"metadata": {"name": "v1.a.io"},
            "spec": {"service": {"namespace": "n", "name": "s", "port": 8443}, "caBundle": "eA=="}});
        let remote = Remote::of(&object, None).expect("it has a service");
        assert!(remote.tls.is_err() && remote.tls_of_checks.is_ok());
        assert_eq!((remote.port, remote.host().as_str()), (8443, "s.n.svc"));
        assert!(remote.is_still(&object) && !remote.is_available());
        assert!(Remote::of(&json!({"spec": {"group": "a"}}), None).is_none());
    }
}
