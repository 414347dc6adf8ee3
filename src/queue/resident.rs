//! Which bodies are in memory, and which one leaves next when the budget is exceeded. A body that
//! is needed later leaves earlier: first those of messages that are delayed everywhere, then those
//! far behind in an active queue, then the rest, and last those that are next in theirs; within
//! each class the one that came last, because it has most waiting before it. Bodies in flight stay:
//! their sessions hold them anyway. Everything here costs the same however many messages there
//! are; nothing is scanned.

use std::sync::Arc;

use crate::queue::Message;
use crate::queue::pool::Links;
use crate::queue::pool::List;
use crate::queue::pool::NONE;
use crate::queue::pool::Pool;
use crate::queue::verdict::Budget;
use crate::types::message::Content;

/// What a body costs beside its bytes: envelope, quoted header fields, counters, allocator.
const CONTENT_BYTES: u64 = 512;

/// How soon a message needs its body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// The body is not in memory.
    Absent,
    /// A recipient is in flight.
    Pinned,
    /// Every recipient waits for its next attempt.
    Delayed,
    /// Active, behind `max_resident_active` others of its queue when it became so.
    Tail,
    /// Active, and not behind.
    Front,
    /// Active, and the next of its queue or nearly so.
    Next,
}

/// The classes that can be evicted, in that order.
const EVICTABLE: [Class; 4] = [Class::Delayed, Class::Tail, Class::Front, Class::Next];

/// A body that is in memory. Most of what waits long has none, so it stands apart.
struct Body {
    content: Arc<Content>,
    message: u32,
    /// Among those of its class.
    place: Links,
}

pub struct Resident {
    bodies: Pool<Body>,
    lists: [List; EVICTABLE.len()],
    budget: Budget,
    bytes: u64,
    evicted: u64,
}

impl Resident {
    pub fn new(budget: Budget) -> Resident {
        let lists = [List::EMPTY; EVICTABLE.len()];
        Resident {
            bodies: Pool::default(),
            lists,
            budget,
            bytes: 0,
            evicted: 0,
        }
    }

    pub fn messages(&self) -> usize {
        self.bodies.len()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    pub fn set_budget(&mut self, messages: &mut Pool<Message>, budget: Budget) {
        self.budget = budget;
        self.enforce(messages);
    }

    /// The body of a message, if it is in memory.
    pub fn content(&self, message: &Message) -> Option<&Arc<Content>> {
        (message.body != NONE).then(|| &self.bodies[message.body].content)
    }

    /// Keeps the body of `index`, which has none; its class is the caller's to set next.
    pub fn store(&mut self, messages: &mut Pool<Message>, index: u32, content: Arc<Content>) {
        assert_eq!(messages[index].body, NONE, "a body is kept once");
        self.bytes += cost(&content);
        let body = Body {
            content,
            message: index,
            place: Links::LOOSE,
        };
        messages[index].body = self.bodies.insert(body).index;
        messages[index].class = Class::Pinned;
    }

    /// Sets the class of a message whose body is in memory.
    pub fn place(&mut self, message: &mut Message, class: Class) {
        if message.class == class {
            return;
        }
        self.unlink(message);
        if let Some(list) = list_of(class) {
            self.lists[list].push_back(&mut self.bodies, message.body, |body| &mut body.place);
        }
        message.class = class;
    }

    /// Lets the body of `index` go, if it is in memory.
    pub fn release(&mut self, messages: &mut Pool<Message>, index: u32) {
        let message = &mut messages[index];
        if message.body == NONE {
            return;
        }
        self.unlink(message);
        self.bytes -= cost(&self.bodies.remove(message.body).content);
        message.body = NONE;
        message.class = Class::Absent;
    }

    /// Evicts until the budget holds or nothing is left that may go.
    pub fn enforce(&mut self, messages: &mut Pool<Message>) {
        while self.bodies.len() > self.budget.messages_max || self.bytes > self.budget.bytes_max {
            let Some(list) = self.lists.iter().find(|list| list.len > 0) else {
                return;
            };
            self.release(messages, self.bodies[list.tail].message);
            self.evicted += 1;
        }
    }

    fn unlink(&mut self, message: &Message) {
        if let Some(list) = list_of(message.class) {
            self.lists[list].remove(&mut self.bodies, message.body, |body| &mut body.place);
        }
    }
}

fn list_of(class: Class) -> Option<usize> {
    EVICTABLE.iter().position(|evictable| *evictable == class)
}

fn cost(content: &Content) -> u64 {
    content.body.len() as u64 + CONTENT_BYTES
}
