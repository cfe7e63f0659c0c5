//! The objects that a new cluster starts with: the default roles and their bindings, the two system
//! priority classes, the priority levels of requests, and the definitions of the Gateway API. Tables of our own, unfolded into objects when the API server asks for them.

mod cluster_roles;
mod controller_roles;
mod flow_control;
mod gateway;
mod namespaced;

pub use flow_control::flow_control_objects;
pub use gateway::{
    BUNDLE_VERSION, GATEWAY_CONTROLLER, GATEWAY_GROUP, gateway_class, gateway_definitions, is_untouched,
};
use serde_json::{Value, json};
use skiff_base::gates::Gates;
use skiff_object::Object;
use skiff_object::meta::Meta;

const RBAC: &str = "rbac.authorization.k8s.io";

/// The provisioner that every node is for its own disk; also the name of its account, after the slash.
pub const LOCAL_PATH_PROVISIONER: &str = "skiff.io/local-path";
/// What serves the Ingresses of the first IngressClass.
pub const INGRESS_CONTROLLER: &str = "skiff.io/ingress";

/// A role: a ClusterRole where it names no namespace.
struct Role {
    name: &'static str,
    namespace: &'static str,
    /// The aggregated role (`admin`, `edit`, `view`) that this one's rules become part of.
    feeds: &'static str,
    /// The aggregation that makes up this role's rules.
    collects: &'static str,
    rules: &'static [Rule],
    /// The feature gate without which there is no such role.
    gate: &'static str,
}

const NO_ROLE: Role = Role { name: "", namespace: "", feeds: "", collects: "", rules: &[], gate: "" };

/// What may be done; each field is a list of words with spaces between, `core` being the core group.
struct Rule {
    groups: &'static str,
    resources: &'static str,
    verbs: &'static str,
    names: &'static str,
    urls: &'static str,
    /// The feature gate without which the rule is not there.
    gate: &'static str,
}

const fn on(groups: &'static str, resources: &'static str, verbs: &'static str) -> Rule {
    Rule { groups, resources, verbs, names: "", urls: "", gate: "" }
}

const fn urls(urls: &'static str, verbs: &'static str) -> Rule {
    Rule { groups: "", resources: "", verbs, names: "", urls, gate: "" }
}

impl Rule {
    const fn named(mut self, names: &'static str) -> Self {
        self.names = names;
        self
    }

    const fn gated(mut self, gate: &'static str) -> Self {
        self.gate = gate;
        self
    }

    fn object(&self) -> Value {
        if !self.urls.is_empty() {
            return json!({"nonResourceURLs": words(self.urls), "verbs": words(self.verbs)});
        }
        let mut rule =
            json!({"apiGroups": words(self.groups), "resources": words(self.resources), "verbs": words(self.verbs)});
        if !self.names.is_empty() {
            rule["resourceNames"] = json!(words(self.names));
        }
        rule
    }
}

