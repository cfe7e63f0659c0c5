//! What several kinds share: pod templates, containers, volumes, selectors, table cells, the ways of writing.
//! A rule that belongs to one kind alone stands in that kind's file.

pub mod address;
pub mod admission_rules;
pub mod affinity_check;
pub mod certificate_check;
pub mod check;
pub mod config_check;
pub mod container_check;
pub mod container_defaults;
pub mod crd_check;
pub mod crd_schema_check;
pub mod cron;
pub mod env_check;
pub mod event_rules;
pub mod hpa_rules;
pub mod mount_check;
pub mod network_check;
pub mod os_check;
pub mod pod_check;
pub mod pod_defaults;
pub mod pod_warnings;
pub mod prepare;
pub mod probe_check;
pub mod quota_check;
pub mod rbac_rules;
pub mod resource_check;
pub mod schema_check;
pub mod security_check;
pub mod service_check;
pub mod source_check;
pub mod storage_rules;
pub mod table;
pub mod tree;
pub mod volume_check;
pub mod workload_check;
