//! (being built)

pub mod check_config;
pub mod config_path;
