//! The rules of a generation, compiled once, and the adaptive settings of one pair.

use std::sync::Arc;

use super::adaptive;
use super::adaptive::AdaptiveSettings;
use super::adaptive::Managed;
use super::adaptive::Percent;
use super::adaptive::Range;
use super::adaptive::ResponseRule;
use super::adaptive::Stages;
use super::adaptive::SweepRule;
use super::adaptive::Trigger;
use super::build;
use super::options;
use super::resolve::Reader;
use super::source::SourceFile;
use super::source::Sources;
use super::spec::Preset;
use super::spec::ScopeKind;
use super::tree::GLOBAL;
use super::tree::ScopeId;
use super::tree::Tree;
use super::value;
use super::value::Value;

/// The rules that come with Pelton, as a file that people can read.
const BUILT_IN: &str = include_str!("../../config/adaptive.conf");

/// The rules of one generation. Empty where nothing adapts.
#[derive(Debug, Default)]
pub struct RuleBook {
    own: Vec<(ScopeId, Arc<ResponseRule>)>,
    sweeps: Vec<(ScopeId, Arc<SweepRule>)>,
    built_in: Arc<[Arc<ResponseRule>]>,
}

impl RuleBook {
    pub fn of(sources: &Sources, tree: &Tree) -> RuleBook {
        let enabled = options::find("adaptive_enabled");
        let mut set = enabled.into_iter().flat_map(|id| tree.settings_of(id));
        if !set.any(|it| it.value == Value::Bool(true)) {
            return RuleBook::default();
        }
        let mut book = RuleBook {
            built_in: built_in().into(),
            ..RuleBook::default()
        };
        for (id, scope) in tree.all() {
            let Some(parent) = scope.parent else {
                continue;
            };
            match scope.kind {
                ScopeKind::AdaptiveRule => {
                    let rule = response_rule(sources, tree, id).map(Arc::new);
                    book.own.extend(rule.map(|rule| (parent, rule)));
                }
                ScopeKind::AdaptiveSweepRule => {
                    let rule = sweep_rule(tree, id).map(Arc::new);
                    book.sweeps.extend(rule.map(|rule| (parent, rule)));
                }
                _ => {}
            }
        }
        book
    }

    /// The rules of a chain: those of the most specific scope first, then those built in.
    fn rules(&self, chain: &[ScopeId], with_built_in: bool) -> Arc<[Arc<ResponseRule>]> {
        let own = in_chain(&self.own, chain);
        match (own.is_empty(), with_built_in) {
            (true, true) => self.built_in.clone(),
            (_, true) => own
                .into_iter()
                .chain(self.built_in.iter().cloned())
                .collect(),
            (_, false) => own.into(),
        }
    }
}

fn in_chain<T>(all: &[(ScopeId, Arc<T>)], chain: &[ScopeId]) -> Vec<Arc<T>> {
    if all.is_empty() {
        return Vec::new();
    }
    let of = |scope: &ScopeId| {
        let scope = *scope;
        all.iter().filter(move |(at, _)| *at == scope)
    };
    chain
        .iter()
        .flat_map(of)
        .map(|(_, it)| it.clone())
        .collect()
}

/// The rules that come with Pelton. A test checks that their file has no errors.
fn built_in() -> Vec<Arc<ResponseRule>> {
    let file = SourceFile {
        name: "built-in adaptive.conf".to_string(),
        text: BUILT_IN.to_string(),
    };
    let built = build::build(file, &mut |_| Err("it includes nothing".to_string()));
    let (sources, tree) = (&built.sources, &built.tree);
    let children = tree.scope(GLOBAL).children.iter();
    let rules = children.filter_map(|id| response_rule(sources, tree, *id));
    rules.map(Arc::new).collect()
}

fn read<'a>(tree: &'a Tree, scope: ScopeId, option: &str) -> Option<&'a Value> {
    let id = options::find(option)?;
    tree.setting(scope, id).map(|it| &it.value)
}

/// What a rule says, else the preset of the table.
fn adaptive_value(tree: &Tree, scope: ScopeId, option: &str) -> Option<adaptive::Value> {
    if let Some(Value::Adaptive(value)) = read(tree, scope, option) {
        return Some(value.clone());
    }
    let spec = options::spec(options::find(option)?);
    let Preset::Text(text) = spec.preset else {
        return None;
    };
    match value::parse_preset(&spec.kind, text) {
        Ok(Value::Adaptive(value)) => Some(value),
        _ => None,
    }
}

