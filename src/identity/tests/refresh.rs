//! Refresh tokens: each one is used once, and its successor outlives the process.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::Value;

use super::*;
use relay_sandbox::User;

fn directory(name: &str) -> Directory {
    Directory {
        public_client_id: Some("public".into()),
        users: vec![User::new(format!("relay@{name}.example"), "pass word")],
        ..Directory::new(format!("{name}.example"), "app", "right-secret")
    }
}

pub(super) fn options() -> Options {
    Options { directories: NAMES.map(directory).into(), ..Options::default() }
}

/// A refresh token, obtained as another program would.
async fn first_token(service: &Service) -> String {
    let form = "grant_type=password&client_id=public&username=relay@contoso.example&password=pass%20word\
                &scope=https://graph.microsoft.com/.default%20offline_access";
    let answer = reqwest::Client::new()
        .post(format!("{}/contoso.example/oauth2/v2.0/token", service.url()))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await
        .unwrap();
    let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    answer["refresh_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
}

/// With a first token in the file `first`.
async fn bench() -> Bench {
    let mut bench = Bench::of(options(), "client_id = 'public'\ngrant = 'refresh_token'").await;
    let first = bench.folder.path().join("first");
    fs::write(&first, first_token(&bench.service).await).unwrap();
    let lines = format!(
        "client_id = 'public'\ngrant = 'refresh_token'\nrefresh_token = {{ file = '{}' }}",
        first.display()
    );
    bench.config = Bench::config(&bench.service.url(), &lines);
    bench.restart();
    bench
}

fn stored(bench: &Bench) -> Value {
    let text = fs::read_to_string(bench.folder.path().join("credentials/contoso.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[tokio::test]
async fn a_token_that_was_used_up_is_replaced_for_good() {
    let mut bench = bench().await;
    let first = fs::read_to_string(bench.folder.path().join("first")).unwrap();
    let mut seen = vec![first];
    // The service takes no refresh token twice.
    for _ in 0..3 {
        bench.token("contoso").await.unwrap();
        let token = stored(&bench)["refresh_token"].as_str().unwrap().to_owned();
        assert!(!seen.contains(&token));
        seen.push(token);
        bench.restart();
    }
    let folder = bench.folder.path().join("credentials");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&folder.join("contoso.json"))), (0o700, 0o600));
    let names: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["contoso.json"]);
}

#[tokio::test]
async fn both_services_live_on_one_refresh_token() {
    let bench = bench().await;
    bench.service.inject(Fault::new(On::Token, Action::Delay(Duration::from_millis(50))));
    let tenant = bench.tenant("contoso");
    let (graph, exchange) = tokio::join!(
        bench.identity.token(tenant, Audience::Graph),
        bench.identity.token(tenant, Audience::Exchange)
    );
    // If they used it at the same time, one of them would be refused.
    let audience =
        |token: Result<AccessToken, TokenError>| claims(&token.unwrap()).unwrap().audience.unwrap();
    assert_ne!(audience(graph), audience(exchange));
    assert_eq!(bench.service.peak_logins(), 1);
}

#[tokio::test]
async fn a_newly_configured_token_wins_and_its_successors_after_it() {
    let mut bench = bench().await;
    bench.token("contoso").await.unwrap();
    bench.service.revoke_logins("relay@contoso.example");
    bench.restart();
    let error = bench.token("contoso").await.unwrap_err();
    assert_eq!(error.kind, TokenErrorKind::Blocked);
    assert!(error.why.contains("m365-relay tenant login"), "{error}");

    fs::write(bench.folder.path().join("first"), first_token(&bench.service).await).unwrap();
    bench.restart();
    bench.token("contoso").await.unwrap();
    // The configured one is used up now, and the stored one descends from it.
    bench.restart();
    bench.token("contoso").await.unwrap();
}

#[tokio::test]
async fn another_application_does_not_get_the_token() {
    let mut bench = bench().await;
    bench.token("contoso").await.unwrap();
    let lines = "client_id = 'another'\ngrant = 'refresh_token'";
    bench.config = Bench::config(&bench.service.url(), lines);
    bench.restart();
    let before = bench.requests();
    let error = bench.token("contoso").await.unwrap_err();
    assert!(error.why.contains("run m365-relay tenant login contoso"), "{error}");
    assert_eq!(bench.requests(), before);
}

#[tokio::test]
async fn without_a_place_for_the_successor_there_is_no_access_token_and_it_is_not_lost() {
    let bench = bench().await;
    // A half-written file has this name, and a folder of that name cannot be removed as a file can. It stops
    // even root.
    let in_the_way = bench.folder.path().join("credentials/.contoso.json");
    fs::create_dir_all(&in_the_way).unwrap();
    let error = bench.token("contoso").await.unwrap_err();
    assert_eq!(error.kind, TokenErrorKind::Transient, "{error}");
    assert!(error.why.contains("credentials/contoso.json"), "{error}");
    assert_eq!(bench.service.counts().tokens_by_grant.refresh_token, 1);
    fs::remove_dir(&in_the_way).unwrap();
    let again = async {
        while bench.token("contoso").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), again).await.unwrap();
    assert!(stored(&bench)["refresh_token"].is_string());
}

#[tokio::test]
async fn whoever_signed_in_meanwhile_is_not_overruled() {
    let bench = bench().await;
    bench.token("contoso").await.unwrap();
    let file = bench.folder.path().join("credentials/contoso.json");
    let mut stored = stored(&bench);
    // The request is already at the service when the file changes, and takes longer than the change.
    bench.service.inject(Fault::new(On::Token, Action::Delay(Duration::from_secs(1))).times(1));
    let before = bench.service.faults().len();
    let refresh = bench.identity.token(bench.tenant("contoso"), Audience::Exchange);
    let sign_in = async {
        while bench.service.faults().len() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stored["refresh_token"] = "signed-in".into();
        fs::write(&file, stored.to_string()).unwrap();
    };
    let (token, ()) = tokio::join!(refresh, sign_in);
    token.unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains("signed-in"), "{text}");
}

#[tokio::test]
async fn what_the_relay_did_not_write_is_named() {
    let mut bench = Bench::of(options(), "client_id = 'public'\ngrant = 'refresh_token'").await;
    let error = bench.token("contoso").await.unwrap_err();
    assert!(error.why.contains("nobody has signed in yet: run m365-relay tenant login contoso"), "{error}");
    let folder = bench.folder.path().join("credentials");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("contoso.json"), "{\"refresh_token\": \"s3cret\"").unwrap();
    bench.restart();
    let error = bench.token("contoso").await.unwrap_err();
    assert_eq!(error.kind, TokenErrorKind::Blocked);
    let is_named = error.why.contains("contoso.json is not in the relay's format");
    assert!(is_named && !error.why.contains("s3cret"), "{error}");
}
