//! The Workload and the PodGroup of a Job whose pods are to start together: one that is indexed and runs all of its pods
//! at once. Pure.
//! See <https://github.com/kubernetes/enhancements/tree/master/keps/sig-apps/5547-workload-aware-scheduling-for-jobs>.

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, PodSchedulingGroup};
use k8s_openapi::api::scheduling::v1alpha2::{
    GangSchedulingPolicy, PodGroup, PodGroupSchedulingPolicy, PodGroupSpec, PodGroupTemplate,
    PodGroupTemplateReference, TypedLocalObjectReference, Workload, WorkloadPodGroupTemplateReference, WorkloadSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use skiff_base::ids::hashed;
use skiff_client::Kind;

use super::tally::is_indexed;
use crate::meta::{controller_reference, is_controlled_by};
use crate::plan::{Action, Note};

/// The longest name of an object.
const NAME_LIMIT_BYTES: usize = 253;

/// What is known of a Job's group.
pub enum Gang {
    /// Its pods are in no group.
    None,
    /// This has to be made first.
    Make(Box<Action>),
    /// Its pods are in this one.
    Of(Arc<PodGroup>),
}

/// The group of a Job, given the Workloads that name it and the PodGroups of each Workload.
pub fn gang(
    job: &Job,
    pods: &[Arc<Pod>],
    workloads: &[Arc<Workload>],
    groups_of: impl Fn(&Workload) -> Vec<Arc<PodGroup>>,
) -> Gang {
    if !is_candidate(job) {
        return Gang::None;
    }
    let uid = job.metadata.uid.as_ref();
    let workload = match workloads {
        [] if is_new(job, pods) => return Gang::Make(Box::new(make_workload(job))),
        [one] if is_controlled_by(&one.metadata, uid) && one.spec.pod_group_templates.len() == 1 => one,
        _ => return Gang::None,
    };
    match groups_of(workload).as_slice() {
        [] => Gang::Make(Box::new(Action::create(&group_of(job, workload)))),
        [one] if is_controlled_by(&one.metadata, uid) => Gang::Of(one.clone()),
        _ => Gang::None,
    }
}

/// Whether all pods of a Job are to run at once, and it does not say itself which group they are in.
fn is_candidate(job: &Job) -> bool {
    let Some(spec) = &job.spec else { return false };
    let has_group = spec.template.spec.as_ref().is_some_and(|spec| spec.scheduling_group.is_some());
    spec.parallelism.is_some_and(|count| count > 1)
        && spec.completions == spec.parallelism
        && is_indexed(spec)
        && !has_group
        && super::finish_of(job).is_none()
        && job.metadata.deletion_timestamp.is_none()
}

/// One that has begun stays as it was begun.
fn is_new(job: &Job, pods: &[Arc<Pod>]) -> bool {
    // Pods that nobody controls may be among them.
    let has_pods = pods.iter().any(|pod| is_controlled_by(&pod.metadata, job.metadata.uid.as_ref()));
    let Some(status) = &job.status else { return !has_pods };
    let was_suspended = status.conditions.iter().flatten().any(|condition| condition.type_ == "Suspended");
    !has_pods
        && status.start_time.is_none()
        && status.succeeded.unwrap_or(0) == 0
        && status.failed.unwrap_or(0) == 0
        && !was_suspended
}

/// The name of the Job that a Workload is of.
pub fn job_of(workload: &Workload) -> Option<&str> {
    let of = workload.spec.controller_ref.as_ref()?;
    (of.kind == "Job" && of.api_group.as_deref() == Some("batch")).then_some(of.name.as_str())
}

/// The name of the Workload that a PodGroup is of.
pub fn workload_of(group: &PodGroup) -> Option<&str> {
    group.spec.pod_group_template_ref.as_ref()?.workload.as_ref().map(|of| of.workload_name.as_str())
}

/// Puts a pod into the group.
pub fn join(pod: &mut Pod, group: &PodGroup) {
    let pod_group_name = group.metadata.name.clone();
    pod.spec.get_or_insert_default().scheduling_group = Some(PodSchedulingGroup { pod_group_name });
    pod.metadata.owner_references.get_or_insert_default().push(reference(group));
}

/// An owner that controls nothing and whose deletion waits for nobody.
fn reference<K: Kind>(owner: &K) -> OwnerReference {
    OwnerReference { controller: None, block_owner_deletion: None, ..controller_reference(owner) }
}

fn make_workload(job: &Job) -> Action {
    let job_name = job.metadata.name.clone().unwrap_or_default();
    let name = workload_name(&job_name, job.metadata.uid.as_deref().unwrap_or_default());
    let count = job.spec.as_ref().and_then(|spec| spec.parallelism).unwrap_or(1);
    let template = PodGroupTemplate {
        name: format!("{job_name}-pgt-0"),
        scheduling_policy: PodGroupSchedulingPolicy {
            gang: Some(GangSchedulingPolicy { min_count: count }),
            ..PodGroupSchedulingPolicy::default()
        },
        ..PodGroupTemplate::default()
    };
    let workload = Workload {
        metadata: owned(job, name.clone(), vec![controller_reference(job)]),
        spec: WorkloadSpec {
            controller_ref: Some(TypedLocalObjectReference {
                api_group: Some("batch".to_owned()),
                kind: "Job".to_owned(),
                name: job_name.clone(),
            }),
            pod_group_templates: vec![template],
        },
    };
    let told = format!("Created Workload {name} for Job {job_name}");
    Action::create(&workload).and_tell(Note::normal(job, "WorkloadCreated", told))
}

fn group_of(job: &Job, workload: &Workload) -> PodGroup {
    let template = &workload.spec.pod_group_templates[0];
    let workload_name = workload.metadata.name.clone().unwrap_or_default();
    let name = group_name(&workload_name, &template.name);
    let named = WorkloadPodGroupTemplateReference { workload_name, pod_group_template_name: template.name.clone() };
    PodGroup {
        metadata: owned(job, name, vec![controller_reference(job), reference(workload)]),
        spec: PodGroupSpec {
            pod_group_template_ref: Some(PodGroupTemplateReference { workload: Some(named) }),
            scheduling_policy: template.scheduling_policy.clone(),
            ..PodGroupSpec::default()
        },
        status: None,
    }
}

fn owned(job: &Job, name: String, owners: Vec<OwnerReference>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: job.metadata.namespace.clone(),
        owner_references: Some(owners),
        ..ObjectMeta::default()
    }
}

