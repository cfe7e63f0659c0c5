//! Questions and answers by table.

use expect_test::{Expect, expect};

use super::super::testing::cluster;
use super::*;

fn kind(text: &str) -> Kind {
    match text {
        "A" => Kind::A,
        "AAAA" => Kind::Aaaa,
        "SRV" => Kind::Srv,
        "PTR" => Kind::Ptr,
        "CNAME" => Kind::Cname,
        "TXT" => Kind::Txt,
        "NS" => Kind::Ns,
        "SOA" => Kind::Soa,
        "ANY" => Kind::Any,
        _ => Kind::Other,
    }
}

fn print(records: &[Record]) -> String {
    records.iter().map(|(owner, data)| format!("\n  {owner} {data:?}")).collect()
}

fn check(questions: &str, expected: Expect) {
    let names = cluster();
    let mut text = String::new();
    for question in questions.trim().lines().map(str::trim) {
        let (name, asked) = question.split_once(' ').expect("a name and a type");
        let fate = match answer(&names, name, kind(asked)) {
            Answer::Found { answers, additionals } if additionals.is_empty() => print(&answers),
            Answer::Found { answers, additionals } => format!("{}\n  and{}", print(&answers), print(&additionals)),
            Answer::Elsewhere { answers, target } => format!("{}\n  then ask elsewhere for {target}", print(&answers)),
            other => format!(" {other:?}"),
        };
        text += &format!("{question}:{fate}\n");
    }
    expected.assert_eq(&text);
}

