//! Which paths a kind is served under, and which requests they take.

use skiff_object::{GroupVersion, GroupVersionKind};

use super::prefix;
use crate::def::{ResourceDef, Subresource};
use crate::protobuf;
use crate::schema::definition;

/// A parameter of a request.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// In the path, otherwise in the query.
    pub(super) in_path: bool,
    /// `string`, `integer` or `boolean`.
    pub(super) kind: &'static str,
    pub(super) description: &'static str,
}

const fn query(name: &'static str, kind: &'static str, description: &'static str) -> Parameter {
    Parameter { name, in_path: false, kind, description }
}

const fn in_path(name: &'static str, description: &'static str) -> Parameter {
    Parameter { name, in_path: true, kind: "string", description }
}

static NAME: Parameter = in_path("name", "The object's name.");
static NAMESPACE: Parameter = in_path("namespace", "The object's namespace.");
static PATH: Parameter = in_path("path", "The path that the request is passed on to.");
static PRETTY: Parameter = query("pretty", "string", "If 'true', the answer is indented.");
static DRY_RUN: Parameter =
    query("dryRun", "string", "Whether the change is only tried. 'All' goes through all stages but stores nothing.");
static FIELD_MANAGER: Parameter = query(
    "fieldManager",
    "string",
    "Who makes the change; at most 128 printable characters. Required for apply patches.",
);
static FIELD_VALIDATION: Parameter = query(
    "fieldValidation",
    "string",
    "What becomes of unknown and duplicate fields: 'Ignore' drops them, 'Warn' (the default) drops them and warns, 'Strict' fails the request.",
);
static FORCE: Parameter =
    query("force", "boolean", "Whether an apply patch takes fields over that others own. For apply patches only.");
static ORPHAN: Parameter = query("orphanDependents", "boolean", "Deprecated: use propagationPolicy.");
static GRACE: Parameter =
    query("gracePeriodSeconds", "integer", "How long the object may take to end, in seconds. Zero deletes at once.");
static PROPAGATION: Parameter = query(
    "propagationPolicy",
    "string",
    "What becomes of the object's dependents: 'Orphan', 'Background' or 'Foreground'.",
);
static IGNORE_READ_ERROR: Parameter = query(
    "ignoreStoreReadErrorWithClusterBreakingPotential",
    "boolean",
    "Whether an object that cannot be read from the store is deleted all the same.",
);
static SELECTION: [Parameter; 8] = [
    query("allowWatchBookmarks", "boolean", "Whether a watch may send bookmarks."),
    query("continue", "string", "Where a list in several parts goes on, as the part before it said."),
    query("fieldSelector", "string", "Selects objects by their fields. Everything by default."),
    query("labelSelector", "string", "Selects objects by their labels. Everything by default."),
    query("limit", "integer", "The most items that one part of a list shall have."),
    query("resourceVersion", "string", "Which state of the data the request is about."),
    query("resourceVersionMatch", "string", "How resourceVersion is meant: 'Exact' or 'NotOlderThan'."),
    query("timeoutSeconds", "integer", "When the request ends at the latest, in seconds."),
];
static SEND_INITIAL: Parameter =
    query("sendInitialEvents", "boolean", "Whether a watch begins with the objects that are there.");
static WATCH: Parameter = query("watch", "boolean", "Whether to watch for changes instead of listing.");

static CONTAINER: Parameter = query("container", "string", "The container; the only one by default.");
static STDIN: Parameter = query("stdin", "boolean", "Whether standard input is passed on.");
static STDOUT: Parameter = query("stdout", "boolean", "Whether standard output is passed on.");
static STDERR: Parameter = query("stderr", "boolean", "Whether standard error is passed on.");
static TTY: Parameter = query("tty", "boolean", "Whether there is a terminal.");
static COMMAND: Parameter = query("command", "string", "The command, one argument each time it is given.");
static PORTS: Parameter = query("ports", "integer", "The ports to forward.");
static FORWARD_PATH: Parameter = query("path", "string", "The path that the request is passed on to.");
static LOG: [Parameter; 9] = [
    query("follow", "boolean", "Whether to go on with what is still to be written."),
    query("insecureSkipTLSVerifyBackend", "boolean", "Whether not to check the certificate of the node."),
    query("limitBytes", "integer", "After how many bytes to stop."),
    query("previous", "boolean", "Whether to read the log of the container that ran before."),
    query("sinceSeconds", "integer", "How far back to begin, in seconds."),
    query("stream", "string", "Which of 'All', 'Stdout' and 'Stderr' to read."),
    query("tailLines", "integer", "How many lines from the end to begin with."),
    query("timestamps", "boolean", "Whether each line begins with its time."),
    query("sinceTime", "string", "When to begin."),
];

