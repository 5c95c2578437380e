//! Closed loop: each caller sends its next request when it has the answer to the last one. It shows
//! how much a path can carry, and what each request costs; its latencies are those of a path that is
//! full.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{Entrance, Seen, Work, callers, histogram, record};

/// Calls for `warm`, then for `measured`; `look` is called at the beginning and the end of that.
pub(crate) async fn closed(
    entrance: &Entrance,
    work: Work,
    count: usize,
    (warm, measured): (Duration, Duration),
    mut look: impl FnMut() -> Result<()>,
) -> Result<Seen> {
    let answered = Rc::new(Cell::new(0_u64));
    let latency = Rc::new(RefCell::new(histogram()?));
    let stop = Rc::new(Cell::new(false));
    let counting = Rc::new(Cell::new(false));
    let mut calling = JoinSet::new();
    for mut caller in callers(entrance, work, count).await? {
        let (answered, latency) = (Rc::clone(&answered), Rc::clone(&latency));
        let (stop, counting) = (Rc::clone(&stop), Rc::clone(&counting));
        calling.spawn_local(async move {
            while !stop.get() {
                let begun = Instant::now();
                caller.call().await?;
                answered.set(answered.get() + 1);
                if counting.get() {
                    record(&mut latency.borrow_mut(), begun.elapsed());
                }
            }
            Ok::<_, anyhow::Error>(())
        });
    }
    // A caller ends early only by failing, and one failure spoils the figures.
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
    Ok(Seen {
        answered,
        over,
        latency,
    })
}