#[test]
fn services_with_a_cluster_address() {
    check(
        "web.default.svc.cluster.local A
         web.default.svc.cluster.local AAAA
         web.default.svc.cluster.local SRV
         web.default.svc.cluster.local TXT
         _http._tcp.web.default.svc.cluster.local SRV
         _http._udp.web.default.svc.cluster.local SRV
         _tcp.web.default.svc.cluster.local SRV
         _sctp.web.default.svc.cluster.local SRV
         web.other.svc.cluster.local A
         dual.default.svc.cluster.local AAAA
         pending.default.svc.cluster.local A",
        expect![[r#"
            web.default.svc.cluster.local A:
              web.default.svc.cluster.local Address(10.96.1.1)
            web.default.svc.cluster.local AAAA: NoData
            web.default.svc.cluster.local SRV:
              web.default.svc.cluster.local Srv { port: 80, target: "web.default.svc.cluster.local" }
              web.default.svc.cluster.local Srv { port: 53, target: "web.default.svc.cluster.local" }
              and
              web.default.svc.cluster.local Address(10.96.1.1)
            web.default.svc.cluster.local TXT: NoData
            _http._tcp.web.default.svc.cluster.local SRV:
              _http._tcp.web.default.svc.cluster.local Srv { port: 80, target: "web.default.svc.cluster.local" }
              and
              web.default.svc.cluster.local Address(10.96.1.1)
            _http._udp.web.default.svc.cluster.local SRV: NoSuchName
            _tcp.web.default.svc.cluster.local SRV: NoData
            _sctp.web.default.svc.cluster.local SRV: NoSuchName
            web.other.svc.cluster.local A: NoSuchName
            dual.default.svc.cluster.local AAAA:
              dual.default.svc.cluster.local Address(fd00::1)
            pending.default.svc.cluster.local A: NoSuchName
        "#]],
    );
}

#[test]
fn headless_services_and_their_endpoints() {
    check(
        "db.default.svc.cluster.local A
         db-0.db.default.svc.cluster.local A
         db-9.db.default.svc.cluster.local A
         10-244-0-6.db.default.svc.cluster.local A
         _sql._tcp.db.default.svc.cluster.local SRV
         lonely.default.svc.cluster.local A
         _sql._tcp.lonely.default.svc.cluster.local SRV",
        expect![[r#"
            db.default.svc.cluster.local A:
              db.default.svc.cluster.local Address(10.244.0.5)
              db.default.svc.cluster.local Address(10.244.0.6)
            db-0.db.default.svc.cluster.local A:
              db-0.db.default.svc.cluster.local Address(10.244.0.5)
            db-9.db.default.svc.cluster.local A: NoSuchName
            10-244-0-6.db.default.svc.cluster.local A:
              10-244-0-6.db.default.svc.cluster.local Address(10.244.0.6)
            _sql._tcp.db.default.svc.cluster.local SRV:
              _sql._tcp.db.default.svc.cluster.local Srv { port: 5432, target: "db-0.db.default.svc.cluster.local" }
              _sql._tcp.db.default.svc.cluster.local Srv { port: 5432, target: "10-244-0-6.db.default.svc.cluster.local" }
              and
              db-0.db.default.svc.cluster.local Address(10.244.0.5)
              10-244-0-6.db.default.svc.cluster.local Address(10.244.0.6)
            lonely.default.svc.cluster.local A: NoData
            _sql._tcp.lonely.default.svc.cluster.local SRV: NoData
        "#]],
    );
}

#[test]
fn names_of_addresses() {
    check(
        "1.1.96.10.in-addr.arpa PTR
         5.0.244.10.in-addr.arpa PTR
         6.0.244.10.in-addr.arpa PTR
         9.9.244.10.in-addr.arpa PTR
         1.1.96.10.in-addr.arpa A
         8.8.8.8.in-addr.arpa PTR
         1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR",
        expect![[r#"
            1.1.96.10.in-addr.arpa PTR:
              1.1.96.10.in-addr.arpa Ptr("web.default.svc.cluster.local")
            5.0.244.10.in-addr.arpa PTR:
              5.0.244.10.in-addr.arpa Ptr("db-0.db.default.svc.cluster.local")
            6.0.244.10.in-addr.arpa PTR:
              6.0.244.10.in-addr.arpa Ptr("10-244-0-6.db.default.svc.cluster.local")
            9.9.244.10.in-addr.arpa PTR: NoSuchName
            1.1.96.10.in-addr.arpa A: NoData
            8.8.8.8.in-addr.arpa PTR: NotOurs
            1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR:
              1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa Ptr("dual.default.svc.cluster.local")
        "#]],
    );
}

#[test]
fn aliases() {
    check(
        "outside.default.svc.cluster.local A
         outside.default.svc.cluster.local CNAME
         inside.default.svc.cluster.local A
         circle.default.svc.cluster.local A
         nowhere.default.svc.cluster.local A",
        expect![[r#"
            outside.default.svc.cluster.local A:
              outside.default.svc.cluster.local Cname("example.com")
              then ask elsewhere for example.com
            outside.default.svc.cluster.local CNAME:
              outside.default.svc.cluster.local Cname("example.com")
            inside.default.svc.cluster.local A:
              inside.default.svc.cluster.local Cname("web.default.svc.cluster.local")
              web.default.svc.cluster.local Address(10.96.1.1)
            circle.default.svc.cluster.local A:
              circle.default.svc.cluster.local Cname("circle.default.svc.cluster.local")
            nowhere.default.svc.cluster.local A:
              nowhere.default.svc.cluster.local Cname("none.default.svc.cluster.local")
        "#]],
    );
}

#[test]
fn pods_and_the_zone_itself() {
    check(
        "10-244-0-5.default.pod.cluster.local A
         10-244-0-5.nowhere.pod.cluster.local A
         hello.default.pod.cluster.local A
         fd00--1.default.pod.cluster.local AAAA
         cluster.local SOA
         cluster.local NS
         cluster.local A
         ns.dns.cluster.local A
         dns-version.cluster.local TXT
         svc.cluster.local A
         default.svc.cluster.local A
         nowhere.svc.cluster.local A
         default.pod.cluster.local A
         a.b.c.d.e.f.cluster.local A
         example.com A
         notcluster.local A
         local A",
        expect![[r#"
            10-244-0-5.default.pod.cluster.local A:
              10-244-0-5.default.pod.cluster.local Address(10.244.0.5)
            10-244-0-5.nowhere.pod.cluster.local A: NoSuchName
            hello.default.pod.cluster.local A: NoSuchName
            fd00--1.default.pod.cluster.local AAAA:
              fd00--1.default.pod.cluster.local Address(fd00::1)
            cluster.local SOA:
              cluster.local Soa
            cluster.local NS:
              cluster.local Ns("ns.dns.cluster.local")
              and
              ns.dns.cluster.local Address(10.96.0.10)
              ns.dns.cluster.local Address(fd00:10:96::a)
            cluster.local A: NoData
            ns.dns.cluster.local A:
              ns.dns.cluster.local Address(10.96.0.10)
            dns-version.cluster.local TXT:
              dns-version.cluster.local Txt("1.1.0")
            svc.cluster.local A: NoData
            default.svc.cluster.local A: NoData
            nowhere.svc.cluster.local A: NoSuchName
            default.pod.cluster.local A: NoData
            a.b.c.d.e.f.cluster.local A: NoSuchName
            example.com A: NotOurs
            notcluster.local A: NotOurs
            local A: NotOurs
        "#]],
    );
}

#[test]
fn what_is_gone_is_not_answered_any_more() {
    let mut names = cluster();
    let [service, slice] = super::super::testing::objects("db");
    names.forget_slice(&serde_saphyr::from_str(&slice).expect("a slice"));
    assert_eq!(answer(&names, "db.default.svc.cluster.local", Kind::A), Answer::NoData);
    assert_eq!(answer(&names, "5.0.244.10.in-addr.arpa", Kind::Ptr), Answer::NoSuchName);
    names.forget_service(&serde_saphyr::from_str(&service).expect("a Service"));
    assert_eq!(answer(&names, "db.default.svc.cluster.local", Kind::A), Answer::NoSuchName);
    names.put_namespace("default", false);
    assert_eq!(answer(&names, "10-244-0-5.default.pod.cluster.local", Kind::A), Answer::NoSuchName);
}

#[test]
fn names_of_ipv6_addresses() {
    check(
        "six.default.svc.cluster.local AAAA
         six.default.svc.cluster.local A
         six-0.six.default.svc.cluster.local AAAA
         fd00-10-244-0-1--6.six.default.svc.cluster.local AAAA
         _sql._tcp.six.default.svc.cluster.local SRV
         dual.default.svc.cluster.local A
         dual.default.svc.cluster.local ANY
         fd00-10-244--7.default.pod.cluster.local AAAA
         fd00-10-244--7.default.pod.cluster.local A
         --1.default.pod.cluster.local AAAA
         fd00-10-244--x.default.pod.cluster.local AAAA
         ns.dns.cluster.local AAAA
         1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR
         5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa PTR
         6.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa PTR
         7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa PTR
         7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa PTR
         1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR",
        expect![[r#"
            six.default.svc.cluster.local AAAA:
              six.default.svc.cluster.local Address(fd00:10:244::5)
              six.default.svc.cluster.local Address(fd00:10:244:0:1::6)
            six.default.svc.cluster.local A: NoData
            six-0.six.default.svc.cluster.local AAAA:
              six-0.six.default.svc.cluster.local Address(fd00:10:244::5)
            fd00-10-244-0-1--6.six.default.svc.cluster.local AAAA:
              fd00-10-244-0-1--6.six.default.svc.cluster.local Address(fd00:10:244:0:1::6)
            _sql._tcp.six.default.svc.cluster.local SRV:
              _sql._tcp.six.default.svc.cluster.local Srv { port: 5432, target: "six-0.six.default.svc.cluster.local" }
              _sql._tcp.six.default.svc.cluster.local Srv { port: 5432, target: "fd00-10-244-0-1--6.six.default.svc.cluster.local" }
              and
              six-0.six.default.svc.cluster.local Address(fd00:10:244::5)
              fd00-10-244-0-1--6.six.default.svc.cluster.local Address(fd00:10:244:0:1::6)
            dual.default.svc.cluster.local A:
              dual.default.svc.cluster.local Address(10.96.1.2)
            dual.default.svc.cluster.local ANY:
              dual.default.svc.cluster.local Address(10.96.1.2)
              dual.default.svc.cluster.local Address(fd00::1)
              dual.default.svc.cluster.local Srv { port: 80, target: "dual.default.svc.cluster.local" }
              and
              dual.default.svc.cluster.local Address(10.96.1.2)
              dual.default.svc.cluster.local Address(fd00::1)
            fd00-10-244--7.default.pod.cluster.local AAAA:
              fd00-10-244--7.default.pod.cluster.local Address(fd00:10:244::7)
            fd00-10-244--7.default.pod.cluster.local A: NoData
            --1.default.pod.cluster.local AAAA:
              --1.default.pod.cluster.local Address(::1)
            fd00-10-244--x.default.pod.cluster.local AAAA: NoSuchName
            ns.dns.cluster.local AAAA:
              ns.dns.cluster.local Address(fd00:10:96::a)
            1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa PTR:
              1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa Ptr("dual.default.svc.cluster.local")
            5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa PTR:
              5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa Ptr("six-0.six.default.svc.cluster.local")
            6.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa PTR:
              6.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa Ptr("fd00-10-244-0-1--6.six.default.svc.cluster.local")
            7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.4.4.2.0.0.1.0.0.0.0.d.f.ip6.arpa PTR: NoSuchName
            7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa PTR: NoSuchName
            1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa PTR: NotOurs
        "#]],
    );
}
