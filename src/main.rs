use std::process::ExitCode;

fn main() -> ExitCode {
    m365_relay::cli::run()
}
