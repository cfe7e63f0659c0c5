//! All controllers together: each under its own identity, on shared informers.

use std::future::Future;
use std::sync::Arc;

use k8s_openapi::api::certificates::{v1alpha1, v1beta1};
use skiff_base::Cidr;
use skiff_base::clock::SharedClock;
use skiff_base::ids::Ids;
use skiff_client::{Client, Informers};
use skiff_kinds::ResourceDef;
use tokio::task::JoinSet;

use crate::approval::{Approver, SubjectReader};
use crate::bootstrap_tokens::BootstrapTokens;
use crate::certificates::{Certificates, Signer};
use crate::cron::CronJobs;
use crate::daemon::Daemons;
use crate::deployment::Deployments;
use crate::disruption::{Announcements, Budgets};
use crate::endpoints::{EndpointSlices, LegacyEndpoints, Mirrors};
use crate::gc::GarbageCollector;
use crate::hpa::{Autoscalers, Timing};
use crate::job::{FinishedJobs, Jobs};
use crate::namespace::Namespaces;
use crate::namespace_defaults::{accounts, root_certificates};
use crate::node::{Nodes, Ranges};
use crate::node_ttl::NodeTtl;
use crate::pod_gc::PodCollector;
use crate::pod_groups::PodGroups;
use crate::quota::Quotas;
use crate::replicas::Replicas;
use crate::roles::Roles;
use crate::root_bundle::RootBundle;
use crate::runner::{Controller, Runner, Setup};
use crate::secrets::TokenSecrets;
use crate::service_cidr::ServiceCidrs;
use crate::stateful::StatefulSets;
use crate::volumes::{Attacher, Binder, ClaimProtection, EphemeralVolumes, VolumeProtection};
use crate::{resources, trust_bundles};

/// The name under which what no service account may do is done: that of the user `system:kube-controller-manager`.
pub const MANAGER: &str = "kube-controller-manager";

/// What can be set.
#[derive(Clone, Default)]
pub struct Config {
    /// The certificates (PEM) that pods verify the API server with.
    pub root_ca: Arc<RootBundle>,
    /// The ranges that nodes get their pod ranges from, one of each family and that of the primary one first, each with how
    /// many leading bits the addresses of one node share; none leaves nodes without.
    pub node_ranges: Vec<(Cidr, u8)>,
    /// Signs certificates that were approved; without it nobody does.
    pub signer: Option<Signer>,
    /// Reads what certificate requests ask for; without it none is approved by itself.
    pub subjects: Option<SubjectReader>,
    /// How the autoscaler keeps time.
    pub autoscaler: Timing,
    /// The kinds that are served because they were asked for, beside the ones that always are.
    pub asked_for: Vec<&'static ResourceDef>,
    /// Whether Jobs are given Workloads and PodGroups.
    pub job_groups: bool,
}

/// The controllers.
pub struct ControllerManager;

/// Running controllers; they end when this is dropped.
pub struct Handle {
    tasks: JoinSet<()>,
}

impl Handle {
    /// Ends all controllers; writes under way are completed by the server.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

struct Starter<'a, F> {
    clients: F,
    informers: &'a Informers,
    clock: SharedClock,
    ids: Arc<Ids>,
    tasks: JoinSet<()>,
    /// The accounts of those that were started.
    named: Vec<&'static str>,
}

impl<F: Fn(&str) -> Client> Starter<'_, F> {
    /// Starts a controller that plans, under the identity of its name.
    fn plan(&mut self, name: &'static str, make: impl FnOnce(&mut Setup) -> Arc<dyn Controller>) {
        let mut setup = Setup::new(self.informers, self.ids.clone()).named(&self.queue_name(name));
        let controller = make(&mut setup);
        let client = (self.clients)(name);
        self.tasks.spawn(Runner::run(component(name), setup, controller, client, self.clock.clone()));
    }

    /// The name of a controller's queue among the figures: upstream's where it has one. Two controllers may have one account.
    fn queue_name(&mut self, account: &'static str) -> String {
        let name = match account {
            "replication-controller" => "replicationmanager",
            "ttl-after-finished-controller" => "ttl_jobs_to_delete",
            "endpointslice-controller" => "endpoint_slice",
            "endpointslicemirroring-controller" => "endpoint_slice_mirroring",
            "resourcequota-controller" => "resourcequota_primary",
            "service-cidrs-controller" => "servicecidrs",
            "ttl-controller" => "ttlcontroller",
            "token-cleaner" => "token_cleaner",
            "service-account-controller" => "serviceaccount",
            "root-ca-cert-publisher" => "root_ca_cert_publisher",
            "kube-apiserver-serving-clustertrustbundle-publisher" => "ca_cert_publisher_cluster_trust_bundles",
            "node-controller" => "node_lifecycle_controller",
            "pod-garbage-collector" => "orphaned_pods_nodes",
            "clusterrole-aggregation-controller" => "ClusterRoleAggregator",
            "horizontal-pod-autoscaler" => "horizontalpodautoscaler",
            "persistent-volume-binder" => "claims",
            "pvc-protection-controller" => "pvcprotection",
            "pv-protection-controller" => "pvprotection",
            "podgroup-protection-controller" => "podgroupprotection",
            "ephemeral-volume-controller" => "ephemeral_volume",
            MANAGER => "serviceaccount_tokens_service",
            "daemon-set-controller" => "daemonset",
            "disruption-controller" if self.named.contains(&account) => "disruption_recheck",
            "certificate-controller" if self.named.contains(&account) => "certificate_approving",
            other => other.trim_end_matches("-controller"),
        };
        self.named.push(account);
        name.to_owned()
    }

    /// Starts a controller with a loop of its own.
    fn own<T: Future<Output = ()> + Send + 'static>(
        &mut self,
        name: &'static str,
        run: impl FnOnce(Setup, Client, SharedClock) -> T,
    ) {
        let setup = Setup::new(self.informers, self.ids.clone()).named(&self.queue_name(name));
        self.tasks.spawn(run(setup, (self.clients)(name), self.clock.clone()));
    }
}