/// Media types of answers.
pub(super) const ANSWERS: &[&str] = &["application/json", "application/yaml", protobuf::MEDIA_TYPE];
/// Media types of watches beside them.
pub(super) const STREAMS: &[&str] = &["application/json;stream=watch", protobuf::STREAM_MEDIA_TYPE];
/// Media types of patches.
const PATCHES: &[&str] = &[
    "application/apply-patch+yaml",
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
];

/// One kind of request to a path.
pub(super) struct Operation {
    /// `get`, `post`, `put`, `patch`, `delete`.
    pub(super) method: &'static str,
    pub(super) id: String,
    /// `x-kubernetes-action`
    pub(super) action: Option<&'static str>,
    pub(super) summary: String,
    pub(super) tag: String,
    pub(super) kind: Option<GroupVersionKind>,
    pub(super) parameters: Vec<&'static Parameter>,
    /// The type of the body.
    pub(super) body: Option<String>,
    pub(super) body_required: bool,
    pub(super) consumes: &'static [&'static str],
    /// Whether it may answer with a stream.
    pub(super) streams: bool,
    /// The type of the answer; none for a text.
    pub(super) answer: Option<String>,
    pub(super) codes: &'static [(u16, &'static str)],
}

/// A path, and the requests to it.
pub(super) struct PathItem {
    pub(super) path: String,
    pub(super) parameters: Vec<&'static Parameter>,
    pub(super) operations: Vec<Operation>,
}

const OK: &[(u16, &str)] = &[(200, "OK")];
const CREATED: &[(u16, &str)] = &[(200, "OK"), (201, "Created"), (202, "Accepted")];
const WRITTEN: &[(u16, &str)] = &[(200, "OK"), (201, "Created")];
const DELETED: &[(u16, &str)] = &[(200, "OK"), (202, "Accepted")];

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The name of a kind's schema; that of a custom kind is made of its group, written backwards.
pub(super) fn schema_name(def: &ResourceDef) -> String {
    if !def.schema.is_empty() {
        return def.schema.to_string();
    }
    let group: Vec<_> = def.group.split('.').rev().collect();
    format!("{}.{}.{}", group.join("."), def.version, def.kind)
}

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// `AppsV1`, as it stands in the names of operations.
fn version_word(version: &GroupVersion) -> String {
    let group = if version.group.is_empty() { "core" } else { version.group.trim_end_matches(".k8s.io") };
    let words: String = group.split(['.', '-']).map(capitalized).collect();
    words + &capitalized(&version.version)
}

/// `apps_v1`
fn tag(version: &GroupVersion) -> String {
    let word = version_word(version);
    let group = word.strip_suffix(&capitalized(&version.version)).unwrap_or(&word);
    let mut chars = group.chars();
    let group: String = chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect());
    format!("{group}_{}", version.version)
}

/// The path under which a version tells of its resources.
pub(super) fn version_root(version: &GroupVersion) -> PathItem {
    let operation = Operation {
        method: "get",
        id: format!("get{}APIResources", version_word(version)),
        action: None,
        summary: "get available resources".to_owned(),
        tag: tag(version),
        kind: None,
        parameters: Vec::new(),
        body: None,
        body_required: false,
        consumes: &[],
        streams: false,
        answer: Some(format!("{META}.APIResourceList")),
        codes: OK,
    };
    PathItem { path: format!("{}/", prefix(version)), parameters: Vec::new(), operations: vec![operation] }
}

