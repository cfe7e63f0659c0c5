//! What the protocol asks for beside the answer.

use super::super::testing::{cluster, zone};
use super::*;

fn request(name: &str, kind: RecordType) -> Message {
    let mut request = Message::query();
    request.metadata.recursion_desired = true;
    request.add_query(Query::query(Name::from_ascii(name).expect("a name"), kind));
    request
}

fn reply(bytes: &[u8], names: &Names) -> Message {
    match respond(bytes, names, false, 0) {
        Outcome::Reply(reply) => reply,
        _ => panic!("not a reply"),
    }
}

fn ask(request: &Message) -> Message {
    reply(&request.to_vec().expect("encodes"), &cluster())
}

#[test]
fn the_question_comes_back_as_it_was_written() {
    let request = request("WeB.default.SVC.cluster.local.", RecordType::A);
    let reply = ask(&request);
    assert_eq!(reply.metadata.id, request.metadata.id);
    assert_eq!(reply.queries[0].name().to_ascii(), "WeB.default.SVC.cluster.local.");
    assert_eq!(reply.answers[0].name.to_ascii(), "WeB.default.SVC.cluster.local.");
    assert_eq!(reply.answers[0].to_string(), "WeB.default.SVC.cluster.local. 30 IN A 10.96.1.1");
    assert!(reply.metadata.authoritative && reply.metadata.recursion_desired && !reply.metadata.recursion_available);
    assert!(reply.edns.is_none());
}

#[test]
fn negative_answers_carry_the_start_of_the_zone() {
    for (name, code) in [
        ("web.default.svc.cluster.local.", ResponseCode::NoError),
        ("none.default.svc.cluster.local.", ResponseCode::NXDomain),
    ] {
        let reply = ask(&request(name, RecordType::AAAA));
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (code, 0));
        let soa = "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5";
        assert_eq!(reply.authorities.iter().map(ToString::to_string).collect::<Vec<_>>(), [soa]);
    }
}

#[test]
fn odd_requests_get_the_right_refusal() {
    let with = |change: &dyn Fn(&mut Message)| {
        let mut message = request("web.default.svc.cluster.local.", RecordType::A);
        change(&mut message);
        ask(&message).metadata.response_code
    };
    assert_eq!(with(&|message| message.queries.clear()), ResponseCode::FormErr);
    assert_eq!(with(&|message| message.metadata.op_code = OpCode::Update), ResponseCode::NotImp);
    assert_eq!(with(&|message| message.queries[0].query_class = DNSClass::CH), ResponseCode::Refused);
    let edns = with(&|message| {
        let mut edns = Edns::new();
        edns.set_version(1);
        message.edns = Some(edns);
    });
    assert_eq!(edns, ResponseCode::BADVERS);
    assert_eq!(ask(&request("example.com.", RecordType::A)).metadata.response_code, ResponseCode::Refused);

    assert!(matches!(respond(&[], &cluster(), true, 0), Outcome::Silence));
    assert!(matches!(respond(&[1, 2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0], &cluster(), true, 0), Outcome::Silence));
    let broken = [7, 8, 1, 0, 0, 9, 0, 0, 0, 0, 0, 0, 99];
    let reply = reply(&broken, &cluster());
    assert_eq!((reply.metadata.id, reply.metadata.response_code), (0x0708, ResponseCode::FormErr));
}

#[test]
fn what_does_not_fit_is_cut_and_said_so() {
    let mut names = Names::new(zone());
    let endpoints: String = (1..=200).map(|last| format!("- {{addresses: [10.244.0.{last}]}}\n")).collect();
    let slice = format!(
        "metadata: {{name: many-1, namespace: default, labels: {{kubernetes.io/service-name: many}}}}\naddressType: IPv4\nendpoints:\n{endpoints}"
    );
    let service = "metadata: {name: many, namespace: default}\nspec: {clusterIP: None}";
    names.put_service(&serde_saphyr::from_str(service).expect("a Service"));
    names.put_slice(&serde_saphyr::from_str(&slice).expect("a slice"));
    let mut request = request("many.default.svc.cluster.local.", RecordType::A);
    let size = |request: &Message, by_udp: bool| {
        let bytes = request.to_vec().expect("encodes");
        let limit = by_udp.then(|| udp_limit(&bytes));
        let sent = encode(reply(&bytes, &names), limit).expect("encodes");
        let got = Message::from_vec(&sent).expect("decodes");
        assert!(limit.is_none_or(|limit| sent.len() <= limit));
        (limit, got.answers.len(), got.metadata.truncation)
    };
    let (limit, count, truncated) = size(&request, true);
    assert!(limit == Some(512) && count > 20 && truncated, "{limit:?} {count} {truncated}");
    assert_eq!(size(&request, false), (None, 200, false));
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    request.edns = Some(edns);
    let (limit, count, truncated) = size(&request, true);
    assert!(limit == Some(1232) && count > 60 && truncated, "{limit:?} {count} {truncated}");
}

#[test]
fn addresses_take_turns() {
    let bytes = request("db.default.svc.cluster.local.", RecordType::A).to_vec().expect("encodes");
    let first = |rotation| match respond(&bytes, &cluster(), false, rotation) {
        Outcome::Reply(reply) => reply.answers[0].data.to_string(),
        _ => panic!("not a reply"),
    };
    assert_eq!([first(0), first(1), first(2)], ["10.244.0.5", "10.244.0.6", "10.244.0.5"]);
}
