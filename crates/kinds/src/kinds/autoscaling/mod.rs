//! The kinds of `autoscaling`.

pub mod horizontal_pod_autoscaler;
pub mod horizontal_pod_autoscaler_v1;