fn words(list: &'static str) -> Vec<&'static str> {
    list.split(' ').map(|word| if word == "core" { "" } else { word }).collect()
}

/// A binding to a role of the same kind: of the cluster where it names no namespace.
struct Binding {
    name: &'static str,
    namespace: &'static str,
    role: &'static str,
    subjects: &'static [Subject],
}

enum Subject {
    User(&'static str),
    Group(&'static str),
    ServiceAccount { namespace: &'static str, name: &'static str },
}

const fn user(name: &'static str) -> Subject {
    Subject::User(name)
}

const fn group(name: &'static str) -> Subject {
    Subject::Group(name)
}

const fn account(namespace: &'static str, name: &'static str) -> Subject {
    Subject::ServiceAccount { namespace, name }
}

impl Subject {
    fn object(&self) -> Value {
        match self {
            Self::User(name) => json!({"apiGroup": RBAC, "kind": "User", "name": name}),
            Self::Group(name) => json!({"apiGroup": RBAC, "kind": "Group", "name": name}),
            Self::ServiceAccount { namespace, name } => {
                json!({"kind": "ServiceAccount", "name": name, "namespace": namespace})
            }
        }
    }
}

/// The default ClusterRoles, Roles and their bindings. The rules of the aggregated roles (`admin`, `edit`, `view`)
/// are filled in as the aggregating controller would do it, so that they hold from the first request on.
pub fn rbac_objects(gates: &Gates) -> Vec<Object> {
    use cluster_roles::CLUSTER_ROLES;
    use controller_roles::CONTROLLER_ROLES;

    let is_there = |role: &&Role| is_on(role.gate, gates);
    let roles = CLUSTER_ROLES.iter().chain(CONTROLLER_ROLES).chain(namespaced::ROLES);
    let absent: Vec<_> = roles.clone().filter(|role| !is_there(role)).map(|role| role.name).collect();
    let mut objects: Vec<_> = roles.filter(is_there).map(|role| role_object(role, CLUSTER_ROLES, gates)).collect();
    let bindings = namespaced::BINDINGS.iter().filter(|binding| !absent.contains(&binding.role));
    objects.extend(bindings.map(binding_object));
    objects.extend(CONTROLLER_ROLES.iter().filter(is_there).map(|role| {
        let controller = role.name.strip_prefix("system:controller:").unwrap_or(role.name);
        binding_object_of(role.name, "", role.name, &[account("kube-system", controller)])
    }));
    objects
}

fn is_on(gate: &str, gates: &Gates) -> bool {
    gate.is_empty() || gates.enabled(gate)
}

fn metadata(name: &str, namespace: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    });
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

fn role_object(role: &Role, all: &[Role], gates: &Gates) -> Object {
    let kind = if role.namespace.is_empty() { "ClusterRole" } else { "Role" };
    let mut object = json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": kind,
        "metadata": metadata(role.name, role.namespace),
        "rules": collected_rules(role, all, gates),
    });
    let label = |target: &str| format!("{RBAC}/aggregate-to-{target}");
    if !role.feeds.is_empty() {
        object.set_at(&["metadata", "labels", &label(role.feeds)], "true");
    }
    if !role.collects.is_empty() {
        object["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label(role.collects): "true"}}]});
    }
    object
}

/// The role's own rules, or for an aggregated role those of all that feed it, each once.
fn collected_rules(role: &Role, all: &[Role], gates: &Gates) -> Vec<Value> {
    if role.collects.is_empty() {
        return role.rules.iter().filter(|rule| is_on(rule.gate, gates)).map(Rule::object).collect();
    }
    let mut rules = Vec::new();
    for feeder in all.iter().filter(|feeder| feeder.feeds == role.collects) {
        for rule in collected_rules(feeder, all, gates) {
            if !rules.contains(&rule) {
                rules.push(rule);
            }
        }
    }
    rules
}

fn binding_object(binding: &Binding) -> Object {
    binding_object_of(binding.name, binding.namespace, binding.role, binding.subjects)
}

fn binding_object_of(name: &str, namespace: &str, role: &str, subjects: &[Subject]) -> Object {
    let (kind, role_kind) =
        if namespace.is_empty() { ("ClusterRoleBinding", "ClusterRole") } else { ("RoleBinding", "Role") };
    let mut object = json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": kind,
        "metadata": metadata(name, namespace),
        "roleRef": {"apiGroup": RBAC, "kind": role_kind, "name": role},
    });
    if !subjects.is_empty() {
        object["subjects"] = subjects.iter().map(Subject::object).collect();
    }
    object
}

