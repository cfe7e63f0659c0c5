//! A small operator on kube-rs: `operator run` serves Guestbooks until it is told to end, `operator try` defines the
//! kind, runs the operator beside itself, and checks that Guestbooks come, change and go as they should.
//!
//! A Guestbook is a Deployment and a ConfigMap, written by server-side apply and owned by it; its status says how many
//! Pods are ready; a finalizer writes a last word.

mod guestbook;
mod operator;
mod trial;

use kube::Client;

type Outcome = Result<(), Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Outcome {
    let client = Client::try_default().await?;
    match std::env::args().nth(1).as_deref() {
        Some("run") => {
            guestbook::define(&client).await?;
            operator::run(client, async { tokio::signal::ctrl_c().await.unwrap_or(()) }).await;
            Ok(())
        }
        Some("try") => trial::run(client).await,
        _ => Err("usage: operator run|try".into()),
    }
}
