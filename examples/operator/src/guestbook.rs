//! The kind that the operator brings.

use std::time::Duration;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client, CustomResource, CustomResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who applies.
pub const MANAGER: &str = "guestbooks";

/// What a guestbook should be.
#[derive(CustomResource, Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "rust.example.com",
    version = "v1",
    kind = "Guestbook",
    namespaced,
    shortname = "gb",
    status = "GuestbookStatus",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.ready"),
    printcolumn(name = "Ready", json_path = ".status.ready", type_ = "integer"),
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct GuestbookSpec {
    /// The web server's image.
    pub image: String,
    /// How many of them.
    #[schemars(range(min = 0, max = 10))]
    pub replicas: i32,
    /// What it greets with.
    #[serde(default = "greeting")]
    pub greeting: String,
}

fn greeting() -> String {
    "hello".to_owned()
}

/// What a guestbook is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GuestbookStatus {
    /// How many Pods are ready.
    pub ready: i32,
    /// The generation that this is about.
    pub observed_generation: i64,
}

/// Applies the definition and waits until the kind is served.
pub async fn define(client: &Client) -> crate::Outcome {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let name = Guestbook::crd_name();
    definitions.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(Guestbook::crd())).await?;
    let established = await_condition(definitions, name, conditions::is_crd_established());
    tokio::time::timeout(Duration::from_secs(60), established).await??;
    Ok(())
}
