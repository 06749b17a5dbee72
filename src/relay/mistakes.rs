//! Tells of tenants whose configuration has mistakes: in the log and in the metrics.

use tracing::error;

use crate::{
    config::{Config, Invalid, Problem},
    schedule::Blocked,
    telemetry::Metrics,
};
use relay_mail::{TenantName, outside::Outside};

/// Of `config`, which takes effect now. `before` is what was wrong until now.
pub(super) fn tell(config: &Config, before: &Invalid, metrics: &Metrics) {
    let invalid = &config.invalid;
    metrics.invalid_tenants(invalid.count());
    for (written, tenant) in &invalid.tenants {
        let name = written.parse::<TenantName>().ok();
        let stays = name.as_ref().is_some_and(|name| config.tenants.contains_key(name));
        log(&tenant.problems);
        let (tenant, mistakes) = (Outside::new(written), tenant.problems.len());
        if stays {
            error!(%tenant, mistakes, "tenant keeps its current configuration: the new one has mistakes");
        } else {
            error!(
                %tenant,
                mistakes,
                "tenant blocked: its configuration has mistakes. New mail gets 450, queued mail is held"
            );
        }
        if let Some(name) = name {
            metrics.tenant_blocked(&name, Blocked::CONFIGURATION, !stays);
        }
    }
    for (file, problems) in &invalid.files {
        log(problems);
        let file = Outside::new(file);
        error!(%file, "tenants of this file blocked or as before. Mail that no other tenant takes gets 450");
    }
    let corrected = before.tenants.keys().filter(|name| !invalid.tenants.contains_key(*name));
    for name in corrected.filter_map(|name| name.parse::<TenantName>().ok()) {
        if config.tenants.contains_key(&name) {
            metrics.tenant_blocked(&name, Blocked::CONFIGURATION, false);
        } else {
            metrics.forget_tenants([&name]);
        }
    }
}

fn log(problems: &[Problem]) {
    problems.iter().for_each(|problem| error!("{problem}"));
}
