//! The endpoints behind a port of a Service.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use k8s_openapi::api::networking::v1::ServiceBackendPort;

use super::annotations::Protocol;

/// How often one request is tried at most; each endpoint once, and one of them twice, if there are fewer.
const ATTEMPTS: usize = 4;

/// Endpoints that take requests in turn.
#[derive(Debug)]
pub struct Upstream {
    /// Where they are; empty if nobody can answer.
    pub endpoints: Vec<SocketAddr>,
    /// How they are spoken to.
    pub protocol: Protocol,
    next: AtomicUsize,
}

impl Upstream {
    /// Nobody.
    pub fn none() -> Self {
        Self::new(Vec::new(), Protocol::Http1)
    }

    fn new(endpoints: Vec<SocketAddr>, protocol: Protocol) -> Self {
        Self { endpoints, protocol, next: AtomicUsize::new(0) }
    }

    /// What is behind a port of a Service: the endpoints that are ready; where none is, those that still answer while
    /// they end.
    pub fn of(
        service: Option<&Service>,
        slices: &[Arc<EndpointSlice>],
        port: &ServiceBackendPort,
        asked: Option<Protocol>,
    ) -> Self {
        let ports = service.and_then(|service| service.spec.as_ref()?.ports.as_ref());
        let Some(port) = ports.into_iter().flatten().find(|known| is_meant(known, port)) else { return Self::none() };
        let mut ready = Vec::new();
        let mut ending = Vec::new();
        for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
            let numbers = slice.ports.iter().flatten().filter(|it| it.name.as_deref().unwrap_or("") == name_of(port));
            let numbers: Vec<u16> = numbers.filter_map(|it| u16::try_from(it.port?).ok()).collect();
            for endpoint in slice.endpoints.iter().flatten() {
                let Some(address) = address_of(endpoint) else { continue };
                let places = numbers.iter().map(|number| SocketAddr::new(address, *number));
                match state_of(endpoint) {
                    State::Ready => ready.extend(places),
                    State::Ending => ending.extend(places),
                    State::Gone => {}
                }
            }
        }
        let mut endpoints = if ready.is_empty() { ending } else { ready };
        endpoints.sort_unstable();
        endpoints.dedup();
        let protocol = asked.unwrap_or_else(|| protocol_of(port));
        Self::new(endpoints, protocol)
    }

    /// Goes on in the turn of what was here before.
    pub fn following(self, before: Option<&Self>) -> Self {
        if let Some(before) = before {
            self.next.store(before.next.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self
    }

    /// The endpoints, beginning with the one whose turn it is, over and over.
    pub fn turn(&self) -> impl Iterator<Item = SocketAddr> + Send + '_ {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len().max(1);
        self.endpoints.iter().copied().cycle().skip(first)
    }

    /// Those by which one request is tried, likewise.
    pub fn tries(&self) -> impl Iterator<Item = SocketAddr> + Send + '_ {
        self.turn().take(ATTEMPTS.min(self.endpoints.len() + 1))
    }
}

fn is_meant(known: &ServicePort, wanted: &ServiceBackendPort) -> bool {
    match (&wanted.name, wanted.number) {
        (Some(name), _) if !name.is_empty() => known.name.as_ref() == Some(name),
        (_, number) => number == Some(known.port),
    }
}

fn name_of(port: &ServicePort) -> &str {
    port.name.as_deref().unwrap_or_default()
}

/// See <https://kubernetes.io/docs/concepts/services-networking/service/#application-protocol>.
fn protocol_of(port: &ServicePort) -> Protocol {
    match port.app_protocol.as_deref() {
        Some("kubernetes.io/h2c" | "h2c" | "grpc") => Protocol::Http2,
        _ => Protocol::Http1,
    }
}

enum State {
    Ready,
    Ending,
    Gone,
}

fn state_of(endpoint: &Endpoint) -> State {
    let conditions = endpoint.conditions.as_ref();
    // What is not said counts as ready, serving and not terminating.
    let is_ready = conditions.and_then(|it| it.ready).unwrap_or(true);
    let is_serving = conditions.and_then(|it| it.serving).unwrap_or(is_ready);
    let is_terminating = conditions.and_then(|it| it.terminating).unwrap_or(false);
    match (is_ready, is_serving && is_terminating) {
        (true, _) => State::Ready,
        (_, true) => State::Ending,
        _ => State::Gone,
    }
}

fn address_of(endpoint: &Endpoint) -> Option<IpAddr> {
    endpoint.addresses.first()?.parse().ok()
}
