//! A scheduler that is never idle: there is always something that comes before what is tested.

use super::*;

/// More than one turn takes.
const FLOOD: usize = 2000;

impl Bench {
    /// Keeps the scheduler busy with orders until the next job begins; fails the test if there is none for
    /// very many turns.
    async fn job_in_a_flood(&mut self) -> Job {
        for _ in 0..100 {
            for _ in 0..FLOOD {
                self.orders.send(Order::LookAgain("contoso".parse().unwrap())).unwrap();
            }
            tokio::task::yield_now().await;
            if let Ok((_, job)) = self.jobs.try_recv() {
                return job;
            }
        }
        panic!("the scheduler looks at nothing but orders");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_due_goes_out_under_a_flood() {
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 10, takes(NOW));
    // So that the credential is there.
    bench.add("contoso", "a@contoso.example", NOW);
    bench.job().await;
    let id = bench.add("contoso", "a@contoso.example", SECOND);
    bench.settle_for(SECOND / 2).await;
    // Nothing else moves the clock: the scheduler has no moment in which only a timer is left.
    tokio::time::advance(SECOND * 2).await;
    assert_eq!(bench.job_in_a_flood().await.id, id);
}

#[tokio::test(start_paused = true)]
async fn a_mailbox_wakes_under_a_flood() {
    let first = std::sync::atomic::AtomicBool::new(true);
    let script = move |_: &Job| {
        let is_first = first.swap(false, Ordering::Relaxed);
        (NOW, if is_first { asleep_until(Instant::now() + SECOND) } else { Verdict::Done })
    };
    let mut bench = Bench::new(&[tenant("contoso", limited(1000, 1))], 10, Box::new(script));
    bench.add("contoso", "a@contoso.example", NOW);
    let id = bench.add("contoso", "a@contoso.example", NOW);
    bench.job().await;
    bench.settle_for(SECOND / 2).await;
    tokio::time::advance(SECOND * 2).await;
    assert_eq!(bench.job_in_a_flood().await.id, id);
}

#[tokio::test(start_paused = true)]
async fn new_mail_is_heard_of_under_a_flood() {
    let mut bench = Bench::new(&[tenant("contoso", UNLIMITED)], 10, takes(NOW));
    let id = bench.add("contoso", "a@contoso.example", NOW);
    assert_eq!(bench.job_in_a_flood().await.id, id);
}
