//! By when a try must be over.

use std::pin::pin;
use std::time::Duration;

use portolan_model::Reason;
use portolan_policy::retry::Outcome;
use tokio::time::Instant;

use super::call::Call;
use super::failure::Failure;

impl Call<'_> {
    /// Waits for the answer's head of a try that began at `tried_at`: after the request is sent whole, for
    /// as long as the route allows, and never past the caller's deadline.
    pub(super) async fn until_head<T>(
        &self,
        tried_at: Instant,
        sending: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let mut sending = pin!(sending);
        let begun = Instant::now();
        let mut now = begun;
        loop {
            let per_try = self.route.retry.per_try_timeout;
            let due = self.head_due(begun);
            let due = per_try.map_or(due, |most| due.min(tried_at + most));
            if due <= now {
                let why = format!("no answer from {} in time", self.route.destination);
                return Err(Failure::refused(Outcome::Timeout, Reason::Timeout, why));
            }
            // The request may end while this sleeps, and the answer then be due sooner.
            let look = due.min(now + self.route.timeouts.response_headers);
            tokio::select! {
                biased;
                sent = sending.as_mut() => return sent,
                () = self.worker.timers.until(look) => now = Instant::now(),
            }
        }
    }

    fn head_due(&self, begun: Instant) -> Instant {
        let (replay, timeouts) = (&self.request.replay, &self.route.timeouts);
        let due = match replay.finished() {
            Some(at) => at.max(begun) + timeouts.response_headers,
            None => replay.active().max(begun) + timeouts.stream_idle,
        };
        self.try_ends(begun).map_or(due, |end| end.min(due))
    }

    /// When a try that began then must be over.
    pub(super) fn try_ends(&self, begun: Instant) -> Option<Instant> {
        let own = self.route.timeouts.each_try.map(|limit| begun + limit);
        own.into_iter().chain(self.deadline).min()
    }

    pub(super) fn within_deadline(&self, limit: Duration, now: Instant) -> Duration {
        self.try_ends(now)
            .map_or(limit, |end| limit.min(end.saturating_duration_since(now)))
    }
}
