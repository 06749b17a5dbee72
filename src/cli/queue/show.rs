//! `m365-relay queue show ID`: where a message stands, what it waits for, and until when.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context, bail};

use crate::{
    admin::{ErrorPage, MessagePage, WaitsPage},
    cli::config_path::ConfigPath,
    config::Config,
    message::MessageId,
    network,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// Show where a message stands: what it waits for, and until when
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As in the log, in the reply that the client got, and in the Received field
    #[arg(value_name = "ID")]
    id: MessageId,
    #[command(flatten)]
    config: ConfigPath,
    /// Print the relay's JSON instead of text
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let address = Config::load(&args.config.path())?.admin.address;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (is_there, text) = runtime.block_on(ask(address, args.id))?;
    if args.json {
        println!("{text}");
    } else if is_there {
        print!("{}", shown(&serde_json::from_str(&text).context("the relay's answer is not understood")?));
    }
    if is_there {
        return Ok(ExitCode::SUCCESS);
    }
    let ErrorPage { error } = serde_json::from_str(&text).context("the relay's answer is not understood")?;
    eprintln!("m365-relay: {error}");
    Ok(ExitCode::FAILURE)
}

/// Whether the message is there, and the answer's JSON.
async fn ask(address: SocketAddr, id: MessageId) -> anyhow::Result<(bool, String)> {
    let asked = network::local_client()?
        .get(format!("http://{address}/api/v1/messages/{id}"))
        .timeout(PATIENCE)
        .send()
        .await
        .map_err(network::describe);
    let answer = match asked {
        Ok(answer) => answer,
        Err(error) => bail!("the relay does not answer at admin.address {address}: {error}. Does it run?"),
    };
    let status = answer.status().as_u16();
    let body = answer.bytes().await.map_err(|error| anyhow::anyhow!(network::describe(error)))?;
    let text = String::from_utf8_lossy(&body).into_owned();
    match status {
        200 => Ok((true, text)),
        404 if text.starts_with('{') => Ok((false, text)),
        _ => bail!("the relay at admin.address {address} answers {status}: is it one of this version?"),
    }
}

fn shown(page: &MessagePage) -> String {
    let MessagePage { id, state, tenant, mailbox, accepted, waits } = page;
    let mut lines = vec![("message", &**id), ("state", state), ("tenant", tenant)];
    lines.extend(mailbox.iter().map(|mailbox| ("mailbox", &**mailbox)));
    lines.push(("accepted", accepted));
    if let Some(WaitsPage { why, limit, until }) = waits {
        lines.push(("waits for", why));
        lines.extend(limit.iter().map(|limit| ("limit", &**limit)));
        lines.extend(until.iter().map(|until| ("until", &**until)));
    }
    // What a service said may hold anything.
    let line = |(name, value): (&str, &str)| format!("{name:<10} {}\n", value.replace(char::is_control, " "));
    lines.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_people() {
        let page = MessagePage {
            id: "0D3S".into(),
            state: "ready".into(),
            tenant: "contoso".into(),
            mailbox: Some("a@contoso.example".into()),
            accepted: "2026-01-01T00:00:00Z".into(),
            waits: Some(WaitsPage {
                why: "429\nTooManyRequests".into(),
                limit: Some("service".into()),
                until: Some("2026-01-01T00:01:00Z".into()),
            }),
        };
        let expected = "message    0D3S\nstate      ready\ntenant     contoso\nmailbox    a@contoso.example\n\
                        accepted   2026-01-01T00:00:00Z\nwaits for  429 TooManyRequests\nlimit      service\n\
                        until      2026-01-01T00:01:00Z\n";
        assert_eq!(shown(&page), expected);
    }
}
