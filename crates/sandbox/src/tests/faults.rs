use super::*;

#[tokio::test]
async fn a_status_strikes_as_often_as_asked() {
    let lab = Lab::default().await;
    let busy = StatusFault::new(503, "ErrorServerBusy").retry_after("3.5");
    lab.service.inject(Fault::new(On::SendMail, Action::Status(busy)).times(2));
    for _ in 0..2 {
        let answer = lab.send(MAIL).await;
        assert_eq!((answer.status, answer.code().as_str()), (503, "ErrorServerBusy"));
        assert_eq!(answer.header("retry-after"), "3.5");
    }
    assert!(lab.service.faults().is_empty());
    assert_eq!(lab.send(MAIL).await.status, 202);
    assert_eq!(lab.delivered(), 1);
}

#[tokio::test]
async fn scope_keeps_a_fault_from_the_others() {
    let lab = Lab::default().await;
    lab.service.inject(Fault::status(On::AnyGraph, 500, "x").for_mailbox("SCANNER@contoso.example"));
    lab.service.inject(Fault::status(On::AnyGraph, 500, "x").for_directory("fabrikam.example"));
    lab.service.inject(Fault { probability: 0.0, ..Fault::status(On::AnyGraph, 500, "x") });
    lab.service.inject(Fault::status(On::Token, 503, "temporarily_unavailable").for_directory("c0-ff-ee"));
    lab.service.inject(Fault::status(On::Upload, 500, "x"));
    assert_eq!(lab.send(MAIL).await.status, 500);
    let other = MAIL.replace("scanner@", "other@");
    assert_eq!(Answer::of(lab.mail("other@contoso.example", other.as_bytes())).await.status, 202);
    assert_eq!(lab.ask_token(DOMAIN, "").await.status, 503);
    assert_eq!(lab.ask_token("fabrikam.example", "").await.status, 400);
    lab.service.clear_faults();
    assert_eq!(lab.send(MAIL).await.status, 202);
}

#[tokio::test]
async fn bodies_can_be_a_gateways_or_none() {
    let lab = Lab::default().await;
    for (body, text) in [(FaultBody::Empty, ""), (FaultBody::Html, "<h1>502 Bad Gateway</h1>")] {
        let fault = StatusFault { body, ..StatusFault::new(502, "") };
        lab.service.inject(Fault::new(On::SendMail, Action::Status(fault)).times(1));
        let answer = lab.send(MAIL).await;
        assert!(answer.status == 502 && answer.body.contains(text), "{}", answer.body);
        assert!(!text.is_empty() || answer.body.is_empty());
    }
    let fault = StatusFault {
        message: "AADSTS90033: Unavailable.".into(),
        ..StatusFault::new(503, "temporarily_unavailable")
    };
    lab.service.inject(Fault::new(On::Token, Action::Status(fault)));
    let answer = lab.ask_token(DOMAIN, "").await;
    assert_eq!((answer.status, answer.json()["error_codes"][0].as_u64()), (503, Some(90033)));
}

#[tokio::test]
async fn a_cut_before_delivers_nothing() {
    let lab = Lab::default().await;
    lab.service.inject(Fault::new(On::SendMail, Action::CutBefore).times(1));
    let error = lab.mail(MAILBOX, MAIL.as_bytes()).send().await.expect_err("no answer");
    assert!(!error.is_timeout(), "{error:?}");
    assert_eq!(lab.delivered(), 0);
    assert_eq!(lab.service.calls().last().map(|call| call.status), Some(None));
    assert_eq!(lab.send(MAIL).await.status, 202);
}

#[tokio::test]
async fn a_cut_after_delivers_and_says_nothing() {
    let lab = Lab::default().await;
    lab.service.inject(Fault::new(On::SendMail, Action::CutAfter).times(1));
    lab.mail(MAILBOX, MAIL.as_bytes()).send().await.expect_err("no answer");
    assert_eq!(lab.delivered(), 1);
    assert_eq!(lab.service.counts().cut, 1);
}

#[tokio::test]
async fn a_504_can_come_after_delivery() {
    let lab = Lab::default().await;
    lab.service.inject(Fault::new(On::SendMail, Action::StatusAfter(StatusFault::new(504, "x"))));
    assert_eq!(lab.send(MAIL).await.status, 504);
    assert_eq!(lab.delivered(), 1);
}

#[tokio::test]
async fn a_client_that_gives_up_does_not_stop_the_delivery() {
    let lab = Lab::default().await;
    lab.service.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_millis(300))).times(1));
    let request = lab.mail(MAILBOX, MAIL.as_bytes());
    let impatient = tokio::spawn(async move { request.send().await.map(drop) });
    while !lab.service.faults().is_empty() {
        tokio::task::yield_now().await;
    }
    impatient.abort();
    assert_eq!(lab.service.wait_for(1, Duration::from_secs(10)).await.len(), 1);
}

#[tokio::test]
async fn shutdown_ends_calls_and_frees_the_port() {
    let lab = Lab::default().await;
    let address = lab.service.address();
    lab.service.inject(Fault::new(On::SendMail, Action::Delay(Duration::from_secs(3600))));
    // One connection that says nothing, one that waits for its answer.
    let _silent = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let request = lab.mail(MAILBOX, MAIL.as_bytes());
    let waiting = tokio::spawn(async move { request.send().await });
    while lab.service.peak_concurrency(MAILBOX) == 0 {
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(Duration::from_secs(5), lab.service.clone().shutdown()).await.expect("an end");
    waiting.await.expect("no panic").expect_err("no answer");
    Service::start(Options { address, ..options() }).await.expect("the port is free");
}
