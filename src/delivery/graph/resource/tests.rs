use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::*;

mod metadata;
use metadata::{ACTIONS, Action, ENUMERATIONS, Kind, STRUCTURED, Structured};

#[test]
fn ranges_in_all_spellings() {
    for (json, next) in [
        (r#"{"nextExpectedRanges":["0-"]}"#, Some(0)),
        (r#"{"ExpirationDateTime":"x","nextExpectedRanges":["2097152"]}"#, Some(2_097_152)),
        (r#"{"NextExpectedRanges":["77829-99375","12345-55232"]}"#, Some(12_345)),
        (r#"{"nextExpectedRanges":[]}"#, None),
        ("{}", None),
    ] {
        assert_eq!(serde_json::from_str::<UploadProgress>(json).unwrap().next(), next, "{json}");
    }
}

fn structured(name: &str) -> Option<&'static Structured> {
    STRUCTURED.iter().find(|one| one.name == name)
}

/// The type and its base types.
fn lineage(name: &str) -> impl Iterator<Item = &'static Structured> {
    std::iter::successors(structured(name), |one| structured(one.base?))
}

fn property(of: &str, name: &str) -> Option<Kind> {
    lineage(of).flat_map(|one| one.properties).find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

fn action(name: &str) -> &'static Action {
    ACTIONS.iter().find(|action| action.name == name).unwrap()
}

/// What is wrong with `value` as a `kind`, by path.
fn faults(kind: Kind, value: &Value, path: &str) -> Vec<String> {
    let fits = match (kind, value) {
        (Kind::Text, Value::String(_)) | (Kind::Boolean, Value::Bool(_)) => true,
        (Kind::Int64, Value::Number(number)) => number.is_i64(),
        (Kind::Binary, Value::String(text)) => STANDARD.decode(text).is_ok(),
        (Kind::Texts, Value::Array(values)) => values.iter().all(Value::is_string),
        (Kind::Many(name), Value::Array(values)) => {
            return values.iter().flat_map(|value| faults(Kind::One(name), value, path)).collect();
        }
        (Kind::One(name), Value::Object(object)) if structured(name).is_some() => {
            return object_faults(name, object, path);
        }
        (Kind::One(name), Value::String(text)) => {
            ENUMERATIONS.iter().any(|(known, members)| *known == name && members.contains(&text.as_str()))
        }
        _ => false,
    };
    if fits { Vec::new() } else { vec![format!("{path}: {value} is no {kind:?}")] }
}

fn object_faults(name: &str, object: &Map<String, Value>, path: &str) -> Vec<String> {
    let one = |(key, value): (&String, &Value)| {
        let path = format!("{path}/{key}");
        match property(name, key) {
            Some(kind) => faults(kind, value, &path),
            // Control information of OData's JSON (OData JSON Format 4.01, section 4.6.3), not a property.
            None if key == "@odata.type" => Vec::new(),
            None => vec![format!("{path}: {name} has no such property")],
        }
    };
    object.iter().flat_map(one).collect()
}

fn written(resource: &impl Serialize) -> Value {
    serde_json::to_value(resource).unwrap()
}

fn mailbox(address: &str) -> Mailbox {
    Mailbox { name: Some("A Name".to_owned()), address: address.parse().unwrap() }
}

/// With every field filled, so that nothing is left out of the JSON.
fn message(importance: Importance, content_type: &'static str) -> Value {
    let properties = Properties {
        subject: "Subject".to_owned(),
        from: Some(mailbox("from@contoso.example")),
        reply_to: vec![mailbox("reply-to@contoso.example")],
        to: vec![mailbox("to@contoso.example"), mailbox("to2@contoso.example")],
        cc: vec![mailbox("cc@contoso.example")],
        bcc: vec![mailbox("bcc@contoso.example")],
        importance: Some(importance),
        message_id: Some("<1@contoso.example>".to_owned()),
        in_reply_to: Some("<0@contoso.example>".to_owned()),
        references: Some("<0@contoso.example>".to_owned()),
        wants_read_receipt: true,
        wants_delivery_receipt: true,
        x_headers: vec![("X-One".to_owned(), "1".to_owned())],
        others: vec![("List-Id".to_owned(), "<1>".to_owned())],
    };
    written(&Message::new(properties, &ItemBody { content_type, content: "Text".to_owned() }))
}

fn file_attachment() -> Value {
    written(&FileAttachment {
        kind: FILE_ATTACHMENT,
        name: "a.bin",
        content_type: "application/octet-stream",
        is_inline: true,
        content_id: Some("1@contoso.example"),
        content_bytes: STANDARD.encode([0xff; 20]),
    })
}

fn create_upload_session() -> Value {
    written(&CreateUploadSession {
        item: AttachmentItem {
            attachment_type: "file",
            name: "a.bin",
            size: 5_000_000_000,
            content_type: "application/octet-stream",
            is_inline: true,
            content_id: Some("1@contoso.example"),
        },
    })
}

#[test]
fn the_types_named_in_the_metadata_are_there() {
    let of_properties = STRUCTURED.iter().flat_map(|one| one.properties).map(|(_, kind)| *kind);
    let of_actions = ACTIONS.iter().flat_map(|action| {
        let parameters = action.parameters.iter().map(|(_, kind)| *kind);
        parameters.chain([action.bound_to]).chain(action.returns)
    });
    for kind in of_properties.chain(of_actions) {
        if let Kind::One(name) | Kind::Many(name) = kind {
            assert!(
                structured(name).is_some() || ENUMERATIONS.iter().any(|(known, _)| *known == name),
                "{name}"
            );
        }
    }
    for one in STRUCTURED {
        assert!(one.base.is_none_or(|base| structured(base).is_some()), "{}", one.name);
    }
}

#[test]
fn a_message_has_the_properties_of_the_metadata() {
    for importance in [Importance::Low, Importance::Normal, Importance::High] {
        for content_type in ["text", "html"] {
            let message = message(importance, content_type);
            assert_eq!(faults(Kind::One("message"), &message, ""), Vec::<String>::new());
            // As many as the struct has fields: none was left out, so each was looked at.
            assert_eq!(message.as_object().unwrap().len(), 13);
        }
    }
}

#[test]
fn an_attachment_has_the_properties_of_the_metadata() {
    let attachment = file_attachment();
    assert_eq!(faults(Kind::One("fileAttachment"), &attachment, ""), Vec::<String>::new());
    assert_eq!(attachment.as_object().unwrap().len(), 6);
    let name = attachment["@odata.type"].as_str().unwrap().strip_prefix("#microsoft.graph.").unwrap();
    assert_eq!(name, "fileAttachment");
    assert!(lineage(name).any(|one| one.name == "attachment"));
    assert_eq!(property("message", "attachments"), Some(Kind::Many("attachment")));
}

#[test]
fn an_upload_session_is_begun_with_the_parameters_of_the_action() {
    let action = action("createUploadSession");
    assert_eq!(action.bound_to, Kind::Many("attachment"));
    let body = create_upload_session();
    let body = body.as_object().unwrap();
    assert_eq!(
        body.keys().collect::<Vec<_>>(),
        action.parameters.iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
    for (name, kind) in action.parameters {
        assert_eq!(faults(*kind, &body[*name], name), Vec::<String>::new());
        assert_eq!(body[*name].as_object().unwrap().len(), 6);
    }
}

#[test]
fn a_draft_is_sent_without_a_body() {
    assert!(action("send").parameters.is_empty());
    assert!(include_str!("../draft.rs").contains(r#""send"], Body::Empty"#));
}

#[test]
fn what_is_read_of_an_upload_session_is_in_the_metadata() {
    let answer = json!({ "uploadUrl": "https://upload.example/1", "nextExpectedRanges": ["0-"] });
    assert_eq!(action("createUploadSession").returns, Some(Kind::One("uploadSession")));
    assert_eq!(faults(Kind::One("uploadSession"), &answer, ""), Vec::<String>::new());
    let session: UploadSession = serde_json::from_value(answer.clone()).unwrap();
    assert_eq!(session.upload_url, "https://upload.example/1");
    assert_eq!(serde_json::from_value::<UploadProgress>(answer).unwrap().next(), Some(0));
}

/// The names that are asked for with `$select`.
fn selected(source: &str) -> Vec<&str> {
    let rest = source.split("$select=").skip(1);
    let lists =
        rest.map(|rest| &rest[..rest.find(|c: char| !(c.is_alphanumeric() || c == ',')).unwrap_or(0)]);
    lists.flat_map(|list| list.split(',')).filter(|name| !name.is_empty()).collect()
}

#[test]
fn what_is_asked_for_is_in_the_metadata() {
    for (of, source, least) in
        [("message", include_str!("../confirm.rs"), 6), ("attachment", include_str!("../large.rs"), 1)]
    {
        let names = selected(source);
        assert!(names.len() >= least, "{names:?}");
        for name in names {
            assert!(property(of, name).is_some(), "{of} has no {name}");
        }
    }
    assert!(include_str!("../confirm.rs").contains("internetMessageId eq "));
    assert_eq!(property("message", "internetMessageId"), Some(Kind::Text));
}

/// `message` is an open type: the service may keep a misspelt property as one of the app's own, without a
/// word.
#[test]
fn what_does_not_fit_is_found() {
    let changed = |change: fn(&mut Value)| {
        let mut message = message(Importance::High, "html");
        change(&mut message);
        faults(Kind::One("message"), &message, "")
    };
    for (change, fault) in [
        ((|m| m["toRecipient"] = json!([])) as fn(&mut Value), "/toRecipient: message has no such property"),
        (|m| m["from"]["mailAddress"] = json!({}), "/from/mailAddress: recipient has no such property"),
        (
            |m| m["ccRecipients"][0]["emailAddress"]["adress"] = json!("a"),
            "/ccRecipients/emailAddress/adress: emailAddress has no such property",
        ),
        (|m| m["importance"] = json!("urgent"), r#"/importance: "urgent" is no One("importance")"#),
        (|m| m["body"]["contentType"] = json!("HTML"), r#"/body/contentType: "HTML" is no One("bodyType")"#),
        (|m| m["isReadReceiptRequested"] = json!("true"), r#"/isReadReceiptRequested: "true" is no Boolean"#),
        (|m| m["replyTo"] = json!({}), r#"/replyTo: {} is no Many("recipient")"#),
        (|m| m["subject"] = Value::Null, "/subject: null is no Text"),
    ] {
        assert_eq!(changed(change), [fault]);
    }
    assert_eq!(faults(Kind::Binary, &json!("not base64"), "").len(), 1);
    assert_eq!(faults(Kind::Int64, &json!("1"), "").len(), 1);
}
