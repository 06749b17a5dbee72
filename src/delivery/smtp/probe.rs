//! Whether mail of a mailbox can be submitted, found out by logging in: nothing is sent.
//!
//! Called by `tenant check`.

use std::sync::Arc;

use super::{
    Smtp,
    connection::{Connection, Destination, NotOpen, Open},
};
use crate::{config::Tenant, delivery::Tried, identity::AccessToken};
use relay_mail::MailboxAddress;

impl Smtp {
    pub async fn probe(&self, tenant: &Arc<Tenant>, mailbox: &MailboxAddress, token: &AccessToken) -> Tried {
        let Some(place) = Destination::of(tenant) else {
            return Tried::Failed(format!("the cloud {} has no smtp", tenant.cloud.name));
        };
        let patience = self.means.network.answer_timeout;
        let open = Open::new(self.means.metrics.submission_connections());
        let login = (mailbox, token);
        match Connection::open(&self.dialer, &place, &self.means.hostname, login, patience, open).await {
            Ok(connection) => {
                connection.quit(patience).await;
                Tried::Works
            }
            Err(NotOpen::Login(reply)) => Tried::Denied(reply.to_string()),
            Err(NotOpen::Refused(reply)) => Tried::Failed(reply.to_string()),
            Err(NotOpen::Broken(broken)) => Tried::Failed(broken.why),
        }
    }
}
