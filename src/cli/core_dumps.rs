//! No core dumps: one of this process would have mail, tokens and secrets in it, and lie about on a disk.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sets the limit on core dumps to nothing, for good. Answers whether it is nothing now.
///
/// Where the system hands dumps to a program, that is told the limit; systemd-coredump and apport then keep
/// nothing.
pub(super) fn forbid() -> bool {
    // A system that does not let it be lowered has perhaps done so already.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    getrlimit(Resource::Core).current == Some(0)
}
