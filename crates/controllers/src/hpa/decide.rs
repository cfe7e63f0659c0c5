//! The decision about one HorizontalPodAutoscaler. Pure: what the metrics said is part of what it rests on.

use std::sync::Arc;

use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, CrossVersionObjectReference, ExternalMetricStatus, HorizontalPodAutoscaler,
    HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use skiff_base::{Quantity, Timestamp};

use super::Timing;
use super::calculate::{Figures, Ground, Proposal, Tolerance, by_average, by_share, by_utilization, by_value};
use super::limits::{Bounds, Past};
use crate::meta::time;
use crate::plan::Note;

/// What is left alone where the user does not say.
const DEFAULT_TOLERANCE: f64 = 0.1;
const MILLIS: f64 = 1000.0;

/// What the target tells of its size.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scale {
    /// How many replicas are wanted.
    pub wanted: i32,
    /// How many there are.
    pub present: i32,
}

/// What a metric said.
#[derive(Debug, Clone)]
pub enum Reading {
    /// A figure for each pod.
    OfPods(Figures),
    /// One value, in thousandths.
    Value(i64),
}

/// What the decision rests on.
pub struct Observed<'a, 'b> {
    /// The autoscaler.
    pub hpa: &'a HorizontalPodAutoscaler,
    /// The size of its target.
    pub scale: Scale,
    /// The target's pods.
    pub pods: &'b [Arc<Pod>],
    /// What each of its metrics said, or why it said nothing.
    pub readings: &'b [Result<Reading, String>],
    /// When figures count, and how long windows are.
    pub timing: Timing,
}

/// What is to be done.
pub struct Verdict<'a> {
    hpa: &'a HorizontalPodAutoscaler,
    scale: Scale,
    status: HorizontalPodAutoscalerStatus,
    /// The number of replicas that the target is to be given, and why.
    pub rescale: Option<(i32, String)>,
    /// Events.
    pub notes: Vec<Note>,
    now: Timestamp,
}

impl<'a> Verdict<'a> {
    /// A decision under way.
    pub fn new(hpa: &'a HorizontalPodAutoscaler, scale: Scale, now: Timestamp) -> Self {
        let status = hpa.status.clone().unwrap_or_default();
        Self { hpa, scale, status, rescale: None, notes: Vec::new(), now }
    }

    /// Sets a condition.
    pub fn condition(&mut self, kind: &str, holds: bool, reason: &str, message: impl Into<String>) {
        let status = if holds { "True" } else { "False" };
        let conditions = self.status.conditions.get_or_insert_default();
        let old = conditions.iter().position(|condition| condition.type_ == kind);
        let since = old.map(|at| &conditions[at]).filter(|old| old.status == status);
        let since = since.and_then(|old| old.last_transition_time.clone()).unwrap_or_else(|| time(self.now));
        let new = HorizontalPodAutoscalerCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.into()),
            last_transition_time: Some(since),
        };
        match old {
            Some(at) => conditions[at] = new,
            None => conditions.push(new),
        }
    }

    /// Tells that something is wrong.
    pub fn warn(&mut self, reason: &'static str, message: impl Into<String>) {
        self.notes.push(Note::warning(self.hpa, reason, message));
    }

    /// The target could not be given its size.
    pub fn rescale_failed(&mut self, error: &str) {
        let Some((replicas, why)) = self.rescale.take() else { return };
        self.warn("FailedRescale", format!("New size: {replicas}; reason: {why}; error: {error}"));
        let text = format!("the HPA controller was unable to update the target scale: {error}");
        self.condition("AbleToScale", false, "FailedUpdateScale", text);
    }

    /// The target has its size now.
    pub fn rescaled(&mut self, past: &mut Past) {
        let Some((replicas, why)) = self.rescale.take() else { return };
        let text = format!("the HPA controller was able to update the target scale to {replicas}");
        self.condition("AbleToScale", true, "SucceededRescale", text);
        self.notes.push(Note::normal(self.hpa, "SuccessfulRescale", format!("New size: {replicas}; reason: {why}")));
        past.done(self.scale.wanted, replicas, self.hpa.spec.behavior.as_ref(), self.now);
        self.status.desired_replicas = replicas;
        self.status.last_scale_time = Some(time(self.now));
    }

    /// The autoscaler with its new status, where that is new.
    pub fn told(&self) -> Option<HorizontalPodAutoscaler> {
        let changed = self.hpa.status.as_ref() != Some(&self.status);
        changed.then(|| HorizontalPodAutoscaler { status: Some(self.status.clone()), ..self.hpa.clone() })
    }
}

