//! From figures to a number of replicas, by the documented formula. Pure.
//! See <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#algorithm-details>.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};
use skiff_base::{Quantity, Timestamp};

use super::Timing;
use crate::pods::{condition, is_ready, phase};

/// What one pod uses, in thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// How much.
    pub milli: i64,
    /// When that was known.
    pub at: Timestamp,
    /// Over which time it was observed.
    pub window: Duration,
}

/// What pods use, by their names.
pub type Figures = BTreeMap<String, Figure>;

/// How far a ratio may be from one without anything being done.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// Below one.
    pub down: f64,
    /// Above one.
    pub up: f64,
}

impl Tolerance {
    fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What a proposal rests on, beside the metric.
pub struct Ground<'a> {
    /// The present number of replicas.
    pub replicas: i32,
    /// The pods that the target selects.
    pub pods: &'a [Arc<Pod>],
    /// What is left alone.
    pub tolerance: Tolerance,
    /// When figures of young pods count.
    pub timing: Timing,
    /// Now.
    pub now: Timestamp,
}

/// A number of replicas, and the figures that it came of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proposal {
    /// How many replicas.
    pub replicas: i32,
    /// The present share of the request in percent.
    pub utilization: Option<i32>,
    /// The present value, or its average, in thousandths.
    pub milli: i64,
}

/// Which pods count how.
#[derive(Default)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn name_of(pod: &Pod) -> String {
    pod.metadata.name.clone().unwrap_or_default()
}

