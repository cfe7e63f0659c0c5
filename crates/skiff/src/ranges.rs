//! The cluster's ranges of addresses: chosen at the first start, kept with the node, told to the other nodes, and what
//! follows from them.
//! See <https://kubernetes.io/docs/concepts/services-networking/dual-stack/#configure-ipv4-ipv6-dual-stack>.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use k8s_openapi::api::core::v1::ConfigMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skiff_base::{Cidr, Family};
use skiff_client::Client;

use crate::cli::{BalancerOptions, NodeOptions};
use crate::commands::CommandError;

/// The pods' addresses, where nothing else is asked for.
const POD_RANGE: ([u8; 4], u8) = ([10, 244, 0, 0], 16);
/// The addresses of Services, where nothing else is asked for.
const SERVICE_RANGE: ([u8; 4], u8) = ([10, 96, 0, 0], 12);
/// Which address of a range of Services is the cluster DNS's, as kubeadm has it.
const DNS_PLACE: u32 = 10;
/// A range of Services must have room for the API server, the DNS and a few others.
const LEAST_SERVICE_BITS: u8 = 4;
/// Upstream's shortest prefix of an IPv6 range of Services.
const SHORTEST_V6_PREFIX: u8 = 64;
/// Upstream's limit: a cluster's range has 65,536 parts for nodes at most.
const MOST_NODE_BITS: u8 = 16;
/// Where the cluster tells its ranges to agents.
const NAMESPACE: &str = "kube-system";
const NAME: &str = "skiff-cluster";

const CLUSTER_CIDR: &str = "cluster-cidr";
const SERVICE_CIDR: &str = "service-cidr";

/// The ranges of a cluster, one of each family that it has; that of the primary family comes first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Texts", into = "Texts")]
pub struct Ranges {
    /// The pods' addresses, of all nodes.
    pub pods: Vec<Cidr>,
    /// The addresses of Services; of the same families.
    pub services: Vec<Cidr>,
}

/// How ranges are written: as the flags have them.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Texts {
    cluster_cidr: String,
    service_cidr: String,
}

impl TryFrom<Texts> for Ranges {
    type Error = skiff_base::cidr::CidrError;

    fn try_from(texts: Texts) -> Result<Self, Self::Error> {
        Ok(Self { pods: parse(&texts.cluster_cidr)?, services: parse(&texts.service_cidr)? })
    }
}

impl From<Ranges> for Texts {
    fn from(ranges: Ranges) -> Self {
        Self { cluster_cidr: text(&ranges.pods), service_cidr: text(&ranges.services) }
    }
}

/// Ranges from a list with commas.
///
/// # Errors
/// One is none.
pub fn parse(list: &str) -> Result<Vec<Cidr>, skiff_base::cidr::CidrError> {
    list.split(',').filter(|text| !text.is_empty()).map(str::parse).collect()
}

/// Addresses as load balancers' are written: a range, one address, or the first and the last one.
///
/// # Errors
/// They are written otherwise.
pub fn pool(text: &str) -> Result<Vec<Cidr>, String> {
    let address = |text: &str| text.trim().parse::<IpAddr>().map_err(|error| format!("{text:?}: {error}"));
    if let Some((first, last)) = text.split_once('-') {
        let ranges = Cidr::between(address(first)?, address(last)?);
        return if ranges.is_empty() { Err(format!("{first} does not come before {last}")) } else { Ok(ranges) };
    }
    if text.contains('/') {
        return Ok(vec![text.parse().map_err(|error| format!("{text:?}: {error}"))?]);
    }
    Ok(vec![Cidr::host(address(text)?)])
}

/// The same text, where it says what [`pool`] understands.
///
/// # Errors
/// As there.
pub fn check_pool(text: &str) -> Result<String, String> {
    pool(text).map(|_| text.to_owned())
}

/// Refuses load balancers' addresses that are the cluster's already.
///
/// # Errors
/// Some are.
pub fn check_balancing(ranges: &Ranges, options: &BalancerOptions) -> Result<(), CommandError> {
    for text in &options.load_balancer_range {
        for part in pool(text)? {
            if let Some(taken) = ranges.pods.iter().chain(&ranges.services).find(|range| range.overlaps(part)) {
                return Err(format!("--load-balancer-range {text} overlaps the cluster's own range {taken}").into());
            }
        }
    }
    Ok(())
}

/// A list with commas.
pub fn text(ranges: &[Cidr]) -> String {
    ranges.iter().map(Cidr::to_string).collect::<Vec<_>>().join(",")
}