/// The paths that are of no group's version, by the name of their document: `version`, `apis/apps`.
pub(super) fn plain(name: &str) -> Option<PathItem> {
    let (id, summary, tag, answer) = match name {
        ".well-known/openid-configuration" => {
            let summary = "get service account issuer OpenID configuration, also known as the 'OIDC discovery doc'";
            ("getServiceAccountIssuerOpenIDConfiguration".to_owned(), summary, "WellKnown".to_owned(), None)
        }
        "openid/v1/jwks" => {
            let summary =
                "get service account issuer OpenID JSON Web Key Set (contains public token verification keys)";
            ("getServiceAccountIssuerOpenIDKeyset".to_owned(), summary, "openid".to_owned(), None)
        }
        "version" => {
            let answer = "io.k8s.apimachinery.pkg.version.Info".to_owned();
            (
                "getCodeVersion".to_owned(),
                "get the version information for this server",
                "version".to_owned(),
                Some(answer),
            )
        }
        "api" => {
            let answer = format!("{META}.APIVersions");
            ("getCoreAPIVersions".to_owned(), "get available API versions", "core".to_owned(), Some(answer))
        }
        "apis" => {
            let answer = format!("{META}.APIGroupList");
            ("getAPIVersions".to_owned(), "get available API versions", "apis".to_owned(), Some(answer))
        }
        _ => {
            let group = name.strip_prefix("apis/").filter(|group| !group.contains('/'))?;
            let word = version_word(&GroupVersion::new(group, ""));
            let tag = tag(&GroupVersion::new(group, ""));
            let answer = format!("{META}.APIGroup");
            let tag = tag.trim_end_matches('_').to_owned();
            (format!("get{word}APIGroup"), "get information of a group", tag, Some(answer))
        }
    };
    let operation = Operation {
        method: "get",
        id,
        action: None,
        summary: summary.to_owned(),
        tag,
        kind: None,
        parameters: Vec::new(),
        body: None,
        body_required: false,
        consumes: &[],
        streams: false,
        answer,
        codes: OK,
    };
    Some(PathItem { path: format!("/{name}/"), parameters: Vec::new(), operations: vec![operation] })
}

/// All paths of a kind.
pub(super) fn of(def: &ResourceDef) -> Vec<PathItem> {
    let kind = Kind { def, version: def.group_version(), schema: schema_name(def) };
    let mut items = vec![kind.collection()];
    if def.is_namespaced() && kind.serves("list") {
        items.push(kind.everywhere());
    }
    items.push(kind.item());
    items.extend(def.subresources.iter().flat_map(|subresource| kind.subresource(subresource)));
    items.retain(|item| !item.operations.is_empty());
    items
}

struct Kind<'a> {
    def: &'a ResourceDef,
    version: GroupVersion,
    schema: String,
}

