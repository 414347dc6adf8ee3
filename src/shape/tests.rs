//! Rules and what they do, on replies as receivers give them.

use std::sync::Arc;

use super::*;
use crate::config::{BindingIndex, Environment, SourceFile, load};

fn settings(text: &str) -> Arc<AdaptiveSettings> {
    let main = SourceFile {
        name: "test.conf".to_string(),
        text: format!("adaptive_enabled = true\n{text}"),
    };
    let environment = Environment {
        hostname: "test.example".to_string(),
        cores: 1,
    };
    let loaded = load(main, &environment, &mut |_| Err("none".to_string()));
    let checked = loaded.unwrap_or_else(|errors| panic!("{errors:?}"));
    let delivery = checked.config.delivery(BindingIndex(0), "a.example");
    delivery.adaptive.expect("it adapts")
}

fn at(seconds: f64) -> Now {
    Now {
        mono: Mono((seconds * 1e6) as u64 + 1_000_000_000),
        wall: Wall((seconds * 1e6) as u64 + 1_700_000_000_000_000),
    }
}

fn heard<'a>(stage: Stage, reply: &'a Reply, begun: f64) -> Heard<'a> {
    Heard {
        stage,
        reply,
        class: if reply.code == 550 { 10 } else { 70 },
        domain: "a.example",
        host: Some("mx.a.example"),
        begun: at(begun).mono,
        standing: Standing {
            connections: 4,
            delivered: 20,
            connections_max: 32,
            deliveries_max: 0,
        },
    }
}

fn say(code: u16, text: &str) -> Reply {
    Reply::remote(code, None, text)
}

#[test]
fn a_trigger_of_five_in_a_second_acts_at_the_sixth() {
    let settings = settings(
        "adaptive_rules = replace\n\
         adaptive_rule \"r\" { code = ( \"/busy/\" ) trigger = \"5/1\" \
         action = ( \"suspend\" \"4 hours\" ) }",
    );
    let mut shape = Shape::new(at(0.0));
    let busy = say(451, "busy");
    // Five in every second of a minute do nothing.
    for tenth in 0..300 {
        let now = f64::from(tenth) * 0.201;
        shape.heard(at(now), &settings, &heard(Stage::RcptTo, &busy, now));
        assert!(shape.stop().is_none(), "{now}");
    }
    let mut shape = Shape::new(at(0.0));
    for match_number in 1..=6 {
        let heed = shape.heard(at(9.0), &settings, &heard(Stage::RcptTo, &busy, 9.0));
        assert_eq!(shape.stop().is_some(), match_number == 6);
        assert_eq!(heed == Heed::Wait, match_number == 6);
    }
    let changes = shape.take_changes();
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (changes[0].what, &*changes[0].cause.rule),
        (What::Suspension, "r")
    );
    assert_eq!(changes[0].cause.reply.as_deref(), Some("451 busy"));
}

/// 2,100 attempts in the hour: 4 % of class 10 and 11 % of it, and 1,900 with 11 %.
#[test]
fn a_sweep_rule_acts_on_the_rate_of_an_hour_with_enough_attempts() {
    let settings =
        settings("adaptive_sweep_rule \"addresses\" { codes = ( \"bc:10\" ) low_threshold = 3 }");
    let run = |attempts: u32, percent: u32| {
        let mut shape = Shape::new(at(0.0));
        let (ok, unknown) = (say(250, "ok"), say(550, "user unknown"));
        for number in 0..attempts {
            let now = f64::from(number);
            let fails = number % 100 < percent;
            let (stage, reply) = match fails {
                true => (Stage::RcptTo, &unknown),
                false => (Stage::Final, &ok),
            };
            shape.heard(at(now), &settings, &heard(stage, reply, now));
        }
        shape
    };
    let mut low = run(2_100, 4);
    assert!(low.stop().is_none() && low.limits().rate.is_some());
    assert_eq!(low.take_changes()[0].cause.rule, "addresses");
    let high = run(2_100, 11);
    let stop = high.stop().expect("suspended");
    assert_eq!(stop.until.since(stop.since), Duration::from_secs(4 * 3_600));
    let few = run(1_900, 11);
    assert!(few.stop().is_none() && few.limits() == Limits::default());
}

