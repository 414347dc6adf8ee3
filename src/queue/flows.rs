//! The flows that messages here belong to, each kept once and as long as a message has it. What has
//! none has the number zero, and costs nothing here.

use std::sync::Arc;

use crate::base::map::Map;
use crate::queue::pool::Pool;
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

    /// As one number, which is zero for the default flow.
    pub fn number(self) -> u32 {
        let [a, b, c] = self.0;
        u32::from_le_bytes([a, b, c, 0])
    }

    fn slot(self) -> Option<u32> {
        self.number().checked_sub(1)
    }
}

struct Slot {
    flow: Arc<Flow>,
    messages: u32,
}

#[derive(Default)]
pub struct FlowTable {
    slots: Pool<Slot>,
    by_name: Map<Arc<Flow>, u32>,
    /// The one that was last entered: what comes in a row is mostly of one flow.
    last: Option<(Arc<Flow>, u32)>,
}

impl FlowTable {
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
        let made = Slot {
            flow: flow.clone(),
            messages: 0,
        };
        let slot = self.slots.insert(made).index;
        self.by_name.insert(flow.clone(), slot);
        slot
    }

    /// One message less. A flow goes with its last one.
    pub fn leave(&mut self, id: FlowId) {
        let Some(slot) = id.slot() else {
            return;
        };
        self.slots[slot].messages -= 1;
        if self.slots[slot].messages == 0 {
            let flow = self.slots.remove(slot).flow;
            self.by_name.swap_remove(&flow);
            self.last = None;
        }
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
        assert_eq!(table.get(FlowId::DEFAULT), None);
    }
}
