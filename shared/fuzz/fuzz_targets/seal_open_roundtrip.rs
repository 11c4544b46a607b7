#![no_main]

use shared_fuzz::{Message, seal_open_roundtrip};

libfuzzer_sys::fuzz_target!(|input: (u8, Vec<Message>)| seal_open_roundtrip(input.0, &input.1));
