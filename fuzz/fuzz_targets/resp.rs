//! libFuzzer's way into `sse_fuzz::resp`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::resp::run(data));
