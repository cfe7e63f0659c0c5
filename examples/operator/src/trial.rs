//! Uses the operator as its users would, and checks what becomes of it.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::events::v1::Event;
use kube::api::{AttachParams, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::runtime::conditions;
use kube::runtime::wait::{await_condition, delete::delete_and_finalize};
use kube::{Api, Client};
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::guestbook::{self, Guestbook, GuestbookSpec};
use crate::{Outcome, operator};

const PATIENCE: Duration = Duration::from_secs(60);
const IMAGE: &str = "localhost:5000/hello:v1";

/// Runs the operator and everything that is asked of it.
pub async fn run(client: Client) -> Outcome {
    guestbook::define(&client).await?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(operator::run(client.clone(), async { stopped.await.unwrap_or(()) }));
    let outcome = tokio::time::timeout(PATIENCE, a_guestbook_comes_and_goes(&client)).await?;
    drop(stop);
    running.await?;
    outcome
}

fn is_ready(replicas: i32) -> impl Fn(Option<&Guestbook>) -> bool {
    move |guestbook| {
        guestbook.is_some_and(|guestbook| {
            guestbook.status.as_ref().is_some_and(|status| {
                status.ready == replicas && Some(status.observed_generation) == guestbook.metadata.generation
            })
        })
    }
}

async fn a_guestbook_comes_and_goes(client: &Client) -> Outcome {
    let guestbooks: Api<Guestbook> = Api::default_namespaced(client.clone());
    let deployments: Api<Deployment> = Api::default_namespaced(client.clone());
    let configs: Api<ConfigMap> = Api::default_namespaced(client.clone());

    let wanted = json!({"apiVersion": "rust.example.com/v1", "kind": "Guestbook", "metadata": {"name": "book"},
        "spec": {"image": IMAGE, "replicas": 1}});
    let made: Guestbook = guestbooks.patch("book", &PatchParams::apply("me"), &Patch::Apply(wanted)).await?;
    assert_eq!(made.spec, GuestbookSpec { image: IMAGE.into(), replicas: 1, greeting: "hello".into() });
    await_condition(guestbooks.clone(), "book", is_ready(1)).await?;

    let too_many = json!({"spec": {"replicas": 11}});
    let refused = guestbooks.patch("book", &PatchParams::default(), &Patch::Merge(too_many)).await;
    let Err(kube::Error::Api(status)) = refused else { return Err("11 replicas are not refused".into()) };
    assert_eq!((status.code, status.reason.as_str()), (422, "Invalid"));
    assert!(status.message.contains("spec.replicas in body should be less than or equal to 10"), "{}", status.message);

    let mut scale = guestbooks.get_scale("book").await?;
    scale.spec.get_or_insert_default().replicas = Some(2);
    guestbooks.replace_scale("book", &PostParams::default(), &scale).await?;
    await_condition(guestbooks.clone(), "book", is_ready(2)).await?;
    let greeting = json!({"spec": {"greeting": "welcome"}});
    guestbooks.patch("book", &PatchParams::default(), &Patch::Merge(greeting)).await?;
    let welcomes = |config: Option<&ConfigMap>| {
        config.and_then(|config| config.data.as_ref()?.get("greeting")).is_some_and(|word| word == "welcome")
    };
    await_condition(configs.clone(), "book", welcomes).await?;
    into_its_pods(client).await?;

    // Another's field stays; the operator's own comes back.
    let meddled = json!({"metadata": {"labels": {"other": "kept"}}, "spec": {"replicas": 0}});
    deployments.patch("book", &PatchParams::default(), &Patch::Merge(meddled)).await?;
    let mended = |deployment: Option<&Deployment>| {
        deployment.is_some_and(|deployment| {
            let labels = deployment.metadata.labels.as_ref();
            let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas);
            replicas == Some(2) && labels.is_some_and(|labels| labels.contains_key("other"))
        })
    };
    await_condition(deployments.clone(), "book", mended).await?;

    delete_and_finalize(guestbooks.clone(), "book", &DeleteParams::default()).await?;
    assert_eq!(configs.get("farewell-book").await?.data.unwrap_or_default()["word"], "goodbye");
    let events: Api<Event> = Api::default_namespaced(client.clone());
    let told = events.list(&ListParams::default().fields("reason=Closed")).await?;
    assert_eq!(told.items[0].note.as_deref(), Some("said goodbye"));
    await_condition(deployments, "book", |deployment: Option<&Deployment>| deployment.is_none()).await?;
    Ok(())
}

/// Runs a command in one of the Pods.
async fn into_its_pods(client: &Client) -> Outcome {
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let found = pods.list(&ListParams::default().labels("guestbook=book")).await?;
    let name = found.items[0].metadata.name.clone().unwrap_or_default();
    await_condition(pods.clone(), &name, conditions::is_pod_running()).await?;
    let mut running = pods.exec(&name, ["echo", "hello"], &AttachParams::default().stderr(false)).await?;
    let mut said = String::new();
    running.stdout().ok_or("no output")?.read_to_string(&mut said).await?;
    assert_eq!(said, "hello\n");
    running.join().await?;
    assert!(pods.logs(&name, &Default::default()).await?.starts_with("hello v1 listening"));
    Ok(())
}
