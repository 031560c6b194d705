//! Any bytes through every reader: `crates/core/tests/parser/drive.rs` says what must hold.
#![no_main]

#[path = "../../crates/core/tests/parser/drive.rs"]
mod drive;

libfuzzer_sys::fuzz_target!(|data: &[u8]| drive::drive(data));
