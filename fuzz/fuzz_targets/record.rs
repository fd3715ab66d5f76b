//! Looks for records of other nodes that break what `state::shared_records::fuzz` demands.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| state::shared_records::fuzz(data));
