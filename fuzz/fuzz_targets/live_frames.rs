//! libFuzzer's way into `sse_fuzz::live_frames`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| sse_fuzz::live_frames::run(data));
