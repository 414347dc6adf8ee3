//! What a seed stands for: how many shards, which config, which domains and hosts, how much mail,
//! and what goes wrong when. All of it is drawn before the run begins.
//!
//! Each concern is left alone in some seeds, so that no trouble hides another for good.

use core::fmt::Write;
use core::net::IpAddr;
use core::net::Ipv4Addr;

use crate::base::prng::Prng;
use crate::sim::disk;
use crate::sim::event_disk;
use crate::sim::mail::CLASS_OWN;
use crate::sim::mail::SHARE_OWN;

/// The first recipients accepted from a run are at least so many.
pub const MESSAGES_MIN: u64 = 200;

pub const SECOND: u64 = 1_000_000;

/// Mail for these places is refused by the config, whatever DNS says.
pub const PROHIBITED: Ipv4Addr = Ipv4Addr::new(127, 66, 0, 1);

/// Which concerns cause trouble in this seed.
#[derive(Clone, Copy, Debug)]
pub struct Concerns {
    pub crashes: bool,
    pub disk: bool,
    pub events: bool,
    pub net: bool,
    pub hosts: bool,
    pub dns: bool,
    pub clock: bool,
    pub reloads: bool,
    pub clients: bool,
    pub pressure: bool,
}

/// What a name server says about a domain.
#[derive(Clone, Debug)]
pub enum Zone {
    /// Preference and host.
    Mx(Vec<(u16, usize)>),
    Own(usize),
    NullMx,
    NoName,
    NoData,
    /// Leads only to where mail must not go.
    Prohibited,
}

#[derive(Clone, Debug)]
pub struct Domain {
    pub name: String,
    pub zone: Zone,
    pub ttl_s: u32,
}

/// How a host behaves while it may, in parts of a thousand of the occasions.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    pub busy: u64,
    pub refuses_session: u64,
    /// Takes the connection and never says a word.
    pub hangs: u64,
    pub without_ehlo: u64,
    pub defers: u64,
    pub rejects: u64,
    pub greylists: bool,
    pub drops_reply: u64,
    pub closes_in_data: u64,
    /// Thinks up to so long before a reply, microseconds.
    pub thinks_us: u64,
    /// Connections at a time; more get a 421.
    pub connections_max: u32,
    /// Recipients in ten seconds; more are deferred. 0: no limit.
    pub rate_max: u32,
}

#[derive(Clone, Debug)]
pub struct HostPlan {
    pub name: String,
    pub address: IpAddr,
    pub pipelining: bool,
    pub chunking: bool,
    pub size: bool,
    pub eight_bit: bool,
    pub manners: Manners,
}

/// Limits of the config that the checks compare with. Those of connections going out are lower in
/// some generations of a run, the others are always the same.
#[derive(Clone, Debug)]
pub struct Limits {
    pub outgoing: u64,
    /// Beyond those, for queues without a connection.
    pub reserve: u64,
    /// Of all mail of the first binding, to the last domain from all bindings, and to all hosts.
    pub of_binding: Option<u64>,
    pub of_domain: Option<u64>,
    pub of_hosts: Option<u64>,
    /// Connections may pass from one domain to another.
    pub migrates: bool,
    /// Of the first host, and of the second by its name.
    pub per_host: [u64; 2],
    pub per_queue: u64,
    pub recipients_per_batch: u64,
    pub deliveries_per_connection: u64,
    pub sessions: u64,
    pub sessions_per_listen: u64,
    pub sessions_per_peer: u64,
    pub resident_messages: u64,
    /// Shortest of all generations, seconds.
    pub retry_s: u64,
    pub retry_max_s: u64,
    /// Longest of all generations, seconds.
    pub expiration_s: u64,
}

/// Throttles of the config, as it writes them.
#[derive(Clone, Debug)]
pub struct Rates {
    /// Of the first binding, for messages and for connections.
    pub binding: [String; 2],
    /// Of the last binding for one domain.
    pub domain: String,
    /// Of the first host, for messages and for connections.
    pub host: [String; 2],
    /// Of mail that comes in.
    pub inbound: String,
}

