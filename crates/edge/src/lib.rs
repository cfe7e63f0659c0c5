//! What the cluster shows at its edge: names by DNS, and in time ingress, gateway and dashboard.

pub mod dns;
