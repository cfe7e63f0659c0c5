//! Profiles of the administrator (`type: Localhost`), JSON as the OCI runtime specification has it, made into a filter.
//! Pure: whoever calls reads the file.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    ARCHITECTURE, FIRST_ARGUMENT, JUMP_IF_ABOVE, JUMP_IF_AT_LEAST, JUMP_IF_EQUAL, LOAD, MASK, NATIVE, NUMBER, RETURN,
    SMALLER, Step, UNKNOWN, X32, calls, section, small, step,
};

/// The longest program that the kernel takes.
const MAX_STEPS: usize = 4096;
/// What the kernel shows of an argument lies in two words, the lower one first.
const ARGUMENT_BYTES: u32 = 8;
const ARGUMENTS: u32 = 6;

const FLAG_LOG: u32 = 2;
const FLAG_SPEC_ALLOW: u32 = 4;

/// A filter and the flags that it is installed with.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, Deserialize)]
pub struct Filter {
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// The program.
    pub steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Vec<String>,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    syscalls: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Vec<String>,
    action: String,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

/// Makes the filter of a profile.
///
/// # Errors
/// The text is no profile, or asks for what cannot be done; the error says what.
pub fn compile(text: &str) -> Result<Filter, String> {
    let profile: Profile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let default = action(&profile.default_action, profile.default_errno_ret)?;
    let mut steps = vec![step(LOAD, ARCHITECTURE, 0, 0)];
    section(&mut steps, NATIVE, &rules(&profile, default, calls::number, |_| None)?);
    // Programs for another form of the machine number their calls differently: they have rules where the profile names
    // that form, and are told otherwise that there is no such call.
    if let Some(smaller) = SMALLER.filter(|_| profile.architectures.iter().any(|one| one == "SCMP_ARCH_X86")) {
        section(&mut steps, smaller, &rules(&profile, default, small::number, small::combined)?);
    }
    steps.push(step(RETURN, UNKNOWN, 0, 0));
    if steps.len() > MAX_STEPS {
        return Err(format!("the profile is too long: its filter has {} steps of {MAX_STEPS}", steps.len()));
    }
    Ok(Filter { flags: flags(&profile.flags)?, steps })
}

/// What holds for the calls of one form of the machine. `combined` tells of calls that programs may also make through
/// another one, with the first argument that means them.
fn rules(
    profile: &Profile,
    default: u32,
    number: fn(&str) -> Option<u32>,
    combined: fn(&str) -> Option<(u32, u32)>,
) -> Result<Vec<Step>, String> {
    let mut steps = vec![step(LOAD, NUMBER, 0, 0)];
    if cfg!(target_arch = "x86_64") {
        steps.push(step(JUMP_IF_AT_LEAST, X32, 0, 1));
        steps.push(step(RETURN, UNKNOWN, 0, 0));
    }
    let mut plain = BTreeMap::new();
    for rule in &profile.syscalls {
        let action = action(&rule.action, rule.errno_ret)?;
        let arguments = rule.args.as_deref().unwrap_or_default();
        // Calls that the machine does not have need no rule.
        for number in rule.names.iter().filter_map(|name| number(name)) {
            if arguments.is_empty() {
                plain.entry(number).or_insert(action);
            } else {
                conditional(number, arguments, action, &mut steps)?;
            }
        }
        // The arguments of what is called through another call lie in memory, where no filter can look: a rule about them
        // allows nothing, and refuses all.
        if arguments.is_empty() || action != super::ALLOW {
            for (number, value) in rule.names.iter().filter_map(|name| combined(name)) {
                let meant = Argument { index: 0, value: value.into(), value_two: 0, op: "SCMP_CMP_EQ".to_owned() };
                conditional(number, &[meant], action, &mut steps)?;
            }
        }
    }
    ranges(&plain, default, &mut steps);
    Ok(steps)
}

fn flags(names: &[String]) -> Result<u32, String> {
    names.iter().try_fold(0, |flags, name| match name.as_str() {
        "SECCOMP_FILTER_FLAG_LOG" => Ok(flags | FLAG_LOG),
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => Ok(flags | FLAG_SPEC_ALLOW),
        // There is only one thread to synchronise.
        "SECCOMP_FILTER_FLAG_TSYNC" => Ok(flags),
        _ => Err(format!("seccomp flag {name:?} is not supported")),
    })
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, String> {
    const DATA: u32 = 0xffff;
    let errno = errno.unwrap_or(libc::EPERM as u32) & DATA;
    match name {
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Ok(0),
        "SCMP_ACT_KILL_PROCESS" => Ok(0x8000_0000),
        "SCMP_ACT_TRAP" => Ok(0x0003_0000),
        "SCMP_ACT_ERRNO" => Ok(0x0005_0000 | errno),
        "SCMP_ACT_TRACE" => Ok(0x7ff0_0000 | errno),
        "SCMP_ACT_LOG" => Ok(0x7ffc_0000),
        "SCMP_ACT_ALLOW" => Ok(super::ALLOW),
        "SCMP_ACT_NOTIFY" => Err("seccomp action SCMP_ACT_NOTIFY is not supported".to_owned()),
        _ => Err(format!("unknown seccomp action {name:?}")),
    }
}

/// A rule that looks at arguments: all of them must match, except that several of one index are alternatives.
fn conditional(number: u32, arguments: &[Argument], action: u32, steps: &mut Vec<Step>) -> Result<(), String> {
    let repeated = arguments.iter().any(|one| arguments.iter().filter(|other| other.index == one.index).count() > 1);
    if repeated {
        return arguments.iter().try_for_each(|one| block(number, std::slice::from_ref(one), action, steps));
    }
    block(number, arguments, action, steps)
}

fn block(number: u32, arguments: &[Argument], action: u32, steps: &mut Vec<Step>) -> Result<(), String> {
    let mut tests = Vec::new();
    for argument in arguments {
        tests.extend(comparison(argument)?);
    }
    tests.push(Test::Done(step(RETURN, action, 0, 0)));
    let length = tests.len();
    let skip = u8::try_from(length + 1).map_err(|_| "a seccomp rule has too many arguments".to_owned())?;
    steps.push(step(JUMP_IF_EQUAL, number, 0, skip));
    for (at, test) in tests.into_iter().enumerate() {
        // Whoever fails goes on behind the block, where the number is loaded anew.
        let fail = u8::try_from(length - at - 1).expect("shorter than the block");
        steps.push(match test {
            Test::Done(step) => step,
            Test::Jump { code, value, yes, no } => {
                let distance = |to: To| match to {
                    To::Next => 0,
                    To::Skip(count) => count,
                    To::Fail => fail,
                };
                step(code, value, distance(yes), distance(no))
            }
        });
    }
    steps.push(step(LOAD, NUMBER, 0, 0));
    Ok(())
}

/// Where a comparison goes.
#[derive(Clone, Copy)]
enum To {
    Next,
    Skip(u8),
    Fail,
}

enum Test {
    Done(Step),
    Jump { code: u16, value: u32, yes: To, no: To },
}

/// The steps of a comparison of 64 bits: the upper word decides, unless both are equal.
fn comparison(argument: &Argument) -> Result<Vec<Test>, String> {
    if argument.index >= ARGUMENTS {
        return Err(format!("seccomp argument index {} is out of range", argument.index));
    }
    let lower = FIRST_ARGUMENT + argument.index * ARGUMENT_BYTES;
    let (value_low, value_high) = halves(argument.value);
    let load = |at: u32| Test::Done(step(LOAD, at, 0, 0));
    let jump = |code, value, yes, no| Test::Jump { code, value, yes, no };
    let both = |upper: Vec<Test>, last: Test| {
        let mut list = vec![load(lower + 4)];
        list.extend(upper);
        list.extend([load(lower), last]);
        list
    };
    // Behind the jumps on the upper word follow the load and the test of the lower one: two steps to skip.
    let behind = To::Skip(2);
    Ok(match argument.op.as_str() {
        "SCMP_CMP_EQ" => both(
            vec![jump(JUMP_IF_EQUAL, value_high, To::Next, To::Fail)],
            jump(JUMP_IF_EQUAL, value_low, To::Next, To::Fail),
        ),
        "SCMP_CMP_NE" => both(
            vec![jump(JUMP_IF_EQUAL, value_high, To::Next, behind)],
            jump(JUMP_IF_EQUAL, value_low, To::Fail, To::Next),
        ),
        "SCMP_CMP_GT" => both(
            vec![
                jump(JUMP_IF_ABOVE, value_high, To::Skip(3), To::Next),
                jump(JUMP_IF_EQUAL, value_high, To::Next, To::Fail),
            ],
            jump(JUMP_IF_ABOVE, value_low, To::Next, To::Fail),
        ),
        "SCMP_CMP_GE" => both(
            vec![
                jump(JUMP_IF_ABOVE, value_high, To::Skip(3), To::Next),
                jump(JUMP_IF_EQUAL, value_high, To::Next, To::Fail),
            ],
            jump(JUMP_IF_AT_LEAST, value_low, To::Next, To::Fail),
        ),
        "SCMP_CMP_LT" => both(
            vec![
                jump(JUMP_IF_ABOVE, value_high, To::Fail, To::Next),
                jump(JUMP_IF_EQUAL, value_high, To::Next, behind),
            ],
            jump(JUMP_IF_AT_LEAST, value_low, To::Fail, To::Next),
        ),
        "SCMP_CMP_LE" => both(
            vec![
                jump(JUMP_IF_ABOVE, value_high, To::Fail, To::Next),
                jump(JUMP_IF_EQUAL, value_high, To::Next, behind),
            ],
            jump(JUMP_IF_ABOVE, value_low, To::Fail, To::Next),
        ),
        "SCMP_CMP_MASKED_EQ" => {
            let (wanted_low, wanted_high) = halves(argument.value_two);
            vec![
                load(lower + 4),
                Test::Done(step(MASK, value_high, 0, 0)),
                jump(JUMP_IF_EQUAL, wanted_high, To::Next, To::Fail),
                load(lower),
                Test::Done(step(MASK, value_low, 0, 0)),
                jump(JUMP_IF_EQUAL, wanted_low, To::Next, To::Fail),
            ]
        }
        other => return Err(format!("unknown seccomp comparison {other:?}")),
    })
}

fn halves(value: u64) -> (u32, u32) {
    (value as u32, (value >> 32) as u32)
}

/// The rules that look at the number alone: as ranges of numbers, from the highest down, with the default between them.
fn ranges(plain: &BTreeMap<u32, u32>, default: u32, steps: &mut Vec<Step>) {
    let mut starts: Vec<(u32, u32)> = Vec::new();
    let mut next = 0;
    let mut begin = |at: u32, action: u32| {
        if starts.last().is_none_or(|&(_, last)| last != action) {
            starts.push((at, action));
        }
    };
    for (&number, &action) in plain {
        if number > next || next == 0 {
            begin(next, if number == 0 { action } else { default });
        }
        begin(number, action);
        next = number + 1;
    }
    begin(next, default);
    while let Some((start, action)) = starts.pop() {
        if start > 0 {
            steps.push(step(JUMP_IF_AT_LEAST, start, 0, 1));
        }
        steps.push(step(RETURN, action, 0, 0));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::ask_all;
    use super::*;

    fn check(profile: &str, call: &str, arguments: [u64; 6]) -> u32 {
        let filter = compile(profile).expect("a profile");
        ask_all(&filter.steps, NATIVE, calls::number(call).expect("a call"), arguments)
    }

    const NONE: [u64; 6] = [0; 6];

    #[test]
    fn names_have_actions_and_the_rest_the_default() {
        let profile = r#"{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [
                {"names": ["read", "write", "close", "no_such_call"], "action": "SCMP_ACT_ALLOW"},
                {"names": ["mkdirat"], "action": "SCMP_ACT_ERRNO"},
                {"names": ["reboot"], "action": "SCMP_ACT_KILL_PROCESS"}
            ]}"#;
        let action = |call| check(profile, call, NONE);
        assert_eq!(action("read"), super::super::ALLOW);
        assert_eq!(action("close"), super::super::ALLOW);
        assert_eq!(action("mkdirat"), 0x5_0001);
        assert_eq!(action("reboot"), 0x8000_0000);
        assert_eq!(action("openat"), 0x5_0026);
        assert_eq!(action("mseal"), 0x5_0026);
        let filter = compile(profile).expect("a profile");
        assert_eq!(ask_all(&filter.steps, 1, 0, NONE), UNKNOWN);
    }

    #[test]
    fn programs_of_32_bits_have_the_same_rules_where_the_profile_names_them() {
        let Some(smaller) = SMALLER else { return };
        let profile = |architectures: &str| {
            compile(&format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "architectures": [{architectures}], "syscalls": [
                {{"names": ["socket", "umount"], "action": "SCMP_ACT_ERRNO"}},
                {{"names": ["connect"], "action": "SCMP_ACT_KILL", "args": [{{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}}]}}
            ]}}"#
            ))
            .expect("a profile")
            .steps
        };
        let both = profile(r#""SCMP_ARCH_X86_64", "SCMP_ARCH_X86""#);
        let ask = |call: &str, first: u64| {
            ask_all(&both, smaller, small::number(call).expect("a call"), [first, 0, 0, 0, 0, 0])
        };
        assert_eq!((ask("socket", 2), ask("umount", 0), ask("read", 0)), (0x5_0001, 0x5_0001, super::super::ALLOW));
        assert_eq!((ask("connect", 1), ask("connect", 2)), (0, super::super::ALLOW));
        // The same calls through the one that stands for them.
        assert_eq!(
            (ask("socketcall", 1), ask("socketcall", 3), ask("socketcall", 4)),
            (0x5_0001, 0, super::super::ALLOW)
        );
        assert_eq!(ask_all(&both, NATIVE, calls::number("socket").expect("a call"), NONE), 0x5_0001);
        assert_eq!(ask_all(&profile(""), smaller, 3, NONE), UNKNOWN);
    }

    #[test]
    fn arguments_are_compared_in_full() {
        let with = |args: &str| {
            format!(
                r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls":
                [{{"names": ["socket"], "action": "SCMP_ACT_KILL", "args": [{args}]}}]}}"#
            )
        };
        let killed = |op: &str, value: u64, two: u64, given: u64| {
            let argument = format!(r#"{{"index": 1, "value": {value}, "valueTwo": {two}, "op": "SCMP_CMP_{op}"}}"#);
            check(&with(&argument), "socket", [9, given, 9, 9, 9, 9]) == 0
        };
        let big = 1 << 40;
        type Holds = fn(u64, u64) -> bool;
        let operations: [(&str, Holds); 6] = [
            ("EQ", |a, b| a == b),
            ("NE", |a, b| a != b),
            ("GT", |a, b| a > b),
            ("GE", |a, b| a >= b),
            ("LT", |a, b| a < b),
            ("LE", |a, b| a <= b),
        ];
        for (op, holds) in operations {
            for value in [0, 5, big, big + 5] {
                for given in [0, 4, 5, 6, big - 1, big, big + 5, big + 6] {
                    assert_eq!(killed(op, value, 0, given), holds(given, value), "{given} {op} {value}");
                }
            }
        }
        assert!(killed("MASKED_EQ", 0xf0, 0x10, 0x1f) && !killed("MASKED_EQ", 0xf0, 0x10, 0x2f));
        let two = r#"{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}"#;
        assert_eq!(check(&with(two), "socket", [1, 2, 0, 0, 0, 0]), 0);
        assert_eq!(check(&with(two), "socket", [1, 3, 0, 0, 0, 0]), super::super::ALLOW);
        assert_eq!(check(&with(two), "read", [1, 2, 0, 0, 0, 0]), super::super::ALLOW);
        let either = r#"{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}"#;
        assert_eq!(check(&with(either), "socket", [2, 0, 0, 0, 0, 0]), 0);
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let refused = |text: &str| compile(text).expect_err("refused");
        assert!(refused("{}").contains("defaultAction"));
        assert_eq!(refused(r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#), "unknown seccomp action \"SCMP_ACT_MAYBE\"");
        assert_eq!(
            refused(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#),
            "seccomp action SCMP_ACT_NOTIFY is not supported"
        );
    }
}
