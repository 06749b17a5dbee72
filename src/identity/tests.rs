//! Tokens from the simulated login service.

mod device;
mod grants;
mod managed;
mod refresh;
mod watch;
mod wire;

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::config::Config;
use relay_sandbox::{Action, Directory, Fault, On, Options, Service, StatusFault};

struct Bench {
    service: Service,
    identity: Arc<Identity>,
    config: Config,
    metrics: Metrics,
    folder: TempDir,
}

const NAMES: [&str; 2] = ["contoso", "fabrikam"];

impl Bench {
    async fn new(secret: &str, token_lifetime: Duration) -> Self {
        let directories = NAMES.map(|name| Directory::new(format!("{name}.example"), "app", "right-secret"));
        let options = Options { directories: directories.into(), token_lifetime, ..Options::default() };
        Self::of(options, &format!("client_id = 'app'\nclient_secret = '{secret}'")).await
    }

    /// Two tenants with these lines in their tables; `URL` stands for the service's URL.
    async fn of(options: Options, lines: &str) -> Self {
        crate::config::umask_for_tests();
        let service = Service::start(options).await.unwrap();
        let metrics = Metrics::new();
        let folder = tempfile::tempdir().unwrap();
        let config = Self::config(&service.url(), &lines.replace("URL", &service.url()));
        let identity = Self::identity(&config, &metrics, folder.path());
        Self { service, identity, config, metrics, folder }
    }

    fn config(url: &str, lines: &str) -> Config {
        let mut text = format!(
            "[spool]\npath = 's'\n[pickup]\npath = 'p'\n[clouds.sandbox]\nlogin = '{url}'\ngraph = '{url}'\n"
        );
        for name in NAMES {
            text += &format!(
                "[tenants.{name}]\ncloud = 'sandbox'\ndirectory = '{name}.example'\nsenders = ['*']\n{lines}\n"
            );
        }
        Config::parse(&text, Path::new("config.toml")).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
    }

    fn identity(config: &Config, metrics: &Metrics, folder: &Path) -> Arc<Identity> {
        let clients = Clients::new(&config.network, config.tenants.values().map(|tenant| &tenant.cloud));
        Arc::new(Identity::new(clients.unwrap(), metrics.clone(), folder.join("credentials")))
    }

