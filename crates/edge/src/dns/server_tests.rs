//! Real sockets, in a network namespace of the tests' own.

use std::str::FromStr;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use skiff_base::clock::SystemClock;

use tokio::net::UdpSocket;

use super::super::testing::cluster;
use super::*;
use crate::testing::in_own_namespace;

async fn start(resolv_conf: Option<PathBuf>) -> (Arc<Shared>, SocketAddr, Listener) {
    let shared = Arc::new(Shared {
        names: RwLock::new(cluster()),
        forwarder: Forwarder::new(resolv_conf, Vec::new(), SystemClock::shared()),
        rotation: AtomicUsize::new(0),
    });
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
    let address = udp.local_addr().expect("is bound");
    let tcp = TcpListener::bind(address).await.expect("binds");
    let listener = Listener::start(udp, shared.clone(), Handle::current()).expect("a thread");
    tokio::spawn(serve_tcp(shared.clone(), tcp));
    (shared, address, listener)
}

fn question(name: &str) -> Vec<u8> {
    let mut request = Message::query();
    request.add_query(Query::query(Name::from_str(name).expect("a name"), RecordType::A));
    request.to_vec().expect("encodes")
}

async fn ask_udp(server: SocketAddr, name: &str) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("binds");
    socket.send_to(&question(name), server).await.expect("sends");
    let mut buffer = [0; 4096];
    let received = timeout(Duration::from_secs(5), socket.recv(&mut buffer)).await.expect("an answer in time");
    Message::from_vec(&buffer[..received.expect("receives")]).expect("decodes")
}

async fn ask_tcp(server: SocketAddr, names: &[&str]) -> Vec<Message> {
    let mut stream = TcpStream::connect(server).await.expect("connects");
    let mut answers = Vec::new();
    for name in names {
        let question = question(name);
        stream.write_u16(question.len() as u16).await.expect("sends");
        stream.write_all(&question).await.expect("sends");
        let mut answer = vec![0; stream.read_u16().await.expect("receives").into()];
        stream.read_exact(&mut answer).await.expect("receives");
        answers.push(Message::from_vec(&answer).expect("decodes"));
    }
    answers
}

