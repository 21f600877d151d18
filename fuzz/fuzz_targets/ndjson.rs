//! libFuzzer's way into `sse_fuzz::ndjson`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::ndjson::run(data));
