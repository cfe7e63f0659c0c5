//! The command line: what can be typed, and nothing of what it does.

pub mod access;
mod ranges;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::paths::DEFAULT_DATA_DIR;
use crate::ports::Port;

pub use ranges::{BalancerOptions, RangeOptions};

/// How long a node may take to be Ready.
pub const DEFAULT_WAIT_SECONDS: u64 = 60;

/// A complete Kubernetes in one light binary.
#[derive(Debug, Parser)]
#[command(name = "skiff", version, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which node a command is about.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The folder that holds all state
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR, env = "SKIFF_DATA_DIR")]
    pub data_dir: PathBuf,
    /// A node kept apart from the machine: in namespaces of its own, with no route to the outside
    #[arg(long, value_name = "NAME", value_parser = isolated_name)]
    pub isolated: Option<String>,
}

/// Names become parts of interface, cgroup and folder names.
fn isolated_name(name: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 40 || !name.chars().all(legal) || name.starts_with('-') || name.ends_with('-') {
        return Err(
            "a name is 1 to 40 lower-case letters, digits and '-', and starts and ends with a letter or digit".into()
        );
    }
    Ok(name.to_owned())
}

/// What a machine is as a node, whether or not it also has the control plane.
#[derive(Debug, Clone, Default, Args)]
pub struct MachineOptions {
    /// The name of the Node object [default: the host name, or the isolated node's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The address of the node, or one of each family [default: those that outgoing connections have]
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    pub node_ip: Vec<std::net::IpAddr>,
    /// A registry that is reached without TLS, beside those on this machine; can be repeated
    #[arg(long, value_name = "HOST:PORT")]
    pub insecure_registry: Vec<String>,
    /// Mirrors, private authorities and credentials of registries
    /// [default: /etc/skiff/registries.yaml; none for an isolated node]
    #[arg(long, value_name = "FILE")]
    pub private_registry: Option<PathBuf>,
    /// The CRI socket of another container runtime, such as unix:///run/containerd/containerd.sock
    /// [default: the embedded runtime]
    #[arg(long, value_name = "ENDPOINT")]
    pub container_runtime_endpoint: Option<String>,
    /// The folder of CNI network configurations, such as /etc/cni/net.d: the first one makes the pod network, which is the
    /// plugins' business then, as are ways to other nodes [default: the node's own network]
    #[arg(long, value_name = "FOLDER", conflicts_with = "container_runtime_endpoint")]
    pub cni_conf_dir: Option<PathBuf>,
    /// The folders of CNI plugins [default: /opt/cni/bin,/usr/lib/cni]
    #[arg(long, value_name = "FOLDERS", value_delimiter = ',', requires = "cni_conf_dir")]
    pub cni_bin_dir: Vec<PathBuf>,
    /// A KubeletConfiguration for the node: reservations, eviction thresholds, static Pods and the like
    #[arg(long, value_name = "FILE")]
    pub kubelet_config: Option<PathBuf>,
    /// A CredentialProviderConfig: which programs give credentials for which images
    #[arg(long, value_name = "FILE")]
    pub image_credential_provider_config: Option<PathBuf>,
    /// The folder of those programs
    #[arg(long, value_name = "FOLDER")]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    /// A folder or file of static Pods [default: the folder `manifests` of the data folder]
    #[arg(long, value_name = "PATH")]
    pub pod_manifest_path: Option<PathBuf>,
    /// How Pods of other nodes are reached: direct routes to nodes on the same network and VXLAN (UDP port 8472) to others,
    /// or VXLAN always, for networks that carry no packets of addresses that they do not know
    #[arg(long, value_name = "WAY", value_enum, default_value_t = WayBetweenNodes::Auto)]
    pub overlay: WayBetweenNodes,
    /// Features to switch on or off, such as ClusterTrustBundle=true
    #[arg(long, value_name = "NAME=BOOL", value_delimiter = ',', value_parser = skiff_base::gates::parse)]
    pub feature_gates: Vec<(String, bool)>,
}

