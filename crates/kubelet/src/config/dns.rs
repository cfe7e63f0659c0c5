//! The resolver configuration of a Pod.
//! See <https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/>.

use k8s_openapi::api::core::v1::Pod;
use skiff_cri::DnsConfig;

use super::{NodeFacts, namespace};
use crate::pod::spec;

/// The most name servers and search domains that a resolver takes note of.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
/// Names with fewer dots are tried with the search domains first.
const CLUSTER_OPTION: &str = "ndots:5";

/// What `/etc/resolv.conf` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Addresses.
    pub servers: Vec<String>,
    /// Domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads the text of a `resolv.conf`.
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => resolver.servers.extend(words.next()),
                Some("search") => resolver.searches = words.map(|word| trim_dot(&word)).collect(),
                Some("options") => resolver.options = words.collect(),
                _ => {}
            }
        }
        resolver
    }
}

fn trim_dot(domain: &str) -> String {
    if domain == "." { domain.to_owned() } else { domain.trim_end_matches('.').to_owned() }
}

/// The resolver configuration that the Pod's policy and its own additions amount to.
pub fn config(pod: &Pod, node: &NodeFacts) -> DnsConfig {
    let spec = spec::spec(pod);
    let in_cluster = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "None" => None,
        "Default" => Some(false),
        "ClusterFirst" => Some(!spec::host_network(pod)),
        _ => Some(true),
    };
    let mut config = match in_cluster {
        None => DnsConfig::default(),
        Some(true) if !node.cluster_dns.is_empty() => cluster(namespace(pod), node),
        Some(_) => DnsConfig {
            servers: node.resolver.servers.clone(),
            searches: node.resolver.searches.clone(),
            options: node.resolver.options.clone(),
        },
    };
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|other| other.split(':').next() != Some(name));
            config.options.push(match &option.value {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.clone(),
            });
        }
    }
    config.servers = unique(config.servers, MAX_NAMESERVERS);
    config.searches = unique(config.searches, MAX_SEARCHES);
    config
}

fn cluster(namespace: &str, node: &NodeFacts) -> DnsConfig {
    let domain = &node.cluster_domain;
    let mut searches = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    searches.extend(node.resolver.searches.iter().cloned());
    DnsConfig { servers: node.cluster_dns.clone(), searches, options: vec![CLUSTER_OPTION.to_owned()] }
}

fn unique(list: Vec<String>, most: usize) -> Vec<String> {
    let mut kept: Vec<String> = Vec::with_capacity(list.len());
    for entry in list {
        if !kept.contains(&entry) && kept.len() < most {
            kept.push(entry);
        }
    }
    kept
}
