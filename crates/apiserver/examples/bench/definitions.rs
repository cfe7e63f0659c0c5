//! Many definitions of custom kinds: how fast they are made and served, what they take, and what describing them takes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::load::{self, Connection, Protocol, Request};
use super::server::Server;
use super::{Fallible, Figures};

const COUNT: u64 = 500;
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// How many definitions share a group, as those of one operator do.
const IN_A_GROUP: u64 = 10;
/// How many fields each kind has.
const FIELDS: u64 = 20;
/// How long the last kind may take until it is served.
const PATIENCE: Duration = Duration::from_secs(30);

/// Measures a fresh server.
pub async fn measure(server: &Server, figures: &mut Figures) -> Fallible<()> {
    let client = Arc::new(server.client(Protocol::Http1)?);
    let before = server.memory_mib()?;
    let next = Arc::new(AtomicU64::new(0));
    let make = move || {
        let number = next.fetch_add(1, Ordering::Relaxed);
        (number < COUNT).then(|| Request::post(DEFINITIONS, definition(number)))
    };
    let (cpu, start) = (server.cpu()?, Instant::now());
    let rate = load::exhaust(&client, 8, make).await?;
    figures.add("500 definitions, 8 in flight", "/s", rate.per_second);
    let mut connection = client.connect().await?;
    let wanted = format!("/apis/{}/v1/{}", group(COUNT - 1), plural(COUNT - 1));
    while connection.exchange(Request::get(&wanted), client.port).await.is_err() {
        if start.elapsed() > PATIENCE {
            return Err(format!("{wanted} is not served").into());
        }
        // A refusal may have ended the connection.
        connection = client.connect().await?;
    }
    figures.add("500 definitions, all of them served after", "ms", start.elapsed().as_secs_f64() * 1e3);
    figures.add("500 definitions, CPU of the server", "ms", (server.cpu()? - cpu).as_secs_f64() * 1e3);
    figures.add("memory of 500 definitions", "MiB", server.memory_mib()? - before);
    for (name, path) in [
        ("discovery of all groups", "/apis"),
        ("discovery of one group", "/apis/group-49.example.com/v1"),
        ("OpenAPI v3 of one group", "/openapi/v3/apis/group-49.example.com/v1"),
        ("OpenAPI v3, its index", "/openapi/v3"),
        ("OpenAPI v2", "/openapi/v2"),
    ] {
        timed(&mut connection, client.port, name, path, figures).await?;
    }
    figures.add("memory of 500 definitions, once described", "MiB", server.memory_mib()? - before);
    Ok(())
}

/// The first answer, for which the document is made, and the second.
async fn timed(connection: &mut Connection, port: u16, name: &str, path: &str, figures: &mut Figures) -> Fallible<()> {
    for turn in ["first", "again"] {
        let start = Instant::now();
        connection.exchange(Request::get(path), port).await?;
        figures.add(&format!("500 definitions: {name}, {turn}"), "ms", start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

fn group(number: u64) -> String {
    format!("group-{}.example.com", number / IN_A_GROUP)
}

fn plural(number: u64) -> String {
    format!("things{number}s")
}

fn definition(number: u64) -> String {
    let fields: Vec<String> = (0..FIELDS)
        .map(|field| {
            format!(
                r#""field{field}":{{"type":"string","description":"What the field {field} is for.","maxLength":100}}"#
            )
        })
        .collect();
    let (group, plural) = (group(number), plural(number));
    format!(
        r#"{{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{{"name":"{plural}.{group}"}},
        "spec":{{"group":"{group}","scope":"Namespaced","names":{{"plural":"{plural}","singular":"thing{number}","kind":"Thing{number}"}},
        "versions":[{{"name":"v1","served":true,"storage":true,"subresources":{{"status":{{}}}},"schema":{{"openAPIV3Schema":{{"type":"object",
        "properties":{{"spec":{{"type":"object","properties":{{{}}}}},"status":{{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}}}}}}}}]}}}}"#,
        fields.join(",")
    )
}
