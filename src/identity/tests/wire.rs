//! What is sent to the login service, octet by octet, and responses that the simulated service does not give.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use super::*;
use crate::{
    config::Secret,
    identity::{
        endpoint::Proved,
        endpoint::{DeviceAuthorization, Endpoint, Granted, Poll},
        grant::prove_if_there,
    },
};

/// A login service that gives these responses, one to a connection.
pub(super) struct Scripted {
    url: String,
    service: JoinHandle<Vec<String>>,
}

/// The connection is interrupted instead.
const NONE: String = String::new();

/// A response that states the length of its body.
pub(super) fn response(status: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
}

impl Scripted {
    pub(super) async fn start(responses: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let responses = responses.to_vec();
        let service = tokio::spawn(async move {
            let mut asked = Vec::new();
            for response in responses {
                let (mut stream, _) = listener.accept().await.unwrap();
                asked.push(read_request(&mut stream).await);
                let response = response.replacen("\r\n", "\r\nConnection: close\r\n", 1);
                let end = if response.is_empty() || response.contains("\r\n\r\n") { "" } else { "\r\n" };
                // A client that finds it too large reads no further.
                let _ = stream.write_all(format!("{response}{end}").as_bytes()).await;
            }
            asked
        });
        Self { url, service }
    }

    /// Logs in a tenant with these lines.
    pub(super) async fn token(&self, lines: &str) -> Result<AccessToken, TokenError> {
        let config = Bench::config(&self.url, lines);
        let identity = Bench::identity(&config, &Metrics::new(), Path::new("no-such-folder"));
        identity.token(&config.tenants["contoso"], Audience::Graph).await
    }

    /// Returns the requests, once all responses have been given.
    pub(super) async fn asked(self) -> Vec<String> {
        self.service.await.unwrap()
    }
}

/// Reads all of it; otherwise the close that follows could reset the connection before the response is read.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut octets = Vec::new();
    loop {
        assert!(stream.read_buf(&mut octets).await.unwrap() > 0);
        let text = String::from_utf8_lossy(&octets);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let head = head.to_lowercase();
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap().parse().unwrap();
        if body.len() >= length {
            return text.into_owned();
        }
    }
}

/// The body of the only request of a login of a tenant with these lines.
async fn body_of(lines: &str) -> String {
    let scripted = Scripted::start(&[ok(3600)]).await;
    let scope = scripted.url.replace(':', "%3A").replace('/', "%2F");
    scripted.token(lines).await.unwrap();
    let [request] = &scripted.asked().await[..] else { panic!("not one") };
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /contoso.example/oauth2/v2.0/token HTTP/1.1\r\n"), "{head}");
    let head = head.to_lowercase();
    assert!(head.contains("\r\ncontent-type: application/x-www-form-urlencoded"), "{head}");
    // Entra ID takes credentials in the body or in the header, and this is where they are.
    assert!(!head.contains("\r\nauthorization:"), "{head}");
    body.replace(&scope, "GRAPH")
}

#[tokio::test]
async fn the_form_of_each_grant() {
    let secret = body_of("client_id = 'app'\nclient_secret = 'a b&c=ü+~'").await;
    assert_eq!(
        secret,
        "grant_type=client_credentials&scope=GRAPH%2F.default&client_id=app&client_secret=a+b%26c%3D%C3%BC%2B%7E"
    );

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "ey.J.x\n").unwrap();
    let federated = body_of(&format!("client_id = 'app'\nfederated_token_file = '{}'", file.display())).await;
    let assertion_type =
        "client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer";
    assert_eq!(
        federated,
        format!(
            "grant_type=client_credentials&scope=GRAPH%2F.default&client_id=app&client_assertion=ey.J.x&{assertion_type}"
        )
    );

    let certificate = body_of(&grants::certificate_lines()).await;
    let (before, after) = certificate.split_once("&client_assertion=").unwrap();
    assert_eq!(before, "grant_type=client_credentials&scope=GRAPH%2F.default&client_id=app");
    let (assertion, after) = after.split_once('&').unwrap();
    assert_eq!((assertion.split('.').count(), after), (3, assertion_type));

    let user = "grant = 'password'\nusername = 'relay@contoso.example'\npassword = 'pass word'";
    let public = body_of(&format!("client_id = 'public'\n{user}")).await;
    let form =
        "grant_type=password&username=relay%40contoso.example&password=pass+word&scope=GRAPH%2F.default";
    assert_eq!(public, format!("{form}&client_id=public"));
    let confidential = body_of(&format!("client_id = 'app'\nclient_secret = 's'\n{user}")).await;
    assert_eq!(confidential, format!("{form}&client_id=app&client_secret=s"));

    let refresh = "client_id = 'public'\ngrant = 'refresh_token'\nrefresh_token = '0.A-_'";
    assert_eq!(
        body_of(refresh).await,
        "grant_type=refresh_token&refresh_token=0.A-_&scope=GRAPH%2F.default+offline_access&client_id=public"
    );
}