/// Decides. The target is found, and its selector is sound.
pub fn decide<'a>(observed: &Observed<'a, '_>, past: &mut Past, now: Timestamp) -> Verdict<'a> {
    let (hpa, current) = (observed.hpa, observed.scale.wanted);
    let spec = &hpa.spec;
    let mut verdict = Verdict::new(hpa, observed.scale.clone(), now);
    let text = "the HPA controller was able to get the target's current scale";
    verdict.condition("AbleToScale", true, "SucceededGetScale", text);
    past.begin(current, now);
    let least = spec.min_replicas.unwrap_or(1);
    verdict.status.observed_generation = hpa.metadata.generation;
    verdict.status.current_replicas = Some(current);
    verdict.status.desired_replicas = current;
    if current == 0 && least != 0 {
        let text = "scaling is disabled since the replica count of the target is zero";
        verdict.condition("ScalingActive", false, "ScalingDisabled", text);
        verdict.status.desired_replicas = 0;
        return verdict;
    }
    let (wanted, why) = if current > spec.max_replicas {
        (spec.max_replicas, "Current number of replicas above Spec.MaxReplicas".to_owned())
    } else if current < least {
        (least, "Current number of replicas below Spec.MinReplicas".to_owned())
    } else {
        match by_metrics(observed, &mut verdict) {
            Some(found) => limit(observed, past, found, &mut verdict),
            None => return verdict,
        }
    };
    verdict.status.desired_replicas = wanted;
    if wanted != current {
        verdict.rescale = Some((wanted, why));
    }
    verdict
}

/// The number after windows, policies and bounds.
fn limit(
    observed: &Observed<'_, '_>,
    past: &mut Past,
    (wanted, name): (i32, String),
    verdict: &mut Verdict<'_>,
) -> (i32, String) {
    let (spec, current) = (&observed.hpa.spec, observed.scale.wanted);
    let bounds = Bounds {
        least: spec.min_replicas.unwrap_or(1),
        most: spec.max_replicas,
        current,
        behavior: spec.behavior.as_ref(),
        down_window: observed.timing.down_window,
        now: verdict.now,
    };
    let limited = past.limit(&bounds, wanted);
    verdict.condition("AbleToScale", true, limited.able.0, limited.able.1);
    verdict.condition("ScalingLimited", limited.is_limited, limited.limit.0, limited.limit.1);
    let why = if wanted > current { format!("{name} above target") } else { "All metrics below target".to_owned() };
    (limited.replicas, why)
}

/// The largest number that a metric asks for, and that metric's name; nothing where it cannot be told.
fn by_metrics(observed: &Observed<'_, '_>, verdict: &mut Verdict<'_>) -> Option<(i32, String)> {
    let specs = observed.hpa.spec.metrics.as_deref().unwrap_or_default();
    let (mut best, mut statuses, mut failures) = (None::<(i32, String)>, Vec::new(), Vec::new());
    for (spec, reading) in specs.iter().zip(observed.readings) {
        match one(observed, spec, reading, verdict.now) {
            Ok((replicas, name, status)) => {
                statuses.push(status);
                if best.as_ref().is_none_or(|(most, _)| *most == 0 || replicas > *most) {
                    best = Some((replicas, name));
                }
            }
            Err(error) => {
                let reason = failure_reason(&spec.type_);
                verdict.warn(reason, error.clone());
                failures.push((reason, error));
            }
        }
    }
    verdict.status.current_metrics = (!statuses.is_empty()).then_some(statuses);
    let first = failures.first().map(|(reason, error)| {
        let text =
            format!("invalid metrics ({} invalid out of {}), first error is: {error}", failures.len(), specs.len());
        (*reason, error.clone(), text)
    });
    match (best, first) {
        (Some((replicas, name)), first) if first.is_none() || replicas >= observed.scale.wanted => {
            let text = format!("the HPA was able to successfully calculate a replica count from {name}");
            verdict.condition("ScalingActive", true, "ValidMetricFound", text);
            Some((replicas, name))
        }
        (_, first) => {
            // Where some metrics are silent nothing is made smaller.
            let (reason, error, text) = first?;
            let told = format!("the HPA was unable to compute the replica count: {error}");
            verdict.condition("ScalingActive", false, reason, told);
            verdict.warn("FailedComputeMetricsReplicas", text);
            None
        }
    }
}

