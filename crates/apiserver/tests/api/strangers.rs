//! A bounded run of the fuzzers: inputs that are bent a little, by a seed that a failure names, and inputs that are deep.
//! What is deep or large is also sent to a server, which has to answer.

use skiff_base::ids::Ids;

use crate::entries::ENTRIES;
use crate::support::{Cluster, established};

/// How many inputs each entry gets.
const CASES: u64 = 1500;
/// How often one input is bent.
const MAX_BENDS: u64 = 6;
/// An input does not grow beyond this.
const MAX_BYTES: usize = 4096;

/// What is put in where an input is bent: what the languages are made of.
const PIECES: [&str; 44] = [
    "{",
    "}",
    "[",
    "]",
    "(",
    ")",
    "\"",
    "'",
    ":",
    ",",
    ".",
    "/",
    "\\",
    "%",
    "%2f",
    "?",
    "&",
    "*",
    "!",
    "~1",
    "-1",
    "-",
    "0",
    "1e999",
    "9223372036854775808",
    "null",
    "true",
    "$patch",
    "\n",
    "\n  ",
    "- ",
    "&a ",
    "*a",
    "|\n",
    "!!int ",
    "\u{0}",
    "\u{ff}",
    "é",
    "self",
    ".all(x, x)",
    " in ",
    "?:",
    "\x0a\x7f",
    "\\u0000",
];

fn bend(input: &mut Vec<u8>, ids: &Ids) {
    let pick = |size: usize| (ids.next_u64() % size.max(1) as u64) as usize;
    let at = pick(input.len() + 1);
    match pick(6) {
        0 if !input.is_empty() => {
            let at = at.min(input.len() - 1);
            input[at] ^= 1 << pick(8);
        }
        1 => input.truncate(at),
        2 => {
            let end = (at + pick(32)).min(input.len());
            input.drain(at..end);
        }
        3 => {
            let piece = input[at..(at + pick(64)).min(input.len())].to_vec();
            let to = pick(input.len() + 1);
            input.splice(to..to, piece);
        }
        _ => {
            input.splice(at..at, PIECES[pick(PIECES.len())].bytes());
        }
    }
    input.truncate(MAX_BYTES);
}

#[test]
fn bent_inputs_do_no_harm() {
    for entry in &ENTRIES {
        for case in 0..CASES {
            let ids = Ids::seeded(case);
            let mut input = entry.seeds[case as usize % entry.seeds.len()].as_bytes().to_vec();
            for _ in 0..=ids.next_u64() % MAX_BENDS {
                bend(&mut input, &ids);
            }
            let run = std::panic::catch_unwind(|| (entry.run)(&input));
            assert!(run.is_ok(), "{} case {case}: {:?}", entry.name, String::from_utf8_lossy(&input));
        }
    }
}

/// Texts that nest, in every way that one of the languages has.
fn deep_texts() -> Vec<String> {
    const DEPTH: usize = 20_000;
    let mut all: Vec<String> = Vec::new();
    for (open, close) in [
        ("[", "]"),
        ("{\"a\":", "}"),
        ("(", ")"),
        ("- ", ""),
        ("? ", ""),
        ("!", ""),
        ("-", ""),
        ("1+", ""),
        ("a.", ""),
        ("a[", "]"),
        ("true?", ":1"),
        ("a&&", ""),
        ("a||", ""),
        ("[1].map(x,", ")"),
        ("{1:", "}"),
        ("!a ", ""),
        ("&a ", ""),
        ("a in ", ""),
        ("$patch:", ""),
        ("{\"not\":", "}"),
        ("{\"items\":", "}"),
        ("f(", ")"),
        ("'a'+", ""),
        ("/a", ""),
    ] {
        all.push(format!("{}1{}", open.repeat(DEPTH), close.repeat(DEPTH)));
    }
    let mut indented = String::new();
    for level in 0..1000 {
        indented.push_str(&format!("{}a:\n", " ".repeat(level)));
    }
    all.push(indented);
    all
}

