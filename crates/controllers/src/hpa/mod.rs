//! HorizontalPodAutoscalers: as many replicas as a target's metrics ask for.
//! The decision is [`decide::decide`]; this file asks for the figures that it rests on, and does what it says.
//! See <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/>.

mod calculate;
mod decide;
mod limits;
mod sources;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::clock::SharedClock;
use skiff_client::{Change, Client, Definition, Error, Informer, ObjectKey, Recorder, Resource};
use skiff_object::LabelSelector;

use crate::meta::selects;
use crate::resources::{builtin, custom};
use crate::runner::{Queue, Setup};
use decide::{Observed, Scale, Verdict, decide};
use limits::Past;
use sources::Sources;

/// Autoscalers that are attended to at the same time.
const WORKERS: usize = 5;
const NAME: &str = "horizontal-pod-autoscaler";

/// When figures count, and how long windows are; each has upstream's default.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How often each autoscaler is attended to.
    pub period: Duration,
    /// How long a smaller number has to be recommended before it is followed.
    pub down_window: Duration,
    /// How long after its start a pod's processor time counts only while it is ready.
    pub cpu_start: Duration,
    /// How long after its start a pod may become unready and is still taken for one that was never ready.
    pub first_readiness: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(15),
            down_window: Duration::from_secs(300),
            cpu_start: Duration::from_secs(300),
            first_readiness: Duration::from_secs(30),
        }
    }
}

/// The controller.
pub struct Autoscalers {
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    definitions: Informer<Definition>,
    builtin: Vec<Resource>,
    client: Client,
    clock: SharedClock,
    recorder: Recorder,
    timing: Timing,
    past: Mutex<HashMap<ObjectKey, Past>>,
    /// Which pods each autoscaler is about.
    selectors: Mutex<HashMap<ObjectKey, LabelSelector>>,
}

impl Autoscalers {
    /// Runs until dropped.
    pub async fn run(mut setup: Setup, client: Client, clock: SharedClock, timing: Timing) {
        let autoscalers = setup.informer::<HorizontalPodAutoscaler>();
        setup.on_change::<HorizontalPodAutoscaler>(|change| {
            let told_only = matches!(change, Change::Updated { old, new } if old.spec == new.spec);
            (!told_only).then(|| ObjectKey::of(&change.object().metadata)).into_iter().collect()
        });
        let (pods, definitions, queue) = (setup.informer(), setup.informer(), setup.queue.clone());
        setup.synced().await;
        let controller = Self {
            recorder: Recorder::start(client.clone(), clock.clone(), NAME, ""),
            builtin: builtin().into_iter().map(|deletable| deletable.resource).collect(),
            autoscalers,
            pods,
            definitions,
            client,
            clock,
            timing,
            past: Mutex::default(),
            selectors: Mutex::default(),
        };
        let ticks = async {
            loop {
                tokio::time::sleep(timing.period).await;
                controller.autoscalers.list().iter().for_each(|hpa| queue.add(ObjectKey::of(&hpa.metadata)));
            }
        };
        let workers = join_all((0..WORKERS).map(|_| controller.work(&queue)));
        futures_util::future::join(ticks, workers).await;
    }

    async fn work(&self, queue: &Queue) {
        while let Some(key) = queue.next().await {
            if let Err(error) = self.attend_to(&key).await {
                // The next tick comes soon enough.
                tracing::debug!(%key, %error, "autoscaler not finished");
            }
            queue.done(&key);
        }
    }

    async fn attend_to(&self, key: &ObjectKey) -> Result<(), Error> {
        let Some(hpa) = self.autoscalers.by_key(key) else {
            self.past.lock().remove(key);
            self.selectors.lock().remove(key);
            return Ok(());
        };
        let mut past = self.past.lock().remove(key).unwrap_or_default();
        let verdict = self.judge(key, &hpa, &mut past).await;
        self.past.lock().insert(key.clone(), past);
        for note in &verdict.notes {
            self.recorder.record(&note.about, note.warning, note.reason, note.message.clone());
        }
        match verdict.told() {
            Some(hpa) => self.client.update_status(&hpa).await.map(drop),
            None => Ok(()),
        }
    }

