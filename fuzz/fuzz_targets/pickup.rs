//! A file in a pickup folder.

#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| m365_relay::fuzzing::pickup(octets));
