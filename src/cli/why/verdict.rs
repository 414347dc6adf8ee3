//! One word and one sentence on the mail of a domain, over all its queues.

use crate::base::units;
use crate::base::units::counted;
use crate::cli::output::Style;
use crate::control::management::protocol::WhyData;
use crate::engine::query::QueueDetail;
use crate::engine::query::QueueSummary;

pub struct Verdict {
    pub word: &'static str,
    pub sentence: String,
}

/// What the queues of a domain come to.
pub fn of(why: &WhyData, style: &Style) -> Verdict {
    let all = || why.queues.iter().map(|it| &it.summary);
    let sum = |count: fn(&QueueSummary) -> u64| all().map(count).sum::<u64>();
    let waiting = sum(|it| it.active + it.delayed + it.in_flight);
    let (delivered, delayed) = (sum(|it| it.delivered_total), sum(|it| it.delayed_total));
    let bounced = sum(|it| it.bounced_total);
    let mut busy = all().filter(|it| it.active + it.delayed + it.in_flight > 0);
    let caused = |cause: &str| all().any(|it| it.cause == cause);
    let so_far = format!(
        "so far {} delivered, {} bounced, {} deferred",
        units::grouped(delivered),
        units::grouped(bounced),
        counted(delayed, "attempt"),
    );
    let mail = counted(waiting, "message");
    let next = next(why, style);
    let (word, sentence) = if waiting + delivered == 0 && bounced > 0 {
        let all = counted(bounced, "message");
        (
            "BOUNCED",
            format!("nothing waits, nothing was delivered so far, {all} bounced"),
        )
    } else if waiting == 0 {
        ("IDLE", format!("nothing waits; {so_far}"))
    } else if busy.all(|it| it.cause == "hosts failing") {
        let text = format!("no host can be reached, {mail} rest{next}; {so_far}");
        ("FAILING", text)
    } else if caused("suspended") {
        let by = stopped_by(why);
        let text = format!("{mail} of which some wait for {by}; {so_far}");
        ("SUSPENDED", text)
    } else if delivered + bounced == 0 && delayed > 0 {
        let whose = match why.queues.iter().any(has_heard_a_deferral) {
            true => "deferred by the receiver",
            false => "in vain, failing on the way to the receiver",
        };
        let every = match delayed {
            1 => "the only attempt so far was".to_owned(),
            count => format!("all {} attempts so far were", units::grouped(count)),
        };
        let text = format!("{every} {whose}; {mail} wait{}{next}", s(waiting));
        ("DEFERRED", text)
    } else if caused("connection limit") {
        let text = format!("{mail} wait{} behind a limit of ours; {so_far}", s(waiting));
        ("LIMITED", text)
    } else if caused("adaptive limit") {
        let text = format!("{mail} wait{} for an adaptive limit; {so_far}", s(waiting));
        ("LIMITED", text)
    } else if caused("throttle") {
        let text = format!("{mail} wait{} for a throttle of ours; {so_far}", s(waiting));
        ("LIMITED", text)
    } else if let Some(what) = for_a_host(caused) {
        let text = format!("{mail} wait{} for {what}; {so_far}", s(waiting));
        ("WAITING", text)
    } else if caused("delivering") || caused("ready") || sum(|it| it.in_flight) > 0 {
        let [active, in_flight] = [sum(|it| it.active), sum(|it| it.in_flight)].map(units::grouped);
        let delayed = units::grouped(sum(|it| it.delayed));
        let text = format!("{in_flight} in flight, {active} to come, {delayed} delayed; {so_far}");
        ("DELIVERING", text)
    } else if caused("backoff") {
        let text = format!(
            "{mail} wait{} for another attempt{next}; {so_far}",
            s(waiting)
        );
        ("DELAYED", text)
    } else {
        ("WAITING", format!("{mail}; {so_far}"))
    };
    Verdict { word, sentence }
}

/// What mail waits for that is not on its way, of a host that has not let it in yet.
fn for_a_host(caused: impl Fn(&str) -> bool) -> Option<&'static str> {
    match () {
        () if caused("delivering") => None,
        () if caused("greeting") => Some("the receiving host to greet"),
        () if caused("connecting") => Some("a connection"),
        () => None,
    }
}

fn stopped_by(why: &WhyData) -> String {
    let mut queues = why.queues.iter();
    if queues.any(|it| it.sentence.starts_with("adaptive delivery")) {
        return "adaptive delivery".to_owned();
    }
    let orders = why.queues.iter().filter_map(|it| it.summary.order);
    let mut orders: Vec<u64> = orders.collect();
    orders.sort_unstable();
    orders.dedup();
    let of_curfew = |it: &QueueDetail| it.sentence.contains("by its curfew");
    match &orders[..] {
        [] if why.queues.iter().any(of_curfew) => "the end of a curfew".to_owned(),
        [] => "suspend_delivery to be lifted".to_owned(),
        [one] => format!("order {one}"),
        [first, ..] => format!("order {first} and others"),
    }
}

/// The verb of one.
fn s(count: u64) -> &'static str {
    if count == 1 { "s" } else { "" }
}

fn has_heard_a_deferral(queue: &QueueDetail) -> bool {
    let mut replies = queue.replies.iter();
    replies.any(|it| it.class == "transient" && !it.internal)
}

/// When something is tried next.
fn next(why: &WhyData, style: &Style) -> String {
    let first = why.queues.iter().filter_map(|it| it.until.as_deref()).min();
    first.map_or(String::new(), |until| {
        format!(", the next is tried in {}", style.until(until))
    })
}
