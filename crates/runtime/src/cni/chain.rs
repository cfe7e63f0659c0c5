//! A chain of CNI plugins as a file says it, and what each of them is told. Pure.
//! See <https://www.cni.dev/docs/spec/>.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value, json};
use skiff_base::Quantity;
use skiff_cri::PodSandboxConfig;

/// The interface that a pod gets.
pub const INTERFACE: &str = "eth0";
/// From this version on, plugins are asked whether all is well, and told what they said before when they undo it.
const WITH_CHECK: Version = Version(0, 4);
/// From this version on, plugins tell whether they are ready, and are told what is left.
const WITH_STATUS: Version = Version(1, 1);
/// Results have been of one form since.
const OLDEST: Version = Version(0, 3);
/// A burst that does not limit anything beyond what the rate does, as upstream's runtimes give it.
const BURST_BITS: i64 = i32::MAX as i64;

/// The first two numbers of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        Some(Self(numbers.next()??, numbers.next()??))
    }
}

/// What a plugin is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Join the network.
    Add,
    /// Look whether it still is as it was made.
    Check,
    /// Leave the network.
    Del,
    /// Remove what is left of those that are gone.
    Gc,
    /// Tell whether it could do its work now.
    Status,
}

impl Verb {
    /// As it is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Check => "CHECK",
            Self::Del => "DEL",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }
}

/// A network, and the plugins that make it, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    version: String,
    /// Whether it may be asked if all is well.
    checks: bool,
    /// Whether it may be told what is left.
    collects: bool,
    plugins: Vec<Map<String, Value>>,
}

impl Chain {
    /// Reads a list of plugins, or the older form of a single one.
    ///
    /// # Errors
    /// It is neither; the text is for people.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let tree: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let field = |name: &str| tree[name].as_str().unwrap_or_default().to_owned();
        let plugins = match &tree["plugins"] {
            Value::Array(plugins) => plugins.clone(),
            Value::Null if tree["type"].is_string() => vec![tree.clone()],
            _ => return Err("there are no plugins".to_owned()),
        };
        let plugins: Vec<_> = plugins.into_iter().filter_map(|plugin| plugin.as_object().cloned()).collect();
        if plugins.is_empty() {
            return Err("there are no plugins".to_owned());
        }
        let name = field("name");
        if name.is_empty() || name.contains('/') {
            return Err(format!("{name:?} is no name of a network"));
        }
        let version = newest(&tree);
        if Version::parse(&version).is_none_or(|version| version < OLDEST) {
            return Err(format!("cniVersion {version:?} is not supported: 0.3.0 to 1.1.0 are"));
        }
        for plugin in &plugins {
            let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default();
            if kind.is_empty() || kind.contains('/') {
                return Err(format!("{kind:?} is no type of a plugin"));
            }
        }
        let is_off = |name: &str| tree[name] == true || tree[name] == "true";
        Ok(Self { name, version, checks: !is_off("disableCheck"), collects: !is_off("disableGC"), plugins })
    }

    /// The chain as a file would have it, to be read again when it is undone.
    pub fn tree(&self) -> Value {
        json!({"cniVersion": self.version, "name": self.name, "disableCheck": !self.checks, "disableGC": !self.collects,
            "plugins": self.plugins})
    }

    /// The types of the plugins.
    pub fn types(&self) -> Vec<&str> {
        self.plugins.iter().filter_map(|plugin| plugin.get("type").and_then(Value::as_str)).collect()
    }

    /// Whether plugins can be asked to do this at all.
    pub fn knows(&self, verb: Verb) -> bool {
        let at_least = |least| Version::parse(&self.version).is_some_and(|version| version >= least);
        match verb {
            Verb::Add | Verb::Del => true,
            Verb::Check => self.checks && at_least(WITH_CHECK),
            Verb::Gc => self.collects && at_least(WITH_STATUS),
            Verb::Status => at_least(WITH_STATUS),
        }
    }

    /// Whether a plugin of the chain has said that it can do this.
    fn is_capable_of(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| has(plugin, capability))
    }

    /// What a pod asks of the network, by capability.
    ///
    /// # Errors
    /// It asks for what no plugin of the chain can do.
    pub fn wishes(&self, config: &PodSandboxConfig) -> Result<Map<String, Value>, String> {
        let mut wishes = Map::new();
        let ports = port_mappings(config);
        if !ports.is_empty() {
            if !self.is_capable_of("portMappings") {
                return Err(format!(
                    "the pod has host ports, and no plugin of the network {:?} has the capability portMappings",
                    self.name
                ));
            }
            wishes.insert("portMappings".to_owned(), ports.into());
        }
        if let Some(bandwidth) = bandwidth(config)? {
            if !self.is_capable_of("bandwidth") {
                return Err(format!(
                    "the pod limits its bandwidth, and no plugin of the network {:?} has the capability bandwidth",
                    self.name
                ));
            }
            wishes.insert("bandwidth".to_owned(), bandwidth);
        }
        if let Some(dns) = config.dns_config.as_ref().filter(|_| self.is_capable_of("dns")) {
            let told = json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options});
            wishes.insert("dns".to_owned(), told);
        }
        Ok(wishes)
    }

    /// What each plugin is to read, in the order in which they are called. In ADD each gets the result of the one before
    /// it, which [`with_result`] puts in.
    pub fn requests(&self, verb: Verb, wishes: &Map<String, Value>) -> Vec<(String, Value)> {
        let request = |plugin: &Map<String, Value>| {
            let mut told = plugin.clone();
            let kind = plugin.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
            told.insert("cniVersion".to_owned(), self.version.clone().into());
            told.insert("name".to_owned(), self.name.clone().into());
            let own: Map<_, _> = wishes
                .iter()
                .filter(|(name, _)| has(plugin, name))
                .map(|(name, wish)| (name.clone(), wish.clone()))
                .collect();
            if !own.is_empty() {
                told.insert("runtimeConfig".to_owned(), own.into());
            }
            (kind, told.into())
        };
        let mut requests: Vec<_> = self.plugins.iter().map(request).collect();
        if verb == Verb::Del {
            requests.reverse();
        }
        requests
    }

    /// Puts in what was said before; plugins of old versions do not know that.
    pub fn with_result(&self, verb: Verb, mut request: Value, result: Option<&Value>) -> Value {
        let knows = verb == Verb::Add || Version::parse(&self.version).is_some_and(|version| version >= WITH_CHECK);
        if let Some(result) = result.filter(|_| knows) {
            request["prevResult"] = result.clone();
        }
        request
    }
}

