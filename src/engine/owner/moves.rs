//! Entries that leave a queue for another one. They travel as plain data, with all that they came
//! with and how far they have come; their bodies stay where they are.
//!
//! What an operator has rebound goes by its home, which writes that down: so a start finds it under
//! its new binding, and whatever the next owner tells of it comes home later.

use std::sync::Arc;

use crate::base::prng::{Prng, hash_bytes};
use crate::engine::io::Settled;
use crate::engine::owner::Owner;
use crate::engine::{Members, Turn};
use crate::policy::binding::choose_binding;
use crate::queue::{Departed, EntryId};
use crate::types::id::BatchId;
use crate::types::message::Moved;
use crate::types::order::Order;
use crate::types::outcome::{Outcome, OutcomeKind, Stage};
use crate::types::reply::{Enhanced, Reply};

impl Owner {
    /// Gives an entry that is in no job to the binding of an order. False if it stays.
    pub(super) fn rebind(&mut self, turn: &mut Turn<'_>, entry: EntryId, order: &Order) -> bool {
        let Some(view) = self.queues.entry(entry) else {
            return false;
        };
        let (message, queue) = (view.message(), view.queue());
        let Some(link) = self.links.get(&queue) else {
            return false;
        };
        let (from, domain) = (link.binding.clone(), link.domain.clone());
        let drawn = (message.batch, &*domain);
        let Some(to) = rebound_to(turn, order, &from, drawn) else {
            return false;
        };
        let Some(departed) = self.queues.depart(turn.now, entry) else {
            return false;
        };
        let Departed {
            mut arrival,
            content,
        } = departed;
        let outcome = Outcome {
            message,
            kind: OutcomeKind::Rebound {
                due: arrival.progress.due,
                to: to.clone(),
            },
            attempts: arrival.progress.attempts,
            at: turn.now.wall,
            reply: told(order, &to),
            stage: Stage::Internal,
            remote: None,
            possible_duplicate: false,
        };
        let recipient = arrival.address.clone();
        arrival.binding = to;
        arrival.moved = arrival.moved.map(|it| Moved {
            order: order.id,
            ..it
        });
        turn.common.stats.counters.messages_rebound += 1;
        self.settled.push(Settled {
            home: arrival.home,
            outcome,
            recipient,
            binding: from,
            content,
            onward: Some(Box::new(arrival)),
        });
        true
    }
}

/// The binding that an order leads to; nothing if the one there is is right, or if the
/// configuration no longer knows where to. Of a group one is drawn as at reception, the same for
/// all recipients of a transaction and a domain.
fn rebound_to(
    turn: &Turn<'_>,
    order: &Order,
    from: &str,
    (batch, domain): (BatchId, &str),
) -> Option<Arc<str>> {
    let config = &turn.common.generation.config;
    let to = order.to.as_deref()?;
    let names = &turn.common.binding_names;
    let name = |index: u32| names.get(index as usize);
    if let Some(binding) = config.binding_by_name(to) {
        return name(binding.0).filter(|it| &***it != from).cloned();
    }
    let group = config.group_by_name(to)?;
    let mut members = Members::default();
    let choice = turn.common.choice_of(turn.now, group, &mut members)?;
    let stays = |index: &u32| name(*index).is_some_and(|it| &**it == from);
    if choice.members().iter().any(stays) {
        return None;
    }
    let seed = batch.0 ^ hash_bytes(domain.as_bytes()) ^ order.id.rotate_left(48);
    name(choose_binding(choice, &mut Prng::new(seed))?).cloned()
}

fn told(order: &Order, to: &str) -> Reply {
    let text = format!("given to binding {to} by order {} of an operator", order.id);
    Reply::internal(250, Enhanced(2, 7, 0), &text)
}
