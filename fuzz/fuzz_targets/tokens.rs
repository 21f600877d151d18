//! libFuzzer's way into `sse_fuzz::tokens`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::tokens::run(data));
