//! Logs: one line an event on standard error, as text or JSON, cleaned ([`super::clean`]).

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use super::clean::{CleanFields, CleanLines};
use crate::config::{LogConfig, LogFormat};

/// Starts logging. A second call in one process changes nothing.
pub fn start(config: &LogConfig) {
    let filter = EnvFilter::try_new(&config.filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let clean = CleanLines::new(std::io::stderr, config.format, colours);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(clean).with_ansi(colours);
    // An error means that a subscriber is set already, which is then the one that was asked for first.
    let _ = match config.format {
        LogFormat::Text => lines.with_target(false).fmt_fields(CleanFields).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}
