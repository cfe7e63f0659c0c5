//! One module per API group, one file per kind, and the one list in which every kind is registered.

pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod coordination;
pub mod core;
pub mod discovery;
pub mod events;
pub mod flowcontrol;
pub mod networking;
pub mod node;
pub mod policy;
pub mod rbac;
pub mod resource;
pub mod scheduling;
pub mod storage;
pub mod subresources;

use crate::def::ResourceDef;

/// Every kind with a resource of its own, in the order in which discovery tells of them; also those that have to be asked for.
pub(crate) static ALL: &[&ResourceDef] = &[
    &core::binding::DEF,
    &core::component_status::DEF,
    &core::config_map::DEF,
    &core::endpoints::DEF,
    &core::event::DEF,
    &core::limit_range::DEF,
    &core::namespace::DEF,
    &core::node::DEF,
    &core::persistent_volume_claim::DEF,
    &core::persistent_volume::DEF,
    &core::pod::DEF,
    &core::pod_template::DEF,
    &core::replication_controller::DEF,
    &core::resource_quota::DEF,
    &core::secret::DEF,
    &core::service_account::DEF,
    &core::service::DEF,
    &apiregistration::api_service::DEF,
    &apps::controller_revision::DEF,
    &apps::daemon_set::DEF,
    &apps::deployment::DEF,
    &apps::replica_set::DEF,
    &apps::stateful_set::DEF,
    &events::event::DEF,
    &authentication::self_subject_review::DEF,
    &authentication::token_review::DEF,
    &authorization::local_subject_access_review::DEF,
    &authorization::self_subject_access_review::DEF,
    &authorization::self_subject_rules_review::DEF,
    &authorization::subject_access_review::DEF,
    &autoscaling::horizontal_pod_autoscaler::DEF,
    &autoscaling::horizontal_pod_autoscaler_v1::DEF,
    &batch::cron_job::DEF,
    &batch::job::DEF,
    &certificates::certificate_signing_request::DEF,
    &certificates::cluster_trust_bundle::DEF,
    &certificates::cluster_trust_bundle::ALPHA,
    &networking::ingress_class::DEF,
    &networking::ingress::DEF,
    &networking::ip_address::DEF,
    &networking::network_policy::DEF,
    &networking::service_cidr::DEF,
    &policy::pod_disruption_budget::DEF,
    &rbac::cluster_role_binding::DEF,
    &rbac::cluster_role::DEF,
    &rbac::role_binding::DEF,
    &rbac::role::DEF,
    &storage::csi_driver::DEF,
    &storage::csi_node::DEF,
    &storage::csi_storage_capacity::DEF,
    &storage::storage_class::DEF,
    &storage::volume_attachment::DEF,
    &storage::volume_attributes_class::DEF,
    &admissionregistration::mutating_admission_policy::DEF,
    &admissionregistration::mutating_admission_policy_binding::DEF,
    &admissionregistration::mutating_webhook_configuration::DEF,
    &admissionregistration::validating_admission_policy::DEF,
    &admissionregistration::validating_admission_policy_binding::DEF,
    &admissionregistration::validating_webhook_configuration::DEF,
    &apiextensions::custom_resource_definition::DEF,
    &scheduling::priority_class::DEF,
    &scheduling::pod_group::DEF,
    &scheduling::workload::DEF,
    &coordination::lease::DEF,
    &node::runtime_class::DEF,
    &discovery::endpoint_slice::DEF,
    &resource::device_class::DEF,
    &resource::resource_claim::DEF,
    &resource::resource_claim_template::DEF,
    &resource::resource_slice::DEF,
    &flowcontrol::flow_schema::DEF,
    &flowcontrol::priority_level_configuration::DEF,
];

/// Kinds without a resource of their own.
pub(crate) static SUBRESOURCES: &[&ResourceDef] =
    &[&subresources::scale::DEF, &subresources::eviction::DEF, &subresources::token_request::DEF];
