//! Ids of the node for Pods that have users of their own: each such Pod gets a range that no other has, remembered in its folder.
//! See <https://kubernetes.io/docs/concepts/workloads/pods/user-namespaces/>.

use std::collections::BTreeMap;
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_cri::{ContainerConfig, IdMapping, NamespaceMode, NamespaceOption, PodSandboxConfig, UserNamespace};

use crate::config::paths::Paths;
use crate::config::uid;
use crate::pod::spec::spec;

/// The ids of each Pod, and where the first range begins: the node's own users are below.
const RANGE: u32 = 65_536;
/// The file in a Pod's folder, in upstream's form.
const FILE: &str = "userns";

/// The first range that nobody has.
fn choose(taken: &BTreeMap<String, u32>) -> Option<u32> {
    (1..u32::MAX / RANGE).map(|number| number * RANGE).find(|base| taken.values().all(|other| other != base))
}

/// Who has which range.
#[derive(Default)]
pub struct Ranges(Mutex<BTreeMap<String, u32>>);

impl Ranges {
    /// With what the Pods' folders remember.
    pub fn load(paths: &Paths) -> Self {
        let mut taken = BTreeMap::new();
        for entry in std::fs::read_dir(paths.pods()).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            taken.extend(read(&entry.path().join(FILE)).map(|base| (uid, base)));
        }
        Self(Mutex::new(taken))
    }

    /// The first id of a Pod's range; none for a Pod that has the node's users.
    ///
    /// # Errors
    /// No range is left, or it cannot be remembered.
    pub fn of(&self, pod: &Pod, paths: &Paths) -> Result<Option<u32>, String> {
        if spec(pod).host_users != Some(false) {
            return Ok(None);
        }
        let mut taken = self.0.lock();
        if let Some(base) = taken.get(uid(pod)) {
            return Ok(Some(*base));
        }
        let base = choose(&taken).ok_or("no range of user ids is left on this node")?;
        let mapping = json!([{"hostId": base, "containerId": 0, "length": RANGE}]);
        let text = json!({"uidMappings": mapping, "gidMappings": mapping}).to_string();
        let folder = paths.pod(uid(pod));
        std::fs::create_dir_all(&folder)
            .and_then(|()| std::fs::write(folder.join(FILE), text))
            .map_err(|error| format!("cannot remember the range of user ids: {error}"))?;
        taken.insert(uid(pod).to_owned(), base);
        Ok(Some(base))
    }

    /// Takes a Pod's range back.
    pub fn release(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

fn read(file: &Path) -> Option<u32> {
    let value: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    u32::try_from(value["uidMappings"][0]["hostId"].as_u64()?).ok()
}

fn mapping(base: u32) -> Vec<IdMapping> {
    vec![IdMapping { host_id: base, container_id: 0, length: RANGE }]
}

fn set(options: Option<&mut NamespaceOption>, base: u32) {
    if let Some(options) = options {
        let mode = NamespaceMode::Pod as i32;
        options.userns_options = Some(UserNamespace { mode, uids: mapping(base), gids: mapping(base) });
    }
}

/// Gives a sandbox users of its own.
pub fn sandbox(config: &mut PodSandboxConfig, base: u32) {
    let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    set(security.and_then(|security| security.namespace_options.as_mut()), base);
}

/// Gives a container the users of its sandbox, and lets it see its volumes as those. Images are mapped by the runtime, and
/// the agent's own files are for everybody.
pub fn container(config: &mut ContainerConfig, base: u32, volumes: usize) {
    let security = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    set(security.and_then(|security| security.namespace_options.as_mut()), base);
    for mount in config.mounts.iter_mut().take(volumes).filter(|mount| mount.image.is_none()) {
        mount.uid_mappings = mapping(base);
        mount.gid_mappings = mapping(base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_has_a_range_of_its_own_also_after_a_restart() {
        let root = std::env::temp_dir().join(format!("skiff-userns-{}", skiff_base::ids::Ids::random().suffix(10)));
        let paths = Paths { root: root.clone(), logs: root.clone() };
        let pod = |uid: &str, own: bool| -> Pod {
            let yaml = format!("{{metadata: {{uid: {uid}}}, spec: {{hostUsers: {}, containers: []}}}}", !own);
            serde_saphyr::from_str(&yaml).expect("a valid Pod")
        };
        let ranges = Ranges::load(&paths);
        assert_eq!(ranges.of(&pod("host", false), &paths), Ok(None));
        assert_eq!(ranges.of(&pod("a", true), &paths), Ok(Some(65_536)));
        assert_eq!(ranges.of(&pod("b", true), &paths), Ok(Some(131_072)));
        let ranges = Ranges::load(&paths);
        assert_eq!(ranges.of(&pod("b", true), &paths), Ok(Some(131_072)));
        ranges.release("a");
        assert_eq!(ranges.of(&pod("c", true), &paths), Ok(Some(65_536)));
        std::fs::remove_dir_all(&root).expect("the test's own folder");
    }
}
