//! Nodes that are alike but for how full they are, ordered by that.

use std::collections::{BTreeMap, HashMap};

/// Nodes that share everything that is weighed against the whole cluster: their raw scores and topology domains.
#[derive(Debug, Default)]
pub struct Cell {
    /// What they share.
    pub key: Box<[i64]>,
    /// The nodes by the score that each has of its own.
    scores: BTreeMap<i64, Vec<u32>>,
    /// How many there are.
    pub nodes: usize,
}

impl Cell {
    /// The best score, and all nodes that have it.
    pub fn top(&self) -> Option<(i64, &[u32])> {
        self.scores.last_key_value().map(|(score, nodes)| (*score, nodes.as_slice()))
    }

    /// All nodes with their scores.
    #[cfg(test)]
    pub fn all(&self) -> impl Iterator<Item = (u32, i64)> {
        self.scores.iter().flat_map(|(score, nodes)| nodes.iter().map(|node| (*node, *score)))
    }
}

/// Where a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spot {
    /// In which cell.
    pub cell: u32,
    score: i64,
    /// Among those with the same score.
    pub at: u32,
}

/// All cells.
#[derive(Debug, Default)]
pub struct Cells {
    all: Vec<Cell>,
    index: HashMap<Box<[i64]>, u32>,
    empty: Vec<u32>,
}

impl Cells {
    /// The cells, empty ones too.
    pub fn all(&self) -> &[Cell] {
        &self.all
    }

    /// Puts a node in, where it was not.
    pub fn put(&mut self, node: u32, key: &[i64], score: i64) -> Spot {
        let cell = self.cell(key);
        let members = &mut self.all[cell as usize];
        members.nodes += 1;
        let peers = members.scores.entry(score).or_default();
        peers.push(node);
        Spot { cell, score, at: u32::try_from(peers.len() - 1).expect("fewer nodes than that") }
    }

    /// Takes the node out that is at a spot; gives the one that is there now instead.
    pub fn take(&mut self, spot: Spot) -> Option<u32> {
        let cell = &mut self.all[spot.cell as usize];
        let peers = cell.scores.get_mut(&spot.score).expect("a spot is of a node that was put there");
        peers.swap_remove(spot.at as usize);
        let moved = peers.get(spot.at as usize).copied();
        if peers.is_empty() {
            cell.scores.remove(&spot.score);
        }
        cell.nodes -= 1;
        if cell.nodes == 0 {
            self.index.remove(&cell.key);
            self.empty.push(spot.cell);
        }
        moved
    }

    fn cell(&mut self, key: &[i64]) -> u32 {
        if let Some(at) = self.index.get(key) {
            return *at;
        }
        let fresh = Cell { key: key.into(), ..Cell::default() };
        let at = match self.empty.pop() {
            Some(at) => {
                self.all[at as usize] = fresh;
                at
            }
            None => {
                self.all.push(fresh);
                u32::try_from(self.all.len() - 1).expect("fewer cells than that")
            }
        };
        self.index.insert(key.into(), at);
        at
    }
}
