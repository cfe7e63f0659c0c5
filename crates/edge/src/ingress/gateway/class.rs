//! What is told of a GatewayClass, and what this program can do.

use serde_json::{Value, json};

use super::api::GatewayClass;
use super::conditions::{Condition, merged};

/// What conformance tests may ask for, in the order of the alphabet.
const FEATURES: &[&str] = &[
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "Gateway",
    "GatewayHTTPListenerIsolation",
    "GatewayPort8080",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
    "ReferenceGrant",
    "TLSRoute",
    "TLSRouteModeTerminate",
];

/// The release of the API whose definitions are understood: any of this major version.
const MAJOR: &str = "v1.";

/// The status that a class of ours ought to have; `bundle` is the release of the installed definitions.
pub fn class_status(class: &GatewayClass, bundle: Option<&str>, now: &str) -> Value {
    let accepted = match class.spec.parameters_ref {
        Some(_) => Condition::no("Accepted", "InvalidParameters", "This controller has no parameters"),
        None => Condition::yes("Accepted", "Accepted", "Gateways of this class are served"),
    };
    let supported = match bundle {
        Some(version) if version.starts_with(MAJOR) => {
            Condition::yes("SupportedVersion", "SupportedVersion", "The installed definitions are understood")
        }
        _ => Condition::no(
            "SupportedVersion",
            "UnsupportedVersion",
            "The installed definitions are of no known release; what is known of them is served",
        ),
    };
    let conditions = merged(class.status.get("conditions"), &[accepted, supported], class.generation(), now);
    let features: Vec<Value> = FEATURES.iter().map(|name| json!({"name": name})).collect();
    json!({"conditions": conditions, "supportedFeatures": features})
}
