//! What simulated nodes do next. Pure: Pods that were seen, outcomes of requests and the time come in, deeds come out.
//! One heap holds all timers; a Pod that runs costs a table entry and nothing else.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Config, Delay, duration};
use crate::objects::{About, node_base, node_name};
use crate::seen::SeenPod;

/// A request that failed is made again after this.
const RETRY: Duration = Duration::from_secs(1);
/// How containers end that are told to: 128 and SIGTERM.
const TOLD_TO_END: i32 = 143;

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    /// Create the Node and its Lease, or find them.
    Register(u32),
    /// Renew the Lease.
    Renew(u32),
    /// Write the Node's status.
    Report(u32),
    /// Write a Pod's status, or remove the Pod.
    Pod(Arc<str>, PodDeed, Box<About>),
}

/// One thing to do about a Pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodDeed {
    /// Say that it runs.
    Run,
    /// Say that its containers have ended with this code.
    End(i32),
    /// Say that they have ended, and let go of it: others wait for how it ended.
    EndAndRemove(i32),
    /// Let go of it.
    Remove,
}

/// How a deed went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Done,
    /// What it was about is gone.
    Gone,
    /// It may go well another time.
    Failed,
}

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Do this.
    Do(Deed),
    /// Nothing until this time, or until something happens.
    Wait(Option<Duration>),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Register(u32),
    Renew(u32),
    Report(u32),
    Pod(Arc<str>),
}

struct Node {
    is_registered: bool,
    is_gone: bool,
    /// Host numbers that its Pods have, one bit each.
    taken: Box<[u64]>,
    next: u32,
}

struct Pod {
    node: u32,
    /// The host number in the node's range; 0 where it has none.
    host: u32,
    plan: Option<(Duration, PodDeed)>,
    /// What its next status will be made of; only while one is to come.
    about: Option<Box<About>>,
    /// When it ends by itself, once it runs.
    ends: Option<(Duration, i32)>,
    is_under_way: bool,
    is_running: bool,
    is_removed: bool,
    seen_in: u32,
}

/// All nodes.
pub struct Fleet {
    config: Arc<Config>,
    names: HashMap<String, u32>,
    nodes: Vec<Node>,
    pods: HashMap<Arc<str>, Pod>,
    timers: BinaryHeap<Reverse<(Duration, u64, Timer)>>,
    count: u64,
    random: u64,
    list: u32,
    running: usize,
    registered: usize,
}

impl Fleet {
    /// Nodes that are all still to be registered.
    pub fn new(config: Arc<Config>, now: Duration) -> Self {
        let words = (1usize << config.range_bits()) / 64;
        let node = |_| Node { is_registered: false, is_gone: false, taken: vec![0; words].into(), next: 1 };
        let mut fleet = Self {
            names: (0..config.nodes).map(|index| (node_name(&config, index), index)).collect(),
            nodes: (0..config.nodes).map(node).collect(),
            random: config.seed | 1,
            config,
            pods: HashMap::new(),
            timers: BinaryHeap::new(),
            count: 0,
            list: 0,
            running: 0,
            registered: 0,
        };
        (0..fleet.config.nodes).for_each(|index| fleet.set(now, Timer::Register(index)));
        fleet
    }

    /// Nodes registered, Pods known, Pods running.
    pub fn counts(&self) -> (usize, usize, usize) {
        (self.registered, self.pods.len(), self.running)
    }

    /// What is to be done now, or when to ask again.
    pub fn next(&mut self, now: Duration) -> Next {
        while let Some(Reverse((at, _, _))) = self.timers.peek() {
            if *at > now {
                return Next::Wait(Some(*at));
            }
            let Some(Reverse((_, _, timer))) = self.timers.pop() else { break };
            if let Some(deed) = self.due(timer, now) {
                return Next::Do(deed);
            }
        }
        Next::Wait(None)
    }

    fn due(&mut self, timer: Timer, now: Duration) -> Option<Deed> {
        let stays = |nodes: &[Node], index: u32| !nodes[index as usize].is_gone;
        match timer {
            Timer::Register(index) => Some(Deed::Register(index)),
            Timer::Renew(index) => stays(&self.nodes, index).then_some(Deed::Renew(index)),
            Timer::Report(index) => stays(&self.nodes, index).then_some(Deed::Report(index)),
            Timer::Pod(uid) => {
                let pod = self.pods.get_mut(&uid).filter(|pod| !pod.is_under_way)?;
                let (_, deed) = pod.plan.take_if(|(at, _)| *at <= now)?;
                let about = pod.about.clone()?;
                pod.is_under_way = true;
                Some(Deed::Pod(uid, deed, about))
            }
        }
    }

