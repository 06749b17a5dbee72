//! The real binary, from the client's first octet to the simulated Microsoft 365: one file per behaviour.
//!
//! They are modules of one test program, since each program links the whole relay, and tests that wait for a
//! timer run beside each other only inside one.

// Test helpers are no test functions, which alone may unwrap by clippy's rules.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

#[allow(dead_code, unused_imports, unreachable_pub, reason = "shared by several test programs")]
#[path = "../harness/mod.rs"]
mod harness;

mod access;
mod admin;
mod bounces;
mod commands;
mod confirm;
mod connection;
mod console;
mod content;
mod crash;
mod credentials;
mod draft_recipients;
mod init;
mod large;
mod limits;
mod log_lines;
mod login;
mod mended;
mod metrics;
mod mistakes;
mod operate;
mod pickup;
mod pickup_crash;
mod proxy;
mod quarantine;
mod queue_actions;
mod queue_list;
mod queue_show;
mod real_mail;
mod recipients;
mod refusals;
mod reload;
mod retry;
mod secrets;
mod senders;
mod sendmail;
mod service_manager;
mod shares;
mod smtp_corpus;
mod smtp_faults;
mod smtp_route;
mod spool_commands;
mod stop;
mod tenant_check;
mod tenants;
mod throttling;
mod tls;
