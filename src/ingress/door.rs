//! The door: which tenant is a message for, may its sender send it, and is there room?
//!
//! Pure decisions on the configuration and on counters that others keep; no I/O. Called at MAIL, before any
//! content is read, when the header is known, and while the content comes in.

use std::{net::IpAddr, sync::Arc};

use super::{Party, Refusal, login::Login};
use crate::{
    config::{LiveRoster, MaxQueuedBytes, Roster, Tenant, WhileSuspended},
    telemetry::Refused,
};
use relay_mail::{ByteSize, Ingress, MailboxAddress, TenantName, share::Share};
use relay_spool::{ArrivingBytes, FreeSpace, Spool};

/// Cheap to clone.
#[derive(Clone)]
pub struct Door {
    roster: LiveRoster,
    spool: Spool,
    free_space: FreeSpace,
    max_message: ByteSize,
}

/// A transaction that the door let in.
#[derive(Debug, Clone)]
pub struct Grant {
    pub tenant: Arc<Tenant>,
    pub ingress: Ingress,
}

impl Door {
    pub fn new(roster: LiveRoster, spool: Spool, free_space: FreeSpace, max_message: ByteSize) -> Self {
        Self { roster, spool, free_space, max_message }
    }

    pub fn max_message(&self) -> ByteSize {
        self.max_message
    }

    pub fn spool(&self) -> &Spool {
        &self.spool
    }

    /// SMTP: `MAIL FROM:<sender> SIZE=size` from a client at `peer`. `sender` is `None` for `<>`.
    pub fn admit_client(
        &self,
        peer: IpAddr,
        sender: Option<&MailboxAddress>,
        size: Option<u64>,
    ) -> Result<Grant, Refusal> {
        let roster = self.roster.now();
        let tenant = tenant_for(&roster, peer, sender)?;
        self.check_size(size.unwrap_or(0))?;
        self.check_room(tenant, size.unwrap_or(0))?;
        Ok(Grant { tenant: tenant.clone(), ingress: Ingress::Smtp })
    }

    /// SMTP: the same, from a client that has logged in, whatever its address. A connection can outlive its
    /// user's right to log in.
    pub fn admit_user(
        &self,
        login: &Login,
        sender: Option<&MailboxAddress>,
        size: Option<u64>,
    ) -> Result<Grant, Refusal> {
        let roster = self.roster.now();
        let tenant = roster.tenant(&login.tenant.name);
        let is_same = |tenant: &&Arc<Tenant>| {
            let hash = tenant.users.get(&login.user);
            hash.is_some() && hash == login.tenant.users.get(&login.user)
        };
        let Some(tenant) = tenant.filter(is_same) else {
            let text = "This login is no longer valid: connect and log in again";
            return Err(Refusal::new(530, "5.7.0", text, Refused::NoLogin));
        };
        if let Some(sender) = sender.filter(|sender| !tenant.takes_from(sender)) {
            let text = format!("This login may not send mail from {}", sender.domain());
            return Err(Refusal::new(550, "5.7.1", text, Refused::Sender));
        }
        self.check_size(size.unwrap_or(0))?;
        self.check_room(tenant, size.unwrap_or(0))?;
        Ok(Grant { tenant: tenant.clone(), ingress: Ingress::Smtp })
    }

    /// The address that all mail of this client goes out from: of whoever has logged in, or of the only
    /// tenant that has the client in its networks.
    pub fn forced_sender(&self, login: Option<&Login>, peer: IpAddr) -> Option<MailboxAddress> {
        let roster = self.roster.now();
        let tenant = match login {
            Some(login) => roster.tenant(&login.tenant.name)?,
            None => tenant_for(&roster, peer, None).ok()?,
        };
        tenant.from_rules.forced().cloned()
    }

    /// Whom a recipient that was written so stands for, if it is an alias.
    pub fn alias(&self, written: &str) -> Option<Vec<MailboxAddress>> {
        self.roster.now().aliases().find(written).map(<[_]>::to_vec)
    }

    /// Whose connection it is, for a client at `peer`, as far as that is known.
    pub fn party_at(&self, peer: IpAddr) -> Party {
        Party::at(&self.roster.now(), peer)
    }

