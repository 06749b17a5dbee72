//! Rows, and how they are printed.

use crate::{
    raw::{Around, GROUP},
    setting::Setting,
    units::Grouped,
};

/// A row before it is measured.
pub(crate) struct Planned {
    pub(crate) name: String,
    pub(crate) measure: Measure,
}

pub(crate) enum Measure {
    Figure(Box<dyn FnOnce(&Setting) -> Figure>),
    /// For the second table.
    Comparison(Box<dyn FnOnce(&Setting) -> Comparison>),
}

/// The result of a row.
pub(crate) struct Figure {
    pub(crate) measured: String,
    pub(crate) goal: String,
    pub(crate) raw: String,
    /// The measurement divided by raw.
    pub(crate) ratio: Option<f64>,
    /// Every part of the goal is met.
    pub(crate) is_met: bool,
}

/// One row of the second table, in messages a second.
pub(crate) struct Comparison {
    pub(crate) files: f64,
    pub(crate) segment: Around,
}

impl Planned {
    pub(crate) fn figure(
        name: impl Into<String>,
        measure: impl FnOnce(&Setting) -> Figure + 'static,
    ) -> Self {
        Self { name: name.into(), measure: Measure::Figure(Box::new(measure)) }
    }

    pub(crate) fn comparison(
        name: impl Into<String>,
        measure: impl FnOnce(&Setting) -> Comparison + 'static,
    ) -> Self {
        Self { name: name.into(), measure: Measure::Comparison(Box::new(measure)) }
    }
}

/// Measures, and prints each row of the first table as soon as it is known: a run takes minutes.
pub(crate) fn print(setting: &Setting, rows: Vec<Planned>) {
    let (mut figures, mut short, mut comparisons) = (0, Vec::new(), Vec::new());
    for Planned { name, measure } in rows {
        eprintln!("… {name}");
        setting.settle();
        match measure {
            Measure::Figure(measure) => {
                if figures == 0 {
                    line("what", "measured", "goal", "raw", "ratio", "");
                }
                figures += 1;
                let Figure { measured, goal, raw, ratio, is_met } = measure(setting);
                let ratio = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
                line(&name, &measured, &goal, &raw, &ratio, if is_met { "ok" } else { "SHORT" });
                if !is_met {
                    short.push(name);
                }
            }
            Measure::Comparison(measure) => comparisons.push((name, measure(setting))),
        }
    }
    if !comparisons.is_empty() {
        print_comparisons(&comparisons);
    }
    if figures > 0 {
        println!("\n{} of {figures} rows fall short of their goal", short.len());
        short.iter().for_each(|name| println!("  SHORT  {name}"));
    }
}

fn print_comparisons(comparisons: &[(String, Comparison)]) {
    println!("\none file a message against segments, {GROUP} writers");
    println!("{:<46} {:<12} {:<30} {:>5}", "what", "files", "segment", "ratio");
    for (name, Comparison { files, segment }) in comparisons {
        let ratio = files / segment.mean();
        let files = format!("{}/s", Grouped(*files));
        println!("{name:<46} {files:<12} {:<30} {ratio:>5.2}", segment.to_string());
    }
}

fn line(what: &str, measured: &str, goal: &str, raw: &str, ratio: &str, verdict: &str) {
    println!("{what:<46} {measured:<46} {goal:<26} {raw:<26} {ratio:>5}  {verdict}");
}

/// The name of a size, as rows have it.
pub(crate) fn size_name(octets: usize) -> String {
    match octets {
        1_000_000.. => format!("{} MB", octets / 1_000_000),
        _ => format!("{} KB", octets / 1_000),
    }
}
