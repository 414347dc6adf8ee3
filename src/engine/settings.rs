//! From checked config to the settings that each stage has of its own, resolved for one
//! (binding, domain) pair or one listen address.

use core::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use crate::base::limit::Limit;
use crate::config::Aggressiveness;
use crate::config::BindingIndex;
use crate::config::BindingSettings;
use crate::config::Config;
use crate::config::DeliverySettings;
use crate::config::EightBit;
use crate::config::Host;
use crate::config::MaxRetries;
use crate::config::RouteKind;
use crate::config::RouteTarget;
use crate::deliver::goal;
use crate::deliver::route;
use crate::deliver::session;
use crate::queue;

/// Jobs that one connection may have open at a time, so that a pipelining host is kept busy.
const JOBS_PER_CONNECTION: usize = 4;

/// Everything that decides about one queue, of one generation of the config.
pub struct LinkSettings {
    pub delivery: DeliverySettings,
    pub binding: BindingSettings,
    pub route: route::Settings,
    pub session: Rc<session::Settings>,
    pub queue: Rc<queue::Settings>,
    pub aggressiveness: goal::Aggressiveness,
    /// Limits of connections that it shares, in the order in which places are taken.
    pub limits: Rc<[Arc<Limit>]>,
    /// Nothing is tried: `suspend_delivery`, or mail of [`HELD_BINDING`].
    pub suspended: bool,
}

/// The binding of mail that `default_binding = suspended` holds: sends as `default` does, once no
/// scope of the configuration holds mail any more. No configured binding can have this name.
pub const HELD_BINDING: &str = "#held";

/// What is known of the machine: guards against mail to oneself.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    pub own_names: Vec<Box<str>>,
    pub own_addresses: Vec<IpAddr>,
}

impl LinkSettings {
    pub fn of(config: &Config, identity: &Identity, binding: &str, domain: &str) -> Self {
        let index = config.binding_by_name(binding).unwrap_or(BindingIndex(0));
        let held = binding == HELD_BINDING && config.holds_default_mail();
        let delivery = config.delivery(index, domain);
        let binding = config.binding_settings(index).clone();
        let suspended = delivery.suspend_delivery || held;
        LinkSettings {
            route: route_settings(&delivery, &binding, identity),
            session: Rc::new(session_settings(&delivery, &binding)),
            queue: Rc::new(queue_settings(&delivery, suspended)),
            aggressiveness: match delivery.connection_allocation_aggressiveness {
                Aggressiveness::Normal => goal::Aggressiveness::Normal,
                Aggressiveness::High => goal::Aggressiveness::High,
            },
            limits: Rc::new([]),
            suspended,
            delivery,
            binding,
        }
    }
}

fn queue_settings(delivery: &DeliverySettings, suspended: bool) -> queue::Settings {
    queue::Settings {
        retry_interval: delivery.retry_interval,
        max_retry_interval: delivery.max_retry_interval,
        max_retries: match delivery.max_retries {
            MaxRetries::Auto => queue::MaxRetries::Auto,
            MaxRetries::None => queue::MaxRetries::None,
            MaxRetries::Count(count) => queue::MaxRetries::Count(count),
        },
        message_expiration: delivery.message_expiration,
        never_attempt_expired: delivery.never_attempt_expired_messages,
        never_retry: delivery.never_retry,
        max_resident_active: if suspended {
            // Nothing of it will move: its bodies need not be in memory.
            Some(0)
        } else {
            u32::try_from(delivery.max_resident_active_queue).ok()
        },
        drop_body_after_failures: delivery.drop_body_after_trans_fail,
    }
}

fn session_settings(delivery: &DeliverySettings, binding: &BindingSettings) -> session::Settings {
    session::Settings {
        ehlo_name: binding.ehlo_hostname.as_str().into(),
        use_pipelining: delivery.use_pipelining,
        use_chunking: delivery.use_chunking,
        eight_bit: match delivery.eight_bit {
            EightBit::Convert => session::EightBit::Convert,
            EightBit::Send => session::EightBit::Send,
            EightBit::Fail => session::EightBit::Fail,
        },
        jobs_max: JOBS_PER_CONNECTION,
        banner_timeout: delivery.ehlo_timeout,
        ehlo_timeout: delivery.ehlo_timeout,
        mailfrom_timeout: delivery.mailfrom_timeout,
        rcptto_timeout: delivery.rcptto_timeout,
        data_timeout: delivery.data_timeout,
        body_timeout: delivery.body_timeout,
        rset_timeout: delivery.rset_timeout,
        quit_timeout: delivery.rset_timeout,
        idle_timeout: delivery.idle_timeout,
        max_deliveries: delivery.max_deliveries_per_connection,
        max_recipients: delivery.max_recipients_per_connection,
        keep_transcript: false,
    }
}

fn route_settings(
    delivery: &DeliverySettings,
    binding: &BindingSettings,
    identity: &Identity,
) -> route::Settings {
    let any = binding.bind_address.is_empty();
    let mut own_names = identity.own_names.clone();
    own_names.push(binding.ehlo_hostname.to_lowercase().into());
    let own_addresses = match delivery.prohibited_hosts.own_addresses {
        true => identity.own_addresses.clone(),
        false => Vec::new(),
    };
    route::Settings {
        target: delivery
            .static_target
            .as_ref()
            .map(|it| target(&it.host, Some(it.port))),
        gateway: delivery.gateway.as_deref().map(named_target),
        routes: delivery.routes.iter().map(route_item).collect(),
        remote_port: delivery.remote_smtp_port,
        prohibited: delivery.prohibited_hosts.nets.nets().to_vec(),
        own_names,
        own_addresses,
        mx_failures_fallback_to_a: delivery.mx_failures_fallback_to_a,
        families: route::Families {
            v4: any || binding.bind_address.iter().any(IpAddr::is_ipv4),
            v6: any || binding.bind_address.iter().any(IpAddr::is_ipv6),
        },
    }
}

fn route_item(item: &crate::config::RouteItem) -> route::Route {
    let by = match item.kind {
        RouteKind::Mx => route::By::Mx,
        RouteKind::A => route::By::Address,
    };
    let via = match &item.target {
        RouteTarget::DomainMx => route::Via::Dns,
        RouteTarget::Host(host) => route::Via::Target(target(host, item.port), by),
    };
    route::Route {
        preference: item.pref,
        via,
    }
}

fn target(host: &Host, port: Option<u16>) -> route::Target {
    let endpoint = match host {
        Host::Address(address) => route::Endpoint::Address(*address),
        Host::Name(name) => route::Endpoint::Name(name.as_str().into()),
    };
    route::Target { endpoint, port }
}

fn named_target(gateway: &str) -> route::Target {
    let bare = gateway.trim_start_matches('[').trim_end_matches(']');
    let endpoint = match bare.parse() {
        Ok(address) => route::Endpoint::Address(address),
        Err(_) => route::Endpoint::Name(gateway.to_lowercase().into()),
    };
    route::Target {
        endpoint,
        port: None,
    }
}

/// One generation of the config, with what this shard has resolved from it so far.
pub struct Generation {
    pub config: Arc<Config>,
    /// Counts the generations of this process from 1.
    pub number: u64,
}
