//! Places at the login services: how many requests each gets at a time.
//!
//! A thousand tenants that wake up together must not become a thousand requests. A tenant with a valid token
//! needs no place, and a request that takes long goes on without one: some dozens of tenants whose login does
//! not answer must not stop the logins of all others.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::timeout};

/// Requests at a time, to one service.
const PLACES: usize = 64;
/// How long a request counts.
const COUNTS: Duration = Duration::from_secs(2);

/// By the service's address.
#[derive(Default)]
pub(super) struct Places(Mutex<HashMap<String, Arc<Semaphore>>>);

impl Places {
    /// Runs the request once there is a place for it.
    pub(super) async fn within<R>(&self, service: &str, request: impl Future<Output = R>) -> R {
        let places = self.of(service);
        // It is never closed.
        let place = places.acquire().await;
        let mut request = pin!(request);
        if let Ok(result) = timeout(COUNTS, &mut request).await {
            return result;
        }
        drop(place);
        request.await
    }

    fn of(&self, service: &str) -> Arc<Semaphore> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(places) = all.get(service) {
            return places.clone();
        }
        let places = Arc::new(Semaphore::new(PLACES));
        all.insert(service.to_owned(), places.clone());
        places
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;

    /// The most requests in progress at a time.
    #[derive(Default)]
    struct Most {
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Most {
        async fn request(&self, takes: Duration) {
            self.most.fetch_max(self.now.fetch_add(1, SeqCst) + 1, SeqCst);
            tokio::time::sleep(takes).await;
            self.now.fetch_sub(1, SeqCst);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_at_once_are_sixty_four_at_a_time() {
        let places = Places::default();
        let most = Most::default();
        let takes = Duration::from_millis(500);
        let all = (0..1000).map(|_| places.within("login", most.request(takes)));
        let other = places.within("another", async { tokio::time::Instant::now() });
        let began = tokio::time::Instant::now();
        let (_, other) = tokio::join!(futures_util::future::join_all(all), other);
        assert_eq!((most.most.into_inner(), other), (64, began));
        assert_eq!(began.elapsed(), takes * 1000u32.div_ceil(64));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_ones_do_not_stop_the_others() {
        let places = Places::default();
        let began = tokio::time::Instant::now();
        let slow = (0..64).map(|_| places.within("login", std::future::pending::<()>()));
        tokio::select! {
            _ = futures_util::future::join_all(slow) => panic!("they never end"),
            () = async { tokio::task::yield_now().await; places.within("login", async {}).await } => {}
        }
        assert_eq!(began.elapsed(), COUNTS);
    }
}
