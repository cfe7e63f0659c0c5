//! Which endpoints a node prefers: those that the EndpointSlices hint at for the node itself or for its zone. Follows
//! upstream's documentation "Traffic distribution" and "Topology aware routing".

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointHints;

use super::service::Backend;

/// The label that says in which zone a node is.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The node from which endpoints are seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Here {
    /// Its name.
    pub node: String,
    /// Its zone, if it is known.
    pub zone: Option<String>,
}

/// The zone that the node says it is in.
pub fn zone_of(node: &Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get(ZONE_LABEL).map(String::as_str).filter(|zone| !zone.is_empty())
}

/// For whom an endpoint is meant, as seen from one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hints {
    /// Whether it is for this node; `None` if no node is named.
    pub for_node: Option<bool>,
    /// Whether it is for this node's zone; `None` if no zone is named.
    pub for_zone: Option<bool>,
}

impl Hints {
    /// What the hints of the API say here.
    pub fn read(hints: Option<&EndpointHints>, here: &Here) -> Self {
        let is_here = |names: Vec<&String>, wanted: Option<&String>| {
            (!names.is_empty()).then(|| wanted.is_some_and(|wanted| names.contains(&wanted)))
        };
        let nodes = hints.into_iter().flat_map(|hints| hints.for_nodes.iter().flatten()).map(|hint| &hint.name);
        let zones = hints.into_iter().flat_map(|hints| hints.for_zones.iter().flatten()).map(|hint| &hint.name);
        Self {
            for_node: is_here(nodes.collect(), Some(&here.node)),
            for_zone: is_here(zones.collect(), here.zone.as_ref()),
        }
    }
}

/// How far away an endpoint may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// All are alike.
    Anywhere,
    /// Only those that are for this node.
    SameNode,
    /// Only those that are for this node's zone.
    SameZone,
}

impl Preference {
    /// Hints count only where every endpoint that is ready has some, since whoever made them has not seen the others
    /// yet; and only where they leave this node one.
    pub fn of<'a>(backends: impl Iterator<Item = &'a Backend> + Clone) -> Self {
        let ready = backends.filter(|backend| backend.is_ready).map(|backend| backend.hints);
        let holds = |hint: fn(Hints) -> Option<bool>| {
            let mut hints = ready.clone().map(hint);
            hints.clone().all(|hint| hint.is_some()) && hints.any(|hint| hint == Some(true))
        };
        if holds(|hints| hints.for_node) {
            Self::SameNode
        } else if holds(|hints| hints.for_zone) {
            Self::SameZone
        } else {
            Self::Anywhere
        }
    }

    /// Whether an endpoint that is ready is near enough.
    pub fn allows(self, backend: &Backend) -> bool {
        match self {
            Self::Anywhere => true,
            Self::SameNode => backend.hints.for_node == Some(true),
            Self::SameZone => backend.hints.for_zone == Some(true),
        }
    }
}