/// Something that happens at a moment of the run.
#[derive(Clone, Copy, Debug)]
pub enum Happening {
    Crash {
        power: bool,
    },
    Restart,
    Reload,
    /// An operator acts on the queues.
    Order,
    /// Seconds.
    WallJumps(i64),
    Disk(disk::Trouble),
    Events(event_disk::Trouble),
    FreeSpaceShort(bool),
    MemoryShort(bool),
    DnsFails(bool),
    DnsChanges,
    SlowMesh(bool),
    /// From now on nothing goes wrong any more.
    Calm,
}

/// One binding of the config.
#[derive(Clone, Debug)]
pub struct BindingPlan {
    pub name: String,
    pub address: IpAddr,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub shards: usize,
    /// The number of shards is drawn again at every start.
    pub shards_vary: bool,
    pub concerns: Concerns,
    pub segment_bytes: u64,
    pub segments_max: u32,
    pub gather_bytes_max: usize,
    /// `Spool_Sync = interval`: what kills the process is survived, what takes the machine is not.
    pub sync_interval: bool,
    pub event_file_bytes: u64,
    pub limits: Limits,
    pub bindings: Vec<BindingPlan>,
    pub domains: Vec<Domain>,
    pub hosts: Vec<HostPlan>,
    pub clients: usize,
    pub messages: u64,
    pub happenings: Vec<(u64, Happening)>,
    pub calm_us: u64,
    /// Nothing in runs without throttles.
    pub rates: Option<Rates>,
    /// The stages of its first binding; nothing in most runs.
    pub warmup: Option<String>,
    /// Delivery adapts.
    pub adapts: bool,
    options: Options,
}

/// Options that have no limit to check.
#[derive(Clone, Debug)]
struct Options {
    max_retries: String,
    /// Expiration in the first generation, seconds.
    expiration_s: u64,
    retry_s: u64,
    host_rest_s: u64,
    mx_failures: u64,
    connect_s: u64,
    reply_s: u64,
    body_s: u64,
    idle_s: u64,
    resident_per_queue: i64,
    drop_body_after: u64,
    chunking: bool,
    pipelining: bool,
    eight_bit: &'static str,
    aggressive: bool,
    grouped: bool,
}

impl Scenario {
    pub fn draw(seed: u64) -> Scenario {
        let prng = &mut Prng::stream(seed, "scenario");
        let on = |prng: &mut Prng| prng.chance(3, 5);
        let concerns = Concerns {
            crashes: on(prng),
            disk: on(prng),
            events: on(prng),
            net: on(prng),
            hosts: prng.chance(4, 5),
            dns: on(prng),
            clock: prng.chance(1, 4),
            reloads: on(prng),
            clients: on(prng),
            pressure: on(prng),
        };
        let mut hosts = draw_hosts(prng, concerns.hosts);
        let mut hangs = Prng::stream(seed, "hosts that hang");
        for host in hosts.iter_mut().skip(1) {
            if concerns.hosts && hangs.chance(1, 5) {
                host.manners.hangs = *hangs.pick(&[100, 500, 1_000]);
            }
        }
        let domains = draw_domains(prng, hosts.len());
        let calm_us = prng.between(60, 150) * SECOND;
        let options = draw_options(prng);
        let mut limits = draw_limits(prng, &options);
        draw_shared_limits(&mut Prng::stream(seed, "shared limits"), &mut limits);
        let sync_interval = prng.chance(1, 12);
        // With the weaker sync a disk that fails may lose what was acknowledged, as a power cut.
        let concerns = Concerns {
            disk: concerns.disk && !sync_interval,
            ..concerns
        };
        // Of their own, so that what is drawn besides stays as it is.
        let mut faults = Prng::stream(seed, "more disk trouble");
        let more = draw_more_disk_trouble(&mut faults, concerns, calm_us);
        let mut throttles = Prng::stream(seed, "throttles");
        let bindings = prng.between(1, 3);
        let binding = |number| BindingPlan {
            name: format!("b{number}"),
            address: IpAddr::V4(Ipv4Addr::new(127, 0, 2, number as u8)),
        };
        Scenario {
            shards: prng.between(1, 4) as usize,
            shards_vary: prng.chance(1, 2),
            segment_bytes: *prng.pick(&[131_072, 262_144]),
            segments_max: *prng.pick(&[8, 16, 64]),
            gather_bytes_max: *prng.pick(&[50_000, 1 << 20]),
            sync_interval,
            event_file_bytes: *prng.pick(&[8_192, 65_536, 1 << 20]),
            bindings: (1..=bindings).map(binding).collect(),
            clients: prng.between(3, 8) as usize,
            messages: MESSAGES_MIN + prng.below(80),
            happenings: {
                let mut all = draw_happenings(prng, concerns, calm_us, !sync_interval);
                all.extend(more);
                all.extend(draw_orders(seed, calm_us));
                all
            },
            concerns,
            limits,
            domains,
            hosts,
            calm_us,
            adapts: throttles.chance(1, 2),
            rates: throttles.chance(1, 2).then(|| draw_rates(&mut throttles)),
            warmup: draw_warmup(&mut Prng::stream(seed, "warm-up")),
            options,
        }
    }

