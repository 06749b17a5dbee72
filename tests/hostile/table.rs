//! The table "What has been attacked" in docs/security.md, and a check that it claims no more than the tests
//! do.

const DOCUMENT: &str = include_str!("../../docs/security.md");
const HEADING: &str = "## What has been attacked";

/// A row: which attack, and how many tries the table claims.
fn rows() -> Vec<(&'static str, usize)> {
    let section = DOCUMENT.split(HEADING).nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        let tries = cells[2].replace(',', "");
        (cells[1], tries.parse().unwrap_or_else(|_| panic!("{row}: the second column is no number")))
    })
    .collect()
}

/// The attack that `attack` names in the table has held in `tries` tries. A test calls this at its end.
///
/// # Panics
/// If the table has no such row, or claims more tries than were made.
pub(crate) fn held(attack: &str, tries: usize) {
    println!("{attack}: held in {tries} tries");
    let row = rows().into_iter().find(|(name, _)| *name == attack);
    let (_, claimed) = row.unwrap_or_else(|| panic!("docs/security.md has no row \"{attack}\""));
    assert!(claimed <= tries, "docs/security.md claims {claimed} tries of \"{attack}\"; there were {tries}");
}

/// The other way round: no row without a test.
#[test]
fn every_row_has_a_test() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let source: String = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    for (attack, _) in rows() {
        assert!(source.contains(&format!("\"{attack}\"")), "no test says that \"{attack}\" held");
    }
}
