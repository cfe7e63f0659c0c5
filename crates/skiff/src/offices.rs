//! What only one server of a cluster does: the controllers and the scheduler. Where the store is this server's own there
//! is no other; where it is an etcd they are elected.

use std::sync::Arc;

use skiff_apiserver::ApiServer;
use skiff_client::{Election, Informers};
use skiff_controllers::ControllerManager;
use skiff_scheduler::Scheduler;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::inprocess;
use crate::network::POD_RANGE;
use crate::node::Setting;
use crate::pki;

const SCHEDULER: &str = "kube-scheduler";
const CONTROLLERS: &str = "kube-controller-manager";

/// The controllers and the scheduler, wherever they run.
pub enum Offices {
    /// Here, for as long as the server runs.
    Held { controllers: skiff_controllers::Handle, scheduler: skiff_scheduler::Handle },
    /// Where the election says.
    Elected(Vec<JoinHandle<()>>),
}

/// Starts both, or stands for them until `stop` says so.
pub fn take(
    setting: &Arc<Setting>,
    server: &Arc<ApiServer>,
    informers: &Informers,
    stop: &watch::Sender<bool>,
) -> Offices {
    let part = |run: fn(&Setting, &Arc<ApiServer>, &Informers) -> Part| {
        let (setting, server, informers) = (setting.clone(), server.clone(), informers.clone());
        move || run(&setting, &server, &informers)
    };
    if setting.machine.facts.datastore.is_none() {
        return Offices::Held {
            controllers: start_controllers(setting, server, informers),
            scheduler: start_scheduler(setting, server, informers),
        };
    }
    let manager = inprocess::client(server, "system:kube-controller-manager", &[], CONTROLLERS);
    let scheduler = inprocess::client(server, "system:kube-scheduler", &[], SCHEDULER);
    let stand = |client, lease, lead| {
        let identity = format!("{}_{}", setting.machine.facts.node_name, setting.machine.ids.uid());
        let election = Election { client, lease, identity, clock: setting.machine.clock.clone() };
        let mut stop = stop.subscribe();
        tokio::spawn(async move {
            // The sender's end is an end too.
            let ended = async move { stop.wait_for(|stop| *stop).await.map(drop).unwrap_or_default() };
            election.run(lead, Part::end, ended).await;
        })
    };
    Offices::Elected(vec![
        stand(
            manager,
            CONTROLLERS,
            part(|setting, server, informers| Part::Controllers(start_controllers(setting, server, informers))),
        ),
        stand(
            scheduler,
            SCHEDULER,
            part(|setting, server, informers| Part::Scheduler(start_scheduler(setting, server, informers))),
        ),
    ])
}

/// One of the two, running.
enum Part {
    Controllers(skiff_controllers::Handle),
    Scheduler(skiff_scheduler::Handle),
}

impl Part {
    async fn end(self) {
        match self {
            Self::Controllers(controllers) => controllers.shutdown().await,
            Self::Scheduler(scheduler) => drop(scheduler),
        }
    }
}

impl Offices {
    /// Ends what runs here; another server may take over at once.
    pub async fn end(self) {
        match self {
            Self::Held { controllers, scheduler } => {
                drop(scheduler);
                controllers.shutdown().await;
            }
            Self::Elected(tasks) => {
                for task in tasks {
                    if let Err(error) = task.await {
                        tracing::error!(%error, "a part ended badly");
                    }
                }
            }
        }
    }
}

fn start_scheduler(setting: &Setting, server: &Arc<ApiServer>, informers: &Informers) -> skiff_scheduler::Handle {
    let client = inprocess::client(server, "system:kube-scheduler", &[], SCHEDULER);
    Scheduler::start(client, informers, setting.machine.clock.clone(), setting.scheduler.clone())
}

fn start_controllers(setting: &Setting, server: &Arc<ApiServer>, informers: &Informers) -> skiff_controllers::Handle {
    let authority = setting.authority.clone();
    let config = skiff_controllers::Config {
        signer: Some(Arc::new(move |request| authority.sign(request))),
        subjects: Some(Arc::new(pki::subject_of)),
        root_ca: setting.authority.certificate_pem().to_owned(),
        node_cidr_mask_size: setting.machine.facts.node_mask,
        cluster_cidr: format!("{}/{}", POD_RANGE.0, POD_RANGE.1),
        ..Default::default()
    };
    let client = |name: &str| inprocess::controller_client(server, name);
    ControllerManager::start(client, informers, setting.machine.clock.clone(), setting.machine.ids.clone(), config)
}
