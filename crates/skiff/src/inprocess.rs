//! The in-memory transport: requests of the parts in this process reach the API server without sockets, but with an
//! identity, and go through authorization and admission like any other.

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use skiff_apiserver::{ApiServer, UserInfo};
use skiff_client::{Body, Client, Transport, TransportError};

/// Requests in the name of one user.
struct InProcess {
    server: Arc<ApiServer>,
    user: UserInfo,
}

#[async_trait::async_trait]
impl Transport for InProcess {
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Body>, TransportError> {
        let mut request = request
            .map(|body| Full::new(body).map_err(|never: std::convert::Infallible| match never {}).boxed_unsync());
        request.extensions_mut().insert(self.user.clone());
        Ok(self.server.handle(request).await)
    }
}

/// A client of the server in this process, in the name of `user` with `groups`.
pub fn client(server: &Arc<ApiServer>, user: &str, groups: &[&str], agent: &str) -> Client {
    let transport = InProcess { server: server.clone(), user: UserInfo::new(user, groups) };
    Client::new(Arc::new(transport), agent)
}

/// A client in the name of a service account of `kube-system`, as upstream's controllers have them.
pub fn controller_client(server: &Arc<ApiServer>, name: &str) -> Client {
    if name == skiff_controllers::MANAGER {
        return client(server, "system:kube-controller-manager", &[], name);
    }
    let user = format!("system:serviceaccount:kube-system:{name}");
    client(server, &user, &["system:serviceaccounts", "system:serviceaccounts:kube-system"], name)
}
