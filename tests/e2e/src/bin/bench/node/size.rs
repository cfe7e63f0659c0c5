//! How much is measured of each figure.

use std::time::Duration;

use crate::attempt::share;

/// How much of everything.
#[derive(Clone, Copy)]
pub struct Size {
    /// Pods that are made one after the other.
    pub one_pods: usize,
    /// Pods that are made at once: some, and many.
    pub bursts: [usize; 2],
    /// How often each of the two is repeated.
    pub burst_runs: [usize; 2],
    /// Commands that are run in a pod.
    pub execs: usize,
    /// Idle pods that the agent's own cost is told for.
    pub few: usize,
    /// Idle pods with probes.
    pub probed: usize,
    /// Idle pods that the node is to hold; 0 where that is not asked.
    pub held: usize,
    /// How long idle pods are watched.
    pub watch: Duration,
    /// After this time there is nothing left to do of what was begun.
    pub settle: Duration,
    /// What one container says.
    pub log_bytes: u64,
    /// A large layer.
    pub layer_bytes: u64,
    /// How often it is imported in each packing.
    pub import_runs: usize,
}

const WHOLE: Size = Size {
    one_pods: 100,
    bursts: [50, 200],
    burst_runs: [3, 3],
    execs: 100,
    few: 50,
    probed: 100,
    held: 1000,
    watch: Duration::from_secs(30),
    settle: Duration::from_secs(10),
    log_bytes: 1 << 30,
    layer_bytes: 700_000_000,
    import_runs: 3,
};

impl Size {
    /// What is measured of the node's own runtime.
    pub fn of_embedded() -> Self {
        WHOLE.divided()
    }

    /// The same of another runtime, which takes several times as long: fewer runs tell enough.
    pub fn of_peer() -> Self {
        Self { one_pods: 30, burst_runs: [2, 1], held: 0, import_runs: 1, ..WHOLE }.divided()
    }

    fn divided(self) -> Self {
        let share = share();
        let part = |count: usize| count.div_ceil(share as usize);
        Self {
            one_pods: part(self.one_pods),
            bursts: self.bursts.map(part),
            burst_runs: self.burst_runs.map(part),
            execs: part(self.execs),
            few: part(self.few),
            probed: part(self.probed),
            held: part(self.held),
            watch: self.watch / share,
            settle: self.settle / share,
            log_bytes: self.log_bytes / u64::from(share),
            layer_bytes: self.layer_bytes / u64::from(share),
            import_runs: part(self.import_runs),
        }
    }
}
