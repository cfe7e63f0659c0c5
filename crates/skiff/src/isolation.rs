//! Nodes kept apart from the machine: a network, mount, process, host-name and IPC namespace each, held open by a
//! small first process (the keeper), and one link to the host with no route beyond it.
//!
//! The keeper outlives the server, so that containers run on while the server is away; ending the keeper ends all.
//!
//! The nodes of a cluster have links to a switch instead: one more keeper, in whose network a bridge joins them with each
//! other and with the link to the host.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use futures_util::TryStreamExt;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, setsid};
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::paths::{FIRST_SEAT, NodeFacts, Paths, named};
use crate::process::Process;
use crate::relay;

/// Link networks are 198.18.N.0/24: a range that is set aside for tests between devices (RFC 2544), so that it
/// clashes with nothing real.
const LINK_PREFIX: [u8; 2] = [198, 18];
/// How many bits the IPv6 addresses of one link network share.
const LINK_BITS_V6: u8 = 64;
/// The most isolated nodes at a time.
pub const MAX_LINKS: u8 = 250;
/// The last address of a link network that a node can have.
pub const LAST_SEAT: u8 = 126;
/// A keeper that was killed is gone after this long.
const END_LIMIT: Duration = Duration::from_secs(30);
/// The name of the link inside the node.
const INNER_LINK: &str = "eth0";
/// The name of the bridge in a cluster's switch.
const SWITCH: &str = "switch";

/// The addresses of an isolated node's link.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    number: u8,
    seat: u8,
    is_shared: bool,
}

impl Link {
    /// The first place of the link network with this number, 1 to [`MAX_LINKS`].
    pub fn new(number: u8) -> Self {
        Self { number, seat: FIRST_SEAT, is_shared: false }
    }

    /// A place in the network of a cluster.
    pub fn in_cluster(number: u8, seat: u8) -> Self {
        Self { number, seat, is_shared: true }
    }

    /// The node's place.
    pub fn of(facts: &NodeFacts) -> Self {
        Self { number: facts.link, seat: facts.seat, is_shared: facts.switch.is_some() }
    }

    fn address(self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(LINK_PREFIX[0], LINK_PREFIX[1], self.number, last)
    }

    /// The host's end.
    pub fn host(self) -> Ipv4Addr {
        self.address(1)
    }

    /// The node's end: its InternalIP.
    pub fn node(self) -> Ipv4Addr {
        self.address(self.seat)
    }

    /// The node's end in clusters that have IPv6: a local address of the same number and place.
    pub fn node_v6(self) -> Ipv6Addr {
        let [first, second] = LINK_PREFIX;
        let prefix = u16::from_be_bytes([first, second]);
        Ipv6Addr::new(0xfd00, prefix, self.number.into(), 0, 0, 0, 0, self.seat.into())
    }

    /// The end that the host sends everything of this network to: the only node's, or that of a cluster's server.
    fn first(self) -> Ipv4Addr {
        self.address(FIRST_SEAT)
    }

    /// The range that load balancers' addresses come from, and how many of its bits are fixed.
    pub fn load_balancers(self) -> (Ipv4Addr, u8) {
        (self.address(128), 25)
    }

    /// How many bits the addresses on the link share: two ends, or half of the network.
    fn bits(self) -> u8 {
        if self.is_shared { 25 } else { 30 }
    }

    /// The name of the switch's end.
    fn port(self) -> String {
        format!("port{}", self.seat)
    }

    /// The name of the host's end.
    pub fn host_interface(self) -> String {
        format!("skiff-i{}", self.number)
    }
}

/// The namespaces that an isolated node has for itself; the process namespace is entered by children only.
fn namespaces() -> CloneFlags {
    CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWPID
}

/// The keeper of a node that was started before, if it lives.
///
/// # Errors
/// Its file cannot be read.
pub fn keeper_of(paths: &Paths) -> io::Result<Option<Process>> {
    let Some(keeper) = Process::read(&paths.keeper_pid())? else { return Ok(None) };
    // One that is ending has no namespaces any more, but must see all others in its process namespace end first.
    if fs::exists(format!("/proc/{}/ns/net", keeper.pid)).is_ok_and(|exists| exists) {
        return Ok(Some(keeper));
    }
    if keeper.wait_gone(END_LIMIT) {
        return Ok(None);
    }
    Err(io::Error::other(format!("process {} does not end", keeper.pid)))
}

