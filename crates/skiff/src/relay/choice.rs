//! Which node is tried first: all in turn, and those that did not answer lately last.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// A node that did not answer is tried after all others for so long.
const REST: Duration = Duration::from_secs(5);

/// What is remembered of the nodes that a port leads to.
#[derive(Debug, Default)]
pub struct Choice {
    turn: usize,
    resting: BTreeMap<SocketAddr, Duration>,
}

impl Choice {
    /// In which order the nodes are tried now.
    pub fn order(&mut self, targets: &[SocketAddr], now: Duration) -> Vec<SocketAddr> {
        self.resting.retain(|_, until| *until > now);
        let (mut order, resting): (Vec<_>, Vec<_>) =
            targets.iter().copied().partition(|target| !self.resting.contains_key(target));
        if !order.is_empty() {
            let count = order.len();
            order.rotate_left(self.turn % count);
            self.turn = self.turn.wrapping_add(1);
        }
        order.extend(resting);
        order
    }

    /// It did not answer.
    pub fn failed(&mut self, target: SocketAddr, now: Duration) {
        self.resting.insert(target, now + REST);
    }

    /// It answered.
    pub fn answered(&mut self, target: SocketAddr) {
        self.resting.remove(&target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 80))
    }

    fn order(choice: &mut Choice, now_seconds: u64) -> Vec<u8> {
        let ordered = choice.order(&[node(1), node(2), node(3)], Duration::from_secs(now_seconds));
        ordered
            .iter()
            .map(|target| if let std::net::IpAddr::V4(ip) = target.ip() { ip.octets()[3] } else { 0 })
            .collect()
    }

    #[test]
    fn nodes_take_turns_and_those_that_are_silent_come_last() {
        let mut choice = Choice::default();
        assert_eq!(order(&mut choice, 0), [1, 2, 3]);
        assert_eq!(order(&mut choice, 0), [2, 3, 1]);
        choice.failed(node(2), Duration::from_secs(1));
        assert_eq!(order(&mut choice, 2), [1, 3, 2]);
        assert_eq!(order(&mut choice, 2), [3, 1, 2]);
        choice.failed(node(3), Duration::from_secs(2));
        choice.answered(node(2));
        assert_eq!(order(&mut choice, 3), [1, 2, 3]);
        assert_eq!(order(&mut choice, 8), [3, 1, 2], "it is tried as before");
        for last in 1..=3 {
            choice.failed(node(last), Duration::from_secs(9));
        }
        assert_eq!(order(&mut choice, 10), [1, 2, 3], "somebody has to be tried");
    }
}
