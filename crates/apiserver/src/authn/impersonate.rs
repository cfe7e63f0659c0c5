//! Acting as somebody else, for those who may.
//! See <https://kubernetes.io/docs/reference/access-authn-authz/user-impersonation/>.

use http::{HeaderMap, HeaderName};
use skiff_object::Status;

use crate::authn;
use crate::authz::{self, Action};
use crate::call::UserInfo;
use crate::failure::Result;
use crate::http::query::decode;
use crate::server::ApiServer;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The identity that the headers ask for, once every part of it is authorized; else the caller's own.
pub async fn apply(server: &ApiServer, user: UserInfo, headers: &mut HeaderMap) -> Result<UserInfo> {
    let mut wanted = UserInfo { name: text(headers, USER), uid: text(headers, UID), ..UserInfo::default() };
    wanted.groups = headers.get_all(GROUP).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned).collect();
    let extras: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(EXTRA)).cloned().collect();
    for name in &extras {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).map(str::to_owned);
        wanted.extra.insert(decode(&name.as_str()[EXTRA.len()..], false), values.collect());
    }
    if wanted == UserInfo::default() {
        return Ok(user);
    }
    if wanted.name.is_empty() {
        return Err(Status::internal("requested impersonation without impersonating a user").into());
    }
    for action in needed(&wanted) {
        authz::require(&server.authorizer, &user, &action).await?;
    }
    for name in extras.into_iter().chain([USER, GROUP, UID].map(HeaderName::from_static)) {
        headers.remove(name);
    }
    complete(&mut wanted);
    Ok(wanted)
}

fn text(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned()
}

/// One permission for every part of the identity.
fn needed(wanted: &UserInfo) -> Vec<Action> {
    let impersonate = |group: &str, resource: &str, name: &str| Action {
        verb: "impersonate".into(),
        group: group.into(),
        resource: resource.into(),
        name: name.into(),
        ..Action::default()
    };
    let mut actions = Vec::new();
    match account(&wanted.name) {
        Some((namespace, name)) => {
            let action = impersonate("", "serviceaccounts", name);
            actions.push(Action { namespace: namespace.to_owned(), ..action });
        }
        None => actions.push(impersonate("", "users", &wanted.name)),
    }
    actions.extend(wanted.groups.iter().map(|group| impersonate("", "groups", group)));
    if !wanted.uid.is_empty() {
        actions.push(impersonate("authentication.k8s.io", "uids", &wanted.uid));
    }
    for (key, values) in &wanted.extra {
        actions.extend(values.iter().map(|value| {
            let action = impersonate("authentication.k8s.io", "userextras", value);
            Action { subresource: key.clone(), ..action }
        }));
    }
    actions
}

fn account(name: &str) -> Option<(&str, &str)> {
    name.strip_prefix("system:serviceaccount:")?.split_once(':')
}

/// Adds the groups that the identity is in by its nature.
fn complete(wanted: &mut UserInfo) {
    if let Some((namespace, name)) = account(&wanted.name)
        && wanted.groups.is_empty()
    {
        wanted.groups = authn::service_account(namespace, name, "").groups;
    }
    if wanted.name == crate::call::ANONYMOUS {
        if !wanted.in_group("system:unauthenticated") {
            wanted.groups.push("system:unauthenticated".into());
        }
        return;
    }
    wanted.authenticated();
}