/// How Pods of other nodes are reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
pub enum WayBetweenNodes {
    /// Routes where nodes share a network, tunnels otherwise.
    #[default]
    Auto,
    /// Tunnels.
    Vxlan,
}

/// How a node is set up; kept from its first start where it concerns stored objects.
#[derive(Debug, Clone, Args)]
pub struct NodeOptions {
    /// What the machine is as a node.
    #[command(flatten)]
    pub machine: MachineOptions,
    /// The cluster's ranges of addresses.
    #[command(flatten)]
    pub ranges: RangeOptions,
    /// The size of a node's part of the IPv4 pod range, in bits that its addresses share; kept from the first start
    /// [default: 24]
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(17..=28))]
    pub node_cidr_mask_size: Option<u8>,
    /// The size of a node's part of the IPv6 pod range; kept from the first start [default: 64]
    #[arg(long, value_name = "BITS", value_parser = clap::value_parser!(u8).range(40..=124))]
    pub node_cidr_mask_size_ipv6: Option<u8>,
    /// The port of the API server [default: 6443, or a free one for an isolated node]
    #[arg(long, value_name = "PORT")]
    pub api_port: Option<u16>,
    /// A further name or address for the API server's certificate; can be repeated
    #[arg(long, value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// Addresses for Services of type LoadBalancer.
    #[command(flatten)]
    pub balancing: BalancerOptions,
    /// Where the cluster's objects are kept.
    #[command(flatten)]
    pub datastore: DatastoreOptions,
    /// A KubeSchedulerConfiguration: profiles with their plugins, weights and settings
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    /// Versions of the API to serve beside the stable ones, such as certificates.k8s.io/v1beta1=true or
    /// certificates.k8s.io/v1beta1/clustertrustbundles=true
    #[arg(long, value_name = "VERSION=BOOL", value_delimiter = ',')]
    pub runtime_config: Vec<String>,
    /// What the API server lets pass.
    #[command(flatten)]
    pub admission: AdmissionOptions,
    /// What the API server writes down of its requests.
    #[command(flatten)]
    pub audit: AuditOptions,
    /// Who may come.
    #[command(flatten)]
    pub access: access::AccessOptions,
    /// Run only the control plane: this machine becomes no node and runs no Pods
    #[arg(long)]
    pub disable_agent: bool,
    /// Do not define the kinds of the Gateway API; those that are defined otherwise are served all the same
    #[arg(long)]
    pub disable_gateway_api: bool,
    /// Seconds to wait for the node to be Ready
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_WAIT_SECONDS)]
    pub wait: u64,
}

impl NodeOptions {
    /// A node that is nothing but this machine.
    pub fn of_machine(machine: MachineOptions) -> Self {
        Self {
            machine,
            ranges: RangeOptions::default(),
            node_cidr_mask_size: None,
            node_cidr_mask_size_ipv6: None,
            api_port: None,
            tls_san: Vec::new(),
            balancing: BalancerOptions::default(),
            datastore: DatastoreOptions::default(),
            scheduler_config: None,
            runtime_config: Vec::new(),
            admission: AdmissionOptions::default(),
            audit: AuditOptions::default(),
            access: access::AccessOptions::default(),
            disable_agent: false,
            disable_gateway_api: false,
            wait: DEFAULT_WAIT_SECONDS,
        }
    }
}

/// Which cluster an agent belongs to; kept from its first start.
#[derive(Debug, Clone, Default, Args)]
pub struct JoinOptions {
    /// A server of the cluster, such as https://10.0.0.1:6443; can be repeated
    #[arg(long, value_name = "URL")]
    pub server: Vec<String>,
    /// The token that skiff token create printed on a server; needed until the node has a certificate
    #[arg(long, value_name = "TOKEN", env = "SKIFF_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
}

