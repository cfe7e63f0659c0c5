//! Devices given out by tables, and a plugin of the tests' own that speaks over real sockets.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use skiff_base::{SystemClock, Timestamp};
use skiff_cri::grpc::{Channel, Handler, Reply, decode, serve};
use skiff_cri::{ContainerConfig, CriError, CriResult};
use tokio::net::UnixListener;

use super::Inventory;
use super::keeper::Devices;
use super::messages::*;

const RESOURCE: &str = "example.com/gadget";

fn pod(uid: &str, number: u32) -> Pod {
    let yaml = format!(
        "{{metadata: {{uid: {uid}}}, spec: {{containers: [{{name: app, resources: {{limits: {{{RESOURCE}: '{number}'}}}}}}]}}}}"
    );
    serde_saphyr::from_str(&yaml).expect("a valid Pod")
}

fn gadgets(list: &[(&str, bool)]) -> BTreeMap<String, bool> {
    list.iter().map(|(id, well)| ((*id).to_owned(), *well)).collect()
}

#[test]
fn each_device_goes_to_one_container() {
    let mut inventory = Inventory::default();
    inventory.offer(RESOURCE, gadgets(&[("a", true), ("b", false), ("c", true)]));
    assert_eq!(inventory.counts()[RESOURCE], (3, 2));
    let mut inventory = inventory.assign(&pod("one", 1)).expect("there are two");
    assert_eq!(inventory.taken("one", "app")[RESOURCE], ["a"]);
    let (reason, message) = inventory.assign(&pod("two", 2)).expect_err("only one is left");
    assert_eq!(reason, "UnexpectedAdmissionError");
    assert!(message.contains("Requested: 2, Available: 1"), "{message}");
    assert!(inventory.retain(|_| false));
    assert!(inventory.assign(&pod("two", 2)).is_ok());
}

#[test]
fn devices_of_a_plugin_that_is_gone_are_shown_for_a_while() {
    let at = |second| Timestamp::from_second(second).expect("a valid time");
    let mut inventory = Inventory::default();
    inventory.offer(RESOURCE, gadgets(&[("a", true)]));
    inventory.withdraw(RESOURCE, at(0));
    inventory.forget(at(299));
    assert_eq!(inventory.counts()[RESOURCE], (1, 0));
    inventory.forget(at(300));
    assert!(inventory.counts().is_empty());
}

/// Has two gadgets and says what a container needs for them.
/// What it gives twice, it refuses the second time.
#[derive(Default)]
struct TestPlugin(AtomicBool);

#[async_trait]
impl Handler for TestPlugin {
    async fn call(&self, _: &str, method: &str, message: Bytes) -> CriResult<Reply> {
        match method {
            "ListAndWatch" => {
                let device = |id: &str| Device { id: id.into(), health: "Healthy".into(), topology: None };
                let answer = ListAndWatchResponse { devices: vec![device("g1"), device("g2")] };
                let first: Bytes = prost::Message::encode_to_vec(&answer).into();
                // The stream stays open, as a plugin's does.
                let answers = futures_util::stream::once(async { Ok(first) }).chain(futures_util::stream::pending());
                Ok(Reply::Many(Box::pin(answers)))
            }
            "Allocate" => {
                let request: AllocateRequest = decode(&message)?;
                if request.container_requests[0].devices_ids.len() > 1 && self.0.swap(true, Ordering::AcqRel) {
                    return Err(CriError::internal("one at a time"));
                }
                let ids = request.container_requests[0].devices_ids.join(",");
                let response = ContainerAllocateResponse {
                    envs: [("GADGETS".to_owned(), ids)].into(),
                    devices: vec![skiff_cri::Device {
                        container_path: "/dev/gadget".into(),
                        host_path: "/dev/null".into(),
                        permissions: "rw".into(),
                    }],
                    ..ContainerAllocateResponse::default()
                };
                Ok(Reply::message(&AllocateResponse { container_responses: vec![response] }))
            }
            "PreStartContainer" => Ok(Reply::message(&Empty {})),
            _ => Err(CriError::unimplemented(method)),
        }
    }
}

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

#[tokio::test]
async fn a_plugin_registers_and_its_devices_reach_a_container() {
    let folder = Folder(std::env::temp_dir().join(format!("skiff-dev-{}", skiff_base::ids::Ids::random().suffix(8))));
    let devices = Devices::load(folder.0.clone(), SystemClock::shared());
    let keeping = tokio::spawn(devices.clone().keep());
    let registry = Channel::new(&folder.0.join("kubelet.sock").display().to_string()).expect("a path");
    let request = |version: &str| RegisterRequest {
        version: version.into(),
        endpoint: "gadget.sock".into(),
        resource_name: RESOURCE.into(),
        options: Some(DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: false }),
    };
    let call = "/v1beta1.Registration/Register";
    let limit = Some(Duration::from_secs(20));
    while !folder.0.join("kubelet.sock").exists() {
        tokio::task::yield_now().await;
    }
    let refused = registry.unary::<_, Empty>(call, &request("v1alpha"), limit).await.expect_err("another version");
    assert!(refused.message.contains("not supported by kubelet"), "{}", refused.message);
    let listener = UnixListener::bind(folder.0.join("gadget.sock")).expect("a socket for the plugin");
    let plugin = tokio::spawn(serve(listener, Arc::new(TestPlugin::default())));
    let _: Empty = registry.unary(call, &request("v1beta1"), limit).await.expect("it registers");
    while devices.counts().get(RESOURCE) != Some(&(2, 2)) {
        tokio::time::timeout(Duration::from_secs(20), devices.changed.notified()).await.expect("the devices come");
    }
    devices.assign(&pod("one", 2)).expect("there are two");
    devices.allocate(&pod("one", 2)).await.expect("the plugin answers");
    let mut config = ContainerConfig::default();
    devices.equip("one", "app", &mut config).await.expect("the plugin answers");
    assert_eq!((config.envs[0].key.as_str(), config.envs[0].value.as_str()), ("GADGETS", "g1,g2"));
    assert_eq!(config.devices[0].container_path, "/dev/gadget");
    // A plugin that refuses keeps its Pod from the node, and the devices are free for others.
    devices.retain(|uid| uid != "one");
    devices.assign(&pod("two", 2)).expect("there are two again");
    let (reason, message) = devices.allocate(&pod("two", 2)).await.expect_err("the plugin refuses");
    let said = "Allocate failed due to rpc error: code = Internal desc = one at a time, which is unexpected";
    assert_eq!((reason.as_str(), message.as_str()), ("UnexpectedAdmissionError", said));
    devices.assign(&pod("one", 2)).expect("there are two");
    // What was given is remembered by the next run of the agent.
    let again = Devices::load(folder.0.clone(), SystemClock::shared());
    assert!(again.equip("one", "app", &mut config).await.expect_err("no plugin yet").contains("not registered"));
    keeping.abort();
    plugin.abort();
}
