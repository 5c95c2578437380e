//! A slow request is sent a second time while the first is under way, and the first good answer counts.

use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use portolan_model::traffic::Hedging;
use tokio::time::{Instant, sleep_until};

use super::call::{Answer, Call};
use super::choice::{self, Choice};
use super::exchange::Exchange;
use super::failure::Failure;
use crate::balancer::EndpointState;
use crate::upstreams::Target;

/// A try that is under way.
struct Running {
    since: Instant,
    target: Rc<Target>,
    endpoint: Option<Rc<EndpointState>>,
}

/// Tries `first`, and others beside it as long as nobody answers. Gives back who answered well, or who
/// failed last. Whoever is still under way then is told that its answer is not wanted.
pub(super) async fn race(
    call: &Call<'_>,
    first: Choice,
    hedging: Hedging,
    exchange: &mut Exchange,
) -> (Choice, Result<Answer, Failure>) {
    let mut left = hedging.extra_max;
    let mut next_at = Instant::now() + hedging.after;
    let attempt = |choice: Choice| async move {
        let tried = call.attempt(&choice).await;
        (choice, tried)
    };
    let mut running = vec![Running::of(&first)];
    let mut tries = FuturesUnordered::new();
    tries.push(attempt(first));
    loop {
        tokio::select! {
            biased;
            Some((choice, tried)) = tries.next() => {
                running.retain(|it| !Rc::ptr_eq(&it.target, &choice.target));
                if tried.is_ok() || tries.is_empty() {
                    running.iter().for_each(|it| it.beaten(call));
                    exchange.answered_by(&choice.target);
                    return (choice, tried);
                }
                call.tried.borrow_mut().exclude(&choice.target);
            }
            () = sleep_until(next_at), if left > 0 => {
                left -= 1;
                next_at = Instant::now() + hedging.after;
                if let Some(choice) = another(call, &running) {
                    call.begins(&choice, exchange);
                    running.push(Running::of(&choice));
                    tries.push(attempt(choice));
                }
            }
        }
    }
}

/// Somebody who is not asked yet, if the budget has room for one more try.
fn another(call: &Call<'_>, running: &[Running]) -> Option<Choice> {
    let before = call.tried.borrow().clone();
    for it in running {
        call.tried.borrow_mut().exclude(&it.target);
    }
    let chosen = choice::choose(call).ok();
    let after = call.tried.replace(before);
    chosen.filter(|_| !after.everybody && call.may_try_more(Duration::ZERO))
}

impl Running {
    fn of(choice: &Choice) -> Self {
        Self {
            since: Instant::now(),
            target: Rc::clone(&choice.target),
            endpoint: choice.endpoint.clone(),
        }
    }

    /// Somebody else was faster: that it took so long already is worth knowing.
    fn beaten(&self, call: &Call<'_>) {
        if let Some(endpoint) = &self.endpoint {
            endpoint.waited(call.worker.balancer.now(), self.since.elapsed());
        }
    }
}