impl Default for Ranges {
    fn default() -> Self {
        let range = |(base, bits): ([u8; 4], u8)| Cidr::new(base, bits).into_iter().collect();
        Self { pods: range(POD_RANGE), services: range(SERVICE_RANGE) }
    }
}

impl Ranges {
    /// Those that are asked for, the usual ones for what is not.
    ///
    /// # Errors
    /// They make no cluster; the error says why.
    pub fn chosen(pods: &[Cidr], services: &[Cidr]) -> Result<Self, CommandError> {
        let usual = Self::default();
        let or = |asked: &[Cidr], usual: Vec<Cidr>| if asked.is_empty() { usual } else { asked.to_vec() };
        let ranges = Self { pods: or(pods, usual.pods), services: or(services, usual.services) };
        for (flag, ranges) in [(CLUSTER_CIDR, &ranges.pods), (SERVICE_CIDR, &ranges.services)] {
            check_list(flag, ranges)?;
        }
        let (pods, services) = (&ranges.pods, &ranges.services);
        if families(pods) != families(services) {
            return Err(format!(
                "--cluster-cidr {} and --service-cidr {} must be of the same families, and in the same order",
                text(pods),
                text(services)
            )
            .into());
        }
        services.iter().try_for_each(|range| check_services(*range))?;
        match pods
            .iter()
            .flat_map(|pod| services.iter().map(move |own| (pod, own)))
            .find(|(pod, own)| pod.overlaps(**own))
        {
            Some((pod, own)) => Err(format!("--cluster-cidr {pod} and --service-cidr {own} overlap").into()),
            None => Ok(ranges),
        }
    }

    /// The cluster's families, the primary one first.
    pub fn families(&self) -> Vec<Family> {
        families(&self.services)
    }

    /// Whether the cluster has IPv6, alone or beside IPv4.
    pub fn has_v6(&self) -> bool {
        self.families().contains(&Family::V6)
    }

    /// The address at which servers of the node listen for everybody.
    pub fn any_address(&self) -> IpAddr {
        if self.has_v6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
    }

    /// The API server's own Service.
    pub fn kubernetes_service(&self) -> Option<IpAddr> {
        self.services.first()?.nth(1)
    }

    /// The cluster DNS, in each family.
    pub fn dns(&self) -> Vec<IpAddr> {
        self.services.iter().filter_map(|range| range.nth(DNS_PLACE)).collect()
    }

    /// What the cluster tells of them to its nodes.
    pub fn object(&self) -> Value {
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": NAME, "namespace": NAMESPACE},
            "data": {CLUSTER_CIDR: text(&self.pods), SERVICE_CIDR: text(&self.services)}})
    }

    /// Learns those of the cluster that a node belongs to. One that tells none has the usual ones: it was set up before
    /// there was a choice.
    ///
    /// # Errors
    /// The cluster does not answer, or tells what cannot be read.
    pub async fn learn(client: &Client) -> Result<Self, CommandError> {
        let told = match client.get::<ConfigMap>(NAMESPACE, NAME).await {
            Ok(told) => told.data.unwrap_or_default(),
            Err(error) if is_untold(&error) => return Ok(Self::default()),
            Err(error) => return Err(error.into()),
        };
        let of = |field: &str| parse(told.get(field).map_or("", String::as_str));
        Self::chosen(&of(CLUSTER_CIDR)?, &of(SERVICE_CIDR)?)
    }
}

/// Whether the cluster has nothing to tell, or no right to hear it: both are of the time before there was a choice.
fn is_untold(error: &skiff_client::Error) -> bool {
    error.status().is_some_and(|status| matches!(status.code, 403 | 404))
}

fn families(ranges: &[Cidr]) -> Vec<Family> {
    ranges.iter().map(|range| range.family()).collect()
}

/// One range of each family at most, of addresses that may be given to anybody.
fn check_list(flag: &str, ranges: &[Cidr]) -> Result<(), CommandError> {
    for (index, range) in ranges.iter().enumerate() {
        if let Some(other) = ranges[..index].iter().find(|other| other.family() == range.family()) {
            let family = range.family();
            return Err(
                format!("--{flag} may have one range of each family: {other} and {range} are both {family}").into()
            );
        }
        let is_special = match range.base() {
            IpAddr::V4(base) => base.is_loopback() || base.is_link_local() || base.is_multicast(),
            IpAddr::V6(base) => base.is_loopback() || base.is_unicast_link_local() || base.is_multicast(),
        };
        if is_special || range.bits() == 0 {
            return Err(format!("--{flag} {range}: these addresses cannot be given to pods or Services").into());
        }
    }
    Ok(())
}