    /// The config file of a generation. The first and the last are the same.
    pub fn config(&self, shards: usize, generation: u64, prng: &mut Prng) -> String {
        let mut text = String::new();
        self.write_options(&mut text, shards, generation, prng);
        self.write_senders(&mut text);
        if self.adapts {
            text.push_str(ADAPTIVE);
        }
        let limits = &self.limits;
        let inbound = self.rates.as_ref().map_or("0", |it| &it.inbound);
        let _ = write!(
            text,
            "ESMTP_Listener {{\n Listen \"127.0.0.1:2525\" {{\n  \
             Relay_Hosts = ( \"127.0.0.0/8\" )\n  \
             Listener_Sessions = {}\n  Max_Connections_Per_Peer = {}\n  \
             Max_Recipients_Per_Transaction = 100\n  Max_Message_Size = \"100K\"\n  \
             Inbound_Throttle_Messages = \"{inbound}\"\n  \
             Idle_Time = 60\n  Min_Inbound_Rate = 64\n  Remove_Flow_Headers = all\n }}\n}}\n\
             priority_class \"{}\" {{ share = {} }}\n",
            limits.sessions_per_listen, limits.sessions_per_peer, CLASS_OWN, SHARE_OWN,
        );
        self.write_shared(&mut text);
        for (host, limit) in self.hosts.iter().zip(limits.per_host) {
            let limit = at_most(limit, generation, prng);
            let by_name = host.name == self.hosts[1 % self.hosts.len()].name;
            let name = match by_name {
                true => host.name.clone(),
                false => host.address.to_string(),
            };
            let throttles = match &self.rates {
                Some(rates) if !by_name => written(&rates.host),
                _ => String::new(),
            };
            let _ = writeln!(
                text,
                "host \"{name}\" {{ Max_Outbound_Connections = {limit} {throttles} }}"
            );
        }
        text
    }

    /// Limits that queues share.
    fn write_shared(&self, text: &mut String) {
        let migrates = self.limits.migrates;
        let _ = writeln!(
            text,
            "Migrate_Connections_Between_Sibling_Domains = {migrates}"
        );
        if let (Some(most), Some(domain)) = (self.limits.of_domain, self.domains.last()) {
            let name = &domain.name;
            let _ = writeln!(
                text,
                "domain \"{name}\" {{ Scope_Max_Outbound_Connections = {most} }}"
            );
        }
        if let Some(most) = self.limits.of_hosts {
            let _ = writeln!(
                text,
                "host \"/^127[.]/\" {{ Scope_Max_Outbound_Connections = {most} }}"
            );
        }
    }

