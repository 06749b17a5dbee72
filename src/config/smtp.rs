//! `[smtp]` and `[[smtp.listener]]`

use std::net::SocketAddr;

use super::ByteSize;

#[derive(Debug, Clone)]
pub struct SmtpConfig {
    pub listeners: Vec<Listener>,
    /// What the relay calls itself in the greeting, in `Received` and in bounces. Default: the machine's host name.
    pub hostname: String,
    /// Largest message accepted, announced as SIZE. Default 150 MB.
    pub max_message: ByteSize,
    /// Recipients of one message. Default 1000; at least 100 (RFC 5321 section 4.5.3.1.8).
    pub max_recipients: usize,
    /// Connections at a time, over all listeners. Default 2000.
    pub max_connections: usize,
}

#[derive(Debug, Clone)]
pub struct Listener {
    pub address: SocketAddr,
}
