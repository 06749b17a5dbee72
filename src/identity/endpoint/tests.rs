//! What responses mean.

use http::{HeaderName, StatusCode};
use oauth2::TokenResponse;
use zeroize::Zeroizing;

use super::{response::Head, *};
use crate::identity::TokenErrorKind;

fn response(status: u16, headers: &[(&'static str, String)], body: &str) -> Response {
    let headers =
        headers.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
    let head = Head { status: StatusCode::from_u16(status).unwrap(), headers };
    Response { head, body: Zeroizing::new(body.as_bytes().to_owned()) }
}

fn lifetime(body: &str) -> Result<u64, String> {
    let granted = response(200, &[], body).tokens("login").map_err(|error| error.why)?;
    let left = granted.token.ends - tokio::time::Instant::now();
    Ok(left.as_secs_f64().round() as u64)
}

#[test]
fn lifetimes_in_all_forms() {
    assert_eq!(lifetime(r#"{"access_token":"t","expires_in":3599}"#), Ok(3599));
    assert_eq!(lifetime(r#"{"access_token":"t","expires_in":"3599","expires_on":"1"}"#), Ok(3599));
    assert_eq!(lifetime(r#"{"access_token":"t"}"#), Ok(600));
    let at = relay_mail::Timestamp::wall().as_millis() / 1000 + 1000;
    let left = lifetime(&format!(r#"{{"access_token":"t","expires_on":"{at}"}}"#)).unwrap();
    assert!((998..=1000).contains(&left), "{left}");
    assert!(lifetime(&format!(r#"{{"access_token":"t","expires_on":{at}}}"#)).is_ok());
    assert!(lifetime(r#"{"access_token":"t","expires_on":"1"}"#).unwrap_err().contains("expires at once"));
}

#[test]
fn what_is_no_token_is_not_quoted() {
    for body in [
        "",
        "t0ken",
        r#"{"access_token":"t0ken"#,
        r#"{"access_token":7}"#,
        r#"{"access_token":""}"#,
        r#"{"access_token":"t0ken","expires_in":"soon"}"#,
        r#"{"access_token":"t0ken","expires_in":-1}"#,
        r#"{"access_token":"t0ken\r\nX: y"}"#,
    ] {
        let why = lifetime(body).unwrap_err();
        assert_eq!(why, "the login service login answered 200 with something that is no token", "{body}");
    }
}

#[test]
fn a_busy_service_is_given_time() {
    for (status, headers, seconds) in [
        (429, vec![], 5),
        (503, vec![], 5),
        (503, vec![("retry-after", "17".to_owned())], 17),
        (400, vec![("retry-after", "17".to_owned())], 17),
        (400, vec![], 0),
    ] {
        for body in ["<html>", r#"{"error":"invalid_client","error_description":"AADSTS7000215: x"}"#] {
            let error = response(status, &headers, body).refused("login");
            assert_eq!(error.retry_after.as_secs(), seconds, "{status} {body}");
            let refused = status == 400 && body.starts_with('{');
            assert_eq!(error.kind == TokenErrorKind::Blocked, refused, "{status} {body}");
        }
    }
}

#[test]
fn clocks_that_differ_are_compared() {
    let body = r#"{"error":"invalid_client","error_description":"AADSTS700024: x","error_codes":[700024]}"#;
    let why = |seconds: u64, is_ahead: bool| {
        let now = relay_mail::Timestamp::wall().as_system_time();
        let by = Duration::from_secs(seconds);
        let date = if is_ahead { now - by } else { now + by };
        response(401, &[("date", httpdate::fmt_http_date(date))], body).refused("login").why
    };
    assert!(why(3600, true).ends_with("; it is 1h ahead of the login service's"), "{}", why(3600, true));
    assert!(why(3600, false).ends_with(" behind the login service's"), "{}", why(3600, false));
    assert!(why(60, true).ends_with("clock (AADSTS700024)"), "{}", why(60, true));
}

#[test]
fn the_codes_of_an_error_count_before_its_words() {
    let why = |body: &str| response(400, &[], body).refused("login").why;
    let both = r#"{"error":"invalid_grant","error_description":"AADSTS50126: x","error_codes":[7000215],
                   "timestamp":"2026-11-01 00:00:00Z","trace_id":"t","correlation_id":"c"}"#;
    assert!(why(both).ends_with("(AADSTS7000215)"), "{}", why(both));
    let codes = r#"{"error":"invalid_client","error_codes":[7000222,1]}"#;
    assert!(why(codes).ends_with("(AADSTS7000222)"), "{}", why(codes));
    let words = r#"{"error":"invalid_client","error_description":"AADSTS7000222: x"}"#;
    assert!(why(words).ends_with("(AADSTS7000222)"), "{}", why(words));
    // Some servers in front of Entra ID answer with less.
    assert!(why("{}").starts_with("the login service refuses"), "{}", why("{}"));
}

#[test]
fn tokens_are_in_memory_that_is_wiped_and_nothing_shows_them() {
    let body = r#"{"token_type":"Bearer","access_token":"t0ken","refresh_token":"r0ken","expires_in":3599}"#;
    let tokens: EntraTokens = response(200, &[], body).json().unwrap();
    assert_eq!(tokens.expires_in(), Some(Duration::from_secs(3599)));
    for shown in [format!("{tokens:?}"), serde_json::to_string(&tokens).unwrap()] {
        assert!(!shown.contains("t0ken") && !shown.contains("r0ken"), "{shown}");
    }
    let granted = response(200, &[], body).tokens("login").unwrap();
    let wiped: &Zeroizing<String> = &granted.token.secret;
    assert_eq!(wiped.as_str(), "t0ken");
    // Another type that is wiped: see its definition.
    let refresh_token: Secret = granted.refresh_token.unwrap();
    assert_eq!(refresh_token.expose(), "r0ken");
}
