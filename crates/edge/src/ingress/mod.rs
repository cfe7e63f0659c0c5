//! Ingress: from outside to the pods of Services, by host and path. What goes where is a table that is made purely from
//! Ingresses, Services and EndpointSlices; the proxy looks things up in it, and goes straight to the endpoints.
//! See <https://kubernetes.io/docs/concepts/services-networking/ingress/>.

mod annotations;
mod certificates;
mod connections;
mod headers;
mod ports;
mod proxy;
mod routes;
mod server;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod upstream;

pub use server::{Ingresses, IngressesConfig};
