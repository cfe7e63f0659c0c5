//! The Kubernetes API server: one request path for every kind.
