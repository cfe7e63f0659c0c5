//! What everything else of a cluster's security stands on, exchanged while a server runs: its authority, and the key of
//! service accounts' tokens. The commands change files; the server is told to read them again.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_apiserver::ApiServer;
use skiff_apiserver::authorities::{ClientAuthorities, ServerAuthorities};
use skiff_controllers::RootBundle;

use crate::datastore;
use crate::node::{Setting, token_keys};
use crate::paths::NodeFacts;
use crate::server_keys::ServerKeys;

/// Those who go by the cluster's authority.
pub struct Trust {
    /// The API server towards its clients.
    pub clients: Arc<ClientAuthorities>,
    /// The node's agent towards its clients.
    pub of_agents: Arc<ClientAuthorities>,
    /// The API server towards agents.
    pub servers: Arc<ServerAuthorities>,
    /// Pods towards the API server.
    pub bundle: Arc<RootBundle>,
}

impl Trust {
    /// By the authorities in these texts in PEM: the cluster's, and those of trusted proxies.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn new(pem: &str, proxies: &str) -> Result<Self, String> {
        Ok(Self {
            clients: ClientAuthorities::new(pem, proxies)?,
            of_agents: ClientAuthorities::new(pem, "")?,
            servers: ServerAuthorities::new(pem)?,
            bundle: Arc::new(RootBundle::new(pem)),
        })
    }
}

/// A running server's foundations.
pub struct Foundations {
    /// Which files they are in, and who goes by them.
    pub setting: Arc<Setting>,
    /// The API server.
    pub server: Arc<ApiServer>,
    /// Where the cluster's servers give each other what they have in common.
    pub keys: Option<ServerKeys>,
}

impl Foundations {
    /// Goes by what the files say now, and so do all servers that share their keys; tells what has changed.
    ///
    /// # Errors
    /// A file cannot be read or used; what was before it holds by then.
    pub async fn reload(&self) -> Result<Value, String> {
        if let Some(keys) = &self.keys {
            keys.tell().await.map_err(|error| error.to_string())?;
        }
        self.read_again().await
    }

    /// Puts another secret into the place of the one by which the servers share their keys, and remembers it.
    ///
    /// # Errors
    /// They share none, it is too short, or the store does not take it.
    pub async fn exchange_server_token(&self, token: &str) -> Result<Value, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let keys = self
            .keys
            .as_ref()
            .ok_or("this server shares no keys with others: it was started without --server-token")?;
        datastore::check_server_token(token).map_err(|error| text(&error))?;
        keys.exchange_token(token).await.map_err(|error| text(&error))?;
        let paths = &self.setting.machine.paths;
        let mut facts = NodeFacts::load(paths).map_err(|error| text(&error))?.ok_or("this node was never set up")?;
        if let Some(datastore) = &mut facts.datastore {
            datastore.server_token = Some(token.to_owned());
        }
        facts.save(paths).map_err(|error| text(&error))?;
        Ok(json!({}))
    }

    /// Goes by what other servers exchange, for ever.
    pub async fn follow(&self) {
        let Some(keys) = &self.keys else { return };
        loop {
            keys.news().await;
            tracing::info!("another server has exchanged keys of the cluster");
            if let Err(error) = self.read_again().await {
                tracing::error!(error, "the cluster's keys, as another server has exchanged them, cannot be used");
            }
        }
    }

    async fn read_again(&self) -> Result<Value, String> {
        let keys = token_keys(&self.setting).map_err(|error| error.to_string())?;
        self.server.hold_service_account_keys(&keys).map_err(|failure| failure.0.message)?;
        let Setting { authority, trust, certificates, .. } = &*self.setting;
        let is_new = authority.reload().map_err(|error| error.to_string())?;
        // All of it also where the authority is known: an earlier reload may have failed on the way.
        let pem = authority.certificate_pem();
        // Who is asked is believed by the new authority before anybody has a certificate of it.
        trust.servers.replace(&pem)?;
        trust.of_agents.replace(&pem)?;
        self.server.hold_client_authorities(&pem).await.map_err(|failure| failure.0.message)?;
        certificates.renew_all().map_err(|error| error.to_string())?;
        certificates.tell_of_authority("ca", &authority.certificates());
        trust.bundle.set(&pem);
        tracing::info!(authority = is_new, "the authority and the keys of tokens were read again");
        Ok(json!({ "authority": is_new }))
    }
}
