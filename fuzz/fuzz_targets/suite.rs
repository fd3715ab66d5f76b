//! Looks for worlds of cases that break what `policy::fuzz` demands.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| policy::fuzz::suite(data));
