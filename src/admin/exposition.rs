//! The page of metrics, which may be large: one rendering at a time, shared by all who wait.
//!
//! A rendering is shown only to requests that came before it began, so no client sees a state older than its
//! request. Requests that come meanwhile share the next rendering. It runs where it may block, and is not
//! copied.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use tokio::{sync::Semaphore, task::spawn_blocking};

pub(super) struct Exposition {
    render: Box<dyn Fn() -> Rendered + Send + Sync>,
    /// The rendering that has not begun, for as long as a request waits for it.
    next: Mutex<Option<WeakShared<Next>>>,
    /// Held by the rendering that has begun.
    place: Arc<Semaphore>,
}

pub(super) type Rendered = Result<Bytes, String>;

type Next = BoxFuture<'static, Rendered>;

impl Exposition {
    /// `render` blocks.
    pub(super) fn new(render: impl Fn() -> Rendered + Send + Sync + 'static) -> Arc<Self> {
        let render = Box::new(render);
        let place = Arc::new(Semaphore::new(1));
        Arc::new(Self { render, next: Mutex::default(), place })
    }

    pub(super) async fn page(self: &Arc<Self>) -> Rendered {
        self.join().await
    }

    fn join(self: &Arc<Self>) -> Shared<Next> {
        let mut next = self.next();
        if let Some(shared) = next.as_ref().and_then(WeakShared::upgrade) {
            return shared;
        }
        let shared = self.clone().begin().boxed().shared();
        *next = shared.downgrade();
        shared
    }

    async fn begin(self: Arc<Self>) -> Rendered {
        // It is never closed.
        let place = self.place.clone().acquire_owned().await.map_err(|error| error.to_string())?;
        *self.next() = None;
        // The request that waits may go: a rendering that has begun holds its place until it ends.
        let rendered = spawn_blocking(move || {
            let rendered = (self.render)();
            drop(place);
            rendered
        });
        rendered.await.unwrap_or_else(|error| Err(error.to_string()))
    }

    fn next(&self) -> MutexGuard<'_, Option<WeakShared<Next>>> {
        // Only whole values are put in, so a panic elsewhere leaves nothing half done.
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    };

    use tokio::sync::oneshot;

    use super::*;

    /// The first rendering lasts until something is sent.
    #[tokio::test]
    async fn all_who_wait_share_one_rendering_that_began_after_they_asked() {
        let (go, wait) = mpsc::channel::<()>();
        let (begun, has_begun) = oneshot::channel();
        let wait = Mutex::new(wait);
        let begun = Mutex::new(Some(begun));
        let renderings = Arc::new(AtomicU64::new(0));
        let counted = renderings.clone();
        let exposition = Exposition::new(move || {
            let number = counted.fetch_add(1, Ordering::SeqCst) + 1;
            if let Some(begun) = begun.lock().unwrap().take() {
                begun.send(()).unwrap();
                wait.lock().unwrap().recv().unwrap();
            }
            Ok(Bytes::from(number.to_string()))
        });
        let ask = || {
            let exposition = exposition.clone();
            async move { exposition.page().await.unwrap() }
        };
        let first = tokio::spawn(ask());
        has_begun.await.unwrap();
        // A request that has gone disturbs no other, and a rendering that has begun is not begun again beside
        // it.
        first.abort();
        let others: Vec<_> = (0..10).map(|_| tokio::spawn(ask())).collect();
        tokio::task::yield_now().await;
        others[0].abort();
        go.send(()).unwrap();
        for other in others.into_iter().skip(1) {
            assert_eq!(other.await.unwrap(), "2");
        }
        assert_eq!(renderings.load(Ordering::SeqCst), 2);
        assert_eq!(ask().await, "3");
    }
}