/// Which plugins of admission act, and how.
#[derive(Debug, Clone, Default, Args)]
pub struct AdmissionOptions {
    /// Admission plugins to be on beside the usual ones, such as AlwaysPullImages
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Usual admission plugins to be off
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// An AdmissionConfiguration: defaults and exemptions of PodSecurity, limits of events and the like
    #[arg(long, value_name = "FILE")]
    pub admission_control_config_file: Option<PathBuf>,
}

/// What the API server writes down of its requests, and where.
#[derive(Debug, Clone, Default, Args)]
pub struct AuditOptions {
    /// An audit Policy: how much is written down of which requests
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// The file that gets a line for each record; - is the node's own log
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// Days that old audit logs are kept [default: for ever]
    #[arg(long, value_name = "DAYS", requires = "audit_log_path", default_value_t = 0, hide_default_value = true)]
    pub audit_log_maxage: u64,
    /// Old audit logs that are kept [default: all]
    #[arg(long, value_name = "COUNT", requires = "audit_log_path", default_value_t = 0, hide_default_value = true)]
    pub audit_log_maxbackup: usize,
    /// Megabytes after which the audit log is put aside
    #[arg(long, value_name = "MB", requires = "audit_log_path", default_value_t = 100)]
    pub audit_log_maxsize: u64,
    /// A kubeconfig of the program that gets the records in batches
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_webhook_config_file: Option<PathBuf>,
}