    fn write_options(&self, text: &mut String, shards: usize, generation: u64, prng: &mut Prng) {
        let (options, limits) = (&self.options, &self.limits);
        let reserve = limits.reserve;
        let first = generation == 0;
        let varied = |prng: &mut Prng, first_value: u64, low: u64, high: u64| match first {
            true => first_value,
            false => prng.between(low, high),
        };
        let retry = varied(prng, options.retry_s, limits.retry_s, limits.retry_s * 3);
        let expiration = varied(
            prng,
            options.expiration_s,
            limits.expiration_s / 4 + 1,
            limits.expiration_s,
        );
        let suspended = !first && prng.chance(1, 4);
        let yes = |flag: bool| if flag { "true" } else { "false" };
        let lines = [
            ("Spoolbase", "\"/simulated\"".to_string()),
            ("Shards", shards.to_string()),
            ("Memory_Limit", "\"64M\"".to_string()),
            ("Memory_Goal", "90".to_string()),
            ("Min_Free_Space", "\"1M\"".to_string()),
            ("Flight_Recorder_Size", "\"64K\"".to_string()),
            (
                "Max_Resident_Messages",
                limits.resident_messages.to_string(),
            ),
            (
                "Server_Max_Outbound_Connections",
                at_most(limits.outgoing, generation, prng).to_string(),
            ),
            ("Server_Reserve_Outbound_Connections", reserve.to_string()),
            ("Service_Sessions", limits.sessions.to_string()),
            (
                "Max_Outbound_Connections",
                at_most(limits.per_queue, generation, prng).to_string(),
            ),
            (
                "Max_Deliveries_Per_Connection",
                limits.deliveries_per_connection.to_string(),
            ),
            (
                "Max_Recipients_Per_Batch",
                limits.recipients_per_batch.to_string(),
            ),
        ];
        let times = [
            ("Retry_Interval", retry.to_string()),
            ("Max_Retry_Interval", limits.retry_max_s.to_string()),
            ("Max_Retries", options.max_retries.clone()),
            ("Message_Expiration", expiration.to_string()),
            ("Suspend_Delivery", yes(suspended).to_string()),
            ("Host_Failure_Retry", options.host_rest_s.to_string()),
            ("MX_Failures_To_Delay", options.mx_failures.to_string()),
            ("Connect_Timeout", options.connect_s.to_string()),
            ("Ehlo_Timeout", options.reply_s.to_string()),
            ("Mailfrom_Timeout", options.reply_s.to_string()),
            ("Rcptto_Timeout", options.reply_s.to_string()),
            ("Data_Timeout", options.reply_s.to_string()),
            ("Body_Timeout", options.body_s.to_string()),
            ("Rset_Timeout", options.reply_s.to_string()),
            ("Idle_Timeout", options.idle_s.to_string()),
        ];
        for (name, value) in lines.into_iter().chain(times) {
            let _ = writeln!(text, "{name} = {value}");
        }
        self.write_ways(text, prng);
    }

    /// Options of the conversation.
    fn write_ways(&self, text: &mut String, prng: &mut Prng) {
        let options = &self.options;
        let yes = |flag: bool| if flag { "true" } else { "false" };
        let resident = options.resident_per_queue.to_string();
        let lines = [
            ("Max_Resident_Active_Queue", resident),
            (
                "Drop_Body_After_Trans_Fail",
                options.drop_body_after.to_string(),
            ),
            ("Use_Chunking", yes(options.chunking).to_string()),
            ("Use_Pipelining", yes(options.pipelining).to_string()),
            ("Outbound_8bit_Policy", format!("\"{}\"", options.eight_bit)),
            (
                "Connection_Allocation_Aggressiveness",
                match options.aggressive {
                    true => "\"high\"".to_string(),
                    false => "\"normal\"".to_string(),
                },
            ),
            (
                "Queue_Striping",
                prng.pick(&["auto", "always", "never"]).to_string(),
            ),
            ("Prohibited_Hosts", format!("( \"{PROHIBITED}\" )")),
        ];
        for (name, value) in lines {
            let _ = writeln!(text, "{name} = {value}");
        }
    }

