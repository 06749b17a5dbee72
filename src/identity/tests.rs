//! Tokens from the simulated login service.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    config::Config,
    sandbox::{Action, Directory, Fault, On, Options, Service, StatusFault},
};

struct Bench {
    service: Service,
    identity: Arc<Identity>,
    config: Config,
    metrics: Metrics,
}

impl Bench {
    async fn new(secret: &str, token_lifetime: Duration) -> Self {
        let directories =
            ["contoso.example", "fabrikam.example"].map(|d| Directory::new(d, "app", "right-secret"));
        let service =
            Service::start(Options { directories: directories.into(), token_lifetime, ..Options::default() });
        let service = service.await.unwrap();
        let metrics = Metrics::new();
        let (identity, config) = Self::identity(&service.url(), secret, &metrics);
        Self { service, identity, config, metrics }
    }

    fn identity(url: &str, secret: &str, metrics: &Metrics) -> (Arc<Identity>, Config) {
        let tenant = |name: &str| {
            format!(
                "[tenants.{name}]\ncloud = 'sandbox'\ndirectory = '{name}.example'\nclient_id = 'app'\n\
                 client_secret = '{secret}'\nsenders = ['*']\n"
            )
        };
        let text = format!(
            "[spool]\npath = 's'\n[pickup]\npath = 'p'\n[clouds.sandbox]\nlogin = '{url}'\ngraph = '{url}'\n{}{}",
            tenant("contoso"),
            tenant("fabrikam")
        );
        let config = Config::parse(&text, std::path::Path::new("config.toml")).unwrap();
        let clients =
            Clients::new(&config.network, config.tenants.values().map(|tenant| &tenant.cloud)).unwrap();
        (Arc::new(Identity::new(clients, metrics.clone(), "no-such-folder".into())), config)
    }

    async fn token(&self, tenant: &str) -> Result<AccessToken, TokenError> {
        self.identity.token(self.tenant(tenant), Audience::Graph).await
    }

    fn tenant(&self, name: &str) -> &Arc<Tenant> {
        &self.config.tenants[name]
    }

    fn requests(&self) -> usize {
        self.service.calls().iter().filter(|call| call.path.ends_with("/oauth2/v2.0/token")).count()
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_hundred_that_ask_at_once_share_one_request() {
    let bench = Bench::new("right-secret", HOUR).await;
    bench.service.inject(Fault::new(On::Token, Action::Delay(Duration::from_millis(50))));
    let asking = (0..100).map(|_| bench.token("contoso"));
    let tokens = futures_util::future::join_all(asking).await;
    assert!(tokens.iter().all(|token| token.as_ref().unwrap().is(tokens[0].as_ref().unwrap())));
    assert_eq!(bench.requests(), 1);
}

#[tokio::test]
async fn a_slow_login_delays_no_other_tenant() {
    let bench = Bench::new("right-secret", HOUR).await;
    let hour = Action::Delay(HOUR);
    bench.service.inject(Fault::new(On::Token, hour).for_directory("contoso.example"));
    tokio::select! {
        _ = bench.token("contoso") => panic!("the login takes an hour"),
        token = bench.token("fabrikam") => assert!(token.is_ok()),
    }
}

#[tokio::test]
async fn a_token_near_its_end_is_renewed_while_it_is_used() {
    // With 61 seconds to live, the token is used for 31 and to be renewed after half of them.
    let bench = Bench::new("right-secret", Duration::from_secs(61)).await;
    let first = bench.token("contoso").await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31) - Duration::from_millis(600)).await;
    tokio::time::resume();
    assert!(bench.token("contoso").await.unwrap().is(&first), "it is still good");
    let renewed = async {
        while bench.token("contoso").await.unwrap().is(&first) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), renewed).await.expect("a new token");
    assert_eq!(bench.requests(), 2);
}

#[tokio::test]
async fn a_rejected_token_is_not_handed_out_again() {
    let bench = Bench::new("right-secret", HOUR).await;
    let first = bench.token("contoso").await.unwrap();
    bench.identity.reject(bench.tenant("contoso"), Audience::Graph, &first);
    let second = bench.token("contoso").await.unwrap();
    assert!(!second.is(&first));
    // The first is no longer the one in use: rejecting it again changes nothing.
    bench.identity.reject(bench.tenant("contoso"), Audience::Graph, &first);
    assert!(bench.token("contoso").await.unwrap().is(&second));
}

