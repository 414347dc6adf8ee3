//! A flag that one task sets and one task waits for, within an executor.

use core::cell::{Cell, RefCell};
use core::future::poll_fn;
use core::task::{Poll, Waker};

#[derive(Default)]
pub struct Event {
    set: Cell<bool>,
    waiter: RefCell<Option<Waker>>,
}

impl Event {
    pub fn notify(&self) {
        self.set.set(true);
        if let Some(waker) = self.waiter.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Returns at once if it was set since the last wait.
    pub async fn wait(&self) {
        poll_fn(|context| {
            if self.set.take() {
                return Poll::Ready(());
            }
            *self.waiter.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