fn has(plugin: &Map<String, Value>, capability: &str) -> bool {
    plugin.get("capabilities").is_some_and(|own| own[capability] == true)
}

/// The newest version that both sides know: lists may name several since 1.1.
fn newest(tree: &Value) -> String {
    let own = tree["cniVersion"].as_str().unwrap_or("0.1.0");
    let others = tree["cniVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let known = others.filter(|text| Version::parse(text).is_some_and(|version| version <= WITH_STATUS));
    known.chain([own]).max_by_key(|text| Version::parse(text)).unwrap_or(own).to_owned()
}

fn port_mappings(config: &PodSandboxConfig) -> Vec<Value> {
    let asked = config.port_mappings.iter().filter(|mapping| mapping.host_port > 0);
    asked
        .map(|mapping| {
            let protocol = ["tcp", "udp", "sctp"].get(usize::try_from(mapping.protocol).unwrap_or(0));
            json!({"hostPort": mapping.host_port, "containerPort": mapping.container_port,
                "protocol": protocol.unwrap_or(&"tcp"), "hostIP": mapping.host_ip})
        })
        .collect()
}

/// Limits by the annotations that upstream documents.
fn bandwidth(config: &PodSandboxConfig) -> Result<Option<Value>, String> {
    let mut limits = Map::new();
    for way in ["ingress", "egress"] {
        let name = format!("kubernetes.io/{way}-bandwidth");
        let Some(text) = config.annotations.get(&name) else { continue };
        let bits = text.parse::<Quantity>().map_err(|error| format!("the annotation {name}: {error}"))?;
        limits.insert(format!("{way}Rate"), bits.value().into());
        limits.insert(format!("{way}Burst"), BURST_BITS.into());
    }
    Ok((!limits.is_empty()).then(|| limits.into()))
}

/// Whom the pod is, as plugins may want to know it.
pub fn arguments(sandbox_id: &str, config: &PodSandboxConfig) -> String {
    let pod = config.metadata.clone().unwrap_or_default();
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={};K8S_POD_NAME={};K8S_POD_INFRA_CONTAINER_ID={sandbox_id};K8S_POD_UID={}",
        pod.namespace, pod.name, pod.uid
    )
}