#[tokio::test]
async fn a_busy_service_is_given_the_time_that_it_asks_for() {
    let outage =
        r#"{"error":"temporarily_unavailable","error_description":"AADSTS90033: x","error_codes":[90033]}"#;
    for (status, seconds) in [
        ("429 Too Many Requests", 5),
        ("503 Service Unavailable", 5),
        ("429 Too Many Requests\r\nRetry-After: 17", 17),
        ("503 Service Unavailable\r\nRetry-After: 17", 17),
    ] {
        for body in ["", "<html>", "{\"error\":", outage] {
            let error = answered(&[response(status, body)]).await.0.unwrap_err();
            let got = (error.kind, error.retry_after.as_secs());
            assert_eq!(got, (TokenErrorKind::Transient, seconds), "{status} {body}");
        }
    }
}

#[tokio::test]
async fn what_is_no_token_is_an_outage_and_is_not_quoted() {
    for body in ["", "<html>t0ken", r#"{"access_token":"t0ken"#, r#"{"access_token":{"a":"t0ken"}}"#] {
        let error = answered(&[response("200 OK", body)]).await.0.unwrap_err();
        assert_eq!(error.kind, TokenErrorKind::Transient, "{error}");
        assert!(error.why.ends_with("answered 200 with something that is no token"), "{error}");
        assert!(!format!("{error:?}").contains("t0ken"), "{error:?}");
    }
    let error = answered(&[response("400 Bad Request", "<html>t0ken")]).await.0.unwrap_err();
    assert!(error.why.ends_with("answered 400 with something that is no token"), "{error}");
}

#[tokio::test]
async fn any_success_is_one_whatever_it_says_about_itself() {
    let good = ok(3600);
    for response in [good.replace("200 OK", "201 Created"), good.replace("application/json", "text/html")] {
        let token = answered(&[response]).await.0.unwrap();
        assert_eq!(token.expose(), "a-token");
    }
}

#[tokio::test]
async fn a_response_has_a_bound() {
    let padded = |length: usize| {
        let body = r#"{"access_token":"t0ken"}"#;
        format!("{body}{}", " ".repeat(length - body.len()))
    };
    let bound = 256 * 1024;
    assert!(answered(&[response("200 OK", &padded(bound))]).await.0.is_ok());
    let endless = format!("HTTP/1.1 200 OK\r\n\r\n{}", padded(bound + 1));
    for response in [response("200 OK", &padded(bound + 1)), endless] {
        let error = answered(&[response]).await.0.unwrap_err();
        assert_eq!(error.kind, TokenErrorKind::Transient);
        assert!(error.why.ends_with("answered with more than 262144 bytes"), "{error}");
    }
}

/// Asks once for each of these responses, which follow the one with the code. Returns the requests, too.
async fn polled(lines: &str, responses: &[String]) -> (Vec<Result<Poll, TokenError>>, Vec<String>) {
    let code = r#"{"device_code":"d0de","user_code":"ABC","verification_uri":"https://x.example/d","expires_in":900,
                   "interval":1,"message":"Go there."}"#;
    let scripted = Scripted::start(&[&[response("200 OK", code)], responses].concat()).await;
    let config = Bench::config(&scripted.url, lines);
    let tenant = &config.tenants["contoso"];
    let clients = Clients::new(&config.network, std::iter::once(&tenant.cloud)).unwrap();
    let means = LoginContext::new(clients, Metrics::new(), "no-such-folder".into());
    let endpoint = Endpoint::of(&means, tenant, None).unwrap();
    let code: DeviceAuthorization = endpoint.device_code("scope offline_access".into()).await.unwrap();
    assert_eq!((code.user_code().secret().as_str(), &*code.extra_fields().message), ("ABC", "Go there."));
    let proof = match &tenant.credential {
        crate::config::Credential::User { proof, .. } => proof.as_ref(),
        _ => panic!("nobody signs in"),
    };
    let mut polls = Vec::new();
    for _ in responses {
        let proved: Option<Proved> = prove_if_there(&means, tenant, proof).await.unwrap();
        polls.push(Endpoint::of(&means, tenant, proved.as_ref()).unwrap().poll(&code).await);
    }
    (polls, scripted.asked().await)
}

