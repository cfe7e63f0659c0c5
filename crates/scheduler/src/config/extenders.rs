//! The extenders that a configuration names. Files with certificates are read by whoever may read files.

use std::time::Duration;

use serde::Deserialize;

use super::Errors;
use crate::extender::{Extender, ExtenderTls};
use crate::profile::Profile;

/// How long an answer may take where nothing is said.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtenderFile {
    #[serde(rename = "urlPrefix")]
    url_prefix: String,
    filter_verb: String,
    preempt_verb: String,
    prioritize_verb: String,
    bind_verb: String,
    weight: i64,
    #[serde(rename = "enableHTTPS")]
    enable_https: bool,
    tls_config: Option<TlsFile>,
    http_timeout: Option<String>,
    node_cache_capable: bool,
    managed_resources: Vec<Managed>,
    ignorable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct TlsFile {
    insecure: bool,
    server_name: String,
    cert_file: String,
    key_file: String,
    ca_file: String,
    cert_data: String,
    key_data: String,
    ca_data: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Managed {
    name: String,
    #[serde(default)]
    ignored_by_scheduler: bool,
}

/// Reads PEM from what a configuration says of it: a file, or base64.
pub type ReadPem<'a> = &'a dyn Fn(&str, &str) -> Result<Vec<u8>, String>;

/// Takes the extenders, and tells profiles which resources are left to them.
pub fn read(files: Vec<ExtenderFile>, pem: ReadPem, profiles: &mut [Profile], errors: &mut Errors) -> Vec<Extender> {
    let binders = files.iter().filter(|file| !file.bind_verb.is_empty()).count();
    if binders > 1 {
        let told = format!("found {binders} extenders implementing bind");
        errors.invalid("extenders", told, "only one extender can implement bind");
    }
    let mut managed: Vec<String> = Vec::new();
    let mut extenders = Vec::new();
    for (at, file) in files.into_iter().enumerate() {
        let path = format!("extenders[{at}]");
        if !file.prioritize_verb.is_empty() && file.weight <= 0 {
            errors.invalid(&format!("{path}.weight"), file.weight, "must have a positive weight applied to it");
        }
        for (at, resource) in file.managed_resources.iter().enumerate() {
            let path = format!("{path}.managedResources[{at}].name");
            if !resource.name.contains('/') {
                errors.invalid(&path, &resource.name, "is an invalid extended resource name");
            }
            if managed.contains(&resource.name) {
                errors.invalid(&path, &resource.name, "duplicate extender managed resource name");
            }
            managed.push(resource.name.clone());
            if resource.ignored_by_scheduler {
                profiles.iter_mut().for_each(|profile| profile.ignored_resources.push(resource.name.clone()));
            }
        }
        extenders.push(file.read(&path, pem, errors));
    }
    extenders
}

impl ExtenderFile {
    fn read(self, path: &str, pem: ReadPem, errors: &mut Errors) -> Extender {
        let timeout = match self.http_timeout.as_deref() {
            None => TIMEOUT,
            Some(text) => match skiff_base::duration::parse(text) {
                Some(Duration::ZERO) => TIMEOUT,
                Some(timeout) => timeout,
                None => {
                    errors.invalid(&format!("{path}.httpTimeout"), text, "must be a duration");
                    TIMEOUT
                }
            },
        };
        let told = self.tls_config.unwrap_or_default();
        let mut read = |field: &str, file: &str, data: &str| {
            pem(file, data).unwrap_or_else(|why| {
                errors.invalid(&format!("{path}.tlsConfig.{field}"), file, &why);
                Vec::new()
            })
        };
        let tls = ExtenderTls {
            ca: read("caFile", &told.ca_file, &told.ca_data),
            certificate: read("certFile", &told.cert_file, &told.cert_data),
            key: read("keyFile", &told.key_file, &told.key_data),
            server_name: told.server_name,
            insecure: told.insecure,
        };
        // As upstream: with HTTPS switched on and nobody to trust, whoever answers is believed.
        let insecure = tls.insecure || self.enable_https && tls.ca.is_empty();
        Extender {
            url_prefix: self.url_prefix,
            filter_verb: self.filter_verb,
            prioritize_verb: self.prioritize_verb,
            preempt_verb: self.preempt_verb,
            bind_verb: self.bind_verb,
            weight: self.weight,
            tls: ExtenderTls { insecure, ..tls },
            timeout,
            node_cache_capable: self.node_cache_capable,
            managed_resources: self.managed_resources.into_iter().map(|resource| resource.name).collect(),
            ignorable: self.ignorable,
            post: None,
        }
    }
}
