//! How fast and how far: stabilisation windows, policies and bounds. Pure; what was recommended and done before is
//! in [`Past`].
//! See <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#configurable-scaling-behavior>.

use std::time::Duration;

use k8s_openapi::api::autoscaling::v2::{HPAScalingPolicy, HPAScalingRules, HorizontalPodAutoscalerBehavior};
use skiff_base::Timestamp;

/// Without a behaviour, growing is bounded by this factor, or this number.
const UP_FACTOR: i32 = 2;
const UP_LEAST: i32 = 4;

/// What was recommended and done before.
#[derive(Debug, Clone, Default)]
pub struct Past {
    recommended: Vec<(Timestamp, i32)>,
    grown: Vec<(Timestamp, i32)>,
    shrunk: Vec<(Timestamp, i32)>,
}

/// What a number of replicas has to stay within.
pub struct Bounds<'a> {
    /// At least so many.
    pub least: i32,
    /// At most so many.
    pub most: i32,
    /// The present number.
    pub current: i32,
    /// What the user says about speed.
    pub behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
    /// How long a smaller number has to be recommended where the user does not say.
    pub down_window: Duration,
    /// Now.
    pub now: Timestamp,
}

/// A number of replicas, and why it is what it is: reason and text of the conditions AbleToScale and ScalingLimited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    /// How many replicas.
    pub replicas: i32,
    /// About stabilisation.
    pub able: (&'static str, &'static str),
    /// Whether a bound was hit.
    pub is_limited: bool,
    /// About bounds.
    pub limit: (&'static str, &'static str),
}

const READY: (&str, &str) = ("ReadyForNewScale", "recommended size matches current size");
const UP_STABILIZED: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const DOWN_STABILIZED: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const WITHIN: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: (&str, &str) = ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: (&str, &str) = ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

fn window(rules: Option<&HPAScalingRules>, default: Duration) -> Duration {
    let seconds = rules.and_then(|rules| rules.stabilization_window_seconds);
    seconds.map_or(default, |seconds| Duration::from_secs(seconds.unsigned_abs().into()))
}

fn since(now: Timestamp, window: Duration) -> Timestamp {
    now.checked_sub(window).unwrap_or(Timestamp::MIN)
}

