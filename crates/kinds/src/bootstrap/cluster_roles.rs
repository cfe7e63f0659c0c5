//! The ClusterRoles that every cluster has: for people, and for the parts of the cluster.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#default-roles-and-role-bindings>.

use skiff_base::gates::{CLUSTER_TRUST_BUNDLE, GENERIC_WORKLOAD};

use super::{NO_ROLE, Role, on, urls};

/// ClusterRoles for people and parts, in the order of their names.
pub(super) const CLUSTER_ROLES: &[Role] = &[
    Role { name: "admin", collects: "admin", rules: &[], ..NO_ROLE },
    Role { name: "cluster-admin", rules: &[on("*", "*", "*"), urls("*", "*")], ..NO_ROLE },
    Role { name: "edit", feeds: "admin", collects: "edit", rules: &[], ..NO_ROLE },
    Role {
        name: "system:aggregate-to-admin",
        feeds: "admin",
        rules: &[
            on("authorization.k8s.io", "localsubjectaccessreviews", "create"),
            on(
                "rbac.authorization.k8s.io",
                "rolebindings roles",
                "create delete deletecollection get list patch update watch",
            ),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:aggregate-to-edit",
        feeds: "edit",
        rules: &[
            on("core", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy", "get list watch"),
            on("core", "serviceaccounts", "impersonate"),
            on(
                "core",
                "pods pods/attach pods/exec pods/portforward pods/proxy",
                "create delete deletecollection patch update",
            ),
            on("core", "pods/eviction", "create"),
            on(
                "core",
                "configmaps persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets serviceaccounts services services/proxy",
                "create delete deletecollection patch update",
            ),
            on("core", "serviceaccounts/token", "create"),
            on("core events.k8s.io", "events", "create delete deletecollection patch update"),
            on(
                "apps",
                "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale",
                "create delete deletecollection patch update",
            ),
            on("autoscaling", "horizontalpodautoscalers", "create delete deletecollection patch update"),
            on("batch", "cronjobs jobs", "create delete deletecollection patch update"),
            on(
                "extensions",
                "daemonsets deployments deployments/rollback deployments/scale ingresses networkpolicies replicasets replicasets/scale replicationcontrollers/scale",
                "create delete deletecollection patch update",
            ),
            on("policy", "poddisruptionbudgets", "create delete deletecollection patch update"),
            on("networking.k8s.io", "ingresses networkpolicies", "create delete deletecollection patch update"),
            on("coordination.k8s.io", "leases", "create delete deletecollection get list patch update watch"),
            on(
                "resource.k8s.io",
                "resourceclaims resourceclaimtemplates",
                "create delete deletecollection patch update",
            ),
            on("scheduling.k8s.io", "podgroups workloads", "create delete deletecollection patch update")
                .gated(GENERIC_WORKLOAD),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:aggregate-to-view",
        feeds: "view",
        rules: &[
            on(
                "core",
                "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status",
                "get list watch",
            ),
            on(
                "core",
                "bindings limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas resourcequotas/status",
                "get list watch",
            ),
            on("core", "namespaces", "get list watch"),
            on("core events.k8s.io", "events", "get list watch"),
            on("discovery.k8s.io", "endpointslices", "get list watch"),
            on(
                "apps",
                "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
                "get list watch",
            ),
            on("autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status", "get list watch"),
            on("batch", "cronjobs cronjobs/status jobs jobs/status", "get list watch"),
            on(
                "extensions",
                "daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status networkpolicies replicasets replicasets/scale replicasets/status replicationcontrollers/scale",
                "get list watch",
            ),
            on("policy", "poddisruptionbudgets poddisruptionbudgets/status", "get list watch"),
            on("networking.k8s.io", "ingresses ingresses/status networkpolicies", "get list watch"),
            on("resource.k8s.io", "resourceclaims resourceclaims/status resourceclaimtemplates", "get list watch"),
            on("scheduling.k8s.io", "podgroups podgroups/status workloads", "get list watch").gated(GENERIC_WORKLOAD),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:auth-delegator",
        rules: &[
            on("authentication.k8s.io", "tokenreviews", "create"),
            on("authorization.k8s.io", "subjectaccessreviews", "create"),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:basic-user",
        rules: &[
            on("authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews", "create"),
            on("authentication.k8s.io", "selfsubjectreviews", "create"),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        rules: &[on("certificates.k8s.io", "certificatesigningrequests/nodeclient", "create")],
        ..NO_ROLE
    },
    Role {
        name: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        rules: &[on("certificates.k8s.io", "certificatesigningrequests/selfnodeclient", "create")],
        ..NO_ROLE
    },
    Role {
        name: "system:certificates.k8s.io:kube-apiserver-client-approver",
        rules: &[on("certificates.k8s.io", "signers", "approve").named("kubernetes.io/kube-apiserver-client")],
        ..NO_ROLE
    },
    Role {
        name: "system:certificates.k8s.io:kube-apiserver-client-kubelet-approver",
        rules: &[on("certificates.k8s.io", "signers", "approve").named("kubernetes.io/kube-apiserver-client-kubelet")],
        ..NO_ROLE
    },
    Role {
        name: "system:certificates.k8s.io:kubelet-serving-approver",
        rules: &[on("certificates.k8s.io", "signers", "approve").named("kubernetes.io/kubelet-serving")],
        ..NO_ROLE
    },
    Role {
        name: "system:certificates.k8s.io:legacy-unknown-approver",
        rules: &[on("certificates.k8s.io", "signers", "approve").named("kubernetes.io/legacy-unknown")],
        ..NO_ROLE
    },
    Role {
        name: "system:cluster-trust-bundle-discovery",
        rules: &[on("certificates.k8s.io", "clustertrustbundles", "get list watch")],
        gate: CLUSTER_TRUST_BUNDLE,
        ..NO_ROLE
    },
    Role {
        name: "system:discovery",
        rules: &[urls(
            "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
            "get",
        )],
        ..NO_ROLE
    },
    Role {
        name: "system:heapster",
        rules: &[
            on("core", "events namespaces nodes pods", "get list watch"),
            on("extensions", "deployments", "get list watch"),
        ],
        ..NO_ROLE
    },
    Role { name: "system:kube-aggregator", rules: &[on("core", "endpoints services", "get list watch")], ..NO_ROLE },
    Role {
        name: "system:kube-controller-manager",
        rules: &[
            on("core events.k8s.io", "events", "create patch update"),
            on("coordination.k8s.io", "leases", "create"),
            on("coordination.k8s.io", "leases", "get update").named("kube-controller-manager"),
            on("core", "secrets serviceaccounts", "create"),
            on("core", "secrets", "delete"),
            on("core", "configmaps namespaces secrets serviceaccounts", "get"),
            on("core", "secrets serviceaccounts", "update"),
            on("authentication.k8s.io", "tokenreviews", "create"),
            on("authorization.k8s.io", "subjectaccessreviews", "create"),
            on("*", "*", "list watch"),
            on("core", "serviceaccounts/token", "create"),
        ],
        ..NO_ROLE
    },
    Role { name: "system:kube-dns", rules: &[on("core", "endpoints services", "list watch")], ..NO_ROLE },
    Role {
        name: "system:kube-scheduler",
        rules: &[
            on("core events.k8s.io", "events", "create patch update"),
            on("coordination.k8s.io", "leases", "create"),
            on("coordination.k8s.io", "leases", "get list update watch").named("kube-scheduler"),
            on("coordination.k8s.io", "leasecandidates", "create delete deletecollection get list patch update watch"),
            on("core", "nodes", "get list watch"),
            on("core", "pods", "delete get list watch"),
            on("core", "bindings pods/binding", "create"),
            on("core", "pods/status", "patch update"),
            on("core", "replicationcontrollers services", "get list watch"),
            on("apps extensions", "replicasets", "get list watch"),
            on("apps", "statefulsets", "get list watch"),
            on("policy", "poddisruptionbudgets", "get list watch"),
            on("core", "persistentvolumeclaims persistentvolumes", "get list watch"),
            on("authentication.k8s.io", "tokenreviews", "create"),
            on("authorization.k8s.io", "subjectaccessreviews", "create"),
            on("storage.k8s.io", "csinodes", "get list watch"),
            on("storage.k8s.io", "volumeattachments", "get list watch"),
            on("core", "namespaces", "get list watch"),
            on("storage.k8s.io", "csidrivers", "get list watch"),
            on("storage.k8s.io", "csistoragecapacities", "get list watch"),
            on("resource.k8s.io", "deviceclasses", "get list watch"),
            on("resource.k8s.io", "resourceclaims", "get list patch update watch"),
            on("resource.k8s.io", "resourceclaims/status", "get list patch update watch"),
            on("core", "pods/finalizers", "update"),
            on("resource.k8s.io", "resourceslices", "get list watch"),
            on("resource.k8s.io", "resourceclaims", "create delete"),
            on("resource.k8s.io", "resourceclaims/binding", "patch update"),
            on("scheduling.k8s.io", "podgroups", "get list watch").gated(GENERIC_WORKLOAD),
            on("scheduling.k8s.io", "podgroups/status", "patch update").gated(GENERIC_WORKLOAD),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:kubelet-api-admin",
        rules: &[
            on("core", "nodes", "get list watch"),
            on("core", "nodes", "proxy"),
            on("core", "nodes/log nodes/metrics nodes/proxy nodes/stats", "*"),
            on("core", "nodes/configz nodes/healthz nodes/pods", "*"),
        ],
        ..NO_ROLE
    },
    // Not upstream's: what the network of a node reads beside Services.
    Role {
        name: "skiff:node-network",
        rules: &[
            on("core", "namespaces pods", "list watch"),
            on("networking.k8s.io", "networkpolicies", "list watch"),
            // The cluster's authorities, of which a new one is learnt before it is the only one, and its ranges of addresses.
            on("core", "configmaps", "get").named("kube-root-ca.crt skiff-cluster"),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:monitoring",
        rules: &[
            urls("/flagz /healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/* /statusz", "get"),
            on("core", "nodes/metrics", "get"),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:node",
        rules: &[
            on("authentication.k8s.io", "tokenreviews", "create"),
            on("authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews", "create"),
            on("core", "services", "get list watch"),
            on("core", "nodes", "create get list watch"),
            on("core", "nodes/status", "patch update"),
            on("core", "nodes", "patch update"),
            on("core events.k8s.io", "events", "create patch update"),
            on("core", "pods", "get list watch"),
            on("core", "pods", "create delete"),
            on("core", "pods/status", "patch update"),
            on("core", "pods/eviction", "create"),
            on("core", "configmaps secrets", "get list watch"),
            on("core", "persistentvolumeclaims persistentvolumes", "get"),
            on("core", "endpoints", "get"),
            on("certificates.k8s.io", "certificatesigningrequests", "create get list watch"),
            on("coordination.k8s.io", "leases", "create delete get patch update"),
            on("storage.k8s.io", "volumeattachments", "get"),
            on("core", "serviceaccounts/token", "create"),
            on("core", "persistentvolumeclaims/status", "get patch update"),
            on("storage.k8s.io", "csidrivers", "get list watch"),
            on("storage.k8s.io", "csinodes", "create delete get patch update"),
            on("node.k8s.io", "runtimeclasses", "get list watch"),
            on("resource.k8s.io", "resourceclaims", "get"),
            on("resource.k8s.io", "resourceslices", "deletecollection"),
            on("core", "serviceaccounts", "get"),
            on("certificates.k8s.io", "clustertrustbundles", "get list watch").gated(CLUSTER_TRUST_BUNDLE),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:node-bootstrapper",
        rules: &[on("certificates.k8s.io", "certificatesigningrequests", "create get list watch")],
        ..NO_ROLE
    },
    Role {
        name: "system:node-problem-detector",
        rules: &[
            on("core", "nodes", "get"),
            on("core", "nodes/status", "patch"),
            on("core events.k8s.io", "events", "create patch update"),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:node-proxier",
        rules: &[
            on("core", "endpoints services", "list watch"),
            on("core", "nodes", "get list watch"),
            on("core events.k8s.io", "events", "create patch update"),
            on("networking.k8s.io", "servicecidrs", "list watch"),
            on("discovery.k8s.io", "endpointslices", "list watch"),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:persistent-volume-provisioner",
        rules: &[
            on("core", "persistentvolumes", "create delete get list watch"),
            on("core", "persistentvolumeclaims", "get list update watch"),
            on("storage.k8s.io", "storageclasses", "get list watch"),
            on("core", "events", "watch"),
            on("core events.k8s.io", "events", "create patch update"),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:public-info-viewer",
        rules: &[urls("/healthz /livez /readyz /version /version/", "get")],
        ..NO_ROLE
    },
    Role {
        name: "system:service-account-issuer-discovery",
        rules: &[urls(
            "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
            "get",
        )],
        ..NO_ROLE
    },
    Role {
        name: "system:volume-scheduler",
        rules: &[
            on("core", "persistentvolumes", "get list patch update watch"),
            on("storage.k8s.io", "storageclasses", "get list watch"),
            on("core", "persistentvolumeclaims", "get list patch update watch"),
        ],
        ..NO_ROLE
    },
    Role { name: "view", feeds: "edit", collects: "view", rules: &[], ..NO_ROLE },
];
