//! The mesh: one ring from every shard to every other, one from control to every shard, and one
//! wake-up slot per shard that all its senders share.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

use atomic_waker::AtomicWaker;

use crate::engine::io::{MeshMessage, ToShard};
use crate::types::id::ShardId;

/// Messages one ring holds; more stay with their sender.
pub const RING_MESSAGES_MAX: usize = 4_096;

/// What a shard finds in its inbox.
pub enum Incoming {
    Mesh { from: ShardId, message: MeshMessage },
    Control(ToShard),
}

struct Sender<T> {
    ring: rtrb::Producer<T>,
    /// What did not fit. Its bound is what the sender has in flight.
    parked: VecDeque<T>,
    wake: Arc<AtomicWaker>,
    /// Something was pushed since the reader was last woken.
    dirty: bool,
}

impl<T> Sender<T> {
    fn push(&mut self, message: T) {
        self.dirty = true;
        if self.parked.is_empty() {
            match self.ring.push(message) {
                Ok(()) => return,
                Err(rtrb::PushError::Full(message)) => self.parked.push_back(message),
            }
        } else {
            self.parked.push_back(message);
        }
        self.unpark();
    }

    fn unpark(&mut self) {
        while let Some(message) = self.parked.pop_front() {
            if let Err(rtrb::PushError::Full(message)) = self.ring.push(message) {
                self.parked.push_front(message);
                return;
            }
        }
    }

    /// Wakes the reader once for all that was pushed.
    fn flush(&mut self) {
        self.unpark();
        if core::mem::take(&mut self.dirty) || !self.parked.is_empty() {
            self.wake.wake();
        }
    }
}

/// One shard's end of the mesh.
pub struct Port {
    outgoing: Vec<Option<Sender<MeshMessage>>>,
    incoming: Vec<(ShardId, rtrb::Consumer<MeshMessage>)>,
    control: rtrb::Consumer<ToShard>,
    /// A message of control that waits for what other shards had sent before it.
    held: Option<ToShard>,
    wake: Arc<AtomicWaker>,
    /// Where the next read begins, so that no sender is served last for ever.
    turn: usize,
}

impl Port {
    pub fn send(&mut self, to: ShardId, message: MeshMessage) {
        let sender = self.outgoing[to.index()].as_mut();
        sender
            .expect("a shard does not send to itself")
            .push(message);
    }

    /// Wakes every shard that something was sent to. True while messages are parked here: call
    /// again soon.
    pub fn flush(&mut self) -> bool {
        let mut parked = false;
        for sender in self.outgoing.iter_mut().flatten() {
            sender.flush();
            parked |= !sender.parked.is_empty();
        }
        parked
    }

    /// The next message. One from control comes after all that other shards had sent before it
    /// was sent.
    pub fn receive(&mut self) -> Option<Incoming> {
        if let Some(message) = self.mesh() {
            return Some(message);
        }
        if let Some(message) = self.held.take() {
            return Some(Incoming::Control(message));
        }
        let message = self.control.pop().ok()?;
        // What was sent to this shard before control spoke is visible by now.
        match self.mesh() {
            Some(first) => {
                self.held = Some(message);
                Some(first)
            }
            None => Some(Incoming::Control(message)),
        }
    }

    fn mesh(&mut self) -> Option<Incoming> {
        for step in 0..self.incoming.len() {
            let index = (self.turn + step) % self.incoming.len();
            let (from, ring) = &mut self.incoming[index];
            if let Ok(message) = ring.pop() {
                let from = *from;
                self.turn = index + 1;
                return Some(Incoming::Mesh { from, message });
            }
        }
        None
    }

    pub fn has_messages(&self) -> bool {
        self.held.is_some()
            || !self.control.is_empty()
            || self.incoming.iter().any(|(_, ring)| !ring.is_empty())
    }

    /// Asks to be woken at the next message. Receive once more afterwards: one may have come.
    pub fn register(&self, waker: &Waker) {
        self.wake.register(waker);
    }
}

/// Control's end: one ring to every shard.
pub struct ControlPort {
    outgoing: Vec<Sender<ToShard>>,
}

impl ControlPort {
    pub fn shards(&self) -> usize {
        self.outgoing.len()
    }

    pub fn send(&mut self, to: ShardId, message: ToShard) {
        let sender = &mut self.outgoing[to.index()];
        sender.push(message);
        sender.flush();
    }

    /// True while messages are parked because a shard is behind: call again soon.
    pub fn flush(&mut self) -> bool {
        let mut parked = false;
        for sender in &mut self.outgoing {
            sender.flush();
            parked |= !sender.parked.is_empty();
        }
        parked
    }
}

/// Builds the rings for so many shards.
pub fn build(shards: usize) -> (Vec<Port>, ControlPort) {
    let wakes: Vec<_> = (0..shards).map(|_| Arc::new(AtomicWaker::new())).collect();
    let mut control = ControlPort {
        outgoing: Vec::new(),
    };
    let mut ports: Vec<Port> = Vec::new();
    for wake in &wakes {
        let (ring, consumer) = rtrb::RingBuffer::new(RING_MESSAGES_MAX);
        control.outgoing.push(sender(ring, wake));
        let (outgoing, incoming) = (Vec::new(), Vec::new());
        let wake = wake.clone();
        ports.push(Port {
            outgoing,
            incoming,
            control: consumer,
            held: None,
            wake,
            turn: 0,
        });
    }
    for from in 0..shards {
        for to in 0..shards {
            if from == to {
                ports[from].outgoing.push(None);
                continue;
            }
            let (ring, consumer) = rtrb::RingBuffer::new(RING_MESSAGES_MAX);
            ports[from].outgoing.push(Some(sender(ring, &wakes[to])));
            ports[to].incoming.push((ShardId(from as u8), consumer));
        }
    }
    (ports, control)
}

fn sender<T>(ring: rtrb::Producer<T>, wake: &Arc<AtomicWaker>) -> Sender<T> {
    Sender {
        ring,
        parked: VecDeque::new(),
        wake: wake.clone(),
        dirty: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::id::BatchId;

    #[test]
    fn what_does_not_fit_is_kept_in_order() {
        let (mut ports, _control) = build(2);
        let count = RING_MESSAGES_MAX as u64 + 100;
        for n in 0..count {
            ports[0].send(ShardId(1), MeshMessage::Fetch { batch: BatchId(n) });
        }
        assert!(ports[0].flush(), "some are parked");
        let mut seen = 0;
        while seen < count {
            match ports[1].receive() {
                Some(Incoming::Mesh {
                    from,
                    message: MeshMessage::Fetch { batch },
                }) => {
                    assert_eq!((from, batch), (ShardId(0), BatchId(seen)));
                    seen += 1;
                }
                Some(_) => panic!("nothing else was sent"),
                None => assert!(!ports[0].flush() || seen < count),
            }
        }
        assert!(!ports[0].flush());
    }
}
