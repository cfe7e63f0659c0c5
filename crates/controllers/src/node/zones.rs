//! How fast pods are driven off nodes that are not heard of, by the state of each zone: where much of a zone is gone at
//! once it is more likely the network, and moving everything would make it worse. The decision is pure; what was spent is
//! kept here.
//! See <https://kubernetes.io/docs/concepts/architecture/nodes/#rate-limits-on-eviction>.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;
use skiff_base::bucket::Bucket;

use super::health;

/// Nodes for each second of a healthy zone; upstream's default.
const RATE: f64 = 0.1;
/// The same of a large zone of which much is gone.
const SECONDARY_RATE: f64 = 0.01;
/// A zone of more nodes than this is large.
const LARGE_ZONE: usize = 50;
/// Much of a zone is gone where this share of it is.
const UNHEALTHY: f64 = 0.55;
/// So few nodes are never much.
const FEW: usize = 2;
/// Where nobody is driven off now, this long passes until it is looked at again.
const PAUSE: Duration = Duration::from_secs(5);

const REGION: &str = "topology.kubernetes.io/region";
const ZONE: &str = "topology.kubernetes.io/zone";

/// How a zone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Most nodes are there.
    Normal,
    /// Many are gone.
    PartialDisruption,
    /// All are gone.
    FullDisruption,
}

impl State {
    /// The state of a zone by the number of its nodes that are there and that are not.
    pub fn of(ready: usize, gone: usize) -> Self {
        if ready == 0 && gone > 0 {
            Self::FullDisruption
        } else if gone > FEW && gone as f64 / (gone + ready) as f64 >= UNHEALTHY {
            Self::PartialDisruption
        } else {
            Self::Normal
        }
    }

    /// How many nodes of the zone may be cleared in each second.
    pub fn rate(self, size: usize) -> f64 {
        match self {
            Self::PartialDisruption if size > LARGE_ZONE => SECONDARY_RATE,
            Self::PartialDisruption => 0.0,
            // With others in order its pods are wanted there.
            Self::Normal | Self::FullDisruption => RATE,
        }
    }
}

/// Whether the pods of a node that is gone may be driven off it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clearing {
    /// Not while no node at all is there: it is more likely ourselves who hear nothing.
    Never,
    /// Not before this time has passed.
    In(Duration),
    /// Yes.
    Now,
}

/// A region and a zone of it.
type Zone = (String, String);

/// The zone of a node, with its region.
fn zone_of(node: &Node) -> Zone {
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(key)).cloned();
    (label(REGION).unwrap_or_default(), label(ZONE).unwrap_or_default())
}

/// What all zones may still do.
#[derive(Default)]
pub struct Zones {
    census: Mutex<Census>,
    allowances: Mutex<HashMap<Zone, Bucket>>,
}

/// How many nodes are there and not, kept as they change: nobody counts thousands of them for each.
#[derive(Default)]
struct Census {
    nodes: HashMap<String, (Zone, bool)>,
    /// Ready ones and others.
    zones: HashMap<Zone, (usize, usize)>,
    ready: usize,
}

impl Census {
    /// True where there is a ready node now and was none, or the other way round.
    fn set(&mut self, name: String, now: Option<(Zone, bool)>) -> bool {
        let had_ready = self.ready > 0;
        let before = match &now {
            Some(state) => self.nodes.insert(name, state.clone()),
            None => self.nodes.remove(&name),
        };
        if let Some((zone, ready)) = before {
            self.ready -= usize::from(ready);
            if let Some(counts) = self.zones.get_mut(&zone) {
                *(if ready { &mut counts.0 } else { &mut counts.1 }) -= 1;
                if *counts == (0, 0) {
                    self.zones.remove(&zone);
                }
            }
        }
        if let Some((zone, ready)) = now {
            self.ready += usize::from(ready);
            let counts = self.zones.entry(zone).or_default();
            *(if ready { &mut counts.0 } else { &mut counts.1 }) += 1;
        }
        had_ready != (self.ready > 0)
    }
}

impl Zones {
    /// Notes how a node is now; true where the first ready one came, or the last one went.
    pub fn note(&self, node: &Node) -> bool {
        let name = node.metadata.name.clone().unwrap_or_default();
        self.census.lock().set(name, Some((zone_of(node), health::is_ready(node))))
    }

