//! What Graph permits.

use super::{Check, report::Report};
use crate::{
    config::{Confirm, Credential, RouteRule},
    delivery::{
        Tried,
        graph::{Probed, probe},
    },
    identity::{Audience, TokenClaims},
};
use relay_mail::MailboxAddress;

/// The app registration's permissions, by what needs them.
const SEND: &str = "Mail.Send";
const DRAFTS: &str = "Mail.ReadWrite";
const READ: &str = "Mail.ReadBasic.All";

pub(super) async fn check(check: &mut Check<'_>, mailbox: Option<&MailboxAddress>) {
    let Some((_, claims)) = check.token(Audience::Graph).await else { return };
    check.show_permissions("Graph grants", claims.as_ref());
    match mailbox {
        Some(mailbox) => {
            let probed = probe(&check.graph_means(), check.tenant, mailbox).await;
            judge(check, mailbox, &probed, claims.as_ref());
        }
        None if claims.is_some() && !Check::says(claims.as_ref(), SEND) => {
            let mend = grant(check, SEND);
            check.report.missing("send", format!("the token does not have {SEND}"), mend);
        }
        None => {}
    }
}

fn judge(check: &mut Check<'_>, mailbox: &MailboxAddress, probed: &Probed, claims: Option<&TokenClaims>) {
    let Probed { sends, drafts, reads } = probed;
    match sends {
        Tried::Works => check.report.good("send", format!("the app may send from mailbox {mailbox}")),
        Tried::Denied(why) => {
            let mend = how_to_permit(check, SEND, mailbox, claims);
            check.report.missing("send", format!("from mailbox {mailbox}: {why}"), mend);
        }
        other => return not_tried(&mut check.report, mailbox, other),
    }
    let is_large = check.config.smtp.max_message > check.config.graph.max_mime;
    let large = format!("mail over {:.1} MiB", check.config.graph.max_mime.0 as f64 / f64::from(1 << 20));
    match drafts {
        Tried::Works => {
            check.report.good(
                "drafts",
                format!("the app may create and delete them: {large} can be sent, outcomes can be confirmed"),
            );
        }
        Tried::Denied(why) if check.tenant.confirm == Confirm::Draft => {
            let mend = how_to_permit(check, DRAFTS, mailbox, claims);
            check.report.missing("drafts", format!("confirm = \"draft\" needs them: {why}"), mend);
        }
        Tried::Denied(_) => {
            let what = match (is_large, check.tenant.route) {
                (false, _) => "outcomes are confirmed in another way, or not at all".to_owned(),
                (true, RouteRule::Auto) => format!("{large} is sent by SMTP"),
                (true, _) => format!("{large} bounces"),
            };
            let mend = how_to_permit(check, DRAFTS, mailbox, claims);
            check.report.warn("drafts", format!("the app may not create any, so {what}"), mend);
        }
        other => not_tried(&mut check.report, mailbox, other),
    }
    let is_best = *drafts == Tried::Works;
    match (check.tenant.confirm, reads) {
        (Confirm::Off | Confirm::Draft, _) => {}
        (_, Tried::Works) => {
            check.report.good("sent items", "the app may read them: outcomes can be confirmed")
        }
        (Confirm::Auto, Tried::Denied(_)) if is_best => {}
        (Confirm::Auto, Tried::Denied(_)) => {
            let mend = how_to_permit(check, READ, mailbox, claims);
            let text = "the app may not read them: after an interrupted call, a message may be sent twice";
            check.report.warn("sent items", text, mend);
        }
        (Confirm::SentItems, Tried::Denied(why)) => {
            let mend = how_to_permit(check, READ, mailbox, claims);
            check.report.missing("sent items", format!("confirm = \"sent-items\" needs them: {why}"), mend);
        }
        (_, other) => not_tried(&mut check.report, mailbox, other),
    }
}

fn not_tried(report: &mut Report, mailbox: &MailboxAddress, tried: &Tried) {
    match tried {
        Tried::NoMailbox(why) => report.missing(
            "mailbox",
            format!("{mailbox}: {why}"),
            "this must be a mailbox, not an alias, a group or a contact: give it a licence, or name another \
             with --mailbox.\n\
             [tenants.NAME.mailboxes] says which mailbox sends the mail of an alias",
        ),
        Tried::Failed(why) | Tried::Denied(why) => {
            report.missing(
                "mailbox",
                format!("{mailbox}: {why}"),
                "try again; if it happens again, check \
                the service health of Microsoft 365",
            );
        }
        Tried::Works => {}
    }
}

/// What to do so that this is permitted.
fn how_to_permit(
    check: &Check<'_>,
    permission: &str,
    mailbox: &MailboxAddress,
    claims: Option<&TokenClaims>,
) -> String {
    if !Check::says(claims, permission) {
        return grant(check, permission);
    }
    format!(
        "The token has {permission}, so only this mailbox is excluded. In Exchange Online PowerShell:\n\
         Test-ServicePrincipalAuthorization -Identity {app} -Resource {mailbox}    (RBAC for Applications)\n\
         Test-ApplicationAccessPolicy -AppId {app} -Identity {mailbox}    (application access policies)\n\
         Changes there can take hours to take effect.",
        app = check.tenant.client_id,
    )
}

fn grant(check: &Check<'_>, permission: &str) -> String {
    let (kind, consent) = match &check.tenant.credential {
        Credential::User { .. } => ("delegated", "Then sign in again."),
        Credential::ManagedIdentity(_) => {
            return format!(
                "Give the managed identity the Graph application role {permission} (New-MgServicePrincipalAppRoleAssignment).\n\
                 It can take up to a day until new tokens contain it."
            );
        }
        Credential::App(_) => ("application", "Then grant admin consent there."),
    };
    format!(
        "Entra ID, App registrations, app {}, API permissions: add Microsoft Graph, {kind} permission {permission}.\n\
         {consent} For another organisation's directory: m365-relay tenant consent-url {}",
        check.tenant.client_id, check.tenant.name
    )
}
