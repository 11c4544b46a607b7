#![no_main]

libfuzzer_sys::fuzz_target!(|edits: Vec<shared_fuzz::Edit>| shared_fuzz::open(&edits));
