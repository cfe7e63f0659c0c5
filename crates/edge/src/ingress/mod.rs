//! Ingress and the Gateway API: from outside to the pods of Services. What goes where is a table that is made purely
//! from Ingresses, Gateways and their routes, Services and EndpointSlices; one proxy looks things up in it, and goes
//! straight to the endpoints.
//! See <https://kubernetes.io/docs/concepts/services-networking/ingress/> and <https://gateway-api.sigs.k8s.io/>.

mod annotations;
mod bodies;
mod certificates;
mod choice;
mod connections;
mod filters;
mod gateway;
mod headers;
mod hosts;
mod lanes;
mod line;
mod ports;
mod proxy;
mod quick;
mod routes;
mod server;
mod site;
mod status;
mod streams;
mod table;
#[cfg(test)]
mod tests;
mod upstream;

pub use server::{Ingresses, IngressesConfig};