fn failure_reason(kind: &str) -> &'static str {
    match kind {
        "Object" => "FailedGetObjectMetric",
        "Pods" => "FailedGetPodsMetric",
        "Resource" => "FailedGetResourceMetric",
        "ContainerResource" => "FailedGetContainerResourceMetric",
        "External" => "FailedGetExternalMetric",
        _ => "InvalidMetricSourceType",
    }
}

fn millis(raw: Option<&RawQuantity>) -> Option<i64> {
    raw.and_then(|raw| raw.0.parse::<Quantity>().ok()).map(|quantity| quantity.milli_value())
}

fn quantity(milli: i64) -> RawQuantity {
    RawQuantity(Quantity::from_millis(milli).to_string())
}

fn tolerance(observed: &Observed<'_, '_>) -> Tolerance {
    let behavior = observed.hpa.spec.behavior.as_ref();
    let of = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
        millis(rules.and_then(|rules| rules.tolerance.as_ref()))
            .map_or(DEFAULT_TOLERANCE, |milli| milli as f64 / MILLIS)
    };
    Tolerance {
        down: of(behavior.and_then(|b| b.scale_down.as_ref())),
        up: of(behavior.and_then(|b| b.scale_up.as_ref())),
    }
}

/// A number of replicas, the metric's name for people, and what is told of it.
type Finding = (i32, String, MetricStatus);

/// What one metric asks for.
fn one(
    observed: &Observed<'_, '_>,
    spec: &MetricSpec,
    reading: &Result<Reading, String>,
    now: Timestamp,
) -> Result<Finding, String> {
    let ground = Ground {
        replicas: observed.scale.wanted,
        pods: observed.pods,
        tolerance: tolerance(observed),
        timing: observed.timing,
        now,
    };
    let mut status = MetricStatus { type_: spec.type_.clone(), ..MetricStatus::default() };
    if let Some(source) = &spec.resource {
        let (proposal, name, current) = resource(&ground, &source.name, None, &source.target, reading)?;
        status.resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
        return Ok((proposal.replicas, name, status));
    }
    if let Some(source) = &spec.container_resource {
        let only = Some(source.container.as_str());
        let (proposal, name, current) = resource(&ground, &source.name, only, &source.target, reading)?;
        let (container, resource) = (source.container.clone(), source.name.clone());
        status.container_resource = Some(ContainerResourceMetricStatus { container, name: resource, current });
        return Ok((proposal.replicas, name, status));
    }
    if let Some(source) = &spec.pods {
        let failed = |error: String| format!("failed to get pods metric value: {error}");
        let Reading::OfPods(figures) = reading.as_ref().map_err(|error| failed(error.clone()))? else {
            return Err(failed("no figures of pods".to_owned()));
        };
        let target = millis(source.target.average_value.as_ref()).unwrap_or(0);
        let proposal = by_average(&ground, figures, None, target).map_err(failed)?;
        let current =
            MetricValueStatus { average_value: Some(quantity(proposal.milli)), ..MetricValueStatus::default() };
        status.pods = Some(PodsMetricStatus { metric: source.metric.clone(), current });
        return Ok((proposal.replicas, format!("pods metric {}", source.metric.name), status));
    }
    if let Some(source) = &spec.object {
        let failed = |error: &str| format!("failed to get object metric value: {error}");
        let (proposal, current) = shared(observed, &ground, &source.target, reading).map_err(|error| failed(&error))?;
        let described_object = CrossVersionObjectReference { ..source.described_object.clone() };
        let name = format!("{} metric {}", described_object.kind, source.metric.name);
        status.object = Some(ObjectMetricStatus { metric: source.metric.clone(), described_object, current });
        return Ok((proposal.replicas, name, status));
    }
    if let Some(source) = &spec.external {
        let failed = |error: &str| format!("failed to get {} external metric: {error}", source.metric.name);
        let (proposal, current) = shared(observed, &ground, &source.target, reading).map_err(|error| failed(&error))?;
        status.external = Some(ExternalMetricStatus { metric: source.metric.clone(), current });
        let selector = source.metric.selector.as_ref();
        let labels = selector.map_or_else(|| "nil".to_owned(), |s| serde_json::to_string(s).unwrap_or_default());
        return Ok((proposal.replicas, format!("external metric {}({labels})", source.metric.name), status));
    }
    Err(format!("unknown metric source type {:?}", spec.type_))
}