#[test]
fn more_permanent_failures_than_allowed_suspend_where_that_is_switched_on() {
    for (option, expected) in [
        ("", false),
        ("adaptive_default_suspension_enabled = true", true),
    ] {
        let settings = settings(option);
        let mut shape = Shape::new(at(0.0));
        for number in 0..2_500 {
            let reply = if number % 4 == 0 {
                say(550, "no")
            } else {
                say(250, "ok")
            };
            let now = f64::from(number) / 10.0;
            shape.heard(at(now), &settings, &heard(Stage::Final, &reply, now));
        }
        assert_eq!(shape.stop().is_some(), expected);
    }
}

#[test]
fn a_block_is_temporary_spends_no_attempt_and_ends_with_one_message() {
    let settings = settings("");
    let mut shape = Shape::new(at(0.0));
    let block = say(554, "5.7.1 Client host blocked using zen.spamhaus.org");
    let first = shape.heard(at(1.0), &settings, &heard(Stage::RcptTo, &block, 0.9));
    assert_eq!(first, Heed::Wait);
    // What else was on the wire.
    let next = shape.heard(at(1.1), &settings, &heard(Stage::RcptTo, &block, 0.9));
    assert_eq!(next, Heed::Wait);
    assert!(matches!(shape.gate(at(2.0)), Gate::Until(_)));
    assert_eq!(shape.next(at(2.0)), Some(at(1.0 + 14_400.0).mono));
    shape.advance(at(14_401.0));
    assert!(shape.stop().is_none());
    assert_eq!(shape.gate(at(14_401.0)), Gate::One);
    shape.started(at(14_401.0));
    assert!(matches!(shape.gate(at(14_401.0)), Gate::Answer(_)));
    let again = shape.heard(
        at(14_402.0),
        &settings,
        &heard(Stage::RcptTo, &block, 14_401.0),
    );
    assert_eq!(again, Heed::Wait);
    assert!(shape.stop().is_some());
    let told: Vec<_> = shape.take_changes().iter().map(|it| it.what).collect();
    assert_eq!(told, [What::Suspension; 3]);
}

#[test]
fn a_suspension_in_force_is_neither_made_longer_nor_shorter() {
    let settings = settings("");
    let mut shape = Shape::new(at(0.0));
    let block = say(554, "5.7.1 blocked using zen.spamhaus.org");
    shape.heard(at(1.0), &settings, &heard(Stage::RcptTo, &block, 0.9));
    let until = shape.stop().expect("suspended").until;
    shape.heard(at(900.0), &settings, &heard(Stage::RcptTo, &block, 0.9));
    assert_eq!(shape.stop().expect("suspended").until, until);
}

#[test]
fn what_a_connection_has_carried_and_how_many_were_let_in_are_the_limits() {
    let settings = settings("");
    let mut shape = Shape::new(at(0.0));
    let many = say(421, "4.7.0 Too many messages on this connection");
    shape.heard(at(1.0), &settings, &heard(Stage::MailFrom, &many, 0.9));
    assert_eq!(shape.limits().deliveries, Some(20));
    let full = say(421, "4.7.0 Too many connections from your address");
    assert!(shape.refused(at(2.0), &settings, &heard(Stage::Banner, &full, 1.9)));
    assert_eq!(shape.limits().connections, Some(4));
    assert_eq!(shape.limits().rate, None);
    // Without words a host that goes away at the banner while others stay is full too.
    let settings = super::tests::settings(
        "adaptive_rule \"r\" { code = ( \"/^421/\" ) action = ( \"throttle\" \"down\" ) }",
    );
    let mut shape = Shape::new(at(0.0));
    assert!(shape.refused(
        at(2.0),
        &settings,
        &heard(Stage::Banner, &say(421, "x"), 1.9)
    ));
    assert_eq!(
        (shape.limits().connections, shape.limits().rate),
        (Some(4), None)
    );
}

#[test]
fn a_setting_of_a_rule_snaps_back_when_its_time_is_over() {
    let settings = settings(
        "adaptive_rules = replace\n\
         adaptive_max_outbound_connections = ( 2 50 )\n\
         adaptive_rule \"slow\" { code = ( \"/slow/\" ) \
         action = ( \"set\" \"outbound_throttle_messages 1/60 for 90m\" \
         \"set\" \"max_outbound_connections 1 for 90m\" ) }",
    );
    let mut shape = Shape::new(at(0.0));
    shape.heard(
        at(1.0),
        &settings,
        &heard(Stage::RcptTo, &say(451, "slow"), 0.9),
    );
    let limits = shape.limits();
    assert_eq!(
        limits.rate.map(|it| it.to_string()).as_deref(),
        Some("1/60")
    );
    assert_eq!(limits.connections, Some(2), "clipped to its range");
    shape.advance(at(5_400.0));
    assert_eq!(shape.limits(), limits);
    shape.advance(at(5_402.0));
    assert_eq!(shape.limits(), Limits::default());
}

