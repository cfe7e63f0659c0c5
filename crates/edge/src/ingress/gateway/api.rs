//! The kinds of the Gateway API, as far as they are read here: names and fields are upstream's, and documented there. What a definition
//! defaults may be missing here, because another release's definition may be installed.

use k8s_openapi::ClusterResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use skiff_client::ObjectKey;
use skiff_kinds::bootstrap::GATEWAY_GROUP;

/// What is told of a kind by its spec.
pub trait Spec: Serialize + DeserializeOwned + Default + Send + Sync + 'static {
    /// The kind.
    const KIND: &'static str;
    /// Its plural, as in paths.
    const PLURAL: &'static str;
    /// The version that is read.
    const VERSION: &'static str = "v1";
    /// The group and version.
    const API_VERSION: &'static str = "gateway.networking.k8s.io/v1";
}

/// An object of the Gateway API; its status is what controllers say, and is compared as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, bound = "S: Spec")]
pub struct Custom<S> {
    /// The metadata.
    pub metadata: ObjectMeta,
    /// What is asked for.
    pub spec: S,
    /// What is told.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub status: Value,
}

impl<S: Spec> k8s_openapi::Resource for Custom<S> {
    const API_VERSION: &'static str = S::API_VERSION;
    const GROUP: &'static str = GATEWAY_GROUP;
    const KIND: &'static str = S::KIND;
    const VERSION: &'static str = S::VERSION;
    const URL_PATH_SEGMENT: &'static str = S::PLURAL;
    // Only what makes typed requests by scope looks at this; the client here does not.
    type Scope = ClusterResourceScope;
}

impl<S: Spec> k8s_openapi::Metadata for Custom<S> {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl<S: Spec> Custom<S> {
    /// Which object it is.
    pub fn key(&self) -> ObjectKey {
        ObjectKey::of(&self.metadata)
    }

