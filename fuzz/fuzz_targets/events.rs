//! libFuzzer's way into `sse_fuzz::events`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::events::run(data));
