//! The Gateway API: what its objects ask for, as routes and certificates, and what is told of them in their statuses.
//! See <https://gateway-api.sigs.k8s.io/reference/spec/>.

mod api;
mod attach;
mod backends;
mod class;
mod conditions;
mod filters;
mod follow;
mod grants;
mod listeners;
mod matches;
mod plan;
mod report;
#[cfg(test)]
mod tests;

pub use follow::Follower;
pub use plan::Plan;
