//! libFuzzer's way into `sse_fuzz::items`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::items::run(data));
