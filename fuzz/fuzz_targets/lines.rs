//! libFuzzer's way into `sse_fuzz::lines`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::lines::run(data));
