//! Threads: each with a current-thread runtime of its own, so that nothing on a request's way is shared.

use std::any::Any;
use std::error::Error;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::JoinHandle;

use tokio::runtime::LocalOptions;

use crate::open_files;
use crate::shutdown::Shutdown;
use crate::start::StartError;

/// The most threads that one worker may use for blocking work (files, name look-ups).
const BLOCKING_THREADS_MAX: usize = 4;

/// The threads of a daemon. When one of them panics or fails, all are asked to stop.
#[derive(Debug)]
pub struct Workers {
    shutdown: Shutdown,
    threads: Vec<JoinHandle<()>>,
    first_failure: Arc<OnceLock<StartError>>,
}

impl Workers {
    /// No threads yet. From here on the process may have as many files open as the system permits.
    #[must_use]
    pub fn new(shutdown: Shutdown) -> Self {
        open_files::raise_limit();
        Self {
            shutdown,
            threads: Vec::new(),
            first_failure: Arc::default(),
        }
    }

    /// Starts the thread `<name>-<index>`. `work` runs on it inside a local runtime, so its future and the tasks that
    /// it spawns there need not be `Send`; it must end after the shutdown is triggered.
    ///
    /// # Errors
    /// When the system has no thread or no event queue left.
    pub fn spawn<Work, Running, Failure>(
        &mut self,
        name: &str,
        index: usize,
        work: Work,
    ) -> Result<(), StartError>
    where
        Work: FnOnce() -> Running + Send + 'static,
        Running: Future<Output = Result<(), Failure>> + 'static,
        Failure: Into<Box<dyn Error + Send + Sync>>,
    {
        let name = format!("{name}-{index}");
        let fail = |source| StartError::io("start", format!("thread {name}"), source);
        let (worker, shutdown) = (name.clone(), self.shutdown.clone());
        let first_failure = Arc::clone(&self.first_failure);
        // A local runtime stays on the thread that made it, which tells whether it could.
        let (told, made) = mpsc::sync_channel(1);
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(BLOCKING_THREADS_MAX)
                .thread_name(format!("{worker}-io"))
                .build_local(LocalOptions::default());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(told.send(Err(error))),
            };
            // It is awaited below.
            drop(told.send(Ok(())));
            let run = AssertUnwindSafe(|| runtime.block_on(work()));
            let problem = match std::panic::catch_unwind(run) {
                Ok(Ok(())) => return,
                Ok(Err(failure)) => chain(&*failure.into()),
                Err(panic) => format!("it panicked: {}", panic_text(&*panic)),
            };
            tracing::error!(worker, problem, "a worker failed: stopping");
            // Only the first failure is reported; later ones are its consequences.
            drop(first_failure.set(StartError::Worker { worker, problem }));
            shutdown.trigger();
        };
        let thread = std::thread::Builder::new().name(name.clone()).spawn(body);
        self.threads.push(thread.map_err(fail)?);
        // It ends without a word only when it panics, which whoever joins it learns.
        made.recv().unwrap_or(Ok(())).map_err(fail)
    }

    /// Waits until every thread has ended.
    ///
    /// # Errors
    /// The first failure of a worker.
    pub fn join(self) -> Result<(), StartError> {
        for thread in self.threads {
            if let Err(panic) = thread.join() {
                let problem = format!("it panicked: {}", panic_text(&*panic));
                let worker = "unknown".to_owned();
                drop(
                    self.first_failure
                        .set(StartError::Worker { worker, problem }),
                );
            }
        }
        match Arc::into_inner(self.first_failure).and_then(OnceLock::into_inner) {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

/// An error and everything behind it, said once, on one line.
#[must_use]
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        source = cause.source();
    }
    text
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io;
    use std::rc::Rc;

    use super::*;

    fn until_stopped(shutdown: Shutdown) -> impl FnOnce() -> LocalFuture + Send {
        move || {
            Box::pin(async move {
                let not_send = Rc::new(());
                shutdown.triggered().await;
                drop(not_send);
                Ok(())
            })
        }
    }
    type LocalFuture = std::pin::Pin<Box<dyn Future<Output = Result<(), Infallible>>>>;

    #[test]
    fn workers_end_with_the_shutdown() {
        let shutdown = Shutdown::new();
        let mut workers = Workers::new(shutdown.clone());
        for index in 0..2 {
            workers
                .spawn("worker", index, until_stopped(shutdown.clone()))
                .unwrap();
        }
        shutdown.trigger();
        workers.join().unwrap();
    }

    #[test]
    fn a_panic_stops_the_others_and_is_reported() {
        let shutdown = Shutdown::new();
        let mut workers = Workers::new(shutdown.clone());
        workers.spawn("worker", 0, until_stopped(shutdown)).unwrap();
        workers
            .spawn("worker", 1, || async {
                if true {
                    panic!("on purpose");
                }
                Ok::<(), Infallible>(())
            })
            .unwrap();
        let error = workers.join().unwrap_err().to_string();
        assert!(
            error.contains("worker-1") && error.contains("on purpose"),
            "{error}"
        );
    }

    #[test]
    fn a_failure_is_reported_with_its_causes() {
        let mut workers = Workers::new(Shutdown::new());
        let failing =
            || async { Err::<(), _>(StartError::io("read", "x", io::ErrorKind::NotFound.into())) };
        workers.spawn("control", 0, failing).unwrap();
        let error = workers.join().unwrap_err().to_string();
        assert!(
            error.contains("control-0") && error.contains("cannot read x"),
            "{error}"
        );
    }
}