fn workload_name(job: &str, uid: &str) -> String {
    let hash = hashed(&[uid]);
    format!("{}-{hash}", cut(job, NAME_LIMIT_BYTES - hash.len() - 1))
}

/// Both names are in it, each cut to its fair share.
fn group_name(workload: &str, template: &str) -> String {
    let hash = hashed(&[workload, template]);
    let room = NAME_LIMIT_BYTES - hash.len() - 2;
    let half = room / 2;
    let (workload, template) = if workload.len() + template.len() <= room {
        (workload, template)
    } else if workload.len() <= half {
        (workload, cut(template, room - workload.len()))
    } else if template.len() <= half {
        (cut(workload, room - template.len()), template)
    } else {
        (cut(workload, room - half), cut(template, half))
    };
    format!("{workload}-{template}-{hash}")
}

/// Names are ASCII.
fn cut(name: &str, limit_bytes: usize) -> &str {
    name.get(..limit_bytes).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::testing::object;

    fn job(more: &str) -> Job {
        object(&format!(
            "{{metadata: {{name: j, namespace: d, uid: u}}, spec: {{parallelism: 2, completions: 2, completionMode: Indexed, template: {{spec: {{containers: []}}}}}}, {more}}}"
        ))
    }

    fn told(gang: Gang) -> String {
        match gang {
            Gang::None => "none".to_owned(),
            Gang::Make(action) => action.to_string(),
            Gang::Of(group) => format!("in {}", group.metadata.name.clone().unwrap_or_default()),
        }
    }

    /// A Workload and a PodGroup as they were made, controlled by who has this UID.
    fn made(uid: &str) -> (Arc<Workload>, Arc<PodGroup>) {
        let owner = format!("{{apiVersion: batch/v1, kind: Job, name: j, uid: {uid}, controller: true}}");
        let workload = format!(
            "{{metadata: {{name: w, namespace: d, uid: x, ownerReferences: [{owner}]}}, spec: {{podGroupTemplates: [{{name: t, schedulingPolicy: {{gang: {{minCount: 2}}}}}}]}}}}"
        );
        let group = format!(
            "{{metadata: {{name: g, namespace: d, ownerReferences: [{owner}]}}, spec: {{schedulingPolicy: {{gang: {{minCount: 2}}}}}}}}"
        );
        (Arc::new(object(&workload)), Arc::new(object(&group)))
    }

    #[test]
    fn workload_and_group_are_made_one_after_the_other() {
        let job = job("");
        expect![[r#"create workloads d/j-846c777b8d {"metadata":{"ownerReferences":[{"apiVersion":"batch/v1","blockOwnerDeletion":true,"controller":true,"kind":"Job","name":"j","uid":"u"}]},"spec":{"controllerRef":{"apiGroup":"batch","kind":"Job","name":"j"},"podGroupTemplates":[{"name":"j-pgt-0","schedulingPolicy":{"gang":{"minCount":2}}}]}} [WorkloadCreated: Created Workload j-846c777b8d for Job j]"#]].assert_eq(&told(gang(&job, &[], &[], |_| Vec::new())));
        let (workload, group) = made("u");
        let workloads = [workload];
        expect![[r#"create podgroups d/w-t-56b6fd67c8 {"metadata":{"ownerReferences":[{"apiVersion":"batch/v1","blockOwnerDeletion":true,"controller":true,"kind":"Job","name":"j","uid":"u"},{"apiVersion":"scheduling.k8s.io/v1alpha2","kind":"Workload","name":"w","uid":"x"}]},"spec":{"podGroupTemplateRef":{"workload":{"podGroupTemplateName":"t","workloadName":"w"}},"schedulingPolicy":{"gang":{"minCount":2}}}}"#]].assert_eq(&told(gang(&job, &[], &workloads, |_| Vec::new())));
        assert_eq!(told(gang(&job, &[], &workloads, |_| vec![group.clone()])), "in g");
        let pod =
            |owners: &str| Arc::new(object::<Pod>(&format!("{{metadata: {{name: p, ownerReferences: [{owners}]}}}}")));
        let own = "{apiVersion: batch/v1, kind: Job, name: j, uid: u, controller: true}";
        assert!(told(gang(&job, &[pod("")], &[], |_| Vec::new())).starts_with("create workloads"), "it is nobody's");
        assert_eq!(told(gang(&job, &[pod(own)], &[], |_| Vec::new())), "none");
    }

    #[test]
    fn what_is_unclear_is_left_alone() {
        let (foreign, _) = made("other");
        let (workload, group) = made("u");
        let nothing = |_: &Workload| Vec::new();
        assert_eq!(told(gang(&job(""), &[], &[foreign], nothing)), "none");
        assert_eq!(told(gang(&job(""), &[], &[workload.clone(), workload.clone()], nothing)), "none");
        let groups = |_: &Workload| vec![group.clone(), group.clone()];
        assert_eq!(told(gang(&job(""), &[], &[workload], groups)), "none");
        for begun in
            ["startTime: '2026-01-31T12:00:00Z'", "failed: 1", "conditions: [{type: Suspended, status: 'False'}]"]
        {
            assert_eq!(told(gang(&job(&format!("status: {{{begun}}}")), &[], &[], nothing)), "none", "{begun}");
        }
        for change in [
            |job: &mut Job| job.spec.as_mut().expect("a spec").parallelism = Some(1),
            |job: &mut Job| job.spec.as_mut().expect("a spec").completions = Some(3),
            |job: &mut Job| job.spec.as_mut().expect("a spec").completion_mode = None,
        ] {
            let mut job = job("");
            change(&mut job);
            assert_eq!(told(gang(&job, &[], &[], nothing)), "none");
        }
    }

    #[test]
    fn names_are_cut_to_what_they_may_have() {
        let long = |letter: &str| letter.repeat(300);
        assert_eq!(workload_name(&long("a"), "u").len(), NAME_LIMIT_BYTES);
        for (workload, template) in [(long("a"), long("b")), ("a".to_owned(), long("b")), (long("a"), "b".to_owned())] {
            assert_eq!(group_name(&workload, &template).len(), NAME_LIMIT_BYTES);
        }
    }
}
