//! Root's traps: a relay that root starts by hand leaves a spool behind that the unit's user cannot use, and
//! finds one that it should not touch.

use std::{
    fs::{self, Metadata},
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::process::geteuid;

use crate::config::Config;

/// The user that the unit runs the relay as.
const USER: &str = "m365-relay";

/// A line of passwd(5), and the groups of group(5).
#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    uid: u32,
    gids: Vec<u32>,
}

/// What root should know before it runs a relay with this configuration. Empty for all other users.
pub(super) fn traps(config: &Config) -> Vec<String> {
    if !geteuid().is_root() {
        return Vec::new();
    }
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let user = User::find(USER, &read("/etc/passwd"), &read("/etc/group"));
    let spool = &config.spool.path;
    let mut traps = Vec::new();
    let owner = fs::metadata(spool).map(|found| found.uid()).unwrap_or(0);
    match &user {
        _ if owner != 0 => traps.push(format!(
            "runs as root, and the spool {} belongs to user {owner}: what the relay makes there is given to that user. Start it \
             as that user: systemctl start m365-relay, or runuser -u USER",
            spool.display()
        )),
        Some(user) => traps.push(format!(
            "runs as root, so the unit's user {USER} ({}) cannot use the spool afterwards: chown -R {USER}: {}",
            user.uid,
            spool.display()
        )),
        None => {}
    }
    if let (Some(user), Some(pickup)) = (&user, &config.pickup) {
        for tenant in config.tenants.keys() {
            let folder = pickup.path.join(tenant.as_str());
            if fs::metadata(&folder).is_ok_and(|found| !user.may_use(&found)) {
                traps.push(cannot_use(&folder));
            }
        }
    }
    traps
}

fn cannot_use(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "the unit's user {USER} cannot pick up files from {folder}: chown {USER} {folder}, or chmod g+rwx and its group"
    )
}

impl User {
    fn find(name: &str, passwd: &str, group: &str) -> Option<Self> {
        let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let found = fields.into_iter().find(|fields| fields.first() == Some(&name))?;
        let mut gids = vec![found.get(3)?.parse().ok()?];
        for line in group.lines() {
            let fields: Vec<_> = line.split(':').collect();
            if let [_, _, gid, members] = fields[..]
                && members.split(',').any(|member| member == name)
            {
                gids.extend(gid.parse::<u32>());
            }
        }
        Some(Self { uid: found.get(2)?.parse().ok()?, gids })
    }

    fn may_use(&self, folder: &Metadata) -> bool {
        let bits = if folder.uid() == self.uid {
            folder.mode() >> 6
        } else if self.gids.contains(&folder.gid()) {
            folder.mode() >> 3
        } else {
            folder.mode()
        };
        bits & 0o7 == 0o7
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_user() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nm365-relay:x:990:989::/var/lib/m365-relay:/usr/sbin/nologin\n";
        let group = "root:x:0:\nmail-contoso:x:1001:ann,m365-relay\nmail-fabrikam:x:1002:m365-relay-2\n";
        let user = User::find(USER, passwd, group).unwrap();
        assert_eq!(user, User { uid: 990, gids: vec![989, 1001] });
        assert_eq!(User::find("nobody", passwd, group), None);
    }
}
