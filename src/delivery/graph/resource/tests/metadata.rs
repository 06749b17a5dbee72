//! What the metadata of Microsoft Graph v1.0 (OData CSDL) says of the types that the relay writes and reads:
//! names and types of the properties in use, of their base types and of the actions, in a notation of our
//! own.
//!
//! Read from `schemas/v1.0-Prod.csdl` of the public repository `microsoftgraph/msgraph-metadata`, commit
//! `001f9753b1d64fdb2d3dbecc45c428ebe2fc4e2c`. To renew it, compare each entry with the `EntityType`,
//! `ComplexType`, `EnumType` or `Action` of its name there. What the relay does not use is left out.

/// The type of a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `Edm.String`.
    Text,
    /// `Edm.Boolean`.
    Boolean,
    /// `Edm.Int64`.
    Int64,
    /// `Edm.Binary`: base64 in JSON.
    Binary,
    /// `Collection(Edm.String)`.
    Texts,
    /// A type of this schema.
    One(&'static str),
    /// A collection of such a type.
    Many(&'static str),
}
use Kind::{Binary, Boolean, Int64, Many, One, Text, Texts};

pub(super) struct Structured {
    pub(super) name: &'static str,
    pub(super) base: Option<&'static str>,
    pub(super) properties: &'static [(&'static str, Kind)],
}

/// Entity types and complex types.
pub(super) const STRUCTURED: &[Structured] = &[
    Structured { name: "entity", base: None, properties: &[("id", Text)] },
    Structured { name: "outlookItem", base: Some("entity"), properties: &[] },
    Structured {
        name: "message",
        base: Some("outlookItem"),
        properties: &[
            ("subject", Text),
            ("body", One("itemBody")),
            ("from", One("recipient")),
            ("sender", One("recipient")),
            ("toRecipients", Many("recipient")),
            ("ccRecipients", Many("recipient")),
            ("bccRecipients", Many("recipient")),
            ("replyTo", Many("recipient")),
            ("importance", One("importance")),
            ("isDraft", Boolean),
            ("isReadReceiptRequested", Boolean),
            ("isDeliveryReceiptRequested", Boolean),
            ("internetMessageId", Text),
            ("internetMessageHeaders", Many("internetMessageHeader")),
            // These two are navigation properties.
            ("singleValueExtendedProperties", Many("singleValueLegacyExtendedProperty")),
            ("attachments", Many("attachment")),
        ],
    },
    Structured {
        name: "singleValueLegacyExtendedProperty",
        base: Some("entity"),
        properties: &[("value", Text)],
    },
    Structured {
        name: "attachment",
        base: Some("entity"),
        properties: &[("name", Text), ("contentType", Text), ("isInline", Boolean)],
    },
    Structured {
        name: "fileAttachment",
        base: Some("attachment"),
        properties: &[("contentBytes", Binary), ("contentId", Text)],
    },
    Structured {
        name: "itemBody",
        base: None,
        properties: &[("content", Text), ("contentType", One("bodyType"))],
    },
    Structured { name: "recipient", base: None, properties: &[("emailAddress", One("emailAddress"))] },
    Structured { name: "emailAddress", base: None, properties: &[("address", Text), ("name", Text)] },
    Structured { name: "internetMessageHeader", base: None, properties: &[("name", Text), ("value", Text)] },
    Structured {
        name: "attachmentItem",
        base: None,
        properties: &[
            ("attachmentType", One("attachmentType")),
            ("name", Text),
            ("size", Int64),
            ("contentType", Text),
            ("isInline", Boolean),
            ("contentId", Text),
        ],
    },
    Structured {
        name: "uploadSession",
        base: None,
        properties: &[("uploadUrl", Text), ("nextExpectedRanges", Texts)],
    },
];

/// Enumerations: in JSON a member is written by its name.
pub(super) const ENUMERATIONS: &[(&str, &[&str])] = &[
    ("importance", &["low", "normal", "high"]),
    ("bodyType", &["text", "html"]),
    ("attachmentType", &["file", "item", "reference"]),
];

pub(super) struct Action {
    pub(super) name: &'static str,
    pub(super) bound_to: Kind,
    /// Without the binding parameter, which is the path.
    pub(super) parameters: &'static [(&'static str, Kind)],
    pub(super) returns: Option<Kind>,
}

pub(super) const ACTIONS: &[Action] = &[
    Action { name: "send", bound_to: One("message"), parameters: &[], returns: None },
    Action {
        name: "createUploadSession",
        bound_to: Many("attachment"),
        parameters: &[("AttachmentItem", One("attachmentItem"))],
        returns: Some(One("uploadSession")),
    },
];
