//! What waits, summed up: all shards are asked, one part after the other, and the parts added.

use crate::base::map::Map;
use crate::engine::query::{Answer, Group, GroupBy, Query};
use crate::types::filter::Filter;

use super::protocol::{ErrorData, GroupsData, LISTED_MAX, Reply};
use super::{Asked, Desk, usage};

impl Desk {
    pub(super) async fn groups(
        &self,
        by: GroupBy,
        filter: Filter,
        limit: usize,
    ) -> Result<Reply, ErrorData> {
        if let Some(fault) = refused(by, &filter) {
            return Err(usage(fault));
        }
        let query = |cursor| Query::Groups {
            by,
            filter: filter.clone(),
            cursor,
        };
        let around = &self.surroundings;
        let mut sums: Map<Option<String>, Group> = Map::default();
        let mut parts = around.answers(Asked::All, query(0)).await?;
        while let Some(part) = parts.pop() {
            let Answer::Groups {
                shard,
                groups,
                next,
            } = part
            else {
                continue;
            };
            for group in groups {
                sums.entry(group.name.clone()).or_default().add(&group);
            }
            if let Some(cursor) = next {
                parts.extend(around.answers(Asked::One(shard), query(cursor)).await?);
            }
        }
        Ok(Reply::Groups(largest(by, sums, limit.min(LISTED_MAX))))
    }
}

/// Why mail cannot be summed up so.
pub fn refused(by: GroupBy, filter: &Filter) -> Option<String> {
    let name = by.as_str();
    match filter.needs_messages() {
        _ if filter.is_empty() => None,
        _ if !by.is_of_queues() => Some(format!(
            "what waits is counted by {name} over all queues together: a filter is for by domain \
             and by binding"
        )),
        Some(field) => Some(format!(
            "{} is a fact of messages, not of queues",
            field.as_str()
        )),
        None => None,
    }
}

fn largest(by: GroupBy, sums: Map<Option<String>, Group>, limit: usize) -> GroupsData {
    let named = |(name, sum): (Option<String>, Group)| Group { name, ..sum };
    let mut groups: Vec<Group> = sums.into_iter().map(named).collect();
    groups.sort_by(|a, b| (b.messages, &a.name).cmp(&(a.messages, &b.name)));
    let (groups_in_all, messages) = (groups.len(), groups.iter().map(|it| it.messages).sum());
    groups.truncate(limit);
    GroupsData {
        by,
        more: groups.len() < groups_in_all,
        groups,
        groups_in_all: groups_in_all as u64,
        messages,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_group_are_added_and_the_largest_come_first() {
        let group = |messages, oldest_seconds| Group {
            messages,
            active: Some(messages),
            oldest_seconds,
            ..Group::default()
        };
        let mut sums: Map<Option<String>, Group> = Map::default();
        for (name, part) in [
            (Some("a"), group(2, Some(5))),
            (None, group(4, None)),
            (Some("b"), group(4, None)),
            (Some("a"), group(3, Some(9))),
        ] {
            let name = name.map(str::to_owned);
            sums.entry(name).or_default().add(&part);
        }
        let data = largest(GroupBy::Tenant, sums, 2);
        let told = data
            .groups
            .iter()
            .map(|it| (it.name.as_deref(), it.messages));
        assert_eq!(told.collect::<Vec<_>>(), [(Some("a"), 5), (None, 4)]);
        assert_eq!(
            (data.groups_in_all, data.messages, data.more),
            (3, 13, true)
        );
        assert_eq!(data.groups[0].oldest_seconds, Some(9));
        assert_eq!(
            (data.groups[0].active, data.groups[0].queues),
            (Some(5), None)
        );
    }

    #[test]
    fn a_filter_is_for_groups_of_queues() {
        let filter = |text: &str| text.parse::<Filter>().expect("a filter");
        for (by, text, good) in [
            (GroupBy::Tenant, "", true),
            (GroupBy::Tenant, "domain=a.example", false),
            (GroupBy::Domain, "binding=a age>1h", true),
            (GroupBy::Domain, "tenant=acme", false),
        ] {
            assert_eq!(refused(by, &filter(text)).is_none(), good, "{by:?} {text}");
        }
    }
}