    /// Whether a client at `peer` is in a tenant's networks, and so needs no login; or in those of a tenant
    /// whose configuration has mistakes.
    pub fn is_neighbour(&self, peer: IpAddr) -> bool {
        let roster = self.roster.now();
        roster.neighbours_of(peer).next().is_some() || roster.invalid().may_be_meant(peer, None)
    }

    /// A file in the pickup folder of `tenant`: the folder's permissions are the login.
    pub fn admit_file(
        &self,
        tenant: &TenantName,
        sender: Option<&MailboxAddress>,
        size: u64,
    ) -> Result<Grant, Refusal> {
        let roster = self.roster.now();
        let Some(tenant) = roster.tenant(tenant) else { return Err(gone(tenant)) };
        if let Some(sender) = sender.filter(|sender| !tenant.takes_from(sender)) {
            return Err(not_a_sender(tenant, sender));
        }
        self.check_size(size)?;
        self.check_room(tenant, size)?;
        Ok(Grant { tenant: tenant.clone(), ingress: Ingress::Pickup })
    }

    /// The header From, which receivers see and which decides the mailbox: it must be one of the tenant's
    /// senders too. `field`: From, or the Sender beside it, which some programs also show.
    pub fn check_author(
        &self,
        grant: &Grant,
        author: &MailboxAddress,
        field: &'static str,
    ) -> Result<(), Refusal> {
        if grant.tenant.may_send_as(author) {
            return Ok(());
        }
        let text = format!("This client may not send mail from {}: header {field}", author.domain());
        Err(Refusal::new(550, "5.7.1", text, Refused::Sender))
    }

    /// Whether a message of `size` octets is too large for this relay.
    pub fn check_size(&self, size: u64) -> Result<(), Refusal> {
        if size <= self.max_message.0 {
            return Ok(());
        }
        let text = format!("Message is larger than the limit of {}", self.max_message);
        Err(Refusal::new(552, "5.3.4", text, Refused::TooLarge))
    }

    /// Whether the spool takes mail at all. Asked while a message comes in, since a client need not announce
    /// its size.
    pub fn is_open(&self) -> Result<(), Refusal> {
        self.check_disk(0)
    }

    /// Whether there is room for a message of this tenant: asked before a file is claimed.
    pub fn is_open_to(&self, tenant: &TenantName) -> Result<(), Refusal> {
        let roster = self.roster.now();
        let tenant = roster.tenant(tenant).ok_or_else(|| gone(tenant))?;
        self.check_room(tenant, 0)
    }

    /// Starts counting the octets of a message that was let in.
    pub fn begin_to_count(&self, grant: &Grant) -> ArrivingBytes {
        self.spool.tally().tenant(&grant.tenant.name).arriving()
    }

    /// Checks whether the tenant of a message that was let in may have this many more octets, which are about
    /// to be stored. Asked while the message comes in, since a client need not announce its size.
    pub fn take(&self, grant: &Grant, arriving: &mut ArrivingBytes, octets: u64) -> Result<(), Refusal> {
        self.free_space.take(octets);
        arriving.add(octets);
        let size = arriving.bytes();
        // What this message has taken is no longer free.
        let free = self.free_space.beyond_the_floor().saturating_add(size);
        self.check_share(&grant.tenant, arriving.others(), size, free)
    }

    fn check_room(&self, tenant: &Tenant, size: u64) -> Result<(), Refusal> {
        if tenant.suspended.is_some() && tenant.while_suspended == WhileSuspended::Refuse {
            let text = "Mail of this tenant is suspended, try again later";
            return Err(Refusal::new(450, "4.7.1", text, Refused::Suspended));
        }
        self.check_disk(size)?;
        let tally = self.spool.tally().tenant(&tenant.name);
        if tally.messages() >= tenant.max_queued {
            return Err(Refusal::new(
                452,
                "4.3.1",
                "Too many messages of this tenant are queued, try again later",
                Refused::TenantFull,
            ));
        }
        self.check_share(tenant, tally.occupied(), size, self.free_space.beyond_the_floor())
    }

