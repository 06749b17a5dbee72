//! Whom a line is about: the tenant that it names, otherwise the client, in its own fields or in those of the
//! spans around it.
//!
//! The subscriber hands a formatted line to its writer and nothing else, so the source travels in front of
//! the line.

use std::{
    fmt::{self, Write},
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span,
};
use tracing_subscriber::{
    Layer,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::Context,
    registry::LookupSpan,
};

use crate::config::ClientPrefix;

/// Who made the relay log something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// The relay itself.
    Relay,
    /// By a hash of its name.
    Tenant(u64),
    /// By a hash of its network: its address, or for IPv6 the first half, which one client has to itself (RFC
    /// 6177).
    Client(u64),
}

/// Octets that a source takes up in front of a line.
const LEN: usize = 17;

impl Source {
    fn is_nearer_than(self, other: Self) -> bool {
        let rank = |source| match source {
            Self::Relay => 0,
            Self::Client(_) => 1,
            Self::Tenant(_) => 2,
        };
        rank(self) > rank(other)
    }

    fn write(self, writer: &mut Writer<'_>) -> fmt::Result {
        match self {
            Self::Relay => write!(writer, "r{:016x}", 0),
            Self::Tenant(hash) => write!(writer, "t{hash:016x}"),
            Self::Client(hash) => write!(writer, "c{hash:016x}"),
        }
    }

    /// The source in front of what [`Attributed`] has formatted, and the line behind it.
    pub(super) fn split(formatted: &[u8]) -> (Self, &[u8]) {
        let Some((front, line)) = formatted.split_at_checked(LEN) else { return (Self::Relay, formatted) };
        let hash = str::from_utf8(&front[1..]).ok().and_then(|hash| u64::from_str_radix(hash, 16).ok());
        match (front[0], hash) {
            (b'r', Some(0)) => (Self::Relay, line),
            (b't', Some(hash)) => (Self::Tenant(hash), line),
            (b'c', Some(hash)) => (Self::Client(hash), line),
            _ => (Self::Relay, formatted),
        }
    }
}

/// Remembers with each span whom it is about.
pub(super) struct Attribution;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Attribution {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut found = Found(Source::Relay);
        attributes.record(&mut found);
        if found.0 != Source::Relay
            && let Some(span) = context.span(id)
        {
            span.extensions_mut().replace(found.0);
        }
    }
}

/// A format of lines with the source in front.
pub(super) struct Attributed<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for Attributed<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut found = Found(Source::Relay);
        event.record(&mut found);
        for span in context.event_scope().into_iter().flatten() {
            if let Some(source) = span.extensions().get::<Source>() {
                found.note(*source);
            }
        }
        found.0.write(&mut writer)?;
        self.0.format_event(context, writer, event)
    }
}

struct Found(Source);

impl Found {
    /// Of two alike the first counts, which is the nearer one.
    fn note(&mut self, source: Source) {
        if source.is_nearer_than(self.0) {
            self.0 = source;
        }
    }
}

impl Visit for Found {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "tenant" => {
                let mut hash = Hashed(DefaultHasher::new());
                // Hashing does not fail, and a name that cannot be shown belongs to nobody.
                if write!(hash, "{value:?}").is_ok() {
                    self.note(Source::Tenant(hash.0.finish()));
                }
            }
            "peer" | "client" => {
                if let Ok(address) = format!("{value:?}").parse() {
                    self.note(Source::Client(network(address)));
                }
            }
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}

/// As elsewhere, but without `smtp.ipv6_client_prefix`: the log starts before the configuration is known.
fn network(address: IpAddr) -> u64 {
    let mut hash = DefaultHasher::new();
    ClientPrefix::default().whole_network(address).hash(&mut hash);
    hash.finish()
}

struct Hashed(DefaultHasher);

impl Write for Hashed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_in_a_network_of_ipv6_are_one_client() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8:0:1::1"), network("2001:db8:0:1:ffff::2"));
        assert_ne!(network("2001:db8:0:1::1"), network("2001:db8:0:2::1"));
        assert_ne!(network("10.0.0.1"), network("10.0.0.2"));
        assert_eq!(network("10.0.0.1"), network("::ffff:10.0.0.1"));
    }

    #[test]
    fn a_source_comes_back_from_in_front_of_a_line() {
        for source in [Source::Relay, Source::Tenant(7), Source::Client(u64::MAX)] {
            let mut text = String::new();
            source.write(&mut Writer::new(&mut text)).unwrap();
            text.push_str("line\n");
            assert_eq!(Source::split(text.as_bytes()), (source, &b"line\n"[..]));
        }
        assert_eq!(Source::split(b"x\n"), (Source::Relay, &b"x\n"[..]));
    }
}
