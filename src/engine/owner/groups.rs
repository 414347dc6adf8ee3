//! What waits, summed up by class, tenant, campaign, domain or binding: from counts that are kept
//! anyway, a part at a time, so that traffic goes between parts.

use crate::base::map::Map;
use crate::base::time::Now;
use crate::engine::owner::Owner;
use crate::engine::query::{Group, GroupBy};
use crate::queue::State;
use crate::types::filter::Filter;
use crate::types::flow::{CLASS_DEFAULT, Flow};

impl Owner {
    /// The groups of this shard, from `cursor` on, and where to go on. One group may be in several
    /// parts. The filter is for queues, and does not count for what is not grouped by them.
    pub fn list_groups(
        &self,
        now: Now,
        by: GroupBy,
        filter: &Filter,
        cursor: u64,
    ) -> (Vec<Group>, Option<u64>) {
        let mut groups: Map<Option<String>, Group> = Map::default();
        let next = match by.is_of_queues() {
            true => self.groups_of_queues(now, by, (filter, cursor), &mut groups),
            false => self.groups_of_flows(by, cursor, &mut groups),
        };
        let named = |(name, group): (Option<String>, Group)| Group { name, ..group };
        (groups.into_iter().map(named).collect(), next)
    }

    fn groups_of_flows(
        &self,
        by: GroupBy,
        cursor: u64,
        groups: &mut Map<Option<String>, Group>,
    ) -> Option<u64> {
        let page = self.queues.flow_counts(cursor);
        for (flow, messages) in page.items {
            let name = flow_name(by, flow.as_deref());
            let name = (!name.is_empty()).then(|| name.to_owned());
            groups.entry(name).or_default().messages += messages;
        }
        page.next
    }

    fn groups_of_queues(
        &self,
        now: Now,
        by: GroupBy,
        (filter, cursor): (&Filter, u64),
        groups: &mut Map<Option<String>, Group>,
    ) -> Option<u64> {
        let page = self.queues.list(cursor, usize::MAX, |view| {
            !view.is_empty() && self.queue_matches(now, view, filter)
        });
        for view in page.items.iter().filter_map(|it| self.queues.view(*it)) {
            let name = match by {
                GroupBy::Domain => view.domain(),
                _ => view.binding(),
            };
            let [active, delayed, in_flight] = [State::Active, State::Delayed, State::InFlight]
                .map(|state| u64::from(view.count(state)));
            let queue = Group {
                name: None,
                messages: active + delayed + in_flight,
                queues: Some(1),
                active: Some(active),
                delayed: Some(delayed),
                in_flight: Some(in_flight),
                oldest_seconds: view.oldest_age(now).map(|age| age.as_secs()),
            };
            let group = groups.entry(Some(name.to_string())).or_default();
            group.add(&queue);
        }
        page.next
    }
}

fn flow_name(by: GroupBy, flow: Option<&Flow>) -> &str {
    let names = flow.map(Flow::names);
    match by {
        GroupBy::Class => names.map_or(CLASS_DEFAULT, |it| it.class),
        GroupBy::Tenant => names.map_or("", |it| it.tenant),
        _ => names.map_or("", |it| it.campaign),
    }
}