    fn write_senders(&self, text: &mut String) {
        let mut bindings = String::new();
        for binding in &self.bindings {
            let mut throttles = String::new();
            let is_first = binding.name == self.bindings[0].name;
            let most = self.limits.of_binding.filter(|_| is_first);
            let most = most.map_or(String::new(), |most| {
                format!("Server_Max_Outbound_Connections = {most}")
            });
            if let Some(rates) = &self.rates {
                if binding.name == self.bindings[0].name {
                    throttles = written(&rates.binding);
                } else if let Some(domain) = self.domains.first() {
                    let (domain, rate) = (&domain.name, &rates.domain);
                    throttles = format!(
                        "domain \"{domain}\" {{ Outbound_Throttle_Messages = \"{rate}\" }}"
                    );
                }
            }
            if let (Some(stages), true) = (&self.warmup, is_first) {
                let _ = write!(
                    throttles,
                    " Warmup_Start = \"2000-01-01\" Warmup_Schedule = ({stages} )"
                );
            }
            let _ = writeln!(
                bindings,
                " binding \"{0}\" {{ Bind_Address = \"{1}\" \
                 EHLO_Hostname = \"{0}.sender.example\" {most} {throttles} }}",
                binding.name, binding.address,
            );
        }
        let _ = match self.options.grouped {
            true => writeln!(
                text,
                "default_binding_group = \"pool\"\nbinding_group \"pool\" {{\n{bindings}}}"
            ),
            false => writeln!(text, "default_binding = \"b1\"\n{bindings}"),
        };
    }

    /// Its bindings are those of the group "pool".
    pub fn is_grouped(&self) -> bool {
        self.options.grouped
    }

    /// The longest that anything may wait after the calm begins, microseconds: a message that comes
    /// in then may be tried until it expires, behind rests and timeouts of what was before.
    pub fn drain_us(&self) -> u64 {
        let options = &self.options;
        let waits = self.limits.retry_max_s + options.host_rest_s + options.body_s + 120;
        (2 * self.limits.expiration_s + 3 * waits + 600) * SECOND
    }

    /// 8-bit mail is converted for hosts that do not take it.
    pub fn converts(&self) -> bool {
        self.options.eight_bit == "convert"
    }
}

/// Adaptive delivery in a run of minutes: its suspensions are over before the end, and a refusal of
/// a session or of too much mail is met by rules of its own.
const ADAPTIVE: &str = r#"
adaptive_enabled = true
adaptive_positive_adjustment_interval = 300
adaptive_outbound_throttle_messages = ( "10/60" 0 )
adaptive_retry_interval = ( 1 60 )
adaptive_rule "no mail here" {
  code = ( "/no mail here/" )
  action = ( "transcode" "421 4.7.1 not now" "suspend" "120" )
}
"#;

/// The least rate that it allows, per second.
pub const ADAPTIVE_RATE_MIN: f64 = 10.0 / 60.0;

/// Rates that let the mail of a run pass in minutes, and keep it waiting now and then.
fn draw_rates(prng: &mut Prng) -> Rates {
    let mut rate = || {
        let seconds = match prng.chance(1, 4) {
            true => prng.between(5, 30),
            false => prng.between(1, 4),
        };
        let most = 40 * seconds;
        let count = match prng.chance(1, 8) {
            true => prng.between(4_097, 9_000),
            false => prng.between(4 * seconds, most),
        };
        format!("{count}/{seconds}")
    };
    Rates {
        binding: [rate(), rate()],
        domain: rate(),
        host: [rate(), rate()],
        inbound: rate(),
    }
}

fn draw_warmup(prng: &mut Prng) -> Option<String> {
    if !prng.chance(1, 3) {
        return None;
    }
    let mut most = 0;
    let stages = (0..prng.between(1, 4)).map(|_| {
        most += prng.between(4, 40);
        format!(" {most}")
    });
    Some(stages.collect())
}

