use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn entry(recipients: usize) -> Entry {
    let recipients = (0..recipients).map(|n| format!("r{n}@example.net").parse().unwrap());
    let sender = Some("Ä\"@contoso.example".replace('"', "").parse().unwrap());
    Entry {
        id: "1M876XD4R0000".parse().unwrap(),
        message: Message {
            tenant: "contoso".parse().unwrap(),
            ingress: Ingress::Pickup,
            envelope: Envelope::new(sender, recipients, BodyKind::EightBitMime).unwrap(),
            author: "\"a b\"@contoso.example".parse().unwrap(),
            bounce_of: None,
        },
        standing: ExportedState::Waiting { due: Some(Timestamp::from_millis(1_795_000_000_123)) },
        attempts: 7,
        in_doubt: true,
        size: 5120,
        crc32: 0xa5c1,
    }
}

fn wishful(envelope: &Envelope) -> Envelope {
    let recipients = envelope.recipients().iter().enumerate().map(|(n, address)| {
        let notify = (n % 2 == 0).then(|| "SUCCESS,DELAY".parse().unwrap());
        let original = (n % 3 == 0).then(|| "rfc822;x+2By@x.se".parse().unwrap());
        Recipient { address: address.clone(), wish: RecipientWish { notify, original } }
    });
    let parameters = MailParameters {
        body: envelope.body(),
        utf8: true,
        ret: Some("HDRS".parse().unwrap()),
        envid: Some("id+3D1".parse().unwrap()),
    };
    Envelope::with_parameters(None, parameters, recipients).unwrap()
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        due in proptest::option::of(0..LAST.as_millis()),
        (attempts, in_doubt, size, crc32, bounce) in any::<(u16, bool, u64, u32, Option<u64>)>(),
        recipients in 1_usize..1100,
        wishes: bool,
        held: Option<Option<String>>,
    ) {
        let mut entry = Entry { attempts, in_doubt, size, crc32, ..entry(recipients) };
        if wishes {
            entry.message.envelope = wishful(&entry.message.envelope);
        }
        entry.standing = match held {
            None => ExportedState::Waiting { due: due.map(Timestamp::from_millis) },
            Some(reason) => ExportedState::Held { reason: reason.as_deref().map(HoldReason::new) },
        };
        entry.message.bounce_of = bounce.map(|id| MessageId::from_bytes(id.to_be_bytes()));
        prop_assert_eq!(Entry::parse(&entry.to_json()), Ok(entry));
    }

    #[test]
    fn no_text_panics(text: Vec<u8>) {
        let _ = Entry::parse(&text);
    }
}

#[test]
fn a_time_that_cannot_be_written_is_the_last_that_can() {
    let waiting = |due| ExportedState::Waiting { due: Some(due) };
    let entry = Entry { standing: waiting(Timestamp::from_millis(u64::MAX)), ..entry(1) };
    assert_eq!(Entry::parse(&entry.to_json()).unwrap().standing, waiting(LAST));
}

