//! The watch over credentials.

use std::{collections::BTreeMap, fs};

use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{grants, *};
use crate::clock;

/// With a wrong secret, in a file of this folder.
async fn bench() -> (Bench, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("secret"), "wrong-secret").unwrap();
    let place = folder.path().join("secret");
    let lines = format!("client_id = 'app'\nclient_secret = {{ file = '{}' }}", place.display());
    (Bench::of(grants::options(), &lines).await, folder)
}

/// Watches until the guard is dropped, and reports which tenants may try again.
fn watch(bench: &Bench) -> (mpsc::UnboundedReceiver<TenantName>, DropGuard) {
    let (told, hears) = mpsc::unbounded_channel();
    let identity = bench.identity.clone();
    let stop = CancellationToken::new();
    let until = stop.clone();
    tokio::spawn(async move { identity.watch(move |tenant| told.send(tenant).unwrap(), until).await });
    (hears, stop.drop_guard())
}

#[tokio::test]
async fn a_file_that_changes_ends_the_failure_that_it_is_to_blame_for() {
    let (bench, folder) = bench().await;
    let (mut again, _guard) = watch(&bench);
    let error = bench.token("contoso").await.unwrap_err();
    assert!(error.retry_after > Duration::from_secs(50), "{error:?}");
    // By renaming, which is how secrets should be replaced.
    fs::write(folder.path().join("new"), "right-secret").unwrap();
    fs::rename(folder.path().join("new"), folder.path().join("secret")).unwrap();
    let told = tokio::time::timeout(Duration::from_secs(20), again.recv()).await.unwrap().unwrap();
    assert_eq!(told.as_str(), "contoso");
    assert!(bench.token("contoso").await.is_ok());
    // No other tenant had failed, and it is reported once.
    assert!(again.try_recv().is_err());
    assert_eq!(bench.requests(), 2);
}

#[tokio::test]
async fn a_file_that_stays_ends_nothing() {
    let (bench, _folder) = bench().await;
    bench.token("contoso").await.unwrap_err();
    bench.identity.watch_once(&|_| panic!("nothing has changed")).await;
    assert!(bench.token("contoso").await.is_err());
    assert_eq!(bench.requests(), 1);
}

/// Nothing but another credential causes a login to be tried again.
#[tokio::test]
async fn a_file_that_is_touched_or_replaced_by_the_same_ends_nothing() {
    let (bench, folder) = bench().await;
    let secret = folder.path().join("secret");
    let new = folder.path().join("new");
    bench.token("contoso").await.unwrap_err();
    let still_fails = || async {
        bench.identity.watch_once(&|_| panic!("nothing has changed")).await;
        assert!(bench.token("contoso").await.is_err());
        assert_eq!(bench.requests(), 1);
    };
    fs::File::options().append(true).open(&secret).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    still_fails().await;
    fs::write(&new, "wrong-secret").unwrap();
    fs::rename(&new, &secret).unwrap();
    still_fails().await;
    fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    still_fails().await;
    // The same length at the same time.
    fs::write(&secret, "right-secret").unwrap();
    fs::File::options().append(true).open(&secret).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    let again = std::sync::Mutex::new(Vec::new());
    bench.identity.watch_once(&|tenant| again.lock().unwrap().push(tenant)).await;
    assert_eq!(again.lock().unwrap().len(), 1);
    assert!(bench.token("contoso").await.is_ok());
}

