//! What the `kubernetes` Service leads to: every server that is there. Where others may share the store, each gives word
//! under a key of its own, and whoever has been silent for a while is left out by the others. Silence is measured by each
//! server's own clock from when it last saw a new word, so that clocks need not agree.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Weak;
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use skiff_base::clock;
use skiff_object::Object;
use skiff_store::{Change, Durability, KeyRange, Transaction};

use crate::bootstrap;
use crate::config::Config;
use crate::failure::Result;
use crate::server::ApiServer;
use crate::storage::catalogue::Catalogue;

/// Where words are given: a key for each address, as upstream has them.
const WORDS: &str = "/registry/masterleases/";
/// How often a server gives word.
const RENEWAL: Duration = Duration::from_secs(1);
/// After how long without a word a server counts as gone.
const SILENCE: Duration = Duration::from_secs(4);

/// The objects are looked at once in so many rounds, where nobody came or went.
const LOOK_EACH: u32 = 10;

/// The servers that give word, by their addresses.
#[derive(Debug, Default)]
struct Known {
    /// The last word, and when it was first seen.
    words: HashMap<IpAddr, (Bytes, Duration)>,
    /// Who was last told of, and for how many rounds.
    told: (Vec<IpAddr>, u32),
}

impl Known {
    /// Takes note of the words that stand there now. Gives the addresses of those who are there, and of those who are not.
    fn note(&mut self, words: Vec<(IpAddr, Bytes)>, now: Duration) -> (Vec<IpAddr>, Vec<IpAddr>) {
        self.words.retain(|address, _| words.iter().any(|(other, _)| other == address));
        let (mut here, mut gone) = (Vec::new(), Vec::new());
        for (address, word) in words {
            let known = self.words.entry(address).or_insert_with(|| (word.clone(), now));
            if known.0 != word {
                *known = (word, now);
            }
            let is_silent = now.saturating_sub(known.1) >= SILENCE;
            if is_silent { gone.push(address) } else { here.push(address) }
        }
        (here, gone)
    }
}

/// The addresses that the Service leads to when a server starts: its own, and those of others who may be there.
pub async fn at_start(config: &Config) -> Result<Vec<IpAddr>> {
    if !config.shared_store {
        return Ok(vec![config.advertise.ip()]);
    }
    give_word(config).await?;
    Ok(words(config).await?.into_iter().map(|(address, _)| address).collect())
}

/// Gives word from now on, and keeps the Service to those who do, for as long as the server serves.
pub async fn run(server: Weak<ApiServer>) {
    let mut known = Known::default();
    loop {
        tokio::time::sleep(RENEWAL).await;
        let Some(server) = server.upgrade().filter(|server| !server.is_stopping()) else { return };
        if let Err(failure) = round(&server.config, &server.catalogue, &mut known).await {
            tracing::warn!(why = failure.0.message, "the endpoints of the kubernetes Service are not kept");
        }
    }
}

async fn round(config: &Config, catalogue: &Catalogue, known: &mut Known) -> Result<()> {
    give_word(config).await?;
    let (here, gone) = known.note(words(config).await?, config.clock.monotonic());
    forget(config, &gone).await?;
    let (told, rounds) = &mut known.told;
    *rounds += 1;
    // What somebody else made of the objects is set right by and by.
    if *told != here || *rounds >= LOOK_EACH {
        bootstrap::publish(config, catalogue, &objects(config, &here)).await?;
        known.told = (here, 0);
    }
    Ok(())
}

/// Takes this server out, as it ends in order.
pub async fn leave(server: &ApiServer) -> Result<()> {
    let config = &server.config;
    if !config.shared_store {
        return Ok(());
    }
    forget(config, &[config.advertise.ip()]).await?;
    let left: Vec<IpAddr> = words(config).await?.into_iter().map(|(address, _)| address).collect();
    // The last one leaves its own behind: nobody else is there to be led to.
    if left.is_empty() {
        return Ok(());
    }
    bootstrap::publish(config, &server.catalogue, &objects(config, &left)).await
}

fn key(address: IpAddr) -> Bytes {
    format!("{WORDS}{address}").into()
}

async fn give_word(config: &Config) -> Result<()> {
    let word = json!({"time": clock::rfc3339_micro(config.clock.now()), "by": config.ids.uid()});
    let put = Change::Put { key: key(config.advertise.ip()), value: word.to_string().into() };
    write(config, vec![put]).await
}

async fn forget(config: &Config, gone: &[IpAddr]) -> Result<()> {
    if gone.is_empty() {
        return Ok(());
    }
    write(config, gone.iter().map(|address| Change::Delete { key: key(*address) }).collect()).await
}

async fn write(config: &Config, changes: Vec<Change>) -> Result<()> {
    let transaction = Transaction { compares: Vec::new(), changes, durability: Durability::Relaxed };
    config.store.commit(transaction).await?;
    Ok(())
}

async fn words(config: &Config) -> Result<Vec<(IpAddr, Bytes)>> {
    let range = config.store.range(&KeyRange::prefix(WORDS), None, 0).await?;
    let read = |pair: skiff_store::KeyValue| {
        let address = std::str::from_utf8(&pair.key).ok()?.strip_prefix(WORDS)?.parse().ok()?;
        Some((address, pair.value))
    };
    Ok(range.items.into_iter().filter_map(read).collect())
}

/// The Endpoints and the EndpointSlice. All servers listen on one port, as upstream has it.
pub fn objects(config: &Config, addresses: &[IpAddr]) -> [Object; 2] {
    let port = config.advertise.port();
    let family = config.advertise.is_ipv4();
    let mut own: Vec<IpAddr> = addresses.iter().copied().filter(|address| address.is_ipv4() == family).collect();
    own.sort_unstable();
    own.dedup();
    let labels = json!({"endpointslice.kubernetes.io/skip-mirror": "true"});
    let ips: Vec<Value> = own.iter().map(|address| json!({"ip": address})).collect();
    let ready: Vec<Value> =
        own.iter().map(|address| json!({"addresses": [address], "conditions": {"ready": true}})).collect();
    let endpoints = json!({"kind": "Endpoints", "apiVersion": "v1",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "subsets": [{"addresses": ips, "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]});
    let slice = json!({"kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": if family { "IPv4" } else { "IPv6" },
        "endpoints": ready,
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}]});
    [endpoints, slice]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_silent_is_gone_and_may_come_back() {
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().expect("one"), "10.0.0.2".parse().expect("one"));
        let word = |address: IpAddr, text: &'static str| (address, Bytes::from_static(text.as_bytes()));
        let mut known = Known::default();
        let at = Duration::from_secs;
        assert_eq!(known.note(vec![word(a, "1"), word(b, "1")], at(10)), (vec![a, b], vec![]));
        assert_eq!(known.note(vec![word(a, "2"), word(b, "1")], at(13)), (vec![a, b], vec![]));
        assert_eq!(known.note(vec![word(a, "3"), word(b, "1")], at(14)), (vec![a], vec![b]));
        assert_eq!(known.note(vec![word(a, "4")], at(15)), (vec![a], vec![]));
        assert_eq!(known.note(vec![word(a, "5"), word(b, "1")], at(16)), (vec![a, b], vec![]));
    }
}
