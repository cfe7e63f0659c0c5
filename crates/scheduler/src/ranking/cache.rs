//! Which rankings are kept.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Ranking;
use crate::plugins::Ask;
use crate::pod::PodInfo;
use crate::profile::Profile;
use crate::snapshot::Snapshot;

/// At most this many are kept.
const MOST: usize = 256;
/// At most this many conclusions about nodes are kept in all of them, about 100 bytes each.
const MOST_ROWS: usize = 2_000_000;
/// Shapes that were met once are remembered up to this number.
const MOST_MET: usize = 4096;

/// The rankings of shapes that come again and again.
#[derive(Debug, Default)]
pub struct Rankings {
    kept: HashMap<String, Kept>,
    met: HashSet<String>,
    /// Counts uses, to tell which was used last.
    uses: u64,
}

#[derive(Debug)]
struct Kept {
    ranking: Ranking,
    used: u64,
}

impl Rankings {
    /// The ranking for a pod, up to date. A shape that is met for the first time gets none unless `at_once`: looking at
    /// all nodes pays when more such pods come.
    pub fn of(
        &mut self,
        pod: &Arc<PodInfo>,
        profile: &Arc<Profile>,
        snapshot: &Snapshot,
        at_once: bool,
    ) -> Option<&mut Ranking> {
        let ask = Ask { pod, snapshot, profile };
        let signature = ask.signature();
        if !self.kept.contains_key(&signature) {
            if !at_once && !self.met.contains(&signature) {
                if self.met.len() >= MOST_MET {
                    self.met.clear();
                }
                self.met.insert(signature);
                return None;
            }
            self.make_room(snapshot.nodes().len());
            let ranking = Ranking::new(pod.clone(), profile.clone(), snapshot);
            self.kept.insert(signature.clone(), Kept { ranking, used: 0 });
        }
        self.uses += 1;
        let kept = self.kept.get_mut(&signature)?;
        kept.used = self.uses;
        kept.ranking.refresh(snapshot);
        Some(&mut kept.ranking)
    }

    fn make_room(&mut self, nodes: usize) {
        let most = MOST.min(MOST_ROWS / nodes.max(1)).max(1);
        while self.kept.len() >= most {
            let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used).map(|(key, _)| key.clone());
            oldest.and_then(|key| self.kept.remove(&key));
        }
    }
}
