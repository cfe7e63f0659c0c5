//! Endpoints and clients that go away, hurry or say nothing.

use super::*;

/// One answer of an endpoint to each connection, in turn; then it closes.
async fn closing(answers: &'static [&'static str]) -> (SocketAddr, Arc<Mutex<Vec<String>>>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("has one");
    let heard = Arc::<Mutex<Vec<String>>>::default();
    let own = heard.clone();
    let task = tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut input = Vec::new();
            while length_of_message(&input).is_none() {
                if stream.read_buf(&mut input).await.expect("reads") == 0 {
                    break;
                }
            }
            let line = String::from_utf8_lossy(&input).lines().next().unwrap_or_default().to_owned();
            own.lock().push(line);
            stream.write_all(answer.as_bytes()).await.expect("writes");
        }
    });
    (address, heard, task)
}

const KEPT: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nkept";

/// A connection that the endpoint closed while nobody used it is not used any more, whatever is asked.
#[test]
fn a_kept_connection_that_was_closed_is_noticed() {
    in_own_namespace(async || {
        let (address, heard, _task) = closing(&[KEPT, KEPT]).await;
        let mut client = Client::quick(&proxy(&[address], json!({})));
        client.say(get("/a").as_bytes()).await;
        let post = "POST /b HTTP/1.1\r\nHost: web.example\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi";
        client.say(post.as_bytes()).await;
        let (got, _) = client.hear().await;
        assert_eq!(got.matches("HTTP/1.1 200 OK").count(), 2, "{got}");
        assert_eq!(*heard.lock(), ["GET /a HTTP/1.1", "POST /b HTTP/1.1"]);
    });
}

/// What may be asked twice is asked again where the answer did not come; what may not is lost.
#[test]
fn a_lost_request_is_repeated_where_it_may_be() {
    in_own_namespace(async || {
        for (method, wanted, count) in [("GET", "200 OK", 2), ("DELETE", "200 OK", 2), ("POST", "502 Bad Gateway", 1)] {
            let (address, heard, _task) = closing(&["HTTP/1.1 2", KEPT]).await;
            let mut client = Client::quick(&proxy(&[address], json!({})));
            let request = format!("{method} /a HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n");
            client.say(request.as_bytes()).await;
            let (got, _) = client.hear().await;
            assert!(got.starts_with(&format!("HTTP/1.1 {wanted}")), "{method}: {got}");
            assert_eq!(heard.lock().len(), count, "{method}");
        }
        let (address, heard, _task) = closing(&["", KEPT]).await;
        let mut client = Client::quick(&proxy(&[address], json!({})));
        let request =
            "PUT /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi".to_owned();
        client.say(request.as_bytes()).await;
        assert!(client.hear().await.0.starts_with("HTTP/1.1 502 Bad Gateway"), "its body is gone");
        assert_eq!(heard.lock().len(), 1);
    });
}

/// Once some of a long body was sent, nothing of it is sent to anybody else.
#[test]
fn a_request_that_was_sent_in_part_is_lost() {
    in_own_namespace(async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut heard = Vec::new();
            while !heard.ends_with(b"half") {
                stream.read_buf(&mut heard).await.expect("reads");
            }
            drop(stream);
            listener
        });
        let mut client = Client::quick(&proxy(&[address], json!({})));
        client.say(b"PUT /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 8\r\n\r\nhalf").await;
        let listener = task.await.expect("hears it");
        let (got, _) = client.hear().await;
        assert!(got.starts_with("HTTP/1.1 502 Bad Gateway | connection: close"), "{got}");
        let nobody = futures_util::FutureExt::now_or_never(listener.accept());
        assert!(nobody.is_none(), "nobody else is asked");
    });
}

#[test]
fn an_endpoint_that_nobody_listens_at_is_passed_over() {
    in_own_namespace(async || {
        let endpoint = Endpoint::answering(usual).await;
        let nobody = SocketAddr::from(([127, 0, 0, 7], 1));
        let proxy = proxy(&[nobody, endpoint.address], json!({}));
        for method in ["GET", "POST", "GET", "POST"] {
            let mut client = Client::quick(&proxy);
            let body = "Content-Length: 2\r\n\r\nhi";
            client
                .say(format!("{method} /a HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n{body}").as_bytes())
                .await;
            let (got, by_all) = client.hear().await;
            assert!(got.starts_with("HTTP/1.1 200 OK") && !by_all, "{got}");
        }
        drop(endpoint);
    });
}

