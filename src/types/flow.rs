//! On whose behalf a message goes: its class, its tenant and its campaign. Most messages have no
//! more to say than the default, and for those there is nothing to keep: `None` wherever a flow
//! may stand means [`CLASS_DEFAULT`], no tenant and no campaign.

use core::fmt;
use std::sync::Arc;

use crate::base::map::Equivalent;
use crate::base::map::Set;

/// Bytes of the name of a class, tenant or campaign; what is longer is cut at a character.
pub const FLOW_NAME_BYTES_MAX: usize = 64;

/// The class of mail that somebody waits for.
pub const CLASS_TRANSACTIONAL: &str = "transactional";

/// The class of mail of which nothing else is known.
pub const CLASS_DEFAULT: &str = "bulk";

/// Flows that one [`Flows`] remembers; beyond it they are forgotten, and shared anew.
pub const FLOWS_KNOWN_MAX: usize = 65_536;

/// Class, tenant and campaign, of which at least one is not the default.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Flow {
    class: Box<str>,
    /// Empty if there is none.
    tenant: Box<str>,
    campaign: Box<str>,
}

/// The three names as they are written; empty ones are none.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct FlowNames<'a> {
    pub class: &'a str,
    pub tenant: &'a str,
    pub campaign: &'a str,
}

impl FlowNames<'_> {
    /// The flow of these names; nothing if it is the default one.
    pub fn flow(self) -> Option<Arc<Flow>> {
        let names = [self.class, self.tenant, self.campaign].map(clean);
        let [class, tenant, campaign] = names.each_ref().map(|it| it.as_ref());
        let class = if class.is_empty() {
            CLASS_DEFAULT
        } else {
            class
        };
        let said = class != CLASS_DEFAULT || !tenant.is_empty() || !campaign.is_empty();
        said.then(|| {
            Arc::new(Flow {
                class: class.into(),
                tenant: tenant.into(),
                campaign: campaign.into(),
            })
        })
    }
}

/// What there is to say in few words: `transactional acme/spring`. Nothing for the default flow.
impl fmt::Display for FlowNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let class = match self.class {
            CLASS_DEFAULT => "",
            class => class,
        };
        f.write_str(class)?;
        if self.tenant.is_empty() && self.campaign.is_empty() {
            return Ok(());
        }
        let blank = if class.is_empty() { "" } else { " " };
        let nobody = if self.tenant.is_empty() { "-" } else { "" };
        write!(f, "{blank}{nobody}{}", self.tenant)?;
        match self.campaign {
            "" => Ok(()),
            campaign => write!(f, "/{campaign}"),
        }
    }
}

/// Without blanks around it, control characters as blanks, and cut.
fn clean(name: &str) -> std::borrow::Cow<'_, str> {
    let name = name.trim();
    let cut = name[..name.floor_char_boundary(FLOW_NAME_BYTES_MAX)].trim_end();
    match cut.contains(char::is_control) {
        false => cut.into(),
        true => cut.replace(char::is_control, " ").into(),
    }
}

impl Flow {
    pub fn names(&self) -> FlowNames<'_> {
        FlowNames {
            class: &self.class,
            tenant: &self.tenant,
            campaign: &self.campaign,
        }
    }
}

/// The class of a message.
pub fn class_of(flow: Option<&Arc<Flow>>) -> &str {
    flow.map_or(CLASS_DEFAULT, |it| &it.class)
}

/// The tenant of a message, if it has one.
pub fn tenant_of(flow: Option<&Arc<Flow>>) -> Option<&str> {
    flow.map(|it| &*it.tenant).filter(|it| !it.is_empty())
}

/// The campaign of a message, if it has one.
pub fn campaign_of(flow: Option<&Arc<Flow>>) -> Option<&str> {
    flow.map(|it| &*it.campaign).filter(|it| !it.is_empty())
}

/// Flows by their names, so that equal ones share their memory.
#[derive(Debug, Default)]
pub struct Flows {
    known: Set<Arc<Flow>>,
}

impl Equivalent<Arc<Flow>> for FlowNames<'_> {
    fn equivalent(&self, flow: &Arc<Flow>) -> bool {
        flow.names() == *self
    }
}

impl Flows {
    /// The flow of these names; nothing if it is the default one. Allocates for new ones only.
    pub fn get(&mut self, names: FlowNames<'_>) -> Option<Arc<Flow>> {
        if let Some(known) = self.known.get(&names) {
            return Some(known.clone());
        }
        let flow = names.flow()?;
        if let Some(known) = self.known.get(&flow) {
            return Some(known.clone());
        }
        if self.known.len() >= FLOWS_KNOWN_MAX {
            self.known.clear();
        }
        self.known.insert(flow.clone());
        Some(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<'a>(class: &'a str, tenant: &'a str, campaign: &'a str) -> FlowNames<'a> {
        FlowNames {
            class,
            tenant,
            campaign,
        }
    }

    #[test]
    fn what_says_nothing_is_nothing_and_what_is_told_is_clean_and_short() {
        for said in [names("", "", ""), names("bulk", " ", "\r\n")] {
            assert_eq!(said.flow(), None);
        }
        let long = "\u{e4}".repeat(40);
        let cases = [
            (names("", "acme", ""), ("bulk", Some("acme"), None)),
            (
                names("transactional", "", ""),
                ("transactional", None, None),
            ),
            (
                names("bulk", "a\tb\u{85}c ", "x"),
                ("bulk", Some("a b c"), Some("x")),
            ),
            (names("", "", &long), ("bulk", None, Some(&long[..64]))),
        ];
        for (said, expected) in cases {
            let flow = said.flow();
            let flow = flow.as_ref();
            assert_eq!(
                (class_of(flow), tenant_of(flow), campaign_of(flow)),
                expected
            );
            let again = flow.and_then(|it| it.names().flow());
            assert_eq!(again.as_ref(), flow, "what is kept is kept so");
        }
        let texts = [
            (names("", "", ""), ""),
            (names("transactional", "", ""), "transactional"),
            (names("bulk", "acme", ""), "acme"),
            (names("news", "acme", "spring"), "news acme/spring"),
            (names("bulk", "", "spring"), "-/spring"),
        ];
        for (said, text) in texts {
            assert_eq!(said.to_string(), text);
        }
        assert_eq!(class_of(None), CLASS_DEFAULT);
        assert_eq!((tenant_of(None), campaign_of(None)), (None, None));
    }

    #[test]
    fn equal_flows_are_one() {
        let mut flows = Flows::default();
        let one = flows.get(names("", " acme ", "")).expect("a flow");
        let same = flows.get(names("bulk", "acme", "")).expect("a flow");
        assert!(Arc::ptr_eq(&one, &same));
        assert_eq!(flows.get(FlowNames::default()), None);
        for number in 0..FLOWS_KNOWN_MAX + 10 {
            flows.get(names("", &number.to_string(), ""));
        }
        assert!(flows.known.len() <= FLOWS_KNOWN_MAX);
    }
}