fn check_services(range: Cidr) -> Result<(), CommandError> {
    let longest = range.family().bits() - LEAST_SERVICE_BITS;
    if range.bits() > longest {
        return Err(format!("--service-cidr {range} is too small: its prefix may have {longest} bits at most").into());
    }
    if range.family() == Family::V6 && range.bits() < SHORTEST_V6_PREFIX {
        return Err(format!(
            "--service-cidr {range} is too large: the prefix of an IPv6 range must have {SHORTEST_V6_PREFIX} bits at least"
        )
        .into());
    }
    Ok(())
}

/// How many leading bits the addresses of one node share, by family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeMasks {
    /// Of IPv4.
    pub v4: u8,
    /// Of IPv6.
    pub v6: u8,
}

impl NodeMasks {
    fn of(self, family: Family) -> u8 {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// The cluster's ranges with the size of their parts.
    pub fn parts(self, ranges: &Ranges) -> Vec<(Cidr, u8)> {
        ranges.pods.iter().map(|range| (*range, self.of(range.family()))).collect()
    }

    /// Whether nodes can be given such parts.
    ///
    /// # Errors
    /// The range is too small or too large for them.
    pub fn check(self, ranges: &Ranges) -> Result<(), CommandError> {
        for (range, bits) in self.parts(ranges) {
            let flag = if range.family() == Family::V4 { "node-cidr-mask-size" } else { "node-cidr-mask-size-ipv6" };
            let why = if range.bits() > bits {
                "is smaller than the part of one node"
            } else if bits - range.bits() > MOST_NODE_BITS {
                "has more than 65,536 parts for nodes"
            } else {
                continue;
            };
            return Err(format!("--cluster-cidr {range} {why} (--{flag} {bits})").into());
        }
        Ok(())
    }
}

/// Refuses options that differ from what the cluster was set up with.
///
/// # Errors
/// One does.
pub fn check_kept(kept: &Ranges, masks: NodeMasks, options: &NodeOptions) -> Result<(), CommandError> {
    if let Some(other) = options.node_cidr_mask_size.filter(|bits| *bits != masks.v4) {
        return Err(format!("the node was set up with a pod range of /{}; it cannot be /{other} now", masks.v4).into());
    }
    if let Some(other) = options.node_cidr_mask_size_ipv6.filter(|bits| *bits != masks.v6) {
        return Err(format!("the node was set up with a pod range of /{}; it cannot be /{other} now", masks.v6).into());
    }
    let asked = [
        (CLUSTER_CIDR, &options.ranges.cluster_cidr, &kept.pods),
        (SERVICE_CIDR, &options.ranges.service_cidr, &kept.services),
    ];
    for (flag, asked, kept) in asked {
        if !asked.is_empty() && asked != kept {
            return Err(format!(
                "the cluster was set up with --{flag} {}; it cannot be {} now",
                text(kept),
                text(asked)
            )
            .into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pods: &str, services: &str) -> String {
        let ranges = |list: &str| parse(list).expect("ranges");
        match Ranges::chosen(&ranges(pods), &ranges(services)) {
            Ok(chosen) => format!("{} {}", text(&chosen.pods), text(&chosen.services)),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn ranges_are_chosen_for_each_family() {
        for (pods, services, outcome) in [
            ("", "", "10.244.0.0/16 10.96.0.0/12"),
            ("10.42.0.0/16", "10.43.0.0/16", "10.42.0.0/16 10.43.0.0/16"),
            ("10.42.7.1/16", "", "10.42.0.0/16 10.96.0.0/12"),
            (
                "2001:db8:42::/56,10.42.0.0/16",
                "2001:db8:43::/112,10.43.0.0/16",
                "2001:db8:42::/56,10.42.0.0/16 2001:db8:43::/112,10.43.0.0/16",
            ),
            ("fd00:42::/56", "fd00:43::/112", "fd00:42::/56 fd00:43::/112"),
            (
                "fd00:42::/56",
                "",
                "--cluster-cidr fd00:42::/56 and --service-cidr 10.96.0.0/12 must be of the same families, and in the same order",
            ),
            (
                "10.42.0.0/16,fd00:42::/56",
                "fd00:43::/112,10.43.0.0/16",
                "--cluster-cidr 10.42.0.0/16,fd00:42::/56 and --service-cidr fd00:43::/112,10.43.0.0/16 must be of the same families, and in the same order",
            ),
            (
                "10.42.0.0/16,10.44.0.0/16",
                "",
                "--cluster-cidr may have one range of each family: 10.42.0.0/16 and 10.44.0.0/16 are both IPv4",
            ),
            ("10.96.0.0/16", "", "--cluster-cidr 10.96.0.0/16 and --service-cidr 10.96.0.0/12 overlap"),
            ("", "10.43.0.0/29", "--service-cidr 10.43.0.0/29 is too small: its prefix may have 28 bits at most"),
            (
                "fd00:42::/56",
                "fd00:43::/125",
                "--service-cidr fd00:43::/125 is too small: its prefix may have 124 bits at most",
            ),
            (
                "fd00:42::/56",
                "fd00:43::/63",
                "--service-cidr fd00:43::/63 is too large: the prefix of an IPv6 range must have 64 bits at least",
            ),
            (
                "fe80::/64",
                "fd00::/112",
                "--cluster-cidr fe80::/64: these addresses cannot be given to pods or Services",
            ),
        ] {
            assert_eq!(check(pods, services), outcome, "{pods} {services}");
        }
    }

    #[test]
    fn nodes_have_parts_of_the_ranges() {
        let ranges = |pods: &str, services: &str| {
            Ranges::chosen(&parse(pods).expect("ranges"), &parse(services).expect("ranges")).expect("a cluster")
        };
        let told = |pods: &str, services: &str, v4: u8, v6: u8| {
            NodeMasks { v4, v6 }.check(&ranges(pods, services)).map_err(|error| error.to_string())
        };
        assert_eq!(told("10.42.0.0/16,fd00:42::/56", "10.43.0.0/16,fd00:43::/112", 24, 64), Ok(()));
        assert_eq!(
            told("10.42.0.0/25", "", 24, 64),
            Err("--cluster-cidr 10.42.0.0/25 is smaller than the part of one node (--node-cidr-mask-size 24)"
                .to_owned())
        );
        assert_eq!(
            told("fd00:42::/40", "fd00:43::/112", 24, 64),
            Err("--cluster-cidr fd00:42::/40 has more than 65,536 parts for nodes (--node-cidr-mask-size-ipv6 64)"
                .to_owned())
        );
    }

    #[test]
    fn addresses_follow_from_the_ranges() {
        let usual = Ranges::default();
        assert_eq!(usual.kubernetes_service().map(|address| address.to_string()).as_deref(), Some("10.96.0.1"));
        assert_eq!(usual.dns().iter().map(IpAddr::to_string).collect::<Vec<_>>(), ["10.96.0.10"]);
        assert_eq!(usual.any_address().to_string(), "0.0.0.0");
        let both = Ranges::chosen(
            &parse("fd00:42::/56,10.42.0.0/16").expect("ranges"),
            &parse("fd00:43::/112,10.43.0.0/16").expect("ranges"),
        );
        let both = both.expect("a cluster");
        assert_eq!(both.kubernetes_service().map(|address| address.to_string()).as_deref(), Some("fd00:43::1"));
        assert_eq!(both.dns().iter().map(IpAddr::to_string).collect::<Vec<_>>(), ["fd00:43::a", "10.43.0.10"]);
        assert_eq!((both.any_address().to_string(), both.families()), ("::".into(), vec![Family::V6, Family::V4]));
        let written = serde_json::to_value(&both).expect("JSON");
        assert_eq!(
            written,
            json!({"cluster-cidr": "fd00:42::/56,10.42.0.0/16", "service-cidr": "fd00:43::/112,10.43.0.0/16"})
        );
        assert_eq!(serde_json::from_value::<Ranges>(written).expect("ranges"), both);
    }

    #[test]
    fn what_was_chosen_once_does_not_change() {
        let kept = Ranges::default();
        let masks = NodeMasks { v4: 24, v6: 64 };
        let options = |change: fn(&mut NodeOptions)| {
            let mut options = NodeOptions::of_machine(crate::cli::MachineOptions::default());
            change(&mut options);
            check_kept(&kept, masks, &options).map_err(|error| error.to_string())
        };
        assert_eq!(options(|_| {}), Ok(()));
        assert_eq!(options(|options| options.ranges.service_cidr = parse("10.96.0.0/12").expect("a range")), Ok(()));
        assert_eq!(
            options(|options| options.ranges.service_cidr = parse("10.43.0.0/16").expect("a range")),
            Err("the cluster was set up with --service-cidr 10.96.0.0/12; it cannot be 10.43.0.0/16 now".to_owned())
        );
        assert_eq!(
            options(|options| options.node_cidr_mask_size_ipv6 = Some(80)),
            Err("the node was set up with a pod range of /64; it cannot be /80 now".to_owned())
        );
    }
}
