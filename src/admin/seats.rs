//! Who may be connected: a bounded number of clients, and an idle one gives way.
//!
//! A seat is taken for each connection. When all are taken, the connection that has waited longest without a
//! whole request leaves. If there is none, one leaves that has long had an answer and does not read it. So
//! clients that are silent, or slow, cost as many descriptors as there are seats and keep nobody out: a
//! client that comes and asks is answered. While every seat is at work, the next client waits, and those
//! behind it wait in the system's queue, where they take no descriptor.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus::IntGauge;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

/// A connection whose answer is not read within this time may have to give way.
const SLOW: Duration = Duration::from_secs(2);
/// No client has longer than this to read an answer.
const LONGEST_ANSWER: Duration = Duration::from_secs(30);
/// How often the seats are checked for a connection that has become slow.
const LOOK_EVERY: Duration = Duration::from_millis(10);

pub(super) struct Seats {
    most: usize,
    /// A connection that asks nothing does not give way before this time.
    patience: Duration,
    gauge: IntGauge,
    taken: Mutex<Places>,
    left: Notify,
}

#[derive(Default)]
struct Places {
    next: u64,
    seats: BTreeMap<u64, Arc<Seat>>,
}

/// The seat of one connection.
pub(super) struct Seat {
    standing: Mutex<(Stage, Instant)>,
    /// Another connection needs it.
    is_needed: AtomicBool,
    needed: Notify,
    /// It has had an answer, and has sent no further request.
    is_idle: AtomicBool,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The client's: no whole request has come.
    Asking,
    /// The relay's.
    Working,
    /// The client's: to read the answer.
    Answering,
}

/// Given back when it is dropped.
pub(super) struct Taken {
    number: u64,
    seat: Arc<Seat>,
    seats: Arc<Seats>,
}

impl Seats {
    /// A connection that has asked nothing for `patience` may have to give way. `gauge` shows how many seats
    /// are taken, of these and others.
    pub(super) fn new(most: usize, patience: Duration, gauge: IntGauge) -> Arc<Self> {
        Arc::new(Self { most, patience, gauge, taken: Mutex::default(), left: Notify::new() })
    }