#[tokio::test]
async fn a_wrong_secret_blocks_and_is_not_asked_for_again_at_once() {
    let bench = Bench::new("wrong-secret", HOUR).await;
    for _ in 0..10 {
        let error = bench.token("contoso").await.unwrap_err();
        assert_eq!(error.kind, TokenErrorKind::Blocked);
        assert!(error.why.contains("AADSTS7000215"), "{}", error.why);
        assert!(error.retry_after > Duration::from_secs(50), "{:?}", error.retry_after);
        assert!(!format!("{error:?} {error}").contains("wrong-secret"));
    }
    assert_eq!(bench.requests(), 1);
    assert!(bench.metrics.render().unwrap().contains(r#"result="blocked",tenant="contoso"} 1"#));
}

#[tokio::test]
async fn an_overloaded_login_is_transient_and_its_retry_after_kept() {
    let bench = Bench::new("right-secret", HOUR).await;
    let busy = StatusFault::new(429, "temporarily_unavailable").retry_after("17");
    bench.service.inject(Fault::new(On::Token, Action::Status(busy)).times(1));
    let error = bench.token("contoso").await.unwrap_err();
    assert_eq!((error.kind, error.retry_after), (TokenErrorKind::Transient, Duration::from_secs(17)));
    assert!(bench.token("fabrikam").await.is_ok());
}

#[tokio::test]
async fn a_login_that_is_not_there_is_transient() {
    let bench = Bench::new("right-secret", HOUR).await;
    bench.service.inject(Fault::new(On::Token, Action::CutBefore).times(1));
    let error = bench.token("contoso").await.unwrap_err();
    assert_eq!(error.kind, TokenErrorKind::Transient);
    assert!(error.why.contains("cannot reach the login service"), "{}", error.why);
}

#[tokio::test]
async fn no_token_is_ever_printed() {
    let bench = Bench::new("right-secret", HOUR).await;
    let token = bench.token("contoso").await.unwrap();
    assert!(token.expose().len() > 10);
    assert!(!format!("{token:?}").contains(token.expose()));
}

#[tokio::test]
async fn a_short_token_is_used_for_half_of_its_life() {
    let bench = Bench::new("right-secret", Duration::from_secs(20)).await;
    let before = Instant::now();
    for _ in 0..10 {
        let token = bench.token("contoso").await.unwrap();
        let usable = token.expires() - before;
        assert!((10..=20).contains(&usable.as_secs()), "{usable:?}");
    }
    assert_eq!(bench.requests(), 1);
}

#[tokio::test]
async fn a_token_that_has_ended_when_it_comes_is_a_failure_with_a_pause() {
    for lifetime in [0, 1] {
        let bench = Bench::new("right-secret", Duration::from_secs(lifetime)).await;
        for _ in 0..10 {
            let error = bench.token("contoso").await.unwrap_err();
            assert_eq!(error.kind, TokenErrorKind::Transient);
            assert!(error.retry_after > Duration::from_millis(500), "{:?}", error.retry_after);
            assert!(error.why.contains("ends at once"), "{}", error.why);
        }
        assert_eq!(bench.requests(), 1);
    }
}

#[tokio::test]
async fn a_life_that_no_clock_can_count_is_cut_to_a_day() {
    let url = a_login_that_says(format!(
        r#"{{"token_type":"Bearer","expires_in":{},"access_token":"a-token"}}"#,
        u64::MAX
    ))
    .await;
    let (identity, config) = Bench::identity(&url, "secret", &Metrics::new());
    let token = identity.token(&config.tenants["contoso"], Audience::Graph).await.unwrap();
    let usable = token.expires() - Instant::now();
    assert!(usable <= 24 * HOUR && usable > 23 * HOUR, "{usable:?}");
}

/// For answers that the simulated service does not give. It takes one request.
async fn a_login_that_says(body: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // The whole request, or the close that follows could reset the connection before the answer is read.
        let mut request = Vec::new();
        let mut text = String::new();
        while !["grant_type=", "scope=", "client_secret=secret"].iter().all(|part| text.contains(part)) {
            assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            text = String::from_utf8_lossy(&request).into_owned();
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    url
}
