//! No core dumps: a dump of this process would have mail, tokens and secrets in it, and be left on a disk.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Sets the limit on core dumps to zero, for good. Returns whether it is zero now.
///
/// If the system hands dumps to a program, that program is told the limit; systemd-coredump and apport then
/// keep nothing.
pub(super) fn forbid() -> bool {
    // A system that does not let the limit be lowered has perhaps done so already.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    getrlimit(Resource::Core).current == Some(0)
}
