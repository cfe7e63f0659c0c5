//! What becomes of a Gateway's listeners, each by itself and beside the others: whether it can be served at all, and
//! which routes it takes.

use std::collections::BTreeMap;

use skiff_client::ObjectKey;
use skiff_kinds::bootstrap::GATEWAY_GROUP;

use super::api::{Gateway, GrpcRouteSpec, HttpRouteSpec, Listener, ObjectRef, RouteKind, Spec, TlsRouteSpec};
use super::conditions::Condition;
use super::grants::{Reference, is_granted};
use super::plan::Observed;

/// A listener, and what was found out about it.
#[derive(Debug)]
pub struct ListenerState {
    /// What is asked for.
    pub spec: Listener,
    /// The kinds of routes that it takes.
    pub kinds: Vec<&'static str>,
    /// Whether it can be served, as far as the API's objects tell.
    pub accepted: Condition,
    /// Whether it is at odds with others of its Gateway.
    pub conflicted: Condition,
    /// Whether what it names is there.
    pub resolved: Condition,
    /// The Secrets with its certificates.
    pub certificates: Vec<ObjectKey>,
    /// How many routes it has.
    pub attached: usize,
}

impl ListenerState {
    /// Whether routes of it can be served.
    pub fn is_usable(&self) -> bool {
        self.accepted.holds && !self.conflicted.holds && (!self.needs_certificate() || !self.certificates.is_empty())
    }

    /// The host that it is for; all of them, if it is empty.
    pub fn host(&self) -> &str {
        self.spec.hostname.as_deref().unwrap_or_default()
    }

    /// Whether connections are passed on without a look inside.
    pub fn passes(&self) -> bool {
        self.spec.tls.as_ref().is_some_and(|tls| tls.mode.as_deref() == Some("Passthrough"))
    }

    /// Whether clients speak TLS.
    pub fn is_tls(&self) -> bool {
        self.spec.protocol != "HTTP"
    }

    fn needs_certificate(&self) -> bool {
        self.is_tls() && !self.passes()
    }
}

/// All listeners of a Gateway. `ports` are those that are taken, and whether by TLS.
pub fn listeners(gateway: &Gateway, ports: &mut BTreeMap<u16, bool>, observed: &Observed<'_>) -> Vec<ListenerState> {
    let mut states: Vec<ListenerState> =
        gateway.spec.listeners.iter().map(|listener| alone(gateway, listener, observed)).collect();
    for at in 0..states.len() {
        if let Some((reason, message)) = conflict(&states, at) {
            states[at].conflicted = Condition::yes("Conflicted", reason, message.clone());
        }
    }
    for state in &mut states {
        if state.conflicted.holds && state.accepted.holds {
            let Condition { reason, message, .. } = state.conflicted.clone();
            state.accepted = Condition::no("Accepted", reason, message);
        } else if state.accepted.holds && *ports.entry(state.spec.port).or_insert(state.is_tls()) != state.is_tls() {
            let message = format!(
                "Port {} is served with another protocol, for an older Gateway or for Ingresses",
                state.spec.port
            );
            state.accepted = Condition::no("Accepted", "PortUnavailable", message);
        }
    }
    states
}

fn alone(gateway: &Gateway, spec: &Listener, observed: &Observed<'_>) -> ListenerState {
    let known: &[&'static str] = match spec.protocol.as_str() {
        "HTTP" | "HTTPS" => &[HttpRouteSpec::KIND, GrpcRouteSpec::KIND],
        "TLS" => &[TlsRouteSpec::KIND],
        _ => &[],
    };
    let accepted = match known {
        [] => {
            let message = format!("Protocol {} is not supported; HTTP, HTTPS and TLS are", spec.protocol);
            Condition::no("Accepted", "UnsupportedProtocol", message)
        }
        _ => Condition::yes("Accepted", "Accepted", "Listener is accepted"),
    };
    let asked = &spec.allowed_routes.kinds;
    let is_asked = |kind: &&str| asked.is_empty() || asked.iter().any(|wanted| is_kind(wanted, kind));
    let kinds: Vec<&'static str> = known.iter().copied().filter(|kind| is_asked(kind)).collect();
    let mut state = ListenerState {
        spec: spec.clone(),
        kinds,
        accepted,
        conflicted: Condition::no("Conflicted", "NoConflicts", "No conflicts"),
        resolved: Condition::yes("ResolvedRefs", "ResolvedRefs", "All references are resolved"),
        certificates: Vec::new(),
        attached: 0,
    };
    if let Some(stranger) = asked.iter().find(|wanted| !known.iter().any(|kind| is_kind(wanted, kind))) {
        let message = format!("Routes of kind {} cannot be attached to protocol {}", stranger.kind, spec.protocol);
        state.resolved = Condition::no("ResolvedRefs", "InvalidRouteKinds", message);
    }
    if state.needs_certificate() && state.accepted.holds {
        let named = spec.tls.iter().flat_map(|tls| &tls.certificate_refs);
        for certificate in named {
            match resolve_certificate(gateway, certificate, observed) {
                Ok(key) => state.certificates.push(key),
                Err((reason, message)) => state.resolved = Condition::no("ResolvedRefs", reason, message),
            }
        }
        if state.certificates.is_empty() && state.resolved.holds {
            let message = "The listener names no certificate";
            state.resolved = Condition::no("ResolvedRefs", "InvalidCertificateRef", message);
        }
    }
    state
}

fn is_kind(wanted: &RouteKind, kind: &str) -> bool {
    wanted.group.as_deref().is_none_or(|group| group == GATEWAY_GROUP) && wanted.kind == kind
}

fn resolve_certificate(
    gateway: &Gateway,
    named: &ObjectRef,
    observed: &Observed<'_>,
) -> Result<ObjectKey, (&'static str, String)> {
    const INVALID: &str = "InvalidCertificateRef";
    let (group, kind) = (named.group.as_deref().unwrap_or_default(), named.kind.as_deref().unwrap_or("Secret"));
    if !group.is_empty() || kind != "Secret" {
        return Err((INVALID, format!("Certificates are read from Secrets, not from {kind} {}", named.name)));
    }
    let namespace = named.namespace.as_deref().unwrap_or(gateway.namespace());
    let from = gateway.namespace();
    let reference = Reference { kind: "Gateway", from, to_kind: "Secret", to: namespace, name: &named.name };
    let key = ObjectKey::new(namespace, named.name.as_str());
    if !is_granted(observed.grants, reference) {
        return Err((
            "RefNotPermitted",
            format!("No ReferenceGrant allows Gateways of {from} to refer to Secret {key}"),
        ));
    }
    (observed.certificate)(&key).map_err(|reason| (INVALID, format!("Secret {key} {reason}")))?;
    Ok(key)
}

/// What makes a listener impossible beside another one of its Gateway.
fn conflict(states: &[ListenerState], at: usize) -> Option<(&'static str, String)> {
    let own = &states[at];
    let others = || {
        let others = states.iter().enumerate().filter(move |(other, _)| *other != at).map(|(_, state)| state);
        others.filter(|other| other.accepted.holds && own.accepted.holds && other.spec.port == own.spec.port)
    };
    if let Some(other) = others().find(|other| other.is_tls() != own.is_tls()) {
        let message = format!("Listener {} has port {} with another protocol", other.spec.name, own.spec.port);
        return Some(("ProtocolConflict", message));
    }
    let other = others().find(|other| other.host().eq_ignore_ascii_case(own.host()))?;
    Some(("HostnameConflict", format!("Listener {} has the same port and hostname", other.spec.name)))
}
