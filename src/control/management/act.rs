//! Requests that act on queued mail: orders, what they would touch, and taking them back.

use core::time::Duration;

use tokio::time::timeout;

use crate::config::near_miss;
use crate::control::orders::{Over, Refused, Standing, Wish};
use crate::deliver::route::Target;
use crate::engine::io::Worked;
use crate::engine::query::{Answer, Preview, Query};
use crate::types::filter::Filter;
use crate::types::order;
use crate::types::order::{Order, Verb};

use super::protocol::{
    ErrorData, Fault, OrderState, OrderWanted, OrderedData, OrdersData, Reply, UndoTarget,
    UndoneData,
};
use super::{Asked, Desk, usage};

/// How long a command waits for a one-time order; after that the order goes on alone.
const DONE_TIMEOUT: Duration = Duration::from_secs(20);

impl Desk {
    /// Gives an order, or tells what it would touch.
    pub(super) async fn order(&self, wanted: OrderWanted, by: &str) -> Result<Reply, ErrorData> {
        let OrderWanted { verb, filter, .. } = &wanted;
        if filter.is_empty() != wanted.all {
            let what = match wanted.all {
                true => "a filter and \"all\" exclude each other",
                false => "a filter is expected, or the word that all mail is meant",
            };
            return Err(usage(what.to_owned()));
        }
        order::check(*verb, filter).map_err(usage)?;
        self.check_target(*verb, wanted.to.as_deref())?;
        let now = (self.surroundings.clock)();
        let lasts = wanted.lasts_seconds.map(Duration::from_secs);
        let lasts = lasts.or(verb.lasts());
        let until = lasts.map(|lasts| order::ends_at(now, lasts));
        let until = until.transpose().map_err(usage)?;
        if (*verb == Verb::Delay) != (until.is_some() && !verb.is_standing()) {
            let what = match verb {
                Verb::Delay => "until when? A delay needs a time",
                _ => "it is done at once: it has no time to last for",
            };
            return Err(usage(what.to_owned()));
        }
        let preview = self.preview(filter).await?;
        if wanted.dry_run {
            let (order, done) = (None, None);
            return Ok(Reply::Ordered(OrderedData {
                order,
                preview,
                done,
            }));
        }
        let wish = Wish {
            verb: *verb,
            filter: wanted.filter,
            to: wanted.to,
            until,
            reason: wanted.reason,
            by: by.to_owned(),
        };
        let stands = wish.verb.is_standing();
        let (order, worked) = self.give(wish).await?;
        let mut state = state_of(just_given(order, worked.clone()));
        state.messages = Some(preview.messages);
        Ok(Reply::Ordered(OrderedData {
            order: Some(state),
            preview,
            done: (!stands).then_some(worked.is_some()),
        }))
    }

    /// Where an order leads to, if it is one that leads somewhere.
    fn check_target(&self, verb: Verb, to: Option<&str>) -> Result<(), ErrorData> {
        let wrong = |what: &str| Err(usage(what.to_owned()));
        match (verb, to) {
            (Verb::Reroute, None) => wrong("where to? A reroute needs a host"),
            (Verb::Reroute, Some(host)) => {
                let target = Target::parse(host).map_err(|error| usage(error.to_string()));
                target.map(drop)
            }
            (Verb::Rebind, None) => wrong("where to? A rebind needs a binding, or a group of them"),
            (Verb::Rebind, Some(name)) => {
                let names = (self.surroundings.bindings)();
                check_binding(name, &names).map_err(usage)
            }
            (_, None) => Ok(()),
            (_, Some(_)) => wrong("only reroute and rebind lead somewhere"),
        }
    }

    /// Gives an order; a one-time one has gone through the queues then, unless that takes long.
    async fn give(&self, wish: Wish) -> Result<(Order, Option<Worked>), ErrorData> {
        let given = self.surroundings.orders.give(wish).map_err(refused)?;
        let mut worked = None;
        if let Some(done) = given.done
            && let Ok(Ok(told)) = timeout(DONE_TIMEOUT, done).await
        {
            worked = Some(told);
        }
        Ok((given.order, worked))
    }

