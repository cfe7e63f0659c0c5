//! Costs as upstream counts them, and limits: nothing endless, nothing deep, no panic.

mod common;

use common::{LIMIT, OBJECT, SCHEMA, env, evaluate};
use proptest::prelude::*;
use skiff_cel::{EvalError, Value, compile};

fn estimated(text: &str) -> (u64, u64) {
    let program = compile(&env(), text).unwrap_or_else(|error| panic!("{error}"));
    (program.cost.min, program.cost.max)
}

fn actual(text: &str) -> u64 {
    let program = compile(&env(), text).unwrap_or_else(|error| panic!("{error}"));
    let variables = vec![("self", Value::json(&OBJECT, Some(&SCHEMA)))];
    program.run(&variables, None, LIMIT).cost
}

#[test]
fn costs_are_estimated_as_upstream_does() {
    for (text, wanted) in [
        ("true", 0),
        ("self.spec.replicas > 1", 4),
        ("self.name == 'abcdefghij'", 3),
        ("self.spec.ports.all(p, p.port > 0)", 34),
        ("[1, 2, 3].all(x, true)", 20),
        ("self.name.startsWith('a')", 3),
        ("self.spec.replicas > 1 && self.spec.replicas < 5", 8),
        ("self.name.matches('^a')", 7),
    ] {
        assert_eq!(estimated(text).1, wanted, "{text}");
    }
}

#[test]
fn costs_are_counted() {
    for (text, wanted) in [("true", 0), ("self.spec.replicas", 3), ("self.spec.replicas > 1", 4), ("[1, 2].size()", 11)]
    {
        assert_eq!(actual(text), wanted, "{text}");
    }
    let (_, most) = estimated("self.spec.ports.all(p, p.port > 0)");
    assert!(actual("self.spec.ports.all(p, p.port > 0)") <= most);
}

#[test]
fn endless_expressions_are_stopped() {
    let many = "lists.range(1000)";
    let text = format!("{many}.all(a, {many}.all(b, {many}.all(c, a + b + c >= 0)))");
    assert_eq!(evaluate(&text), format!("error: {}", EvalError::Cost));
    // Each binding doubles a list: costs alone would not notice.
    let mut text = String::from("cel.bind(a0, [1, 2, 3, 4], ");
    for index in 0..60 {
        text.push_str(&format!("cel.bind(a{}, a{index} + a{index}, ", index + 1));
    }
    text.push_str("a60.size()");
    text.push_str(&")".repeat(61));
    assert_eq!(evaluate(&text), format!("error: {}", EvalError::Cost));
    assert!(evaluate("'a'.split('').map(x, 'b').join().replace('', 'xxxxxxxxxx')").starts_with('"'));
}

#[test]
fn deep_and_long_expressions_are_refused() {
    for text in [
        "(".repeat(10_000),
        "[".repeat(10_000),
        format!("{}1", "!".repeat(9_999)),
        format!("a{}", ".b".repeat(10_000)),
        format!("1{}", "+1".repeat(10_000)),
        format!("a{}", "[0]".repeat(10_000)),
        format!("{}1", "true ? 1 : ".repeat(10_000)),
        format!("{}1{}", "[1].map(x, ".repeat(1000), ")".repeat(1000)),
        "a".repeat(200_000),
    ] {
        assert!(compile(&env(), &text).is_err());
    }
    let long = vec!["true"; 10_000].join(" && ");
    assert_eq!(evaluate(&long), "true");
}

#[test]
fn the_deepest_that_is_taken_can_be_evaluated() {
    let depth = 70;
    let text = format!("{}1{} == 71", "(1 + ".repeat(depth), ")".repeat(depth));
    assert_eq!(evaluate(&text), "true");
    let text = format!("{}1{}.size()", "[".repeat(78), "]".repeat(78));
    assert_eq!(evaluate(&text), "1");
    let text = format!("1{} == 151", " + 1".repeat(150));
    assert_eq!(evaluate(&text), "true");
    let text = format!("{}1{}", "[1].map(x, ".repeat(20), ")".repeat(20));
    assert!(evaluate(&text).starts_with('['));
}

const WORDS: [&str; 60] = [
    "self",
    "self.spec",
    "self.name",
    "self.spec.ports",
    "self.spec.labels",
    "x",
    "oldSelf",
    "1",
    "-1",
    "2u",
    "1.5",
    "'a'",
    "b'a'",
    "null",
    "true",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ".",
    ",",
    ":",
    "?",
    "+",
    "-",
    "*",
    "/",
    "%",
    "==",
    "!=",
    "<",
    ">=",
    " in ",
    "&&",
    "||",
    "!",
    "has(",
    ".all(x, ",
    ".map(x, ",
    ".exists(i, v, ",
    ".size()",
    "int(",
    "string(",
    "duration('1s')",
    "timestamp('2024-01-01T00:00:00Z')",
    "ip('::1')",
    "quantity('1')",
    ".format([",
    ".split('')",
    ".substring(",
    ".sum()",
    ".sort()",
    "cel.bind(y, ",
    "[?",
    ".?a",
    "optional.of(",
    "9223372036854775807",
    "type(",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_a_panic(text in "\\PC{0,80}") {
        let _given = evaluate(&text);
    }

    #[test]
    fn no_words_make_a_panic(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 1..14)) {
        let text = words.concat();
        let _given = evaluate(&text);
        let closed = format!("{text}{}", ")".repeat(text.matches('(').count().saturating_sub(text.matches(')').count())));
        let _given = evaluate(&closed);
    }

    #[test]
    fn numbers_never_overflow_silently(a in any::<i64>(), b in any::<i64>()) {
        for (sign, exact) in [
            ('+', a.checked_add(b)), ('-', a.checked_sub(b)), ('*', a.checked_mul(b)),
            ('/', a.checked_div(b)), ('%', a.checked_rem(b)),
        ] {
            let given = evaluate(&format!("({a}) {sign} ({b})"));
            match exact {
                Some(value) => prop_assert_eq!(given, value.to_string()),
                None => prop_assert!(given.starts_with("error: ")),
            }
        }
    }
}
