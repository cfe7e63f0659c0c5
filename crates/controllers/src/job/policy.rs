//! What a Job says about single failures and about being content early: pod failure policies and success policies. Pure.
//! See <https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy>.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;

/// What follows from the failure of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It counts as any failure does.
    Count,
    /// It does not count.
    Ignore,
    /// Its number is not tried again.
    FailIndex,
    /// The Job has failed, with this text.
    FailJob(String),
}

/// What the Job's policy says of a failed pod: the first rule that fits, and to count it where none does.
pub fn verdict(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.as_ref().map(|policy| policy.rules.as_slice()).unwrap_or_default();
    let fits = rules.iter().enumerate().find_map(|(at, rule)| Some((at, rule, cause(rule, pod)?)));
    let Some((at, rule, cause)) = fits else { return Verdict::Count };
    match rule.action.as_str() {
        "Ignore" => Verdict::Ignore,
        "FailIndex" => Verdict::FailIndex,
        "FailJob" => Verdict::FailJob(format!("{cause} matching FailJob rule at index {at}")),
        _ => Verdict::Count,
    }
}

/// Why the rule fits, if it does.
fn cause(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let meta = &pod.metadata;
    let key = format!("{}/{}", meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
    if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = exit(codes, pod)?;
        return Some(format!("Container {container} for pod {key} failed with exit code {code}"));
    }
    let condition = rule.on_pod_conditions.iter().flatten().find(|pattern| has_condition(pattern, pod))?;
    Some(format!("Pod {key} has condition {}", condition.type_))
}

fn has_condition(pattern: &PodFailurePolicyOnPodConditionsPattern, pod: &Pod) -> bool {
    let wanted = pattern.status.as_deref().unwrap_or("True");
    crate::pods::condition(pod, &pattern.type_).is_some_and(|condition| condition.status == wanted)
}

fn exit<'a>(codes: &PodFailurePolicyOnExitCodesRequirement, pod: &'a Pod) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let containers = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let meant = containers.filter(|c| codes.container_name.as_ref().is_none_or(|name| *name == c.name));
    let code = |container: &'a ContainerStatus| Some(container.state.as_ref()?.terminated.as_ref()?.exit_code);
    let mut ended = meant.filter_map(|container| Some((container.name.as_str(), code(container)?)));
    ended.find(|(_, code)| *code != 0 && (codes.operator == "In") == codes.values.contains(code))
}

/// The text with which the Job is content although not all have succeeded, if it is.
pub fn content(spec: &JobSpec, succeeded: &Indexes) -> Option<String> {
    let completions = spec.completions?;
    let rules = &spec.success_policy.as_ref()?.rules;
    let met = rules.iter().position(|rule| {
        let Some(text) = &rule.succeeded_indexes else {
            return rule.succeeded_count.is_some_and(|count| succeeded.len() >= count);
        };
        let wanted = Indexes::parse(text, completions);
        let there = wanted.common(succeeded);
        there >= rule.succeeded_count.unwrap_or(wanted.len())
    });
    met.map(|at| format!("Matched rules at index {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;

    fn spec(yaml: &str) -> JobSpec {
        object(&format!("{{template: {{}}, completions: 4, {yaml}}}"))
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let spec = spec(
            "podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}, {action: FailJob, onExitCodes: {containerName: main, operator: In, values: [42]}}, {action: FailIndex, onExitCodes: {operator: NotIn, values: [1]}}]}",
        );
        let check = |status: &str, expected: Verdict| {
            let pod = object(&format!("{{metadata: {{name: p, namespace: d}}, status: {{{status}}}}}"));
            assert_eq!(verdict(&spec, &pod), expected, "{status}");
        };
        let ended = |name: &str, code: i32| {
            format!(
                "containerStatuses: [{{name: {name}, image: i, imageID: i, ready: false, restartCount: 0, state: {{terminated: {{exitCode: {code}}}}}}}]"
            )
        };
        check("conditions: [{type: DisruptionTarget, status: 'True'}]", Verdict::Ignore);
        check("conditions: [{type: DisruptionTarget, status: 'False'}]", Verdict::Count);
        let text = "Container main for pod d/p failed with exit code 42 matching FailJob rule at index 1";
        check(&ended("main", 42), Verdict::FailJob(text.to_owned()));
        check(&ended("side", 42), Verdict::FailIndex);
        check(&ended("main", 1), Verdict::Count);
        check(&ended("main", 0), Verdict::Count);
    }

    #[test]
    fn a_job_may_be_content_early() {
        let check = |rules: &str, succeeded: &str, expected: bool| {
            let spec = spec(&format!("successPolicy: {{rules: [{rules}]}}"));
            assert_eq!(content(&spec, &Indexes::parse(succeeded, 4)).is_some(), expected, "{rules} {succeeded}");
        };
        check("{succeededIndexes: '0,2-3'}", "0,2", false);
        check("{succeededIndexes: '0,2-3'}", "0,2,3", true);
        check("{succeededIndexes: '0,2-3', succeededCount: 1}", "3", true);
        check("{succeededCount: 2}", "3", false);
        check("{succeededCount: 2}", "1,3", true);
    }
}