#[test]
fn no_answer_is_told_as_ever() {
    in_own_namespace(async || {
        let nobody = SocketAddr::from(([127, 0, 0, 7], 1));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let mute = listener.local_addr().expect("has one");
        let slow = json!({ "ingress.skiff.io/proxy-read-timeout": "1" });
        for (endpoints, annotations) in [(vec![], json!({})), (vec![nobody], json!({})), (vec![mute], slow)] {
            let mut outcomes = Vec::new();
            for serve in [Client::quick, Client::whole] {
                let mut client = serve(&proxy(&endpoints, annotations.clone()));
                client.say(get("/a").as_bytes()).await;
                client.say("GET /a HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n".as_bytes()).await;
                outcomes.push(client.hear().await.0);
            }
            assert_eq!(outcomes[0], outcomes[1]);
            let status = outcomes[0].split(' ').nth(1).expect("a status").to_owned();
            let wanted = match &endpoints[..] {
                [] => "503",
                [one] if *one == nobody => "502",
                _ => "504",
            };
            assert_eq!(status, wanted);
        }
    });
}

/// An endpoint may answer before it has heard all; nothing of the rest is taken for a request.
#[test]
fn an_early_answer_ends_the_connection() {
    in_own_namespace(async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        let task = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            assert!(stream.read(&mut [0; 4096]).await.expect("reads") > 0);
            let answer = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno!";
            stream.write_all(answer.as_bytes()).await.expect("writes");
            stream
        });
        let mut client = Client::quick(&proxy(&[address], json!({})));
        client.say(b"POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 4096\r\n\r\nbegin").await;
        client.say(get("/smuggled").as_bytes()).await;
        let mut stream = task.await.expect("answers");
        let (got, by_all) = client.hear().await;
        assert_eq!(got, "HTTP/1.1 413 Content Too Large | connection: close, content-length: 3, date: now | no!\n");
        assert!(!by_all);
        // Its connection ends, too: what comes is the rest of the body at most.
        timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await.expect("an end in time").map_or_else(drop, drop);
    });
}

/// A long request and a long answer pass at the same time.
#[test]
fn long_bodies_pass_both_ways() {
    const LENGTH: usize = 3 << 20;
    in_own_namespace(async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut input = Vec::new();
            while !input.windows(4).any(|part| part == b"\r\n\r\n") {
                stream.read_buf(&mut input).await.expect("reads");
            }
            let head = input.windows(4).position(|part| part == b"\r\n\r\n").expect("a head") + 4;
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.expect("writes");
            // What is said is said again.
            stream.write_all(&input[head..]).await.expect("writes");
            let (mut reading, mut writing) = stream.split();
            tokio::io::copy(&mut reading, &mut writing).await.expect("copies");
        });
        let client = Client::quick(&proxy(&[address], json!({})));
        let body: Vec<u8> = (0..LENGTH).map(|at| (at % 251) as u8).collect();
        let head =
            format!("POST /a HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\nContent-Length: {LENGTH}\r\n\r\n");
        let (mut reading, mut writing) = tokio::io::split(client.stream);
        let sent = body.clone();
        let sending = tokio::spawn(async move {
            writing.write_all(head.as_bytes()).await.expect("writes");
            writing.write_all(&sent).await.expect("writes");
            writing
        });
        let mut got = Vec::new();
        timeout(PATIENCE, reading.read_to_end(&mut got)).await.expect("in time").expect("reads");
        drop(sending.await.expect("sends"));
        assert!(got.ends_with(&body), "{} bytes", got.len());
    });
}