/// The priority classes of the parts that a cluster and a node cannot do without.
/// See <https://kubernetes.io/docs/tasks/administer-cluster/guaranteed-scheduling-critical-addon-pods/>.
pub fn priority_classes() -> Vec<Object> {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1",
            "kind": "PriorityClass",
            "metadata": {"name": name},
            "value": value,
            "preemptionPolicy": "PreemptLowerPriority",
            "description": description,
        })
    };
    vec![
        class(
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
        class(
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
    ]
}

/// The class of claims that name none, made once: volumes on the disk of the node that the claim's first Pod is sent to.
pub fn storage_classes() -> Vec<Object> {
    vec![json!({
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": LOCAL_PATH_PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",
        "allowVolumeExpansion": true,
    })]
}

/// The class of Ingresses that name none, made once: served by the node itself.
pub fn ingress_classes() -> Vec<Object> {
    vec![json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IngressClass",
        "metadata": {"name": "skiff", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}},
        "spec": {"controller": INGRESS_CONTROLLER},
    })]
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use skiff_base::gates;

    use super::*;

    fn check(kind: &str, namespace: &str, name: &str, expected: Expect) {
        let objects = rbac_objects(&Gates::default());
        let found: Vec<_> = objects
            .iter()
            .filter(|o| o.str_at(&["kind"]) == kind && o.namespace() == namespace && o.name() == name)
            .collect();
        assert_eq!(found.len(), 1, "{kind} {namespace}/{name}");
        expected.assert_eq(&serde_json::to_string(found[0]).expect("a tree can be written"));
    }

    #[test]
    fn roles_and_bindings_are_unfolded() {
        check(
            "ClusterRole",
            "",
            "cluster-admin",
            expect![[
                r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"true"},"labels":{"kubernetes.io/bootstrapping":"rbac-defaults"},"name":"cluster-admin"},"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]},{"nonResourceURLs":["*"],"verbs":["*"]}]}"#
            ]],
        );
        check(
            "ClusterRole",
            "",
            "system:kube-dns",
            expect![[
                r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"true"},"labels":{"kubernetes.io/bootstrapping":"rbac-defaults"},"name":"system:kube-dns"},"rules":[{"apiGroups":[""],"resources":["endpoints","services"],"verbs":["list","watch"]}]}"#
            ]],
        );
        check(
            "Role",
            "kube-system",
            "extension-apiserver-authentication-reader",
            expect![[
                r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"true"},"labels":{"kubernetes.io/bootstrapping":"rbac-defaults"},"name":"extension-apiserver-authentication-reader","namespace":"kube-system"},"rules":[{"apiGroups":[""],"resourceNames":["extension-apiserver-authentication"],"resources":["configmaps"],"verbs":["get","list","watch"]}]}"#
            ]],
        );
        check(
            "ClusterRoleBinding",
            "",
            "system:controller:job-controller",
            expect![[
                r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"true"},"labels":{"kubernetes.io/bootstrapping":"rbac-defaults"},"name":"system:controller:job-controller"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"system:controller:job-controller"},"subjects":[{"kind":"ServiceAccount","name":"job-controller","namespace":"kube-system"}]}"#
            ]],
        );
        check(
            "RoleBinding",
            "kube-system",
            "system::leader-locking-kube-scheduler",
            expect![[
                r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"RoleBinding","metadata":{"annotations":{"rbac.authorization.kubernetes.io/autoupdate":"true"},"labels":{"kubernetes.io/bootstrapping":"rbac-defaults"},"name":"system::leader-locking-kube-scheduler","namespace":"kube-system"},"roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"Role","name":"system::leader-locking-kube-scheduler"},"subjects":[{"apiGroup":"rbac.authorization.k8s.io","kind":"User","name":"system:kube-scheduler"},{"kind":"ServiceAccount","name":"kube-scheduler","namespace":"kube-system"}]}"#
            ]],
        );
    }

    #[test]
    fn aggregated_roles_hold_the_rules_of_their_feeders() {
        let objects = rbac_objects(&Gates::default());
        let rules = |name: &str| {
            let role = objects.iter().find(|o| o.str_at(&["kind"]) == "ClusterRole" && o.name() == name);
            role.expect(name).list_at(&["rules"]).to_vec()
        };
        let (view, edit, admin) = (rules("view"), rules("edit"), rules("admin"));
        assert!(!view.is_empty());
        assert!(view.iter().all(|rule| edit.contains(rule)), "edit can all that view can");
        assert!(edit.iter().all(|rule| admin.contains(rule)), "admin can all that edit can");
    }

    #[test]
    fn what_has_a_gate_is_there_where_it_is_on() {
        let on = Gates::of([(gates::CLUSTER_TRUST_BUNDLE, true)]).expect("it can be so");
        let (without, with) = (rbac_objects(&Gates::default()), rbac_objects(&on));
        let said = |objects: &[Object]| objects.iter().filter(|o| o.to_string().contains("clustertrustbundle")).count();
        assert_eq!((said(&without), said(&with)), (0, 4));
        let added: Vec<_> = with.iter().filter(|o| !without.contains(o)).map(Meta::name).collect();
        let publisher = "system:controller:kube-apiserver-serving-clustertrustbundle-publisher";
        let discovery = "system:cluster-trust-bundle-discovery";
        assert_eq!(added, [discovery, "system:node", publisher, discovery, publisher]);
    }

    #[test]
    fn who_may_see_and_change_groups_may_do_so_where_there_are_any() {
        let on = Gates::of([(gates::GENERIC_WORKLOAD, true)]).expect("it can be so");
        let (without, with) = (rbac_objects(&Gates::default()), rbac_objects(&on));
        let added: Vec<_> = with.iter().filter(|o| !without.contains(o)).map(Meta::name).collect();
        let guard = "system:controller:podgroup-protection-controller";
        let scheduler = "system:kube-scheduler";
        let people = ["admin", "edit", "system:aggregate-to-edit", "system:aggregate-to-view"];
        assert_eq!(added[..4], people);
        assert_eq!(added[4..], [scheduler, "view", guard, guard]);
    }

    #[test]
    fn names_are_unique_and_bindings_find_their_roles() {
        let on = [(gates::CLUSTER_TRUST_BUNDLE, true), (gates::GENERIC_WORKLOAD, true)];
        let objects = rbac_objects(&Gates::of(on).expect("they can be so"));
        let key = |o: &Object| format!("{} {}/{}", o.str_at(&["kind"]), o.namespace(), o.name());
        let keys: std::collections::BTreeSet<_> = objects.iter().map(key).collect();
        assert_eq!(keys.len(), objects.len());
        for binding in objects.iter().filter(|o| o.at(&["roleRef"]).is_some()) {
            let (kind, name) = (binding.str_at(&["roleRef", "kind"]), binding.str_at(&["roleRef", "name"]));
            assert!(keys.contains(&format!("{kind} {}/{name}", binding.namespace())), "{kind} {name}");
        }
    }
}
