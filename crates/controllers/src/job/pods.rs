//! The pods of a Job: what a new one looks like, and which are too many. Pure.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, ObjectFieldSelector, Pod};
use k8s_openapi::api::scheduling::v1alpha2::PodGroup;
use skiff_base::ids::Ids;

use super::gang::join;
use super::policy::{Verdict, verdict};
use super::tally::{failures_before, index_of, is_indexed};
use super::{FAILURES, IGNORED_FAILURES, INDEX, TRACKING};
use crate::meta::{annotation, controller_reference, generated_name};
use crate::plan::{Action, Note};
use crate::pods::{Rank, cheaper_to_lose, from_template};

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";

/// Makes and ends the pods of a Job.
pub struct Making<'a> {
    /// The Job.
    pub job: &'a Job,
    /// Its spec.
    pub spec: &'a JobSpec,
    /// The group that its pods are in.
    pub group: Option<&'a PodGroup>,
}

fn ignored_before(pod: &Pod) -> i32 {
    annotation(&pod.metadata, IGNORED_FAILURES).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// How often the pod's number had failed before it, also where that did not count.
pub fn failures_in_all(pod: &Pod) -> i32 {
    failures_before(pod) + ignored_before(pod)
}

/// The pods that are to go: those whose number is not wanted or not theirs alone, and then as many as are left over,
/// those first that are missed least.
pub fn surplus(spec: &JobSpec, active: &[Arc<Pod>], too_many: i32) -> Vec<Arc<Pod>> {
    let mut ranked: Vec<_> = active.iter().map(|pod| (&**pod, Rank { crowd: 0 }, pod)).collect();
    ranked.sort_by(|(a, rank_a, _), (b, rank_b, _)| cheaper_to_lose((a, rank_a), (b, rank_b)));
    let (mut going, mut seen) = (Vec::new(), BTreeSet::new());
    if is_indexed(spec) {
        // From the most to the least wanted: the first of a number is the one that stays.
        for (pod, ..) in ranked.iter().rev() {
            let index = index_of(pod).filter(|index| *index < spec.completions.unwrap_or(0));
            if !index.is_some_and(|index| seen.insert(index)) {
                going.push(pod.metadata.uid.clone());
            }
        }
        // Of the rest those with the highest numbers go first.
        ranked.sort_by_key(|(pod, ..)| Reverse(index_of(pod)));
    }
    let rest: Vec<_> = ranked.iter().map(|(pod, ..)| pod.metadata.uid.clone()).filter(|u| !going.contains(u)).collect();
    let more = usize::try_from(too_many).unwrap_or(0).saturating_sub(going.len());
    going.extend(rest.into_iter().take(more));
    ranked.into_iter().filter(|(pod, ..)| going.contains(&pod.metadata.uid)).map(|(_, _, pod)| pod.clone()).collect()
}

impl Making<'_> {
    /// A new pod, with its number and in place of one of that number that failed.
    pub fn creation(&self, index: Option<i32>, before: Option<&Pod>, ids: &Ids) -> Action {
        let meta = &self.job.metadata;
        let job_name = meta.name.as_deref().unwrap_or_default();
        let base = index.map_or_else(|| format!("{job_name}-"), |index| format!("{job_name}-{index}-"));
        let name = generated_name(&base, ids);
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let owner = controller_reference(self.job);
        let mut pod = from_template(&self.spec.template, namespace, name.clone(), Some(base), owner);
        pod.metadata.finalizers.get_or_insert_default().push(TRACKING.to_owned());
        self.group.iter().for_each(|group| join(&mut pod, group));
        if let Some(index) = index {
            number(&mut pod, job_name, index);
            if self.spec.backoff_limit_per_index.is_some() {
                self.carry_failures(&mut pod, before);
            }
        }
        Action::create(&pod)
            .and_tell(Note::normal(self.job, "SuccessfulCreate", format!("Created pod: {name}")))
            .or_tell(Note::warning(self.job, "FailedCreate", "Error creating: "))
    }

    /// The new pod of a number says how often that has failed.
    fn carry_failures(&self, pod: &mut Pod, before: Option<&Pod>) {
        let (mut failures, mut ignored) = before.map_or((0, 0), |pod| (failures_before(pod), ignored_before(pod)));
        match before.map(|pod| verdict(self.spec, pod)) {
            None => {}
            Some(Verdict::Ignore) => ignored += 1,
            Some(_) => failures += 1,
        }
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(FAILURES.to_owned(), failures.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED_FAILURES.to_owned(), ignored.to_string());
        }
    }

    /// The end of a pod.
    pub fn deletion(&self, pod: &Pod) -> Action {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        Action::delete(pod)
            .and_tell(Note::normal(self.job, "SuccessfulDelete", format!("Deleted pod: {name}")))
            .or_tell(Note::warning(self.job, "FailedDelete", "Error deleting: "))
    }
}

/// Gives a pod its number: by annotation, label, hostname and environment.
fn number(pod: &mut Pod, job_name: &str, index: i32) {
    let text = index.to_string();
    pod.metadata.annotations.get_or_insert_default().insert(INDEX.to_owned(), text.clone());
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), text);
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{job_name}-{index}"));
    let source = EnvVarSource {
        field_ref: Some(ObjectFieldSelector {
            field_path: format!("metadata.labels['{INDEX}']"),
            ..ObjectFieldSelector::default()
        }),
        ..EnvVarSource::default()
    };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let variables = container.env.get_or_insert_default();
        if variables.iter().all(|variable| variable.name != INDEX_VARIABLE) {
            let (name, value_from) = (INDEX_VARIABLE.to_owned(), Some(source.clone()));
            variables.push(EnvVar { name, value_from, ..EnvVar::default() });
        }
    }
}
