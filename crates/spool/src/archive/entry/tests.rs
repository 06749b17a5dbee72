use proptest::prelude::*;

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
        held: false,
        due: Some(Timestamp::from_millis(1_795_000_000_123)),
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
    ) {
        let mut entry = Entry { attempts, in_doubt, size, crc32, ..entry(recipients) };
        if wishes {
            entry.message.envelope = wishful(&entry.message.envelope);
        }
        entry.due = due.map(Timestamp::from_millis);
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
    let entry = Entry { due: Some(Timestamp::from_millis(u64::MAX)), ..entry(1) };
    assert_eq!(Entry::parse(&entry.to_json()).unwrap().due, Some(LAST));
}

#[test]
fn errors_name_the_key() {
    let good: Value = serde_json::from_slice(&entry(2).to_json()).unwrap();
    for (pointer, wrong, message) in [
        ("/format", Value::from(2), "format: is 2; this version reads format 1"),
        ("/id", "123".into(), "id: \"123\": not a message id: expected 13 characters of 0-9 and A-Z"),
        ("/tenant", "A B".into(), "tenant: \"A B\": a tenant's name is 1 to 64 of"),
        ("/ingress", "fax".into(), "ingress: is \"fax\"; write \"smtp\" or \"pickup\" or \"bounce\""),
        ("/envelope", Value::Null, "envelope: is null; write an object in braces"),
        ("/envelope/sender", "".into(), "envelope.sender: \"\": no @ between"),
        ("/envelope/body", "9bit".into(), "envelope.body: is \"9bit\"; write \"7bit\" or \"8bitmime\""),
        ("/envelope/recipients", "x@y".into(), "envelope.recipients: is \"x@y\"; write a list"),
        (
            "/envelope/recipients",
            Vec::<Value>::new().into(),
            "envelope.recipients: an envelope needs at least",
        ),
        ("/envelope/recipients/1", "x".into(), "envelope.recipients[1]: \"x\": no @ between"),
        ("/envelope/recipients/1", serde_json::json!({}), "envelope.recipients[1]: address: missing"),
        (
            "/envelope/recipients/1",
            serde_json::json!({ "address": "a@b.se", "notify": "maybe" }),
            "envelope.recipients[1]: notify: \"maybe\": NOTIFY is NEVER",
        ),
        ("/author", Value::Null, "author: is null; write text in quotes"),
        ("/bounce_of", 7.into(), "bounce_of: is 7; write text in quotes"),
        ("/state", "leased".into(), "state: is \"leased\"; write \"waiting\""),
        ("/due", "tomorrow".into(), "due: \"tomorrow\": not a time in UTC such as 2026-11-24T09:00:00Z"),
        ("/due", "1960-01-01T00:00:00Z".into(), "due: \"1960-01-01T00:00:00Z\": not a time"),
        ("/attempts", (-1).into(), "attempts: is -1; write a whole number from 0 to 65535"),
        ("/attempts", 65_536.into(), "attempts: is 65536; write a whole number from 0 to 65535"),
        ("/in_doubt", "no".into(), "in_doubt: is \"no\"; write true or false"),
        ("/size", 1.5.into(), "size: is 1.5; write the number of octets"),
        ("/crc32", "+5c1e0f7".into(), "crc32: \"+5c1e0f7\": not a CRC-32 of 8 hexadecimal digits"),
    ] {
        let mut value = good.clone();
        *value.pointer_mut(pointer).unwrap() = wrong;
        let error = Entry::parse(value.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
    for table in ["", "/envelope"] {
        let keys = good.pointer(table).unwrap().as_object().unwrap().keys().cloned();
        let path = if table.is_empty() { "" } else { "envelope." };
        for key in keys {
            let mut value = good.clone();
            value.pointer_mut(table).unwrap().as_object_mut().unwrap().remove(&key);
            let error = Entry::parse(value.to_string().as_bytes()).unwrap_err().to_string();
            assert_eq!(error, format!("{path}{key}: missing"));
        }
        let mut value = good.clone();
        value.pointer_mut(table).unwrap()["sise"] = 1.into();
        let error = Entry::parse(value.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{path}sise: unknown key; the keys here are ")), "{error}");
    }
    for (text, message) in [("{", "not JSON: EOF while"), ("[]", "not an object"), ("", "not JSON")] {
        let error = Entry::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(message), "{error}");
    }
}
