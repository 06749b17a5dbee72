//! The command line, `cargo bench`'s additions to it, and the arguments that this program passes when it
//! starts itself again.

use std::path::PathBuf;

pub(crate) struct Arguments {
    pub(crate) quick: bool,
    pub(crate) wanted: Wanted,
}

pub(crate) enum Wanted {
    /// All rows if there is no word.
    Rows(Vec<String>),
    List,
    /// In a child process: see [`fill_and_wait`](crate::million::fill_and_wait).
    Fill {
        dir: PathBuf,
        count: usize,
    },
    /// In a child process: see [`pass`](crate::memory::pass).
    Pass {
        dir: PathBuf,
        octets: usize,
    },
}

pub(crate) const FILL: &str = "--child-fill";
pub(crate) const PASS: &str = "--child-pass";

impl Arguments {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let (mut quick, mut list, mut words) = (false, false, Vec::new());
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--quick" => quick = true,
                "--list" => list = true,
                // Cargo adds it.
                "--bench" => {}
                FILL => {
                    let (dir, count) = child(&mut arguments)?;
                    return Ok(Self { quick, wanted: Wanted::Fill { dir, count } });
                }
                PASS => {
                    let (dir, octets) = child(&mut arguments)?;
                    return Ok(Self { quick, wanted: Wanted::Pass { dir, octets } });
                }
                option if option.starts_with('-') => {
                    return Err(format!("no option {option}: there are --quick and --list"));
                }
                _ => words.push(argument),
            }
        }
        Ok(Self { quick, wanted: if list { Wanted::List } else { Wanted::Rows(words) } })
    }
}

fn child(arguments: &mut impl Iterator<Item = String>) -> Result<(PathBuf, usize), String> {
    let (Some(dir), Some(number)) = (arguments.next(), arguments.next()) else {
        return Err("a child process needs a folder and a number".into());
    };
    Ok((dir.into(), number.parse().map_err(|_| format!("not a number: {number}"))?))
}
