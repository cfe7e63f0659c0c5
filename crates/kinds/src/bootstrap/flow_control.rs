//! The flow schemas and priority levels of a new cluster.
//! See <https://kubernetes.io/docs/concepts/cluster-administration/flow-control/#defaults>.

use serde_json::{Value, json};
use skiff_object::Object;

const GROUP_VERSION: &str = "flowcontrol.apiserver.k8s.io/v1";
const AUTHENTICATED: &str = "system:authenticated";
const UNAUTHENTICATED: &str = "system:unauthenticated";

/// A level that shares the server's seats: name, shares, percent that others may borrow, queues and hand size
/// (no queues: what does not fit is refused).
const LEVELS: [(&str, i64, i64, Option<(i64, i64)>); 7] = [
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6))),
    ("leader-election", 10, 0, Some((16, 4))),
    ("node-high", 40, 25, Some((64, 6))),
    ("system", 30, 33, Some((64, 6))),
    ("workload-high", 40, 50, Some((128, 6))),
    ("workload-low", 100, 90, Some((128, 6))),
];
const QUEUE_LENGTH_LIMIT: i64 = 50;

/// Who sends requests.
enum Sender {
    User(&'static str),
    Group(&'static str),
    Account(&'static str, &'static str),
}

/// What they ask for: verbs, group, resources, namespaces (none: of the cluster as well as of all namespaces), URLs.
enum Asked {
    Everything,
    Resources(&'static [&'static str], &'static str, &'static [&'static str], &'static [&'static str]),
    Urls(&'static [&'static str]),
}

struct Schema {
    name: &'static str,
    level: &'static str,
    precedence: i64,
    /// How requests fall into flows: `ByUser`, `ByNamespace` or all into one.
    flows: &'static str,
    from: &'static [Sender],
    what: &'static [Asked],
}

const LEASES: Asked = Asked::Resources(&["get", "create", "update"], "coordination.k8s.io", &["leases"], &["*"]);
const SYSTEM_LEASES: Asked =
    Asked::Resources(&["get", "create", "update"], "coordination.k8s.io", &["leases"], &["kube-system"]);

const SCHEMAS: [Schema; 13] = [
    schema("exempt", "exempt", 1, "", &[Sender::Group("system:masters")], &[Asked::Everything]),
    schema(
        "probes",
        "exempt",
        2,
        "",
        &[Sender::Group(UNAUTHENTICATED), Sender::Group(AUTHENTICATED)],
        &[Asked::Urls(&["/healthz", "/readyz", "/livez"])],
    ),
    schema(
        "system-leader-election",
        "leader-election",
        100,
        "ByUser",
        &[Sender::User("system:kube-controller-manager"), Sender::User("system:kube-scheduler")],
        &[SYSTEM_LEASES],
    ),
    schema(
        "endpoint-controller",
        "workload-high",
        150,
        "ByUser",
        &[
            Sender::User("system:kube-controller-manager"),
            Sender::Account("kube-system", "endpoint-controller"),
            Sender::Account("kube-system", "endpointslice-controller"),
        ],
        &[
            Asked::Resources(&["get", "create", "update"], "", &["endpoints"], &["*"]),
            Asked::Resources(&["get", "create", "update"], "discovery.k8s.io", &["endpointslices"], &["*"]),
        ],
    ),
    schema(
        "workload-leader-election",
        "leader-election",
        200,
        "ByUser",
        &[Sender::Account("kube-system", "*")],
        &[LEASES],
    ),
    schema(
        "system-node-high",
        "node-high",
        400,
        "ByUser",
        &[Sender::Group("system:nodes")],
        &[
            Asked::Resources(&["*"], "", &["nodes", "nodes/status"], &["*"]),
            Asked::Resources(&["*"], "coordination.k8s.io", &["leases"], &["*"]),
        ],
    ),
    schema("system-nodes", "system", 500, "ByUser", &[Sender::Group("system:nodes")], &[Asked::Everything]),
    schema(
        "kube-controller-manager",
        "workload-high",
        800,
        "ByNamespace",
        &[Sender::User("system:kube-controller-manager")],
        &[Asked::Everything],
    ),
    schema(
        "kube-scheduler",
        "workload-high",
        800,
        "ByNamespace",
        &[Sender::User("system:kube-scheduler")],
        &[Asked::Everything],
    ),
    schema(
        "kube-system-service-accounts",
        "workload-high",
        900,
        "ByNamespace",
        &[Sender::Account("kube-system", "*")],
        &[Asked::Everything],
    ),
    schema(
        "service-accounts",
        "workload-low",
        9000,
        "ByUser",
        &[Sender::Group("system:serviceaccounts")],
        &[Asked::Everything],
    ),
    schema(
        "global-default",
        "global-default",
        9900,
        "ByUser",
        &[Sender::Group(UNAUTHENTICATED), Sender::Group(AUTHENTICATED)],
        &[Asked::Everything],
    ),
    schema(
        "catch-all",
        "catch-all",
        10_000,
        "ByUser",
        &[Sender::Group(UNAUTHENTICATED), Sender::Group(AUTHENTICATED)],
        &[Asked::Everything],
    ),
];

const fn schema(
    name: &'static str,
    level: &'static str,
    precedence: i64,
    flows: &'static str,
    from: &'static [Sender],
    what: &'static [Asked],
) -> Schema {
    Schema { name, level, precedence, flows, from, what }
}

/// The priority levels and flow schemas that upstream makes in every cluster.
pub fn flow_control_objects() -> Vec<Object> {
    let mut objects = vec![level(
        "exempt",
        &json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
    )];
    objects.extend(LEVELS.iter().map(|(name, shares, lendable, queues)| {
        let response = match queues {
            None => json!({"type": "Reject"}),
            Some((queues, hand)) => json!({
                "type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": QUEUE_LENGTH_LIMIT},
            }),
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        level(name, &json!({"type": "Limited", "limited": limited}))
    }));
    objects.extend(SCHEMAS.iter().map(schema_object));
    objects
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}})
}

