//! libFuzzer's way into `sse_fuzz::requests`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::requests::run(data));
