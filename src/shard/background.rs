//! Work that blocks, on a thread of the executor. The shard sleeps in its own ring, so the end of
//! a job rings there first; only then does the executor get its turn to hand over the result.

use core::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::shard::Shell;
use crate::shard::event::Event;

#[derive(Default)]
pub struct Background {
    /// Jobs that the executor has not been given yet.
    fresh: Cell<bool>,
    /// Jobs that have ended on their thread.
    ended: Arc<AtomicU64>,
    /// Jobs whose result has been handed over.
    collected: Cell<u64>,
    handed_over: Event,
}

impl Background {
    /// Whether the executor should have its turn.
    pub fn is_due(&self) -> bool {
        self.fresh.get() || self.collected.get() < self.ended.load(Ordering::Acquire)
    }

    /// Lets the executor start what is new and hand over what has ended.
    pub async fn turn(&self) {
        if self.fresh.replace(false) {
            glommio::executor().yield_now().await;
        }
        while self.collected.get() < self.ended.load(Ordering::Acquire) {
            self.handed_over.wait().await;
        }
    }
}

/// Runs `job` on a thread, then `then` here with what it returned.
pub fn run<T: Send + 'static>(
    shell: &Rc<Shell>,
    job: impl FnOnce() -> T + Send + 'static,
    then: impl FnOnce(&Rc<Shell>, T) + 'static,
) {
    let background = &shell.background;
    let (ended, waker) = (background.ended.clone(), shell.waker.clone());
    let job = move || {
        let result = job();
        ended.fetch_add(1, Ordering::Release);
        waker.wake();
        result
    };
    background.fresh.set(true);
    let shell = shell.clone();
    let task = async move {
        let result = glommio::executor().spawn_blocking(job).await;
        then(&shell, result);
        let background = &shell.background;
        background.collected.set(background.collected.get() + 1);
        background.handed_over.notify();
    };
    glommio::spawn_local(task).detach();
}
