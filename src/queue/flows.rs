//! The flows that messages here belong to, each kept once and as long as a message has it. What has
//! none has the number zero, and costs nothing here.

use std::sync::Arc;

use crate::base::map::Map;
use crate::queue::pool::Pool;
use crate::types::flow::CLASS_DEFAULT;
use crate::types::flow::Flow;

/// Names a flow on this shard, in three bytes: a message has no room for more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowId([u8; 3]);

/// Flows beside the default one. Messages of further ones wait as if they had none.
const FLOWS_MAX: u32 = (1 << 24) - 1;

impl FlowId {
    /// No tenant, no campaign, and the default class.
    pub const DEFAULT: FlowId = FlowId([0; 3]);

    fn of(slot: u32) -> FlowId {
        let [a, b, c, _] = (slot + 1).to_le_bytes();
        FlowId([a, b, c])
    }

    /// The flow of a number that [`Self::number`] has given.
    pub fn numbered(number: u32) -> FlowId {
        let [a, b, c, _] = number.to_le_bytes();
        FlowId([a, b, c])
    }

    /// As one number, which is zero for the default flow.
    pub fn number(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_le_bytes([a, b, c, 0])
    }

    fn slot(self) -> Option<u32> {
        self.number().checked_sub(1)
    }
}

/// Where a flow has its turns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowPlace {
    pub flow: FlowId,
    /// Of its class; zero is the first.
    pub rank: u8,
    /// Number of its tenant; zero is none.
    pub tenant: u32,
}

struct Slot {
    flow: Arc<Flow>,
    /// Batches of messages, which keep it here, and the messages in them.
    messages: u32,
    entries: u32,
    rank: u8,
    tenant: u32,
}

struct Tenant {
    name: Box<str>,
    flows: u32,
}

pub struct FlowTable {
    slots: Pool<Slot>,
    by_name: Map<Arc<Flow>, u32>,
    tenants: Pool<Tenant>,
    tenants_by_name: Map<Box<str>, u32>,
    /// Names of the priority classes in their order.
    classes: Vec<String>,
    /// Rank of the default class.
    rank_default: u8,
    /// Messages of all flows but the default one.
    entries: u64,
    /// The one that was last entered: what comes in a row is mostly of one flow.
    last: Option<(Arc<Flow>, u32)>,
}

impl Default for FlowTable {
    fn default() -> FlowTable {
        FlowTable {
            slots: Pool::default(),
            by_name: Map::default(),
            tenants: Pool::default(),
            tenants_by_name: Map::default(),
            classes: vec![CLASS_DEFAULT.to_string()],
            rank_default: 0,
            entries: 0,
            last: None,
        }
    }
}

impl FlowTable {
    /// These classes count from now on. False if that changes nothing.
    pub fn set_classes(&mut self, classes: Vec<String>) -> bool {
        if self.classes == classes {
            return false;
        }
        self.classes = classes;
        self.rank_default = self.rank_named(CLASS_DEFAULT).unwrap_or(0);
        for slot in 0..self.slots.slots() {
            let Some(class) = self.slots.get(slot).map(|it| it.flow.clone()) else {
                continue;
            };
            let rank = self.rank_named(class.names().class);
            self.slots[slot].rank = rank.unwrap_or(self.rank_default);
        }
        true
    }

    pub fn is_empty(&self) -> bool {
        self.slots.len() == 0
    }

