//! One look at a node's counters, and what two of them say. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use skiff_base::Timestamp;

const NANOS_PER_SECOND: f64 = 1e9;
const MILLIS_PER_SECOND: f64 = 1e3;
const BYTES_PER_KIB: u64 = 1024;

/// Namespace and name.
pub type PodKey = (String, String);

/// A counter of seconds, with the time at which it was read where that is told.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counter {
    seconds: f64,
    at_seconds: Option<f64>,
}

/// The counters of one node, Pod or container.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Counters {
    cpu: Option<Counter>,
    memory_bytes: Option<u64>,
}

/// One look at a node.
#[derive(Debug, Clone)]
pub struct Sample {
    at: Timestamp,
    /// The same on the clock that never goes back.
    pub taken: Duration,
    node: Counters,
    containers: BTreeMap<(PodKey, String), Counters>,
}

/// What is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    nano_cores: u64,
    memory_bytes: u64,
}

impl Usage {
    /// As the API tells it.
    pub fn tree(&self) -> Value {
        json!({"cpu": format!("{}n", self.nano_cores), "memory": format!("{}Ki", self.memory_bytes / BYTES_PER_KIB)})
    }
}

/// What two looks say.
#[derive(Debug)]
pub struct Figures {
    /// When the later one was.
    pub at: Timestamp,
    /// How far apart they were.
    pub window: Duration,
    /// The node as a whole.
    pub node: Option<Usage>,
    /// Each Pod's containers; Pods of which not all was seen both times are not there.
    pub pods: BTreeMap<PodKey, Vec<(String, Usage)>>,
}

impl Sample {
    /// Reads the text form of metrics; families that do not matter are passed over.
    pub fn read(text: &str, at: Timestamp, taken: Duration) -> Self {
        let mut sample = Self { at, taken, node: Counters::default(), containers: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((name, labels, value, at_seconds)) = split(line) else { continue };
            let counters = match name {
                "node_cpu_usage_seconds_total" | "node_memory_working_set_bytes" => &mut sample.node,
                "container_cpu_usage_seconds_total" | "container_memory_working_set_bytes" => {
                    let label = |key: &str| label(labels, key).unwrap_or_default();
                    let key = ((label("namespace"), label("pod")), label("container"));
                    sample.containers.entry(key).or_default()
                }
                _ => continue,
            };
            if name.ends_with("_bytes") {
                counters.memory_bytes = Some(value as u64);
            } else {
                counters.cpu = Some(Counter { seconds: value, at_seconds });
            }
        }
        sample
    }

    /// What was used since an earlier look.
    pub fn since(&self, earlier: &Self) -> Figures {
        let window = self.taken.saturating_sub(earlier.taken);
        let mut pods: BTreeMap<PodKey, Option<Vec<(String, Usage)>>> = BTreeMap::new();
        for ((pod, container), now) in &self.containers {
            let before = earlier.containers.get(&(pod.clone(), container.clone()));
            let usage = before.and_then(|before| usage(now, before, window));
            let all = pods.entry(pod.clone()).or_insert_with(|| Some(Vec::new()));
            match (all.as_mut(), usage) {
                (Some(list), Some(usage)) => list.push((container.clone(), usage)),
                _ => *all = None,
            }
        }
        let pods = pods.into_iter().filter_map(|(pod, containers)| Some((pod, containers?))).collect();
        Figures { at: self.at, window, node: usage(&self.node, &earlier.node, window), pods }
    }
}

fn usage(now: &Counters, before: &Counters, window: Duration) -> Option<Usage> {
    let (end, start) = (now.cpu?, before.cpu?);
    let apart = match (end.at_seconds, start.at_seconds) {
        (Some(end), Some(start)) if end > start => end - start,
        _ => window.as_secs_f64(),
    };
    // A counter that went back is that of a container that was started anew.
    let used = end.seconds - start.seconds;
    let known = apart > 0.0 && used >= 0.0;
    known.then(|| Usage {
        nano_cores: (used / apart * NANOS_PER_SECOND) as u64,
        memory_bytes: now.memory_bytes.unwrap_or(0),
    })
}

/// A line's name, labels, value and time.
fn split(line: &str) -> Option<(&str, &str, f64, Option<f64>)> {
    let (head, rest) = match line.split_once('}') {
        Some((head, rest)) => (head, rest),
        None => line.split_once(' ')?,
    };
    let (name, labels) = head.split_once('{').unwrap_or((head, ""));
    let mut words = rest.split_whitespace();
    let value = words.next()?.parse().ok()?;
    let at = words.next().and_then(|millis| millis.parse::<f64>().ok()).map(|millis| millis / MILLIS_PER_SECOND);
    Some((name.trim(), labels, value, at))
}

fn label(labels: &str, key: &str) -> Option<String> {
    labels.split(',').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn two_looks_say_what_is_used() {
        let look = |cpu: &str, at: u64| {
            let text = format!(
                "# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total {cpu}\nnode_memory_working_set_bytes 4096000 1000\ncontainer_cpu_usage_seconds_total{{container=\"c\",namespace=\"d\",pod=\"p\"}} {cpu} {}\ncontainer_memory_working_set_bytes{{container=\"c\",namespace=\"d\",pod=\"p\"}} 2048 1000\nscrape_error 0\n{}",
                at * 500,
                if at > 1 {
                    "container_cpu_usage_seconds_total{container=\"c\",namespace=\"d\",pod=\"new\"} 1 1000"
                } else {
                    ""
                }
            );
            Sample::read(&text, Timestamp::UNIX_EPOCH, Duration::from_secs(at))
        };
        let figures = look("2.5", 3).since(&look("1.5", 1));
        expect![[r#"
            2s
            Some("{\"cpu\":\"500000000n\",\"memory\":\"4000Ki\"}")
            {("d", "p"): [("c", Usage { nano_cores: 1000000000, memory_bytes: 2048 })]}"#]]
        .assert_eq(&format!(
            "{:?}\n{:?}\n{:?}",
            figures.window,
            figures.node.map(|n| n.tree().to_string()),
            figures.pods
        ));
        assert!(look("0.5", 3).since(&look("1.5", 1)).pods.is_empty(), "the counter began anew");
    }
}
