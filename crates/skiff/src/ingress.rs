//! Ingress on a server's own node: with an identity of its own, and at the ports that people expect it at.

use std::net::SocketAddr;
use std::sync::Arc;

use skiff_apiserver::ApiServer;
use skiff_client::{Informers, Recorder};
use skiff_edge::ingress::{Ingresses, IngressesConfig};

use crate::commands::CommandError;
use crate::inprocess;
use crate::node::Setting;
use crate::pki::Purpose;

const CONTROLLER: &str = "ingress-controller";
const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// Starts to serve Ingresses. Names that no Secret has a certificate for get one of the cluster's authority for the
/// node's addresses, so that whoever trusts the cluster can at least see where he is.
///
/// # Errors
/// The certificate cannot be made.
pub fn start(setting: &Setting, server: &Arc<ApiServer>, informers: &Informers) -> Result<Ingresses, CommandError> {
    let machine = &setting.machine;
    let (authority, addresses) = (setting.authority.clone(), machine.addresses.clone());
    let any = machine.facts.ranges().any_address();
    let certificate = setting.certificates.issue("ingress", move || {
        authority.issue("skiff-ingress", &Purpose::Server { names: &[], addresses: &addresses })
    })?;
    let client = inprocess::controller_client(server, CONTROLLER);
    Ok(Ingresses::start(IngressesConfig {
        informers: informers.clone(),
        recorder: Recorder::start(client.clone(), machine.clock.clone(), CONTROLLER, &machine.facts.node_name),
        client,
        clock: machine.clock.clone(),
        address: machine.address,
        http: SocketAddr::new(any, HTTP),
        https: SocketAddr::new(any, HTTPS),
        certificate,
    })?)
}
