//! What a tenant's own programs can do in its folder, with the rights that they have to have there.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use m365_relay::sandbox::{Fault, On};

use crate::{
    harness::{Lab, message, wait_until},
    held,
};

const TO: &str = "b@example.net";

/// As a careful program does: writes beside the folder, then moves in.
fn drop_in(lab: &Lab, tenant: &str, name: &str) -> PathBuf {
    let (outside, inside) = (lab.folder().join(name), lab.pickup(tenant).join(format!("{name}.eml")));
    fs::write(&outside, message(&format!("a@{tenant}.example"), TO, name)).unwrap();
    fs::rename(outside, &inside).unwrap();
    inside
}

fn names(folder: &Path) -> Vec<String> {
    let entries = folder.read_dir().unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// How often each subject was delivered.
fn delivered(lab: &Lab) -> BTreeMap<String, usize> {
    let mut times = BTreeMap::new();
    for message in lab.service.messages() {
        *times.entry(message.subject.clone()).or_default() += 1;
    }
    times
}

/// Messages of two tenants wait, by pickup and by SMTP; then one tenant's program plants names of claims with their ids.
#[test]
fn a_planted_claim_takes_no_message_away() {
    let mut lab = Lab::start();
    lab.inject(Fault::status(On::Token, 503, "temporarily_unavailable"));
    let mail = [("contoso", "own"), ("contoso", "own-two"), ("fabrikam", "other")];
    for (tenant, name) in mail {
        drop_in(&lab, tenant, name);
    }
    for tenant in ["contoso", "fabrikam"] {
        let sender = format!("a@{tenant}.example");
        lab.send(&sender, &[TO], &message(&sender, TO, &format!("smtp-{tenant}")));
    }
    lab.wait_for_metric("m365_relay_received_total", &[("ingress", "pickup"), ("tenant", "contoso")], 2.0);
    lab.wait_for_metric("m365_relay_received_total", &[("ingress", "pickup"), ("tenant", "fabrikam")], 1.0);
    lab.kill9();
    let ids: Vec<String> =
        lab.logged("accepted").iter().map(|entry| entry["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), 5);

    let folder = lab.folder().join("pickup/contoso");
    let mut planted = 0;
    for (number, id) in ids.iter().enumerate() {
        for (kind, mark) in ["", "-0000000000000000", "-ABCDEFGHJKMNPQRS"].iter().enumerate() {
            // What cannot be unlinked as a file can is what used to cost the message.
            fs::create_dir(folder.join(format!(".folder{number}{kind}.eml.{id}{mark}.claimed"))).unwrap();
            symlink("/etc/passwd", folder.join(format!(".link{number}{kind}.eml.{id}{mark}.claimed")))
                .unwrap();
            planted += 2;
            if !mark.is_empty() {
                fs::write(folder.join(format!(".file{number}{kind}.eml.{id}{mark}.claimed")), "x").unwrap();
                planted += 1;
            }
        }
    }
    lab.service.clear_faults();
    lab.restart();
    lab.wait_for(ids.len());
    lab.wait_until_empty();
    let expected = ["own", "own-two", "other", "smtp-contoso", "smtp-fabrikam"];
    assert_eq!(delivered(&lab), expected.map(|subject| (subject.to_owned(), 1)).into());
    // What was planted is where it was.
    wait_until("the folder as it was", || names(&folder).len() == planted);
    held(
        "A file in a tenant's pickup folder that is named as a claimed one, with the id of a message that is not its own",
        planted,
    );
}
