//! Exit codes of `<sysexits.h>`, which programs that call sendmail decide by.

use std::process::ExitCode;

/// Why there is no message in the folder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// Says what to fix.
    pub(super) text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// EX_USAGE: the command line is wrong.
    Usage = 64,
    /// EX_DATAERR: the message is wrong.
    Data = 65,
    /// EX_NOUSER: a recipient has no domain.
    NoUser = 67,
    /// EX_UNAVAILABLE: this command does not do that.
    Unavailable = 69,
    /// EX_SOFTWARE: this program is wrong.
    Software = 70,
    /// EX_IOERR: standard input or output broke.
    Io = 74,
    /// EX_TEMPFAIL: not now. Callers try again.
    TempFail = 75,
    /// EX_NOPERM: the sender may not be used, or the folder not be written to.
    NoPerm = 77,
    /// EX_CONFIG: the configuration, or which tenant is meant.
    Config = 78,
}

impl Exit {
    pub(super) fn because(self, text: impl Into<String>) -> Failure {
        Failure { exit: self, text: text.into() }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
