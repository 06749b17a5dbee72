use super::*;

fn limited(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = smtp_options();
    change(&mut options);
    options
}

#[tokio::test]
async fn three_connections_of_a_mailbox() {
    for (at, reply) in [
        (ConnectionsCountAt::Auth, "432 4.3.2 Concurrent connections limit exceeded"),
        (ConnectionsCountAt::Mail, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded"),
        (ConnectionsCountAt::Content, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded"),
    ] {
        let lab = Lab::start_smtp(limited(|options| {
            options.limits.smtp_connections = Some(3);
            options.submission.connections_count_at = at;
        }))
        .await;
        let mut three = Vec::new();
        for _ in 0..3 {
            three.push(lab.submitter(MAILBOX).await);
        }
        lab.submitter("other@contoso.example").await.dialogue(&[(FROM, "554 5.2.252")]).await;
        let mut fourth = lab.encrypted().await;
        let xoauth2 = format!("AUTH XOAUTH2 {}", xoauth2(MAILBOX, &lab.token));
        let end = format!("{MAIL}.");
        match at {
            ConnectionsCountAt::Auth => fourth.dialogue(&[(&xoauth2, reply), (FROM, "530")]).await,
            ConnectionsCountAt::Mail => fourth.dialogue(&[(&xoauth2, "235"), (FROM, reply)]).await,
            ConnectionsCountAt::Content => {
                let start =
                    [(xoauth2.as_str(), "235"), (FROM, "250"), (TO, "250"), ("DATA", "354"), (&end, reply)];
                fourth.dialogue(&start).await;
            }
        }
        for client in &mut three {
            assert!(client.send(MAIL).await.starts_with("250"), "the others go on");
        }
        assert_eq!(three.pop().expect("the third").say("QUIT").await.split(' ').next(), Some("221"));
        if at == ConnectionsCountAt::Auth {
            fourth.dialogue(&[(&xoauth2, "235")]).await;
        }
        assert!(fourth.send(MAIL).await.starts_with("250"), "{at:?}: there is a place now");
        assert_eq!((lab.service.smtp_sessions().peaks[MAILBOX], lab.delivered()), (4, 4));
    }
}

#[tokio::test]
async fn a_connection_that_breaks_gives_its_place_back() {
    let lab = Lab::start_smtp(limited(|options| options.limits.smtp_connections = Some(1))).await;
    drop(lab.submitter(MAILBOX).await);
    let mut client = lab.submitter(MAILBOX).await;
    while client.say(FROM).await.starts_with("432") {
        tokio::task::yield_now().await;
    }
    client.dialogue(&[(TO, "250")]).await;
}

#[tokio::test]
async fn messages_in_a_minute() {
    let lab = Lab::start_smtp(limited(|options| options.limits.messages_per_minute = Some(2))).await;
    let mut client = lab.submitter(MAILBOX).await;
    for expected in ["250", "250", "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded [Hostname="]
    {
        assert!(client.send(MAIL).await.starts_with(expected));
    }
    // The limit belongs to the mailbox, however it sends.
    let mut lab = lab;
    lab.token = lab.log_in(&lab.service.url()).await;
    assert_eq!(lab.send(MAIL).await.status, 429);
}

#[tokio::test]
async fn surplus_can_be_slowed_down_instead() {
    let lab = Lab::start_smtp(limited(|options| {
        options.limits.messages_per_minute = Some(1);
        options.submission.surplus_waits = true;
    }))
    .await;
    let mut client = lab.submitter(MAILBOX).await;
    assert!(client.send(MAIL).await.starts_with("250"));
    client.dialogue(&[(FROM, "250"), (TO, "250"), ("DATA", "354")]).await;
    tokio::time::pause();
    client.write(format!("{MAIL}.\r\n")).await;
    // Nothing else is left to do, so the paused clock advances.
    let begun = tokio::time::Instant::now();
    while lab.delivered() < 2 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(begun.elapsed() >= Duration::from_secs(50), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn recipients_of_a_message_and_of_a_day() {
    let lab = Lab::start_smtp(limited(|options| {
        options.limits.recipients = Some(2);
        options.limits.recipients_per_day = Some(3);
    }))
    .await;
    let mut client = lab.submitter(MAILBOX).await;
    let two = [(FROM, "250"), (TO, "250"), (TO, "250"), (TO, "452 4.5.3"), ("DATA", "354")];
    client.dialogue(&two).await;
    client.dialogue(&[(&format!("{MAIL}."), "250")]).await;
    client.dialogue(&two).await;
    let quota = "554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException";
    client.dialogue(&[(&format!("{MAIL}."), quota)]).await;
    assert!(client.send(MAIL).await.starts_with("250"), "one has room");
    assert!(client.send(MAIL).await.starts_with(quota));
    let mut other = lab.submitter("other@contoso.example").await;
    other.dialogue(&[("MAIL FROM:<other@contoso.example>", "250"), (TO, "250"), ("DATA", "354")]).await;
    other.dialogue(&[(&format!("{}.", MAIL.replace("scanner@", "other@")), "250")]).await;
}

#[tokio::test(start_paused = true)]
async fn the_day_rolls() {
    use crate::world::World;
    let world = World::new(String::new(), options());
    let mailbox = world.tenants[0].mailbox(MAILBOX).expect("a mailbox");
    let limits = Limits { recipients_per_day: Some(10_000), ..Limits::default() };
    let send = |count| mailbox.gate.recipients(count, &limits, tokio::time::Instant::now());
    assert!(!send(10_001) && send(6000) && !send(4001) && send(4000) && !send(1));
    tokio::time::advance(Duration::from_secs(86_000)).await;
    assert!(!send(1));
    tokio::time::advance(Duration::from_secs(401)).await;
    assert!(send(10_000));
}

#[tokio::test]
async fn answers_take_their_time() {
    let lab = Lab::start_smtp(limited(|options| options.latency = Duration::from_millis(100))).await;
    let mut client = lab.submitter(MAILBOX).await;
    let begun = tokio::time::Instant::now();
    client.write(format!("{FROM}\r\n{TO}\r\n{TO}\r\nRSET\r\n")).await;
    for _ in 0..4 {
        assert!(client.reply().await.starts_with("250"));
    }
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(100), "{took:?}");
}
