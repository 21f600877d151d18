//! libFuzzer's way into `sse_fuzz::addresses`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::addresses::run(data));