#[test]
fn greylisting_changes_the_times_between_attempts_and_no_rate() {
    let settings = settings("");
    let mut shape = Shape::new(at(0.0));
    let grey = say(450, "4.2.0 greylisted, come back later");
    let heed = shape.heard(at(1.0), &settings, &heard(Stage::RcptTo, &grey, 0.9));
    assert_eq!(heed, Heed::AsItIs);
    let limits = shape.limits();
    assert_eq!(limits.retry_interval, Some(Duration::from_secs(300)));
    assert_eq!(limits.rate, None);
}

#[test]
fn own_rules_come_first_and_may_leave_alone_what_others_act_on() {
    let settings = settings(
        "adaptive_rule \"mine\" { domains = ( a.example ) code = ( \"/rate/\" ) \
         action = ( \"leave\" \"alone\" ) }",
    );
    let mut shape = Shape::new(at(0.0));
    let reply = say(451, "4.7.1 rate limit exceeded");
    shape.heard(at(1.0), &settings, &heard(Stage::RcptTo, &reply, 0.9));
    assert_eq!(shape.limits(), Limits::default());
}

#[test]
fn a_refusal_made_temporary_says_so_in_words_of_the_rule() {
    let settings = settings("");
    let mut shape = Shape::new(at(0.0));
    let reply = say(550, "Ip frequency limited");
    let qq = Heard {
        domain: "qq.com",
        ..heard(Stage::MailFrom, &reply, 0.9)
    };
    let Heed::As(reply) = shape.heard(at(1.0), &settings, &qq) else {
        panic!("it is rewritten");
    };
    assert_eq!(
        reply.to_string(),
        "450 4.7.1 [internal] frequency limited by QQ"
    );
    assert!(shape.limits().rate.is_some());
}

#[test]
fn what_is_saved_comes_back_and_ends_at_its_time() {
    let settings = settings("");
    let mut shape = Shape::new(at(0.0));
    let full = say(421, "4.7.0 Too many connections from your address");
    shape.refused(at(2.0), &settings, &heard(Stage::Banner, &full, 1.9));
    let rate = say(451, "4.7.1 rate limit exceeded");
    shape.heard(at(3.0), &settings, &heard(Stage::RcptTo, &rate, 2.9));
    let block = say(554, "5.7.1 blocked using zen.spamhaus.org");
    shape.heard(at(4.0), &settings, &heard(Stage::RcptTo, &block, 3.9));
    let operator = Cause::of("operator");
    let set = Set::RetryInterval(Duration::from_secs(77));
    shape.set(at(5.0), set, Duration::from_secs(50_000), operator);
    let text = serde_json::to_string(&shape.saved()).expect("written");
    let saved: Saved = serde_json::from_str(&text).expect("read");
    let mut back = Shape::restored(at(1_000.0), saved.clone());
    assert_eq!(back.saved(), saved);
    assert_eq!(back.limits(), shape.limits());
    assert_eq!(back.stop(), shape.stop());
    back.advance(at(20_000.0));
    assert!(back.stop().is_none() && back.limits().retry_interval.is_some());
    back.reset(at(20_000.0), "operator");
    assert!(back.saved().is_empty());
    assert_eq!(
        serde_json::from_str::<Saved>("{}").expect("read"),
        Saved::default()
    );
}

