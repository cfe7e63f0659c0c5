//! The in-memory transport: requests of the parts in this process reach the API server without sockets, but with an
//! identity, and go through authorization and admission like any other.

use std::sync::Arc;

use skiff_apiserver::{ApiServer, UserInfo};
use skiff_client::{Body, Client, InProcess};

/// A client of the server in this process, in the name of `user` with `groups`.
pub fn client(server: &Arc<ApiServer>, user: &str, groups: &[&str], agent: &str) -> Client {
    let (server, user) = (server.clone(), UserInfo::new(user, groups));
    let answer = move |mut request: http::Request<Body>| {
        request.extensions_mut().insert(user.clone());
        let server = server.clone();
        async move { server.handle(request).await }
    };
    Client::new(Arc::new(InProcess(answer)), agent)
}

/// A client in the name of a service account of `kube-system`, as upstream's controllers have them.
pub fn controller_client(server: &Arc<ApiServer>, name: &str) -> Client {
    if name == skiff_controllers::MANAGER {
        return client(server, "system:kube-controller-manager", &[], name);
    }
    let user = format!("system:serviceaccount:kube-system:{name}");
    client(server, &user, &["system:serviceaccounts", "system:serviceaccounts:kube-system"], name)
}