/// A JSON patch that adds a little at the end of what it added before, time and again.
fn growing_patch() -> String {
    let (inner, part) = ("{\"a\":".repeat(100) + "{}" + &"}".repeat(100), "/a".repeat(100));
    let mut operations = vec![format!(r#"{{"op":"add","path":"/metadata/a","value":{inner}}}"#)];
    for level in 1..60 {
        let path = format!("/metadata{}", part.repeat(level) + "/a/a");
        operations.push(format!(r#"{{"op":"add","path":"{path}","value":{inner}}}"#));
    }
    format!("[{}]", operations.join(","))
}

#[test]
fn deep_inputs_do_no_harm() {
    let mut inputs: Vec<Vec<u8>> = deep_texts().into_iter().map(String::into_bytes).collect();
    inputs.push(growing_patch().into_bytes());
    // A message within a message, and so on; the lengths are those of the longest that two bytes can tell.
    let mut message = Vec::new();
    for _ in 0..4000 {
        let mut outer = vec![0x12];
        let mut size = message.len();
        while size > 0x7f {
            outer.push((size & 0x7f) as u8 | 0x80);
            size >>= 7;
        }
        outer.push(size as u8);
        outer.extend(&message);
        message = outer;
    }
    inputs.push([b"k8s\0\n\x1c\n\x07apps/v1\x12\nDeployment", message.as_slice()].concat());
    for entry in &ENTRIES {
        for input in &inputs {
            (entry.run)(input);
        }
    }
}

#[tokio::test]
async fn what_is_taken_can_be_read_again() {
    let cluster = Cluster::new().await;
    let definition = r#"{"metadata":{"name":"things.example.com"},"spec":{"group":"example.com","scope":"Cluster",
        "names":{"plural":"things","kind":"Thing"},"versions":[{"name":"v1","served":true,"storage":true,
        "schema":{"openAPIV3Schema":{"type":"object","x-kubernetes-preserve-unknown-fields":true}}}]}}"#;
    cluster.tree(&format!("POST /apis/apiextensions.k8s.io/v1/customresourcedefinitions\n\n{definition}")).await;
    established(&cluster, "things.example.com").await;
    let things = "/apis/example.com/v1/things";
    let mut deepest = 0;
    for depth in [10, 60, 90, 100, 110, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127, 140] {
        let value = "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth);
        let outcome = cluster.outcome(&format!(
            "POST {things}\n\n{{\"apiVersion\":\"example.com/v1\",\"kind\":\"Thing\",\"metadata\":{{\"name\":\"n{depth}\"}},\"spec\":{value}}}"
        )).await;
        if outcome.starts_with("400") {
            continue;
        }
        assert_eq!(outcome, "201", "{depth}");
        deepest = depth;
        assert_eq!(cluster.outcome(&format!("GET {things}/n{depth}")).await, "200", "{depth}");
        let applied = format!(
            "PATCH {things}/n{depth}?fieldManager=b&force=true\nContent-Type: application/apply-patch+yaml\n\n{{\"apiVersion\":\"example.com/v1\",\"kind\":\"Thing\",\"spec\":{value}}}"
        );
        let applied = cluster.outcome(&applied).await;
        assert!(applied == "200" || applied.starts_with("400"), "{depth}: {applied}");
        let added = format!(
            "PATCH {things}/n{depth}\nContent-Type: application/json-patch+json\n\n[{{\"op\":\"add\",\"path\":\"/spec{}\",\"value\":{value}}}]",
            "/a".repeat(depth)
        );
        let added = cluster.outcome(&added).await;
        assert!(["200", "400", "422"].contains(&&added[..3]), "{depth}: {added}");
        assert_eq!(cluster.outcome(&format!("GET {things}/n{depth}")).await, "200", "{depth}");
        assert_eq!(cluster.outcome(&format!("GET {things}")).await, "200", "{depth}");
    }
    assert!(deepest >= 60);
    let large = "x".repeat(4 * 1024 * 1024);
    let refused =
        cluster.outcome(&format!("POST {things}\n\n{{\"metadata\":{{\"name\":\"l\"}},\"a\":\"{large}\"}}")).await;
    assert!(refused.starts_with("413"), "{refused}");
}