impl Kind<'_> {
    fn serves(&self, verb: &str) -> bool {
        self.def.verbs.iter().any(|served| served == verb)
    }

    fn root(&self) -> String {
        let namespace = if self.def.is_namespaced() { "/namespaces/{namespace}" } else { "" };
        format!("{}{namespace}/{}", prefix(&self.version), self.def.plural)
    }

    fn list_schema(&self) -> String {
        let name = format!("{}List", self.schema);
        if self.def.inline_schema.is_some() || definition(&name).is_some() { name } else { self.schema.clone() }
    }

    fn path_parameters(&self, with_name: bool) -> Vec<&'static Parameter> {
        let mut parameters = Vec::new();
        if with_name {
            parameters.push(&NAME);
        }
        if self.def.is_namespaced() {
            parameters.push(&NAMESPACE);
        }
        parameters.push(&PRETTY);
        parameters
    }

    /// An operation that answers with the object itself.
    fn operation(&self, method: &'static str, action: &'static str, verb: &str, suffix: &str) -> Operation {
        let scope = if self.def.is_namespaced() { "Namespaced" } else { "" };
        Operation {
            method,
            id: format!("{verb}{}{scope}{}{suffix}", version_word(&self.version), self.def.kind),
            action: Some(action),
            summary: format!(
                "{verb} {}{}",
                self.def.kind,
                if suffix.is_empty() { String::new() } else { format!(" ({suffix})") }
            ),
            tag: tag(&self.version),
            kind: Some(self.def.gvk()),
            parameters: Vec::new(),
            body: None,
            body_required: false,
            consumes: &["*/*"],
            streams: false,
            answer: Some(self.schema.clone()),
            codes: OK,
        }
    }

    fn list(&self, verb: &str, suffix: &str) -> Operation {
        let mut parameters: Vec<_> = SELECTION.iter().collect();
        parameters.extend([&SEND_INITIAL, &WATCH]);
        let answer = Some(self.list_schema());
        Operation { parameters, answer, streams: self.serves("watch"), ..self.operation("get", "list", verb, suffix) }
    }

    fn collection(&self) -> PathItem {
        let mut operations = Vec::new();
        if self.serves("list") {
            operations.push(self.list("list", ""));
        }
        if self.serves("create") {
            operations.push(self.create("create", "", &self.schema));
        }
        if self.serves("deletecollection") {
            let mut parameters: Vec<_> = SELECTION.iter().filter(|one| one.name != "allowWatchBookmarks").collect();
            parameters.extend([&SEND_INITIAL, &DRY_RUN, &GRACE, &IGNORE_READ_ERROR, &ORPHAN, &PROPAGATION]);
            operations.push(Operation {
                parameters,
                body: Some(format!("{META}.DeleteOptions")),
                answer: Some(format!("{META}.Status")),
                ..self.operation("delete", "deletecollection", "deleteCollection", "")
            });
        }
        PathItem { path: self.root(), parameters: self.path_parameters(false), operations }
    }

    /// The list over all namespaces.
    fn everywhere(&self) -> PathItem {
        let mut list = self.list("list", "ForAllNamespaces");
        list.id = format!("list{}{}ForAllNamespaces", version_word(&self.version), self.def.kind);
        PathItem {
            path: format!("{}/{}", prefix(&self.version), self.def.plural),
            parameters: vec![&PRETTY],
            operations: vec![list],
        }
    }

    fn create(&self, verb: &str, suffix: &str, schema: &str) -> Operation {
        Operation {
            parameters: vec![&DRY_RUN, &FIELD_MANAGER, &FIELD_VALIDATION],
            body: Some(schema.to_owned()),
            body_required: true,
            answer: Some(schema.to_owned()),
            codes: CREATED,
            ..self.operation("post", "post", verb, suffix)
        }
    }

    fn replace(&self, suffix: &str, schema: &str) -> Operation {
        Operation {
            parameters: vec![&DRY_RUN, &FIELD_MANAGER, &FIELD_VALIDATION],
            body: Some(schema.to_owned()),
            body_required: true,
            answer: Some(schema.to_owned()),
            codes: WRITTEN,
            ..self.operation("put", "put", "replace", suffix)
        }
    }

    fn patch(&self, suffix: &str, schema: &str) -> Operation {
        // Strategic merge patches need a type that the server was built with.
        let consumes = if self.def.inline_schema.is_some() { &PATCHES[..3] } else { PATCHES };
        Operation {
            parameters: vec![&DRY_RUN, &FIELD_MANAGER, &FIELD_VALIDATION, &FORCE],
            body: Some(format!("{META}.Patch")),
            body_required: true,
            answer: Some(schema.to_owned()),
            consumes,
            codes: WRITTEN,
            ..self.operation("patch", "patch", "patch", suffix)
        }
    }

    fn item(&self) -> PathItem {
        let mut operations = Vec::new();
        if self.serves("get") {
            operations.push(self.operation("get", "get", "read", ""));
        }
        if self.serves("update") {
            operations.push(self.replace("", &self.schema));
        }
        if self.serves("patch") {
            operations.push(self.patch("", &self.schema));
        }
        if self.serves("delete") {
            operations.push(Operation {
                parameters: vec![&DRY_RUN, &GRACE, &IGNORE_READ_ERROR, &ORPHAN, &PROPAGATION],
                body: Some(format!("{META}.DeleteOptions")),
                answer: Some(self.delete_answer()),
                codes: DELETED,
                ..self.operation("delete", "delete", "delete", "")
            });
        }
        PathItem { path: format!("{}/{{name}}", self.root()), parameters: self.path_parameters(true), operations }
    }

    /// Some kinds answer a delete with the object itself.
    fn delete_answer(&self) -> String {
        let itself = [
            "Pod",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "PodTemplate",
            "ResourceQuota",
            "ServiceAccount",
            "Service",
        ];
        if itself.contains(&self.def.kind.as_ref()) { self.schema.clone() } else { format!("{META}.Status") }
    }

    fn subresource(&self, subresource: &Subresource) -> Vec<PathItem> {
        let suffix = capitalized(subresource.name());
        let whole = ["get", "patch", "update"].map(str::to_owned).to_vec();
        let (kind, schema, verbs) = match subresource {
            Subresource::Status => (self.def.gvk(), self.schema.clone(), whole),
            Subresource::Scale { .. } => (
                GroupVersionKind::new("autoscaling", "v1", "Scale"),
                "io.k8s.api.autoscaling.v1.Scale".to_owned(),
                whole,
            ),
            Subresource::Special { kind: (group, version, kind), verbs, .. } => {
                let kind = GroupVersionKind::new(group.as_ref(), version.as_ref(), kind.as_ref());
                if kind.kind.ends_with("Options") {
                    return self.connect(subresource.name(), &kind, verbs.iter().map(AsRef::as_ref).collect());
                }
                let schema = schema_of(&kind).unwrap_or_else(|| self.schema.clone());
                (kind, schema, verbs.iter().map(ToString::to_string).collect())
            }
        };
        let mut operations = Vec::new();
        for verb in &verbs {
            operations.push(match verb.as_str() {
                "get" if subresource.name() == "log" => Operation {
                    parameters: LOG.iter().chain([&CONTAINER]).collect(),
                    answer: None,
                    ..self.operation("get", "get", "read", &suffix)
                },
                "get" => Operation { answer: Some(schema.clone()), ..self.operation("get", "get", "read", &suffix) },
                "create" => self.create("create", &suffix, &schema),
                "update" => self.replace(&suffix, &schema),
                _ => self.patch(&suffix, &schema),
            });
        }
        for operation in &mut operations {
            operation.kind = Some(kind.clone());
        }
        let path = format!("{}/{{name}}/{}", self.root(), subresource.name());
        vec![PathItem { path, parameters: self.path_parameters(true), operations }]
    }

    /// A subresource that passes a connection on: `exec`, `proxy`, ...
    fn connect(&self, name: &str, kind: &GroupVersionKind, verbs: Vec<&str>) -> Vec<PathItem> {
        let suffix = capitalized(name);
        let parameters: Vec<&'static Parameter> = match name {
            "exec" => vec![&COMMAND, &CONTAINER, &STDERR, &STDIN, &STDOUT, &TTY],
            "attach" => vec![&CONTAINER, &STDERR, &STDIN, &STDOUT, &TTY],
            "portforward" => vec![&PORTS],
            _ => vec![&FORWARD_PATH],
        };
        let scope = if self.def.is_namespaced() { "Namespaced" } else { "" };
        let item = |path: String, more: &[&'static Parameter], with_path: &str| {
            let operation = |verb: &&str| {
                let method = match *verb {
                    "create" => "post",
                    "update" => "put",
                    "patch" => "patch",
                    "delete" => "delete",
                    _ => "get",
                };
                let words = (capitalized(method), version_word(&self.version), &self.def.kind);
                Operation {
                    id: format!("connect{}{}{scope}{}{suffix}{with_path}", words.1, words.0, words.2),
                    kind: Some(kind.clone()),
                    answer: None,
                    ..self.operation(method, "connect", "connect", &suffix)
                }
            };
            let mut all = parameters.clone();
            all.extend(self.path_parameters(true).into_iter().filter(|one| one.in_path));
            all.extend(more);
            PathItem { path, parameters: all, operations: verbs.iter().map(operation).collect() }
        };
        let path = format!("{}/{{name}}/{name}", self.root());
        let mut items = vec![item(path.clone(), &[], "")];
        if name == "proxy" {
            let mut passed_on = item(format!("{path}/{{path}}"), &[&PATH], "WithPath");
            passed_on.parameters.retain(|one| one.in_path || one.name != "path");
            items.push(passed_on);
        }
        items
    }
}

/// The schema of a kind that is a subresource's.
fn schema_of(kind: &GroupVersionKind) -> Option<String> {
    crate::by_kind(kind).map(|def| def.schema.to_string())
}
