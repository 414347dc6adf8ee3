//! The header fields by which an injector names the class, tenant and campaign of a message: found
//! while the header section comes in, and taken out again if that is wanted.

use std::rc::Rc;

/// Which fields are looked for, in the order class, tenant, campaign.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FlowFields {
    /// An empty name is not looked for.
    pub names: [Box<str>; 3],
    /// The message goes on without this field.
    pub removed: [bool; 3],
}

impl FlowFields {
    /// Nothing is looked for.
    pub fn is_idle(&self) -> bool {
        self.names.iter().all(|name| name.is_empty())
    }
}

/// A field that one of the names belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowField {
    pub index: usize,
    /// One before it counts.
    pub is_repeated: bool,
}

/// What has been found in one message.
#[derive(Debug)]
pub struct FlowReader {
    fields: Rc<FlowFields>,
    found: [bool; 3],
    pub values: [Vec<u8>; 3],
    /// Where lines to be taken out stand in the body, in order, each with its end.
    cuts: Vec<(usize, usize)>,
}

impl FlowReader {
    pub fn new(fields: Rc<FlowFields>) -> FlowReader {
        FlowReader {
            fields,
            found: [false; 3],
            values: [const { Vec::new() }; 3],
            cuts: Vec::new(),
        }
    }

    /// A field of this name begins.
    pub fn begin(&mut self, name: &[u8]) -> Option<FlowField> {
        let mut names = self.fields.names.iter();
        let index = names.position(|it| name.eq_ignore_ascii_case(it.as_bytes()))?;
        let is_repeated = core::mem::replace(&mut self.found[index], true);
        Some(FlowField { index, is_repeated })
    }

    /// A line of such a field stands there in the body.
    pub fn note(&mut self, field: FlowField, at: usize, bytes: usize) {
        if !self.fields.removed[field.index] {
            return;
        }
        match self.cuts.last_mut() {
            Some((_, end)) if *end == at => *end += bytes,
            _ => self.cuts.push((at, at + bytes)),
        }
    }

    /// Takes out of the body what is not to go on, in one pass.
    pub fn cut(&self, body: &mut Vec<u8>) {
        let Some((first, _)) = self.cuts.first() else {
            return;
        };
        let mut to = *first;
        for (index, (_, end)) in self.cuts.iter().enumerate() {
            let next = self.cuts.get(index + 1).map_or(body.len(), |(at, _)| *at);
            body.copy_within(*end..next, to);
            to += next - end;
        }
        body.truncate(to);
    }
}
