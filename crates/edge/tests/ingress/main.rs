//! Ingress and Gateways against the real API server, with the rights they have in a cluster: real clients, and endpoints
//! that are real servers, in a network namespace of the test's own.

mod gateways;
mod ingresses;
mod support;