/// Where the cluster's objects are kept, when not in the data folder; kept from the first start.
#[derive(Debug, Clone, Default, Args)]
pub struct DatastoreOptions {
    /// The etcd cluster that keeps the objects, such as http://a:2379,http://b:2379 [default: the data folder]
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub datastore_endpoint: Vec<String>,
    /// The authorities of etcd's certificates (PEM) [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "datastore_endpoint")]
    pub datastore_cafile: Option<PathBuf>,
    /// The certificate to show to etcd (PEM)
    #[arg(long, value_name = "FILE", requires = "datastore_keyfile")]
    pub datastore_certfile: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "datastore_certfile")]
    pub datastore_keyfile: Option<PathBuf>,
    /// What the cluster's keys in etcd begin with [default: /registry]
    #[arg(long, value_name = "PREFIX", requires = "datastore_endpoint")]
    pub etcd_prefix: Option<String>,
    /// A secret of the cluster's servers, 16 characters or more: those that have the same one find the cluster's keys in
    /// that etcd, encrypted by it, and need no copies of each other's files
    #[arg(long, value_name = "SECRET", env = "SKIFF_SERVER_TOKEN", hide_env_values = true)]
    pub server_token: Option<String>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start the node, control plane and all, and wait until it is Ready
    Up {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        node: NodeOptions,
    },
    /// Stop the node and its containers; its state stays
    Down(Target),
    /// Stop the node and remove everything it left on this machine
    Delete(Target),
    /// Show processes, memory and readiness
    Status {
        #[command(flatten)]
        target: Target,
        /// The form of the answer
        #[arg(short, long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// Print the administrator's kubeconfig
    Kubeconfig(Target),
    /// Work with the node's images
    Image {
        /// What to do.
        #[command(subcommand)]
        command: ImageCommand,
    },
    /// Save the whole cluster in a file, or make it anew from one
    Snapshot {
        /// What to do.
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Simulate nodes in any cluster: they take Pods, say that they run, and run nothing
    ///
    /// A Pod may say more in its annotations: sim.skiff.io/start-delay and sim.skiff.io/stop-delay (a time such as 5s),
    /// sim.skiff.io/complete-after (so long after it became ready its containers end) and sim.skiff.io/exit-code (with
    /// which code; 0 makes it Succeeded). The nodes stay when this command ends, and are NotReady soon; kubectl delete
    /// nodes -l skiff.io/simulated removes them.
    SimNodes(SimNodesOptions),
    /// Show what this machine lacks, and how to get it
    Check,
    /// Print what the server says
    Logs {
        #[command(flatten)]
        target: Target,
        /// Go on printing as more is said
        #[arg(short, long)]
        follow: bool,
    },
    /// Run a server in the foreground: the control plane, and this machine as a node of its cluster
    Server {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        node: NodeOptions,
        /// This process stands inside the isolated node already
        #[arg(long, hide = true)]
        inside: bool,
    },
    /// Run this machine as a node of another machine's cluster, in the foreground
    ///
    /// The token is made on a server by skiff token create. An agent that was started once needs neither --server nor
    /// --token any more, and skiff up starts it in the background.
    Agent {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        join: JoinOptions,
        #[command(flatten)]
        machine: MachineOptions,
        /// This process stands inside the isolated node already
        #[arg(long, hide = true)]
        inside: bool,
    },
    /// Clusters of several nodes on this machine, each a world of its own with no way to the outside
    Cluster {
        /// What to do.
        #[command(subcommand)]
        command: ClusterCommand,
    },
    /// Exchange the cluster's authority, or the key of its tokens (`skiff status` lists certificates)
    Certificate {
        /// What to do.
        #[command(subcommand)]
        command: CertificateCommand,
    },
    /// Make and list the tokens by which machines join the cluster
    Token {
        /// What to do.
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Make an isolated node's namespaces and start its keeper in them
    #[command(hide = true)]
    KeeperParent { root: PathBuf },
    /// Hold an isolated node's namespaces open
    #[command(hide = true)]
    Keeper { root: PathBuf },
}

/// The form of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What simulated nodes are like.
#[derive(Debug, Clone, Args)]
pub struct SimNodesOptions {
    /// How many nodes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub nodes: u32,
    /// The cluster and who to be in it [default: as kubectl]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// What the names begin with; a number follows
    #[arg(long, value_name = "PREFIX", default_value = "sim")]
    pub prefix: String,
    /// Zones, which the nodes are in by turns
    #[arg(long, value_name = "ZONE", value_delimiter = ',')]
    pub zones: Vec<String>,
    /// A label of all nodes; can be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub label: Vec<(String, String)>,
    /// A taint of all nodes; can be repeated
    #[arg(long, value_name = "KEY[=VALUE]:EFFECT")]
    pub taint: Vec<skiff_simnodes::Taint>,
    /// What each node has, such as cpu=64 or example.com/gpu=8; can be repeated
    /// [default: cpu=32, memory=256Gi, ephemeral-storage=1Ti]
    #[arg(long, value_name = "NAME=QUANTITY", value_parser = key_value)]
    pub capacity: Vec<(String, String)>,
    /// How many Pods each node takes
    #[arg(long, value_name = "N", default_value_t = 110)]
    pub pods: u32,
    /// Where Pods' addresses come from; nothing answers at them
    #[arg(long, value_name = "NETWORK", default_value = "100.64.0.0/10")]
    pub pod_cidr: skiff_simnodes::Network,
    /// How long Pods take to be ready: 200ms, or 1s..5s by chance
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub start_delay: skiff_simnodes::Delay,
    /// How long Pods take to end; their grace period is the limit
    #[arg(long, value_name = "TIME", default_value = "0s")]
    pub stop_delay: skiff_simnodes::Delay,
    /// Connections to the API server
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..))]
    pub connections: u8,
    /// Requests under way at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub in_flight: u16,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| format!("{text:?} is not KEY=VALUE"))
}

/// What can be done with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Write all objects, at one moment, and the cluster's keys; the node may run
    Save {
        #[command(flatten)]
        target: Target,
        /// The file, which must be kept as secret as the cluster
        file: PathBuf,
    },
    /// Make the node's cluster what it was; the node must not run
    Restore {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        datastore: DatastoreOptions,
        /// The file
        file: PathBuf,
    },
}

/// Which cluster a command is about.
#[derive(Debug, Clone, Args)]
pub struct ClusterTarget {
    /// The cluster
    #[arg(value_parser = isolated_name)]
    pub name: String,
    /// The folder that holds all state
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR, env = "SKIFF_DATA_DIR")]
    pub data_dir: PathBuf,
}

