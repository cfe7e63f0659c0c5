//! How long admission takes. Every write goes by every plugin: what is counted of them has its place in a table, so that
//! counting is neither a lock nor a search.

use std::sync::OnceLock;
use std::time::Duration;

use skiff_base::figures::{Family, Registry, Series};

use crate::admission::{Operation, plugins};

const BOUNDS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WEBHOOK_BOUNDS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];

static STEPS: Family = Family::buckets(
    "apiserver_admission_step_admission_duration_seconds",
    "How long a step of admission took, by what was to be done.",
    &BOUNDS,
);
static PLUGINS: Family = Family::buckets(
    "apiserver_admission_controller_admission_duration_seconds",
    "How long a plugin of admission took, by what was to be done.",
    &BOUNDS,
);
static WEBHOOKS: Family = Family::buckets(
    "apiserver_admission_webhook_admission_duration_seconds",
    "How long a webhook took, by what was to be done.",
    &WEBHOOK_BOUNDS,
);

const OPERATIONS: [Operation; 4] = [Operation::Create, Operation::Update, Operation::Delete, Operation::Connect];
/// The place of a step as a whole, behind those of all plugins.
pub const WHOLE: usize = plugins::ALL.len();
/// For each plugin and the whole: what is to be done, the step, and whether it was refused.
const PLACES: usize = (WHOLE + 1) * OPERATIONS.len() * 2 * 2;

/// A step of admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Objects are changed.
    Admit,
    /// Objects are only looked at.
    Validate,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Admit => "admit",
            Self::Validate => "validate",
        }
    }
}

/// The figures of plugins, each made when it is first needed.
pub struct Admission(Box<[OnceLock<Series>]>);

impl Default for Admission {
    fn default() -> Self {
        Self(std::iter::repeat_with(OnceLock::new).take(PLACES).collect())
    }
}

fn labels(operation: Operation, step: &str, is_refused: bool) -> String {
    format!("operation={:?},rejected=\"{is_refused}\",type={step:?}", operation.name())
}

impl Admission {
    /// A plugin (or [`WHOLE`], the step) took so long.
    pub fn took(
        &self,
        registry: &Registry,
        plugin: usize,
        (operation, step): (Operation, Step),
        is_refused: bool,
        took: Duration,
    ) {
        let place = plugin * OPERATIONS.len() + operation as usize;
        let place = (place * 2 + step as usize) * 2 + usize::from(is_refused);
        let make = || {
            let labels = labels(operation, step.name(), is_refused);
            match plugins::ALL.get(plugin) {
                Some(plugin) => registry.series(&PLUGINS, &format!("name={:?},{labels}", plugin.name)),
                None => registry.series(&STEPS, &labels),
            }
        };
        if let Some(series) = self.0.get(place) {
            series.get_or_init(make).took(took);
        }
    }

    /// A webhook of the user's took so long.
    pub fn webhook_took(
        registry: &Registry,
        name: &str,
        (operation, step): (Operation, &str),
        is_refused: bool,
        took: Duration,
    ) {
        let labels = labels(operation, step, is_refused);
        registry.series(&WEBHOOKS, &format!("name={name:?},{labels}")).took(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admission_is_timed() {
        let (registry, admission) = (Registry::default(), Admission::default());
        let create = (Operation::Create, Step::Validate);
        let quota = plugins::ALL.iter().position(|plugin| plugin.name == "ResourceQuota").expect("it is there");
        admission.took(&registry, quota, create, true, Duration::from_millis(2));
        admission.took(&registry, WHOLE, create, true, Duration::from_millis(30));
        admission.took(&registry, WHOLE, (Operation::Connect, Step::Validate), true, Duration::from_secs(9));
        let create = (Operation::Create, "validating");
        Admission::webhook_took(&registry, "a.b.c", create, false, Duration::from_millis(3));
        let text = registry.text();
        let counts: Vec<&str> = text.lines().filter(|line| line.contains("_count{")).collect();
        assert_eq!(
            counts,
            [
                r#"apiserver_admission_controller_admission_duration_seconds_count{name="ResourceQuota",operation="CREATE",rejected="true",type="validate"} 1"#,
                r#"apiserver_admission_step_admission_duration_seconds_count{operation="CONNECT",rejected="true",type="validate"} 1"#,
                r#"apiserver_admission_step_admission_duration_seconds_count{operation="CREATE",rejected="true",type="validate"} 1"#,
                r#"apiserver_admission_webhook_admission_duration_seconds_count{name="a.b.c",operation="CREATE",rejected="false",type="validating"} 1"#,
            ]
        );
        assert!(text.contains(
            r#"step_admission_duration_seconds_bucket{operation="CONNECT",rejected="true",type="validate",le="2.5"} 0"#
        ));
    }
}