    /// Notes that a node is gone; true where it was the last ready one.
    pub fn forget(&self, name: &str) -> bool {
        self.census.lock().set(name.to_owned(), None)
    }

    /// Whether the node may be cleared now; where it may it counts as done. One that has `begun` goes on.
    pub fn clear(&self, node: &Node, begun: bool, now: Duration) -> Clearing {
        let zone = zone_of(node);
        let (ready, gone, any_ready) = {
            let census = self.census.lock();
            let (ready, gone) = census.zones.get(&zone).copied().unwrap_or_default();
            (ready, gone, census.ready > 0)
        };
        if !any_ready {
            return Clearing::Never;
        }
        if begun {
            return Clearing::Now;
        }
        self.spend(zone, State::of(ready, gone).rate(ready + gone), now)
    }

    fn spend(&self, zone: Zone, rate: f64, now: Duration) -> Clearing {
        let mut allowances = self.allowances.lock();
        let allowance = allowances.entry(zone).or_insert_with(|| Bucket::full(1.0, now));
        if rate == 0.0 {
            return Clearing::In(PAUSE);
        }
        match allowance.take(rate, 1.0, now) {
            Ok(()) => Clearing::Now,
            Err(wait) => Clearing::In(wait.min(PAUSE)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    #[test]
    fn zones_are_judged_by_the_share_that_is_gone() {
        for (ready, gone, expected) in [
            (0, 0, State::Normal),
            (5, 0, State::Normal),
            (1, 2, State::Normal),
            (0, 1, State::FullDisruption),
            (0, 4, State::FullDisruption),
            (2, 3, State::PartialDisruption),
            (3, 3, State::Normal),
            (45, 55, State::PartialDisruption),
            (46, 54, State::Normal),
        ] {
            assert_eq!(State::of(ready, gone), expected, "{ready} ready, {gone} gone");
        }
        let rates = [State::Normal, State::PartialDisruption, State::FullDisruption].map(|state| state.rate(50));
        assert_eq!(rates, [0.1, 0.0, 0.1]);
        assert_eq!(State::PartialDisruption.rate(51), 0.01);
    }

    fn node(name: &str, zone: &str, ready: bool) -> Node {
        let status = if ready { "True" } else { "Unknown" };
        object(&format!(
            "{{metadata: {{name: {name}, labels: {{topology.kubernetes.io/zone: {zone}}}}}, status: {{conditions: [{{type: Ready, status: '{status}'}}]}}}}"
        ))
    }

    #[test]
    fn nodes_of_a_zone_are_cleared_one_in_ten_seconds() {
        let nodes = [node("a", "x", false), node("b", "x", false), node("c", "x", true), node("d", "z", false)];
        let zones = Zones::default();
        assert!(nodes.iter().map(|node| zones.note(node)).eq([false, false, true, false]));
        let clear = |at: usize, seconds: u64| zones.clear(&nodes[at], false, Duration::from_secs(seconds));
        assert_eq!(clear(0, 0), Clearing::Now);
        assert_eq!(clear(1, 0), Clearing::In(PAUSE));
        assert_eq!(clear(3, 0), Clearing::Now, "another zone has its own allowance, though all of it is gone");
        assert_eq!(clear(1, 6), Clearing::In(Duration::from_secs(4)));
        assert_eq!(clear(1, 10), Clearing::Now);
    }

    #[test]
    fn nobody_is_driven_off_where_much_or_everything_is_gone() {
        let mut nodes: Vec<_> = (0..3).map(|at| node(&format!("n{at}"), "x", false)).collect();
        nodes.push(node("r", "x", true));
        let zones = Zones::default();
        nodes.iter().for_each(|node| {
            zones.note(node);
        });
        let clear = || zones.clear(&nodes[0], false, Duration::ZERO);
        assert_eq!(clear(), Clearing::In(PAUSE));
        assert!(zones.forget("r"), "the last ready one");
        assert_eq!(clear(), Clearing::Never);
        assert!(zones.note(&node("n1", "w", true)) && !zones.note(&node("n1", "w", true)));
        assert_eq!(clear(), Clearing::Now, "less of its zone is left, and somebody is there");
    }
}
