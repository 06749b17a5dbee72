//! A spool that takes longer than its clients wait.

use tokio::time::{advance, timeout};

use super::*;

/// Sends a whole message while the disk hangs, and lets `time` pass until it goes on.
async fn mail_after(house: &House, client: &mut Client<DuplexStream>, time: Duration) -> String {
    client.begin_data().await;
    house.store.stall();
    client.send(format!("{HEADER}content\r\n.\r\n")).await;
    // The body is stored before the index is written, which is where it hangs.
    while house.store.count().1 == 0 {
        tokio::task::yield_now().await;
    }
    advance(time).await;
    assert!(timeout(Duration::ZERO, client.reply()).await.is_err(), "a reply before the spool's answer");
    house.store.go_on();
    client.reply().await
}

#[tokio::test(start_paused = true)]
async fn a_message_stored_too_late_is_taken_back_and_refused() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    let reply = mail_after(&house, &mut client, REPLY_WITHIN + Duration::from_millis(1)).await;
    assert!(reply.starts_with("451 4.3.0 "), "{reply}");
    assert_eq!(house.store.count(), (0, 0), "something is left of it");
    assert!(house.is_empty(), "somebody has heard of it");
    assert_eq!(house.metric("refused_total{ingress=\"smtp\",reason=\"late\"}"), 1.0);
    assert_eq!(house.metric("received_total{ingress=\"smtp\",tenant=\"contoso\"}"), 0.0);

    // The client sends again, and its message is there once.
    assert!(client.mail("again\r\n.\r\n").await.starts_with("250 2.0.0"));
    assert!(house.next().await.content.ends_with(b"again\r\n"));
    assert!(house.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_message_stored_in_time_is_accepted() {
    let mut house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    let reply = mail_after(&house, &mut client, REPLY_WITHIN - Duration::from_secs(1)).await;
    assert!(reply.starts_with("250 2.0.0"), "{reply}");
    assert!(house.next().await.content.ends_with(b"content\r\n"));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_hangs_and_then_cannot_be_stored_is_refused_once() {
    let house = House::new();
    let mut client = connect(&house);
    client.hello().await;
    client.begin_data().await;
    house.store.stall();
    client.send(format!("{HEADER}content\r\n.\r\n")).await;
    while house.store.count().1 == 0 {
        tokio::task::yield_now().await;
    }
    advance(REPLY_WITHIN * 2).await;
    house.store.break_down(relay_spool::Fault::Lost);
    house.store.go_on();
    assert!(client.reply().await.starts_with("451 4.3.0 "));
    house.store.mend();
    while house.door.spool().unhealthy().is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(house.store.count(), (0, 0));
    assert!(house.is_empty());
}
