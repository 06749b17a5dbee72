//! `m365-relay queue hold`, `release` and `delete`: what is done to messages, one after the other.

use std::process::ExitCode;

use anyhow::Context;
use http::Method;
use serde_json::{Value, json};

use crate::{
    admin::{ActionRequest, ActionResponse, ErrorPage},
    cli::{config_path::ConfigPath, console, daemon::Daemon},
};
use relay_mail::{MessageId, outside::json_visible};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The messages' ids, as in the log, the reply to the client and the Received field
    #[arg(value_name = "ID", required = true)]
    ids: Vec<MessageId>,
    /// Why, in words: for the log, and for whoever asks why a message is held
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    config: ConfigPath,
    /// Print what became of each message as a JSON array instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Action {
    Hold,
    Release,
    Delete,
}

/// Messages that cannot be acted on are named, and do not stop the others.
pub(super) fn run(action: Action, args: &Args) -> anyhow::Result<ExitCode> {
    let daemon = Daemon::of(&args.config.path())?;
    let request = serde_json::to_string(&ActionRequest { reason: args.reason.clone() })?;
    let mut out = String::new();
    let mut err = String::new();
    let mut answers = Vec::new();
    for id in &args.ids {
        let (method, path) = action.request(*id);
        let (status, text) = daemon.send(method, &path, request.clone())?;
        let unclear = || "cannot understand the relay's answer";
        match status {
            200 => {
                let ActionResponse { id, done } = serde_json::from_str(&text).with_context(unclear)?;
                out += &format!("{id} {done}\n");
                answers.push(json!({ "id": id, "done": done }));
            }
            404 | 409 => {
                let ErrorPage { error } = serde_json::from_str(&text).with_context(unclear)?;
                err += &format!("m365-relay: {error}\n");
                answers.push(json!({ "id": id.to_string(), "error": error }));
            }
            _ => return Err(daemon.strange(status)),
        }
    }
    if args.json {
        console::say(json_visible(&Value::Array(answers).to_string()))?;
    } else {
        console::show(&out, &err)?;
    }
    Ok(if err.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Action {
    fn request(self, id: MessageId) -> (Method, String) {
        let path = format!("/api/v1/messages/{id}");
        match self {
            Self::Hold => (Method::POST, format!("{path}/hold")),
            Self::Release => (Method::POST, format!("{path}/release")),
            Self::Delete => (Method::DELETE, path),
        }
    }
}
