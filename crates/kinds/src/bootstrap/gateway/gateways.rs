//! The schemas of classes, of Gateways, and of what may refer to other namespaces.

use serde_json::{Value, json};

use super::schema::{
    conditions, controller, group, hostname, kind, list, map, name, namespace, object, one_of, or, port, rules,
    section, selector, text, texts, waiting, with,
};

/// The spec and status of a GatewayClass.
pub fn gateway_class() -> Value {
    let parameters = object(&[("group!", group()), ("kind!", kind()), ("name!", name()), ("namespace", namespace())]);
    let spec = object(&[
        ("controllerName!", rules(controller(), &[("Value is immutable", "self == oldSelf")])),
        ("parametersRef", parameters),
        ("description", text(0, 64)),
    ]);
    let feature = object(&[("name!", json!({"type": "string"}))]);
    let status = object(&[("conditions", conditions(&["Accepted"])), ("supportedFeatures", map(feature, 64, "name"))]);
    object(&[("spec!", spec), ("status", or(status, json!({"conditions": waiting(&["Accepted"])})))])
}

/// The spec and status of a Gateway.
pub fn gateway() -> Value {
    let spec = object(&[
        ("gatewayClassName!", name()),
        ("listeners!", listeners()),
        ("addresses", addresses()),
        ("infrastructure", infrastructure()),
    ]);
    let listener = object(&[
        ("name!", section()),
        ("supportedKinds", list(route_kind(), 8)),
        ("attachedRoutes!", json!({"type": "integer", "format": "int32"})),
        ("conditions!", conditions(&[])),
    ]);
    let address = object(&[("type", or(address_type(), json!("IPAddress"))), ("value!", name())]);
    let pending = ["Accepted", "Programmed"];
    let status = object(&[
        ("addresses", list(address, 16)),
        ("conditions", conditions(&pending)),
        ("listeners", map(listener, 64, "name")),
    ]);
    object(&[("spec!", spec), ("status", or(status, json!({"conditions": waiting(&pending)})))])
}

fn route_kind() -> Value {
    object(&[("group", or(group(), json!("gateway.networking.k8s.io"))), ("kind!", kind())])
}

fn address_type() -> Value {
    let own = r"^Hostname|IPAddress|NamedAddress|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9\/\-._~%!$&'()*+,;=:]+$";
    with(text(1, 253), json!({"pattern": own}))
}

fn addresses() -> Value {
    let address = object(&[("type", or(address_type(), json!("IPAddress"))), ("value", text(0, 253))]);
    rules(
        list(address, 16),
        &[
            (
                "IPAddress values must be unique",
                "self.all(a1, a1.type == 'IPAddress' && has(a1.value) ? self.exists_one(a2, a2.type == a1.type && \
                 has(a2.value) && a2.value == a1.value) : true)",
            ),
            (
                "Hostname values must be unique",
                "self.all(a1, a1.type == 'Hostname' && has(a1.value) ? self.exists_one(a2, a2.type == a1.type && \
                 has(a2.value) && a2.value == a1.value) : true)",
            ),
        ],
    )
}

fn infrastructure() -> Value {
    object(&[
        ("labels", texts(text(0, 63), 8)),
        ("annotations", texts(text(0, 4096), 8)),
        ("parametersRef", object(&[("group!", group()), ("kind!", kind()), ("name!", name())])),
    ])
}

fn listeners() -> Value {
    let listener = object(&[
        ("name!", section()),
        ("hostname", hostname()),
        ("port!", port()),
        ("protocol!", protocol()),
        ("tls", tls()),
        ("allowedRoutes", allowed_routes()),
    ]);
    rules(with(map(listener, 64, "name"), json!({"minItems": 1})), LISTENER_RULES)
}

const LISTENER_RULES: &[(&str, &str)] = &[
    (
        "tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']",
        "self.all(l, l.protocol in ['HTTP', 'TCP', 'UDP'] ? !has(l.tls) : true)",
    ),
    (
        "tls mode must be Terminate for protocol HTTPS",
        "self.all(l, (l.protocol == 'HTTPS' && has(l.tls)) ? (l.tls.mode == '' || l.tls.mode == 'Terminate') : true)",
    ),
    (
        "tls mode must be set for protocol TLS",
        "self.all(l, (l.protocol == 'TLS' ? has(l.tls) && has(l.tls.mode) && l.tls.mode != '' : true))",
    ),
    (
        "hostname must not be specified for protocols ['TCP', 'UDP']",
        "self.all(l, l.protocol in ['TCP', 'UDP'] ? (!has(l.hostname) || l.hostname == '') : true)",
    ),
    ("Listener name must be unique within the Gateway", "self.all(l1, self.exists_one(l2, l1.name == l2.name))"),
    (
        "Combination of port, protocol and hostname must be unique for each listener",
        "self.all(l1, self.exists_one(l2, l1.port == l2.port && l1.protocol == l2.protocol && \
         (has(l1.hostname) && has(l2.hostname) ? l1.hostname == l2.hostname : !has(l1.hostname) && !has(l2.hostname))))",
    ),
];

fn protocol() -> Value {
    let shape = r"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9]+$";
    with(text(1, 255), json!({"pattern": shape}))
}

fn tls() -> Value {
    let secret = object(&[
        ("group", or(group(), json!(""))),
        ("kind", or(kind(), json!("Secret"))),
        ("name!", name()),
        ("namespace", namespace()),
    ]);
    let tls = object(&[
        ("mode", or(one_of(&["Terminate", "Passthrough"]), json!("Terminate"))),
        ("certificateRefs", list(secret, 64)),
        ("options", texts(text(0, 4096), 16)),
    ]);
    let needs = "self.mode == 'Terminate' ? size(self.certificateRefs) > 0 || size(self.options) > 0 : true";
    rules(tls, &[("certificateRefs or options must be specified when mode is Terminate", needs)])
}

fn allowed_routes() -> Value {
    let namespaces =
        object(&[("from", or(one_of(&["All", "Selector", "Same"]), json!("Same"))), ("selector", selector())]);
    let routes = object(&[("namespaces", or(namespaces, json!({"from": "Same"}))), ("kinds", list(route_kind(), 8))]);
    or(routes, json!({"namespaces": {"from": "Same"}}))
}

/// The spec of a ReferenceGrant.
pub fn reference_grant() -> Value {
    let from = object(&[("group!", group()), ("kind!", kind()), ("namespace!", namespace())]);
    let to = object(&[("group!", group()), ("kind!", kind()), ("name", name())]);
    let some = |items: Value| with(list(items, 16), json!({"minItems": 1}));
    object(&[("spec", object(&[("from!", some(from)), ("to!", some(to))]))])
}
