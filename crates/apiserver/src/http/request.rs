//! What a request is about, from its method, path and query: upstream's `RequestInfo`.

use http::Method;
use skiff_kinds::ResourceDef;

use crate::http::query::{Query, decode};

/// What a request is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestInfo {
    /// Whether the path names a resource below `/api/VERSION` or `/apis/GROUP/VERSION`.
    pub is_resource: bool,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other paths the method.
    pub verb: String,
    /// The API group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The namespace; for a Namespace itself its own name.
    pub namespace: String,
    /// The plural resource name.
    pub resource: String,
    /// The subresource, or empty.
    pub subresource: String,
    /// The object's name, or empty.
    pub name: String,
    /// The one object that a list, watch or deletion of a collection is narrowed to by `metadata.name=...`, or empty:
    /// rights to that object are enough for it.
    pub selected_name: String,
    /// By which fields a list, a watch or a deletion of a collection is narrowed.
    pub field_selector: String,
    /// By which labels.
    pub label_selector: String,
    /// What follows the subresource (for proxies), with its leading slash, still encoded.
    pub rest: String,
    /// The whole path.
    pub path: String,
}

/// Subresources of namespaces that would otherwise read as resources in a namespace.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

impl RequestInfo {
    /// Reads a request.
    pub fn parse(method: &Method, path: &str, query: &Query) -> Self {
        let mut info = Self { path: path.to_owned(), verb: method.as_str().to_ascii_lowercase(), ..Self::default() };
        let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
        let mut rest = match segments.as_slice() {
            ["api", version, rest @ ..] if !rest.is_empty() => {
                info.version = decode(version, false);
                rest
            }
            ["apis", group, version, rest @ ..] if !rest.is_empty() => {
                info.group = decode(group, false);
                info.version = decode(version, false);
                rest
            }
            _ => return info,
        };
        info.is_resource = true;
        info.verb = verb_of(method).to_owned();
        let deprecated_watch = rest.len() > 1 && rest[0] == "watch";
        if deprecated_watch {
            rest = &rest[1..];
        }
        info.read_resource(rest, path);
        info.refine_verb(deprecated_watch, query);
        info
    }

    fn read_resource(&mut self, mut rest: &[&str], path: &str) {
        if rest[0] == "namespaces" && rest.len() > 1 {
            self.namespace = decode(rest[1], false);
            if rest.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&rest[2]) {
                rest = &rest[2..];
            }
        }
        self.resource = decode(rest[0], false);
        self.name = rest.get(1).map(|name| decode(name, false)).unwrap_or_default();
        self.subresource = rest.get(2).map(|name| decode(name, false)).unwrap_or_default();
        if rest.len() > 2 {
            self.rest = after_segments(path, segment_count(path) - rest.len() + 3).to_owned();
        }
    }

    fn refine_verb(&mut self, deprecated_watch: bool, query: &Query) {
        if self.verb == "get" && self.name.is_empty() {
            self.verb = "list".into();
        }
        if deprecated_watch && matches!(self.verb.as_str(), "get" | "list") {
            self.verb = "watch".into();
        }
        if self.verb == "list" && query.flag("watch") {
            self.verb = "watch".into();
        }
        if self.verb == "delete" && self.name.is_empty() {
            self.verb = "deletecollection".into();
        }
        if self.name.is_empty() && matches!(self.verb.as_str(), "list" | "watch" | "deletecollection") {
            query.text("fieldSelector").clone_into(&mut self.field_selector);
            query.text("labelSelector").clone_into(&mut self.label_selector);
            let terms = query.text("fieldSelector").split(',');
            let name = terms.into_iter().find_map(|term| term.trim().strip_prefix("metadata.name="));
            self.selected_name = name.map(|name| name.trim_start_matches('=').to_owned()).unwrap_or_default();
        }
    }

    /// `pods/log`, or `pods`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The namespace that objects of a kind are looked for in: none for what is cluster-wide.
    pub fn namespace_of(&self, def: &ResourceDef) -> &str {
        if def.is_namespaced() { &self.namespace } else { "" }
    }

    /// Whether the request may run for long: watches and tunnels.
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch" || matches!(self.subresource.as_str(), "exec" | "attach" | "log" | "portforward" | "proxy")
    }
}

fn verb_of(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    }
}

fn segment_count(path: &str) -> usize {
    path.split('/').filter(|segment| !segment.is_empty()).count()
}

/// What follows the first `count` segments of a path, from its slash on.
fn after_segments(path: &str, count: usize) -> &str {
    let (mut seen, mut inside) = (0, false);
    for (index, byte) in path.bytes().enumerate() {
        if byte == b'/' {
            if inside && seen == count {
                return &path[index..];
            }
            inside = false;
        } else if !inside {
            inside = true;
            seen += 1;
        }
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: Method, target: &str, expected: &str) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let info = RequestInfo::parse(&method, path, &Query::parse(query));
        let text = if info.is_resource {
            format!(
                "{} {}/{} {} ns={} name={} rest={}",
                info.verb,
                info.group,
                info.version,
                info.full_resource(),
                info.namespace,
                info.name,
                info.rest
            )
        } else {
            format!("{} {}", info.verb, info.path)
        };
        assert_eq!(text, expected, "{target}");
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        let get = Method::GET;
        check(get.clone(), "/version", "get /version");
        check(get.clone(), "/api/v1", "get /api/v1");
        check(get.clone(), "/api/v1/pods", "list /v1 pods ns= name= rest=");
        check(get.clone(), "/api/v1/namespaces", "list /v1 namespaces ns= name= rest=");
        check(get.clone(), "/api/v1/namespaces/a", "get /v1 namespaces ns=a name=a rest=");
        check(Method::PUT, "/api/v1/namespaces/a/finalize", "update /v1 namespaces/finalize ns=a name=a rest=");
        check(get.clone(), "/api/v1/namespaces/a/pods?watch=true", "watch /v1 pods ns=a name= rest=");
        check(get.clone(), "/api/v1/watch/namespaces/a/pods", "watch /v1 pods ns=a name= rest=");
        check(get.clone(), "/api/v1/watch/namespaces/a/pods/b", "watch /v1 pods ns=a name=b rest=");
        check(
            get.clone(),
            "/apis/apps/v1/namespaces/a/deployments/b/scale",
            "get apps/v1 deployments/scale ns=a name=b rest=",
        );
        check(
            get,
            "/api/v1/namespaces/a/services/b:80/proxy/x/y%20z",
            "get /v1 services/proxy ns=a name=b:80 rest=/x/y%20z",
        );
        check(Method::DELETE, "/api/v1/namespaces/a/pods", "deletecollection /v1 pods ns=a name= rest=");
        check(Method::POST, "/apis/apps/v1/namespaces/a/deployments", "create apps/v1 deployments ns=a name= rest=");
    }
}