/// Nothing if it says neither what it looks for nor what it does, which the checks report.
fn response_rule(sources: &Sources, tree: &Tree, id: ScopeId) -> Option<ResponseRule> {
    let scope = tree.scope(id);
    let domains = |option| match read(tree, id, option) {
        Some(Value::Domains(set)) => Some(set.clone()),
        _ => None,
    };
    let place = sources.place(scope.span);
    Some(ResponseRule {
        name: scope.name.clone().unwrap_or_default(),
        place: format!("{}:{}", place.file, place.line),
        domains: domains("domains"),
        hosts: domains("hosts"),
        patterns: match adaptive_value(tree, id, "code")? {
            adaptive::Value::Patterns(patterns) => patterns,
            _ => return None,
        },
        trigger: match adaptive_value(tree, id, "trigger")? {
            adaptive::Value::Trigger(trigger) => trigger,
            _ => Trigger {
                matches: 1,
                within: None,
            },
        },
        stages: match adaptive_value(tree, id, "phase")? {
            adaptive::Value::Stages(stages) => stages,
            _ => Stages::ALL,
        },
        actions: actions(tree, id, "action")?,
        message: match adaptive_value(tree, id, "message") {
            Some(adaptive::Value::Text(text)) => Some(text),
            _ => None,
        },
    })
}

fn actions(tree: &Tree, id: ScopeId, option: &str) -> Option<Arc<[adaptive::Action]>> {
    match adaptive_value(tree, id, option)? {
        adaptive::Value::Actions(actions) => Some(actions),
        _ => None,
    }
}

fn sweep_rule(tree: &Tree, id: ScopeId) -> Option<SweepRule> {
    let threshold = |option| match adaptive_value(tree, id, option) {
        Some(adaptive::Value::Percent(percent)) => Some(percent),
        _ => None,
    };
    Some(SweepRule {
        name: tree.scope(id).name.clone().unwrap_or_default(),
        codes: match adaptive_value(tree, id, "codes")? {
            adaptive::Value::Codes(codes) => codes,
            _ => return None,
        },
        low_threshold: threshold("low_threshold")?,
        low_action: actions(tree, id, "low_action")?,
        high_threshold: threshold("high_threshold")?,
        high_action: actions(tree, id, "high_action")?,
    })
}

/// What Momentum does about complaints where no rule is about them: a rate of 0.3 % is what the
/// large receivers call too much.
fn complaint_rule() -> SweepRule {
    SweepRule {
        name: "complaints".to_string(),
        codes: [adaptive::Code::Complaint("abuse".to_string())].into(),
        low_threshold: Percent(200),
        low_action: [adaptive::Action::ThrottleDown].into(),
        high_threshold: Percent(500),
        high_action: [adaptive::Action::Suspend(FOUR_HOURS)].into(),
    }
}

const FOUR_HOURS: core::time::Duration = core::time::Duration::from_secs(4 * 3_600);

/// Options that a stanza must set to be a rule, by its kind.
pub fn owed(kind: ScopeKind) -> &'static [&'static str] {
    match kind {
        ScopeKind::AdaptiveRule => &["code", "action"],
        ScopeKind::AdaptiveSweepRule => &["codes"],
        _ => &[],
    }
}

/// Settings of a pair whose delivery adapts.
pub fn settings(it: &Reader<'_>) -> Option<Arc<AdaptiveSettings>> {
    if !it.bool("adaptive_enabled") {
        return None;
    }
    let book = it.config.rule_book();
    let sweeps = match it.bool("adaptive_sweep_rule_enabled") {
        true => {
            let mut sweeps = in_chain(&book.sweeps, &it.chain);
            if !sweeps.iter().any(|it| it.complaints().next().is_some()) {
                sweeps.push(Arc::new(complaint_rule()));
            }
            sweeps.into()
        }
        false => Arc::default(),
    };
    Some(Arc::new(AdaptiveSettings {
        adjustment_interval: it.duration("adaptive_adjustment_interval"),
        positive_adjustment_interval: it.duration("adaptive_positive_adjustment_interval"),
        attempt_threshold: it.count("adaptive_attempt_threshold"),
        fbl_volume_threshold: it.count("adaptive_fbl_volume_threshold"),
        default_suspension: it.duration("adaptive_default_suspension"),
        default_suspension_enabled: it.bool("adaptive_default_suspension_enabled"),
        rejection_rate: percent(it, "adaptive_rejection_rate_suspension_percentage"),
        notification_interval: it.duration("adaptive_notification_interval"),
        outbound_throttle_messages: match it.get("adaptive_outbound_throttle_messages") {
            Some(Value::Adaptive(adaptive::Value::Rates(range))) => *range,
            other => unreachable!("it is a range with a preset, not {other:?}"),
        },
        max_outbound_connections: counts(it, "adaptive_max_outbound_connections"),
        max_deliveries_per_connection: counts(it, "adaptive_max_deliveries_per_connection"),
        retry_interval: durations(it, "adaptive_retry_interval"),
        max_retry_interval: durations(it, "adaptive_max_retry_interval"),
        managed: {
            let left = managed(it, "adaptive_unmanage_options");
            Managed::ALL.without(left.without(managed(it, "adaptive_manage_options")))
        },
        rules: book.rules(&it.chain, it.word("adaptive_rules") != Some("replace")),
        sweep_rules: sweeps,
    }))
}

