//! `m365-relay completions SHELL` and `man DIR`: for shells and for packages.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::CommandFactory;

use super::{Cli, console};

/// The program's name, as packages install it.
const NAME: &str = "m365-relay";

/// Print a script that completes commands and options in a shell
#[derive(Debug, clap::Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: clap_complete::Shell,
}

/// Write a manual page for each command
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// Where the pages go, for example /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

pub(super) fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), NAME, &mut script);
    console::octets(mended(script).as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// In the script for bash, clap_complete 4.6 writes the hyphen of the program's name in two ways, so that
/// nothing below the first command would be completed.
fn mended(script: Vec<u8>) -> String {
    String::from_utf8_lossy(&script).replace("m365__subcmd__relay", "m365__relay")
}

pub(super) fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let folder = &args.folder;
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    clap_mangen::generate_to(Cli::command().name(NAME), folder)
        .with_context(|| folder.display().to_string())?;
    console::say(folder.join(format!("{NAME}.1")).display())?;
    Ok(ExitCode::SUCCESS)
}