/// Starts the keeper of a node.
///
/// # Errors
/// The kernel refuses the namespaces, or the keeper cannot be started.
pub fn start_keeper(paths: &Paths) -> io::Result<Process> {
    let log = File::options().create(true).append(true).open(paths.log())?;
    // A process of its own makes the namespaces, so that this one stays where it is.
    let status = Command::new(std::env::current_exe()?)
        .arg("keeper-parent")
        .arg(&paths.root)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .status()?;
    let keeper = Process::read(&paths.keeper_pid())?;
    keeper.filter(|_| status.success()).ok_or_else(|| {
        io::Error::other(format!(
            "this kernel or container does not allow new namespaces (keeper: {status}); {} says more",
            paths.log().display()
        ))
    })
}

/// The command `keeper-parent`: makes the namespaces, starts the keeper in them and ends.
///
/// # Errors
/// As [`start_keeper`].
pub fn keeper_parent(root: &std::path::Path) -> io::Result<()> {
    let exe = std::env::current_exe()?;
    // The keeper mounts another /proc over this one, at any moment from its start on.
    let hosts_proc = File::open("/proc")?;
    // Ports that lead into a cluster are in the network that this is started in.
    let outside = if relay::is_wanted(root) { Stdio::from(File::open("/proc/self/ns/net")?) } else { Stdio::null() };
    unshare(namespaces()).map_err(|error| io::Error::other(format!("make namespaces: {error}")))?;
    let child =
        Command::new(exe).arg0(skiff_runtime::memory::KEEPER_NAME).arg("keeper").arg(root).stdin(outside).spawn()?;
    let process = Process::of_in(&hosts_proc, child.id() as i32);
    let process = process.ok_or_else(|| io::Error::other("the keeper ended as soon as it was started"))?;
    process.write(&root.join("run/keeper.pid"))
}

/// The command `keeper`: the first process of the namespace. Gives it a `/proc` of its own and reaps what ends; that of a
/// cluster's switch carries what comes to the cluster's ports.
///
/// # Errors
/// The mounts cannot be made.
pub fn keeper(root: &std::path::Path) -> io::Result<()> {
    let failed = |what: &str, error: nix::Error| io::Error::other(format!("{what}: {error}"));
    setsid().map_err(|error| failed("start a session", error))?;
    let private = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
        .map_err(|error| failed("keep mounts apart", error))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>).map_err(|error| failed("mount /proc", error))?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGHUP);
    signals.thread_block().map_err(|error| failed("block signals", error))?;
    if relay::is_wanted(root) {
        relay::start(root)?;
    }
    loop {
        while let Ok(status) = waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
            if status == WaitStatus::StillAlive {
                break;
            }
        }
        if signals.wait().map_err(|error| failed("wait for signals", error))? == Signal::SIGTERM {
            return Ok(());
        }
    }
}

/// Whose link this is: the folder of the node that made it, as the interface's alias says.
fn is_link_of(paths: &Paths, link: Link) -> bool {
    let alias = fs::read_to_string(alias_file(link)).unwrap_or_default();
    !alias.trim_end().is_empty() && alias.trim_end() == paths.root.display().to_string()
}

fn alias_file(link: Link) -> std::path::PathBuf {
    std::path::Path::new("/sys/class/net").join(link.host_interface()).join("ifalias")
}

/// Makes a node's link, unless it is there: to the host, or to the cluster's switch.
///
/// # Errors
/// Another node has a link of this number (`AlreadyExists`), the switch does not run, or the kernel refuses.
pub async fn ensure_link(paths: &Paths, keeper: Process, facts: &NodeFacts) -> io::Result<()> {
    let link = Link::of(facts);
    match &facts.switch {
        Some(switch) if paths.isolated.as_ref() != Some(switch) => {
            let switch = switch_of(paths, switch)?;
            within(switch, || plug_in(keeper, link)).await
        }
        Some(_) => {
            ensure_host_link(paths, keeper, link).await?;
            within(keeper, make_switch).await
        }
        None => ensure_host_link(paths, keeper, link).await,
    }
}

