//! Who may do what: everything for `system:masters`, the node rules for nodes, RBAC for all.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/authorization/>.

pub mod node;
pub mod rbac;
pub mod reviews;

use std::sync::Arc;

use skiff_object::{Reason, Status};

use crate::call::UserInfo;
use crate::failure::Result;
use crate::http::request::RequestInfo;
use crate::storage::catalogue::Catalogue;

/// What somebody wants to do, as rules see it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Action {
    /// `get`, `create`, `impersonate`, ...
    pub verb: String,
    /// The path of what is no resource; empty for resources.
    pub path: String,
    /// The API group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The plural resource name; empty for other paths.
    pub resource: String,
    /// The subresource.
    pub subresource: String,
    /// The namespace.
    pub namespace: String,
    /// The object.
    pub name: String,
}

impl Action {
    /// What a request wants.
    pub fn of(info: &RequestInfo) -> Self {
        let path = if info.is_resource { String::new() } else { info.path.clone() };
        Self {
            verb: info.verb.clone(),
            path,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: if info.name.is_empty() { info.selected_name.clone() } else { info.name.clone() },
        }
    }

    /// Whether a path, not a resource, is concerned.
    pub fn is_path(&self) -> bool {
        !self.path.is_empty()
    }

    /// `pods/log`, or `pods`.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

/// What was decided, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why; mostly empty for refusals.
    pub reason: String,
}

/// Decides who may do what.
pub struct Authorizer {
    catalogue: Arc<Catalogue>,
    enabled: bool,
    rbac: rbac::Rbac,
}

impl Authorizer {
    /// Decides by the roles and bindings in the catalogue's caches, or allows everything.
    pub fn new(catalogue: Arc<Catalogue>, enabled: bool) -> Self {
        Self { rbac: rbac::Rbac::new(&catalogue), catalogue, enabled }
    }

    /// Whether a user may do something.
    pub fn decide(&self, user: &UserInfo, action: &Action) -> Decision {
        if !self.enabled || user.in_group("system:masters") {
            return Decision { allowed: true, reason: String::new() };
        }
        if let Some(reason) = node::allows(&self.catalogue, user, action) {
            return Decision { allowed: true, reason };
        }
        self.rbac.decide(user, action)
    }

    /// The rules that hold for a user in a namespace.
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<rbac::Rule> {
        if !self.enabled || user.in_group("system:masters") {
            return rbac::Rule::everything();
        }
        self.rbac.rules_of(user, namespace)
    }
}

/// Why the user may; 403 in upstream's words where they may not.
pub fn require(authorizer: &Authorizer, user: &UserInfo, action: &Action) -> Result<String> {
    let decision = authorizer.decide(user, action);
    if decision.allowed {
        return Ok(decision.reason);
    }
    Err(forbidden(user, action, &decision.reason).into())
}

/// The refusal of an action.
pub fn forbidden(user: &UserInfo, action: &Action, reason: &str) -> Status {
    let name = &user.name;
    let mut why = if action.is_path() {
        format!("User {name:?} cannot {} path {:?}", action.verb, action.path)
    } else {
        let scope = if action.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", action.namespace)
        };
        format!(
            "User {name:?} cannot {} resource {:?} in API group {:?} {scope}",
            action.verb,
            action.full_resource(),
            action.group
        )
    };
    if !reason.is_empty() {
        why = format!("{why}: {reason}");
    }
    let resource = skiff_object::GroupResource::new(&action.group, &action.resource);
    if action.is_path() {
        return Status::failure(403, Reason::Forbidden, format!("forbidden: {why}"));
    }
    Status::forbidden(&resource, &action.name, why)
}
