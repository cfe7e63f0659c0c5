//! What is counted of the service rules for `/metrics`, under kube-proxy's names.

use std::sync::LazyLock;

use skiff_base::figures::{Family, Series};

static SYNC_SECONDS: Family = Family::histogram(
    "kubeproxy_sync_proxy_rules_duration_seconds",
    "How long it took to bring the kernel's rules up to date, in seconds.",
    1000,
    2,
    15,
);

/// How long each change of the rules took, from looking at what is wanted until the kernel has it.
pub static SYNC: LazyLock<Series> = LazyLock::new(|| SYNC_SECONDS.with(""));