#[test]
fn answers_by_udp_and_by_tcp() {
    in_own_namespace(async || {
        let (shared, server, _listener) = start(None).await;
        let name = "web.default.svc.cluster.local.";
        assert_eq!(ask_udp(server, name).await.answers[0].data.to_string(), "10.96.1.1");
        let answers = ask_tcp(server, &[name, "db.default.svc.cluster.local.", "example.com."]).await;
        assert_eq!(answers.iter().map(|answer| answer.answers.len()).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(answers[2].metadata.response_code, ResponseCode::Refused);
        let service = "metadata: {name: new, namespace: default}\nspec: {clusterIP: 10.96.7.7}";
        assert_eq!(
            ask_udp(server, "new.default.svc.cluster.local.").await.metadata.response_code,
            ResponseCode::NXDomain
        );
        shared.names.write().put_service(&serde_saphyr::from_str(service).expect("a Service"));
        assert_eq!(ask_udp(server, "new.default.svc.cluster.local.").await.answers[0].data.to_string(), "10.96.7.7");
    });
}

/// The resolver that the host would have: a second server of ours, whose zone the first one does not have.
#[test]
fn other_names_are_asked_of_the_hosts_resolvers() {
    let folder = std::env::temp_dir().join(format!("skiff-edge-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let file = folder.join("resolv.conf");
    std::fs::write(&file, "# the host's\nsearch example.com\nnameserver 127.0.0.2\n").expect("can be written");
    in_own_namespace(async || {
        let upstream = Names::new(Zone {
            domain: "example.com".into(),
            servers: vec!["192.0.2.53".parse().expect("an address")],
            own_ranges: Vec::new(),
        });
        let resolver = Arc::new(Shared {
            names: RwLock::new(upstream),
            forwarder: Forwarder::new(None, Vec::new(), SystemClock::shared()),
            rotation: AtomicUsize::new(0),
        });
        let socket = std::net::UdpSocket::bind("127.0.0.2:53").expect("binds");
        let serving = Listener::start(socket, resolver, Handle::current()).expect("a thread");
        let (shared, server, _listener) = start(Some(file.clone())).await;
        let answer = ask_udp(server, "ns.dns.example.com.").await;
        assert_eq!(answer.answers[0].to_string(), "ns.dns.example.com. 30 IN A 192.0.2.53");
        assert!(answer.metadata.recursion_available && !answer.metadata.authoritative);
        assert_eq!(ask_udp(server, "none.example.com.").await.metadata.response_code, ResponseCode::NXDomain);
        let alias =
            "metadata: {name: alias, namespace: default}\nspec: {type: ExternalName, externalName: ns.dns.example.com}";
        shared.names.write().put_service(&serde_saphyr::from_str(alias).expect("a Service"));
        let answer = ask_udp(server, "alias.default.svc.cluster.local.").await;
        let records: Vec<String> = answer.answers.iter().map(ToString::to_string).collect();
        let expected = [
            "alias.default.svc.cluster.local. 30 IN CNAME ns.dns.example.com.",
            "ns.dns.example.com. 30 IN A 192.0.2.53",
        ];
        assert_eq!(records, expected);

        // Once the resolver is gone, what it said is remembered, and the rest fails at once.
        drop(serving);
        assert_eq!(ask_udp(server, "NS.dns.example.com.").await.answers.len(), 1);
        assert_eq!(ask_udp(server, "other.example.com.").await.metadata.response_code, ResponseCode::ServFail);
    });
    std::fs::remove_dir_all(&folder).expect("the folder can be removed");
}

/// More questions than one batch takes, of several clients at once, also such that are answered at length, or not at all:
/// each client gets the answers to its own questions, and no others.
#[test]
fn questions_that_come_together_are_answered_to_who_asked() {
    const CLIENTS: usize = 7;
    const EACH: usize = 15;
    in_own_namespace(async || {
        let (shared, server, _listener) = start(None).await;
        for at in 0..CLIENTS * EACH {
            let service = format!("metadata: {{name: s{at}, namespace: default}}\nspec: {{clusterIP: 10.96.3.{at}}}");
            shared.names.write().put_service(&serde_saphyr::from_str(&service).expect("a Service"));
        }
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            let client = std::net::UdpSocket::bind("127.0.0.1:0").expect("binds");
            client.set_nonblocking(true).expect("a socket can do that");
            clients.push(client);
        }
        // No look at the names is to be had before all of them are sent.
        let names = shared.names.write();
        for at in 0..CLIENTS * EACH {
            let client = &clients[at % CLIENTS];
            // Names that are not there go the long way.
            let name = if at % 5 == 4 { format!("s{at}.other") } else { format!("S{at}.default") };
            let mut request = question(&format!("{name}.svc.cluster.local."));
            request[..2].copy_from_slice(&(at as u16).to_be_bytes());
            assert_eq!(client.send_to(&request, server).expect("sends"), request.len());
            client.send_to(b"no question", server).expect("sends");
        }
        drop(names);
        for (number, client) in clients.into_iter().enumerate() {
            let client = UdpSocket::from_std(client).expect("it does not block");
            let mut seen: Vec<usize> = Vec::new();
            for _ in 0..EACH {
                let mut buffer = [0; 4096];
                let received = timeout(Duration::from_secs(5), client.recv(&mut buffer)).await.expect("in time");
                let answer = Message::from_vec(&buffer[..received.expect("receives")]).expect("decodes");
                let at = usize::from(answer.metadata.id);
                let found = answer.answers.first().map(|record| record.data.to_string());
                assert_eq!(found, (at % 5 != 4).then(|| format!("10.96.3.{at}")));
                seen.push(at);
            }
            seen.sort_unstable();
            assert!(seen.iter().copied().eq((0..EACH).map(|at| at * CLIENTS + number)), "{seen:?}");
            assert!(client.try_recv(&mut [0; 16]).is_err(), "nothing else comes");
        }
    });
}