    /// Waits for a seat. For one caller at a time.
    pub(super) async fn take(self: &Arc<Self>) -> Taken {
        loop {
            if let Some(taken) = self.try_take() {
                return taken;
            }
            self.make_room();
            // Or a connection has become slow meanwhile.
            let _ = timeout(LOOK_EVERY, self.left.notified()).await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Taken> {
        let mut taken = self.taken();
        if taken.seats.len() >= self.most {
            return None;
        }
        let seat = Seat {
            standing: Mutex::new((Stage::Asking, Instant::now())),
            is_needed: AtomicBool::new(false),
            needed: Notify::new(),
            is_idle: AtomicBool::new(false),
        };
        let seat = Arc::new(seat);
        let number = taken.next;
        taken.next += 1;
        taken.seats.insert(number, seat.clone());
        self.gauge.inc();
        Some(Taken { number, seat, seats: self.clone() })
    }

    /// Makes one connection leave, unless one is about to.
    fn make_room(&self) {
        let taken = self.taken();
        if taken.seats.values().any(|seat| seat.is_needed.load(Ordering::Relaxed)) {
            return;
        }
        let now = Instant::now();
        let gives_way = taken.seats.values().filter_map(|seat| {
            let (stage, since) = *seat.standing();
            match stage {
                Stage::Asking if now - since >= self.patience => Some((0, since, seat)),
                Stage::Answering if now - since >= SLOW => Some((1, since, seat)),
                Stage::Asking | Stage::Answering | Stage::Working => None,
            }
        });
        if let Some((_, _, seat)) = gives_way.min_by_key(|(rank, since, _)| (*rank, *since)) {
            seat.is_needed.store(true, Ordering::Relaxed);
            seat.needed.notify_one();
        }
    }

    fn taken(&self) -> MutexGuard<'_, Places> {
        // Only whole values are put in, so a panic elsewhere leaves nothing half done.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    pub(super) fn enter(&self, stage: Stage) {
        *self.standing() = (stage, Instant::now());
    }

    /// The answer has been written, if there was one.
    pub(super) fn written(&self) {
        let mut standing = self.standing();
        if standing.0 == Stage::Answering {
            *standing = (Stage::Asking, Instant::now());
            self.is_idle.store(true, Ordering::Relaxed);
        }
    }

    /// Part of a request has arrived.
    pub(super) fn heard(&self) {
        self.is_idle.store(false, Ordering::Relaxed);
    }

    /// Whether it is merely kept open.
    pub(super) fn is_idle(&self) -> bool {
        self.is_idle.load(Ordering::Relaxed)
    }

    /// Returns when another connection needs the seat, and this one is not at work. The caller first checks
    /// whether a request has arrived meanwhile.
    pub(super) async fn is_needed(&self) {
        loop {
            self.needed.notified().await;
            if self.standing().0 != Stage::Working {
                return;
            }
            self.is_needed.store(false, Ordering::Relaxed);
        }
    }

    /// Returns when the client has not read its answer for too long.
    pub(super) async fn is_overdue(&self) {
        loop {
            let now = Instant::now();
            let end = match *self.standing() {
                (Stage::Answering, since) => since + LONGEST_ANSWER,
                _ => now + LONGEST_ANSWER,
            };
            if end <= now {
                return;
            }
            sleep_until(end).await;
        }
    }

    fn standing(&self) -> MutexGuard<'_, (Stage, Instant)> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    pub(super) fn seat(&self) -> &Arc<Seat> {
        &self.seat
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.seats.taken().seats.remove(&self.number);
        self.seats.gauge.dec();
        self.seats.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn seats(most: usize) -> Arc<Seats> {
        Seats::new(most, Duration::from_millis(1), IntGauge::new("connections", "none").unwrap())
    }

    /// A connection that leaves when it is told to.
    fn sit(taken: Taken) -> Arc<Seat> {
        let seat = taken.seat().clone();
        tokio::spawn(async move {
            taken.seat().is_needed().await;
        });
        seat
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_longest_gives_way_and_who_is_at_work_does_not() {
        let seats = seats(3);
        let first = sit(seats.take().await);
        advance(Duration::from_millis(1)).await;
        let second = sit(seats.take().await);
        advance(Duration::from_millis(1)).await;
        let third = sit(seats.take().await);
        first.enter(Stage::Working);
        let fourth = sit(seats.take().await);
        let left = |seat: &Seat| seat.is_needed.load(Ordering::Relaxed);
        assert_eq!([&first, &second, &third, &fourth].map(|seat| left(seat)), [false, true, false, false]);
        assert_eq!(seats.gauge.get(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_gives_way_after_a_while_and_who_works_never() {
        let seats = seats(2);
        let reads_not = sit(seats.take().await);
        let works = sit(seats.take().await);
        reads_not.enter(Stage::Answering);
        works.enter(Stage::Working);
        let began = Instant::now();
        let third = seats.take().await;
        assert!(reads_not.is_needed.load(Ordering::Relaxed) && began.elapsed() >= SLOW);
        third.seat().enter(Stage::Working);
        assert!(timeout(Duration::from_secs(60), seats.take()).await.is_err());
        assert!(!works.is_needed.load(Ordering::Relaxed));
        drop(third);
        seats.take().await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_has_its_time() {
        let seats = seats(1);
        let taken = seats.take().await;
        taken.seat().enter(Stage::Answering);
        let began = Instant::now();
        taken.seat().is_overdue().await;
        assert!(began.elapsed() >= LONGEST_ANSWER);
        taken.seat().written();
        assert!(timeout(LONGEST_ANSWER * 3, taken.seat().is_overdue()).await.is_err());
    }
}
