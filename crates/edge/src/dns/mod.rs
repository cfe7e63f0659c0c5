//! The cluster DNS: authoritative for the cluster's domain, and a small forwarder for the rest.

mod answer;
mod batch;
mod forward;
mod listener;
mod names;
mod quick;
mod server;
#[cfg(test)]
mod testing;
mod wire;

pub use answer::{Answer, Data, Kind, Record, answer};
pub use names::{Names, Zone};
pub use server::{Dns, DnsConfig};
