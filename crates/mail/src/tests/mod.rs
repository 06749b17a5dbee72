//! Tests of addresses and recipients, by table and by property.

mod address_list;
mod address_to;
mod cost;
mod properties;

use super::*;

fn header(text: &str) -> HeaderBlock {
    HeaderScanner::split_message(text.as_bytes()).unwrap().header
}

fn envelope(recipients: &[&str]) -> Envelope {
    Envelope::new(None, recipients.iter().map(|text| text.parse().unwrap()), BodyKind::SevenBit).unwrap()
}
