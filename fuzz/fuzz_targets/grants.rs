//! libFuzzer's way into `sse_fuzz::grants`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::grants::run(data));