    /// What a filter meets on all shards, one part after the other.
    pub(super) async fn preview(&self, filter: &Filter) -> Result<Preview, ErrorData> {
        let mut found = Preview::default();
        let query = |cursor| Query::Preview {
            filter: filter.clone(),
            cursor,
        };
        let around = &self.surroundings;
        let mut parts = around.answers(Asked::All, query(0)).await?;
        while let Some(part) = parts.pop() {
            let Answer::Preview {
                shard,
                found: more,
                next,
            } = part
            else {
                continue;
            };
            found.merge(&more);
            if let Some(cursor) = next {
                parts.extend(around.answers(Asked::One(shard), query(cursor)).await?);
            }
        }
        Ok(found)
    }

    pub(super) async fn orders(&self) -> Result<Reply, ErrorData> {
        let mut orders = Vec::new();
        for standing in self.surroundings.orders.list() {
            orders.push(self.state(standing).await?);
        }
        Ok(Reply::Orders(OrdersData { orders }))
    }

    /// How an order stands, with what it concerns now.
    async fn state(&self, standing: Standing) -> Result<OrderState, ErrorData> {
        let in_force = standing.order.verb.is_standing() && standing.over.is_none();
        let filter = standing.order.filter.clone();
        let mut state = state_of(standing);
        if in_force {
            let preview = self.preview(&filter).await?;
            state.messages = Some(preview.messages);
            state.unknown = Some(preview.unknown);
        }
        Ok(state)
    }

    pub(super) async fn undo(&self, target: &UndoTarget, by: &str) -> Result<Reply, ErrorData> {
        let known = self.surroundings.orders.list();
        let found = find(&known, target).map_err(refused)?;
        let mut data = UndoneData::default();
        for standing in &found {
            can_be_undone(standing).map_err(refused)?;
            data.orders.push(self.state(standing.clone()).await?);
        }
        let in_force = found.iter().filter(|it| it.over.is_none());
        let ids: Vec<u64> = in_force.map(|it| it.order.id).collect();
        if !ids.is_empty() {
            let taken = self.surroundings.orders.take_back(&ids, by);
            taken.map_err(refused)?;
        }
        if let [Standing { order, .. }] = &found[..]
            && order.verb == Verb::Delay
        {
            let wish = Wish {
                verb: Verb::Flush,
                filter: order.filter.clone(),
                to: None,
                until: None,
                reason: format!("takes back order {}", order.id),
                by: by.to_owned(),
            };
            let (order, so_far) = self.give(wish).await?;
            data.instead = Some(state_of(just_given(order, so_far)));
        }
        Ok(Reply::Undone(data))
    }
}

/// The orders that are meant.
fn find(known: &[Standing], target: &UndoTarget) -> Result<Vec<Standing>, Refused> {
    let in_force = |it: &&Standing| it.over.is_none();
    let of = |verb: Verb| {
        let all = known.iter().filter(in_force);
        all.filter(move |it| it.order.verb == verb)
    };
    let found: Vec<Standing> = match target {
        UndoTarget::Last => {
            let newest = known.iter().max_by_key(|it| it.order.id);
            newest.into_iter().cloned().collect()
        }
        UndoTarget::Id(id) => {
            let it = known.iter().filter(|it| it.order.id == *id);
            it.cloned().collect()
        }
        UndoTarget::Same { verb, filter } => {
            let same = of(*verb).filter(|it| it.order.filter == *filter);
            same.cloned().collect()
        }
        UndoTarget::All { verb } => of(*verb).cloned().collect(),
    };
    if !found.is_empty() {
        return Ok(found);
    }
    let others = match target {
        UndoTarget::Same { verb, .. } | UndoTarget::All { verb } => of(*verb)
            .map(|it| format!("{} ({})", it.order.id, it.order.what()))
            .collect(),
        _ => Vec::new(),
    };
    let what = match target {
        UndoTarget::Last => "there is no order to take back".to_owned(),
        UndoTarget::Id(id) => format!("there is no order {id}, or it has ended"),
        UndoTarget::Same { verb, filter } => {
            format!("no order to {verb} has exactly the filter \"{filter}\"")
        }
        UndoTarget::All { verb } => format!("there is no order to {verb}"),
    };
    Err(Refused::NotFound(match others.is_empty() {
        true => format!("{what}. See: pelton orders"),
        false => format!("{what}. In force: {}", others.join(", ")),
    }))
}

