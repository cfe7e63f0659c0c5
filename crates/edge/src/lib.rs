//! DNS answers, and in time ingress, gateway and dashboard.
