//! What simulated nodes are like, and how that is written on a command line.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

/// The label of every simulated node, by which all of them are found and removed.
pub const SIMULATED: &str = "skiff.io/simulated";

/// Every node has at least this many addresses for its Pods, as upstream's default has it.
const SMALLEST_RANGE_BITS: u32 = 8;

/// What the nodes are like.
#[derive(Debug, Clone)]
pub struct Config {
    /// How many there are.
    pub nodes: u32,
    /// What their names begin with; a number follows.
    pub prefix: String,
    /// Zones that they are in, in turn.
    pub zones: Vec<String>,
    /// Labels of all of them.
    pub labels: BTreeMap<String, String>,
    /// Taints of all of them.
    pub taints: Vec<Taint>,
    /// What each has: `cpu`, `memory` and the like; `pods` is [`Config::pods`].
    pub capacity: BTreeMap<String, String>,
    /// How many Pods each takes.
    pub pods: u32,
    /// Where Pods get their addresses from.
    pub network: Network,
    /// How long a Pod takes to be ready.
    pub start_delay: Delay,
    /// How long a Pod takes to end; its grace period is the limit.
    pub stop_delay: Delay,
    /// How often each renews its Lease.
    pub lease_period: Duration,
    /// How often each writes its status though nothing has changed.
    pub status_period: Duration,
    /// Requests that are under way at once.
    pub in_flight: usize,
    /// The version of the agent that they claim to have.
    pub version: String,
    /// Where chance comes from.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        let capacity = [("cpu", "32"), ("memory", "256Gi"), ("ephemeral-storage", "1Ti")];
        Self {
            nodes: 1,
            prefix: "sim".to_owned(),
            zones: Vec::new(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            capacity: capacity.map(|(name, amount)| (name.to_owned(), amount.to_owned())).into(),
            pods: 110,
            network: Network { base: u32::from(Ipv4Addr::new(100, 64, 0, 0)), bits: 10 },
            start_delay: Delay::default(),
            stop_delay: Delay::default(),
            lease_period: Duration::from_secs(10),
            status_period: Duration::from_secs(300),
            in_flight: 64,
            version: "v1.36.0+sim".to_owned(),
            seed: 1,
        }
    }
}

impl Config {
    /// How many bits of an address tell a node's Pods apart.
    pub(crate) fn range_bits(&self) -> u32 {
        // Network and broadcast address are nobody's.
        let needed = u32::BITS - (self.pods + 1).leading_zeros();
        needed.max(SMALLEST_RANGE_BITS)
    }

    /// Says what cannot be.
    ///
    /// # Errors
    /// The nodes do not fit into the network.
    pub fn check(&self) -> Result<(), String> {
        let addresses = 1u64 << (32 - self.network.bits);
        let needed = u64::from(self.nodes) << self.range_bits();
        if needed > addresses {
            return Err(format!(
                "{} nodes with {} addresses each do not fit into {}/{}, which has {addresses}",
                self.nodes,
                1u64 << self.range_bits(),
                Ipv4Addr::from(self.network.base),
                self.network.bits
            ));
        }
        Ok(())
    }
}

/// A range of addresses, `100.64.0.0/10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    pub(crate) base: u32,
    pub(crate) bits: u32,
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(address, bits)| {
            let (address, bits): (Ipv4Addr, u32) = (address.parse().ok()?, bits.parse().ok()?);
            let base = u32::from(address);
            let is_whole = (1..=24).contains(&bits) && base.trailing_zeros() >= 32 - bits;
            is_whole.then_some(Self { base, bits })
        });
        parsed.ok_or_else(|| format!("{text:?} is no network such as 100.64.0.0/10, of /24 or larger"))
    }
}

/// A time between two others: `250ms`, or `1s..5s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delay {
    /// The shortest.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
}

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (least, most) = text.split_once("..").unwrap_or((text, text));
        let delay = Self { least: duration(least)?, most: duration(most)? };
        if delay.least > delay.most { Err(format!("{text:?} ends before it begins")) } else { Ok(delay) }
    }
}

/// Reads `250ms`, `5s`, `2m` or `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit_ms = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("{text:?} is no time such as 250ms, 5s or 2m")),
    };
    let count: u64 = digits.parse().map_err(|_| format!("{text:?} is no time such as 250ms, 5s or 2m"))?;
    count.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

/// A taint, written `KEY[=VALUE]:EFFECT`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Taint {
    key: String,
    value: String,
    effect: String,
}

impl FromStr for Taint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, effect) =
            text.rsplit_once(':').ok_or_else(|| format!("{text:?} has no effect, as in key:NoSchedule"))?;
        if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
            return Err(format!("{effect:?} is not NoSchedule, PreferNoSchedule or NoExecute"));
        }
        let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
        Ok(Self { key: key.to_owned(), value: value.to_owned(), effect: effect.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!("250ms".parse(), Ok(Delay { least: Duration::from_millis(250), most: Duration::from_millis(250) }));
        assert_eq!("1s..2m".parse(), Ok(Delay { least: Duration::from_secs(1), most: Duration::from_secs(120) }));
        for wrong in ["", "5", "s", "5x", "2s..1s", "1s..", "99999999999999999h"] {
            assert!(wrong.parse::<Delay>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_network_has_no_loose_bits() {
        assert!("100.64.0.0/10".parse::<Network>().is_ok());
        for wrong in ["100.65.0.0/10", "10.0.0.0", "10.0.0.0/25", "x/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn nodes_that_do_not_fit_are_refused() {
        let of = |nodes, pods| Config { nodes, pods, ..Config::default() }.check().is_ok();
        assert!(of(16_384, 110));
        assert!(!of(16_385, 110));
        assert!(of(16_384, 254));
        assert!(!of(16_384, 255), "two of the 256 addresses are nobody's");
    }

    #[test]
    fn taints_are_read_as_kubectl_writes_them() {
        let taint: Taint = "a/b=c:NoExecute".parse().expect("a taint");
        assert_eq!((&*taint.key, &*taint.value, &*taint.effect), ("a/b", "c", "NoExecute"));
        assert!("a=b".parse::<Taint>().is_err());
        assert!("a:Never".parse::<Taint>().is_err());
    }
}
