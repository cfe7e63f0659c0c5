//! The device controller of cgroup v2: rules as a small program that the kernel asks at every open and mknod.
//! The program is made here, purely; `sys` loads and attaches it.

use crate::oci::DeviceRule;

/// One instruction, as the kernel's `struct bpf_insn`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

// The registers: what is returned, where the request lies, its parts, and one to work with.
const RESULT: u8 = 0;
const REQUEST: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

const LOAD_WORD: u8 = 0x61;
const SET: u8 = 0xb7;
const COPY_WORD: u8 = 0xbc;
const AND_WORD: u8 = 0x54;
const SHIFT_RIGHT_WORD: u8 = 0x74;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_UNLESS_SAME: u8 = 0x5d;
const EXIT: u8 = 0x95;

fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers: from << 4 | to, offset, immediate }
}

/// The program for a list of rules, of which the last that matches decides. What no rule matches is denied.
pub fn program(rules: &[DeviceRule]) -> Vec<Instruction> {
    let mut program = vec![
        // The first word holds the kind of device in its lower half and the wanted access in its upper.
        instruction(LOAD_WORD, KIND, REQUEST, 0, 0),
        instruction(COPY_WORD, ACCESS, KIND, 0, 0),
        instruction(AND_WORD, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_WORD, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, REQUEST, 4, 0),
        instruction(LOAD_WORD, MINOR, REQUEST, 8, 0),
    ];
    let mut decided = false;
    for rule in rules.iter().rev() {
        program.extend(rule_block(rule));
        if rule.kind == "a" {
            // It matches everything, and nothing behind it could be reached.
            decided = true;
            break;
        }
    }
    if !decided {
        program.extend(answer(false));
    }
    program
}

fn answer(allow: bool) -> [Instruction; 2] {
    [instruction(SET, RESULT, 0, 0, i32::from(allow)), instruction(EXIT, 0, 0, 0, 0)]
}

/// Decides if the rule matches, and goes on behind this block if not.
fn rule_block(rule: &DeviceRule) -> Vec<Instruction> {
    let mut tests: Vec<Instruction> = Vec::new();
    let kind = match rule.kind.as_str() {
        "b" => Some(1),
        "c" => Some(2),
        _ => None,
    };
    if let Some(kind) = kind {
        tests.push(instruction(JUMP_UNLESS_EQUAL, KIND, 0, 0, kind));
        let access = access_bits(&rule.access);
        if access != 0b111 {
            tests.push(instruction(COPY_WORD, SCRATCH, ACCESS, 0, 0));
            tests.push(instruction(AND_WORD, SCRATCH, 0, 0, access));
            tests.push(instruction(JUMP_UNLESS_SAME, SCRATCH, ACCESS, 0, 0));
        }
        for (register, number) in [(MAJOR, rule.major), (MINOR, rule.minor)] {
            if let Some(number) = number.and_then(|number| i32::try_from(number).ok()) {
                tests.push(instruction(JUMP_UNLESS_EQUAL, register, 0, 0, number));
            }
        }
    }
    let mut block = tests;
    block.extend(answer(rule.allow));
    let length = block.len();
    for (index, step) in block.iter_mut().enumerate() {
        if matches!(step.code, JUMP_UNLESS_EQUAL | JUMP_UNLESS_SAME) {
            step.offset = i16::try_from(length - index - 1).expect("a block is short");
        }
    }
    block
}

fn access_bits(access: &str) -> i32 {
    access.chars().fold(0, |bits, letter| {
        bits | match letter {
            'm' => 1,
            'r' => 2,
            'w' => 4,
            _ => 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
        DeviceRule { allow, kind: kind.into(), major, minor, access: access.into() }
    }

    /// What the kernel would do with the program for a request.
    fn run(program: &[Instruction], kind: u64, access: u64, major: u64, minor: u64) -> bool {
        let words = [access << 16 | kind, major, minor];
        let mut registers = [0_u64; 7];
        let mut at = 0;
        loop {
            let step = program[at];
            let (to, from) = (usize::from(step.registers & 15), usize::from(step.registers >> 4));
            at += 1;
            let immediate = u64::try_from(step.immediate).expect("positive");
            match step.code {
                LOAD_WORD => registers[to] = words[usize::try_from(step.offset).expect("positive") / 4],
                SET => registers[to] = immediate,
                COPY_WORD => registers[to] = registers[from],
                AND_WORD => registers[to] &= immediate,
                SHIFT_RIGHT_WORD => registers[to] >>= immediate,
                JUMP_UNLESS_EQUAL if registers[to] != immediate => {
                    at += usize::try_from(step.offset).expect("positive")
                }
                JUMP_UNLESS_SAME if registers[to] != registers[from] => {
                    at += usize::try_from(step.offset).expect("positive")
                }
                JUMP_UNLESS_EQUAL | JUMP_UNLESS_SAME => {}
                EXIT => return registers[0] == 1,
                other => panic!("unknown instruction {other:#x}"),
            }
        }
    }

    #[test]
    fn the_last_rule_that_matches_decides() {
        let rules = [
            rule(false, "a", None, None, "rwm"),
            rule(true, "c", None, None, "m"),
            rule(true, "c", Some(1), Some(3), "rwm"),
            rule(true, "c", Some(136), None, "rwm"),
            rule(true, "b", Some(8), Some(0), "r"),
        ];
        let program = program(&rules);
        let (block, char) = (1, 2);
        let (mknod, read, write) = (1, 2, 4);
        assert!(run(&program, char, read | write, 1, 3), "the null device is for all");
        assert!(run(&program, char, read, 136, 42), "so is every terminal");
        assert!(run(&program, char, mknod, 9, 9), "nodes can be made");
        assert!(!run(&program, char, read, 9, 9), "but not be read");
        assert!(run(&program, block, read, 8, 0), "this disk may be read");
        assert!(!run(&program, block, read | write, 8, 0), "but not be written");
        assert!(!run(&program, block, mknod, 8, 1));
    }

    #[test]
    fn without_a_rule_all_is_denied_and_one_rule_can_allow_all() {
        assert!(!run(&program(&[]), 2, 2, 1, 3));
        assert!(run(&program(&[rule(true, "a", None, None, "rwm")]), 1, 6, 8, 0));
    }
}
