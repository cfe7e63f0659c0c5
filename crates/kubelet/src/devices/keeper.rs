//! Speaking to device plugins: they register on a socket of the node's, tell their devices in a stream, and are asked what a
//! container needs that has some of them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use skiff_base::clock::SharedClock;
use skiff_cri::grpc::{Channel, Handler, Reply, decode, serve};
use skiff_cri::{ContainerConfig, CriError, CriResult, KeyValue};
use tokio::net::UnixListener;
use tokio::sync::Notify;

use super::Inventory;
use super::messages::{
    AllocateRequest, AllocateResponse, ContainerAllocateRequest, ContainerAllocateResponse, DevicePluginOptions, Empty,
    ListAndWatchResponse, PreStartContainerRequest, RegisterRequest,
};
use crate::config::uid;

/// The version of the interface.
const VERSION: &str = "v1beta1";
/// The node's socket in the folder of plugins.
const SOCKET: &str = "kubelet.sock";
/// What is remembered, beside it.
const MEMORY: &str = "skiff_devices.json";
/// How long a plugin has to answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often devices of plugins that are gone are looked at.
const FORGET: Duration = Duration::from_secs(60);

/// A plugin that is there.
#[derive(Clone)]
struct Plugin {
    channel: Arc<Channel>,
    options: DevicePluginOptions,
    /// Which registration of the resource this is.
    turn: u64,
}

impl Plugin {
    async fn allocate(&self, ids: &[String]) -> CriResult<AllocateResponse> {
        let request =
            AllocateRequest { container_requests: vec![ContainerAllocateRequest { devices_ids: ids.to_vec() }] };
        self.channel.unary("/v1beta1.DevicePlugin/Allocate", &request, Some(PATIENCE)).await
    }
}

/// The devices of the node, and their plugins.
pub struct Devices {
    folder: PathBuf,
    clock: SharedClock,
    inventory: Mutex<Inventory>,
    plugins: Mutex<HashMap<String, Plugin>>,
    /// What plugins have answered for containers that are yet to start, by the UID of the Pod, container and resource.
    answers: Mutex<BTreeMap<(String, String, String), AllocateResponse>>,
    /// Woken when there are other devices than before.
    pub changed: Notify,
}