impl Past {
    /// What is found when an autoscaler is looked at for the first time counts as recommended.
    pub fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommended.is_empty() {
            self.recommended.push((now, current));
        }
    }

    /// Keeps what is recommended in bounds, and remembers it.
    pub fn limit(&mut self, bounds: &Bounds<'_>, recommended: i32) -> Limited {
        match bounds.behavior {
            None => self.limit_plainly(bounds, recommended),
            Some(behavior) => self.limit_by(bounds, behavior, recommended),
        }
    }

    /// Remembers what was done, as long as policies look back.
    pub fn done(&mut self, from: i32, to: i32, behavior: Option<&HorizontalPodAutoscalerBehavior>, now: Timestamp) {
        let Some(behavior) = behavior else { return };
        let (events, rules) =
            if to > from { (&mut self.grown, &behavior.scale_up) } else { (&mut self.shrunk, &behavior.scale_down) };
        let longest = policies(rules.as_ref()).iter().map(|policy| policy.period_seconds).max().unwrap_or(0);
        let oldest = since(now, Duration::from_secs(longest.unsigned_abs().into()));
        events.retain(|(at, _)| *at >= oldest);
        events.push((now, (to - from).abs()));
    }

    fn remember(&mut self, recommended: i32, longest: Duration, now: Timestamp) {
        let oldest = since(now, longest);
        self.recommended.retain(|(at, _)| *at >= oldest);
        self.recommended.push((now, recommended));
    }

    fn limit_plainly(&mut self, bounds: &Bounds<'_>, recommended: i32) -> Limited {
        self.remember(recommended, bounds.down_window, bounds.now);
        let stable = self.recommended.iter().map(|(_, replicas)| *replicas).max().unwrap_or(recommended);
        let able = if stable == recommended { READY } else { DOWN_STABILIZED };
        let fastest = (UP_FACTOR * bounds.current).max(UP_LEAST);
        let (most, over) = if bounds.most > fastest { (fastest, UP_LIMIT) } else { (bounds.most, TOO_MANY) };
        let (replicas, limit) = if stable < bounds.least {
            (bounds.least, TOO_FEW)
        } else if stable > most {
            (most, over)
        } else {
            (stable, WITHIN)
        };
        Limited { replicas, able, is_limited: replicas != stable, limit }
    }

    fn limit_by(
        &mut self,
        bounds: &Bounds<'_>,
        behavior: &HorizontalPodAutoscalerBehavior,
        recommended: i32,
    ) -> Limited {
        let (up, down) = (behavior.scale_up.as_ref(), behavior.scale_down.as_ref());
        let (up_window, down_window) = (window(up, Duration::ZERO), window(down, bounds.down_window));
        let (up_from, down_from) = (since(bounds.now, up_window), since(bounds.now, down_window));
        let after = |from: Timestamp| self.recommended.iter().filter(move |(at, _)| *at > from).map(|(_, r)| *r);
        let lowest = after(up_from).chain([recommended]).min().unwrap_or(recommended);
        let highest = after(down_from).chain([recommended]).max().unwrap_or(recommended);
        let stable = bounds.current.max(lowest).min(highest);
        self.remember(recommended, up_window.max(down_window), bounds.now);
        let able = match (stable == recommended, recommended >= bounds.current) {
            (true, _) => READY,
            (false, true) => UP_STABILIZED,
            (false, false) => DOWN_STABILIZED,
        };
        let (replicas, limit) = match stable.cmp(&bounds.current) {
            std::cmp::Ordering::Greater => {
                let fastest = self.fastest_up(bounds, up).max(bounds.current);
                let (most, why) = if bounds.most > fastest { (fastest, UP_LIMIT) } else { (bounds.most, TOO_MANY) };
                if stable > most { (most, why) } else { (stable, WITHIN) }
            }
            std::cmp::Ordering::Less => {
                let fastest = self.fastest_down(bounds, down).min(bounds.current);
                let (least, why) = if bounds.least < fastest { (fastest, DOWN_LIMIT) } else { (bounds.least, TOO_FEW) };
                if stable < least { (least, why) } else { (stable, WITHIN) }
            }
            std::cmp::Ordering::Equal => (stable, WITHIN),
        };
        Limited { replicas, able, is_limited: replicas != stable, limit }
    }

    /// How many replicas there were when a period began.
    fn at_begin(&self, bounds: &Bounds<'_>, policy: &HPAScalingPolicy) -> i32 {
        let from = since(bounds.now, Duration::from_secs(policy.period_seconds.unsigned_abs().into()));
        let sum = |events: &[(Timestamp, i32)]| events.iter().filter(|(at, _)| *at > from).map(|(_, n)| n).sum::<i32>();
        bounds.current - sum(&self.grown) + sum(&self.shrunk)
    }

    fn fastest_up(&self, bounds: &Bounds<'_>, rules: Option<&HPAScalingRules>) -> i32 {
        let limits = policies(rules).iter().map(|policy| {
            let begin = self.at_begin(bounds, policy);
            match policy.type_.as_str() {
                "Pods" => begin.saturating_add(policy.value),
                // Rounded up, lest a small number never grows.
                _ => (f64::from(begin) * (1.0 + f64::from(policy.value) / 100.0)).ceil() as i32,
            }
        });
        match select(rules) {
            "Disabled" => bounds.current,
            "Min" => limits.min().unwrap_or(i32::MAX),
            _ => limits.max().unwrap_or(i32::MAX),
        }
    }

    fn fastest_down(&self, bounds: &Bounds<'_>, rules: Option<&HPAScalingRules>) -> i32 {
        let limits = policies(rules).iter().map(|policy| {
            let begin = self.at_begin(bounds, policy);
            match policy.type_.as_str() {
                "Pods" => begin - policy.value,
                _ => (f64::from(begin) * (1.0 - f64::from(policy.value) / 100.0)) as i32,
            }
        });
        match select(rules) {
            "Disabled" => bounds.current,
            "Min" => limits.max().unwrap_or(i32::MIN),
            _ => limits.min().unwrap_or(i32::MIN),
        }
    }
}

