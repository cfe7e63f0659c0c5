//! `networking.k8s.io/v1` IPAddress: one allocated Service address.

use crate::base::{BASE, text, texts};
use crate::def::{ResourceDef, Scope};

/// `ipaddresses`.
pub static DEF: ResourceDef = ResourceDef {
    group: text("networking.k8s.io"),
    plural: text("ipaddresses"),
    singular: text("ipaddress"),
    kind: text("IPAddress"),
    list_kind: text("IPAddressList"),
    short_names: texts!["ip"],
    scope: Scope::Cluster,
    schema: text("io.k8s.api.networking.v1.IPAddress"),
    ..BASE
};
