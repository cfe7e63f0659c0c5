//! `coordination.k8s.io/v1` Lease: a lock or a heartbeat with a term.

use crate::base::{BASE, text};
use crate::def::ResourceDef;

/// `leases`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("coordination.k8s.io"),
    plural: text("leases"),
    singular: text("lease"),
    kind: text("Lease"),
    list_kind: text("LeaseList"),
    schema: text("io.k8s.api.coordination.v1.Lease"),
    create_on_update: true,
    unconditional_update: false,
    relaxed_durability: true,
    ..BASE
};