fn policies(rules: Option<&HPAScalingRules>) -> &[HPAScalingPolicy] {
    rules.and_then(|rules| rules.policies.as_deref()).unwrap_or_default()
}

fn select(rules: Option<&HPAScalingRules>) -> &str {
    rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{now, object};

    /// Plays recommendations through, each so many seconds after the one before; gives what is done.
    fn check(behavior: &str, bounds: (i32, i32), begin: i32, steps: &[(u64, i32)], expected: &[(i32, &str)]) {
        let behavior: Option<HorizontalPodAutoscalerBehavior> =
            (!behavior.is_empty()).then(|| object(&format!("{{{behavior}}}")));
        let (mut past, mut current, mut now) = (Past::default(), begin, now());
        past.begin(begin, now);
        let mut done = Vec::new();
        for (seconds, recommended) in steps {
            now += Duration::from_secs(*seconds);
            let down_window = Duration::from_secs(300);
            let bounds =
                Bounds { least: bounds.0, most: bounds.1, current, behavior: behavior.as_ref(), down_window, now };
            let limited = past.limit(&bounds, *recommended);
            let why = if limited.is_limited { limited.limit.0 } else { limited.able.0 };
            done.push((limited.replicas, why));
            if limited.replicas != current {
                past.done(current, limited.replicas, behavior.as_ref(), now);
                current = limited.replicas;
            }
        }
        assert_eq!(done, expected);
    }

    #[test]
    fn without_a_behaviour_growth_doubles_and_shrinking_waits() {
        check(
            "",
            (1, 20),
            3,
            &[(15, 20), (15, 20), (15, 20), (15, 2), (285, 2), (15, 2), (301, 0)],
            &[
                (6, "ScaleUpLimit"),
                (12, "ScaleUpLimit"),
                (20, "ReadyForNewScale"),
                (20, "ScaleDownStabilized"),
                (20, "ScaleDownStabilized"),
                (2, "ReadyForNewScale"),
                (1, "TooFewReplicas"),
            ],
        );
    }

    #[test]
    fn policies_bound_the_speed() {
        let up = "scaleUp: {stabilizationWindowSeconds: 0, policies: [{type: Pods, value: 4, periodSeconds: 60}]}";
        let down =
            "scaleDown: {stabilizationWindowSeconds: 30, policies: [{type: Percent, value: 50, periodSeconds: 60}]}";
        check(
            &format!("{up}, {down}"),
            (1, 20),
            2,
            &[(15, 20), (15, 20), (50, 9), (15, 1), (15, 1), (20, 1), (60, 1)],
            &[
                (6, "ScaleUpLimit"),
                (6, "ScaleUpLimit"),
                (9, "ReadyForNewScale"),
                (9, "ScaleDownStabilized"),
                (3, "ScaleDownLimit"),
                (3, "ScaleDownLimit"),
                (1, "ReadyForNewScale"),
            ],
        );
        check("scaleDown: {selectPolicy: Disabled}", (1, 20), 8, &[(400, 2)], &[(8, "ScaleDownLimit")]);
        check(
            "scaleUp: {stabilizationWindowSeconds: 60}",
            (1, 9),
            3,
            &[(15, 9), (60, 9)],
            &[(3, "ScaleUpStabilized"), (9, "ReadyForNewScale")],
        );
    }
}
