//! Credentials.

use super::*;

#[tokio::test(start_paused = true)]
async fn logins_without_an_answer_stop_nobody_else() {
    let names: Vec<_> = (0..200).map(|n| format!("t{n}")).collect();
    let mut tenants: Vec<_> = names.iter().map(|name| tenant(name, UNLIMITED)).collect();
    tenants.push(tenant("quick", UNLIMITED));
    let mut bench = Bench::new(&tenants, 10, takes(SECOND));
    for name in &names {
        bench.credential(name, None);
        bench.add(name, "a@slow.example", NOW);
    }
    let start = Instant::now();
    let quick = bench.add("quick", "a@quick.example", NOW);
    let (at, job) = bench.job().await;
    assert_eq!((job.id, at), (quick, start));
}

#[tokio::test(start_paused = true)]
async fn the_block_of_a_tenant_without_mail_lasts_until_its_login_works() {
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 10, takes(NOW));
    let because = Blocked { reason: "credential", why: "wrong secret".into(), retry_after: SECOND * 600 };
    bench.credential("contoso", Some(Err(because)));
    bench.add("contoso", "a@contoso.example", NOW);
    let blocked =
        |is: u8| format!(r#"m365_relay_tenant_blocked{{reason="credential",tenant="contoso"}} {is}"#);
    bench.no_job_for(SECOND).await;
    assert!(bench.metric(&blocked(1)));
    let (_, job) = timeout(GIVE_UP * 2, bench.jobs.recv()).await.unwrap().unwrap();
    assert!(matches!(job.task, Task::Expire { .. }), "{:?}", job.task);
    let asked = bench.fake.asked.load(Ordering::Relaxed);
    tokio::time::sleep(SECOND * 3600).await;
    let more = bench.fake.asked.load(Ordering::Relaxed) - asked;
    assert!((5..=6).contains(&more), "asked {more} times in an hour");
    assert!(bench.metric(&blocked(1)));
    bench.credential("contoso", Some(Ok(SECOND * 3600)));
    tokio::time::sleep(SECOND * 620).await;
    assert!(bench.metric(&blocked(0)));
    let asked = bench.fake.asked.load(Ordering::Relaxed);
    tokio::time::sleep(SECOND * 3600).await;
    assert_eq!(bench.fake.asked.load(Ordering::Relaxed), asked, "asked for nobody's mail");
}

#[tokio::test(start_paused = true)]
async fn a_login_that_fails_without_mail_is_shown() {
    let bench = Bench::new(&[tenant("contoso", UNLIMITED)], 10, takes(NOW));
    let because = Blocked { reason: "credential", why: "wrong secret".into(), retry_after: SECOND * 600 };
    bench.credential("contoso", Some(Err(because)));
    for name in ["contoso", "nobody"] {
        bench.orders.send(Order::TryLogin(name.parse().unwrap())).unwrap();
    }
    tokio::time::sleep(SECOND).await;
    assert!(bench.metric(r#"m365_relay_tenant_blocked{reason="credential",tenant="contoso"} 1"#));
}