    /// As after a restart of the relay.
    fn restart(&mut self) {
        self.identity = Self::identity(&self.config, &self.metrics, self.folder.path());
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
async fn a_token_that_is_refused_again_is_not_replaced_again() {
    let bench = Bench::new("right-secret", HOUR).await;
    for _ in 0..5 {
        let token = bench.token("contoso").await.unwrap();
        bench.identity.reject(bench.tenant("contoso"), Audience::Graph, &token);
    }
    assert_eq!(bench.requests(), 2);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    let token = bench.token("contoso").await.unwrap();
    bench.identity.reject(bench.tenant("contoso"), Audience::Graph, &token);
    assert!(!bench.token("contoso").await.unwrap().is(&token));
    assert_eq!(bench.requests(), 3);
}

#[tokio::test]
async fn a_header_with_a_token_is_not_shown() {
    let bench = Bench::new("right-secret", HOUR).await;
    let token = bench.token("contoso").await.unwrap();
    let header = token.bearer();
    assert_eq!(header.to_str().unwrap(), format!("Bearer {}", token.expose()));
    assert!(header.is_sensitive() && !format!("{header:?}").contains(token.expose()));
}

#[tokio::test]
async fn a_tenant_keeps_its_token_when_something_else_of_it_changes() {
    let bench = Bench::new("right-secret", HOUR).await;
    let first = bench.token("contoso").await.unwrap();
    let changed = |change: &dyn Fn(&mut Tenant)| {
        let mut tenant = Tenant::clone(bench.tenant("contoso"));
        change(&mut tenant);
        Arc::new(tenant)
    };
    let other = changed(&|tenant| tenant.max_queued = 7);
    assert!(bench.identity.token(&other, Audience::Graph).await.unwrap().is(&first));
    let other = changed(&|tenant| tenant.directory = "fabrikam.example".into());
    assert!(!bench.identity.token(&other, Audience::Graph).await.unwrap().is(&first));
}

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
    // With 61 seconds to live, the token is used for 31 and must be renewed after half of them.
    let bench = Bench::new("right-secret", Duration::from_secs(61)).await;
    let first = bench.token("contoso").await.unwrap();
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(25)).await;
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

/// `cargo test --lib -- what_ten_thousand --nocapture` shows the figures.
#[tokio::test]
async fn what_ten_thousand_tenants_with_tokens_cost() {
    let bench = Bench::new("right-secret", HOUR).await;
    let resident = || -> usize {
        let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
        pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let before = resident();
    let length = bench.token("contoso").await.unwrap().expose().len();
    for n in 0..10_000 {
        let tenant =
            Tenant { name: format!("t{n}").parse().unwrap(), ..Tenant::clone(bench.tenant("contoso")) };
        let cache = bench.identity.cache(&Arc::new(tenant), Audience::Graph);
        cache.put(AccessToken::new("x".repeat(length), HOUR));
    }
    let grown = resident().saturating_sub(before);
    let own = size_of::<TokenCache>() + size_of::<(TenantName, Audience)>() + size_of::<Arc<TokenCache>>();
    println!(
        "a cache: {own} octets, a token: {length}; resident for 10,000, with their configuration, and whatever other tests \
         did meanwhile: {grown}"
    );
    assert_eq!(bench.identity.caches().len(), 10_001);
    assert!(own < 700, "{own}");
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
            assert!(error.why.contains("expires at once"), "{}", error.why);
        }
        assert_eq!(bench.requests(), 1);
    }
}

#[tokio::test]
async fn a_life_that_no_clock_can_count_is_cut_to_a_day() {
    let token = answered(&[ok(u64::MAX)]).await.0.unwrap();
    let usable = token.expires() - Instant::now();
    assert!(usable <= 24 * HOUR && usable > 23 * HOUR, "{usable:?}");
}

#[tokio::test]
async fn a_request_that_is_sent_elsewhere_goes_there_once_and_not_to_another_host() {
    let redirect =
        |to: &str| format!("HTTP/1.1 307 Temporary Redirect\r\nLocation: {to}\r\nContent-Length: 0\r\n");
    let (token, asked) = answered(&[redirect("/elsewhere?x"), ok(3600)]).await;
    assert!(token.is_ok(), "{token:?}");
    assert!(asked[1].starts_with("POST /elsewhere?x HTTP/1.1\r\n"), "{asked:?}");
    let body = |request: &String| request.split_once("\r\n\r\n").unwrap().1.to_owned();
    assert_eq!(body(&asked[0]), body(&asked[1]));

    let (token, asked) = answered(&[redirect("http://127.0.0.1:1/token")]).await;
    let error = token.unwrap_err();
    assert_eq!((error.kind, asked.len()), (TokenErrorKind::Transient, 1));
    assert!(error.why.contains("another host, 127.0.0.1"), "{error}");

    let (token, asked) = answered(&[redirect("/1"), redirect("/2")]).await;
    assert_eq!((token.unwrap_err().kind, asked.len()), (TokenErrorKind::Transient, 2));
}

/// A good response, for a token that lives this many seconds.
fn ok(lifetime: u64) -> String {
    let body = format!(r#"{{"token_type":"Bearer","expires_in":{lifetime},"access_token":"a-token"}}"#);
    wire::response("200 OK", &body)
}

/// The outcome with a login service that gives these responses, which the simulated service does not; and
/// what it was asked.
async fn answered(responses: &[String]) -> (Result<AccessToken, TokenError>, Vec<String>) {
    let scripted = wire::Scripted::start(responses).await;
    let token = scripted.token("client_id = 'app'\nclient_secret = 'secret'").await;
    (token, scripted.asked().await)
}
