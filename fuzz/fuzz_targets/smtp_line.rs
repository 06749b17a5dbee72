//! Command lines from a client.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| m365_relay::fuzzing::smtp_line(octets));