    /// The priority classes in their order.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    fn rank_named(&self, class: &str) -> Option<u8> {
        let found = self.classes.iter().position(|it| it == class)?;
        Some(found as u8)
    }

    pub fn place(&self, flow: FlowId) -> FlowPlace {
        let slot = flow.slot().map(|slot| &self.slots[slot]);
        FlowPlace {
            flow,
            rank: slot.map_or(self.rank_default, |it| it.rank),
            tenant: slot.map_or(0, |it| it.tenant),
        }
    }

    /// One more message of a flow.
    pub fn enter(&mut self, flow: Option<Arc<Flow>>) -> FlowId {
        let Some(flow) = flow else {
            return FlowId::DEFAULT;
        };
        let slot = match &self.last {
            Some((last, slot)) if Arc::ptr_eq(last, &flow) => *slot,
            _ => match self.by_name.get(&flow) {
                Some(slot) => *slot,
                None if self.slots.len() >= FLOWS_MAX as usize => return FlowId::DEFAULT,
                None => self.add(&flow),
            },
        };
        self.slots[slot].messages += 1;
        self.last = Some((flow, slot));
        FlowId::of(slot)
    }

    fn add(&mut self, flow: &Arc<Flow>) -> u32 {
        let names = flow.names();
        let made = Slot {
            flow: flow.clone(),
            messages: 0,
            entries: 0,
            rank: self.rank_named(names.class).unwrap_or(self.rank_default),
            tenant: self.enter_tenant(names.tenant),
        };
        let slot = self.slots.insert(made).index;
        self.by_name.insert(flow.clone(), slot);
        slot
    }

    /// One more flow of a tenant.
    fn enter_tenant(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let slot = match self.tenants_by_name.get(name) {
            Some(slot) => *slot,
            None => {
                let made = Tenant {
                    name: name.into(),
                    flows: 0,
                };
                let slot = self.tenants.insert(made).index;
                self.tenants_by_name.insert(name.into(), slot);
                slot
            }
        };
        self.tenants[slot].flows += 1;
        slot + 1
    }

    fn leave_tenant(&mut self, number: u32) {
        let Some(slot) = number.checked_sub(1) else {
            return;
        };
        self.tenants[slot].flows -= 1;
        if self.tenants[slot].flows == 0 {
            let name = self.tenants.remove(slot).name;
            self.tenants_by_name.swap_remove(&name);
        }
    }

    /// One message less. A flow goes with its last one.
    pub fn leave(&mut self, id: FlowId) {
        let Some(slot) = id.slot() else {
            return;
        };
        self.slots[slot].messages -= 1;
        if self.slots[slot].messages == 0 {
            let Slot { flow, tenant, .. } = self.slots.remove(slot);
            self.by_name.swap_remove(&flow);
            self.leave_tenant(tenant);
            self.last = None;
        }
    }

    /// A recipient of a message of a flow has come.
    pub fn count(&mut self, id: FlowId) {
        if let Some(slot) = id.slot() {
            self.slots[slot].entries += 1;
            self.entries += 1;
        }
    }

    /// It has come to its end. To be told before the message leaves.
    pub fn discount(&mut self, id: FlowId) {
        if let Some(slot) = id.slot() {
            self.slots[slot].entries -= 1;
            self.entries -= 1;
        }
    }

    /// Recipients of all flows but the default one.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// How many recipients each flow has, of so many slots from `cursor` on, and where to go on.
    pub fn counts(&self, cursor: u32, slots: u32) -> (Vec<(&Arc<Flow>, u64)>, Option<u32>) {
        let end = self.slots.slots().min(cursor.saturating_add(slots));
        let in_use = (cursor..end).filter_map(|slot| self.slots.get(slot));
        let counts = in_use.map(|it| (&it.flow, u64::from(it.entries)));
        let next = (end < self.slots.slots()).then_some(end);
        (counts.collect(), next)
    }

    pub fn get(&self, id: FlowId) -> Option<&Arc<Flow>> {
        id.slot().map(|slot| &self.slots[slot].flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::flow::FlowNames;

    #[test]
    fn recipients_are_counted_by_flow_a_part_at_a_time() {
        let flow = |tenant: &str| {
            let (class, campaign) = ("", "");
            FlowNames {
                class,
                tenant,
                campaign,
            }
            .flow()
        };
        let mut table = FlowTable::default();
        for (tenant, recipients) in [("", 4), ("acme", 3), ("zeta", 2), ("acme", 1)] {
            let id = table.enter(flow(tenant));
            (0..recipients).for_each(|_| table.count(id));
        }
        let told = |part: Vec<(&Arc<Flow>, u64)>| -> Vec<(String, u64)> {
            let named = |(flow, count): (&Arc<Flow>, u64)| (flow.names().tenant.to_owned(), count);
            part.into_iter().map(named).collect()
        };
        let (first, next) = table.counts(0, 1);
        assert_eq!((told(first), next), (vec![("acme".to_owned(), 4)], Some(1)));
        let (second, next) = table.counts(1, 1);
        assert_eq!((told(second), next), (vec![("zeta".to_owned(), 2)], None));
        assert_eq!(table.entries(), 6);
        let zeta = table.enter(flow("zeta"));
        table.discount(zeta);
        assert_eq!(table.entries(), 5);
    }

    #[test]
    fn ranks_follow_the_classes_and_unknown_ones_are_the_default() {
        let flow = |class: &str, tenant: &str| {
            let names = FlowNames {
                class,
                tenant,
                campaign: "",
            };
            names.flow()
        };
        let mut table = FlowTable::default();
        let first = table.enter(flow("transactional", ""));
        let odd = table.enter(flow("odd", "acme"));
        let bulk = table.enter(flow("bulk", "acme"));
        let places = |table: &FlowTable| {
            let all = [first, odd, bulk, FlowId::DEFAULT];
            all.map(|it| (table.place(it).rank, table.place(it).tenant))
        };
        assert_eq!(places(&table), [(0, 0), (0, 1), (0, 1), (0, 0)]);
        table.set_classes(["transactional", "bulk"].map(str::to_string).to_vec());
        assert_eq!(places(&table), [(0, 0), (1, 1), (1, 1), (1, 0)]);
        table.set_classes(["odd", "x", "bulk"].map(str::to_string).to_vec());
        assert_eq!(places(&table), [(2, 0), (0, 1), (2, 1), (2, 0)]);
    }

    #[test]
    fn a_flow_is_kept_once_and_goes_with_its_last_message() {
        let flow = |tenant: &str| {
            let names = FlowNames {
                tenant,
                ..FlowNames::default()
            };
            names.flow()
        };
        let mut table = FlowTable::default();
        assert_eq!(table.enter(None), FlowId::DEFAULT);
        let (a, b) = (table.enter(flow("a")), table.enter(flow("b")));
        assert_ne!(a, b);
        assert_eq!(table.enter(flow("a")), a, "by its names");
        assert_eq!(table.get(a), flow("a").as_ref());
        table.leave(a);
        assert_eq!(table.get(a), flow("a").as_ref());
        table.leave(a);
        let c = table.enter(flow("c"));
        assert_eq!(
            (c, table.get(c)),
            (a, flow("c").as_ref()),
            "its place is used"
        );
        table.leave(b);
        table.leave(c);
        table.leave(FlowId::DEFAULT);
        assert_eq!((table.slots.len(), table.by_name.len()), (0, 0));
        assert_eq!((table.tenants.len(), table.tenants_by_name.len()), (0, 0));
        assert_eq!(table.get(FlowId::DEFAULT), None);
    }
}