    async fn judge<'a>(&self, key: &ObjectKey, hpa: &'a HorizontalPodAutoscaler, past: &mut Past) -> Verdict<'a> {
        let now = self.clock.now();
        let (path, tree) = match self.scale(key, hpa).await {
            Ok(found) => found,
            Err(error) => {
                let mut verdict = Verdict::new(hpa, Scale::default(), now);
                verdict.warn("FailedGetScale", error.clone());
                let text = format!("the HPA controller was unable to get the target's current scale: {error}");
                verdict.condition("AbleToScale", false, "FailedGetScale", text);
                return verdict;
            }
        };
        let number = |pointer: &str| tree.pointer(pointer).and_then(Value::as_i64).unwrap_or(0) as i32;
        let scale = Scale { wanted: number("/spec/replicas"), present: number("/status/replicas") };
        let raw = tree.pointer("/status/selector").and_then(Value::as_str).unwrap_or_default();
        let pods = match self.selected(key, raw) {
            Ok(pods) => pods,
            Err((reason, text)) => {
                let mut verdict = Verdict::new(hpa, scale, now);
                verdict.warn(
                    if reason == "InvalidSelector" && raw.is_empty() { "SelectorRequired" } else { reason },
                    text.clone(),
                );
                verdict.condition("ScalingActive", false, reason, text);
                return verdict;
            }
        };
        let sources =
            Sources { client: &self.client, namespace: &key.namespace, selector: raw, resources: self.resources() };
        let specs = hpa.spec.metrics.as_deref().unwrap_or_default();
        let readings = join_all(specs.iter().map(|spec| sources.read(spec))).await;
        let observed = Observed { hpa, scale, pods: &pods, readings: &readings, timing: self.timing };
        let mut verdict = decide(&observed, past, self.clock.now());
        if let Some((replicas, _)) = &verdict.rescale {
            let mut tree = tree;
            tree["spec"]["replicas"] = json!(replicas);
            match self.client.send_json::<Value>(Method::PUT, &path, &tree).await {
                Ok(_) => verdict.rescaled(past),
                Err(error) => verdict.rescale_failed(&error.to_string()),
            }
        }
        verdict
    }

    fn resources(&self) -> Vec<Resource> {
        let custom = custom(&self.definitions).into_iter().map(|deletable| deletable.resource);
        self.builtin.iter().cloned().chain(custom).collect()
    }

    /// The path of the target's scale, and what is there.
    async fn scale(&self, key: &ObjectKey, hpa: &HorizontalPodAutoscaler) -> Result<(String, Value), String> {
        let target = &hpa.spec.scale_target_ref;
        let resource = sources::resource_of(&self.resources(), target)?;
        let path = resource.object_path(&key.namespace, &target.name, "scale");
        let tree = self.client.get_path::<Value>(&path).await.map_err(|error| error.to_string())?;
        Ok((path, tree))
    }

    /// The target's pods; an error where they cannot be told, or are another autoscaler's too.
    fn selected(&self, key: &ObjectKey, raw: &str) -> Result<Vec<Arc<Pod>>, (&'static str, String)> {
        if raw.is_empty() {
            return Err(("InvalidSelector", "the HPA target's scale is missing a selector".to_owned()));
        }
        let chosen = LabelSelector::parse(raw).map_err(|error| {
            let text = format!("couldn't convert selector into a corresponding internal selector object: {error}");
            ("InvalidSelector", text)
        })?;
        let mut pods = self.pods.list_namespace(&key.namespace);
        pods.retain(|pod| selects(&chosen, &pod.metadata));
        let mut selectors = self.selectors.lock();
        selectors.insert(key.clone(), chosen);
        let others = selectors.iter().filter(|(other, chosen)| {
            *other != key && other.namespace == key.namespace && pods.iter().any(|pod| selects(chosen, &pod.metadata))
        });
        let mut others: Vec<_> = others.map(|(other, _)| other.to_string()).collect();
        if others.is_empty() {
            return Ok(pods);
        }
        others.push(key.to_string());
        others.sort();
        let text = format!("pods by selector {raw} are controlled by multiple HPAs: [{}]", others.join(" "));
        Err(("AmbiguousSelector", text))
    }
}
