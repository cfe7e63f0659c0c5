//! What load balancers ask a node: whether it is good for a Service's clients (`healthCheckNodePort`), and whether its
//! service rules are up to date at all (port 10256). Answers are those of upstream's kube-proxy.

mod answer;
mod checks;
mod serve;
#[cfg(test)]
mod tests;

pub use answer::NodeHealth;
pub use checks::HealthChecks;
pub use serve::serve_node_health;
