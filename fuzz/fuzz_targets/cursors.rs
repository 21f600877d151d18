//! libFuzzer's way into `sse_fuzz::cursors`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::cursors::run(data));
