//! What the cluster adds to PodGroups, and what they may refer to: the plugins PodGroupProtection,
//! PodGroupWorkloadExists and JobValidation. There are PodGroups only where they are asked for.
//! See <https://kubernetes.io/docs/concepts/workloads/podgroup-api/>.

use serde_json::Value;
use skiff_object::Object;
use skiff_object::meta::Meta;

use super::{find, storage};
use crate::admission::{Attributes, Operation};
use crate::failure::Result;
use crate::storage::filter::Filter;

const GROUP: &str = "scheduling.k8s.io";
const FINALIZER: &str = "scheduling.k8s.io/podgroup-protection";

fn is_new_group(attributes: &Attributes<'_>) -> bool {
    attributes.operation == Operation::Create && attributes.is(GROUP, "podgroups")
}

/// PodGroupProtection: a group stays while Pods are in it.
pub fn protect_in_use(attributes: &Attributes<'_>, group: &mut Object, _: Option<&Object>) -> Result<()> {
    if is_new_group(attributes) {
        storage::protect(group, FINALIZER);
    }
    Ok(())
}

/// PodGroupWorkloadExists: the template that a group is said to be made from is there.
pub async fn workload_check(attributes: &Attributes<'_>, group: Option<&Object>) -> Result<()> {
    let Some(group) = group.filter(|_| is_new_group(attributes)) else { return Ok(()) };
    let reference = ["spec", "podGroupTemplateRef", "workload"];
    let Some(reference) = group.at(&reference).filter(|reference| reference.is_object()) else { return Ok(()) };
    let (name, template) = (reference.str_at(&["workloadName"]), reference.str_at(&["podGroupTemplateName"]));
    let refuse = |why: String| Err(attributes.forbidden(format!("PodGroup rejected: {why}")));
    let Some(workload) = find(attributes, GROUP, "workloads", name).await? else {
        return refuse(format!("Workload {name:?} not found"));
    };
    if workload.is_deleting() {
        return refuse(format!("Workload {name:?} is being deleted"));
    }
    let templates = workload.list_at(&["spec", "podGroupTemplates"]);
    if templates.iter().any(|one| one.str_at(&["name"]) == template) {
        return Ok(());
    }
    refuse(format!("PodGroupTemplate {template:?} not found in Workload {name:?}"))
}

/// JobValidation: a Job whose Pods are a gang keeps their number.
pub fn job_check(attributes: &Attributes<'_>, job: Option<&Object>, old: Option<&Object>) -> Result<()> {
    let (Some(job), Some(old)) = (job, old) else { return Ok(()) };
    let parallelism = ["spec", "parallelism"];
    let is_job = attributes.operation == Operation::Update && attributes.is("batch", "jobs");
    if !is_job || job.int_at(&parallelism) == old.int_at(&parallelism) {
        return Ok(());
    }
    let Some(groups) = attributes.server.catalogue.cache(GROUP, "podgroups") else { return Ok(()) };
    let is_gang = |group: &Object| group.at(&["spec", "schedulingPolicy", "gang"]).is_some_and(Value::is_object);
    let named = old.str_at(&["spec", "template", "spec", "schedulingGroup", "podGroupName"]);
    let gang = if named.is_empty() {
        let mut all = groups.objects(&Filter::default())?.into_iter();
        all.find(|group| group.namespace() == old.namespace() && is_gang(group) && is_controlled_by(group, old.uid()))
    } else {
        groups.object(attributes.namespace, named)?.filter(is_gang)
    };
    let Some(gang) = gang else { return Ok(()) };
    let why = "cannot change parallelism for a Job referencing gang-scheduled PodGroup";
    Err(attributes.forbidden(format!("{why} {:?}", gang.name())))
}

fn is_controlled_by(group: &Object, uid: &str) -> bool {
    let owners = group.list_at(&["metadata", "ownerReferences"]);
    owners.iter().any(|owner| owner.bool_at(&["controller"]) && owner.str_at(&["uid"]) == uid)
}