/// The environment of a plugin.
pub fn environment(
    verb: Verb,
    sandbox_id: &str,
    netns: Option<&Path>,
    arguments: &str,
    path: &str,
) -> Vec<(String, String)> {
    let mut told = vec![("CNI_COMMAND", verb.name().to_owned()), ("CNI_PATH", path.to_owned())];
    if matches!(verb, Verb::Add | Verb::Check | Verb::Del) {
        told.extend([
            ("CNI_CONTAINERID", sandbox_id.to_owned()),
            ("CNI_NETNS", netns.map_or_else(String::new, |netns| netns.display().to_string())),
            ("CNI_IFNAME", INTERFACE.to_owned()),
            ("CNI_ARGS", arguments.to_owned()),
        ]);
    }
    told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The addresses that a result gives the pod: those of interfaces inside, or all where it names no interfaces.
///
/// # Errors
/// There is none.
pub fn addresses(result: &Value) -> Result<Vec<IpAddr>, String> {
    let is_inside = |ip: &&Value| {
        let Some(index) = ip["interface"].as_u64() else { return true };
        let interface = result["interfaces"].get(usize::try_from(index).unwrap_or(usize::MAX));
        interface.is_none_or(|interface| interface["sandbox"].as_str().is_some_and(|sandbox| !sandbox.is_empty()))
    };
    let read = |ip: &Value| ip["address"].as_str()?.split('/').next()?.parse().ok();
    let found: Vec<_> = result["ips"].as_array().into_iter().flatten().filter(is_inside).filter_map(read).collect();
    if found.is_empty() { Err("the plugins gave the pod no address".to_owned()) } else { Ok(found) }
}

/// What a plugin said when it failed.
pub fn complaint(kind: &str, verb: Verb, said: &[u8], status: &str) -> String {
    let tree: Value = serde_json::from_slice(said).unwrap_or_default();
    let text = |name: &str| tree[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let why = match (text("msg"), text("details")) {
        (Some(message), Some(details)) => format!("{message}; {details}"),
        (Some(message), None) => message,
        _ => {
            let said = String::from_utf8_lossy(said).trim().to_owned();
            if said.is_empty() { status.to_owned() } else { format!("{status}: {said}") }
        }
    };
    format!("plugin type={kind:?} failed ({}): {why}", verb.name().to_lowercase())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use skiff_cri::{PodSandboxMetadata, PortMapping};

    use super::*;

    const LIST: &str = r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "bridge", "bridge": "cni0", "ipam": {"type": "host-local"}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "bandwidth", "capabilities": {"bandwidth": true}}]}"#;

    fn chain(text: &str) -> Chain {
        Chain::parse(text.as_bytes()).expect("well-formed")
    }

    fn pod(annotations: &[(&str, &str)], port: i32) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: "p".into(), namespace: "n".into(), uid: "u".into(), attempt: 0 }),
            annotations: annotations.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            port_mappings: vec![PortMapping {
                protocol: 0,
                container_port: 80,
                host_port: port,
                host_ip: String::new(),
            }],
            ..PodSandboxConfig::default()
        }
    }

    #[test]
    fn plugins_are_told_what_they_can_do_in_their_order() {
        let chain = chain(LIST);
        let wishes = chain.wishes(&pod(&[("kubernetes.io/egress-bandwidth", "1M")], 8080)).expect("they can");
        let told = |verb| -> String {
            let requests = chain.requests(verb, &wishes);
            requests.into_iter().map(|(kind, request)| format!("{kind}: {request}\n")).collect()
        };
        expect![[r#"
            bridge: {"bridge":"cni0","cniVersion":"1.0.0","ipam":{"type":"host-local"},"name":"net","type":"bridge"}
            portmap: {"capabilities":{"portMappings":true},"cniVersion":"1.0.0","name":"net","runtimeConfig":{"portMappings":[{"containerPort":80,"hostIP":"","hostPort":8080,"protocol":"tcp"}]},"type":"portmap"}
            bandwidth: {"capabilities":{"bandwidth":true},"cniVersion":"1.0.0","name":"net","runtimeConfig":{"bandwidth":{"egressBurst":2147483647,"egressRate":1000000}},"type":"bandwidth"}
        "#]]
        .assert_eq(&told(Verb::Add));
        let kinds: Vec<_> = chain.requests(Verb::Del, &wishes).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, ["bandwidth", "portmap", "bridge"]);
        let result = json!({"ips": []});
        assert_eq!(chain.with_result(Verb::Del, json!({}), Some(&result)), json!({"prevResult": result}));
        assert_eq!(Chain::parse(chain.tree().to_string().as_bytes()), Ok(chain));
    }

    #[test]
    fn what_no_plugin_can_do_is_refused() {
        let chain = chain(r#"{"cniVersion": "0.3.1", "name": "net", "type": "bridge"}"#);
        let refused = |pod: &PodSandboxConfig| chain.wishes(pod).expect_err("nobody can");
        assert!(refused(&pod(&[], 80)).contains("portMappings"));
        assert!(refused(&pod(&[("kubernetes.io/ingress-bandwidth", "1M")], 0)).contains("capability bandwidth"));
        assert!(refused(&pod(&[("kubernetes.io/ingress-bandwidth", "x")], 0)).contains("ingress-bandwidth"));
        assert!(chain.wishes(&pod(&[], 0)).expect("nothing is asked for").is_empty());
        assert!(!chain.knows(Verb::Check) && chain.knows(Verb::Del));
        assert_eq!(chain.with_result(Verb::Del, json!({}), Some(&json!({}))), json!({}), "0.3 does not know that");
    }

    #[test]
    fn versions_decide_what_plugins_can_be_asked() {
        let with = |rest: &str| chain(&format!(r#"{{"name": "n", "plugins": [{{"type": "a"}}], {rest}}}"#));
        let known = |chain: &Chain| [Verb::Check, Verb::Gc, Verb::Status].map(|verb| chain.knows(verb));
        assert_eq!(known(&with(r#""cniVersion": "1.0.0""#)), [true, false, false]);
        assert_eq!(known(&with(r#""cniVersion": "0.4.0", "cniVersions": ["1.1.0", "2.0.0"]"#)), [true, true, true]);
        assert_eq!(
            known(&with(r#""cniVersion": "1.1.0", "disableCheck": true, "disableGC": true"#)),
            [false, false, true]
        );
        let refused = |text: &str| Chain::parse(text.as_bytes()).expect_err("it makes no sense");
        assert!(refused(r#"{"cniVersion": "0.2.0", "name": "n", "type": "a"}"#).contains("0.3.0 to 1.1.0"));
        assert!(refused(r#"{"cniVersion": "1.0.0", "name": "n"}"#).contains("no plugins"));
        assert!(refused(r#"{"cniVersion": "1.0.0", "name": "n", "type": "../a"}"#).contains("no type"));
        assert!(refused("{").contains("EOF"));
    }

    #[test]
    fn results_and_complaints_are_read() {
        let result = json!({"interfaces": [{"name": "cni0"}, {"name": "eth0", "sandbox": "/proc/1/ns/net"}],
            "ips": [{"interface": 0, "address": "10.1.0.1/16"}, {"interface": 1, "address": "10.1.0.2/16"}, {"address": "fd00::2/64"}]});
        let told: Vec<_> = addresses(&result).expect("there are").iter().map(IpAddr::to_string).collect();
        assert_eq!(told, ["10.1.0.2", "fd00::2"]);
        assert!(addresses(&json!({})).is_err());
        let said = br#"{"cniVersion": "1.0.0", "code": 7, "msg": "invalid", "details": "no range"}"#;
        let told = complaint("bridge", Verb::Add, said, "exit status: 1");
        assert_eq!(told, r#"plugin type="bridge" failed (add): invalid; no range"#);
        assert_eq!(complaint("x", Verb::Del, b"", "signal: 9"), r#"plugin type="x" failed (del): signal: 9"#);
    }
}