fn switch_of(paths: &Paths, switch: &str) -> io::Result<Process> {
    keeper_of(&paths.beside(switch))?
        .ok_or_else(|| io::Error::other(format!("the network {switch} does not run; start its cluster")))
}

/// Does something in the network of another process: the sockets that `work` opens at its beginning are of that network.
async fn within<F>(process: Process, work: impl FnOnce() -> F + Send) -> io::Result<()>
where
    F: Future<Output = io::Result<()>> + Send,
{
    let path = format!("/proc/{}/ns/net", process.pid);
    let namespace = File::open(&path).map_err(|error| named(path.as_ref(), "open", error))?;
    // A thread of its own, because a thread that has entered stays.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(io::Error::from)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(work())
        });
        thread.join().map_err(|_| io::Error::other("working in another network panicked"))?
    })
}

type Refusal = rtnetlink::Error;

fn failed(what: &'static str) -> impl Fn(Refusal) -> io::Error {
    move |error| io::Error::other(format!("{what}: {error}"))
}

/// Makes the bridge that joins the cluster's nodes with the link to the host. Runs in the switch.
async fn make_switch() -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    if interface_index(&handle, SWITCH).await.is_none() {
        let made = handle.link().add(LinkBridge::new(SWITCH).build()).execute().await;
        made.map_err(failed("make the switch"))?;
    }
    let bridge = interface_index(&handle, SWITCH).await;
    let bridge = bridge.ok_or_else(|| io::Error::other("the switch vanished"))?;
    let uplink = interface_index(&handle, INNER_LINK).await;
    let uplink = uplink.ok_or_else(|| io::Error::other("the link to the host vanished"))?;
    for link in [LinkUnspec::new_with_index(bridge), LinkUnspec::new_with_index(uplink).controller(bridge)] {
        handle.link().set(link.up().build()).execute().await.map_err(failed("set up the switch"))?;
    }
    driver.abort();
    Ok(())
}

/// Makes the link between the switch and a node. Runs in the switch.
async fn plug_in(keeper: Process, link: Link) -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    let bridge = interface_index(&handle, SWITCH).await;
    let bridge = bridge.ok_or_else(|| io::Error::other("the cluster's network has no switch"))?;
    if interface_index(&handle, &link.port()).await.is_none() {
        make_pair(&handle, &link.port(), keeper).await?;
    }
    let port = interface_index(&handle, &link.port()).await;
    let port = port.ok_or_else(|| io::Error::other("the link to the node vanished"))?;
    let up = LinkUnspec::new_with_index(port).controller(bridge).up().build();
    handle.link().set(up).execute().await.map_err(failed("bring the link up"))?;
    driver.abort();
    Ok(())
}

/// Makes a pair of interfaces, one end here and the other in the node.
async fn make_pair(handle: &rtnetlink::Handle, name: &str, keeper: Process) -> io::Result<()> {
    let unmoved = format!("{name}n");
    let made = handle.link().add(LinkVeth::new(name, &unmoved).build()).execute().await;
    made.map_err(failed("make the link to the node"))?;
    move_in(handle, &unmoved, keeper).await
}

/// Moves an interface into a node, as its end of the link.
async fn move_in(handle: &rtnetlink::Handle, name: &str, keeper: Process) -> io::Result<()> {
    let inner = interface_index(handle, name).await;
    let inner = inner.ok_or_else(|| io::Error::other("the link to the node vanished"))?;
    let netns = format!("/proc/{}/ns/net", keeper.pid);
    let netns = File::open(&netns).map_err(|error| named(netns.as_ref(), "open", error))?;
    let moved =
        LinkUnspec::new_with_index(inner).name(INNER_LINK).setns_by_fd(std::os::fd::AsRawFd::as_raw_fd(&netns)).build();
    handle.link().set(moved).execute().await.map_err(failed("move the link into the node"))
}

