//! What the cluster shows at its edge: names by DNS, and Services to the outside by Ingress.

pub mod dns;
pub mod ingress;
#[cfg(test)]
mod testing;
