//! Asks the relay that runs, by its admin address.

use std::{net::SocketAddr, path::Path, time::Duration};

use anyhow::{anyhow, bail};

use crate::{config::AdminConfig, network};

const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Daemon {
    address: SocketAddr,
}

impl Daemon {
    /// The one that runs with this configuration file, in which other mistakes do not matter.
    pub(super) fn of(config: &Path) -> anyhow::Result<Self> {
        Ok(Self { address: AdminConfig::load(config)?.address })
    }

    /// Status and JSON.
    pub(super) fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.ask(|client, url| client.get(url), path)
    }

    /// Status and JSON.
    pub(super) fn post(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let json = http::HeaderValue::from_static("application/json");
        self.ask(|client, url| client.post(url).header(http::header::CONTENT_TYPE, json).body("{}"), path)
    }

    fn ask(
        &self,
        call: impl FnOnce(reqwest::Client, String) -> reqwest::RequestBuilder,
        path: &str,
    ) -> anyhow::Result<(u16, String)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let address = self.address;
            let call = call(network::local_client()?, format!("http://{address}{path}")).timeout(PATIENCE);
            let answer = match call.send().await.map_err(network::describe) {
                Ok(answer) => answer,
                Err(error) => {
                    bail!("the relay does not answer at admin.address {address}: {error}. Does it run?")
                }
            };
            let status = answer.status().as_u16();
            let body = answer.bytes().await.map_err(|error| anyhow!(network::describe(error)))?;
            let text = String::from_utf8_lossy(&body).into_owned();
            // Whatever else listens there does not speak JSON.
            if text.starts_with('{') { Ok((status, text)) } else { Err(self.strange(status)) }
        })
    }

    /// An answer that no relay of this version gives.
    pub(super) fn strange(&self, status: u16) -> anyhow::Error {
        anyhow!("the relay at admin.address {} answers {status}: is it one of this version?", self.address)
    }
}