    /// A deed is done, or not.
    pub fn finished(&mut self, deed: Deed, outcome: Outcome, now: Duration) {
        match (deed, outcome) {
            (Deed::Register(index), Outcome::Done) => self.registered(index, now),
            (Deed::Register(index), _) => self.set(now + RETRY, Timer::Register(index)),
            (Deed::Renew(index) | Deed::Report(index), Outcome::Gone) => {
                // Somebody has removed the node: it does not come back by itself.
                self.registered -= usize::from(!self.nodes[index as usize].is_gone);
                self.nodes[index as usize].is_gone = true;
            }
            (Deed::Renew(index), _) => self.set(now + self.config.lease_period, Timer::Renew(index)),
            (Deed::Report(index), _) => self.set(now + self.config.status_period, Timer::Report(index)),
            (Deed::Pod(uid, deed, _), outcome) => self.pod_finished(&uid, deed, outcome, now),
        }
    }

    /// Heartbeats of the nodes are spread over their periods.
    fn registered(&mut self, index: u32, now: Duration) {
        let node = &mut self.nodes[index as usize];
        if std::mem::replace(&mut node.is_registered, true) {
            return;
        }
        self.registered += 1;
        let (renew, report) = (self.config.lease_period, self.config.status_period);
        let renew = now + self.between(Delay { least: renew / 2, most: renew });
        let report = now + self.between(Delay { least: report / 2, most: report });
        self.set(renew, Timer::Renew(index));
        self.set(report, Timer::Report(index));
    }

    fn pod_finished(&mut self, uid: &Arc<str>, deed: PodDeed, outcome: Outcome, now: Duration) {
        let Some(pod) = self.pods.get_mut(uid) else { return };
        pod.is_under_way = false;
        match (deed, outcome) {
            (_, Outcome::Gone) => return self.forget(uid),
            (_, Outcome::Failed) => {
                pod.plan.get_or_insert((now + RETRY, deed));
            }
            (PodDeed::Run, Outcome::Done) => {
                self.running += usize::from(!std::mem::replace(&mut pod.is_running, true));
                if let Some((after, code)) = pod.ends.take() {
                    pod.plan.get_or_insert((now + after, PodDeed::End(code)));
                }
            }
            (PodDeed::End(_), Outcome::Done) => {
                self.running -= usize::from(std::mem::replace(&mut pod.is_running, false));
            }
            (PodDeed::EndAndRemove(_) | PodDeed::Remove, Outcome::Done) => {
                self.running -= usize::from(std::mem::replace(&mut pod.is_running, false));
                pod.is_removed = true;
                pod.plan = None;
            }
        }
        match pod.plan {
            Some((at, _)) => self.set(at, Timer::Pod(uid.clone())),
            None => pod.about = None,
        }
    }

    /// A list of all Pods begins: those that are not in it are gone.
    pub fn list_begins(&mut self) {
        self.list += 1;
    }

    /// The list has ended.
    pub fn list_ends(&mut self) {
        let gone: Vec<_> =
            self.pods.iter().filter(|(_, pod)| pod.seen_in != self.list).map(|(uid, _)| uid.clone()).collect();
        gone.iter().for_each(|uid| self.forget(uid));
    }

    /// A Pod is gone.
    pub fn forget(&mut self, uid: &str) {
        let Some(pod) = self.pods.remove(uid) else { return };
        self.running -= usize::from(pod.is_running);
        let node = &mut self.nodes[pod.node as usize];
        node.taken[pod.host as usize / 64] &= !(1 << (pod.host % 64));
    }

