//! Connections: each goes to the first node that takes it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::{ANSWER_LIMIT, Led, PAUSE};

/// The most connections of one port at a time; the next ones wait.
const MOST_CONNECTIONS: usize = 4096;

/// Takes connections for ever.
pub async fn serve(listener: TcpListener, led: Arc<Led>) {
    let seats = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(seat) = seats.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let led = led.clone();
                tokio::spawn(async move {
                    carry(client, &led).await;
                    drop(seat);
                });
            }
            Err(error) => {
                eprintln!("skiff: accept a connection: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn carry(mut client: TcpStream, led: &Led) {
    for target in led.order() {
        let Some(mut node) = connect(target).await else {
            led.failed(target);
            continue;
        };
        led.answered(target);
        // What is small is sent at once, as both ends have it without anybody between them.
        if client.set_nodelay(true).and(node.set_nodelay(true)).is_err() {
            return;
        }
        // Whatever ends it ends both connections, and the ends see it.
        tokio::io::copy_bidirectional(&mut client, &mut node).await.map(drop).unwrap_or_default();
        return;
    }
}

async fn connect(target: SocketAddr) -> Option<TcpStream> {
    tokio::time::timeout(ANSWER_LIMIT, TcpStream::connect(target)).await.ok()?.ok()
}
