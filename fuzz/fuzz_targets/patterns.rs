//! libFuzzer's way into `sse_fuzz::patterns`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::patterns::run(data));
