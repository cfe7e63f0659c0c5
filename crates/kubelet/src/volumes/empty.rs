//! What an `emptyDir` lies on, and how large it may be: pure.
//! See <https://kubernetes.io/docs/concepts/storage/volumes/#emptydir>.

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use skiff_base::Quantity;

use crate::config::{NodeFacts, resources};
use crate::pod::spec::{quantity, spec};

/// The names of huge pages of one size begin so: of the medium, and of the resource.
const MEDIUM_PREFIX: &str = "HugePages-";
const RESOURCE_PREFIX: &str = "hugepages-";

/// What an empty folder lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Medium {
    /// The node's disk.
    Disk,
    /// Memory, as much as this.
    Memory {
        /// Without it the kernel decides.
        size_bytes: Option<u64>,
    },
    /// Huge pages of this size.
    HugePages {
        /// The size of one.
        page_bytes: u64,
    },
}

/// The medium of a volume.
///
/// # Errors
/// There is no such medium, or the Pod has no pages of that kind.
pub(super) fn medium(pod: &Pod, source: Option<&EmptyDirVolumeSource>, node: &NodeFacts) -> Result<Medium, String> {
    let name = source.and_then(|source| source.medium.as_deref()).unwrap_or("");
    match name {
        "" => Ok(Medium::Disk),
        "Memory" => Ok(Medium::Memory { size_bytes: memory_bytes(pod, source, node) }),
        "HugePages" => page_bytes(pod, None),
        _ => match name.strip_prefix(MEDIUM_PREFIX).map(str::parse::<Quantity>) {
            Some(Ok(size)) => page_bytes(pod, Some(size)),
            _ => Err(format!("unknown storage medium {name:?}")),
        },
    }
}

/// The least of what the volume, the Pod and the node say.
fn memory_bytes(pod: &Pod, source: Option<&EmptyDirVolumeSource>, node: &NodeFacts) -> Option<u64> {
    let asked = source.and_then(|source| source.size_limit.as_ref()).map(|limit| quantity(limit).value());
    let of_pod = resources::pod(pod).memory_limit_in_bytes;
    let of_node = node.allocatable.get("memory").map(|amount| amount.value());
    let bounds = asked.into_iter().chain([of_pod]).chain(of_node).filter(|bytes| *bytes > 0);
    bounds.min().and_then(|bytes| u64::try_from(bytes).ok())
}

/// The pages that the Pod's containers ask for: of that size, or of one size alone.
fn page_bytes(pod: &Pod, asked: Option<Quantity>) -> Result<Medium, String> {
    let spec = spec(pod);
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let requests = containers.filter_map(|container| container.resources.as_ref()?.requests.as_ref());
    let names = requests.flat_map(|requests| requests.keys());
    let mut sizes: Vec<Quantity> = names.filter_map(|name| name.strip_prefix(RESOURCE_PREFIX)?.parse().ok()).collect();
    sizes.sort();
    sizes.dedup();
    let found = match (asked, &sizes[..]) {
        (Some(asked), _) => sizes.iter().find(|size| **size == asked).ok_or_else(|| {
            format!("medium {MEDIUM_PREFIX}{asked} requires {RESOURCE_PREFIX}{asked} among the pod's resource requests")
        })?,
        (None, [one]) => one,
        (None, []) => return Err("medium HugePages requires huge pages among the pod's resource requests".to_owned()),
        (None, _) => {
            return Err("medium HugePages can't be used if the pod requests huge pages of several sizes".to_owned());
        }
    };
    Ok(Medium::HugePages { page_bytes: u64::try_from(found.value()).unwrap_or(0) })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(source: &str, resources: &str, expected: Expect) {
        let pod = format!("{{spec: {{containers: [{{name: c, resources: {resources}}}]}}}}");
        let pod: Pod = serde_saphyr::from_str(&pod).expect("a Pod");
        let source: EmptyDirVolumeSource = serde_saphyr::from_str(source).expect("a source");
        let allocatable = [("memory".to_owned(), Quantity::from_units(1000, skiff_base::quantity::Format::DecimalSi))];
        let node = NodeFacts { allocatable: allocatable.into(), ..NodeFacts::default() };
        expected.assert_eq(&match medium(&pod, Some(&source), &node) {
            Ok(medium) => format!("{medium:?}"),
            Err(error) => error,
        });
    }

    #[test]
    fn memory_is_bounded_by_volume_pod_and_node() {
        check("{}", "{}", expect!["Disk"]);
        check("{medium: Memory}", "{}", expect!["Memory { size_bytes: Some(1000) }"]);
        check("{medium: Memory, sizeLimit: 700}", "{}", expect!["Memory { size_bytes: Some(700) }"]);
        check(
            "{medium: Memory, sizeLimit: 700}",
            "{limits: {memory: 500}}",
            expect!["Memory { size_bytes: Some(500) }"],
        );
        check("{medium: Tape}", "{}", expect![[r#"unknown storage medium "Tape""#]]);
    }

    #[test]
    fn huge_pages_are_those_that_the_pod_asks_for() {
        let both = "{requests: {hugepages-2Mi: 4Mi, hugepages-1Gi: 1Gi}}";
        let one = "{requests: {hugepages-2Mi: 4Mi, memory: 1Mi}}";
        check("{medium: HugePages}", one, expect!["HugePages { page_bytes: 2097152 }"]);
        check("{medium: HugePages-1Gi}", both, expect!["HugePages { page_bytes: 1073741824 }"]);
        check(
            "{medium: HugePages}",
            both,
            expect!["medium HugePages can't be used if the pod requests huge pages of several sizes"],
        );
        check(
            "{medium: HugePages-1Gi}",
            one,
            expect!["medium HugePages-1Gi requires hugepages-1Gi among the pod's resource requests"],
        );
        check(
            "{medium: HugePages}",
            "{}",
            expect!["medium HugePages requires huge pages among the pod's resource requests"],
        );
    }
}