fn written([messages, connections]: &[String; 2]) -> String {
    format!(
        "Outbound_Throttle_Messages = \"{messages}\" \
         Outbound_Throttle_Connections = \"{connections}\""
    )
}

/// A limit in one generation: the first has it as it is.
fn at_most(limit: u64, generation: u64, prng: &mut Prng) -> u64 {
    match generation {
        0 => limit,
        _ => prng.between(1, limit),
    }
}

fn draw_hosts(prng: &mut Prng, rude: bool) -> Vec<HostPlan> {
    let count = prng.between(2, 5);
    let host = |number: u64| {
        let manners = match rude && prng.chance(4, 5) {
            true => draw_manners(prng),
            false => Manners {
                connections_max: 1_000,
                thinks_us: 2_000,
                ..Manners::default()
            },
        };
        HostPlan {
            name: format!("mx{number}.host.example"),
            address: IpAddr::V4(Ipv4Addr::new(127, 1, 0, number as u8 + 1)),
            pipelining: prng.chance(3, 4),
            chunking: prng.chance(1, 2),
            size: prng.chance(3, 4),
            eight_bit: prng.chance(3, 4),
            manners,
        }
    };
    (0..count).map(host).collect()
}

fn draw_manners(prng: &mut Prng) -> Manners {
    let mut now_and_then = |parts: u64, most: u64| match prng.chance(parts, 10) {
        true => 1 + prng.below(most),
        false => 0,
    };
    Manners {
        busy: now_and_then(5, 100),
        refuses_session: now_and_then(3, 200),
        hangs: 0,
        without_ehlo: now_and_then(3, 500),
        defers: now_and_then(7, 300),
        rejects: now_and_then(6, 60),
        drops_reply: now_and_then(6, 60),
        closes_in_data: now_and_then(4, 60),
        thinks_us: 1_000 + now_and_then(3, 3_000_000),
        rate_max: now_and_then(3, 30) as u32,
        connections_max: match prng.chance(1, 4) {
            true => prng.between(1, 3) as u32,
            false => 1_000,
        },
        greylists: prng.chance(1, 5),
    }
}

fn draw_domains(prng: &mut Prng, hosts: usize) -> Vec<Domain> {
    let count = prng.between(3, 8);
    let host = |prng: &mut Prng| prng.below(hosts as u64) as usize;
    let domain = |number: u64| {
        let zone = match prng.below(30) {
            0 => Zone::NullMx,
            1 => Zone::NoName,
            2 => Zone::NoData,
            3 => Zone::Prohibited,
            4..=7 => Zone::Own(host(prng)),
            _ => {
                let exchanges = prng.between(1, 3);
                let exchange = |_| (10 * prng.between(1, 2) as u16, host(prng));
                Zone::Mx((0..exchanges).map(exchange).collect())
            }
        };
        // The first always takes mail, so that every seed delivers some.
        let zone = if number == 0 { Zone::Own(0) } else { zone };
        Domain {
            name: format!("d{number}.example"),
            zone,
            ttl_s: prng.between(0, 120) as u32,
        }
    };
    (0..count).map(domain).collect()
}

fn draw_options(prng: &mut Prng) -> Options {
    let retry_s = prng.between(1, 15);
    Options {
        max_retries: match prng.below(4) {
            0 => prng.between(1, 5).to_string(),
            1 => "none".to_string(),
            _ => "auto".to_string(),
        },
        expiration_s: prng.between(40, 300),
        retry_s,
        host_rest_s: prng.between(1, 30),
        mx_failures: prng.between(0, 4),
        connect_s: prng.between(2, 20),
        reply_s: prng.between(3, 20),
        body_s: prng.between(3, 30),
        idle_s: prng.between(1, 5),
        resident_per_queue: *prng.pick(&[-1, 0, 1, 5, 250]),
        drop_body_after: prng.below(3),
        chunking: prng.chance(3, 4),
        pipelining: prng.chance(4, 5),
        eight_bit: prng.pick::<&str>(&["convert", "send", "fail"]),
        aggressive: prng.chance(1, 3),
        grouped: prng.chance(2, 3),
    }
}

