//! Tenants whose configuration has mistakes, as they are shown.

use super::{NOT_CONFIGURED, TenantPage};
use crate::config::{Invalid, Problem};
use relay_mail::TenantName;

/// Mistakes of one tenant that are shown.
const SHOWN: usize = 5;

/// Adds the mistakes of a tenant to what is shown of it. `runs`: with its configuration from before.
pub(super) fn add(page: &mut TenantPage, problems: &[Problem], runs: bool) {
    if !runs {
        page.state = "invalid".to_owned();
        page.trouble.retain(|trouble| trouble != NOT_CONFIGURED);
    }
    let begin = if runs { "runs as before, since its new configuration has a mistake: " } else { "" };
    let mut mistakes: Vec<_> =
        problems.iter().take(SHOWN).map(|problem| format!("{begin}{problem}")).collect();
    if problems.len() > SHOWN {
        mistakes.push(format!("{} mistakes more: check-config", problems.len() - SHOWN));
    }
    page.trouble.splice(0..0, mistakes);
}

/// Tables and files with mistakes that belong to no known tenant.
pub(super) fn of_nobody(invalid: &Invalid) -> impl Iterator<Item = TenantPage> {
    let tables = invalid.tenants.iter().filter(|(name, _)| name.parse::<TenantName>().is_err());
    let all = tables.map(|(name, tenant)| (name, &tenant.problems)).chain(&invalid.files);
    all.map(|(id, problems)| {
        let mut page = TenantPage { id: id.clone(), ..TenantPage::default() };
        add(&mut page, problems, false);
        page
    })
}