/// The token in use stays in use until another is there.
#[tokio::test]
async fn a_token_that_is_denied_something_is_renewed_if_it_is_not_new() {
    let bench = Bench::new("right-secret", HOUR).await;
    let contoso = bench.tenant("contoso");
    let first = bench.token("contoso").await.unwrap();
    bench.identity.denied(contoso, Audience::Graph, &first);
    assert!(bench.token("contoso").await.unwrap().is(&first));
    assert_eq!(bench.requests(), 1);
    pass(Duration::from_secs(241)).await;
    // The login service is away for a moment, which does not matter.
    bench.service.inject(Fault::new(On::Token, Action::CutBefore).times(1));
    bench.identity.denied(contoso, Audience::Graph, &first);
    while bench.requests() < 2 {
        assert!(bench.token("contoso").await.unwrap().is(&first));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pass(Duration::from_secs(60)).await;
    bench.identity.denied(contoso, Audience::Graph, &first);
    while bench.token("contoso").await.unwrap().is(&first) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // One that is no longer in use says nothing.
    bench.identity.denied(contoso, Audience::Graph, &first);
    assert_eq!(bench.requests(), 3);
}

async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_reload_renews_what_was_denied_and_nothing_else() {
    let bench = Bench::new("right-secret", HOUR).await;
    let token = bench.token("contoso").await.unwrap();
    let other = bench.token("fabrikam").await.unwrap();
    bench.identity.denied(bench.tenant("contoso"), Audience::Graph, &token);
    let (told, mut again) = mpsc::unbounded_channel();
    let renewing = bench.identity.look_again(move |tenant| told.send(tenant).unwrap()).await;
    assert_eq!(renewing.iter().map(TenantName::as_str).collect::<Vec<_>>(), ["contoso"]);
    assert_eq!(again.recv().await.unwrap().as_str(), "contoso");
    assert!(!bench.token("contoso").await.unwrap().is(&token));
    assert!(bench.token("fabrikam").await.unwrap().is(&other));
    assert_eq!(bench.requests(), 3);
    // Once.
    assert!(bench.identity.look_again(|_| panic!("nothing was denied")).await.is_empty());
}

#[tokio::test]
async fn whoever_asks_a_login_that_failed_just_now_is_not_tried_again() {
    let bench = Bench::new("wrong-secret", HOUR).await;
    bench.token("contoso").await.unwrap_err();
    let name = &bench.tenant("contoso").name;
    for _ in 0..5 {
        bench.identity.renew(name).await;
    }
    assert_eq!(bench.requests(), 1);
    pass(Duration::from_secs(61)).await;
    for _ in 0..5 {
        bench.identity.renew(name).await;
    }
    assert_eq!(bench.requests(), 2);
    // Nor is one that has never been needed.
    bench.identity.renew(&bench.tenant("fabrikam").name).await;
    assert_eq!(bench.requests(), 2);
}

#[tokio::test]
async fn idle_tenants_cost_nothing_and_spent_tokens_are_forgotten() {
    let bench = Bench::new("right-secret", Duration::from_secs(3)).await;
    assert_eq!(bench.identity.caches().len(), 0);
    bench.token("contoso").await.unwrap();
    bench.token("fabrikam").await.unwrap();
    bench.identity.forget_spent();
    assert_eq!(bench.identity.caches().len(), 2);
    let ended = async {
        while !bench.identity.caches().is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            bench.identity.forget_spent();
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended).await.unwrap();
    assert!(bench.token("contoso").await.is_ok());
}

#[tokio::test]
async fn a_tenant_that_goes_takes_its_token_and_its_certificate_along() {
    let bench = Bench::of(grants::options(), &grants::certificate_lines()).await;
    let shown = |tenant: &str| {
        let series = format!("credential_expiry_timestamp_seconds{{tenant=\"{tenant}\"}} 4733510400");
        bench.metrics.render().unwrap().contains(&series)
    };
    bench.identity.note_tenants(&bench.config.tenants).await;
    // Without any login.
    assert_eq!((shown("contoso"), shown("fabrikam"), bench.requests()), (true, true, 0));
    bench.token("contoso").await.unwrap();
    bench.token("fabrikam").await.unwrap();
    let mut left: BTreeMap<_, _> = bench.config.tenants.clone();
    left.remove("fabrikam");
    bench.identity.note_tenants(&left).await;
    assert_eq!((shown("contoso"), shown("fabrikam"), bench.identity.caches().len()), (true, false, 1));
}

#[tokio::test]
async fn the_end_of_a_certificate_that_is_replaced_is_known_without_a_login() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = folder.path().join("c.pem");
    let key = folder.path().join("c.key");
    fs::write(&certificate, grants::CERTIFICATE).unwrap();
    fs::write(&key, grants::KEY).unwrap();
    let lines = format!(
        "client_id = 'app'\ncertificate = {{ file = '{}' }}\nprivate_key = {{ file = '{}' }}",
        certificate.display(),
        key.display()
    );
    let bench = Bench::of(grants::options(), &lines).await;
    bench.identity.note_tenants(&bench.config.tenants).await;
    let ends = || {
        let shown = bench.metrics.render().unwrap();
        let series = "credential_expiry_timestamp_seconds{tenant=\"contoso\"} ";
        shown.split(series).nth(1).unwrap().lines().next().unwrap().parse::<f64>().unwrap()
    };
    let before = ends();
    fs::write(&certificate, include_str!("../../../tests/made_up_keys/app-expired.pem")).unwrap();
    tokio::time::pause();
    let (_again, _guard) = watch(&bench);
    tokio::time::sleep(Duration::from_secs(3599)).await;
    assert_eq!(ends(), before);
    while ends() == before {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(ends() < clock::now().as_millis() as f64 / 1000.0);
}