fn resource(
    ground: &Ground<'_>,
    name: &str,
    container: Option<&str>,
    target: &MetricTarget,
    reading: &Result<Reading, String>,
) -> Result<(Proposal, String, MetricValueStatus), String> {
    let what = if target.average_value.is_some() { "usage" } else { "utilization" };
    let failed = |error: String| format!("failed to get {name} {what}: {error}");
    let Reading::OfPods(figures) = reading.as_ref().map_err(|error| failed(error.clone()))? else {
        return Err(failed("no figures of pods".to_owned()));
    };
    if let Some(average) = millis(target.average_value.as_ref()) {
        let proposal = by_average(ground, figures, Some(name), average).map_err(failed)?;
        let current =
            MetricValueStatus { average_value: Some(quantity(proposal.milli)), ..MetricValueStatus::default() };
        return Ok((proposal, format!("{name} resource"), current));
    }
    let percent = target.average_utilization.ok_or_else(|| {
        "invalid resource metric source: neither an average utilization target nor an average value (usage) target was set"
            .to_owned()
    })?;
    let proposal = by_utilization(ground, figures, (name, container), percent).map_err(failed)?;
    let current = MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(quantity(proposal.milli)),
        value: None,
    };
    let kind = if container.is_some() { "container resource" } else { "resource" };
    Ok((proposal, format!("{name} {kind} utilization (percentage of request)"), current))
}

