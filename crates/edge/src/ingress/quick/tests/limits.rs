//! What nobody may use up: the time of a thread, memory, connections.

use std::io::{Read as _, Write as _};
use std::sync::Weak;
use std::task::ready;

use tokio::io::ReadBuf;
use tokio::task::consume_budget;

use super::*;

/// A client that never stops: there is always more to be read of it. It takes all that it is told.
struct Flood {
    says: Vec<u8>,
    hears: Arc<Mutex<Vec<u8>>>,
}

impl Flood {
    /// Serves it to the end; what it was told.
    async fn serve(head: &str, proxy: &Proxy) -> String {
        let hears = Arc::<Mutex<Vec<u8>>>::default();
        let flood = Self { says: head.as_bytes().to_vec(), hears: hears.clone() };
        let caller = caller();
        let served = timeout(PATIENCE, serve(flood, &caller, proxy, PATIENCE)).await.expect("an end in time");
        assert!(served.expect("is no fault").is_none());
        normal(&hears.lock())
    }
}

impl AsyncRead for Flood {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // As sockets do, it gives others their turn after a while.
        ready!(std::pin::pin!(consume_budget()).poll(context));
        let count = self.says.len().min(into.remaining());
        into.put_slice(&self.says[..count]);
        self.says.drain(..count);
        into.initialize_unfilled();
        into.advance(into.remaining());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flood {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.hears.lock().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

const ENDLESS: &str = "Content-Length: 999999999999999999\r\n\r\n";

#[test]
fn who_never_stops_is_listened_to_for_a_while_after_the_answer() {
    in_own_namespace(async || {
        let head = format!("POST /a HTTP/1.1\r\nHost: other.example\r\n{ENDLESS}");
        let got = Flood::serve(&head, &proxy(&[], json!({}))).await;
        assert!(got.starts_with("HTTP/1.1 404 Not Found | connection: close"), "{got}");
    });
}

#[test]
fn who_never_stops_is_answered_late_all_the_same() {
    in_own_namespace(async || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has one");
        // On a thread of its own it is never slower than the client.
        let reading = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accepts");
            std::io::copy(&mut stream, &mut std::io::sink()).map_or_else(drop, drop);
        });
        let head = format!("POST /a HTTP/1.1\r\nHost: web.example\r\n{ENDLESS}");
        let slow = json!({ "ingress.skiff.io/proxy-read-timeout": "1" });
        let got = Flood::serve(&head, &proxy(&[address], slow)).await;
        assert!(got.starts_with("HTTP/1.1 504 Gateway Timeout | connection: close"), "{got}");
        reading.join().expect("ends");
    });
}

/// It is read in time that grows as it does, also where it comes byte by byte.
#[test]
fn a_long_head_may_come_in_pieces() {
    const LENGTH: usize = 100 * 1024;
    in_own_namespace(async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            stream.set_nodelay(true).expect("is set");
            assert!(stream.read(&mut [0; 4096]).await.expect("reads") > 0);
            let empty = "\r\n".repeat(LENGTH / 4);
            let long = "x".repeat(LENGTH);
            let answer = format!(
                "{empty}HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\nHTTP/1.1 200 OK\r\nX-Long: {long}\r\nContent-Length: 3\r\n\r\nyes"
            );
            for byte in answer.as_bytes() {
                stream.write_all(&[*byte]).await.expect("writes");
                yield_now().await;
            }
        });
        let mut client = Client::quick(&proxy(&[address], json!({})));
        client.say(LAST.as_bytes()).await;
        let (got, by_all) = client.hear().await;
        assert!(got.starts_with("HTTP/1.1 200 OK | connection: close, content-length: 3") && !by_all, "{got:.200}");
        assert!(got.ends_with("x | yes\n") && got.len() > LENGTH);
        task.await.expect("says all");
    });
}

#[test]
fn a_long_answer_holds_no_old_routes() {
    in_own_namespace(async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        let proxy = proxy(&[address], json!({}));
        let mut client = Client::quick(&proxy);
        client.say(get("/events").as_bytes()).await;
        let (mut stream, _) = listener.accept().await.expect("accepts");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\n").await.expect("writes");
        let mut got = Vec::new();
        while !got.ends_with(b"data: 1\n\n\r\n") {
            timeout(PATIENCE, client.stream.read_buf(&mut got)).await.expect("in time").expect("reads");
        }
        let old: Weak<Routes> = Arc::downgrade(&proxy.routes());
        proxy.replace(Routes::default());
        assert!(old.upgrade().is_none());
        drop(stream);
    });
}