    /// A Pod came or changed.
    pub fn see(&mut self, seen: SeenPod, now: Duration) {
        let Some(&node) = self.names.get(&*seen.spec.node_name) else { return };
        let uid: Arc<str> = seen.metadata.uid.clone().into();
        let is_new = !self.pods.contains_key(&uid);
        if is_new {
            let host = self.host_of(node, &seen);
            self.pods.insert(uid.clone(), Pod::on(node, host));
        }
        let wished = self.wished(&uid, &seen, is_new, now);
        let list = self.list;
        let Some(pod) = self.pods.get_mut(&uid) else { return };
        pod.seen_in = list;
        let Some((at, deed)) = wished else { return };
        let base = node_base(&self.config, node);
        pod.about = Some(Box::new(about(seen, (pod.host > 0).then(|| Ipv4Addr::from(base + pod.host)))));
        pod.plan = Some((at, deed));
        if !pod.is_under_way {
            self.set(at, Timer::Pod(uid));
        }
    }

    /// What is to become of a Pod, where that is news.
    fn wished(&mut self, uid: &str, seen: &SeenPod, is_new: bool, now: Duration) -> Option<(Duration, PodDeed)> {
        let wishes = seen.metadata.annotations.clone().unwrap_or_default();
        let is_terminal = matches!(&*seen.status.phase, "Succeeded" | "Failed");
        let wish = |text: &Option<Box<str>>| text.as_deref().and_then(|text| duration(text).ok());
        if seen.metadata.deletion_timestamp.is_some() {
            let takes = wish(&wishes.stop_delay).unwrap_or_else(|| self.between(self.config.stop_delay));
            let grace = Duration::from_secs(seen.metadata.deletion_grace_period_seconds.unwrap_or(0));
            // How a Pod ended concerns only those who hold it back; for others its last status is never seen.
            let deed = match () {
                () if is_terminal || seen.metadata.finalizers.is_empty() => PodDeed::Remove,
                () => PodDeed::EndAndRemove(TOLD_TO_END),
            };
            let pod = self.pods.get(uid)?;
            let at = now + if is_terminal { Duration::ZERO } else { takes.min(grace) };
            let is_planned = pod.plan.is_some_and(|(planned, deed)| {
                matches!(deed, PodDeed::Remove | PodDeed::EndAndRemove(_)) && planned <= at
            });
            let is_removing = pod.is_under_way && pod.plan.is_none() && pod.is_removed;
            return (!pod.is_removed && !is_planned && !is_removing).then_some((at, deed));
        }
        let code = wishes.exit_code.as_deref().and_then(|code| code.parse().ok()).unwrap_or(0);
        let ends = wish(&wishes.complete_after).map(|after| (after, code));
        let takes = wish(&wishes.start_delay).unwrap_or_else(|| self.between(self.config.start_delay));
        let pod = self.pods.get_mut(uid)?;
        match &*seen.status.phase {
            "Succeeded" | "Failed" => {
                self.running -= usize::from(std::mem::replace(&mut pod.is_running, false));
                None
            }
            "Running" if is_new => {
                // It was started in an earlier life of this program.
                self.running += 1;
                pod.is_running = true;
                ends.map(|(after, code)| (now + after, PodDeed::End(code)))
            }
            // Others have said that it is not ready, or have opened the last gate.
            "Running" if seen.is_ready() != seen.gates_are_open() && pod.plan.is_none() && !pod.is_under_way => {
                Some((now, PodDeed::Run))
            }
            "" | "Pending" if is_new => {
                pod.ends = ends;
                Some((now + takes, PodDeed::Run))
            }
            _ => None,
        }
    }

    /// The number that the Pod has, or the next that no other has.
    fn host_of(&mut self, index: u32, seen: &SeenPod) -> u32 {
        let (base, size) = (node_base(&self.config, index), 1u32 << self.config.range_bits());
        let node = &mut self.nodes[index as usize];
        let has = seen.status.pod_ip.as_deref().and_then(|text| text.parse::<Ipv4Addr>().ok());
        let has = has.and_then(|address| u32::from(address).checked_sub(base)).filter(|host| *host < size);
        let is_free = |host: u32| node.taken[host as usize / 64] & 1 << (host % 64) == 0;
        if seen.spec.host_network || (has.is_none() && seen.status.pod_ip.is_some()) {
            return 0;
        }
        let after = (node.next..size - 1).chain(1..node.next);
        let Some(host) = has.or_else(|| after.into_iter().find(|host| is_free(*host))) else { return 0 };
        node.taken[host as usize / 64] |= 1 << (host % 64);
        node.next = if host + 2 < size { host + 1 } else { 1 };
        host
    }

