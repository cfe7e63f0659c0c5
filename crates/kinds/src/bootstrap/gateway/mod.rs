//! The definitions of the Gateway API, so that a cluster knows its kinds from the start: the facts of the standard
//! channel, unfolded into CustomResourceDefinitions when the API server asks for them.
//! See <https://gateway-api.sigs.k8s.io/reference/spec/>.

mod gateways;
mod routes;
mod schema;

use serde_json::{Value, json};
use skiff_object::Object;
use skiff_object::meta::Meta;

use schema::with;

/// The group of all kinds of the Gateway API.
pub const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// What serves the Gateways of the first GatewayClass.
pub const GATEWAY_CONTROLLER: &str = "skiff.io/gateway";
/// Says which release of the API a definition has the facts of.
pub const BUNDLE_VERSION: &str = "gateway.networking.k8s.io/bundle-version";
/// The release whose facts are here.
const BUNDLE: &str = "v1.5.0";
/// Says what a definition of this program looked like when it was written, so that one that somebody changed is told
/// from one that is merely old.
const MADE: &str = "skiff.io/definition";

/// One kind as a table row.
struct Row {
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    is_cluster: bool,
    /// The versions that are served; the first is stored.
    versions: &'static [&'static str],
    about: &'static str,
    schema: fn() -> Value,
    /// Name, type and path.
    columns: &'static [(&'static str, &'static str, &'static str)],
}

const AGE: (&str, &str, &str) = ("Age", "date", ".metadata.creationTimestamp");
const HOSTNAMES: (&str, &str, &str) = ("Hostnames", "string", ".spec.hostnames");
const BOTH: &[&str] = &["v1", "v1beta1"];

const ROWS: &[Row] = &[
    Row {
        kind: "GatewayClass",
        plural: "gatewayclasses",
        short: &["gc"],
        is_cluster: true,
        versions: BOTH,
        about: "A kind of Gateways, and which controller serves them.",
        schema: gateways::gateway_class,
        columns: &[
            ("Controller", "string", ".spec.controllerName"),
            ("Accepted", "string", ".status.conditions[?(@.type==\"Accepted\")].status"),
            AGE,
            ("Description", "string", ".spec.description"),
        ],
    },
    Row {
        kind: "Gateway",
        plural: "gateways",
        short: &["gtw"],
        is_cluster: false,
        versions: BOTH,
        about: "Where traffic comes in: ports, protocols, host names and certificates.",
        schema: gateways::gateway,
        columns: &[
            ("Class", "string", ".spec.gatewayClassName"),
            ("Address", "string", ".status.addresses[*].value"),
            ("Programmed", "string", ".status.conditions[?(@.type==\"Programmed\")].status"),
            AGE,
        ],
    },
    Row {
        kind: "HTTPRoute",
        plural: "httproutes",
        short: &[],
        is_cluster: false,
        versions: BOTH,
        about: "Where HTTP requests go: by host, path, headers, query and method.",
        schema: routes::http_route,
        columns: &[HOSTNAMES, AGE],
    },
    Row {
        kind: "GRPCRoute",
        plural: "grpcroutes",
        short: &[],
        is_cluster: false,
        versions: &["v1"],
        about: "Where gRPC calls go: by host, service, method and headers.",
        schema: routes::grpc_route,
        columns: &[HOSTNAMES, AGE],
    },
    Row {
        kind: "TLSRoute",
        plural: "tlsroutes",
        short: &[],
        is_cluster: false,
        versions: &["v1"],
        about: "Where connections go by the name that TLS asks for.",
        schema: routes::tls_route,
        columns: &[AGE],
    },
    Row {
        kind: "ReferenceGrant",
        plural: "referencegrants",
        short: &["refgrant"],
        is_cluster: false,
        versions: &["v1beta1", "v1"],
        about: "Which kinds of other namespaces may refer to kinds of this one.",
        schema: gateways::reference_grant,
        columns: &[AGE],
    },
];

/// The definitions, each with a mark of what it says.
pub fn gateway_definitions() -> Vec<Object> {
    ROWS.iter().map(definition).collect()
}

/// The class of this program's own Gateways.
pub fn gateway_class() -> Object {
    json!({
        "apiVersion": format!("{GATEWAY_GROUP}/v1"),
        "kind": "GatewayClass",
        "metadata": {"name": "skiff"},
        "spec": {"controllerName": GATEWAY_CONTROLLER, "description": "Served by the node itself"},
    })
}

/// Whether a definition is one of these as some version of this program wrote it, and nobody has changed it since.
pub fn is_untouched(stored: &Object) -> bool {
    stored.annotation(MADE).is_some_and(|made| made == fingerprint(&stored["spec"]))
}

fn definition(row: &Row) -> Object {
    let columns: Vec<Value> = row.columns.iter().map(column).collect();
    let mut schema = with((row.schema)(), json!({"description": row.about}));
    for field in ["apiVersion", "kind"] {
        schema["properties"][field] = json!({"type": "string"});
    }
    schema["properties"]["metadata"] = json!({"type": "object"});
    let version = |name: &&str| {
        json!({
            "name": name,
            "served": true,
            "storage": row.versions.first() == Some(name),
            "schema": {"openAPIV3Schema": schema},
            "subresources": if row.kind == "ReferenceGrant" { json!({}) } else { json!({"status": {}}) },
            "additionalPrinterColumns": columns,
        })
    };
    let names = json!({"kind": row.kind, "listKind": format!("{}List", row.kind), "plural": row.plural,
        "singular": row.kind.to_ascii_lowercase(), "shortNames": row.short, "categories": ["gateway-api"]});
    let spec = json!({
        "group": GATEWAY_GROUP,
        "names": names,
        "scope": if row.is_cluster { "Cluster" } else { "Namespaced" },
        "versions": row.versions.iter().map(version).collect::<Vec<_>>(),
        "conversion": {"strategy": "None"},
    });
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{GATEWAY_GROUP}", row.plural),
            "annotations": {
                "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api",
                BUNDLE_VERSION: BUNDLE,
                "gateway.networking.k8s.io/channel": "standard",
                MADE: fingerprint(&spec),
            },
            "managedFields": [owned()],
        },
        "spec": spec,
        "status": {"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": [row.versions[0]]},
    })
}

/// Nothing but the mark is this program's own, so that who applies another release's definition finds no conflict.
fn owned() -> Value {
    json!({"manager": "skiff", "operation": "Update", "apiVersion": "apiextensions.k8s.io/v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:metadata": {"f:annotations": {format!("f:{MADE}"): {}}}}})
}

fn column((name, kind, path): &(&str, &str, &str)) -> Value {
    let column = json!({"name": name, "type": kind, "jsonPath": path});
    if *name == "Description" { with(column, json!({"priority": 1})) } else { column }
}

/// A short digest of a tree (FNV-1a): nobody has a reason to forge one.
fn fingerprint(tree: &Value) -> String {
    const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let text = tree.to_string();
    let digest = text.bytes().fold(BASIS, |digest, byte| (digest ^ u64::from(byte)).wrapping_mul(PRIME));
    format!("{digest:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_tell_whether_somebody_changed_them() {
        for mut definition in gateway_definitions() {
            assert!(is_untouched(&definition));
            definition["spec"]["versions"][0]["served"] = json!(false);
            assert!(!is_untouched(&definition));
        }
        assert!(!is_untouched(&json!({"spec": {}})));
    }
}