    /// Which version of the spec it is.
    pub fn generation(&self) -> i64 {
        self.metadata.generation.unwrap_or_default()
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or_default()
    }
}

macro_rules! kind {
    ($name:ident = $spec:ident, $kind:literal, $plural:literal) => {
        #[doc = concat!("A ", $kind, ".")]
        pub type $name = Custom<$spec>;

        impl Spec for $spec {
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;
        }
    };
}

kind!(GatewayClass = ClassSpec, "GatewayClass", "gatewayclasses");
kind!(Gateway = GatewaySpec, "Gateway", "gateways");
kind!(HttpRoute = HttpRouteSpec, "HTTPRoute", "httproutes");
kind!(GrpcRoute = GrpcRouteSpec, "GRPCRoute", "grpcroutes");
kind!(TlsRoute = TlsRouteSpec, "TLSRoute", "tlsroutes");

/// A ReferenceGrant.
pub type ReferenceGrant = Custom<GrantSpec>;

impl Spec for GrantSpec {
    const KIND: &'static str = "ReferenceGrant";
    const PLURAL: &'static str = "referencegrants";
    const VERSION: &'static str = "v1beta1";
    const API_VERSION: &'static str = "gateway.networking.k8s.io/v1beta1";
}

macro_rules! fields {
    ($(#[$doc:meta])* $name:ident { $($(#[$more:meta])* $field:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        pub struct $name { $($(#[$more])* pub $field: $kind,)* }
    };
}

fields!(/** Of a GatewayClass. */ ClassSpec { controller_name: String, parameters_ref: Option<Value>, });

fields!(/** Of a Gateway. */ GatewaySpec {
    gateway_class_name: String,
    listeners: Vec<Listener>,
    addresses: Vec<Value>,
    infrastructure: Option<Infrastructure>,
});

fields!(/** What a Gateway asks of what it is made of. */ Infrastructure { parameters_ref: Option<Value>, });

fields!(/** One way into a Gateway. */ Listener {
    name: String,
    hostname: Option<String>,
    port: u16,
    protocol: String,
    tls: Option<ListenerTls>,
    allowed_routes: AllowedRoutes,
});

fields!(/** How a listener speaks TLS. */ ListenerTls {
    mode: Option<String>,
    certificate_refs: Vec<ObjectRef>,
    options: Option<Value>,
});

fields!(/** Which routes a listener takes. */ AllowedRoutes { namespaces: RouteNamespaces, kinds: Vec<RouteKind>, });

fields!(/** From which namespaces a listener takes routes. */ RouteNamespaces {
    from: Option<String>,
    selector: Option<LabelSelector>,
});

fields!(/** A kind of routes. */ RouteKind { group: Option<String>, kind: String, });

fields!(/** Another object. */ ObjectRef {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
});

fields!(/** The parent that a route wants. */ ParentRef {
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    section_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
});

fields!(/** Who answers. */ BackendRef {
    group: Option<String>,
    kind: Option<String>,
    name: String,
    namespace: Option<String>,
    port: Option<i32>,
    weight: Option<u32>,
    filters: Vec<Filter>,
});

fields!(/** Of an HTTPRoute. */ HttpRouteSpec {
    parent_refs: Vec<ParentRef>,
    hostnames: Vec<String>,
    rules: Vec<HttpRule>,
});

fields!(/** One rule of an HTTPRoute. */ HttpRule {
    matches: Vec<HttpMatch>,
    filters: Vec<Filter>,
    backend_refs: Vec<BackendRef>,
    timeouts: Option<Timeouts>,
});

fields!(/** How long things may take. */ Timeouts { request: Option<String>, backend_request: Option<String>, });

fields!(/** What a request must be like. */ HttpMatch {
    path: Option<ValueMatch>,
    headers: Vec<ValueMatch>,
    query_params: Vec<ValueMatch>,
    method: Option<String>,
});

fields!(/** What a value must be like. */ ValueMatch {
    #[serde(rename = "type")]
    kind: Option<String>,
    name: String,
    value: Option<String>,
});

fields!(/** Something that is done to requests and answers. */ Filter {
    #[serde(rename = "type")]
    kind: String,
    request_header_modifier: Option<HeaderModifier>,
    response_header_modifier: Option<HeaderModifier>,
    request_mirror: Option<RequestMirror>,
    request_redirect: Option<RequestRedirect>,
    url_rewrite: Option<UrlRewrite>,
});

fields!(/** What is done to headers. */ HeaderModifier {
    set: Vec<Header>,
    add: Vec<Header>,
    remove: Vec<String>,
});

fields!(/** A header. */ Header { name: String, value: String, });

fields!(/** Who gets copies. */ RequestMirror {
    backend_ref: BackendRef,
    percent: Option<u32>,
    fraction: Option<Fraction>,
});

fields!(/** A share. */ Fraction { numerator: u32, denominator: Option<u32>, });

fields!(/** Where clients are told to ask. */ RequestRedirect {
    scheme: Option<String>,
    hostname: Option<String>,
    path: Option<PathModifier>,
    port: Option<u16>,
    status_code: Option<u16>,
});

fields!(/** What backends are asked for. */ UrlRewrite { hostname: Option<String>, path: Option<PathModifier>, });

fields!(/** Another path. */ PathModifier {
    #[serde(rename = "type")]
    kind: String,
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
});

fields!(/** Of a GRPCRoute. */ GrpcRouteSpec {
    parent_refs: Vec<ParentRef>,
    hostnames: Vec<String>,
    rules: Vec<GrpcRule>,
});

fields!(/** One rule of a GRPCRoute. */ GrpcRule {
    matches: Vec<GrpcMatch>,
    filters: Vec<Filter>,
    backend_refs: Vec<BackendRef>,
});

fields!(/** What a call must be like. */ GrpcMatch { method: Option<MethodMatch>, headers: Vec<ValueMatch>, });

fields!(/** Which method is called. */ MethodMatch {
    #[serde(rename = "type")]
    kind: Option<String>,
    service: Option<String>,
    method: Option<String>,
});

fields!(/** Of a TLSRoute. */ TlsRouteSpec {
    parent_refs: Vec<ParentRef>,
    hostnames: Vec<String>,
    rules: Vec<TlsRule>,
});

fields!(/** The rule of a TLSRoute. */ TlsRule { backend_refs: Vec<BackendRef>, });

fields!(/** Of a ReferenceGrant. */ GrantSpec { from: Vec<GrantFrom>, to: Vec<GrantTo>, });

fields!(/** Who may refer. */ GrantFrom { group: String, kind: String, namespace: String, });

fields!(/** To what. */ GrantTo { group: String, kind: String, name: Option<String>, });
