//! What a node leaves on the machine beside its folder: processes, cgroups, mounts, interfaces, rules, logs, settings.
//! All of it is found from outside, so that it can be ended and removed also when the server was killed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use skiff_netd::{Announcer, Netd, Overlay, PodNetwork};
use skiff_runtime::leftovers;

use crate::commands::CommandError;
use crate::network;
use crate::paths::{NodeFacts, Paths, named, remove_file};

/// The cgroup that the node agent makes for Pods, below the node's cgroup parent.
const PODS_CGROUP: &str = "/kubepods";

/// Holds the data folder of the machine's own node.
const OWNER_FILE: &str = "/run/skiff/owner";

/// Says that the machine's network belongs to the node of this data folder from now on: a machine has one bridge and one
/// set of rules. Gone with a reboot, as these are.
///
/// # Errors
/// The node of another data folder has it.
pub fn claim_machine(paths: &Paths) -> Result<(), CommandError> {
    if paths.isolated.is_some() {
        return Ok(());
    }
    if let Some(other) = other_owner(paths)? {
        let other = other.display();
        return Err(format!(
            "this machine's node is the one in {other}: end it first (skiff delete --data-dir {other})"
        )
        .into());
    }
    let file = Path::new(OWNER_FILE);
    let folder = file.parent().unwrap_or(file);
    fs::create_dir_all(folder).map_err(|error| named(folder, "create folder", error))?;
    let text = fs::canonicalize(&paths.root)?.display().to_string();
    Ok(fs::write(file, text).map_err(|error| named(file, "write", error))?)
}

/// The data folder that has the machine's network, if it is another and still there.
fn other_owner(paths: &Paths) -> io::Result<Option<PathBuf>> {
    let owner = match fs::read_to_string(OWNER_FILE) {
        Ok(owner) => PathBuf::from(owner),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(named(Path::new(OWNER_FILE), "read", error)),
    };
    let same = fs::canonicalize(&paths.root).is_ok_and(|root| root == owner);
    Ok((!same && NodeFacts::load(&Paths::new(&owner, None))?.is_some()).then_some(owner))
}

/// Ends what a server that was killed left running; says whether there was anything. The server and, in isolation,
/// the keeper must be gone already.
///
/// # Errors
/// Something does not end.
pub fn end_processes(paths: &Paths) -> Result<bool, CommandError> {
    if NodeFacts::load(paths)?.is_none() {
        // It never ran; what is there under its name is another's, of another data folder.
        return Ok(false);
    }
    if paths.isolated.is_none() && other_owner(paths)?.is_none() {
        Announcer::clean_up()?;
    }
    let ran = leftovers::end_everything(&paths.runtime(), &paths.volatile())?;
    if let Some(name) = &paths.isolated {
        // With the keeper all of its processes ended, and all of its mounts went; only names are left.
        let cgroup = paths.cgroup_parent();
        if leftovers::is_cgroup_in_use(&cgroup)? {
            return Err(format!("another node is called {name}: there are processes in the cgroup {cgroup}").into());
        }
        leftovers::remove_cgroup(&cgroup)?;
        remove_folder(&paths.volatile())?;
    }
    Ok(ran)
}

/// Removes what the node left on the machine beside its folder, and makes sure that nothing is mounted in that.
///
/// # Errors
/// Something cannot be removed.
pub fn remove_everything(paths: &Paths) -> Result<(), CommandError> {
    let Some(facts) = NodeFacts::load(paths)? else { return Ok(()) };
    if paths.isolated.is_none() && other_owner(paths)?.is_none() {
        Netd::clean_up()?;
        Overlay::clean_up()?;
        PodNetwork::clean_up_everything(&network::pod_network_config(paths, &facts)?)?;
        leftovers::remove_cgroup(&paths.runtime_cgroup())?;
        leftovers::remove_empty_cgroups(PODS_CGROUP)?;
        remove_logs(paths)?;
        skiff_kubelet::forget_shutdown_delay()?;
        for file in [Path::new(OWNER_FILE), &paths.cri_socket(), &crate::runtime::network_file()] {
            remove_file(file)?;
        }
    }
    let sandboxes = leftovers::sandbox_ids(&paths.runtime());
    let volatile: Vec<PathBuf> = sandboxes.iter().map(|id| paths.volatile().join(id)).collect();
    // What is mounted there may be the user's own files: they must be out of the way before anything is removed.
    unmount_below(&volatile)?;
    unmount_below(&[paths.kubelet(), paths.runtime(), paths.network()])?;
    volatile.iter().try_for_each(|folder| remove_folder(folder))?;
    remove_if_empty(&paths.volatile())?;
    if let (None, Some(parent)) = (&paths.isolated, Path::new(OWNER_FILE).parent()) {
        remove_if_empty(parent)?;
    }
    Ok(())
}

