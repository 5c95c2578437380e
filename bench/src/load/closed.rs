//! Closed loop: each caller sends its next request when it has the answer to the last one. It shows
//! how much a path can carry, and what each request costs; its latencies are those of a path that is
//! full.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Caller, Seen, failures::Failures, histogram, record};

/// Calls for `warm`, then for `measured`; `look` is called at the beginning and the end of that.
pub(crate) async fn closed(
    callers: Vec<Caller>,
    (warm, measured): (Duration, Duration),
    mut look: impl FnMut() -> Result<()>,
) -> Result<Seen> {
    let answered = Rc::new(Cell::new(0_u64));
    let failures = Rc::new(Failures::default());
    let latency = Rc::new(RefCell::new(histogram()?));
    let stop = Rc::new(Cell::new(false));
    let counting = Rc::new(Cell::new(false));
    let mut calling = JoinSet::new();
    for mut caller in callers {
        let (answered, latency) = (Rc::clone(&answered), Rc::clone(&latency));
        let (stop, counting) = (Rc::clone(&stop), Rc::clone(&counting));
        let failures = Rc::clone(&failures);
        calling.spawn_local(async move {
            while !stop.get() {
                // One that begins in time counts, however long it takes.
                let (begun, counted) = (Instant::now(), counting.get());
                if let Err(error) = caller.call().await {
                    failures.note(&error)?;
                    caller.recover().await?;
                    continue;
                }
                answered.set(answered.get() + 1);
                if counted {
                    record(&mut latency.borrow_mut(), begun.elapsed());
                }
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    // A caller ends early only if it cannot go on.
    let window = async {
        sleep(warm).await;
        look()?;
        counting.set(true);
        let (begun, before) = (Instant::now(), answered.get());
        sleep(measured).await;
        let (over, after) = (begun.elapsed(), answered.get());
        counting.set(false);
        look()?;
        Ok::<_, anyhow::Error>((over, after - before))
    };
    let (over, answered) = tokio::select! {
        seen = window => seen?,
        Some(ended) = calling.join_next() => {
            ended??;
            anyhow::bail!("a caller ended before its time");
        }
    };
    stop.set(true);
    while let Some(ended) = calling.join_next().await {
        ended??;
    }
    let latency = latency.borrow().clone();
    let (failed, why) = failures.all();
    Ok(Seen {
        answered,
        failed,
        why,
        over,
        latency,
    })
}
