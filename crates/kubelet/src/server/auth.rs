//! Who may ask the kubelet API for what: callers show a certificate of the cluster's or a token, and the API server is asked
//! whether they may.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/kubelet-authn-authz/>.

use std::collections::BTreeMap;
use std::time::Duration;

use http::{Method, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use skiff_base::clock::SharedClock;
use skiff_base::remembered::Remembered;
use skiff_client::Client;

/// How long answers are remembered; upstream's numbers.
const TOKENS: Duration = Duration::from_secs(120);
const ALLOWED: Duration = Duration::from_secs(300);
const DENIED: Duration = Duration::from_secs(30);
/// The answers that are remembered at most, of each kind.
const MOST: usize = 1000;

/// A caller, as far as authorization is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct User {
    /// The name.
    pub name: String,
    /// Its id, where the authenticator gives one.
    pub uid: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// What else the authenticator says.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// What a request is allowed by: any of these parts of the node, with a verb.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// `get`, `create` and so on.
    pub verb: &'static str,
    /// Subresources of the Node; one of them is enough.
    pub parts: Vec<&'static str>,
}

/// What a request asks for.
pub fn asked(method: &Method, path: &str) -> Asked {
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let within = |prefix: &str| path == prefix || path.starts_with(&format!("{prefix}/"));
    let parts = if within("/stats") {
        vec!["stats"]
    } else if within("/metrics") {
        vec!["metrics"]
    } else if within("/logs") {
        vec!["log"]
    } else if within("/checkpoint") {
        vec!["checkpoint"]
    } else if path == "/pods" || path == "/runningpods" {
        vec!["pods", "proxy"]
    } else if within("/healthz") {
        vec!["healthz", "proxy"]
    } else if path == "/configz" {
        vec!["configz", "proxy"]
    } else {
        vec!["proxy"]
    };
    Asked { verb, parts }
}

/// The user that a client certificate names.
pub fn user_of(certificate: &[u8]) -> Option<User> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok().map(str::to_owned));
    Some(User { name, groups: groups.collect(), ..User::default() })
}

/// Asks the API server about callers.
pub struct Guard {
    client: Client,
    clock: SharedClock,
    node: String,
    tokens: Remembered<String, Option<User>>,
    rights: Remembered<(User, &'static str, &'static str), bool>,
}

impl Guard {
    /// For the API of `node`.
    pub fn new(client: Client, clock: SharedClock, node: &str) -> Self {
        let (tokens, rights) = (Remembered::new(MOST), Remembered::new(MOST));
        Self { client, clock, node: node.to_owned(), tokens, rights }
    }

    /// The user that a token belongs to.
    ///
    /// # Errors
    /// To none, or the API server cannot be asked.
    pub async fn user(&self, token: &str) -> Result<User, StatusCode> {
        let now = self.clock.monotonic();
        if let Some(known) = self.tokens.get(token, now) {
            return known.ok_or(StatusCode::UNAUTHORIZED);
        }
        let review = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..TokenReview::default()
        };
        let path = "/apis/authentication.k8s.io/v1/tokenreviews";
        let answer: TokenReview = self.client.send_json(Method::POST, path, &review).await.map_err(|error| {
            tracing::warn!(%error, "cannot review a token");
            StatusCode::UNAUTHORIZED
        })?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|user| User {
            name: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        });
        self.tokens.put(token.to_owned(), user.clone(), now, TOKENS);
        user.ok_or(StatusCode::UNAUTHORIZED)
    }

    /// Whether a user may do what it asks for.
    ///
    /// # Errors
    /// It may not; the text is upstream's.
    pub async fn check(&self, user: &User, asked: &Asked) -> Result<(), String> {
        for part in &asked.parts {
            if self.may(user, asked.verb, part).await {
                return Ok(());
            }
        }
        Err(format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{}])",
            user.name,
            asked.verb,
            asked.parts.join(" ")
        ))
    }

    async fn may(&self, user: &User, verb: &'static str, part: &'static str) -> bool {
        let now = self.clock.monotonic();
        let key = (user.clone(), verb, part);
        if let Some(known) = self.rights.get(&key, now) {
            return known;
        }
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                uid: Some(user.uid.clone()).filter(|uid| !uid.is_empty()),
                groups: Some(user.groups.clone()),
                extra: Some(user.extra.clone()).filter(|extra| !extra.is_empty()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".to_owned()),
                    resource: Some("nodes".to_owned()),
                    subresource: Some(part.to_owned()),
                    name: Some(self.node.clone()),
                    ..ResourceAttributes::default()
                }),
                non_resource_attributes: None,
            },
            ..SubjectAccessReview::default()
        };
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        match self.client.send_json::<SubjectAccessReview>(Method::POST, path, &review).await {
            Ok(answer) => {
                let allowed = answer.status.is_some_and(|status| status.allowed);
                self.rights.put(key, allowed, now, if allowed { ALLOWED } else { DENIED });
                allowed
            }
            Err(error) => {
                tracing::warn!(%error, "cannot review a caller's rights");
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_is_a_part_of_the_node() {
        let check = |method: Method, path: &str, verb: &str, parts: &[&str]| {
            let asked = asked(&method, path);
            assert_eq!((asked.verb, asked.parts.as_slice()), (verb, parts), "{path}");
        };
        check(Method::GET, "/metrics/resource", "get", &["metrics"]);
        check(Method::GET, "/stats/summary", "get", &["stats"]);
        check(Method::GET, "/pods", "get", &["pods", "proxy"]);
        check(Method::GET, "/healthz", "get", &["healthz", "proxy"]);
        check(Method::POST, "/checkpoint/a/b/c", "create", &["checkpoint"]);
        check(Method::POST, "/exec/a/b/c", "create", &["proxy"]);
        check(Method::GET, "/metricsx", "get", &["proxy"]);
    }
}