/// The name that a controller's events carry, which is not always that of its account.
fn component(account: &'static str) -> &'static str {
    match account {
        "daemon-set-controller" => "daemonset-controller",
        "disruption-controller" => "controllermanager",
        "persistent-volume-binder" => "persistentvolume-controller",
        "ephemeral-volume-controller" => "ephemeral_volume",
        other => other,
    }
}

impl ControllerManager {
    /// Starts all controllers. `clients` gives the client of a service account of `kube-system` by name
    /// (`deployment-controller`), and that of the manager itself by [`MANAGER`]; `informers` read with rights of their own.
    pub fn start(
        clients: impl Fn(&str) -> Client,
        informers: &Informers,
        clock: SharedClock,
        ids: Arc<Ids>,
        config: Config,
    ) -> Handle {
        let mut starter = Starter { clients, informers, clock, ids, tasks: JoinSet::new(), named: Vec::new() };
        starter.plan("deployment-controller", Deployments::controller);
        starter.plan("replicaset-controller", Replicas::<k8s_openapi::api::apps::v1::ReplicaSet>::controller);
        starter
            .plan("replication-controller", Replicas::<k8s_openapi::api::core::v1::ReplicationController>::controller);
        starter.plan("daemon-set-controller", Daemons::controller);
        starter.plan("statefulset-controller", StatefulSets::controller);
        starter.plan("job-controller", |setup| Jobs::controller(setup, config.job_groups));
        starter.plan("cronjob-controller", CronJobs::controller);
        starter.plan("ttl-after-finished-controller", FinishedJobs::controller);
        starter.plan("disruption-controller", Budgets::controller);
        starter.plan("disruption-controller", Announcements::controller);
        starter.plan("endpointslice-controller", EndpointSlices::controller);
        starter.plan("endpointslicemirroring-controller", Mirrors::controller);
        let clock = starter.clock.clone();
        starter.plan("resourcequota-controller", |setup| Quotas::controller(setup, clock));
        starter.plan("endpoint-controller", LegacyEndpoints::controller);
        let signer = config.signer.clone();
        starter.plan("certificate-controller", |setup| Certificates::controller(setup, signer));
        if let Some(read) = config.subjects {
            let run = |setup, client, clock| Approver::run(setup, client, clock, read);
            starter.own("certificate-controller", run);
        }
        starter.plan("service-cidrs-controller", ServiceCidrs::controller);
        starter.plan("ttl-controller", NodeTtl::controller);
        starter.plan("token-cleaner", BootstrapTokens::controller);
        starter.plan("service-account-controller", accounts);
        let root_ca = config.root_ca.clone();
        starter.own(MANAGER, |setup, client, clock| TokenSecrets::run(setup, client, clock, root_ca));
        let root_ca = config.root_ca.clone();
        starter.plan("root-ca-cert-publisher", |setup| root_certificates(setup, root_ca));
        let versions = config.asked_for.iter().filter(|def| def.kind == "ClusterTrustBundle");
        let versions: Vec<&str> = versions.map(|def| def.version.as_ref()).collect();
        let root_ca = config.root_ca;
        let publisher = "kube-apiserver-serving-clustertrustbundle-publisher";
        if versions.contains(&"v1beta1") {
            starter.plan(publisher, |setup| trust_bundles::publisher::<v1beta1::ClusterTrustBundle>(setup, root_ca));
        } else if versions.contains(&"v1alpha1") {
            starter.plan(publisher, |setup| trust_bundles::publisher::<v1alpha1::ClusterTrustBundle>(setup, root_ca));
        }
        if config.asked_for.iter().any(|def| def.kind == "PodGroup") {
            starter.plan("podgroup-protection-controller", PodGroups::controller);
        }
        let (ranges, clock) = (Ranges::new(&config.node_ranges), starter.clock.clone());
        starter.plan("node-controller", |setup| Nodes::controller(setup, clock, ranges));
        starter.plan("pod-garbage-collector", PodCollector::controller);
        starter.plan("clusterrole-aggregation-controller", Roles::controller);
        let timing = config.autoscaler;
        starter.own("horizontal-pod-autoscaler", |setup, client, clock| Autoscalers::run(setup, client, clock, timing));
        starter.plan("persistent-volume-binder", Binder::controller);
        starter.plan("pvc-protection-controller", ClaimProtection::controller);
        starter.plan("pv-protection-controller", VolumeProtection::controller);
        starter.plan("attachdetach-controller", Attacher::controller);
        starter.plan("ephemeral-volume-controller", EphemeralVolumes::controller);
        starter.own("namespace-controller", Namespaces::run);
        let deletable = resources::served(&config.asked_for);
        starter.own("generic-garbage-collector", |setup, client, clock| {
            GarbageCollector::run(setup, client, clock, deletable)
        });
        Handle { tasks: starter.tasks }
    }
}