fn group(ground: &Ground<'_>, figures: &Figures, is_cpu: bool) -> Groups {
    let mut groups = Groups::default();
    for pod in ground.pods {
        let name = name_of(pod);
        if pod.metadata.deletion_timestamp.is_some() || phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else if let Some(figure) = figures.get(&name) {
            if is_cpu && !counts(ground, pod, figure) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// Whether the processor time of a pod says something: not while it starts, and not while it never was ready.
fn counts(ground: &Ground<'_>, pod: &Pod, figure: &Figure) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let (Some(ready), Some(started)) = (condition(pod, "Ready"), started) else { return false };
    let changed = ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let not_ready = ready.status == "False";
    if started.0 + ground.timing.cpu_start > ground.now {
        return !not_ready && figure.at >= changed + figure.window;
    }
    !(not_ready && started.0 + ground.timing.first_readiness > changed)
}

/// What the pods ask for of a resource in thousandths, of one container or of all.
fn requests(pods: &[Arc<Pod>], resource: &str, container: Option<&str>) -> Result<BTreeMap<String, i64>, String> {
    pods.iter().map(|pod| Ok((name_of(pod), request(pod, resource, container)?))).collect()
}

fn asked(resources: Option<&ResourceRequirements>, resource: &str) -> Option<i64> {
    let quantity = resources?.requests.as_ref()?.get(resource)?;
    quantity.0.parse::<Quantity>().ok().map(|quantity| quantity.milli_value())
}

fn request(pod: &Pod, resource: &str, only: Option<&str>) -> Result<i64, String> {
    let Some(spec) = &pod.spec else { return Ok(0) };
    if let (None, Some(whole)) = (only, asked(spec.resources.as_ref(), resource)) {
        return Ok(whole);
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let mut total = 0;
    for container in spec.containers.iter().chain(sidecars).filter(|c| only.is_none_or(|only| c.name == only)) {
        total += asked(container.resources.as_ref(), resource).ok_or_else(|| {
            format!("missing request for {resource} in container {} of Pod {}", container.name, name_of(pod))
        })?;
    }
    Ok(total)
}

/// The share of what is asked for that is used, in percent, and the average use.
fn utilization(figures: &Figures, requests: &BTreeMap<String, i64>) -> Result<(i32, i64), String> {
    let known = figures.iter().filter_map(|(name, figure)| Some((figure.milli, *requests.get(name)?)));
    let (mut used, mut asked, mut count) = (0, 0, 0);
    for (milli, request) in known {
        used += milli;
        asked += request;
        count += 1;
    }
    if asked == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    Ok(((used * 100 / asked) as i32, used / count))
}

/// By the share of what is asked for that is used.
pub fn by_utilization(
    ground: &Ground<'_>,
    figures: &Figures,
    (resource, container): (&str, Option<&str>),
    target: i32,
) -> Result<Proposal, String> {
    let requests = requests(ground.pods, resource, container)?;
    let measure = |figures: &Figures| {
        let (percent, average) = utilization(figures, &requests)?;
        Ok::<_, String>((f64::from(percent) / f64::from(target), percent, average))
    };
    let (groups, mut counted) = count(ground, figures, resource == "cpu")?;
    let (ratio, percent, average) = measure(&counted)?;
    let proposal = |replicas| Proposal { replicas, utilization: Some(percent), milli: average };
    // A pod of which nothing is known is taken to use all that it asks for where that keeps pods, and else nothing.
    let full = i64::from(target.max(100));
    let fill =
        |name: &String, ratio: f64| if ratio < 1.0 { requests.get(name).copied().unwrap_or(0) * full / 100 } else { 0 };
    let settled = settle(ground, &groups, ratio, &mut counted, fill);
    if let Some(replicas) = settled {
        return Ok(proposal(replicas));
    }
    let (again, ..) = measure(&counted)?;
    Ok(proposal(reconsider(ground, ratio, again, counted.len())))
}

/// By the average value of each pod, in thousandths. `resource` is given where the figures are of one.
pub fn by_average(
    ground: &Ground<'_>,
    figures: &Figures,
    resource: Option<&str>,
    target: i64,
) -> Result<Proposal, String> {
    let measure = |figures: &Figures| {
        let total: i64 = figures.values().map(|figure| figure.milli).sum();
        let average = total / (figures.len().max(1) as i64);
        (average as f64 / target as f64, average)
    };
    let (groups, mut counted) = count(ground, figures, resource == Some("cpu"))?;
    let (ratio, average) = measure(&counted);
    let proposal = |replicas| Proposal { replicas, utilization: None, milli: average };
    let fill = |_: &String, ratio: f64| if ratio < 1.0 { target } else { 0 };
    if let Some(replicas) = settle(ground, &groups, ratio, &mut counted, fill) {
        return Ok(proposal(replicas));
    }
    let (again, _) = measure(&counted);
    Ok(proposal(reconsider(ground, ratio, again, counted.len())))
}

/// Groups the pods, and leaves the figures that count.
fn count(ground: &Ground<'_>, figures: &Figures, is_cpu: bool) -> Result<(Groups, Figures), String> {
    if ground.pods.is_empty() {
        return Err("no pods returned by selector while calculating replica count".to_owned());
    }
    let groups = group(ground, figures, is_cpu);
    let mut counted = figures.clone();
    counted.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
    if counted.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
    }
    Ok((groups, counted))
}

/// The number where it is clear by now; else the figures are completed with careful guesses.
fn settle(
    ground: &Ground<'_>,
    groups: &Groups,
    ratio: f64,
    counted: &mut Figures,
    fill: impl Fn(&String, f64) -> i64,
) -> Option<i32> {
    let with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !with_unready && groups.missing.is_empty() {
        let same = ground.tolerance.covers(ratio);
        return Some(if same { ground.replicas } else { ceil(ratio * groups.ready as f64) });
    }
    let guess = |milli| Figure { milli, at: ground.now, window: Duration::ZERO };
    if ratio != 1.0 {
        counted.extend(groups.missing.iter().map(|name| (name.clone(), guess(fill(name, ratio)))));
    }
    if with_unready {
        counted.extend(groups.unready.iter().map(|name| (name.clone(), guess(0))));
    }
    None
}

/// The number that the completed figures give, unless they tell the opposite of what the known ones do.
fn reconsider(ground: &Ground<'_>, ratio: f64, again: f64, count: usize) -> i32 {
    let turned = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if ground.tolerance.covers(again) || turned {
        return ground.replicas;
    }
    let replicas = ceil(again * count as f64);
    let wrong_way = (again < 1.0 && replicas > ground.replicas) || (again > 1.0 && replicas < ground.replicas);
    if wrong_way { ground.replicas } else { replicas }
}

/// By one value that all replicas share in, in thousandths.
pub fn by_value(ground: &Ground<'_>, milli: i64, target: i64) -> Proposal {
    let ratio = milli as f64 / target as f64;
    let replicas = if ground.replicas == 0 {
        ceil(ratio)
    } else if ground.tolerance.covers(ratio) {
        ground.replicas
    } else {
        let ready = ground.pods.iter().filter(|pod| phase(pod) == "Running" && is_ready(pod)).count();
        ceil(ratio * ready as f64)
    };
    Proposal { replicas, utilization: None, milli }
}

/// By one value of which each replica is to have so much, in thousandths.
pub fn by_share(ground: &Ground<'_>, present: i32, milli: i64, target: i64) -> Proposal {
    let ratio = milli as f64 / (target as f64 * f64::from(present));
    let replicas =
        if present > 0 && ground.tolerance.covers(ratio) { present } else { ceil(milli as f64 / target as f64) };
    let each = if present > 0 { ceil(milli as f64 / f64::from(present)) } else { 0 };
    Proposal { replicas, utilization: None, milli: each.into() }
}

fn ceil(number: f64) -> i32 {
    // The cast saturates, which is what is wanted of a number that is too large.
    number.ceil() as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{now, object};

    /// Pods written `USE` or `USE state` with a state of `pending`, `unready`, `young`, `failed`; `-` for no figures.
    fn check(replicas: i32, pods: &[&str], target: i32, expected: Result<(i32, i32), &str>) {
        let (mut all, mut figures) = (Vec::new(), Figures::new());
        for (at, text) in pods.iter().enumerate() {
            let (used, state) = text.split_once(' ').unwrap_or((text, ""));
            let phase = match state {
                "pending" => "Pending",
                "failed" => "Failed",
                _ => "Running",
            };
            let ready = if state == "unready" { "False" } else { "True" };
            let started = if state == "young" { "2026-01-31T11:59:30Z" } else { "2026-01-31T11:00:00Z" };
            all.push(Arc::new(object(&format!(
                "{{metadata: {{name: p{at}}}, spec: {{containers: [{{name: c, resources: {{requests: {{cpu: 1}}}}}}]}}, status: {{phase: {phase}, startTime: '{started}', conditions: [{{type: Ready, status: '{ready}', lastTransitionTime: '{started}'}}]}}}}"
            ))));
            if let Ok(milli) = used.parse() {
                figures.insert(format!("p{at}"), Figure { milli, at: now(), window: Duration::from_secs(60) });
            }
        }
        let tolerance = Tolerance { down: 0.1, up: 0.1 };
        let ground = Ground { replicas, pods: &all, tolerance, timing: Timing::default(), now: now() };
        let proposal = by_utilization(&ground, &figures, ("cpu", None), target);
        let got = proposal.map(|proposal| (proposal.replicas, proposal.utilization.expect("a share")));
        assert_eq!(got, expected.map_err(str::to_owned), "{pods:?}");
    }

    #[test]
    fn replicas_follow_the_share_of_what_is_asked_for() {
        check(3, &["300", "500", "700"], 30, Ok((5, 50)));
        check(3, &["300", "500", "700"], 50, Ok((3, 50)));
        check(3, &["310", "320", "330"], 30, Ok((3, 32)));
        check(5, &["100", "300", "500", "250", "250"], 50, Ok((3, 28)));
        check(3, &["-", "-", "-"], 50, Err("did not receive metrics for targeted pods (pods might be unready)"));
        check(1, &[], 50, Err("no pods returned by selector while calculating replica count"));
    }

    #[test]
    fn what_is_not_known_is_guessed_so_that_little_is_done() {
        // Pending and young pods are taken to use nothing when growing.
        check(3, &["300", "500 pending", "700"], 30, Ok((3, 50)));
        check(3, &["400 young", "500", "700"], 30, Ok((4, 60)));
        check(2, &["700", "100 unready"], 30, Ok((3, 70)));
        // Where figures are missing a pod is taken to use all of its request when shrinking, and nothing when growing.
        check(5, &["100", "100", "100", "-", "-"], 80, Ok((3, 10)));
        check(3, &["600", "700", "-"], 50, Ok((3, 65)));
        check(3, &["300", "500", "700 failed"], 30, Ok((3, 40)));
    }

    #[test]
    fn shared_values_are_divided() {
        let pods: Vec<_> = (0..3)
            .map(|at| Arc::new(object(&format!("{{metadata: {{name: p{at}}}, status: {{phase: Running, conditions: [{{type: Ready, status: 'True'}}]}}}}"))))
            .collect();
        let tolerance = Tolerance { down: 0.1, up: 0.1 };
        let ground = |replicas| Ground { replicas, pods: &pods, tolerance, timing: Timing::default(), now: now() };
        assert_eq!(by_value(&ground(3), 20_000, 15_000).replicas, 4);
        assert_eq!(by_value(&ground(3), 15_500, 15_000).replicas, 3);
        assert_eq!(by_value(&ground(0), 20_000, 15_000).replicas, 2);
        assert_eq!(by_share(&ground(3), 3, 8_600, 2_150), Proposal { replicas: 4, utilization: None, milli: 2867 });
    }
}