/// Makes the link between the host and the keeper's network, unless it is there, and all that belongs to it.
async fn ensure_host_link(paths: &Paths, keeper: Process, link: Link) -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    let name = link.host_interface();
    let unmoved = format!("{name}n");
    let taken = || io::Error::new(io::ErrorKind::AlreadyExists, format!("{name} is another node's link"));
    if let Some(index) = interface_index(&handle, &unmoved).await.filter(|_| is_link_of(paths, link)) {
        // An earlier start was interrupted before it moved the node's end; the pair goes together.
        handle.link().del(index).execute().await.map_err(failed("remove an unfinished link"))?;
    }
    if interface_index(&handle, &name).await.is_some() {
        if !is_link_of(paths, link) {
            return Err(taken());
        }
    } else {
        let request = LinkVeth::new(&name, &unmoved).build();
        match handle.link().add(request).execute().await {
            Err(_) if interface_index(&handle, &name).await.is_some() => return Err(taken()),
            made => made.map_err(failed("make the link to the node"))?,
        }
        let alias = alias_file(link);
        fs::write(&alias, paths.root.display().to_string()).map_err(|error| named(&alias, "write", error))?;
        move_in(&handle, &unmoved, keeper).await?;
    }
    let outer = interface_index(&handle, &name).await;
    let outer = outer.ok_or_else(|| io::Error::other("the link to the node vanished"))?;
    let up = LinkUnspec::new_with_index(outer).up().build();
    handle.link().set(up).execute().await.map_err(failed("bring the link up"))?;
    let address = handle.address().add(outer, link.host().into(), link.bits()).replace();
    address.execute().await.map_err(failed("give the link its address"))?;
    let route =
        RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(link.address(0), 24).gateway(link.first()).build();
    handle.route().add(route).replace().execute().await.map_err(failed("route the node's addresses"))?;
    driver.abort();
    Ok(())
}

/// Gives the node's end of the link its address. Runs inside the node.
///
/// # Errors
/// The kernel refuses.
pub async fn configure_inner_link(link: Link) -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    for name in ["lo", INNER_LINK] {
        let index = interface_index(&handle, name).await;
        let index = index.ok_or_else(|| io::Error::other(format!("the node has no interface {name}")))?;
        let up = LinkUnspec::new_with_index(index).up().build();
        handle.link().set(up).execute().await.map_err(failed("bring an interface up"))?;
        if name == INNER_LINK {
            let address = handle.address().add(index, link.node().into(), link.bits());
            match address.replace().execute().await {
                Ok(()) => {}
                Err(error) => return Err(failed("give the node its address")(error)),
            }
        }
    }
    driver.abort();
    Ok(())
}

/// Gives the node's end of the link its address in IPv6. Runs inside the node.
///
/// # Errors
/// The kernel refuses.
pub async fn add_inner_v6(link: Link) -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    let index = interface_index(&handle, INNER_LINK).await;
    let index = index.ok_or_else(|| io::Error::other(format!("the node has no interface {INNER_LINK}")))?;
    let mut address = handle.address().add(index, link.node_v6().into(), LINK_BITS_V6).replace();
    // Nobody else has it: it is not to be waited for.
    address.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    address.execute().await.map_err(failed("give the node its IPv6 address"))?;
    driver.abort();
    Ok(())
}

/// Takes the node's link away; its routes go with it. A link of this number that another node made stays.
///
/// # Errors
/// The kernel refuses.
pub async fn remove_link(paths: &Paths, facts: &NodeFacts) -> io::Result<()> {
    let link = Link::of(facts);
    match &facts.switch {
        Some(switch) if paths.isolated.as_ref() != Some(switch) => match keeper_of(&paths.beside(switch))? {
            Some(switch) => within(switch, move || async move { remove_interface(&link.port()).await }).await,
            // It went with the switch.
            None => Ok(()),
        },
        _ if is_link_of(paths, link) => remove_interface(&link.host_interface()).await,
        _ => Ok(()),
    }
}

async fn remove_interface(name: &str) -> io::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    if let Some(index) = interface_index(&handle, name).await {
        let removed = handle.link().del(index).execute().await;
        // The kernel removes it by itself once the node's network is gone, and may just have done so.
        if let Err(error) = removed
            && interface_index(&handle, name).await.is_some()
        {
            return Err(io::Error::other(format!("remove the link to the node: {error}")));
        }
    }
    driver.abort();
    Ok(())
}

