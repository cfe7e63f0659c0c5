//! The controller: reflectors feed it, it applies what a Guestbook wants, and says what is there.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::runtime::finalizer::{Event as Life, finalizer};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{Controller, WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::{Value, json};

use crate::guestbook::{Guestbook, GuestbookStatus, MANAGER};

const FINALIZER: &str = "rust.example.com/farewell";
/// A Guestbook is looked at again after this long, even if nothing seems to have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

struct Context {
    client: Client,
    deployments: Store<Deployment>,
    recorder: Recorder,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Kube(#[from] kube::Error),
    #[error("finalizer: {0}")]
    Finalizer(#[from] Box<kube::runtime::finalizer::Error<Error>>),
    #[error("a Guestbook without a namespace")]
    NoNamespace,
}

/// Serves Guestbooks until `stop` is done.
pub async fn run(client: Client, stop: impl Future<Output = ()> + Send + Sync + 'static) {
    let (deployments, writer) = reflector::store();
    let written = watcher(Api::<Deployment>::all(client.clone()), watcher::Config::default().streaming_lists())
        .default_backoff()
        .reflect(writer)
        .touched_objects()
        .map(drop);
    let recorder = Recorder::new(client.clone(), Reporter { controller: MANAGER.into(), instance: None });
    let context = Arc::new(Context { client: client.clone(), deployments, recorder });
    // The reflector's own stream wakes the controller, so that it finds in the store what woke it.
    Controller::new(Api::<Guestbook>::all(client.clone()), watcher::Config::default())
        .owns(Api::<ConfigMap>::all(client), watcher::Config::default())
        .reconcile_all_on(written)
        .graceful_shutdown_on(stop)
        .run(reconcile, |_, error, _| retry(error), context)
        .for_each(|outcome| async {
            if let Err(error) = outcome {
                eprintln!("{error}");
            }
        })
        .await;
}

fn retry(error: &Error) -> Action {
    eprintln!("{error}");
    Action::requeue(Duration::from_millis(500))
}

async fn reconcile(guestbook: Arc<Guestbook>, context: Arc<Context>) -> Result<Action, Error> {
    let namespace = guestbook.namespace().ok_or(Error::NoNamespace)?;
    let guestbooks: Api<Guestbook> = Api::namespaced(context.client.clone(), &namespace);
    let step = async |life| match life {
        Life::Apply(guestbook) => apply(&guestbook, &namespace, &context).await,
        Life::Cleanup(guestbook) => farewell(&guestbook, &namespace, &context).await,
    };
    finalizer(&guestbooks, FINALIZER, guestbook, step).await.map_err(|error| Box::new(error).into())
}

async fn apply(guestbook: &Guestbook, namespace: &str, context: &Context) -> Result<Action, Error> {
    let (name, mine) = (guestbook.name_any(), PatchParams::apply(MANAGER).force());
    let configs: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    configs.patch(&name, &mine, &Patch::Apply(config_of(guestbook))).await?;
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), namespace);
    deployments.patch(&name, &mine, &Patch::Apply(deployment_of(guestbook))).await?;
    // What the reflector knows may be older; its next word brings us here again.
    let known = context.deployments.get(&ObjectRef::new(&name).within(namespace));
    let ready = known.and_then(|deployment| deployment.status.as_ref()?.ready_replicas).unwrap_or(0);
    let status = GuestbookStatus { ready, observed_generation: guestbook.metadata.generation.unwrap_or(0) };
    if guestbook.status.as_ref() != Some(&status) {
        let guestbooks: Api<Guestbook> = Api::namespaced(context.client.clone(), namespace);
        let body = json!({"apiVersion": Guestbook::api_version(&()), "kind": Guestbook::kind(&()), "status": status});
        guestbooks.patch_status(&name, &mine, &Patch::Apply(body)).await?;
    }
    Ok(Action::requeue(LOOK_AGAIN))
}

fn metadata_of(guestbook: &Guestbook) -> Value {
    json!({"name": guestbook.name_any(), "ownerReferences": [guestbook.controller_owner_ref(&())]})
}

fn config_of(guestbook: &Guestbook) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata_of(guestbook),
        "data": {"greeting": guestbook.spec.greeting}})
}

fn deployment_of(guestbook: &Guestbook) -> Value {
    let labels = json!({"guestbook": guestbook.name_any()});
    let web = json!({"name": "web", "image": guestbook.spec.image, "command": ["/hello", "--port=8080"],
        "envFrom": [{"configMapRef": {"name": guestbook.name_any()}}]});
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata_of(guestbook),
        "spec": {"replicas": guestbook.spec.replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [web]}}}})
}

async fn farewell(guestbook: &Guestbook, namespace: &str, context: &Context) -> Result<Action, Error> {
    let configs: Api<ConfigMap> = Api::namespaced(context.client.clone(), namespace);
    let name = format!("farewell-{}", guestbook.name_any());
    let metadata = json!({"name": name});
    let word = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"word": "goodbye"}});
    configs.patch(&name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(word)).await?;
    let event = Event {
        type_: EventType::Normal,
        reason: "Closed".into(),
        note: Some("said goodbye".into()),
        action: "Close".into(),
        secondary: None,
    };
    context.recorder.publish(&event, &guestbook.object_ref(&())).await?;
    Ok(Action::await_change())
}