#[tokio::test]
async fn a_sign_in_is_asked_for_once_at_a_time() {
    let error = |error: &str| response("400 Bad Request", &format!(r#"{{"error":"{error}"}}"#));
    let busy = "503 Service Unavailable\r\nRetry-After: 17";
    let wrong =
        r#"{"error":"invalid_client","error_description":"AADSTS7000218: x","error_codes":[7000218]}"#;
    let tokens = r#"{"access_token":"t0ken","refresh_token":"r0ken"}"#;
    let script = [
        error("authorization_pending"),
        error("slow_down"),
        error("access_denied"),
        error("authorization_declined"),
        error("expired_token"),
        error("code_expired"),
        response(busy, "<html>"),
        NONE,
        response("400 Bad Request", wrong),
        response("200 OK", tokens),
    ];
    let (polls, asked) = polled("client_id = 'public'\ngrant = 'refresh_token'", &script).await;
    let failed = |poll: &Result<Poll, TokenError>| poll.as_ref().err().cloned().unwrap();
    assert!(matches!(polls[0], Ok(Poll::Pending)));
    assert!(matches!(polls[1], Ok(Poll::SlowDown)));
    assert!(matches!(polls[2..4], [Ok(Poll::Declined), Ok(Poll::Declined)]));
    assert!(matches!(polls[4..6], [Ok(Poll::Expired), Ok(Poll::Expired)]));
    let busy = failed(&polls[6]);
    assert_eq!((busy.kind, busy.retry_after.as_secs()), (TokenErrorKind::Transient, 17));
    assert!(failed(&polls[7]).why.starts_with("cannot reach the login service"), "{}", failed(&polls[7]));
    assert_eq!(failed(&polls[8]).kind, TokenErrorKind::Blocked);
    assert!(failed(&polls[8]).why.ends_with("(AADSTS7000218)"), "{}", failed(&polls[8]));
    let Ok(Poll::Granted(Granted { token, refresh_token })) = &polls[9] else { panic!("no token") };
    assert_eq!((token.expose(), refresh_token.as_ref().map(Secret::expose)), ("t0ken", Some("r0ken")));

    assert_eq!(asked.len(), 11);
    assert!(
        asked[0].starts_with("POST /contoso.example/oauth2/v2.0/devicecode HTTP/1.1\r\n"),
        "{}",
        asked[0]
    );
    assert!(asked[0].ends_with("\r\n\r\nscope=scope+offline_access&client_id=public"), "{}", asked[0]);
    let grant = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Adevice_code";
    for request in &asked[1..] {
        let form = format!("\r\n\r\ngrant_type={grant}&device_code=d0de&client_id=public");
        assert!(request.ends_with(&form), "{request}");
    }
}

#[tokio::test]
async fn an_app_that_proves_itself_does_so_anew_each_time_that_it_asks_for_a_sign_in() {
    let pending = response("400 Bad Request", r#"{"error":"authorization_pending"}"#);
    let lines = format!("{}\ngrant = 'refresh_token'", grants::certificate_lines());
    let (polls, asked) = polled(&lines, &[pending.clone(), pending]).await;
    assert!(polls.iter().all(|poll| matches!(poll, Ok(Poll::Pending))));
    let assertion = |request: &str| request.split_once("&client_assertion=").map(|(_, rest)| rest.to_owned());
    // The code is given to any client that asks for it.
    assert_eq!(assertion(&asked[0]), None);
    assert!(assertion(&asked[1]).is_some() && assertion(&asked[1]) != assertion(&asked[2]));
}

#[tokio::test]
async fn an_interval_that_no_clock_can_count_is_longer_than_any_code_is_good() {
    let max = u64::MAX;
    let code = format!(
        r#"{{"device_code":"d","user_code":"ABC","verification_uri":"https://x.example/d","expires_in":{max},"interval":{max}}}"#
    );
    let scripted = Scripted::start(&[response("200 OK", &code)]).await;
    let config = Bench::config(&scripted.url, "client_id = 'public'\ngrant = 'refresh_token'");
    let tenant = &config.tenants["contoso"];
    let clients = Clients::new(&config.network, std::iter::once(&tenant.cloud)).unwrap();
    let error = log_in(tenant, clients, Path::new("no-such-folder"), |_| true).await.unwrap_err();
    assert!(error.why.contains("begin again"), "{error}");
}
