//! What NetworkPolicies add to the rules, computed from policies, pods and namespaces.
//!
//! Pods of this node that the same policies select share a chain for each direction, which returns for what one of
//! these policies allows and drops the rest. Which pods are meant by a policy's peers is in two sets that all policies
//! share: a pod that comes, changes or goes changes elements alone.
//! Follows <https://kubernetes.io/docs/concepts/services-networking/network-policies/>.

pub mod api;
mod interner;
mod planner;
mod ranges;

pub use api::{PodFacts, Policy};
pub use planner::{Planner, World};
