//! The service as its clients see it: over loopback, with an HTTP client that knows nothing about it.

mod attachments;
mod control;
mod drafts;
mod faults;
mod limits;
mod login;
mod properties;
mod send;
mod smtp;
mod steps;
mod uploads;

use std::time::Duration;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::*;

const DOMAIN: &str = "contoso.example";
const MAILBOX: &str = "scanner@contoso.example";
const MAIL: &str = "From: Scanner <scanner@contoso.example>\r\nTo: ann@example.net, Bob <bob@example.net>\r\n\
                    Cc: ANN@example.net\r\nBcc: carol@example.net\r\nSubject: A =?utf-8?Q?sc=C3=A4n?=\r\n\
                    Message-ID: <one@contoso.example>\r\n\r\nHello.\r\n";

/// A service, a client and a token, all for one organisation.
struct Lab {
    service: Service,
    http: reqwest::Client,
    token: String,
}

/// An answer, read whole.
struct Answer {
    status: u16,
    headers: http::HeaderMap,
    body: String,
}

impl Answer {
    async fn of(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            body: response.text().await.expect("a body"),
        }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// Graph's `error.code`.
    fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().timeout(Duration::from_secs(20)).no_proxy().build().expect("a client")
}

fn options() -> Options {
    let contoso = Directory {
        names: vec![DOMAIN.into(), "c0-ff-ee".into()],
        ..Directory::new(DOMAIN, "app-1", "s3cret+&")
    };
    let fabrikam = Directory::new("fabrikam.example", "app-2", "other");
    Options { directories: vec![contoso, fabrikam], limits: Limits::unthrottled(), ..Options::default() }
}

impl Lab {
    async fn start(options: Options) -> Self {
        let service = Service::start(options).await.expect("a free port");
        let mut lab = Self { service, http: client(), token: String::new() };
        lab.token = lab.log_in(&lab.service.url()).await;
        lab
    }

    async fn default() -> Self {
        Self::start(options()).await
    }

    async fn log_in(&self, resource: &str) -> String {
        let form = format!(
            "grant_type=client_credentials&client_id=app-1&client_secret=s3cret%2B%26&scope={resource}/.default"
        );
        let answer = self.ask_token(DOMAIN, &form).await;
        answer.json()["access_token"].as_str().unwrap_or_else(|| panic!("{}", answer.body)).to_owned()
    }

    async fn ask_token(&self, directory: &str, form: &str) -> Answer {
        Answer::of(self.token_request(directory, form)).await
    }

    fn token_request(&self, directory: &str, form: &str) -> reqwest::RequestBuilder {
        self.http
            .post(format!("{}/{directory}/oauth2/v2.0/token", self.service.url()))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form.to_owned())
    }

    fn graph(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}/v1.0/users/{path}", self.service.url());
        self.http.request(method.parse().expect("a method"), url).bearer_auth(&self.token)
    }

    fn mail(&self, mailbox: &str, mime: &[u8]) -> reqwest::RequestBuilder {
        self.graph("POST", &format!("{mailbox}/sendMail"))
            .header("content-type", "text/plain")
            .body(BASE64_STANDARD.encode(mime))
    }

    async fn send(&self, mime: impl AsRef<[u8]>) -> Answer {
        Answer::of(self.mail(MAILBOX, mime.as_ref())).await
    }

    async fn json(&self, method: &str, path: &str, body: Value) -> Answer {
        let request = self.graph(method, path).header("content-type", "application/json");
        Answer::of(request.body(body.to_string())).await
    }

    fn delivered(&self) -> u64 {
        self.service.counts().messages
    }
}