fn draw_limits(prng: &mut Prng, options: &Options) -> Limits {
    Limits {
        outgoing: *prng.pick(&[2, 4, 20]),
        reserve: 0,
        of_binding: None,
        of_domain: None,
        of_hosts: None,
        migrates: false,
        per_host: [prng.between(1, 3), prng.between(1, 3)],
        per_queue: prng.between(1, 6),
        recipients_per_batch: prng.between(1, 6),
        deliveries_per_connection: *prng.pick(&[0, 1, 3]),
        sessions: *prng.pick(&[3, 6, 100]),
        sessions_per_listen: *prng.pick(&[3, 6, 100]),
        sessions_per_peer: prng.between(1, 4),
        resident_messages: *prng.pick(&[0, 4, 16, 1_000]),
        retry_s: options.retry_s,
        retry_max_s: options.retry_s * prng.between(3, 8),
        expiration_s: options.expiration_s * 3 / 2,
    }
}

/// Limits that several queues share.
fn draw_shared_limits(prng: &mut Prng, limits: &mut Limits) {
    let mut now_and_then = |most: u64| {
        let some = prng.chance(1, 3);
        some.then(|| prng.between(1, most))
    };
    limits.of_binding = now_and_then(4);
    limits.of_domain = now_and_then(3);
    limits.of_hosts = now_and_then(5);
    limits.reserve = now_and_then(3).unwrap_or(0);
    limits.migrates = prng.chance(1, 2);
}

fn draw_happenings(
    prng: &mut Prng,
    concerns: Concerns,
    calm_us: u64,
    power_cuts: bool,
) -> Vec<(u64, Happening)> {
    let mut all = Vec::new();
    if concerns.crashes {
        for _ in 0..prng.between(1, 4) {
            let at = prng.between(SECOND, calm_us + 20 * SECOND);
            let power = power_cuts && prng.chance(1, 2);
            all.push(match prng.chance(1, 4) {
                true => (at, Happening::Restart),
                false => (at, Happening::Crash { power }),
            });
        }
    }
    let mut spans: Vec<(bool, Happening, Happening)> = Vec::new();
    for _ in 0..3 {
        let (disk, events) = (draw_disk_trouble(prng), draw_event_trouble(prng));
        spans.extend([
            (
                concerns.disk,
                Happening::Disk(disk),
                Happening::Disk(disk::Trouble::default()),
            ),
            (
                concerns.events,
                Happening::Events(events),
                Happening::Events(event_disk::Trouble::default()),
            ),
            (
                concerns.dns,
                Happening::DnsFails(true),
                Happening::DnsFails(false),
            ),
        ]);
    }
    for (happening, end) in [
        (
            Happening::FreeSpaceShort(true),
            Happening::FreeSpaceShort(false),
        ),
        (Happening::MemoryShort(true), Happening::MemoryShort(false)),
        (Happening::SlowMesh(true), Happening::SlowMesh(false)),
    ] {
        spans.push((concerns.pressure, happening, end));
    }
    for (wanted, begins, ends) in spans {
        if wanted && prng.chance(2, 3) {
            let from = prng.below(calm_us);
            let until = from + prng.between(SECOND / 10, 12 * SECOND);
            all.extend([(from, begins), (until.min(calm_us), ends)]);
        }
    }
    let mut now_and_then = |wanted: bool, most: u64, happening: fn(&mut Prng) -> Happening| {
        for _ in 0..prng.below(most + 1) {
            let (at, what) = (prng.below(calm_us), happening(prng));
            all.extend(wanted.then_some((at, what)));
        }
    };
    now_and_then(concerns.reloads, 3, |_| Happening::Reload);
    now_and_then(concerns.dns, 3, |_| Happening::DnsChanges);
    now_and_then(concerns.clock, 3, |prng| {
        let seconds = prng.between(1, 400) as i64;
        Happening::WallJumps(if prng.chance(1, 2) { seconds } else { -seconds })
    });
    all.push((calm_us, Happening::Calm));
    all
}

