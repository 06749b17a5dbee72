//! All that a client sends on one connection.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| m365_relay::fuzzing::smtp_session(octets));
