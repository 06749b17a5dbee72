//! `--config FILE`: which configuration file a command reads.

use std::{env, ffi::OsString, path::PathBuf};

const VARIABLE: &str = "M365_RELAY_CONFIG";
const DEFAULT: &str = "/etc/m365-relay/config.toml";

/// For every command that reads the configuration: flatten it into the command's arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigPath {
    /// The configuration file [default: $M365_RELAY_CONFIG, else /etc/m365-relay/config.toml]
    #[arg(long = "config", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl ConfigPath {
    /// For a command line that clap does not read.
    pub(super) fn of(file: Option<PathBuf>) -> Self {
        Self { file }
    }

    /// `--config`, else the environment variable `M365_RELAY_CONFIG`, else `/etc/m365-relay/config.toml`.
    pub fn path(&self) -> PathBuf {
        self.or_from(env::var_os(VARIABLE))
    }

    fn or_from(&self, variable: Option<OsString>) -> PathBuf {
        // A variable that is set to nothing is how some service managers unset it.
        let variable = variable.filter(|value| !value.is_empty()).map(PathBuf::from);
        self.file.clone().or(variable).unwrap_or_else(|| PathBuf::from(DEFAULT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_wins_over_the_variable_over_the_default() {
        let none = ConfigPath { file: None };
        let some = ConfigPath { file: Some("a.toml".into()) };
        assert_eq!(some.or_from(Some("b.toml".into())), PathBuf::from("a.toml"));
        assert_eq!(none.or_from(Some("b.toml".into())), PathBuf::from("b.toml"));
        assert_eq!(none.or_from(Some("".into())), PathBuf::from(DEFAULT));
        assert_eq!(none.or_from(None), PathBuf::from(DEFAULT));
    }
}
