//! Attacks on the real binary. The table "What has been attacked" in docs/security.md says what they are, how
//! many tries each makes, and what must hold; [`held`] keeps the table in line with what these tests do.
//!
//! One file per topic. `cargo test --test hostile` runs all.

// Test helpers are no test functions, which alone may unwrap by clippy's rules.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared by several test programs")]
#[path = "../harness/mod.rs"]
mod harness;

mod admin;
mod authors;
mod clients;
mod clock;
mod courier;
mod faults;
mod from_fields;
mod front;
mod log;
mod loops;
mod many_tenants;
mod pickup;
mod ports;
mod proxies;
mod service;
mod stall;
mod table;
mod text;
mod threads;

use table::held;
