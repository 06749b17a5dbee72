//! What clients ask before they log in, and consent.

use super::*;

async fn get(lab: &Lab, path: &str) -> Answer {
    Answer::of(lab.http.get(format!("{}{path}", lab.service.url()))).await
}

#[tokio::test]
async fn discovery_names_urls_as_the_client_sees_them() {
    let lab = Lab::default().await;
    let path = format!("/{DOMAIN}/v2.0/.well-known/openid-configuration");
    let id = lab.service.0.world.tenants[0].directory.id();
    let direct = get(&lab, &path).await.json();
    assert_eq!(direct["token_endpoint"], format!("{}/{id}/oauth2/v2.0/token", lab.service.url()));
    let url = format!("{}{path}", lab.service.url());
    let fronted = Answer::of(lab.http.get(&url).header("host", "login.example")).await.json();
    assert_eq!(fronted["token_endpoint"], format!("https://login.example/{id}/oauth2/v2.0/token"));
    assert_eq!(fronted["issuer"], format!("https://login.example/{id}/v2.0"));
    let forwarded = Answer::of(lab.http.get(&url).header("x-forwarded-proto", "https")).await.json();
    let device = forwarded["device_authorization_endpoint"].as_str().expect("text");
    assert!(device.starts_with("https://127.0.0.1:") && device.ends_with("/devicecode"), "{device}");
    // The endpoints that are given work.
    let form = GOOD.to_owned();
    assert_eq!(lab.ask_token(&id.to_string(), &form).await.status, 200);
    let common = get(&lab, "/organizations/v2.0/.well-known/openid-configuration").await.json();
    assert!(common["issuer"].as_str().is_some_and(|issuer| issuer.ends_with("/{tenantid}/v2.0")), "{common}");
    let nobody = get(&lab, "/nobody.example/v2.0/.well-known/openid-configuration").await;
    assert_refused(&nobody, 400, "invalid_request", 90002);
}

#[tokio::test]
async fn instances_and_realms_are_known() {
    let lab = Lab::default().await;
    let endpoint = "https://login.example/contoso.example/oauth2/v2.0/authorize";
    let instance = |endpoint: &str, host: &'static str| {
        let url =
            format!("{}/common/discovery/instance?authorization_endpoint={endpoint}", lab.service.url());
        Answer::of(lab.http.get(url).header("host", host))
    };
    assert_refused(&instance(endpoint, "login.microsoftonline.com").await, 400, "invalid_instance", 50049);
    let instance = instance(endpoint, "login.example:8443").await;
    assert_eq!(
        instance.json()["tenant_discovery_endpoint"],
        "https://login.example/contoso.example/v2.0/.well-known/openid-configuration"
    );
    let unknown = get(&lab, "/common/discovery/instance?authorization_endpoint=http://x/").await;
    assert_refused(&unknown, 400, "invalid_instance", 50049);
    let managed = get(&lab, "/common/userrealm/a@contoso.example?api-version=1.0").await.json();
    assert_eq!(managed["account_type"], "Managed");
    let unknown = get(&lab, "/common/userrealm/a@elsewhere.example?api-version=1.0").await.json();
    assert_eq!(unknown["account_type"], "Unknown");
}

/// Acts as a browser that shows where it is sent.
async fn consent(lab: &Lab, directory: &str, query: &str) -> Answer {
    let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build();
    let url = format!("{}/{directory}/v2.0/adminconsent?{query}", lab.service.url());
    Answer::of(browser.expect("a client").get(url)).await
}

#[tokio::test]
async fn an_administrator_agrees() {
    let directory = Directory { consented: false, ..Directory::new(DOMAIN, "app-1", "s3cret+&") };
    let service = Service::start(Options { directories: vec![directory], ..options() }).await;
    let lab = Lab { service: service.expect("a free port"), http: client(), token: String::new() };
    assert_refused(&lab.ask_token(DOMAIN, GOOD).await, 400, "unauthorized_client", 700016);

    let good = "client_id=app-1&scope=https://graph.microsoft.com/.default&redirect_uri=https://relay.example/done&state=a%26b";
    for (directory, query, status, said) in [
        (DOMAIN, good.replace("app-1", "app-9"), 400, "AADSTS700016"),
        (DOMAIN, good.replace("redirect_uri", "x"), 400, "AADSTS900144"),
        (DOMAIN, good.replace("https://relay", "javascript:relay"), 400, "AADSTS50011"),
        (DOMAIN, good.replace("scope", "x"), 400, "AADSTS900144"),
        ("common", good.into(), 400, "AADSTS90014"),
        ("nobody.example", good.into(), 400, "AADSTS90002"),
    ] {
        let answer = consent(&lab, directory, &query).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(said) && answer.header("location").is_empty(), "{}", answer.body);
    }
    let wrong = consent(&lab, DOMAIN, &good.replace("graph.microsoft.com", "files.example")).await;
    // Which is why a client has to look at error first.
    let location = wrong.header("location");
    assert!(
        location.contains("?admin%5Fconsent=True&") || location.contains("?admin_consent=True&"),
        "{location}"
    );
    assert!(location.contains("error=invalid%5Fscope"), "{location}");
    assert_refused(&lab.ask_token(DOMAIN, GOOD).await, 400, "unauthorized_client", 700016);

    let agreed = consent(&lab, "organizations", good).await;
    assert_eq!(agreed.status, 302, "{}", agreed.body);
    let location = agreed.header("location");
    assert!(location.starts_with("https://relay.example/done?admin_consent=True&tenant="), "{location}");
    assert!(location.ends_with("&state=a%26b") && !location.contains("error"), "{location}");
    assert_eq!(lab.ask_token(DOMAIN, GOOD).await.status, 200);
}

#[tokio::test]
async fn browsers_go_to_registered_places_only() {
    let directory = Directory {
        redirect_uris: vec!["http://localhost:8080/consent".into()],
        ..Directory::new(DOMAIN, "app-1", "s3cret+&")
    };
    let lab = Lab::start(Options { directories: vec![directory], ..options() }).await;
    let query = |uri: &str| {
        format!("client_id=app-1&scope=https://outlook.office365.com/.default&redirect_uri={uri}")
    };
    assert_eq!(consent(&lab, DOMAIN, &query("http://localhost:8080/consent")).await.status, 302);
    let other = consent(&lab, DOMAIN, &query("https://relay.example/<script>")).await;
    assert_eq!(other.status, 400);
    assert!(other.body.contains("AADSTS50011") && !other.body.contains("<script"), "{}", other.body);
}
