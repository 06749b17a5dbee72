//! Managed identities, with the simulated hosts.

use super::*;
use relay_sandbox::{LoginRules, ManagedIdentity};

async fn bench(identities: Vec<ManagedIdentity>, logins: LoginRules, lines: &str) -> Bench {
    let [contoso, fabrikam] =
        NAMES.map(|name| Directory::new(format!("{name}.example"), "app", "right-secret"));
    let directories = vec![Directory { managed_identities: identities, ..contoso }, fabrikam];
    Bench::of(Options { directories, logins, ..Options::default() }, lines).await
}

const VM: &str = "managed_identity = { kind = 'vm', endpoint = 'URL' }";

/// The application that the token belongs to.
async fn app(bench: &Bench) -> Result<Option<String>, TokenError> {
    let token = bench.token("contoso").await?;
    let left = token.ends - Instant::now();
    assert!((3590..=3600).contains(&left.as_secs()), "{left:?}");
    Ok(claims(&token).and_then(|claims| claims.app_id))
}

#[tokio::test]
async fn a_virtual_machine_has_its_own_identity() {
    let bench = bench(vec![ManagedIdentity::system("machine")], LoginRules::default(), VM).await;
    assert_eq!(app(&bench).await.unwrap().as_deref(), Some("machine"));
    assert_eq!(bench.service.counts().tokens_by_grant.managed_identity, 1);
}

#[tokio::test]
async fn an_assigned_identity_is_named_by_any_of_its_ids() {
    let one = ManagedIdentity::user_assigned("one");
    let two = ManagedIdentity::user_assigned("two");
    for (key, id) in
        [("client_id", &two.client_id), ("object_id", &two.object_id), ("resource_id", &two.resource_id)]
    {
        let lines = format!("managed_identity = {{ kind = 'vm', endpoint = 'URL', {key} = '{id}' }}");
        let bench = bench(vec![one.clone(), two.clone()], LoginRules::default(), &lines).await;
        assert_eq!(app(&bench).await.unwrap().as_deref(), Some("two"), "{key}");
    }
}

#[tokio::test]
async fn an_identity_that_is_not_there_is_said_to_be_missing() {
    let lines = "managed_identity = { kind = 'vm', endpoint = 'URL', client_id = 'three' }";
    let bench = bench(vec![ManagedIdentity::system("machine")], LoginRules::default(), lines).await;
    let error = bench.token("contoso").await.unwrap_err();
    assert_eq!(error.kind, TokenErrorKind::Blocked);
    assert!(
        error.why.contains("the host answers 400") && error.why.contains("is an identity assigned"),
        "{error}"
    );
}

#[tokio::test]
async fn a_host_that_is_not_ready_is_asked_again() {
    let bench = bench(vec![ManagedIdentity::system("machine")], LoginRules::default(), VM).await;
    for status in [404, 410] {
        bench.service.inject(Fault::status(On::ManagedIdentity, status, "not_ready").times(1));
    }
    tokio::time::timeout(Duration::from_secs(20), async { assert!(app(&bench).await.is_ok()) })
        .await
        .unwrap();
    let asked = bench.service.calls().iter().filter(|call| call.path.contains("/identity/")).count();
    assert_eq!(asked, 3);
}

#[tokio::test]
async fn azure_arc_is_shown_that_its_files_can_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let logins = || LoginRules { arc_secrets: Some(folder.path().into()), ..LoginRules::default() };
    let identities = || vec![ManagedIdentity::system("machine")];
    let lines = |folder: &Path| {
        format!(
            "managed_identity = {{ kind = 'arc', endpoint = 'URL/metadata/identity/oauth2/token', \
             arc_token_folder = '{}' }}",
            folder.display()
        )
    };
    let right = bench(identities(), logins(), &lines(folder.path())).await;
    assert_eq!(app(&right).await.unwrap().as_deref(), Some("machine"));

    // An agent that names a file elsewhere gets nothing.
    let wrong = bench(identities(), logins(), &lines(Path::new("/var/opt/azcmagent/tokens"))).await;
    let error = wrong.token("contoso").await.unwrap_err();
    assert_eq!(error.kind, TokenErrorKind::Blocked);
    assert!(error.why.contains("not one of /var/opt/azcmagent/tokens/*.key"), "{error}");
    assert_eq!(wrong.service.counts().tokens, 0);
}

/// What App Service wants is in the environment, which a test in this process cannot change: the binary's
/// tests do.
#[tokio::test]
async fn a_host_that_is_not_there_is_an_outage() {
    let lines = "managed_identity = { kind = 'vm', endpoint = 'http://127.0.0.1:1' }";
    let bench = bench(Vec::new(), LoginRules::default(), lines).await;
    let error = bench.token("contoso").await.unwrap_err();
    assert_eq!(error.kind, TokenErrorKind::Transient);
    assert!(error.why.contains("cannot reach the login service of managed identities"), "{error}");
}
