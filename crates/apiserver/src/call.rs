//! One request on a resource, as the rest of the server sees it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use skiff_base::Timestamp;

use crate::audit::Trail;
use crate::failure::Result;
use crate::http::body::{self, Body};
use crate::http::negotiate::{Accepted, content_type};
use crate::http::query::Query;
use crate::http::request::RequestInfo;
use crate::storage::catalogue::Served;

/// Who makes a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserInfo {
    /// The name, `system:node:a`.
    pub name: String,
    /// The UID, where the identity has one.
    pub uid: String,
    /// The groups.
    pub groups: Vec<String>,
    /// Further facts.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// An identity of a name and groups; `system:authenticated` is added.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut user = Self {
            name: name.into(),
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            ..Self::default()
        };
        user.authenticated();
        user
    }

    /// Adds the group of everyone who is known.
    pub fn authenticated(&mut self) {
        const AUTHENTICATED: &str = "system:authenticated";
        if self.name != ANONYMOUS && !self.in_group(AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.to_owned());
        }
    }

    /// The identity of who shows none.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.into(), groups: vec!["system:unauthenticated".into()], ..Self::default() }
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|own| own == group)
    }
}

/// The name of who shows no identity.
pub const ANONYMOUS: &str = "system:anonymous";

/// One request on a resource.
pub struct Call {
    /// What it is about.
    pub info: RequestInfo,
    /// The query string.
    pub query: Query,
    /// The headers.
    pub headers: HeaderMap,
    /// What the client accepts.
    pub accepted: Accepted,
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// The kind.
    pub served: Arc<Served>,
    /// When the request came.
    pub now: Timestamp,
    /// Warnings to send with the answer.
    pub warnings: Mutex<Vec<String>>,
    /// The record of the request, where one is kept.
    pub audit: Option<Arc<Trail>>,
}

impl Call {
    /// Adds a warning to the answer, once.
    pub fn warn(&self, warning: impl Into<String>) {
        let (warning, mut warnings) = (warning.into(), self.warnings.lock());
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }

    /// Adds a note to the record of the request.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        if let Some(trail) = &self.audit {
            trail.annotate(key, value);
        }
    }

    /// Reads the request's body, and notes it in the record.
    pub async fn read(&self, body: Body) -> Result<Bytes> {
        let bytes = body::read(body).await?;
        if let Some(trail) = &self.audit {
            trail.requested(content_type(&self.headers), &bytes);
        }
        Ok(bytes)
    }
}