/// 20,000 deliveries in a day, and complaints of 0.1 %, 0.3 % and 0.6 % of them.
#[test]
fn complaints_act_on_the_rate_of_a_day_with_enough_deliveries() {
    let settings = settings("");
    let ok = say(250, "ok");
    let run = |deliveries: u32, complaints: u64| {
        let mut shape = Shape::new(at(0.0));
        for number in 0..deliveries {
            let now = f64::from(number);
            shape.heard(at(now), &settings, &heard(Stage::Final, &ok, now));
        }
        let now = at(f64::from(deliveries));
        let counted = shape.complained(now, &settings, ("abuse", complaints));
        counted.expect("it is counted");
        shape
    };
    assert_eq!(run(20_000, 20).limits(), Limits::default());
    let mut low = run(20_000, 60);
    assert!(low.stop().is_none() && low.limits().rate.is_some());
    let change = &low.take_changes()[0];
    assert_eq!(
        (&*change.cause.rule, change.cause.count),
        ("complaints", 60)
    );
    let high = run(20_000, 120);
    let stop = high.stop().expect("suspended");
    assert_eq!(stop.until.since(stop.since), Duration::from_secs(4 * 3_600));
    let few = run(19_000, 1_000);
    assert!(few.stop().is_none() && few.limits() == Limits::default());
}

#[test]
fn complaints_that_came_before_the_volume_act_when_it_is_there_and_after_a_restart() {
    let settings = settings(
        "adaptive_fbl_volume_threshold = 500\n\
         adaptive_sweep_rule \"fraud\" { codes = ( \"fbl:fraud\" ) low_threshold = 1 \
         high_threshold = 2 high_action = ( \"suspend\" \"8 hours\" ) }",
    );
    let ok = say(250, "ok");
    let mut shape = Shape::new(at(0.0));
    shape
        .complained(at(1.0), &settings, ("fraud", 11))
        .expect("counted");
    // Another category, of which no rule is: the one that is built in stands back.
    shape
        .complained(at(1.0), &settings, ("abuse", 400))
        .expect("counted");
    let mut kept = 0;
    for number in 0..499 {
        let now = 2.0 + f64::from(number);
        shape.heard(at(now), &settings, &heard(Stage::Final, &ok, now));
        assert!(shape.stop().is_none());
        if shape.is_to_be_kept(&settings) {
            let text = serde_json::to_string(&shape.keeping()).expect("written");
            let saved = serde_json::from_str(&text).expect("read");
            shape = Shape::restored(at(now), saved);
            kept += 1;
        }
    }
    assert!(kept > 80, "{kept}");
    for number in 0..20 {
        let now = 600.0 + f64::from(number);
        shape.heard(at(now), &settings, &heard(Stage::Final, &ok, now));
    }
    assert_eq!(shape.stop().expect("suspended").cause.rule, "fraud");
}

#[test]
fn options_that_are_not_managed_stay_as_they_are_configured() {
    let text = "adaptive_unmanage_options = ( outbound_throttle_messages retry_interval \
                max_outbound_connections )\n\
                adaptive_manage_options = ( max_outbound_connections )";
    let (all, some) = (settings(""), settings(text));
    let teach = |settings: &AdaptiveSettings| {
        let mut shape = Shape::new(at(0.0));
        let full = say(421, "4.7.0 Too many connections from your address");
        shape.refused(at(2.0), settings, &heard(Stage::Banner, &full, 1.9));
        let rate = say(451, "4.7.1 rate limit exceeded");
        shape.heard(at(3.0), settings, &heard(Stage::RcptTo, &rate, 2.9));
        let grey = say(450, "4.2.0 greylisted, come back later");
        shape.heard(at(4.0), settings, &heard(Stage::RcptTo, &grey, 3.9));
        shape
    };
    let check = |shape: &Shape| {
        let limits = shape.limits();
        assert_eq!((limits.rate, limits.retry_interval), (None, None));
        assert!(limits.connections.is_some() && limits.max_retry_interval.is_some());
        assert_eq!(shape.gate(at(5.0)), Gate::Open);
    };
    check(&teach(&some));
    // What was learnt before goes, and is told; what an operator has set stays.
    let mut shape = teach(&all);
    shape.take_changes();
    shape.reload(at(5.0), &some);
    check(&shape);
    let changes = shape.take_changes();
    let told: Vec<_> = changes
        .iter()
        .map(|it| (it.what, &*it.cause.rule))
        .collect();
    let by = "adaptive_unmanage_options";
    assert_eq!(told, [(What::MessageRate, by), (What::RetryInterval, by)]);
    let set = Set::RetryInterval(Duration::from_secs(77));
    shape.set(
        at(6.0),
        set,
        Duration::from_secs(900),
        Cause::of(BY_OPERATOR),
    );
    shape.reload(at(7.0), &some);
    assert_eq!(shape.limits().retry_interval, Some(Duration::from_secs(77)));
}
