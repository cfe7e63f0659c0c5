//! Counting the pods of a Job: each first noted as uncounted, then let go, then counted. A crash between any two of
//! these steps counts none twice and loses none. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::{INDEX, is_tracked};
use crate::meta::{annotation, nonzero};
use crate::pods::phase;

/// How a pod ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It did what it was for.
    Succeeded,
    /// It did not.
    Failed,
}

/// How a pod ended, if it has: also one that was deleted before it could.
pub fn end_of(pod: &Pod) -> Option<End> {
    let unplaced = pod.spec.as_ref().is_none_or(|spec| spec.node_name.as_deref().is_none_or(str::is_empty));
    let cut_off = pod.metadata.deletion_timestamp.is_some()
        && (unplaced || pod.metadata.deletion_grace_period_seconds == Some(0));
    match phase(pod) {
        "Succeeded" => Some(End::Succeeded),
        "Failed" => Some(End::Failed),
        _ => cut_off.then_some(End::Failed),
    }
}

/// The number of a pod of an indexed Job.
pub fn index_of(pod: &Pod) -> Option<i32> {
    annotation(&pod.metadata, INDEX)?.parse().ok()
}

/// The counts as they are to be told.
#[derive(Debug, Default)]
pub struct Tally {
    succeeded: i32,
    failed: i32,
    uncounted_succeeded: Vec<String>,
    uncounted_failed: Vec<String>,
    /// Numbers of an indexed Job that are done.
    pub completed: BTreeSet<i32>,
    /// Ended pods that are noted, or will be by the next status, and can be let go then.
    pub ended: Vec<Arc<Pod>>,
}

impl Tally {
    /// Counts on from what was told last.
    pub fn of(job: &Job, pods: &[Arc<Pod>]) -> Self {
        let old = job.status.clone().unwrap_or_default();
        let indexed = is_indexed(job);
        let noted = old.uncounted_terminated_pods.unwrap_or_default();
        let held = |uid: &String| pods.iter().any(|pod| pod.metadata.uid.as_ref() == Some(uid) && is_tracked(pod));
        let (uncounted_succeeded, gone): (Vec<_>, Vec<_>) =
            noted.succeeded.unwrap_or_default().into_iter().partition(&held);
        let (uncounted_failed, lost): (Vec<_>, Vec<_>) = noted.failed.unwrap_or_default().into_iter().partition(&held);
        let mut tally = Self {
            succeeded: old.succeeded.unwrap_or(0) + gone.len() as i32,
            failed: old.failed.unwrap_or(0) + lost.len() as i32,
            uncounted_succeeded,
            uncounted_failed,
            completed: parse_indexes(old.completed_indexes.as_deref().unwrap_or_default()),
            ended: Vec::new(),
        };
        for pod in pods.iter().filter(|pod| is_tracked(pod)) {
            let Some(end) = end_of(pod) else { continue };
            tally.note(pod, end, indexed);
        }
        if indexed {
            tally.succeeded = tally.completed.len() as i32;
        }
        tally
    }

    fn note(&mut self, pod: &Arc<Pod>, end: End, indexed: bool) {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let list = match end {
            End::Succeeded if indexed => {
                self.completed.extend(index_of(pod));
                self.ended.push(pod.clone());
                return;
            }
            End::Succeeded => &mut self.uncounted_succeeded,
            End::Failed => &mut self.uncounted_failed,
        };
        if !list.contains(&uid) {
            list.push(uid);
        }
        self.ended.push(pod.clone());
    }

    /// How many have succeeded, counted or not.
    pub fn succeeded(&self) -> i32 {
        self.succeeded + self.uncounted_succeeded.len() as i32
    }

    /// How many have failed, counted or not.
    pub fn failed(&self) -> i32 {
        self.failed + self.uncounted_failed.len() as i32
    }

    /// Whether all that have ended are counted.
    pub fn is_settled(&self) -> bool {
        self.uncounted_succeeded.is_empty() && self.uncounted_failed.is_empty() && self.ended.is_empty()
    }

    /// Writes the counts.
    pub fn write(&self, status: &mut JobStatus, indexed: bool) {
        let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        status.succeeded = nonzero(self.succeeded);
        status.failed = nonzero(self.failed);
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: some(&self.uncounted_succeeded),
            failed: some(&self.uncounted_failed),
        });
        if indexed {
            status.completed_indexes = Some(format_indexes(&self.completed)).filter(|text| !text.is_empty());
        }
    }
}

/// Whether each pod of the Job has a number.
pub fn is_indexed(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.completion_mode.as_deref()) == Some("Indexed")
}

fn parse_indexes(text: &str) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first..=last);
        }
    }
    indexes
}

/// `1,3-5`, as upstream writes it.
fn format_indexes(indexes: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let text = |(first, last): &(i32, i32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_written_as_runs() {
        for text in ["", "0", "0,1", "1,3-5,7,8", "0-9"] {
            assert_eq!(format_indexes(&parse_indexes(text)), text);
        }
    }
}
