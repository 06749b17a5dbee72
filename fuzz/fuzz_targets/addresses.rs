//! A header, for its addresses.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| m365_relay::fuzzing::addresses(octets));
