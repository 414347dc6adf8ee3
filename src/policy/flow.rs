//! The class, tenant and campaign of a message that comes in: what its header says, if its peer is
//! one whose word counts, otherwise what the scope of the peer says.

use std::sync::Arc;

use crate::types::flow::Flow;
use crate::types::flow::FlowNames;
use crate::types::flow::Flows;

/// Of one listener or peer scope.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// `class`, `tenant`, `campaign`; empty ones are none.
    pub defaults: [String; 3],
    /// Names of the priority classes, lower case.
    pub classes: Arc<[String]>,
}

/// The flow of a message whose header has these `values`. One that names a class which nobody has
/// defined gets that of the scope: a slip must neither be refused nor make a queue of its own.
pub fn flow(settings: &Settings, values: &[Box<str>; 3], flows: &mut Flows) -> Option<Arc<Flow>> {
    let [class, tenant, campaign] = &settings.defaults;
    let [said_class, said_tenant, said_campaign] = values.each_ref().map(|it| it.trim());
    let is_it = |known: &&String| known.eq_ignore_ascii_case(said_class);
    flows.get(FlowNames {
        class: settings.classes.iter().find(is_it).unwrap_or(class),
        tenant: first(said_tenant, tenant),
        campaign: first(said_campaign, campaign),
    })
}

/// What is said, else the default.
fn first<'a>(said: &'a str, default: &'a str) -> &'a str {
    if said.is_empty() { default } else { said }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::flow::{campaign_of, class_of, tenant_of};

    #[test]
    fn the_header_goes_before_the_scope_and_no_class_is_made_up() {
        let settings = |defaults: [&str; 3]| Settings {
            defaults: defaults.map(str::to_string),
            classes: ["transactional", "news", "bulk"].map(str::to_string).into(),
        };
        let plain = settings(["bulk", "", ""]);
        let of_peer = settings(["news", "acme", "spring"]);
        let cases = [
            (&plain, ["", "", ""], ("bulk", None, None)),
            (&plain, ["News", "", "x"], ("news", None, Some("x"))),
            (&plain, ["newz", "t", ""], ("bulk", Some("t"), None)),
            (
                &of_peer,
                ["", "", ""],
                ("news", Some("acme"), Some("spring")),
            ),
            (
                &of_peer,
                ["newz", " ", "x"],
                ("news", Some("acme"), Some("x")),
            ),
            (
                &of_peer,
                [" TRANSACTIONAL ", "b", ""],
                ("transactional", Some("b"), Some("spring")),
            ),
        ];
        let mut flows = Flows::default();
        for (settings, values, expected) in cases {
            let flow = flow(settings, &values.map(Into::into), &mut flows);
            let flow = flow.as_ref();
            let found = (class_of(flow), tenant_of(flow), campaign_of(flow));
            assert_eq!(found, expected, "{values:?}");
        }
    }
}
