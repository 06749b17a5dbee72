//! What SMTP submission permits.

use super::Check;
use crate::{
    config::RouteRule,
    delivery::Tried,
    identity::{Audience, TokenClaims},
};
use relay_mail::MailboxAddress;

const SEND: &str = "SMTP.SendAsApp";

pub(super) async fn check(check: &mut Check<'_>, mailbox: Option<&MailboxAddress>) {
    let Some((token, claims)) = check.token(Audience::Exchange).await else { return };
    check.show_permissions("SMTP grants", claims.as_ref());
    let Some(mailbox) = mailbox else { return };
    let smtp = match check.smtp() {
        Ok(smtp) => smtp,
        Err(error) => return check.report.failed("submission", error.to_string()),
    };
    let host = check.tenant.cloud.smtp.as_ref().map(ToString::to_string).unwrap_or_default();
    match smtp.probe(check.tenant, mailbox, &token).await {
        Tried::Works => {
            check.report.good("submission", format!("{host} accepts the app's login as {mailbox}"))
        }
        Tried::Denied(why) | Tried::NoMailbox(why) => {
            let mend = mend(check, mailbox, claims.as_ref());
            fail(check, format!("{host}: {why}"), mend);
        }
        Tried::Failed(why) => fail(check, format!("{host}: {why}"), "is port 587 open from here?".into()),
    }
}

/// With `auto`, mail that Graph carries is sent all the same.
fn fail(check: &mut Check<'_>, why: String, mend: String) {
    match check.tenant.route {
        RouteRule::Auto => {
            check.report.warn("submission", format!("mail that needs SMTP cannot be sent: {why}"), mend)
        }
        RouteRule::Smtp | RouteRule::Graph => check.report.missing("submission", why, mend),
    }
}

fn mend(check: &Check<'_>, mailbox: &MailboxAddress, claims: Option<&TokenClaims>) -> String {
    let missing = !Check::says(claims, SEND) && claims.is_some_and(|claims| claims.user.is_none());
    let permission = format!(
        "The token does not have {SEND}: App registrations, API permissions, Office 365 Exchange Online, application permission \
         {SEND}, then admin consent: m365-relay tenant consent-url {}\n",
        check.tenant.name
    );
    format!(
        "{}In Exchange Online PowerShell, with the object id of the enterprise application (not that of the app registration):\n\
         New-ServicePrincipal -AppId {app} -ObjectId OBJECT-ID\n\
         Add-MailboxPermission -Identity {mailbox} -User OBJECT-ID -AccessRights FullAccess\n\
         Set-CASMailbox -Identity {mailbox} -SmtpClientAuthenticationDisabled $false",
        if missing { &*permission } else { "" },
        app = check.tenant.client_id,
    )
}
