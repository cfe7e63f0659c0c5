//! Bytes in, bytes out, by either way.

use expect_test::{Expect, expect};

use super::*;

const TOLD: &str = " x-forwarded-for: 192.0.2.9, x-forwarded-host: web.example, x-forwarded-port: 80, \
    x-forwarded-proto: http, x-forwarded-scheme: http, x-real-ip: 192.0.2.9";

fn check(texts: &[&str], expected: Expect) {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    let told = in_own_namespace(async || {
        let mut told = String::new();
        for text in texts {
            let (outcome, by_all) = both_ways(&text).await;
            let way = if by_all { "whole" } else { "quick" };
            told += &format!("{way} {text:?}\n{outcome}\n");
        }
        told
    });
    // What all of them are told is read once.
    expected.assert_eq(&told.replace(TOLD, " who asks"));
}

#[test]
fn plain_requests_go_the_quick_way() {
    check(
        &[
            "GET /a?b=c HTTP/1.1\r\nHost: web.example:80\r\nUser-Agent: test\r\nAccept:   */*  \r\nX-Empty:\r\n\r\n",
            "GET /a HTTP/1.1\r\nhost: WEB.example\r\nConnection: Keep-Alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nForwarded: for=a\r\nX-Forwarded-For: 10.0.0.1\r\nx-real-ip: 10.0.0.1\r\nX-Forwarded-Host: other\r\nCookie: a=b; c=d\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\n\r\nwords",
            "PUT /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 0\r\n\r\n",
            "HEAD /head HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "OPTIONS /a HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: other.example\r\n\r\n",
            "HEAD /a HTTP/1.1\r\nHost: other.example\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n",
        ],
        expect![[r#"
            quick "GET /a?b=c HTTP/1.1\r\nHost: web.example:80\r\nUser-Agent: test\r\nAccept:   */*  \r\nX-Empty:\r\n\r\n"
            heard GET /a?b=c HTTP/1.1 | accept: */*, host: web.example:80, user-agent: test, x-empty: , x-forwarded-for: 192.0.2.9, x-forwarded-host: web.example:80, x-forwarded-port: 80, x-forwarded-proto: http, x-forwarded-scheme: http, x-real-ip: 192.0.2.9
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 6, date: now | /a?b=c
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "GET /a HTTP/1.1\r\nhost: WEB.example\r\nConnection: Keep-Alive\r\nKeep-Alive: timeout=5\r\nProxy-Connection: x\r\nForwarded: for=a\r\nX-Forwarded-For: 10.0.0.1\r\nx-real-ip: 10.0.0.1\r\nX-Forwarded-Host: other\r\nCookie: a=b; c=d\r\n\r\n"
            heard GET /a HTTP/1.1 | cookie: a=b; c=d, host: WEB.example, x-forwarded-for: 192.0.2.9, x-forwarded-host: WEB.example, x-forwarded-port: 80, x-forwarded-proto: http, x-forwarded-scheme: http, x-real-ip: 192.0.2.9
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\n\r\nwords"
            heard POST /a HTTP/1.1 | content-length: 5, host: web.example, who asks | words
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "PUT /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 0\r\n\r\n"
            heard PUT /a HTTP/1.1 | content-length: 0, host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "HEAD /head HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard HEAD /head HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 7, date: now
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "OPTIONS /a HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard OPTIONS /a HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "GET /a HTTP/1.1\r\nHost: other.example\r\n\r\n"
            heard GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 404 Not Found | content-length: 22, content-type: text/plain; charset=utf-8, date: now | default backend - 404

            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "HEAD /a HTTP/1.1\r\nHost: other.example\r\n\r\n"
            heard GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 404 Not Found | content-length: 22, content-type: text/plain; charset=utf-8, date: now
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "GET /a HTTP/1.1\r\nHost: web.example\r\nConnection: close\r\n\r\n"
            heard GET /a HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | connection: close, content-length: 2, date: now | /a

        "#]],
    );
}

#[test]
fn answers_are_passed_on_with_their_ends() {
    let paths = ["/chunks", "/close", "/rest", "/old", "/none", "/same", "/hints", "/twice"];
    let texts: Vec<String> = paths.into_iter().map(get).collect();
    check(
        &texts.iter().map(String::as_str).collect::<Vec<_>>(),
        expect![[r#"
        quick "GET /chunks HTTP/1.1\r\nHost: web.example\r\n\r\n"
        heard GET /chunks HTTP/1.1 | host: web.example, who asks
        GET /last HTTP/1.1 | host: web.example, who asks
        got HTTP/1.1 200 Fine | date: now, transfer-encoding: chunked, x-a: b | wikipedia
        HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

        quick "GET /close HTTP/1.1\r\nHost: web.example\r\n\r\n"
        heard GET /close HTTP/1.1 | host: web.example, who asks
        GET /last HTTP/1.1 | host: web.example, who asks
        got HTTP/1.1 200 OK | content-length: 2, date: now | hi
        HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

        quick "GET /rest HTTP/1.1\r\nHost: web.example\r\n\r\n"
        heard GET /rest HTTP/1.1 | host: web.example, who asks
        GET /last HTTP/1.1 | host: web.example, who asks
        got HTTP/1.1 200 OK | date: now, server: old, transfer-encoding: chunked | to the end
        HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

        quick "GET /old HTTP/1.1\r\nHost: web.example\r\n\r\n"
        heard GET /old HTTP/1.1 | host: web.example, who asks
        GET /last HTTP/1.1 | host: web.example, who asks
        got HTTP/1.1 200 OK | date: now, transfer-encoding: chunked | as of old
        HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

        quick "GET /none HTTP/1.1\r\nHost: web.example\r\n\r\n"
        heard GET /none HTTP/1.1 | host: web.example, who asks
        GET /last HTTP/1.1 | host: web.example, who asks
        got HTTP/1.1 204 No Content | date: now
        HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

        quick "GET /same HTTP/1.1\r\nHost: web.example\r\n\r\n"
        heard GET /same HTTP/1.1 | host: web.example, who asks
        GET /last HTTP/1.1 | host: web.example, who asks
        got HTTP/1.1 304 Not Modified | date: now, etag: "a"
        HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

        quick "GET /hints HTTP/1.1\r\nHost: web.example\r\n\r\n"
        heard GET /hints HTTP/1.1 | host: web.example, who asks
        GET /last HTTP/1.1 | host: web.example, who asks
        got HTTP/1.1 200 OK | content-length: 6, date: now | hinted
        HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

        quick "GET /twice HTTP/1.1\r\nHost: web.example\r\n\r\n"
        heard GET /twice HTTP/1.1 | host: web.example, who asks
        GET /last HTTP/1.1 | host: web.example, who asks
        got HTTP/1.1 200 OK | content-length: 4, date: now | wiki
        HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

    "#]],
    );
}

/// Chunks go before a length, as RFC 9112 has it, and the length is not told.
#[test]
fn an_answer_with_a_length_and_chunks_is_chunks() {
    in_own_namespace(async || {
        let endpoint = Endpoint::answering(usual).await;
        let mut client = Client::quick(&proxy(&[endpoint.address], json!({})));
        client.say(format!("{}{LAST}", get("/both")).as_bytes()).await;
        let (got, _) = client.hear().await;
        let wanted = "HTTP/1.1 200 OK | date: now, transfer-encoding: chunked | wiki\n\
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last\n";
        assert_eq!(got, wanted);
    });
}

#[test]
fn broken_answers_are_broken_for_the_client() {
    let paths = ["/differ", "/strange", "/short", "/broken", "/garbage", "/silent", "/more"];
    let texts: Vec<String> = paths.into_iter().map(get).collect();
    check(
        &texts.iter().map(String::as_str).collect::<Vec<_>>(),
        expect![[r#"
            quick "GET /differ HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /differ HTTP/1.1 | host: web.example, who asks
            GET /differ HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 502 Bad Gateway | content-length: 16, content-type: text/plain; charset=utf-8, date: now | 502 Bad Gateway

            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "GET /strange HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /strange HTTP/1.1 | host: web.example, who asks
            GET /strange HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 502 Bad Gateway | content-length: 16, content-type: text/plain; charset=utf-8, date: now | 502 Bad Gateway

            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "GET /short HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /short HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 9, date: now | wiki

            quick "GET /broken HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /broken HTTP/1.1 | host: web.example, who asks
            got 
            quick "GET /garbage HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /garbage HTTP/1.1 | host: web.example, who asks
            GET /garbage HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 502 Bad Gateway | content-length: 16, content-type: text/plain; charset=utf-8, date: now | 502 Bad Gateway

            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "GET /silent HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /silent HTTP/1.1 | host: web.example, who asks
            GET /silent HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 502 Bad Gateway | content-length: 16, content-type: text/plain; charset=utf-8, date: now | 502 Bad Gateway

            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "GET /more HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /more HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 3, date: now | own
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

        "#]],
    );
}

/// What somebody else could read in another way is looked at by the whole stack, and what that refuses is refused.
#[test]
fn nothing_is_smuggled() {
    check(
        &[
            "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwords\r\n0\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nwords",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nwords",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5, 5\r\n\r\nwords",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: +5\r\n\r\nwords",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: -5\r\n\r\nwords",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 0x5\r\n\r\nwords",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 99999999999999999999\r\n\r\nwords",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length :5\r\n\r\nwords",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\n\r\nwords",
            "GET /a HTTP/1.1\r\nHost: web.example\r\nX-A: b\r\n c: d\r\n\r\n",
            "GET /a HTTP/1.1\r\n Host: web.example\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: web.example\r\nHost: other.example\r\n\r\n",
            "GET /a HTTP/1.1\r\nX-A: b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost:\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: web.example@other\r\n\r\n",
            "GET http://web.example/a HTTP/1.1\r\nHost: other.example\r\n\r\n",
            "GET /a HTTP/1.0\r\nHost: web.example\r\n\r\n",
            "GET /a HTTP/1.2\r\nHost: web.example\r\n\r\n",
            "GET /a  HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "GET /a\tb HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "GET /a#b HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "GET /a\\b|c HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "GET a HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "get /a HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "TRACE /a HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "\r\nGET /a HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "GET /a HTTP/1.1\nHost: web.example\n\n",
            "GET /a HTTP/1.1\r\nHost: web.example\r\nX-A: b\0c\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: web.example\r\nX-A: b\rc\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: web.example\r\nX A: b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: web.example\r\nConnection: X-Private\r\nX-Private: 1\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: web.example\r\nConnection: close, Host\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: web.example\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: web.example\r\nTE: trailers\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: web.example\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nwords",
            "GET /safe HTTP/1.1\r\nHost: web.example\r\n\r\n",
            "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n",
        ],
        expect![[r#"
            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard POST /a HTTP/1.1 | host: web.example, transfer-encoding: chunked, who asks
            got HTTP/1.1 200 OK | connection: close, content-length: 2, date: now | /a

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwords\r\n0\r\n\r\n"
            heard POST /a HTTP/1.1 | host: web.example, transfer-encoding: chunked, who asks | words
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nTransfer-Encoding:\u{b}chunked\r\n\r\n0\r\n\r\n"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nwords"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nwords"
            heard POST /a HTTP/1.1 | content-length: 5, host: web.example, who asks | words
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5, 5\r\n\r\nwords"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: +5\r\n\r\nwords"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: -5\r\n\r\nwords"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 0x5\r\n\r\nwords"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 99999999999999999999\r\n\r\nwords"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length :5\r\n\r\nwords"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            quick "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\n\r\nwords"
            heard POST /a HTTP/1.1 | content-length: 5, host: web.example, who asks | words
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET /a HTTP/1.1\r\nHost: web.example\r\nX-A: b\r\n c: d\r\n\r\n"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "GET /a HTTP/1.1\r\n Host: web.example\r\n\r\n"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "GET /a HTTP/1.1\r\nHost: web.example\r\nHost: other.example\r\n\r\n"
            heard GET /a HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET /a HTTP/1.1\r\nX-A: b\r\n\r\n"
            heard GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 404 Not Found | content-length: 22, content-type: text/plain; charset=utf-8, date: now | default backend - 404

            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET /a HTTP/1.1\r\nHost:\r\n\r\n"
            heard GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 404 Not Found | content-length: 22, content-type: text/plain; charset=utf-8, date: now | default backend - 404

            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET /a HTTP/1.1\r\nHost: web.example@other\r\n\r\n"
            heard GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 404 Not Found | content-length: 22, content-type: text/plain; charset=utf-8, date: now | default backend - 404

            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET http://web.example/a HTTP/1.1\r\nHost: other.example\r\n\r\n"
            heard GET /a HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET /a HTTP/1.0\r\nHost: web.example\r\n\r\n"
            heard GET /a HTTP/1.1 | host: web.example, who asks
            got HTTP/1.0 200 OK | content-length: 2, date: now | /a

            whole "GET /a HTTP/1.2\r\nHost: web.example\r\n\r\n"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "GET /a  HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "GET /a\tb HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "GET /a#b HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /a HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET /a\\b|c HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /a\b|c HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 6, date: now | /a\b|c
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET a HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 404 Not Found | content-length: 22, content-type: text/plain; charset=utf-8, date: now | default backend - 404

            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "OPTIONS * HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 404 Not Found | content-length: 22, content-type: text/plain; charset=utf-8, date: now | default backend - 404

            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "get /a HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard get /a HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "TRACE /a HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard TRACE /a HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "\r\nGET /a HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /a HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            quick "GET /a HTTP/1.1\nHost: web.example\n\n"
            heard GET /a HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET /a HTTP/1.1\r\nHost: web.example\r\nX-A: b\0c\r\n\r\n"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "GET /a HTTP/1.1\r\nHost: web.example\r\nX-A: b\rc\r\n\r\n"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "GET /a HTTP/1.1\r\nHost: web.example\r\nX A: b\r\n\r\n"
            heard got HTTP/1.1 400 Bad Request | connection: close, content-length: 0, date: now

            whole "GET /a HTTP/1.1\r\nHost: web.example\r\nConnection: X-Private\r\nX-Private: 1\r\n\r\n"
            heard GET /a HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET /a HTTP/1.1\r\nHost: web.example\r\nConnection: close, Host\r\n\r\n"
            heard GET /a HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | connection: close, content-length: 2, date: now | /a

            whole "GET /a HTTP/1.1\r\nHost: web.example\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
            heard GET /a HTTP/1.1 | connection: upgrade, host: web.example, upgrade: h2c, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET /a HTTP/1.1\r\nHost: web.example\r\nTE: trailers\r\n\r\n"
            heard GET /a HTTP/1.1 | host: web.example, te: trailers, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET /a HTTP/1.1\r\nHost: web.example\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n"
            heard GET /a HTTP/1.1 | cookie: a=b; c=d, host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nwords"
            heard POST /a HTTP/1.1 | content-length: 5, host: web.example, who asks | words
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 100 Continue | 
            HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "GET /safe HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 308 Permanent Redirect | content-length: 23, content-type: text/plain; charset=utf-8, date: now, location: https://web.example/safe | 308 Permanent Redirect

            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

            whole "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n"
            heard POST /a HTTP/1.1 | content-length: 0, content-type: application/grpc, host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

        "#]],
    );
}

#[test]
fn what_the_whole_stack_is_given_it_keeps() {
    let odd = get("/odd|one");
    check(
        &[&format!("{}{}{odd}{}", get("/a"), get("/b"), get("/c"))],
        expect![[r#"
            whole "GET /a HTTP/1.1\r\nHost: web.example\r\n\r\nGET /b HTTP/1.1\r\nHost: web.example\r\n\r\nGET /odd|one HTTP/1.1\r\nHost: web.example\r\n\r\nGET /c HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /a HTTP/1.1 | host: web.example, who asks
            GET /b HTTP/1.1 | host: web.example, who asks
            GET /odd|one HTTP/1.1 | host: web.example, who asks
            GET /c HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 OK | content-length: 2, date: now | /b
            HTTP/1.1 200 OK | content-length: 8, date: now | /odd|one
            HTTP/1.1 200 OK | content-length: 2, date: now | /c
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

        "#]],
    );
}

#[test]
fn pipelined_requests_are_answered_in_turn() {
    check(
        &[&format!("{}{}{}", get("/a"), get("/chunks"), get("/none"))],
        expect![[r#"
            quick "GET /a HTTP/1.1\r\nHost: web.example\r\n\r\nGET /chunks HTTP/1.1\r\nHost: web.example\r\n\r\nGET /none HTTP/1.1\r\nHost: web.example\r\n\r\n"
            heard GET /a HTTP/1.1 | host: web.example, who asks
            GET /chunks HTTP/1.1 | host: web.example, who asks
            GET /none HTTP/1.1 | host: web.example, who asks
            GET /last HTTP/1.1 | host: web.example, who asks
            got HTTP/1.1 200 OK | content-length: 2, date: now | /a
            HTTP/1.1 200 Fine | date: now, transfer-encoding: chunked, x-a: b | wikipedia
            HTTP/1.1 204 No Content | date: now
            HTTP/1.1 200 OK | connection: close, content-length: 5, date: now | /last

        "#]],
    );
}

/// However a request and its answer come in pieces, both are the same.
#[test]
fn requests_and_answers_may_be_cut_anywhere() {
    in_own_namespace(async || {
        let post = "POST /a HTTP/1.1\r\nHost: web.example\r\nContent-Length: 5\r\n\r\nwords";
        for request in [post.to_owned(), get("/chunks"), get("/rest"), get("/hints")] {
            let text = format!("{request}{LAST}");
            let (whole, _) = both_ways(&request).await;
            for cut in 1..text.len() {
                let endpoint = Endpoint::answering(usual).await;
                let mut client = Client::quick(&proxy(&[endpoint.address], json!({})));
                client.say(&text.as_bytes()[..cut]).await;
                client.say(&text.as_bytes()[cut..]).await;
                let (got, by_all) = client.hear().await;
                assert!(!by_all, "cut at {cut}");
                assert_eq!(format!("heard {}got {got}", endpoint.heard()), whole, "{text:?} cut at {cut}");
            }
            let path = request.split(' ').nth(1).expect("a path");
            for cut in 1..usual(path).len() {
                let endpoint = Endpoint::with(Arc::new(usual), Some(cut)).await;
                let mut client = Client::quick(&proxy(&[endpoint.address], json!({})));
                client.say(text.as_bytes()).await;
                let (got, _) = client.hear().await;
                assert_eq!(
                    format!("heard {}got {got}", endpoint.heard()),
                    whole,
                    "the answer to {text:?} cut at {cut}"
                );
            }
        }
    });
}

/// Whatever stands anywhere in a request, both ways make the same of it.
#[test]
fn a_request_may_be_broken_anywhere() {
    const BASE: &str = "POST /a?b HTTP/1.1\r\nHost: web.example\r\nX-A: b\r\nContent-Length: 5\r\n\r\nwords";
    in_own_namespace(async || {
        for at in 0..BASE.len() {
            for byte in [0, b'\r', b'\n', b' ', b':', b',', 0xe9] {
                let mut text = BASE.as_bytes().to_vec();
                text[at] = byte;
                both_ways_of_bytes(&text).await;
            }
        }
    });
}
