//! The options for the cluster's ranges of addresses. They have the names that other distributions know.

use clap::Args;
use skiff_base::Cidr;

use crate::ranges::check_pool;

/// The cluster's ranges of addresses; kept from the first start.
#[derive(Debug, Clone, Default, PartialEq, Args)]
pub struct RangeOptions {
    /// The range of pods' addresses, or one of each family and that of the primary one first, such as
    /// 10.244.0.0/16,fd00:10:244::/56 [default: 10.244.0.0/16]
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    pub cluster_cidr: Vec<Cidr>,
    /// The range of Services' addresses, or one of each family in the same order, such as 10.96.0.0/12,fd00:10:96::/112
    /// [default: 10.96.0.0/12]
    #[arg(long, value_name = "RANGES", value_delimiter = ',')]
    pub service_cidr: Vec<Cidr>,
}

/// Where load balancers' addresses come from.
#[derive(Debug, Clone, Default, Args)]
pub struct BalancerOptions {
    /// Addresses for Services of type LoadBalancer, such as 192.168.1.240-192.168.1.250 or fd00:1::100/120; can be
    /// repeated. Those of a network that the nodes are on, and that nobody else has there, are announced by ARP and NDP
    /// [default: the nodes' own addresses; for an isolated node, some of the way to it]
    #[arg(long, value_name = "RANGE", value_delimiter = ',', value_parser = check_pool)]
    pub load_balancer_range: Vec<String>,
}
