//! Parameters of DSN.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| m365_relay::fuzzing::notification(octets));
