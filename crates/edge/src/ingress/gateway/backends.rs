//! Who answers for a rule: the Services that it names, as far as they are there and may be named.

use http::StatusCode;
use k8s_openapi::api::networking::v1::ServiceBackendPort;
use skiff_client::ObjectKey;

use super::super::annotations::Protocol;
use super::super::choice::{Backend, Choice, Target};
use super::super::filters::{Filters, Mirror};
use super::super::site::{Routes, World};
use super::super::upstream::Upstream;
use super::api::{BackendRef, RequestMirror};
use super::conditions::Condition;
use super::filters::read_for_backend;
use super::grants::{Reference, is_granted};
use super::plan::Observed;
use std::sync::Arc;

/// Where rules of one route look for their backends.
pub struct Finder<'a> {
    /// What is there.
    pub observed: &'a Observed<'a>,
    /// Services and endpoints.
    pub world: &'a dyn World,
    /// The routes that are being made.
    pub routes: &'a mut Routes,
    /// The routes before.
    pub before: &'a Routes,
    /// The kind of the route.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: &'a str,
    /// The protocol that its backends are asked by, if that is not theirs to say.
    pub protocol: Option<Protocol>,
    /// What is wrong with its references, the first of it.
    pub fault: Option<Condition>,
}

impl Finder<'_> {
    /// The choice among the backends of a rule, by its name; or why what is asked of one cannot be.
    pub fn choice(&mut self, name: String, backends: &[BackendRef]) -> Result<Arc<Choice>, String> {
        // A gRPC client is told that nobody is available, others that the server has a fault.
        let refused = match self.protocol {
            Some(Protocol::Http2) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        let mut all = Vec::with_capacity(backends.len());
        for backend in backends {
            let filters: Filters = read_for_backend(&backend.filters)?;
            let target = self.upstream(backend).map_or(Target::Refused(refused), Target::Upstream);
            all.push(Backend { weight: backend.weight.unwrap_or(1), target, filters });
        }
        Ok(self.routes.choice(self.before, name, Choice::of(all)))
    }

    /// Who gets copies; nobody, where what is named is not there.
    pub fn mirror(&mut self, wanted: &RequestMirror) -> Option<Mirror> {
        let upstream = self.upstream(&wanted.backend_ref)?;
        let (numerator, denominator) = match (&wanted.fraction, wanted.percent) {
            (Some(fraction), _) => (fraction.numerator, fraction.denominator.unwrap_or(100)),
            (None, Some(percent)) => (percent, 100),
            (None, None) => (1, 1),
        };
        Some(Mirror::new(upstream, numerator.into(), denominator.into()))
    }

    fn upstream(&mut self, backend: &BackendRef) -> Option<Arc<Upstream>> {
        match self.resolve(backend) {
            Ok((service, port)) => Some(self.routes.upstream(self.world, self.before, &service, &port, self.protocol)),
            Err((reason, message)) => {
                self.fault.get_or_insert(Condition::no("ResolvedRefs", reason, message));
                None
            }
        }
    }

    fn resolve(&mut self, backend: &BackendRef) -> Result<(ObjectKey, ServiceBackendPort), (&'static str, String)> {
        const GONE: &str = "BackendNotFound";
        let kind = backend.kind.as_deref().unwrap_or("Service");
        if !backend.group.as_deref().unwrap_or_default().is_empty() || kind != "Service" {
            return Err(("InvalidKind", format!("Backends are Services, not {kind} {}", backend.name)));
        }
        let to = backend.namespace.as_deref().unwrap_or(self.namespace);
        let key = ObjectKey::new(to, backend.name.as_str());
        let reference =
            Reference { kind: self.kind, from: self.namespace, to_kind: "Service", to, name: &backend.name };
        if !is_granted(self.observed.grants, reference) {
            let Reference { kind, from, .. } = reference;
            let message = format!("No ReferenceGrant allows {kind}s of {from} to refer to Service {key}");
            return Err(("RefNotPermitted", message));
        }
        // What is not there may come.
        self.routes.services.insert(key.clone());
        let service = self.world.service(&key).ok_or_else(|| (GONE, format!("Service {key} is not there")))?;
        let spec = service.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            return Err((GONE, format!("Service {key} of type ExternalName has no endpoints in the cluster")));
        }
        let mut ports = spec.into_iter().flat_map(|spec| spec.ports.iter().flatten());
        let port = ports.find(|port| Some(port.port) == backend.port);
        let port = port.ok_or_else(|| {
            (
                GONE,
                format!("Service {key} has no port {}", backend.port.map_or_else(String::new, |port| port.to_string())),
            )
        })?;
        if let Some(secure @ ("https" | "kubernetes.io/wss" | "kubernetes.io/https")) = port.app_protocol.as_deref() {
            return Err((
                "UnsupportedProtocol",
                format!("Service {key} wants {secure}; backends are not asked by TLS"),
            ));
        }
        Ok((key, ServiceBackendPort { name: None, number: Some(port.port) }))
    }
}
