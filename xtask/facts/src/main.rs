//! Writes `crates/kinds/data/descriptions.bin`: what each type and field of the API is for, as `k8s-openapi` carries it.
//! The file begins with one line per package, `package compressed-bytes`, then an empty line, then one zlib stream for each:
//! `type\tfield\ttext` lines (the field is empty for the type itself), with `\n` and `\\` escaped.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;

/// Adds each type, and all that it refers to.
macro_rules! add {
    ($generator:expr, $($($part:ident)::+),* $(,)?) => {
        $($generator.subschema_for::<k8s_openapi::$($part)::+>();)*
    };
}

fn main() -> Result<(), Box<dyn Error>> {
    let target = std::env::args().nth(1).ok_or("usage: facts TARGET-FILE")?;
    let mut generator = SchemaGenerator::new(SchemaSettings::draft07());
    add_all(&mut generator);
    let mut packages: BTreeMap<String, String> = BTreeMap::new();
    for (name, schema) in generator.definitions() {
        let (package, kind) = name.rsplit_once('.').ok_or("a definition without a package")?;
        let text = packages.entry(package.to_owned()).or_default();
        let mut line = |field: &str, schema: &serde_json::Value| {
            if let Some(description) = schema["description"].as_str() {
                let description = description.replace('\\', "\\\\").replace('\n', "\\n");
                text.push_str(&format!("{kind}\t{field}\t{description}\n"));
            }
        };
        line("", schema);
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            line(field, schema);
        }
    }
    let mut head = String::new();
    let mut body = Vec::new();
    for (package, text) in &packages {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(text.as_bytes())?;
        let stream = encoder.finish()?;
        head.push_str(&format!("{package} {}\n", stream.len()));
        body.extend(stream);
    }
    head.push('\n');
    std::fs::write(target, [head.into_bytes(), body].concat())?;
    Ok(())
}

#[rustfmt::skip]
fn add_all(generator: &mut SchemaGenerator) {
    add!(
        generator,
        api::admissionregistration::v1::MutatingAdmissionPolicy,
        api::admissionregistration::v1::MutatingAdmissionPolicyBinding,
        api::admissionregistration::v1::MutatingWebhookConfiguration,
        api::admissionregistration::v1::ValidatingAdmissionPolicy,
        api::admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        api::admissionregistration::v1::ValidatingWebhookConfiguration,
        api::apps::v1::ControllerRevision,
        api::apps::v1::DaemonSet,
        api::apps::v1::Deployment,
        api::apps::v1::ReplicaSet,
        api::apps::v1::StatefulSet,
        api::authentication::v1::SelfSubjectReview,
        api::authentication::v1::TokenRequest,
        api::authentication::v1::TokenReview,
        api::authorization::v1::LocalSubjectAccessReview,
        api::authorization::v1::SelfSubjectAccessReview,
        api::authorization::v1::SelfSubjectRulesReview,
        api::authorization::v1::SubjectAccessReview,
        api::autoscaling::v1::HorizontalPodAutoscaler,
        api::autoscaling::v1::Scale,
        api::autoscaling::v2::HorizontalPodAutoscaler,
        api::batch::v1::CronJob,
        api::batch::v1::Job,
        api::certificates::v1::CertificateSigningRequest,
        api::certificates::v1alpha1::ClusterTrustBundle,
        api::certificates::v1beta1::ClusterTrustBundle,
        api::coordination::v1::Lease,
        api::core::v1::Binding,
        api::core::v1::ComponentStatus,
        api::core::v1::ConfigMap,
        api::core::v1::Endpoints,
        api::core::v1::Event,
        api::core::v1::LimitRange,
        api::core::v1::Namespace,
        api::core::v1::Node,
        api::core::v1::PersistentVolume,
        api::core::v1::PersistentVolumeClaim,
        api::core::v1::Pod,
        api::core::v1::PodTemplate,
        api::core::v1::ReplicationController,
        api::core::v1::ResourceQuota,
        api::core::v1::Secret,
        api::core::v1::Service,
        api::core::v1::ServiceAccount,
        api::discovery::v1::EndpointSlice,
        api::events::v1::Event,
        api::flowcontrol::v1::FlowSchema,
        api::flowcontrol::v1::PriorityLevelConfiguration,
        api::networking::v1::IPAddress,
        api::networking::v1::Ingress,
        api::networking::v1::IngressClass,
        api::networking::v1::NetworkPolicy,
        api::networking::v1::ServiceCIDR,
        api::node::v1::RuntimeClass,
        api::policy::v1::Eviction,
        api::policy::v1::PodDisruptionBudget,
        api::rbac::v1::ClusterRole,
        api::rbac::v1::ClusterRoleBinding,
        api::rbac::v1::Role,
        api::rbac::v1::RoleBinding,
        api::resource::v1::DeviceClass,
        api::resource::v1::ResourceClaim,
        api::resource::v1::ResourceClaimTemplate,
        api::resource::v1::ResourceSlice,
        api::scheduling::v1::PriorityClass,
        api::scheduling::v1alpha2::PodGroup,
        api::scheduling::v1alpha2::Workload,
        api::storage::v1::CSIDriver,
        api::storage::v1::CSINode,
        api::storage::v1::CSIStorageCapacity,
        api::storage::v1::StorageClass,
        api::storage::v1::VolumeAttachment,
        api::storage::v1::VolumeAttributesClass,
        apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
        apimachinery::pkg::apis::meta::v1::APIGroup,
        apimachinery::pkg::apis::meta::v1::APIVersions,
        apimachinery::pkg::apis::meta::v1::Condition,
        apimachinery::pkg::apis::meta::v1::DeleteOptions,
        apimachinery::pkg::apis::meta::v1::Status,
        kube_aggregator::pkg::apis::apiregistration::v1::APIService,
    );
}
