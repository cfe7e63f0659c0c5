//! Where the cluster's objects are kept: in the node's own folder, or in an etcd.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use skiff_base::clock::SharedClock;
use skiff_store::{EmbeddedOptions, EmbeddedStore, EtcdOptions, EtcdStore, EtcdTls, Store};

use crate::cli::DatastoreOptions;
use crate::commands::CommandError;
use crate::paths::{Datastore, Paths, named};

/// What the API server's keys begin with.
const ROOT: &str = "/registry/";
/// What they begin with in etcd, unless another prefix is asked for: as upstream's.
pub const DEFAULT_PREFIX: &str = "/registry";
/// Whoever can read the etcd can try secrets at leisure.
const SHORTEST_TOKEN: usize = 16;
/// Members that begin together find each other in a second or two, and on a busy machine later.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_millis(100);
/// Where the distributions keep the authorities that everybody trusts.
const SYSTEM_AUTHORITIES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// What the command line asks for.
///
/// # Errors
/// A file's path cannot be made absolute, or the servers' token is too short, or for nothing.
pub fn chosen(options: &DatastoreOptions) -> Result<Option<Datastore>, CommandError> {
    let absolute = |path: &Option<PathBuf>| {
        path.as_ref().map(|path| std::path::absolute(path).map_err(|error| named(path, "find", error))).transpose()
    };
    match &options.server_token {
        Some(_) if options.datastore_endpoint.is_empty() => {
            return Err("--server-token is for servers that share an etcd: name it with --datastore-endpoint".into());
        }
        Some(token) => check_server_token(token)?,
        None if options.datastore_endpoint.is_empty() => return Ok(None),
        None => {}
    }
    Ok(Some(Datastore {
        endpoints: options.datastore_endpoint.clone(),
        cafile: absolute(&options.datastore_cafile)?,
        certfile: absolute(&options.datastore_certfile)?,
        keyfile: absolute(&options.datastore_keyfile)?,
        prefix: options.etcd_prefix.clone().unwrap_or_else(|| DEFAULT_PREFIX.to_owned()),
        server_token: options.server_token.clone(),
    }))
}

/// Looks at a secret of the cluster's servers.
///
/// # Errors
/// It is too short.
pub fn check_server_token(token: &str) -> Result<(), String> {
    if token.len() < SHORTEST_TOKEN {
        return Err(format!("a server token needs {SHORTEST_TOKEN} characters or more (openssl rand -hex 16)"));
    }
    Ok(())
}

/// What holds for a node that was started before: a node without an etcd does not silently begin anew with one.
///
/// # Errors
/// The node's objects are in its own folder, and an etcd is asked for.
pub fn settle(
    kept: Option<Datastore>,
    asked: Option<Datastore>,
    paths: &Paths,
) -> Result<Option<Datastore>, CommandError> {
    match (kept, asked) {
        (kept, None) => Ok(kept),
        (None, Some(_)) if paths.store().exists() => Err(format!(
            "this node keeps its cluster in {}; to move it into etcd, use skiff snapshot save, and then \
             skiff snapshot restore with --datastore-endpoint",
            paths.store().display()
        )
        .into()),
        (kept, Some(asked)) => {
            let server_token = asked.server_token.or(kept.and_then(|kept| kept.server_token));
            Ok(Some(Datastore { server_token, ..asked }))
        }
    }
}

/// Opens the store.
///
/// # Errors
/// The folder cannot be used, a certificate cannot be read, or no endpoint answers.
pub async fn open(
    datastore: Option<&Datastore>,
    paths: &Paths,
    clock: SharedClock,
) -> Result<Arc<dyn Store>, CommandError> {
    let Some(datastore) = datastore else {
        let path = paths.store();
        let open = move || EmbeddedStore::open(path, EmbeddedOptions { clock, ..EmbeddedOptions::default() });
        return Ok(tokio::task::spawn_blocking(open).await??);
    };
    let prefix = datastore.prefix.trim_matches('/');
    let prefix = if prefix.is_empty() { "/".to_owned() } else { format!("/{prefix}/") };
    let options = EtcdOptions {
        tls: tls(datastore)?,
        root: ROOT.into(),
        prefix: prefix.into(),
        clock,
        ..EtcdOptions::new(datastore.endpoints.clone())
    };
    Ok(EtcdStore::open(options).await?)
}