/// The logs of the node's Pods where the machine has its logs: the folders whose name ends with a Pod's id, and the
/// links that led there.
fn remove_logs(paths: &Paths) -> io::Result<()> {
    let logs = paths.container_logs();
    let uids = names(&paths.kubelet().join("pods"))?;
    for folder in names(&logs.join("pods"))? {
        if uids.iter().any(|uid| folder.strip_suffix(uid.as_str()).is_some_and(|rest| rest.ends_with('_'))) {
            remove_folder(&logs.join("pods").join(folder))?;
        }
    }
    for link in names(&logs.join("containers"))? {
        let link = logs.join("containers").join(link);
        let is_dangling = fs::read_link(&link).is_ok_and(|target| target.starts_with(logs.join("pods")))
            && !link.try_exists().unwrap_or(true);
        if is_dangling {
            fs::remove_file(&link).map_err(|error| named(&link, "remove", error))?;
        }
    }
    remove_if_empty(&logs.join("pods"))?;
    remove_if_empty(&logs.join("containers"))
}

/// Removes a folder that nobody else has anything in, nor mounted anything on.
fn remove_if_empty(folder: &Path) -> io::Result<()> {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound, ResourceBusy};
    match fs::remove_dir(folder) {
        Err(error) if ![NotFound, DirectoryNotEmpty, ResourceBusy].contains(&error.kind()) => {
            Err(named(folder, "remove", error))
        }
        _ => Ok(()),
    }
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()
            .map_err(|error| named(folder, "read", error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(named(folder, "read", error)),
    }
}

/// Removes a folder and all that is in it; one that is not there is fine. One that something is mounted on is emptied.
///
/// # Errors
/// Something cannot be removed.
pub fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy && names(folder)?.is_empty() => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(named(folder, "remove", error)),
        _ => Ok(()),
    }
}

/// Unmounts everything that is mounted at or below the folders.
fn unmount_below(folders: &[PathBuf]) -> io::Result<()> {
    let mounted = || Ok::<_, io::Error>(mounts_below(&fs::read_to_string("/proc/self/mountinfo")?, folders));
    for target in mounted()?.iter().rev() {
        umount2(target, MntFlags::MNT_DETACH).map_err(|error| named(target, "unmount", error.into()))?;
    }
    match mounted()?.first() {
        Some(left) => Err(io::Error::other(format!("{} is still mounted", left.display()))),
        None => Ok(()),
    }
}

/// The mount points of a process's mountinfo that are at or below the folders, the earliest first.
fn mounts_below(mountinfo: &str, folders: &[PathBuf]) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    points.filter(|point| folders.iter().any(|folder| point.starts_with(folder))).collect()
}

/// The kernel writes the four letters that would break a line's fields as a backslash and their octal number.
fn unescape(text: &str) -> PathBuf {
    let mut path = text.to_owned();
    for (escape, letter) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        path = path.replace(escape, letter);
    }
    path.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(points: &[&str], expected: &[&str]) {
        let lines: Vec<_> = points.iter().map(|point| format!("1 2 0:3 / {point} rw - tmpfs tmpfs rw")).collect();
        let found = mounts_below(&lines.join("\n"), &["/d/kubelet".into(), "/run/skiff/node".into()]);
        assert_eq!(found, expected.iter().map(PathBuf::from).collect::<Vec<_>>());
    }

    #[test]
    fn only_mounts_of_the_node_are_its_own() {
        check(&["/", "/d", "/d/images", "/d/kubelet2"], &[]);
        check(&["/d/kubelet/a", "/proc", "/run/skiff/node/b/shm"], &["/d/kubelet/a", "/run/skiff/node/b/shm"]);
        check(
            &["/d/kubelet/with\\040space", "/d/kubelet/back\\134slash"],
            &["/d/kubelet/with space", "/d/kubelet/back\\slash"],
        );
    }
}