#[test]
fn errors_name_the_key() {
    let good: Value = serde_json::from_slice(&entry(2).to_json()).unwrap();
    for (pointer, wrong, message) in [
        ("/format", Value::from(2), "format: is 2; this version reads format 1"),
        ("/format", "1".into(), "format: invalid type: string \"1\", expected u64 at line "),
        ("/id", "123".into(), "id: \"123\": not a message id: expected 13 characters of 0-9 and A-Z"),
        ("/tenant", "A B".into(), "tenant: \"A B\": a tenant's name is 1 to 64 of"),
        (
            "/ingress",
            "fax".into(),
            "ingress: unknown variant `fax`, expected one of `smtp`, `pickup`, `bounce`",
        ),
        ("/envelope", Value::Null, "envelope: invalid type: null, expected an object in braces"),
        ("/envelope/sender", "".into(), "envelope.sender: \"\": no @ between"),
        (
            "/envelope/body",
            "9bit".into(),
            "envelope.body: unknown variant `9bit`, expected `7bit` or `8bitmime`",
        ),
        (
            "/envelope/recipients",
            "x@y".into(),
            "envelope.recipients: invalid type: string \"x@y\", expected a seq",
        ),
        (
            "/envelope/recipients",
            Vec::<Value>::new().into(),
            "envelope.recipients: an envelope needs at least",
        ),
        ("/envelope/recipients/1", "x".into(), "envelope.recipients[1]: \"x\": no @ between"),
        (
            "/envelope/recipients/1",
            7.into(),
            "envelope.recipients[1]: invalid type: integer `7`, expected an address",
        ),
        ("/envelope/recipients/1", serde_json::json!({}), "envelope.recipients[1]: missing field `address`"),
        (
            "/envelope/recipients/1",
            serde_json::json!({ "address": "a@b.se", "notify": "maybe" }),
            "envelope.recipients[1].notify: \"maybe\": NOTIFY must be NEVER",
        ),
        (
            "/envelope/recipients/1",
            serde_json::json!({ "address": "a@b.se", "notify": null }),
            "envelope.recipients[1].notify: invalid type: null, expected a string",
        ),
        (
            "/envelope/recipients/1",
            serde_json::json!({ "address": "a@b.se", "told": "NEVER" }),
            "envelope.recipients[1].told: unknown field `told`, expected one of `address`, `notify`, `orcpt`",
        ),
        ("/author", Value::Null, "author: invalid type: null, expected a string"),
        ("/bounce_of", 7.into(), "bounce_of: invalid type: integer `7`, expected a string"),
        ("/state", "leased".into(), "state: unknown variant `leased`, expected `waiting` or `held`"),
        ("/due", "tomorrow".into(), "due: \"tomorrow\": not a time in UTC such as 2026-11-24T09:00:00Z"),
        ("/due", "1960-01-01T00:00:00Z".into(), "due: \"1960-01-01T00:00:00Z\": not a time"),
        ("/attempts", (-1).into(), "attempts: invalid value: integer `-1`, expected u16"),
        ("/attempts", 65_536.into(), "attempts: invalid value: integer `65536`, expected u16"),
        ("/in_doubt", "no".into(), "in_doubt: invalid type: string \"no\", expected a boolean"),
        ("/size", 1.5.into(), "size: invalid type: floating point `1.5`, expected u64"),
        ("/crc32", "+5c1e0f7".into(), "crc32: \"+5c1e0f7\": not a CRC-32 of 8 hexadecimal digits"),
    ] {
        let mut value = good.clone();
        *value.pointer_mut(pointer).unwrap() = wrong;
        let error = Entry::parse(value.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    for key in ["utf8", "ret", "envid"] {
        let mut value = good.clone();
        value["envelope"][key] = Value::Null;
        let error = Entry::parse(value.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("envelope.{key}: invalid type: null")), "{error}");
    }
}

#[test]
fn every_key_is_known_and_there_once() {
    let good: Value = serde_json::from_slice(&entry(2).to_json()).unwrap();
    for table in ["", "/envelope"] {
        let keys = good.pointer(table).unwrap().as_object().unwrap().keys().cloned();
        let path = table.trim_start_matches('/');
        let (colon, dot) = if table.is_empty() { ("", "") } else { (": ", ".") };
        for key in keys {
            let mut value = good.clone();
            value.pointer_mut(table).unwrap().as_object_mut().unwrap().remove(&key);
            let error = Entry::parse(value.to_string().as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{path}{colon}missing field `{key}` at line ")), "{error}");
        }
        let mut value = good.clone();
        value.pointer_mut(table).unwrap()["sizes"] = 1.into();
        let error = Entry::parse(value.to_string().as_bytes()).unwrap_err().to_string();
        let message = format!("{path}{dot}sizes: unknown field `sizes`, expected one of `");
        assert!(error.starts_with(&message), "{error}");
    }
    let written = String::from_utf8(entry(1).to_json()).unwrap();
    let error = Entry::parse(written.replace("\"size\"", "\"attempts\"").as_bytes()).unwrap_err().to_string();
    assert!(error.starts_with("duplicate field `attempts` at line "), "{error}");
    for (text, message) in [
        ("{", "EOF while parsing an object at line 1"),
        ("[]", "invalid length 0, expected an object in braces"),
        ("7", "invalid type: integer `7`, expected an object in braces"),
        ("", "EOF while parsing"),
        (&format!("{written}{{}}"), "trailing characters at line "),
        // Another version's number says more than a key that this version does not know.
        ("{\"format\": 2, \"new\": 1}", "format: is 2; this version reads format 1"),
    ] {
        let error = Entry::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}