/// The endpoint is let go when its client is not there any more.
#[test]
fn a_client_that_goes_away_is_asked_for_nothing_more() {
    in_own_namespace(async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        let mut client = Client::quick(&proxy(&[address], json!({})));
        client.say(get("/a").as_bytes()).await;
        let (mut stream, _) = timeout(PATIENCE, listener.accept()).await.expect("in time").expect("accepts");
        let mut heard = Vec::new();
        while length_of_message(&heard).is_none() {
            stream.read_buf(&mut heard).await.expect("reads");
        }
        drop(client.stream);
        let end = timeout(PATIENCE, stream.read(&mut [0])).await.expect("in time");
        assert_eq!(end.expect("an end"), 0);
        assert!(!client.serving.await.expect("does not panic"));
    });
}

#[test]
fn who_says_nothing_or_half_of_it_is_not_waited_for() {
    in_own_namespace(async || {
        let endpoint = Endpoint::answering(usual).await;
        let proxy = proxy(&[endpoint.address], json!({}));
        for text in ["", "GET /a HTTP/1.1\r\nHost: web.exa", "GET /a HTTP/1.1\r\nHost: web.example\r\n"] {
            let mut client = Client::with_patience(&proxy, Duration::from_millis(50));
            client.say(text.as_bytes()).await;
            assert_eq!(client.hear().await, (String::new(), false));
        }
        let mut client = Client::with_patience(&proxy, Duration::from_millis(50));
        client.say(get("/a").as_bytes()).await;
        assert_eq!(client.hear().await.0, "HTTP/1.1 200 OK | content-length: 2, date: now | /a\n");
        assert_eq!(endpoint.heard().lines().count(), 1);
    });
}

/// Heads have a limit, which is the whole stack's.
#[test]
fn heads_that_are_long_are_for_the_whole_stack() {
    in_own_namespace(async || {
        let long = format!("GET /a HTTP/1.1\r\nHost: web.example\r\nX-Long: {}\r\n\r\n", "x".repeat(20_000));
        assert!(both_ways(&long).await.1);
        let many: String = (0..80).map(|at| format!("X-{at}: a\r\n")).collect();
        assert!(both_ways(&format!("GET /a HTTP/1.1\r\nHost: web.example\r\n{many}\r\n")).await.1);
        let endless = format!("GET /a HTTP/1.1\r\nHost: web.example\r\nX-Long: {}", "x".repeat(600_000));
        let endpoint = Endpoint::answering(usual).await;
        let mut client = Client::quick(&proxy(&[endpoint.address], json!({})));
        // It may be refused before all is said.
        client.stream.write_all(endless.as_bytes()).await.map_or_else(drop, drop);
        assert!(client.hear().await.0.starts_with("HTTP/1.1 431 "));
    });
}

/// An Upgrade on a connection that was served here is the whole stack's, with whatever comes behind.
#[test]
fn connections_become_others_after_plain_requests() {
    in_own_namespace(async || {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let address = listener.local_addr().expect("has one");
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                tokio::spawn(async move {
                    let mut heard = Vec::new();
                    while length_of_message(&heard).is_none() {
                        if stream.read_buf(&mut heard).await.expect("reads") == 0 {
                            return;
                        }
                    }
                    if !String::from_utf8_lossy(&heard).contains("upgrade: echo") {
                        stream.write_all(KEPT.as_bytes()).await.expect("writes");
                        return;
                    }
                    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
                    stream.write_all(answer.as_bytes()).await.expect("writes");
                    let (mut reading, mut writing) = stream.split();
                    tokio::io::copy(&mut reading, &mut writing).await.expect("copies");
                });
            }
        });
        let mut client = Client::quick(&proxy(&[address], json!({})));
        client.say(get("/a").as_bytes()).await;
        let upgrade = "GET /b HTTP/1.1\r\nHost: web.example\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        client.say(upgrade.as_bytes()).await;
        let mut got = Vec::new();
        while !String::from_utf8_lossy(&got).contains("upgrade: echo") {
            timeout(PATIENCE, client.stream.read_buf(&mut got)).await.expect("in time").expect("reads");
        }
        client.say(b"said twice").await;
        let mut echo = [0; 10];
        timeout(PATIENCE, client.stream.read_exact(&mut echo)).await.expect("in time").expect("reads");
        assert_eq!(&echo, b"said twice");
    });
}