/// How a cluster is made.
#[derive(Debug, Clone, Args)]
pub struct ClusterOptions {
    /// Its name, and where it is kept.
    #[command(flatten)]
    pub cluster: ClusterTarget,
    /// How many servers: one, whose objects are in its own folder, or several that share an etcd
    ///
    /// Several (3, 5 or 7) run a member of an etcd each, of the program that this machine has (Debian: etcd-server),
    /// unless --datastore-endpoint names another. Nodes reach one on this machine as host.skiff.internal (as in
    /// http://host.skiff.internal:2379); it must listen on all of the machine's addresses.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=7))]
    pub servers: u8,
    /// An etcd that the user names.
    #[command(flatten)]
    pub datastore: DatastoreOptions,
    /// How many nodes beside the servers
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=100))]
    pub agents: u8,
    /// The cluster's ranges of addresses.
    #[command(flatten)]
    pub ranges: RangeOptions,
    /// Addresses for Services of type LoadBalancer.
    #[command(flatten)]
    pub balancing: BalancerOptions,
    /// A KubeletConfiguration for all nodes
    #[arg(long, value_name = "FILE")]
    pub kubelet_config: Option<PathBuf>,
    /// How Pods of other nodes are reached
    #[arg(long, value_name = "WAY", value_enum, default_value_t = WayBetweenNodes::Auto)]
    pub overlay: WayBetweenNodes,
    /// Features of all nodes to switch on or off, such as ClusterTrustBundle=true
    #[arg(long, value_name = "NAME=BOOL", value_delimiter = ',', value_parser = skiff_base::gates::parse)]
    pub feature_gates: Vec<(String, bool)>,
    /// Versions of the API to serve beside the stable ones, such as certificates.k8s.io/v1beta1=true
    #[arg(long, value_name = "VERSION=BOOL", value_delimiter = ',')]
    pub runtime_config: Vec<String>,
    /// A port of this machine that leads to one of the nodes; can be repeated
    ///
    /// Such as 8080:80@loadbalancer (all nodes that serve the port, in turn), 127.0.0.1:5353:30053/udp@agent:0 or
    /// 8443:443@server:0. Without an address it is on all of the machine's; without the machine's port a free one is
    /// taken, which skiff cluster list shows.
    #[arg(short, long, value_name = "[[ADDRESS:][HOST]:]NODE[/PROTOCOL][@NODES]")]
    pub port: Vec<Port>,
    /// Seconds to wait for the nodes to be Ready
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_WAIT_SECONDS)]
    pub wait: u64,
}

/// What can be done with clusters.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Make a cluster and wait until all its nodes are Ready
    Create(Box<ClusterOptions>),
    /// List the clusters
    #[command(visible_alias = "ls")]
    List {
        /// The folder that holds all state
        #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR, env = "SKIFF_DATA_DIR")]
        data_dir: PathBuf,
    },
    /// Start a cluster that was stopped
    Start(ClusterTarget),
    /// Stop a cluster and its containers; its state stays
    Stop(ClusterTarget),
    /// Stop a cluster and remove everything of it
    Delete(ClusterTarget),
    /// Print the administrator's kubeconfig
    Kubeconfig(ClusterTarget),
    /// Import an image into all nodes: a tar made by docker save, or of the OCI layout
    Import {
        #[command(flatten)]
        cluster: ClusterTarget,
        /// The file
        file: PathBuf,
    },
    /// Add and remove nodes
    Node {
        /// What to do.
        #[command(subcommand)]
        command: ClusterNodeCommand,
    },
}

/// What can be done with the nodes of a cluster.
#[derive(Debug, Subcommand)]
pub enum ClusterNodeCommand {
    /// Add a node and wait until it is Ready
    Add(ClusterTarget),
    /// Remove a node; its Pods are replaced
    Remove {
        #[command(flatten)]
        cluster: ClusterTarget,
        /// The node, such as demo-agent-1
        node: String,
    },
}

