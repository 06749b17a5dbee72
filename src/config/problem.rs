//! What is wrong with a configuration file, and where.

use std::{fmt, path::Path};

use serde::{Deserialize, Serialize};

/// One thing to fix, or (as a warning) to look at.
///
/// Shown as `config.toml:12: tenants.contoso.senders[1]: "foo" is not an address …`. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The file as it was named on the command line, or a file of tenants.d beside it.
    pub file: String,
    /// From 1. `None` if the problem is something that is written nowhere.
    pub line: Option<usize>,
    /// From 1, in characters.
    pub column: Option<usize>,
    /// Such as `tenants.contoso.senders[1]`; empty if it is the file itself.
    pub key: String,
    /// Says what to write instead.
    pub message: String,
}

/// Everything that is wrong with a configuration: at least one problem, in the order of the files and lines.
#[derive(Debug, Clone, thiserror::Error)]
pub struct ConfigErrors(Vec<Problem>);

impl Problem {
    pub(crate) fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.display().to_string(),
            line: None,
            column: None,
            key: String::new(),
            message: message.into(),
        }
    }
}

impl ConfigErrors {
    /// Puts them in order.
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        debug_assert!(!problems.is_empty());
        // The files of tenants.d come after the main one, which is in a folder above.
        let depth = |problem: &Problem| Path::new(&problem.file).components().count();
        problems.sort_by(|one, other| {
            let order = depth(one).cmp(&depth(other)).then_with(|| one.file.cmp(&other.file));
            order.then_with(|| (one.line, one.column).cmp(&(other.line, other.column)))
        });
        Self(problems)
    }

    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// One problem per line.
impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
