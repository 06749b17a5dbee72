//! What a new configuration changes in the running one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Config, Invalid};

/// Names are sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changes {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
    /// Tenants in whose configuration there are mistakes, and files of which nobody knows whose they are.
    /// Those tenants that run stay as they are.
    #[serde(default)]
    pub invalid: Vec<String>,
    /// Tenants that stay as they are.
    pub unchanged: usize,
    /// Tables that differ from the running ones, and take effect at the next start.
    pub at_restart: Vec<String>,
}

impl Changes {
    /// Compares the two, and gives `new` those tenants of `running` that stay as they are.
    pub fn between(running: &Config, new: &mut Config) -> Self {
        let mut changes = Self::default();
        for (name, tenant) in &mut new.tenants {
            match running.tenants.get(name) {
                None => changes.added.push(name.to_string()),
                Some(before) if before == tenant => {
                    *tenant = Arc::clone(before);
                    changes.unchanged += 1;
                }
                Some(_) => changes.changed.push(name.to_string()),
            }
        }
        let gone = running.tenants.keys().filter(|name| !new.tenants.contains_key(*name));
        changes.removed = gone.map(ToString::to_string).collect();
        let Invalid { tenants, files } = &*new.invalid;
        changes.invalid = tenants.keys().chain(files.keys()).cloned().collect();
        let tables = [
            ("spool", running.spool != new.spool),
            ("smtp", running.smtp != new.smtp),
            ("pickup", running.pickup != new.pickup),
            ("admin", running.admin != new.admin),
            ("delivery", running.delivery != new.delivery),
            ("graph", running.graph != new.graph),
            ("network", running.network != new.network),
            ("limits.app_requests_per_10_seconds", running.app_limit != new.app_limit),
            ("log", running.log != new.log),
        ];
        changes.at_restart =
            tables.into_iter().filter(|(_, differs)| *differs).map(|(table, _)| table.to_owned()).collect();
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn config(tenants: &[(&str, &str)], more: &str) -> Config {
        let mut text = format!("[spool]\npath = 's'\n[pickup]\npath = 'p'\n{more}");
        for (name, senders) in tenants {
            text += &format!(
                "[tenants.{name}]\ndirectory = 'd.example'\nclient_id = 'app'\nclient_secret = 's'\nsenders = ['{senders}']\n"
            );
        }
        Config::parse(&text, Path::new("c.toml")).unwrap()
    }

    #[test]
    fn what_stays_is_the_very_same_and_the_rest_is_named() {
        let running = config(&[("a", "*"), ("b", "*"), ("c", "*")], "");
        let mut new = config(&[("a", "*"), ("b", "@x.example"), ("d", "*")], "[log]\nfilter = 'debug'\n");
        let changes = Changes::between(&running, &mut new);
        let expected = Changes {
            added: vec!["d".into()],
            changed: vec!["b".into()],
            removed: vec!["c".into()],
            invalid: Vec::new(),
            unchanged: 1,
            at_restart: vec!["log".into()],
        };
        assert_eq!(changes, expected);
        assert!(Arc::ptr_eq(&running.tenants["a"], &new.tenants["a"]));
        assert!(!Arc::ptr_eq(&running.tenants["b"], &new.tenants["b"]));
    }

    /// What every tenant takes over from other tables is part of the tenant.
    #[test]
    fn a_limit_of_all_changes_all_and_waits_for_no_restart() {
        let running = config(&[("a", "*"), ("b", "*")], "");
        let mut new = config(&[("a", "*"), ("b", "*")], "[limits]\nmessages_per_minute = 7\n");
        let changes = Changes::between(&running, &mut new);
        assert_eq!((changes.changed.len(), changes.at_restart.len()), (2, 0));
    }
}
