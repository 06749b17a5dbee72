//! Signing in with a code.

use super::{refresh::options, *};
use relay_sandbox::LoginRules;

async fn bench(logins: LoginRules) -> Bench {
    let options = Options { logins: LoginRules { device_interval: 1, ..logins }, ..options() };
    Bench::of(options, "client_id = 'public'\ngrant = 'refresh_token'").await
}

async fn sign_in(
    bench: &Bench,
    mut show: impl FnMut(&DeviceCode),
) -> Result<Option<TokenClaims>, TokenError> {
    let tenant = bench.tenant("contoso");
    let clients = Clients::new(&bench.config.network, std::iter::once(&tenant.cloud)).unwrap();
    log_in(tenant, clients, &bench.folder.path().join("credentials"), |code| {
        show(code);
        true
    })
    .await
}

#[tokio::test]
async fn who_signs_in_lets_the_relay_go_on() {
    let mut bench = bench(LoginRules::default()).await;
    let signed_in = sign_in(&bench, |code| {
        let message = &code.message;
        assert!(message.contains(&code.user_code) && message.contains(&code.verification_uri), "{code:?}");
        assert_eq!(code.expires_in, Duration::from_secs(900));
        assert!(bench.service.approve_device(&code.user_code, "relay@contoso.example"));
    });
    let claims = signed_in.await.unwrap().unwrap();
    assert_eq!(claims.user.as_deref(), Some("relay@contoso.example"));
    for n in 1..=2 {
        bench.token("contoso").await.unwrap();
        assert_eq!(bench.service.counts().tokens_by_grant.refresh_token, n);
        bench.restart();
    }
}

#[tokio::test]
async fn who_declines_is_heard() {
    let bench = bench(LoginRules::default()).await;
    let signed_in = sign_in(&bench, |code| assert!(bench.service.decline_device(&code.user_code)));
    let error = signed_in.await.unwrap_err();
    assert!(error.why.contains("declined"), "{error}");
    assert!(!bench.folder.path().join("credentials").exists());
}

#[tokio::test]
async fn nobody_is_waited_for_longer_than_the_code_is_good() {
    let short = LoginRules { device_code_lifetime: Duration::from_secs(3), ..LoginRules::default() };
    let bench = bench(short).await;
    let error = sign_in(&bench, |_| {}).await.unwrap_err();
    assert!(error.why.contains("begin again"), "{error}");
}

#[tokio::test]
async fn an_app_that_logs_in_itself_needs_nobody() {
    let bench = Bench::new("right-secret", HOUR).await;
    let error = sign_in(&bench, |_| panic!("no code")).await.unwrap_err();
    assert!(error.why.contains("grant = \"refresh_token\""), "{error}");
    assert_eq!(bench.requests(), 0);
}