async fn interface_index(handle: &rtnetlink::Handle, name: &str) -> Option<u32> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    links.try_next().await.ok().flatten().map(|link| link.header.index)
}

/// Starts the rest of the node inside the keeper's namespaces. A server's listener was bound on the host and stays there;
/// the new process finds it as its standard input. The calling thread stays in the namespaces, so nothing else is to be done with it.
///
/// # Errors
/// The namespaces cannot be entered, or the process cannot be started.
pub fn spawn_inside(
    keeper: Process,
    listener: Option<TcpListener>,
    arguments: &[String],
    paths: &Paths,
) -> io::Result<Process> {
    let exe = std::env::current_exe()?;
    let log = File::options().create(true).append(true).open(paths.log())?;
    let open = |name: &str| {
        let path = format!("/proc/{}/ns/{name}", keeper.pid);
        File::open(&path).map_err(|error| named(path.as_ref(), "open", error))
    };
    // All are opened before the first is entered: afterwards /proc is another.
    let spaces = [open("net")?, open("uts")?, open("ipc")?, open("pid")?, open("mnt")?];
    let hosts_proc = File::open("/proc")?;
    let entering = |error| io::Error::other(format!("enter the node's namespaces: {error}"));
    // Nobody enters a mount namespace who shares root and working directory with another thread, and one that was waited for
    // lets go of them a moment after that.
    unshare(CloneFlags::CLONE_FS).map_err(entering)?;
    for space in &spaces {
        setns(space.as_fd(), CloneFlags::empty()).map_err(entering)?;
    }
    let child = Command::new(exe)
        .args(arguments)
        .stdin(listener.map_or_else(Stdio::null, |listener| Stdio::from(OwnedFd::from(listener))))
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    Process::of_in(&hosts_proc, child.id() as i32)
        .ok_or_else(|| io::Error::other("the server ended as soon as it was started"))
}

/// The listener that [`spawn_inside`] handed over.
///
/// # Errors
/// Standard input is no socket.
pub fn inherited_listener() -> io::Result<TcpListener> {
    let listener = TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    listener.local_addr()?;
    Ok(listener)
}

/// The lowest link number that no isolated node of this data folder has and no interface of this machine.
///
/// # Errors
/// A node's facts cannot be read, or all numbers are taken.
pub fn free_link(data_dir: &std::path::Path) -> io::Result<u8> {
    let mut taken = Vec::new();
    for name in list(data_dir)? {
        taken.extend(NodeFacts::load(&Paths::new(data_dir, Some(&name)))?.map(|facts| facts.link));
    }
    let free = |number: &u8| {
        let interface = std::path::Path::new("/sys/class/net").join(Link::new(*number).host_interface());
        !taken.contains(number) && !interface.exists()
    };
    (1..=MAX_LINKS).find(free).ok_or_else(|| io::Error::other(format!("there are {MAX_LINKS} isolated nodes already")))
}

/// The names of the isolated nodes below the data folder.
///
/// # Errors
/// The folder cannot be read.
fn list(data_dir: &std::path::Path) -> io::Result<Vec<String>> {
    let folder = data_dir.join("isolated");
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(named(&folder, "read", error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_do_not_overlap() {
        assert_eq!(Link::new(3).node().to_string(), "198.18.3.2");
        assert_eq!(Link::new(3).node_v6().to_string(), "fd00:c612:3::2");
        assert_eq!(Link::new(3).load_balancers().0.to_string(), "198.18.3.128");
        assert_ne!(Link::new(3).host_interface(), Link::new(4).host_interface());
        let seat = |seat| NodeFacts { link: 3, seat, switch: Some("a".into()), ..NodeFacts::new("n") };
        let (first, last) = (Link::of(&seat(FIRST_SEAT)), Link::of(&seat(LAST_SEAT)));
        assert_eq!((first.node().to_string(), last.node().to_string()), ("198.18.3.2".into(), "198.18.3.126".into()));
        assert_eq!(last.load_balancers(), first.load_balancers(), "they share the rest of the network");
        assert!(Link::new(MAX_LINKS).host_interface().len() < 15, "the kernel allows 15 letters");
    }
}