fn level(name: &str, spec: &Value) -> Object {
    json!({"apiVersion": GROUP_VERSION, "kind": "PriorityLevelConfiguration", "metadata": metadata(name), "spec": spec})
}

fn schema_object(schema: &Schema) -> Object {
    let subjects: Vec<_> = schema.from.iter().map(subject).collect();
    let mut rule = json!({"subjects": subjects});
    let (mut resources, mut urls) = (Vec::new(), Vec::new());
    for what in schema.what {
        match what {
            Asked::Everything => {
                let all = ["*"];
                resources.push(
                    json!({"verbs": all, "apiGroups": all, "resources": all, "namespaces": all, "clusterScope": true}),
                );
                urls.push(json!({"verbs": all, "nonResourceURLs": all}));
            }
            Asked::Resources(verbs, group, names, namespaces) => {
                let mut rule =
                    json!({"verbs": verbs, "apiGroups": [group], "resources": names, "namespaces": namespaces});
                if names.contains(&"nodes") {
                    rule["clusterScope"] = json!(true);
                }
                resources.push(rule);
            }
            Asked::Urls(paths) => urls.push(json!({"verbs": ["get"], "nonResourceURLs": paths})),
        }
    }
    for (field, rules) in [("resourceRules", resources), ("nonResourceRules", urls)] {
        if !rules.is_empty() {
            rule[field] = json!(rules);
        }
    }
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": schema.level},
        "matchingPrecedence": schema.precedence,
        "rules": [rule],
    });
    if !schema.flows.is_empty() {
        spec["distinguisherMethod"] = json!({"type": schema.flows});
    }
    json!({"apiVersion": GROUP_VERSION, "kind": "FlowSchema", "metadata": metadata(schema.name), "spec": spec})
}

fn subject(from: &Sender) -> Value {
    match from {
        Sender::User(name) => json!({"kind": "User", "user": {"name": name}}),
        Sender::Group(name) => json!({"kind": "Group", "group": {"name": name}}),
        Sender::Account(namespace, name) => {
            json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}})
        }
    }
}