    /// Whether the tenant, which takes up `held` octets, may have `wanted` more of the `free` octets on the
    /// disk.
    fn check_share(&self, tenant: &Tenant, held: u64, wanted: u64, free: u64) -> Result<(), Refusal> {
        let has_room = match tenant.max_queued_bytes {
            MaxQueuedBytes::Size(most) if wanted > most.0 => {
                let text = format!("Message is larger than the tenant's whole queue may be, which is {most}");
                return Err(Refusal::new(552, "5.3.4", text, Refused::TooLarge));
            }
            MaxQueuedBytes::Size(most) => held.saturating_add(wanted.max(1)) <= most.0,
            // There is nobody to share with; whether the disk has room is checked elsewhere.
            MaxQueuedBytes::Auto if self.roster.now().tenants().len() <= 1 => true,
            MaxQueuedBytes::Auto => Share::LASTING.allows(held, wanted, free),
        };
        if has_room {
            return Ok(());
        }
        let text = "Too much mail of this tenant is queued, try again later";
        Err(Refusal::new(452, "4.3.1", text, Refused::TenantBytes))
    }

    fn check_disk(&self, size: u64) -> Result<(), Refusal> {
        if self.spool.unhealthy().is_some() {
            return Err(Refusal::new(
                451,
                "4.3.0",
                "Cannot store mail at the moment, try again later",
                Refused::Unhealthy,
            ));
        }
        if self.free_space.is_short_of(size) {
            return Err(Refusal::disk_full());
        }
        Ok(())
    }
}

/// The one tenant that has both the client and the sender.
fn tenant_for<'a>(
    roster: &'a Roster,
    peer: IpAddr,
    sender: Option<&MailboxAddress>,
) -> Result<&'a Arc<Tenant>, Refusal> {
    let refuse = |text: String| {
        if roster.invalid().may_be_meant(peer, sender) {
            let text = "The configuration of a tenant has mistakes, try again later";
            return Refusal::new(450, "4.3.5", text, Refused::Configuration);
        }
        Refusal::new(550, "5.7.1", text, Refused::NoTenant)
    };
    if roster.neighbours_of(peer).next().is_none() {
        return Err(refuse(format!("Client {peer} is in no tenant's networks")));
    }
    let trusts = |tenant: &&Arc<Tenant>| tenant.trusts(peer);
    let (found, others) = match sender {
        Some(sender) => match only(roster.senders_of(sender).filter(trusts)) {
            // Who takes mail from anybody comes after those who know the sender.
            (None, _) => only(roster.takers_of_all().filter(trusts)),
            found => found,
        },
        None => only(roster.neighbours_of(peer)),
    };
    match (found, others, sender) {
        (Some(tenant), false, _) => Ok(tenant),
        (Some(_), true, Some(sender)) => Err(refuse(format!(
            "More than one tenant may send from {} at your address: log in",
            sender.domain()
        ))),
        (Some(_), true, None) => {
            Err(refuse("More than one tenant uses your address: the null sender needs a login".into()))
        }
        (None, _, Some(sender)) => {
            Err(refuse(format!("No tenant may send from {} at your address", sender.domain())))
        }
        (None, _, None) => Err(refuse("No tenant uses your address".into())),
    }
}

/// The first of them, and whether there is another.
fn only<'a>(tenants: impl Iterator<Item = &'a Arc<Tenant>>) -> (Option<&'a Arc<Tenant>>, bool) {
    let mut tenants = tenants;
    let first = tenants.next();
    (first, first.is_some_and(|first| tenants.any(|other| !Arc::ptr_eq(first, other))))
}

/// A reload has removed the tenant, and its folder is about to be told. The file is not at fault: it stays.
fn gone(tenant: &TenantName) -> Refusal {
    Refusal::new(450, "4.7.1", format!("There is no tenant {tenant}"), Refused::NoTenant)
}

fn not_a_sender(tenant: &Tenant, sender: &MailboxAddress) -> Refusal {
    let text = format!("Tenant {} may not send as {sender}: see its senders", tenant.name);
    Refusal::new(550, "5.7.1", text, Refused::Sender)
}
