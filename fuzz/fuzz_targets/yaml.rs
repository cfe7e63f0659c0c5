//! The entry `yaml`, with inputs that a fuzzer finds.
#![no_main]

#[path = "../../crates/apiserver/tests/api/entries.rs"]
mod entries;

libfuzzer_sys::fuzz_target!(|input: &[u8]| entries::run("yaml", input));
