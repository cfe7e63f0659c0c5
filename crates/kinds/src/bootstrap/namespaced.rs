//! The Roles in the system namespaces, and the bindings of everything but the controllers.

use super::{Binding, NO_ROLE, Role, account, group, on, user};

/// Roles in `kube-system` and `kube-public`.
pub(super) const ROLES: &[Role] = &[
    Role {
        name: "system:controller:bootstrap-signer",
        namespace: "kube-public",
        rules: &[
            on("core", "configmaps", "get list watch"),
            on("core", "configmaps", "update").named("cluster-info"),
            on("core events.k8s.io", "events", "create patch update"),
        ],
        ..NO_ROLE
    },
    Role {
        name: "extension-apiserver-authentication-reader",
        namespace: "kube-system",
        rules: &[on("core", "configmaps", "get list watch").named("extension-apiserver-authentication")],
        ..NO_ROLE
    },
    Role {
        name: "system::leader-locking-kube-controller-manager",
        namespace: "kube-system",
        rules: &[
            on("coordination.k8s.io", "leases", "create get list update watch"),
            on("coordination.k8s.io", "leasecandidates", "create get list update watch"),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system::leader-locking-kube-scheduler",
        namespace: "kube-system",
        rules: &[
            on("coordination.k8s.io", "leases", "create get list update watch"),
            on("coordination.k8s.io", "leasecandidates", "create get list update watch"),
        ],
        ..NO_ROLE
    },
    Role {
        name: "system:controller:bootstrap-signer",
        namespace: "kube-system",
        rules: &[on("core", "secrets", "get list watch")],
        ..NO_ROLE
    },
    Role {
        name: "system:controller:cloud-provider",
        namespace: "kube-system",
        rules: &[on("core", "configmaps", "create get list watch")],
        ..NO_ROLE
    },
    Role {
        name: "system:controller:token-cleaner",
        namespace: "kube-system",
        rules: &[
            on("core", "secrets", "delete get list watch"),
            on("core events.k8s.io", "events", "create patch update"),
        ],
        ..NO_ROLE
    },
];

/// ClusterRoleBindings (without a namespace) and RoleBindings.
pub(super) const BINDINGS: &[Binding] = &[
    // Those by which machines become nodes, as kubeadm names and makes them.
    Binding {
        name: "kubeadm:kubelet-bootstrap",
        namespace: "",
        role: "system:node-bootstrapper",
        subjects: &[group("system:bootstrappers")],
    },
    Binding {
        name: "kubeadm:node-autoapprove-bootstrap",
        namespace: "",
        role: "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        subjects: &[group("system:bootstrappers")],
    },
    Binding {
        name: "kubeadm:node-autoapprove-certificate-rotation",
        namespace: "",
        role: "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        subjects: &[group("system:nodes")],
    },
    // A node's service rules, its DNS and the provisioner of its disk are in the agent's process and have its name.
    Binding {
        name: "skiff:nodes:proxier",
        namespace: "",
        role: "system:node-proxier",
        subjects: &[group("system:nodes")],
    },
    Binding {
        name: "skiff:nodes:network",
        namespace: "",
        role: "skiff:node-network",
        subjects: &[group("system:nodes")],
    },
    Binding {
        name: "skiff:nodes:local-path-provisioner",
        namespace: "",
        role: "system:controller:local-path-provisioner",
        subjects: &[group("system:nodes")],
    },
    Binding { name: "cluster-admin", namespace: "", role: "cluster-admin", subjects: &[group("system:masters")] },
    Binding {
        name: "system:basic-user",
        namespace: "",
        role: "system:basic-user",
        subjects: &[group("system:authenticated")],
    },
    Binding {
        name: "system:cluster-trust-bundle-discovery",
        namespace: "",
        role: "system:cluster-trust-bundle-discovery",
        subjects: &[group("system:serviceaccounts")],
    },
    Binding {
        name: "system:discovery",
        namespace: "",
        role: "system:discovery",
        subjects: &[group("system:authenticated")],
    },
    Binding {
        name: "system:kube-controller-manager",
        namespace: "",
        role: "system:kube-controller-manager",
        subjects: &[user("system:kube-controller-manager")],
    },
    Binding {
        name: "system:kube-dns",
        namespace: "",
        role: "system:kube-dns",
        subjects: &[account("kube-system", "kube-dns")],
    },
    Binding {
        name: "system:kube-scheduler",
        namespace: "",
        role: "system:kube-scheduler",
        subjects: &[user("system:kube-scheduler")],
    },
    Binding {
        name: "system:monitoring",
        namespace: "",
        role: "system:monitoring",
        subjects: &[group("system:monitoring")],
    },
    Binding { name: "system:node", namespace: "", role: "system:node", subjects: &[] },
    Binding {
        name: "system:node-proxier",
        namespace: "",
        role: "system:node-proxier",
        subjects: &[user("system:kube-proxy")],
    },
    Binding {
        name: "system:public-info-viewer",
        namespace: "",
        role: "system:public-info-viewer",
        subjects: &[group("system:authenticated"), group("system:unauthenticated")],
    },
    Binding {
        name: "system:service-account-issuer-discovery",
        namespace: "",
        role: "system:service-account-issuer-discovery",
        subjects: &[group("system:serviceaccounts")],
    },
    Binding {
        name: "system:volume-scheduler",
        namespace: "",
        role: "system:volume-scheduler",
        subjects: &[user("system:kube-scheduler")],
    },
    Binding {
        name: "system:controller:bootstrap-signer",
        namespace: "kube-public",
        role: "system:controller:bootstrap-signer",
        subjects: &[account("kube-system", "bootstrap-signer")],
    },
    Binding {
        name: "system::extension-apiserver-authentication-reader",
        namespace: "kube-system",
        role: "extension-apiserver-authentication-reader",
        subjects: &[user("system:kube-controller-manager"), user("system:kube-scheduler")],
    },
    Binding {
        name: "system::leader-locking-kube-controller-manager",
        namespace: "kube-system",
        role: "system::leader-locking-kube-controller-manager",
        subjects: &[
            user("system:kube-controller-manager"),
            account("kube-system", "kube-controller-manager"),
            account("kube-system", "leader-election-controller"),
        ],
    },
    Binding {
        name: "system::leader-locking-kube-scheduler",
        namespace: "kube-system",
        role: "system::leader-locking-kube-scheduler",
        subjects: &[user("system:kube-scheduler"), account("kube-system", "kube-scheduler")],
    },
    Binding {
        name: "system:controller:bootstrap-signer",
        namespace: "kube-system",
        role: "system:controller:bootstrap-signer",
        subjects: &[account("kube-system", "bootstrap-signer")],
    },
    Binding {
        name: "system:controller:cloud-provider",
        namespace: "kube-system",
        role: "system:controller:cloud-provider",
        subjects: &[account("kube-system", "cloud-provider")],
    },
    Binding {
        name: "system:controller:token-cleaner",
        namespace: "kube-system",
        role: "system:controller:token-cleaner",
        subjects: &[account("kube-system", "token-cleaner")],
    },
];
