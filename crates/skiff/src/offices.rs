//! What only one server of a cluster does: the controllers, the addresses of load balancers, and the scheduler. Where the store is this server's own there
//! is no other; where it is an etcd they are elected.

use std::sync::Arc;

use skiff_apiserver::ApiServer;
use skiff_client::{Election, Informers, Recorder};
use skiff_controllers::ControllerManager;
use skiff_netd::{Balancer, BalancerConfig};
use skiff_scheduler::Scheduler;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::inprocess;
use crate::network;
use crate::node::Setting;
use crate::pki;

/// Where people reach a machine when all else fails; a Service must not take that from them.
const SSH_PORT: u16 = 22;

const SCHEDULER: &str = "kube-scheduler";
const CONTROLLERS: &str = "kube-controller-manager";

/// The controllers and the scheduler, wherever they run.
pub enum Offices {
    /// Here, for as long as the server runs.
    Held { controllers: Controllers, scheduler: skiff_scheduler::Handle },
    /// Where the election says.
    Elected(Vec<JoinHandle<()>>),
}

/// The controllers, and who gives Services of type LoadBalancer their addresses where this machine is a node.
pub struct Controllers {
    controllers: skiff_controllers::Handle,
    _balancer: Option<Balancer>,
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
        move || {
            // Who is not elected any more is to be told nothing, and to hold on to nothing.
            let informers = informers.term();
            Elected { part: run(&setting, &server, &informers), informers }
        }
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
            election.run(lead, Elected::end, ended).await;
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
    Controllers(Controllers),
    Scheduler(skiff_scheduler::Handle),
}

/// One of the two for as long as this server is elected for it.
struct Elected {
    part: Part,
    informers: Informers,
}

impl Elected {
    async fn end(self) {
        match self.part {
            Part::Controllers(held) => held.controllers.shutdown().await,
            Part::Scheduler(scheduler) => drop(scheduler),
        }
        self.informers.end_term();
    }
}

impl Offices {
    /// Ends what runs here; another server may take over at once.
    pub async fn end(self) {
        match self {
            Self::Held { controllers, scheduler } => {
                drop(scheduler);
                controllers.controllers.shutdown().await;
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

fn start_controllers(setting: &Setting, server: &Arc<ApiServer>, informers: &Informers) -> Controllers {
    let authority = setting.authority.clone();
    let config = skiff_controllers::Config {
        signer: Some(Arc::new(move |request| authority.sign(request))),
        subjects: Some(Arc::new(pki::subject_of)),
        root_ca: setting.trust.bundle.clone(),
        asked_for: server.asked_for(),
        job_groups: setting.job_groups,
        node_ranges: setting.machine.facts.node_masks().parts(&setting.machine.facts.ranges()),
        ..Default::default()
    };
    let client = |name: &str| inprocess::controller_client(server, name);
    let (clock, ids) = (setting.machine.clock.clone(), setting.machine.ids.clone());
    Controllers {
        controllers: ControllerManager::start(client, informers, clock, ids, config),
        _balancer: (!setting.options.disable_agent).then(|| start_balancer(setting, server, informers)),
    }
}

/// Gives Services of type LoadBalancer their addresses: of the user's range, of the isolated node's link, or the node's own.
fn start_balancer(setting: &Setting, server: &Arc<ApiServer>, informers: &Informers) -> Balancer {
    let client = inprocess::controller_client(server, "service-controller");
    let recorder = Recorder::start(client.clone(), setting.machine.clock.clone(), "service-controller", "");
    Balancer::start(BalancerConfig {
        informers: informers.clone(),
        client,
        recorder,
        pool: network::balancer_pool(&setting.machine.facts, &setting.options.balancing),
        node_addresses: setting.machine.addresses.clone(),
        reserved_ports: vec![SSH_PORT, setting.api_port, skiff_kubelet::DEFAULT_PORT],
    })
}