/// In some seeds operators act.
fn draw_orders(seed: u64, calm_us: u64) -> Vec<(u64, Happening)> {
    let mut prng = Prng::stream(seed, "orders");
    let count = match prng.chance(1, 2) {
        true => prng.between(1, 12),
        false => 0,
    };
    let mut at = |_| (prng.below(calm_us), Happening::Order);
    (0..count).map(&mut at).collect()
}

fn draw_disk_trouble(prng: &mut Prng) -> disk::Trouble {
    let mut trouble = disk::Trouble::default();
    match prng.below(6) {
        0 => trouble.full = true,
        1 => trouble.write_fails = prng.between(50, 1_000),
        2 => trouble.sync_fails = prng.between(50, 1_000),
        3 => trouble.slower_us = prng.between(10_000, 3 * SECOND),
        4 => trouble.short_write = prng.between(50, 500),
        _ => trouble.read_fails = prng.between(50, 500),
    }
    trouble
}

/// The kinds of trouble that come one at a time, in a part of the seeds.
fn draw_more_disk_trouble(
    prng: &mut Prng,
    concerns: Concerns,
    calm_us: u64,
) -> Vec<(u64, Happening)> {
    let mut all = Vec::new();
    if !concerns.disk || prng.chance(1, 3) {
        return all;
    }
    for _ in 0..prng.between(1, 2) {
        let mut trouble = disk::Trouble::default();
        let from = prng.below(calm_us);
        let mut until = from + prng.between(SECOND / 10, 12 * SECOND);
        // What is rare needs longer to meet trouble.
        let rare = 20 * SECOND;
        match prng.below(8) {
            0 => trouble.read_only = true,
            1 => trouble.open_fails = prng.between(100, 1_000),
            2 => {
                trouble.prepare_fails = prng.between(100, 1_000);
                until += rare;
            }
            3 => {
                trouble.seal_fails = prng.between(100, 1_000);
                until += rare;
            }
            4 => {
                trouble.rename_fails = prng.between(100, 1_000);
                trouble.remove_fails = prng.between(100, 1_000);
                until += rare;
            }
            5 => trouble.slow_sync = Some(*prng.pick(&disk::SlowSync::ALL)),
            _ => {
                let spell = *prng.pick(&disk::Spell::ALL);
                if spell.left == u64::MAX {
                    until = calm_us;
                }
                trouble.spell = Some(spell);
            }
        }
        let over = Happening::Disk(disk::Trouble::default());
        all.extend([(from, Happening::Disk(trouble)), (until.min(calm_us), over)]);
    }
    all
}

fn draw_event_trouble(prng: &mut Prng) -> event_disk::Trouble {
    match prng.chance(1, 2) {
        true => event_disk::Trouble {
            full: true,
            fails: 0,
        },
        false => event_disk::Trouble {
            full: false,
            fails: prng.between(50, 800),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Environment;
    use crate::config::SourceFile;

    #[test]
    fn every_config_that_is_drawn_is_a_good_one() {
        for seed in 0..200 {
            let scenario = Scenario::draw(seed);
            let mut prng = Prng::new(seed);
            for generation in 0..3 {
                let text = scenario.config(2, generation, &mut prng);
                let main = SourceFile {
                    name: "simulated.conf".to_string(),
                    text: text.clone(),
                };
                let environment = Environment {
                    hostname: "simulated.example".to_string(),
                    cores: 2,
                };
                let loaded = crate::config::load(main, &environment, &mut |_| Err("none".into()));
                if let Err(errors) = loaded {
                    panic!("seed {seed}: {errors:?}\n{text}");
                }
            }
        }
    }
}