fn percent(it: &Reader<'_>, option: &str) -> Percent {
    match it.get(option) {
        Some(Value::Adaptive(adaptive::Value::Percent(percent))) => *percent,
        other => unreachable!("{option} is a percentage with a preset, not {other:?}"),
    }
}

fn managed(it: &Reader<'_>, option: &str) -> Managed {
    match it.get(option) {
        Some(Value::Adaptive(adaptive::Value::Managed(set))) => *set,
        _ => Managed::NONE,
    }
}

fn counts(it: &Reader<'_>, option: &str) -> Range<u32> {
    match it.get(option) {
        Some(Value::Adaptive(adaptive::Value::Counts(range))) => *range,
        other => unreachable!("{option} is a range with a preset, not {other:?}"),
    }
}

fn durations(it: &Reader<'_>, option: &str) -> Range<core::time::Duration> {
    match it.get(option) {
        Some(Value::Adaptive(adaptive::Value::Durations(range))) => *range,
        other => unreachable!("{option} is a range with a preset, not {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::outcome::Stage;

    #[test]
    fn the_file_of_built_in_rules_has_no_errors_and_only_whole_rules() {
        let file = SourceFile {
            name: "adaptive.conf".to_string(),
            text: BUILT_IN.to_string(),
        };
        let built = build::build(file, &mut |_| Err(String::new()));
        let errors = built.findings.into_sorted(&built.sources);
        assert!(errors.is_empty(), "{errors:?}");
        let stanzas = built.tree.scope(GLOBAL).children.len();
        assert_eq!(built_in().len(), stanzas);
    }

    #[test]
    fn replies_of_the_large_receivers_meet_the_rule_that_is_meant() {
        let rules = built_in();
        let cases = "\
gmail.com|421 4.7.28 unusual rate of unsolicited mail|google: rate
gmail.com|450 4.2.1 receiving mail at a rate that prevents|google: the mailbox
gmail.com|550 5.7.1 very low reputation of the sending IP|google: reputation of this
gmail.com|550 5.7.1 very low reputation of the sending domain|google: reputation of the
icloud.com|554 5.7.1 [HM08] Message rejected due to local policy|icloud: reputation
icloud.com|550 5.7.1 [CS01] Message rejected due to local policy|icloud: local
yahoo.co.uk|421 4.7.0 [TSS04] Messages temporarily deferred|yahoo: deferred for
yahoo.com|553 5.7.1 [BL21] Connections will not be accepted|yahoo: block
hotmail.com|421 RP-001 (BAY004) Unfortunately, some messages|microsoft: rate
outlook.com|550 5.7.1 on our block list (S3150)|microsoft: block
comcast.net|421 Too many sessions opened|comcast: too many
comcast.net|421 4.1.0 throttled RL000003|comcast: rate
qq.com|550 Ip frequency limited|qq: frequency
163.com|421 HL:ICC 163 smtp4|163: too many connections
a.example|450 4.2.0 Greylisted, see http://x|greylisting
a.example|421 4.7.0 Too many connections from your IP|too many connections
a.example|421 4.7.0 Too many messages on this connection|too many on one
a.example|451 4.7.1 Rate limit exceeded, slow down|rate limited
a.example|554 5.7.1 blocked using zen.spamhaus.org|on a block list
a.example|421 closing|goes away
a.example|550 5.1.1 user unknown|none
a.example|452 4.2.2 mailbox full|none
a.example|451 4.3.0 try again later|none
a.example|550 5.7.1 message looks like spam|none";
        for line in cases.lines() {
            let mut parts = line.split('|');
            let mut next = || parts.next().expect("three parts");
            let (domain, reply, expected) = (next(), next(), next());
            let stage = Stage::MailFrom;
            let found = rules.iter().find(|it| {
                it.concerns(domain, None) && it.stages.contains(stage) && it.matches(reply)
            });
            let name = found.map_or("none", |it| it.name.as_str());
            assert!(name.starts_with(expected), "{reply}: {name}");
        }
    }
}