/// A value that all replicas share, as it is or divided.
fn shared(
    observed: &Observed<'_, '_>,
    ground: &Ground<'_>,
    target: &MetricTarget,
    reading: &Result<Reading, String>,
) -> Result<(Proposal, MetricValueStatus), String> {
    let Reading::Value(milli) = reading.as_ref().map_err(Clone::clone)? else {
        return Err("no single value".to_owned());
    };
    if let Some(wanted) = millis(target.value.as_ref()) {
        let proposal = by_value(ground, *milli, wanted);
        let current = MetricValueStatus { value: Some(quantity(*milli)), ..MetricValueStatus::default() };
        return Ok((proposal, current));
    }
    let wanted =
        millis(target.average_value.as_ref()).ok_or("neither a value target nor an average value target was set")?;
    let proposal = by_share(ground, observed.scale.present, *milli, wanted);
    let current = MetricValueStatus { average_value: Some(quantity(proposal.milli)), ..MetricValueStatus::default() };
    Ok((proposal, current))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::{Expect, expect};

    use super::super::calculate::Figure;
    use super::*;
    use crate::testing::{now, object};

    fn check(spec: &str, wanted: i32, readings: &[Result<Reading, String>], expected: Expect) {
        let hpa: HorizontalPodAutoscaler = object(&format!(
            "{{metadata: {{name: web, namespace: d}}, spec: {{scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: web}}, minReplicas: 2, maxReplicas: 5, {spec}}}}}"
        ));
        let pods: Vec<Arc<Pod>> = ["a", "b"]
            .iter()
            .map(|name| Arc::new(object(&format!("{{metadata: {{name: {name}}}, spec: {{containers: [{{name: c, resources: {{requests: {{cpu: 100m}}}}}}]}}, status: {{phase: Running, startTime: '2026-01-31T10:00:00Z', conditions: [{{type: Ready, status: 'True', lastTransitionTime: '2026-01-31T10:00:00Z'}}]}}}}"))))
            .collect();
        let scale = Scale { wanted, present: wanted };
        let observed = Observed { hpa: &hpa, scale, pods: &pods, readings, timing: Timing::default() };
        let mut past = Past::default();
        let mut verdict = decide(&observed, &mut past, now());
        verdict.rescaled(&mut past);
        let status = verdict.told().and_then(|hpa| hpa.status).expect("something is told");
        let mut lines: Vec<_> = status
            .conditions
            .iter()
            .flatten()
            .map(|c| {
                format!(
                    "{}={} {}: {}",
                    c.type_,
                    c.status,
                    c.reason.clone().unwrap_or_default(),
                    c.message.clone().unwrap_or_default()
                )
            })
            .collect();
        lines.extend(verdict.notes.iter().map(|note| format!("{}: {}", note.reason, note.message)));
        let metrics = serde_json::to_string(&status.current_metrics).expect("metrics");
        lines.push(format!("{} of {:?}, {metrics}", status.desired_replicas, status.current_replicas));
        expected.assert_eq(&lines.join("\n"));
    }

    fn used(milli: i64) -> Result<Reading, String> {
        let figure = Figure { milli, at: now(), window: Duration::from_secs(15) };
        Ok(Reading::OfPods(["a", "b"].iter().map(|name| ((*name).to_owned(), figure.clone())).collect()))
    }

    const CPU: &str =
        "metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]";

    #[test]
    fn a_target_follows_its_metrics() {
        check(
            CPU,
            2,
            &[used(80)],
            expect![[r#"
            AbleToScale=True SucceededRescale: the HPA controller was able to update the target scale to 4
            ScalingActive=True ValidMetricFound: the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)
            ScalingLimited=False DesiredWithinRange: the desired count is within the acceptable range
            SuccessfulRescale: New size: 4; reason: cpu resource utilization (percentage of request) above target
            4 of Some(2), [{"resource":{"current":{"averageUtilization":80,"averageValue":"80m"},"name":"cpu"},"type":"Resource"}]"#]],
        );
        check(
            CPU,
            2,
            &[used(200)],
            expect![[r#"
            AbleToScale=True SucceededRescale: the HPA controller was able to update the target scale to 4
            ScalingActive=True ValidMetricFound: the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)
            ScalingLimited=True ScaleUpLimit: the desired replica count is increasing faster than the maximum scale rate
            SuccessfulRescale: New size: 4; reason: cpu resource utilization (percentage of request) above target
            4 of Some(2), [{"resource":{"current":{"averageUtilization":200,"averageValue":"200m"},"name":"cpu"},"type":"Resource"}]"#]],
        );
        let silent = "unable to get metrics for resource cpu: no metrics returned from resource metrics API";
        check(
            CPU,
            2,
            &[Err(silent.to_owned())],
            expect![[r#"
            AbleToScale=True SucceededGetScale: the HPA controller was able to get the target's current scale
            ScalingActive=False FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API
            FailedGetResourceMetric: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API
            FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 1), first error is: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API
            2 of Some(2), null"#]],
        );
        check(
            CPU,
            0,
            &[used(80)],
            expect![[r#"
            AbleToScale=True SucceededGetScale: the HPA controller was able to get the target's current scale
            ScalingActive=False ScalingDisabled: scaling is disabled since the replica count of the target is zero
            0 of Some(0), null"#]],
        );
        check(
            CPU,
            7,
            &[used(80)],
            expect![[r#"
            AbleToScale=True SucceededRescale: the HPA controller was able to update the target scale to 5
            SuccessfulRescale: New size: 5; reason: Current number of replicas above Spec.MaxReplicas
            5 of Some(7), null"#]],
        );
    }

    #[test]
    fn where_some_metrics_are_silent_nothing_shrinks() {
        let external =
            "{type: External, external: {metric: {name: queue}, target: {type: AverageValue, averageValue: 10}}}";
        let both = format!("{}, {external}]", CPU.strip_suffix(']').expect("a list"));
        check(
            &both,
            3,
            &[used(10), Err("gone".to_owned())],
            expect![[r#"
            AbleToScale=True SucceededGetScale: the HPA controller was able to get the target's current scale
            ScalingActive=False FailedGetExternalMetric: the HPA was unable to compute the replica count: failed to get queue external metric: gone
            FailedGetExternalMetric: failed to get queue external metric: gone
            FailedComputeMetricsReplicas: invalid metrics (1 invalid out of 2), first error is: failed to get queue external metric: gone
            3 of Some(3), [{"resource":{"current":{"averageUtilization":10,"averageValue":"10m"},"name":"cpu"},"type":"Resource"}]"#]],
        );
        check(
            &both,
            3,
            &[used(10), Ok(Reading::Value(42_000))],
            expect![[r#"
            AbleToScale=True SucceededRescale: the HPA controller was able to update the target scale to 5
            ScalingActive=True ValidMetricFound: the HPA was able to successfully calculate a replica count from external metric queue(nil)
            ScalingLimited=False DesiredWithinRange: the desired count is within the acceptable range
            SuccessfulRescale: New size: 5; reason: external metric queue(nil) above target
            5 of Some(3), [{"resource":{"current":{"averageUtilization":10,"averageValue":"10m"},"name":"cpu"},"type":"Resource"},{"external":{"current":{"averageValue":"14"},"metric":{"name":"queue"}},"type":"External"}]"#]],
        );
    }
}