/// Opens a store that begins at the same moment as this server, and answers only when enough of its members are there.
///
/// # Errors
/// It does not answer in time; the error is the last one.
pub async fn open_patiently(
    datastore: Option<&Datastore>,
    paths: &Paths,
    clock: SharedClock,
) -> Result<Arc<dyn Store>, CommandError> {
    let deadline = clock.monotonic() + PATIENCE;
    loop {
        match open(datastore, paths, clock.clone()).await {
            Err(_) if clock.monotonic() < deadline => tokio::time::sleep(AGAIN).await,
            outcome => return outcome,
        }
    }
}

fn tls(datastore: &Datastore) -> Result<Option<EtcdTls>, CommandError> {
    if !datastore.endpoints.iter().any(|endpoint| endpoint.trim().starts_with("https://")) {
        return Ok(None);
    }
    let system = || SYSTEM_AUTHORITIES.iter().map(Path::new).find(|path| path.exists()).map(Path::to_owned);
    let authorities = datastore.cafile.clone().or_else(system);
    let authorities =
        authorities.ok_or("this system has no list of certificate authorities; name etcd's with --datastore-cafile")?;
    let read = |path: &PathBuf| fs::read(path).map_err(|error| named(path, "read", error));
    Ok(Some(EtcdTls {
        authorities: read(&authorities)?,
        certificate: datastore.certfile.as_ref().map(read).transpose()?.unwrap_or_default(),
        key: datastore.keyfile.as_ref().map(read).transpose()?.unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datastore(endpoint: &str) -> Datastore {
        let options = DatastoreOptions { datastore_endpoint: vec![endpoint.into()], ..DatastoreOptions::default() };
        chosen(&options).expect("no paths are given").expect("an endpoint is given")
    }

    #[test]
    fn a_token_is_long_and_for_an_etcd() {
        let asked = |endpoint: &[&str], token: &str| {
            let datastore_endpoint = endpoint.iter().map(|&endpoint| endpoint.to_owned()).collect();
            let server_token = Some(token.to_owned());
            chosen(&DatastoreOptions { datastore_endpoint, server_token, ..DatastoreOptions::default() })
                .map(|chosen| chosen.and_then(|datastore| datastore.server_token))
                .map_err(|error| error.to_string())
        };
        let long = "0123456789abcdef";
        assert_eq!(asked(&["http://a"], long), Ok(Some(long.to_owned())));
        assert!(asked(&["http://a"], &long[1..]).is_err_and(|error| error.contains("16 characters")));
        assert!(asked(&[], long).is_err_and(|error| error.contains("--datastore-endpoint")));
    }

    #[test]
    fn a_node_keeps_its_store_until_it_is_moved() {
        let fresh = Paths::new(Path::new("/nowhere"), None);
        let (a, b) = (datastore("http://a"), datastore("http://b"));
        let settled = |kept: Option<&Datastore>, asked: Option<&Datastore>, paths: &Paths| {
            settle(kept.cloned(), asked.cloned(), paths).map_err(|error| error.to_string())
        };
        assert_eq!(settled(None, Some(&a), &fresh), Ok(Some(a.clone())));
        assert_eq!(settled(Some(&a), None, &fresh), Ok(Some(a.clone())));
        assert_eq!(settled(Some(&a), Some(&b), &fresh), Ok(Some(b.clone())));
        let with_token = |datastore: &Datastore| Datastore { server_token: Some("t".into()), ..datastore.clone() };
        assert_eq!(settled(Some(&with_token(&a)), Some(&b), &fresh), Ok(Some(with_token(&b))));
        let folder = std::env::temp_dir().join(format!("skiff-datastore-{}", std::process::id()));
        let used = Paths::new(&folder, None);
        fs::create_dir_all(used.store()).expect("a folder");
        let refused = settled(None, Some(&a), &used).expect_err("its objects would be left behind");
        fs::remove_dir_all(&folder).expect("the folder is there");
        assert!(refused.contains("skiff snapshot save"), "{refused}");
    }
}