impl Devices {
    /// With what is remembered in the folder of plugins.
    pub fn load(folder: PathBuf, clock: SharedClock) -> Arc<Self> {
        let inventory = match std::fs::read(folder.join(MEMORY)) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(folder = %folder.display(), %error, "who has which device is forgotten");
                Inventory::default()
            }),
            Err(_) => Inventory::default(),
        };
        let (inventory, plugins) = (Mutex::new(inventory), Mutex::default());
        Arc::new(Self { folder, clock, inventory, plugins, answers: Mutex::default(), changed: Notify::new() })
    }

    /// How many devices of each resource there are, and how many of them are well.
    pub fn counts(&self) -> BTreeMap<String, (i64, i64)> {
        self.inventory.lock().counts()
    }

    /// Gives a Pod the devices that it asks for.
    ///
    /// # Errors
    /// There are too few.
    pub fn assign(&self, pod: &Pod) -> Result<(), (String, String)> {
        let mut inventory = self.inventory.lock();
        let next = inventory.assign(pod)?;
        if next != *inventory {
            *inventory = next;
            self.save(&inventory);
        }
        Ok(())
    }

    /// Takes back what Pods had that are gone.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.answers.lock().retain(|(uid, ..), _| is_there(uid));
        let mut inventory = self.inventory.lock();
        if inventory.retain(is_there) {
            self.save(&inventory);
        }
    }

    fn save(&self, inventory: &Inventory) {
        let bytes = serde_json::to_vec(inventory).expect("an inventory has only string keys");
        let (file, staged) = (self.folder.join(MEMORY), self.folder.join(format!("{MEMORY}.new")));
        if let Err(error) = std::fs::write(&staged, bytes).and_then(|()| std::fs::rename(&staged, &file)) {
            tracing::warn!(file = %file.display(), %error, "who has which device cannot be remembered");
        }
    }

    /// Asks the plugins of a Pod's devices what its containers will need, before the node takes the Pod.
    ///
    /// # Errors
    /// A plugin refuses: status reason and message, and the devices are free again.
    pub async fn allocate(&self, pod: &Pod) -> Result<(), (String, String)> {
        let containers = self.inventory.lock().of_pod(uid(pod));
        for (container, taken) in containers {
            for (resource, ids) in taken {
                let answer = match self.plugin(&resource) {
                    Ok(plugin) => plugin.allocate(&ids).await.map_err(|error| error.to_string()),
                    Err(error) => Err(error),
                };
                match answer {
                    Ok(answer) => {
                        let key = (uid(pod).to_owned(), container.clone(), resource);
                        self.answers.lock().insert(key, answer);
                    }
                    Err(error) => {
                        self.retain(|other| other != uid(pod));
                        let message = format!("Allocate failed due to {error}, which is unexpected");
                        return Err(("UnexpectedAdmissionError".to_owned(), message));
                    }
                }
            }
        }
        Ok(())
    }

    fn plugin(&self, resource: &str) -> Result<Plugin, String> {
        let plugin = self.plugins.lock().get(resource).cloned();
        plugin.ok_or_else(|| format!("the device plugin of {resource} is not registered"))
    }

    /// Adds to a container's configuration what its devices need.
    ///
    /// # Errors
    /// A plugin is gone or refuses.
    pub async fn equip(&self, uid: &str, container: &str, config: &mut ContainerConfig) -> Result<(), String> {
        let taken = self.inventory.lock().taken(uid, container);
        for (resource, ids) in taken {
            let plugin = self.plugin(&resource)?;
            let failed = |error: CriError| format!("device plugin of {resource}: {}", error.message);
            let key = (uid.to_owned(), container.to_owned(), resource.clone());
            let known = self.answers.lock().get(&key).cloned();
            let answer = match known {
                Some(answer) => answer,
                // Asked by an earlier run of the agent, whose answers are gone.
                None => plugin.allocate(&ids).await.map_err(failed)?,
            };
            answer.container_responses.into_iter().for_each(|response| add(response, config));
            if plugin.options.pre_start_required {
                let request = PreStartContainerRequest { devices_ids: ids };
                let call = "/v1beta1.DevicePlugin/PreStartContainer";
                let _: Empty = plugin.channel.unary(call, &request, Some(PATIENCE)).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Takes registrations for ever.
    pub async fn keep(self: Arc<Self>) {
        let socket = self.folder.join(SOCKET);
        let listener = match listen(&self.folder, &socket) {
            Ok(listener) => listener,
            Err(error) => {
                return tracing::warn!(socket = %socket.display(), %error, "device plugins cannot register");
            }
        };
        let forget = async {
            loop {
                tokio::time::sleep(FORGET).await;
                let before = self.counts();
                self.inventory.lock().forget(self.clock.now());
                if self.counts() != before {
                    self.changed.notify_one();
                }
            }
        };
        tokio::join!(serve(listener, Arc::new(Registration(self.clone()))), forget);
    }

    fn register(self: &Arc<Self>, request: RegisterRequest) -> CriResult<()> {
        if request.version != VERSION {
            let words = format!(
                "requested API version {:?} is not supported by kubelet. Supported version is {VERSION:?}",
                request.version
            );
            return Err(CriError::invalid_argument(words));
        }
        let is_extended = request
            .resource_name
            .split_once('/')
            .is_some_and(|(domain, name)| !domain.is_empty() && !name.is_empty() && !domain.ends_with("kubernetes.io"));
        if !is_extended || request.endpoint.contains('/') {
            let words = format!("the ResourceName {:?} is invalid", request.resource_name);
            return Err(CriError::invalid_argument(words));
        }
        let channel = Arc::new(Channel::new(&self.folder.join(&request.endpoint).display().to_string())?);
        let options = request.options.unwrap_or_default();
        let turn = {
            let mut plugins = self.plugins.lock();
            let turn = plugins.get(&request.resource_name).map_or(0, |old| old.turn + 1);
            plugins.insert(request.resource_name.clone(), Plugin { channel: channel.clone(), options, turn });
            turn
        };
        tracing::info!(resource = %request.resource_name, "a device plugin has registered");
        tokio::spawn(self.clone().watch(request.resource_name, channel, turn));
        Ok(())
    }

    /// Follows one plugin until it goes, or registers anew.
    async fn watch(self: Arc<Self>, resource: String, channel: Arc<Channel>, turn: u64) {
        let is_current = || self.plugins.lock().get(&resource).is_some_and(|plugin| plugin.turn == turn);
        match channel.streaming::<_, ListAndWatchResponse>("/v1beta1.DevicePlugin/ListAndWatch", &Empty {}).await {
            Ok(mut answers) => {
                while let Some(Ok(answer)) = answers.next().await {
                    if !is_current() {
                        return;
                    }
                    let devices = answer.devices.into_iter().map(|device| (device.id, device.health == "Healthy"));
                    self.inventory.lock().offer(&resource, devices.collect());
                    self.changed.notify_one();
                }
            }
            Err(error) => tracing::warn!(resource, %error, "a device plugin does not say what it has"),
        }
        if is_current() {
            tracing::info!(resource, "a device plugin has gone");
            self.plugins.lock().remove(&resource);
            self.inventory.lock().withdraw(&resource, self.clock.now());
            self.changed.notify_one();
        }
    }
}

fn listen(folder: &Path, socket: &Path) -> std::io::Result<UnixListener> {
    std::fs::create_dir_all(folder)?;
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

/// Puts what a plugin says into a container's configuration.
fn add(response: ContainerAllocateResponse, config: &mut ContainerConfig) {
    let mut envs: Vec<_> = response.envs.into_iter().collect();
    envs.sort();
    for (key, value) in envs {
        // What the container sets itself counts more.
        if !config.envs.iter().any(|env| env.key == key) {
            config.envs.push(KeyValue { key, value });
        }
    }
    config.mounts.extend(response.mounts);
    config.devices.extend(response.devices);
    config.annotations.extend(response.annotations);
    config.cdi_devices.extend(response.cdi_devices);
}

struct Registration(Arc<Devices>);

#[async_trait]
impl Handler for Registration {
    async fn call(&self, service: &str, method: &str, message: Bytes) -> CriResult<Reply> {
        match (service, method) {
            ("v1beta1.Registration", "Register") => {
                self.0.register(decode(&message)?)?;
                Ok(Reply::message(&Empty {}))
            }
            _ => Err(CriError::unimplemented(format!("unknown method {method} of service {service}"))),
        }
    }
}
