//! The tasks of a running relay: starting them, noticing the first that ends too early, and waiting for their
//! end.

use std::collections::HashMap;

use tokio::{
    runtime::Handle,
    task::{Id, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::RunError;
use crate::faults;

/// The tasks that must all run for the relay to be one.
#[derive(Default)]
pub(super) struct Parts {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Parts {
    /// `name` is for [faults], `part` for people.
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        part: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.spawn_on(&Handle::current(), name, part, work);
    }

    pub(super) fn spawn_on(
        &mut self,
        runtime: &Handle,
        name: &'static str,
        part: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        let work = async move {
            tokio::select! { () = work => {}, () = faults::due(name) => {} }
        };
        let id = self.tasks.spawn_on(work, runtime).id();
        self.names.insert(id, part);
    }

    /// Returns at `shutdown`, or with an error when a part ends before that, or with the error of `broken`.
    pub(super) async fn run_until(
        &mut self,
        shutdown: &CancellationToken,
        broken: impl Future<Output = RunError>,
    ) -> Result<(), RunError> {
        let ended = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(()),
            // Where a thread has died, tasks that need it end soon after: the error should name the cause.
            broken = broken => return Err(broken),
            Some(ended) = self.tasks.join_next_with_id() => ended,
        };
        let (id, why) = match ended {
            Ok((id, ())) => (id, "it has ended".to_owned()),
            Err(error) => (error.id(), error.to_string()),
        };
        Err(RunError::Broken { part: self.names.get(&id).copied().unwrap_or("a part"), why })
    }

    /// Waits for all of them.
    pub(super) async fn ended(&mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                error!(%error, "vital part failed during the stop");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    async fn until(stop: CancellationToken) {
        stop.cancelled().await;
    }

    #[tokio::test]
    async fn a_part_that_breaks_down_is_named() {
        let stop = CancellationToken::new();
        let mut parts = Parts::default();
        parts.spawn("one", "the one", until(stop.clone()));
        parts.spawn("other", "the other", async { panic!("on purpose") });
        let error = parts.run_until(&stop, pending()).await.unwrap_err().to_string();
        assert!(error.contains("vital part ended: the other:") && error.contains("on purpose"), "{error}");

        parts.spawn("third", "the third", async {});
        let error = parts.run_until(&stop, pending()).await.unwrap_err().to_string();
        assert!(error.contains("vital part ended: the third:"), "{error}");

        stop.cancel();
        parts.ended().await;
    }

    #[tokio::test]
    async fn parts_that_end_when_they_are_told_to_are_no_error() {
        let shutdown = CancellationToken::new();
        let mut parts = Parts::default();
        parts.spawn("one", "the one", until(shutdown.child_token()));
        parts.spawn("other", "the other", until(shutdown.child_token()));
        shutdown.cancel();
        parts.run_until(&shutdown, pending()).await.unwrap();
        parts.ended().await;
    }
}
