//! What a runtime has lost sight of: where it was killed while it started a container, it may know nothing of it afterwards.
//! A process that it had begun (`runc init`) then stays in its cgroup, and holds the namespaces of a sandbox that is gone,
//! for as long as its Pod lives on in another one.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use skiff_cri::{CriResult, LONGEST_CALL, ListContainersRequest, ListPodSandboxRequest, RuntimeService};

use crate::agent::Workers;
use crate::cgroups::Layout;
use crate::config::sandbox;

/// How often it is looked.
const LOOK: Duration = Duration::from_secs(30);
/// A cgroup that the runtime does not know for so long is not that of a container which it makes at this moment: no call
/// takes as long.
const LOST_AFTER: Duration = LONGEST_CALL.saturating_add(Duration::from_secs(10));
/// How long the ids of sandboxes and containers are, in hexadecimal digits.
const ID_DIGITS: usize = 64;

/// Ends what the runtime has lost, for ever.
pub async fn keep(workers: Arc<Workers>) {
    let Some(layout) = &workers.node().cgroups else { return };
    let mut strays = Strays::default();
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(error) = look(&workers, layout, &mut strays).await {
            tracing::debug!(%error, "it cannot be told what the runtime has lost");
        }
    }
}

async fn look(workers: &Workers, layout: &Layout, strays: &mut Strays) -> Result<(), Box<dyn std::error::Error>> {
    let node = workers.node();
    let facts = node.facts();
    let pods: Vec<String> = workers.pods().iter().map(|pod| sandbox::cgroup(pod, &facts)).collect();
    // Cgroups first: what comes between the two looks is known then.
    let there = layout.clone();
    let found = tokio::task::spawn_blocking(move || {
        let below = |pod: &String| there.below(pod).into_iter().map(|name| format!("{pod}/{name}")).collect::<Vec<_>>();
        pods.iter().flat_map(below).collect()
    });
    let found = found.await?;
    let known = known(&*node.runtime).await?;
    for cgroup in strays.look(found, &known, node.clock.monotonic()) {
        tracing::warn!(cgroup, "the runtime has lost what is in this cgroup");
        let (layout, mounter) = (layout.clone(), node.mounter.clone());
        tokio::task::spawn_blocking(move || layout.remove(&cgroup, &|pid| mounter.end_process(pid))).await?;
    }
    Ok(())
}

/// The ids of all that the runtime has.
async fn known(runtime: &dyn RuntimeService) -> CriResult<HashSet<String>> {
    let sandboxes = runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await?.items;
    let containers = runtime.list_containers(ListContainersRequest::default()).await?.containers;
    let sandboxes = sandboxes.into_iter().map(|sandbox| sandbox.id);
    Ok(sandboxes.chain(containers.into_iter().map(|container| container.id)).collect())
}

/// The cgroups of containers that the runtime does not know, and since when that is so.
#[derive(Default)]
struct Strays(BTreeMap<String, Duration>);

impl Strays {
    /// Of the cgroups in those of Pods, the ones that are lost.
    fn look(&mut self, found: BTreeSet<String>, known: &HashSet<String>, now: Duration) -> Vec<String> {
        let is_unknown = |cgroup: &String| id(cgroup).is_some_and(|id| !known.contains(id));
        let before = std::mem::take(&mut self.0);
        let since = |cgroup: String| (before.get(&cgroup).copied().unwrap_or(now), cgroup);
        self.0 = found.into_iter().filter(is_unknown).map(since).map(|(since, cgroup)| (cgroup, since)).collect();
        let lost = self.0.iter().filter(|(_, since)| now.saturating_sub(**since) > LOST_AFTER);
        lost.map(|(cgroup, _)| cgroup.clone()).collect()
    }
}

/// The id in the name of a container's cgroup, which runtimes put something before or after, or nothing. What has none is
/// somebody else's.
fn id(cgroup: &str) -> Option<&str> {
    let name = cgroup.rsplit('/').next()?;
    name.split(|letter: char| !letter.is_ascii_hexdigit()).find(|part| part.len() == ID_DIGITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(letter: &str) -> String {
        letter.repeat(ID_DIGITS)
    }

    /// Looks at these moments, in seconds, each with the cgroups that are there and the ids that are known.
    fn check(looks: &[(u64, &[&str], &[&str], &[&str])]) {
        let mut strays = Strays::default();
        let cgroup = |name: &&str| format!("/kubepods/pod1/{}", name.replace('@', &named("a")));
        for (second, found, known, lost) in looks {
            let found = found.iter().map(cgroup).collect();
            let known = known.iter().map(|letter| named(letter)).collect();
            let expected: Vec<_> = lost.iter().map(cgroup).collect();
            assert_eq!(strays.look(found, &known, Duration::from_secs(*second)), expected, "at {second} s");
        }
    }

    #[test]
    fn what_the_runtime_does_not_know_for_long_is_lost() {
        check(&[
            (0, &["@"], &[], &[]),
            (250, &["@"], &[], &[]),
            (251, &["@"], &[], &["@"]),
            (260, &[], &[], &[]),
            // Another one under the same name.
            (300, &["@"], &[], &[]),
            (551, &["@"], &[], &["@"]),
        ]);
    }

    #[test]
    fn what_becomes_known_is_no_stray() {
        check(&[(0, &["@"], &[], &[]), (30, &["@"], &["a"], &[]), (300, &["@"], &["a"], &[]), (600, &["@"], &[], &[])]);
    }

    #[test]
    fn one_look_says_nothing() {
        check(&[(1000, &["@"], &[], &[]), (2000, &["@"], &["a"], &[])]);
    }

    #[test]
    fn runtimes_name_cgroups_as_they_like() {
        check(&[
            (0, &["crio-@", "cri-containerd-@.scope", "users-own", "init.scope", "@b"], &[], &[]),
            (
                300,
                &["crio-@", "cri-containerd-@.scope", "users-own", "init.scope", "@b"],
                &["c"],
                &["cri-containerd-@.scope", "crio-@"],
            ),
            (600, &["crio-@", "cri-containerd-@.scope"], &["a"], &[]),
        ]);
    }
}
