//! Python judges who is taken for a message's author: no accepted From field names anybody to it who was not
//! checked.

use std::{path::Path, process::Command};

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::{
    from_fields::{self, checked, checked_without_the_check, foreign, report},
    harness::run_with_input,
};

#[test]
fn from_fields_have_one_reading_in_python() {
    let all: Vec<_> = from_fields::made_by_hand().into_iter().chain(from_fields::random(12_000)).collect();
    let lines: String =
        all.iter().map(|value| BASE64_STANDARD.encode(from_fields::header(value)) + "\n").collect();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/outside_clients/authors.py");
    let output = run_with_input(Command::new("python3").arg(script), lines.as_bytes());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read: Vec<Vec<String>> = output
        .stdout
        .split(|&octet| octet == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    assert_eq!(read.len(), all.len());

    let mut taken = 0;
    let mut wrong = Vec::new();
    let mut wrong_without = 0;
    for (value, read) in all.iter().zip(&read) {
        if let Some(checked) = checked(value) {
            taken += 1;
            wrong.extend(foreign(read, &checked).into_iter().map(|read| (value.clone(), read.to_owned())));
        }
        if let Some(checked) = checked_without_the_check(value) {
            wrong_without += usize::from(!foreign(read, &checked).is_empty());
        }
    }
    println!("{taken} of {} are taken; without the check {wrong_without} would be read otherwise", all.len());
    assert!(wrong.is_empty(), "{}", report(&wrong));
    assert!(wrong_without > 50 && taken > 100, "{wrong_without} {taken}");
}