#[test]
fn what_is_done_takes_little_room() {
    in_own_namespace(async || {
        let (caller, proxy) = (caller(), proxy(&[], json!({})));
        let mut session = Session::new(tokio::io::empty(), &caller, &proxy, PATIENCE);
        for out in [&mut session.up, &mut session.down] {
            out.bytes = vec![0; 1 << 20];
            out.written = out.bytes.len();
        }
        session.reply = vec![0; 1 << 20];
        session.input.reserve(1 << 20);
        session.tidy();
        for bytes in [&session.input, &session.reply, &session.up.bytes, &session.down.bytes] {
            assert!(bytes.is_empty() && bytes.capacity() <= KEPT_ROOM, "{}", bytes.capacity());
        }
        assert!(session.up.is_empty() && session.down.is_empty());
    });
}

#[test]
fn whatever_time_is_asked_for_is_given() {
    in_own_namespace(async || {
        let endpoint = Endpoint::answering(usual).await;
        let endless = json!({
            "ingress.skiff.io/proxy-read-timeout": "10000000000000000000",
            "ingress.skiff.io/proxy-connect-timeout": "18446744073709551615",
        });
        let mut client = Client::quick(&proxy(&[endpoint.address], endless));
        client.say(LAST.as_bytes()).await;
        assert!(client.hear().await.0.starts_with("HTTP/1.1 200 OK"));
    });
}

/// An endpoint that refuses a long body and closes with much of it unread has answered.
#[test]
fn an_early_answer_is_heard_before_the_end_of_its_connection() {
    const ROUNDS: usize = 50;
    in_own_namespace(async || {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has one");
        let answering = std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                let (mut stream, _) = listener.accept().expect("accepts");
                assert!(stream.read(&mut [0; 4096]).expect("reads") > 0);
                let answer = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!";
                stream.write_all(answer.as_bytes()).expect("writes");
            }
        });
        let proxy = proxy(&[address], json!({}));
        let head = format!("POST /a HTTP/1.1\r\nHost: web.example\r\n{ENDLESS}");
        for _ in 0..ROUNDS {
            let got = Flood::serve(&head, &proxy).await;
            assert_eq!(got, "HTTP/1.1 413 Content Too Large | connection: close, content-length: 3, date: now | no!\n");
        }
        answering.join().expect("ends");
    });
}

/// Several lengths that are one are one; where there is no body they may be anything.
#[test]
fn lengths_are_read_as_by_the_whole_stack() {
    let answer = |status: &str, lengths: &str| format!("HTTP/1.1 {status}\r\n{lengths}\r\n");
    in_own_namespace(async || {
        let cases = [
            (
                "GET",
                "200 OK",
                "Content-Length: 4, 4\r\n",
                "200 OK | connection: close, content-length: 4, date: now | wiki",
            ),
            (
                "GET",
                "200 OK",
                "Content-Length: 4\r\nContent-Length: 4,4\r\n",
                "200 OK | connection: close, content-length: 4, date: now | wiki",
            ),
            ("GET", "200 OK", "Content-Length: 4, 5\r\n", "502 Bad Gateway"),
            ("GET", "200 OK", "Content-Length: 4,\r\n", "502 Bad Gateway"),
            ("GET", "200 OK", "Content-Length: +4\r\n", "502 Bad Gateway"),
            ("GET", "200 OK", "Content-Length: 18446744073709551616\r\n", "502 Bad Gateway"),
            ("HEAD", "200 OK", "Content-Length: 4x\r\n", "200 OK | connection: close, date: now"),
            ("HEAD", "200 OK", "Content-Length: 7, 7\r\n", "200 OK | connection: close, content-length: 7, date: now"),
            ("GET", "204 No Content", "Content-Length: 4x\r\n", "204 No Content | connection: close, date: now"),
            ("GET", "304 Not Modified", "Content-Length: 4, 5\r\n", "304 Not Modified | connection: close, date: now"),
        ];
        for (method, status, lengths, wanted) in cases {
            let body = if method == "GET" && status == "200 OK" { "wiki" } else { "" };
            let answer = format!("{}{body}", answer(status, lengths));
            let endpoint = Endpoint::answering(move |_| answer.clone()).await;
            let mut client = Client::quick(&proxy(&[endpoint.address], json!({})));
            let request = format!("{method} /a HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n");
            client.say(request.as_bytes()).await;
            let (got, _) = client.hear().await;
            assert!(got.starts_with(&format!("HTTP/1.1 {wanted}")), "{method} {lengths:?}: {got}");
        }
    });
}
