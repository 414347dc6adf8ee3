//! What an order would touch, before it is given. Looking changes nothing.

use core::cell::Cell;
use std::sync::Arc;

use crate::base::map::Map;
use crate::base::time::Now;
use crate::engine::owner::Owner;
use crate::engine::query::{DomainCount, PREVIEW_DOMAINS_MAX, Preview};
use crate::queue::{QueueId, State};
use crate::types::filter::{Filter, Verdict};
use crate::types::order;

/// Slices of entries that one part of a preview looks at; traffic goes between parts.
const PAGES: usize = 16;

impl Owner {
    /// What a filter meets on this shard, from `cursor` on, and where to go on.
    pub fn preview(&self, now: Now, filter: &Filter, cursor: u64) -> (Preview, Option<u64>) {
        let mut found = Preview::default();
        let mut counts: Map<QueueId, u64> = Map::default();
        let next = match order::is_of_queue(filter) {
            true => {
                self.preview_queues(now, filter, (&mut found, &mut counts));
                None
            }
            false => self.preview_entries(now, filter, cursor, (&mut found, &mut counts)),
        };
        let mut domains: Map<Arc<str>, u64> = Map::default();
        for (queue, count) in counts {
            if let Some(view) = self.queues.view(queue) {
                *domains.entry(view.domain().clone()).or_default() += count;
                found.queues += 1;
                found.messages += count;
            }
        }
        let count = |(domain, messages): (Arc<str>, u64)| DomainCount {
            domain: domain.to_string(),
            messages,
        };
        found.domains = domains.into_iter().map(count).collect();
        found.cut();
        debug_assert!(found.domains.len() <= PREVIEW_DOMAINS_MAX, "it was cut");
        (found, next)
    }

    /// Queues that meet the filter as a whole.
    fn preview_queues(
        &self,
        now: Now,
        filter: &Filter,
        (found, counts): (&mut Preview, &mut Map<QueueId, u64>),
    ) {
        let mut next = Some(0);
        while let Some(cursor) = next {
            let page = self.queues.list(cursor, usize::MAX, |view| {
                !view.is_empty() && self.queue_matches(now, view, filter)
            });
            for queue in page.items {
                let Some(view) = self.queues.view(queue) else {
                    continue;
                };
                let all = State::ALL.map(|state| u64::from(view.count(state)));
                counts.insert(queue, all.iter().sum());
                found.in_flight += u64::from(view.count(State::InFlight));
                let age = view.oldest_age(now).map_or(0, |age| age.as_secs());
                found.oldest_seconds = found.oldest_seconds.max(age);
            }
            next = page.next;
        }
    }

    fn preview_entries(
        &self,
        now: Now,
        filter: &Filter,
        cursor: u64,
        (found, counts): (&mut Preview, &mut Map<QueueId, u64>),
    ) -> Option<u64> {
        let mut next = Some(cursor);
        for _ in 0..PAGES {
            let open = Cell::new(0);
            let page = self.queues.search(next?, usize::MAX, |entry| {
                let verdict = self.entry_verdict(now, entry, filter, None);
                open.set(open.get() + u64::from(verdict == Verdict::Open));
                verdict == Verdict::Yes
            });
            found.unknown += open.get();
            for entry in page.items.iter().filter_map(|it| self.queues.entry(*it)) {
                *counts.entry(entry.queue()).or_default() += 1;
                found.in_flight += u64::from(entry.state() == State::InFlight);
                let age = now.wall.since(entry.received()).as_secs();
                found.oldest_seconds = found.oldest_seconds.max(age);
            }
            next = page.next;
        }
        next
    }
}
