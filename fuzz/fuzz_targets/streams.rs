//! libFuzzer's way into `sse_fuzz::streams`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::streams::run(data));