/// Names of bindings are case-sensitive.
pub(super) fn check_binding(name: &str, names: &[String]) -> Result<(), String> {
    if names.iter().any(|it| it == name) {
        return Ok(());
    }
    let near = near_miss(name, names.iter().map(String::as_str));
    let near = near.map(|near| format!("; did you mean \"{near}\"?"));
    Err(format!(
        "the running configuration has no binding \"{name}\", and no binding group of that name \
         with members{}",
        near.unwrap_or_default()
    ))
}

fn can_be_undone(standing: &Standing) -> Result<(), Refused> {
    let Standing {
        order,
        over,
        so_far,
    } = standing;
    // It may be through, and not all of it on disk.
    let through = so_far.as_ref().filter(|it| it.over);
    let changed = over.map(|it| it.changed).or(through.map(|it| it.changed));
    let Some(count) = changed else {
        return Ok(());
    };
    let id = order.id;
    let why = match order.verb {
        Verb::Fail => format!(
            "order {id} has failed {count} messages: their end has been told, and they cannot come \
             back"
        ),
        Verb::Flush => format!("order {id} has made {count} messages due: that is over"),
        Verb::Rebind => {
            let to = order.to.as_deref().unwrap_or_default();
            format!(
                "order {id} has given {count} messages to \"{to}\", and which bindings they had \
                 before is not kept. To move them again: pelton rebind FILTER --to BINDING"
            )
        }
        _ => return Ok(()),
    };
    Err(Refused::Failed(why))
}

/// An order as its answer tells it: what is told as over is on disk.
fn just_given(order: Order, so_far: Option<Worked>) -> Standing {
    let over = so_far.as_ref().filter(|it| it.over).map(|it| Over {
        changed: it.changed,
        queues: it.queues,
    });
    Standing {
        order,
        over,
        so_far,
    }
}

fn state_of(standing: Standing) -> OrderState {
    let Standing {
        order,
        over,
        so_far,
    } = standing;
    let state = match over {
        Some(_) => "over",
        None if order.verb.is_standing() => "in_force",
        None => "under_way",
    };
    let changed = over.map(|it| it.changed);
    OrderState {
        id: order.id,
        verb: order.verb.as_str().to_owned(),
        filter: order.filter.to_string(),
        to: order.to.clone(),
        state: state.to_owned(),
        given_at: order.given().rfc3339().to_string(),
        until: order.until().map(|it| it.rfc3339().to_string()),
        by: order.by,
        reason: order.reason,
        messages: None,
        changed: changed.or(so_far.as_ref().map(|it| it.changed)),
        in_flight: so_far.as_ref().map(|it| it.in_flight),
        unknown: so_far.as_ref().map(|it| it.unknown),
        held: so_far.as_ref().map(|it| it.held),
    }
}

fn refused(refused: Refused) -> ErrorData {
    let (code, fault, message) = match refused {
        Refused::Usage(message) => ("E400", Fault::Usage, message),
        Refused::NotFound(message) => ("E420", Fault::NotFound, message),
        Refused::Failed(message) => ("E421", Fault::Failed, message),
    };
    ErrorData {
        code: code.into(),
        fault,
        message,
    }
}
