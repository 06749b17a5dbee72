//! MAPI properties in a JSON message (`singleValueExtendedProperties`): how a client sets headers that Graph
//! has no property for.

use serde::Deserialize;
use uuid::Uuid;

use super::errors::GraphError;

/// A MAPI property. One whose id is not a known header is kept and does nothing.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct ExtendedProperty {
    id: String,
    value: String,
}

/// The headers that Exchange makes of properties. MS-OXPROPS names them PidTagInternetMessageId,
/// PidTagInReplyToId and PidTagInternetReferences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Header {
    MessageId = 0x1035,
    References = 0x1039,
    InReplyTo = 0x1042,
}

#[derive(Debug, PartialEq, Eq)]
struct PropertyId<'a> {
    kind: &'a str,
    name: Name<'a>,
}

#[derive(Debug, PartialEq, Eq)]
enum Name<'a> {
    Tag(u16),
    Numbered(Uuid, u16),
    Named(Uuid, &'a str),
}

/// PS_INTERNET_HEADERS of MS-OXPROPS.
const INTERNET_HEADERS: Uuid = Uuid::from_u128(0x0002_0386_0000_0000_c000_0000_0000_0046);

/// Types of single values, as Graph writes them.
const KINDS: &[&str] = &[
    "ApplicationTime",
    "Binary",
    "Boolean",
    "CLSID",
    "Currency",
    "Double",
    "Error",
    "Float",
    "Integer",
    "Long",
    "Null",
    "Object",
    "Short",
    "String",
    "SystemTime",
];

impl ExtendedProperty {
    /// The code for a malformed id is not documented.
    pub(super) fn check(&self) -> Result<(), GraphError> {
        let Some(id) = PropertyId::parse(&self.id) else {
            let message = format!("The extended property id '{}' is malformed.", self.id);
            return Err(GraphError::bad("ErrorInvalidRequest", message));
        };
        if (id.header().is_some() || id.field().is_some()) && self.value.contains(['\r', '\n', '\0']) {
            let message =
                format!("The value of the extended property '{}' is not one line of text.", self.id);
            return Err(GraphError::bad("ErrorInvalidRequest", message));
        }
        Ok(())
    }

    fn field(&self) -> Option<(&str, &str)> {
        Some((PropertyId::parse(&self.id)?.field()?, self.value.trim()))
    }
}

/// The value of a header, unless it is empty.
pub(super) fn header(properties: &[ExtendedProperty], header: Header) -> Option<&str> {
    let is_it = |property: &&ExtendedProperty| {
        PropertyId::parse(&property.id).and_then(|id| id.header()) == Some(header)
    };
    properties
        .iter()
        .rev()
        .find(is_it)
        .map(|property| property.value.trim())
        .filter(|value| !value.is_empty())
}

/// The fields that Exchange makes of named properties.
pub(super) fn fields(properties: &[ExtendedProperty]) -> impl Iterator<Item = (&str, &str)> {
    properties.iter().filter_map(ExtendedProperty::field)
}

/// Adds new properties and replaces those with the same id, whatever the spelling.
pub(super) fn merge(properties: &mut Vec<ExtendedProperty>, change: Vec<ExtendedProperty>) {
    for new in change {
        properties.retain(|old| PropertyId::parse(&old.id) != PropertyId::parse(&new.id));
        properties.push(new);
    }
}

impl<'a> PropertyId<'a> {
    /// `String 0x1042`, `String {GUID} Id 0x8233` or `String {GUID} Name Colour`.
    fn parse(text: &'a str) -> Option<Self> {
        let (kind, rest) = text.split_once(' ')?;
        let kind = KINDS.iter().find(|known| **known == kind)?;
        let name = match rest.split_once(' ') {
            None => Name::Tag(hexadecimal(rest)?),
            Some((set, rest)) => {
                let set = Uuid::try_parse(set).ok()?;
                match rest.split_once(' ')? {
                    ("Id", number) => Name::Numbered(set, hexadecimal(number)?),
                    ("Name", name) if !name.is_empty() => Name::Named(set, name),
                    _ => return None,
                }
            }
        };
        Some(Self { kind, name })
    }

    /// The name of the field that it becomes.
    fn field(&self) -> Option<&'a str> {
        let is_name = |name: &str| name.bytes().all(|octet| matches!(octet, b'!'..=b'9' | b';'..=b'~'));
        match self.name {
            Name::Named(INTERNET_HEADERS, name) if self.kind == "String" && is_name(name) => Some(name),
            _ => None,
        }
    }

    fn header(&self) -> Option<Header> {
        let Name::Tag(tag) = self.name else { return None };
        [Header::MessageId, Header::References, Header::InReplyTo]
            .into_iter()
            .find(|header| self.kind == "String" && *header as u16 == tag)
    }
}

fn hexadecimal(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
    // from_str_radix alone would accept a sign.
    digits.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(id: &str, value: &str) -> ExtendedProperty {
        ExtendedProperty { id: id.into(), value: value.into() }
    }

    #[test]
    fn ids_have_three_forms() {
        for good in [
            "String 0x1042",
            "String 0X1042",
            "Integer 0x0e07",
            "String {00020329-0000-0000-C000-000000000046} Name Colour of it",
            "SystemTime 00020329-0000-0000-c000-000000000046 Id 0x8233",
        ] {
            assert!(property(good, "x").check().is_ok(), "{good}");
        }
        for bad in [
            "",
            "String",
            "String ",
            "String 1042",
            "String 0x",
            "String 0x+042",
            "String 0x10420",
            "string 0x1042",
            "Text 0x1042",
            "String  0x1042",
            "String {zz} Name x",
            "String {00020329-0000-0000-C000-000000000046} Name ",
            "String {00020329-0000-0000-C000-000000000046} Id 7",
        ] {
            assert!(property(bad, "x").check().is_err(), "{bad}");
        }
        assert!(property("String 0x1039", "<a@b>\r\nBcc: eve@example.net").check().is_err());
        assert!(property("String 0x1039", "<a@b>\t<c@d>").check().is_ok(), "a folded header may leave a tab");
        assert!(property("String 0x1000", "two\r\nlines").check().is_ok(), "it becomes no header");
        let named = |name: &str| format!("String {{00020386-0000-0000-C000-000000000046}} Name {name}");
        assert!(property(&named("List-Id"), "<a>\r\nBcc: eve@example.net").check().is_err());
        let properties = [property(&named("List-Id"), "<a> "), property(&named("No field"), "x")];
        assert_eq!(fields(&properties).collect::<Vec<_>>(), [("List-Id", "<a>")]);
    }

    #[test]
    fn the_last_spelling_of_an_id_counts() {
        let mut properties = vec![property("String 0x1042", "<a@b>"), property("Integer 0x1039", "7")];
        merge(&mut properties, vec![property("String 0X1042", "<c@d>"), property("Integer 0x0E07", "1")]);
        assert_eq!(header(&properties, Header::InReplyTo), Some("<c@d>"));
        assert_eq!(header(&properties, Header::References), None, "a number is no header");
        assert_eq!(properties.len(), 3);
    }
}
