//! The hosts file that the agent keeps for a Pod, and the Pod's host name.
//! See <https://kubernetes.io/docs/tasks/network/customize-hosts-file-for-pods/>.

use std::fmt::Write;

use k8s_openapi::api::core::v1::Pod;

use super::{NodeFacts, name, namespace};
use crate::pod::spec;

const HEADER: &str = "# Kubernetes-managed hosts file.\n";
const HOST_HEADER: &str = "# Kubernetes-managed hosts file (host network).\n";
/// The longest host name that the kernel takes.
const MAX_HOSTNAME: usize = 63;
/// The longest that it takes with a domain.
const MAX_FQDN: usize = 64;

/// The host name and, where the Pod has a subdomain, its domain.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = spec::spec(pod);
    if let Some(hostname) = spec.hostname_override.as_deref().filter(|hostname| !hostname.is_empty()) {
        return (hostname.to_owned(), None);
    }
    let own = spec.hostname.as_deref().filter(|hostname| !hostname.is_empty()).unwrap_or(name(pod));
    let hostname = own[..own.len().min(MAX_HOSTNAME)].trim_end_matches(['-', '.']).to_owned();
    let subdomain = spec.subdomain.as_deref().filter(|subdomain| !subdomain.is_empty());
    let domain = subdomain.map(|subdomain| format!("{subdomain}.{}.svc.{cluster_domain}", namespace(pod)));
    (hostname, domain)
}

/// The host name that the Pod's processes see.
pub fn visible_hostname(pod: &Pod, cluster_domain: &str) -> String {
    match (hostname(pod, cluster_domain), spec::spec(pod).set_hostname_as_fqdn) {
        ((hostname, Some(domain)), Some(true)) => format!("{hostname}.{domain}"),
        ((hostname, _), _) => hostname,
    }
}

/// Whether the kernel takes the host name that the Pod's processes shall see.
///
/// # Errors
/// It is too long; the words are upstream's.
pub fn check(pod: &Pod, cluster_domain: &str) -> Result<(), String> {
    let name = visible_hostname(pod, cluster_domain);
    if spec::spec(pod).set_hostname_as_fqdn == Some(true) && name.len() > MAX_FQDN {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long ({MAX_FQDN} characters is the max, {} characters requested)",
            name.len()
        ));
    }
    Ok(())
}

/// The text of the hosts file.
pub fn file(pod: &Pod, ips: &[String], node: &NodeFacts) -> String {
    let mut text = String::new();
    if spec::host_network(pod) {
        text.push_str(HOST_HEADER);
        text.push_str(&node.hosts);
    } else {
        text.push_str(HEADER);
        text.push_str("127.0.0.1\tlocalhost\n");
        text.push_str("::1\tlocalhost ip6-localhost ip6-loopback\n");
        text.push_str(
            "fe00::\tip6-localnet\nfe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let (hostname, domain) = hostname(pod, &node.cluster_domain);
        for ip in ips {
            let line = match &domain {
                Some(domain) => format!("{ip}\t{hostname}.{domain}\t{hostname}\n"),
                None => format!("{ip}\t{hostname}\n"),
            };
            text.push_str(&line);
        }
    }
    let aliases = spec::spec(pod).host_aliases.iter().flatten();
    let mut first = true;
    for alias in aliases {
        if std::mem::take(&mut first) {
            text.push_str("\n# Entries added by HostAliases.\n");
        }
        let names = alias.hostnames.iter().flatten().cloned().collect::<Vec<_>>().join("\t");
        writeln!(text, "{}\t{names}", alias.ip).expect("writing to a string cannot fail");
    }
    text
}