    fn set(&mut self, at: Duration, timer: Timer) {
        self.count += 1;
        self.timers.push(Reverse((at, self.count, timer)));
    }

    fn between(&mut self, delay: Delay) -> Duration {
        if delay.least == delay.most {
            return delay.least;
        }
        // xorshift64: cheap, and good enough to spread things.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let span = u64::try_from((delay.most - delay.least).as_micros()).unwrap_or(u64::MAX).max(1);
        delay.least + Duration::from_micros(self.random % span)
    }
}

impl Pod {
    fn on(node: u32, host: u32) -> Self {
        Self {
            node,
            host,
            plan: None,
            about: None,
            ends: None,
            is_under_way: false,
            is_running: false,
            is_removed: false,
            seen_in: 0,
        }
    }
}

fn about(seen: SeenPod, address: Option<Ipv4Addr>) -> About {
    About {
        gates_open: seen.gates_are_open(),
        namespace: seen.metadata.namespace,
        name: seen.metadata.name,
        generation: seen.metadata.generation,
        init: seen.spec.init_containers,
        containers: seen.spec.containers,
        address,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fleet(config: Config) -> Fleet {
        Fleet::new(Arc::new(config), Duration::ZERO)
    }

    fn started(nodes: u32) -> Fleet {
        let mut fleet = fleet(Config { nodes, ..Config::default() });
        for index in 0..nodes {
            assert_eq!(fleet.next(Duration::ZERO), Next::Do(Deed::Register(index)));
            fleet.finished(Deed::Register(index), Outcome::Done, Duration::ZERO);
        }
        fleet
    }

    fn pod(name: &str, node: &str, more: Value) -> SeenPod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
            "status": {"phase": "Pending"},
        });
        for (path, value) in more.as_object().into_iter().flatten() {
            let (outer, inner) = path.split_once('.').expect("two parts");
            pod[outer][inner] = value.clone();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    /// Everything that is to be done about Pods at this time, done well.
    fn work(fleet: &mut Fleet, now: Duration) -> Vec<String> {
        let mut done = Vec::new();
        while let Next::Do(deed) = fleet.next(now) {
            if let Deed::Pod(uid, what, about) = &deed {
                done.push(format!("{what:?} {uid} {}", about.address.map_or("-".into(), |a| a.to_string())));
            }
            fleet.finished(deed, Outcome::Done, now);
        }
        done
    }

    #[test]
    fn heartbeats_are_spread_and_go_on() {
        let mut fleet = started(100);
        let mut beats = vec![0; 100];
        let mut now = Duration::ZERO;
        while now < SECOND * 60 {
            match fleet.next(now) {
                Next::Do(deed) => {
                    if let Deed::Renew(index) = deed {
                        beats[index as usize] += 1;
                    }
                    fleet.finished(deed, Outcome::Done, now);
                }
                Next::Wait(at) => now = at.expect("there is always a next one"),
            }
        }
        assert!(beats.iter().all(|count| (5..=7).contains(count)), "{beats:?}");
    }

    #[test]
    fn a_node_that_was_removed_stays_so() {
        let mut fleet = started(1);
        assert_eq!(fleet.next(SECOND * 10), Next::Do(Deed::Renew(0)));
        fleet.finished(Deed::Renew(0), Outcome::Gone, SECOND * 10);
        assert_eq!(fleet.next(SECOND * 1000), Next::Wait(None));
        assert_eq!(fleet.counts().0, 0);
    }

    #[test]
    fn pods_get_addresses_run_and_go() {
        let mut fleet = started(2);
        fleet.see(pod("a", "sim-0", json!({})), Duration::ZERO);
        fleet.see(pod("b", "sim-0", json!({})), Duration::ZERO);
        fleet.see(pod("c", "sim-1", json!({})), Duration::ZERO);
        fleet.see(pod("h", "sim-1", json!({"spec.hostNetwork": true})), Duration::ZERO);
        fleet.see(pod("x", "other", json!({})), Duration::ZERO);
        assert_eq!(
            work(&mut fleet, Duration::ZERO),
            ["Run a 100.64.0.1", "Run b 100.64.0.2", "Run c 100.64.1.1", "Run h -"]
        );
        assert_eq!(fleet.counts(), (2, 4, 4));
        let going = json!({"metadata.deletionTimestamp": "now", "metadata.deletionGracePeriodSeconds": 30});
        fleet.see(pod("a", "sim-0", going.clone()), SECOND);
        fleet.see(pod("a", "sim-0", going), SECOND);
        assert_eq!(work(&mut fleet, SECOND), ["Remove a 100.64.0.1"]);
        fleet.forget("a");
        assert_eq!(fleet.counts(), (2, 3, 3));
    }

    #[test]
    fn pods_that_somebody_holds_back_tell_how_they_ended_once() {
        let mut fleet = started(1);
        fleet.see(pod("a", "sim-0", json!({})), Duration::ZERO);
        work(&mut fleet, Duration::ZERO);
        let going =
            json!({"metadata.deletionTimestamp": "now", "metadata.finalizers": ["f"], "status.phase": "Running"});
        fleet.see(pod("a", "sim-0", going.clone()), SECOND);
        assert_eq!(work(&mut fleet, SECOND), ["EndAndRemove(143) a 100.64.0.1"]);
        fleet.see(pod("a", "sim-0", going), SECOND);
        assert!(work(&mut fleet, SECOND * 2).is_empty());
    }

    #[test]
    fn pods_do_as_their_annotations_say() {
        let mut fleet = started(1);
        let wishes = json!({"metadata.annotations": {
            "sim.skiff.io/start-delay": "2s", "sim.skiff.io/complete-after": "3s", "sim.skiff.io/exit-code": "7",
        }});
        fleet.see(pod("a", "sim-0", wishes), Duration::ZERO);
        assert!(work(&mut fleet, SECOND).is_empty());
        assert_eq!(work(&mut fleet, SECOND * 2), ["Run a 100.64.0.1"]);
        assert_eq!(work(&mut fleet, SECOND * 5), ["End(7) a 100.64.0.1"]);
        assert_eq!(fleet.counts(), (1, 1, 0));
    }

    #[test]
    fn a_pod_deleted_while_its_start_is_under_way_goes_afterwards() {
        let mut fleet = started(1);
        fleet.see(pod("a", "sim-0", json!({})), Duration::ZERO);
        let Next::Do(run) = fleet.next(Duration::ZERO) else { panic!("it starts") };
        fleet.see(pod("a", "sim-0", json!({"metadata.deletionTimestamp": "now"})), Duration::ZERO);
        assert!(work(&mut fleet, Duration::ZERO).is_empty(), "one request at a time");
        fleet.finished(run, Outcome::Failed, SECOND);
        assert_eq!(work(&mut fleet, SECOND), ["Remove a 100.64.0.1"]);
    }

    #[test]
    fn what_an_earlier_life_started_is_taken_over() {
        let mut fleet = started(1);
        let runs = json!({"status.phase": "Running", "status.podIP": "100.64.0.1",
            "status.conditions": [{"type": "Ready", "status": "True"}]});
        fleet.list_begins();
        fleet.see(pod("a", "sim-0", runs), Duration::ZERO);
        fleet.see(pod("b", "sim-0", json!({})), Duration::ZERO);
        fleet.list_ends();
        assert_eq!(work(&mut fleet, Duration::ZERO), ["Run b 100.64.0.2"]);
        fleet.list_begins();
        fleet.list_ends();
        assert_eq!(fleet.counts(), (1, 0, 0));
    }

    #[test]
    fn gates_and_others_words_about_readiness_are_followed() {
        let mut fleet = started(1);
        let status = |gate: &str, ready: &str| {
            json!({"spec.readinessGates": [{"conditionType": "g"}], "status.phase": "Running", "status.conditions": [
                {"type": "g", "status": gate}, {"type": "Ready", "status": ready}]})
        };
        fleet.see(pod("a", "sim-0", json!({"spec.readinessGates": [{"conditionType": "g"}]})), Duration::ZERO);
        assert_eq!(work(&mut fleet, Duration::ZERO), ["Run a 100.64.0.1"]);
        fleet.see(pod("a", "sim-0", status("False", "False")), SECOND);
        assert!(work(&mut fleet, SECOND).is_empty());
        fleet.see(pod("a", "sim-0", status("True", "False")), SECOND);
        assert_eq!(work(&mut fleet, SECOND), ["Run a 100.64.0.1"]);
    }
}