/// What the cluster's trust rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Foundation {
    /// The authority that signs certificates
    Ca,
    /// The key that signs service-account tokens
    ServiceAccountKey,
}

/// What can be done with what the cluster's trust rests on.
#[derive(Debug, Subcommand)]
pub enum CertificateCommand {
    /// Put a new one into the place of the one in use, which is believed still
    Rotate {
        #[command(flatten)]
        target: Target,
        /// Of what
        of: Foundation,
    },
    /// Do not believe former ones any more
    Forget {
        #[command(flatten)]
        target: Target,
        /// Of what
        of: Foundation,
    },
    /// Have the running server go by what was put into its pki folder, or an agent by what its cluster says
    Reload(Target),
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it
    Create {
        #[command(flatten)]
        target: Target,
        /// How long the token is good, such as 30m or 24h; 0 for ever
        #[arg(long, value_name = "TIME", default_value = "24h")]
        ttl: Ttl,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
    },
    /// List the tokens
    #[command(visible_alias = "ls")]
    List(Target),
    /// Delete a token: nobody can join by it any more
    #[command(visible_alias = "rm")]
    Delete {
        #[command(flatten)]
        target: Target,
        /// The token, or its id
        token: String,
    },
    /// Put another secret of the cluster's servers (--server-token) into the place of the one in use, on a server that
    /// runs. The other servers are to be started with it
    Rotate {
        #[command(flatten)]
        target: Target,
        /// The new secret, 16 characters or more
        #[arg(long, value_name = "SECRET", env = "SKIFF_NEW_SERVER_TOKEN", hide_env_values = true)]
        new_server_token: String,
    },
}

/// How long a token is good; zero is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl(pub std::time::Duration);

impl std::str::FromStr for Ttl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let split = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(split);
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 24 * 3600,
            "" if number == "0" => 0,
            _ => return Err(format!("{text:?} is not a time such as 30m or 24h")),
        };
        let number: u64 = number.parse().map_err(|_| format!("{text:?} is not a time such as 30m or 24h"))?;
        Ok(Self(std::time::Duration::from_secs(number.saturating_mul(seconds))))
    }
}

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import a tar made by docker save, or of the OCI layout
    Import {
        #[command(flatten)]
        target: Target,
        /// The file
        file: PathBuf,
    },
    /// Pull an image from its registry
    Pull {
        #[command(flatten)]
        target: Target,
        /// The image, such as localhost:5000/hello:v1
        image: String,
    },
    /// Write images to a tar of the OCI layout
    Save {
        #[command(flatten)]
        target: Target,
        /// The images, such as localhost:5000/hello:v1
        #[arg(required = true)]
        images: Vec<String>,
        /// The file to write
        #[arg(short, long)]
        output: PathBuf,
    },
    /// Push an image to the registry of its name
    Push {
        #[command(flatten)]
        target: Target,
        /// The image, such as localhost:5000/hello:v1
        image: String,
    },
    /// List the images
    #[command(visible_alias = "ls")]
    List(Target),
    /// Remove an image
    Rm {
        #[command(flatten)]
        target: Target,
        /// The image, by name or digest
        image: String,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_units() {
        let seconds = |text: &str| text.parse::<Ttl>().map(|ttl| ttl.0.as_secs()).ok();
        assert_eq!(["0", "90s", "30m", "24h", "2d"].map(seconds), [0, 90, 1800, 86400, 172_800].map(Some));
        assert_eq!(["", "h", "5", "-1h", "1w"].map(seconds), [None; 5]);
    }

    #[test]
    fn names_that_no_interface_could_have_are_refused() {
        assert!(isolated_name("demo-1").is_ok());
        for bad in ["", "Demo", "-a", "a/b", &"x".repeat(41)] {
            assert!(isolated_name(bad).is_err(), "{bad}");
        }
    }
}
