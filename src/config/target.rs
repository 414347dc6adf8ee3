//! Where mail is sent by option: the items of `routes` and the target of `static_routes`.

use super::settings::Host;
use super::settings::RouteItem;
use super::settings::RouteKind;
use super::settings::RouteTarget;
use super::settings::StaticTarget;
use super::value;

/// Preference between two items of a list that name none: room for others in between.
const PREFERENCE_STEP: usize = 10;

/// `host:port`, `address:port`, `[v6]:port`; without a port, 25. The error continues the text.
pub fn parse_target(text: &str) -> Result<StaticTarget, String> {
    let (host, port) = split_port(text)?;
    let host = value::parse_host(host).map_err(|why| format!("names no host: {why}"))?;
    Ok(StaticTarget {
        host,
        port: port.unwrap_or(25),
    })
}

/// One item of `routes`: a host, an address, `__mx__`, or an `smtp://` form of them with
/// `pref`, `port` and `type`. `position` in the list decides the preference when none is given.
pub fn parse_route(text: &str, position: usize) -> Result<RouteItem, String> {
    let (scheme_less, is_url) = match text.strip_prefix("smtp://") {
        Some(rest) => (rest, true),
        None => (text, false),
    };
    if scheme_less.contains("://") {
        return Err("does not begin with smtp://".to_string());
    }
    let (authority, query) = match scheme_less.split_once('?') {
        Some((authority, query)) if is_url => (authority, query),
        Some(_) => return Err("has a `?` without smtp:// before it".to_string()),
        None => (scheme_less, ""),
    };
    let (host, port) = split_port(authority.trim_end_matches('/'))?;
    let is_placeholder = host.eq_ignore_ascii_case("__mx__");
    let target = match is_placeholder {
        true => RouteTarget::DomainMx,
        false => RouteTarget::Host(
            value::parse_host(host).map_err(|why| format!("names no host: {why}"))?,
        ),
    };
    let pref = u16::try_from((position + 1) * PREFERENCE_STEP).unwrap_or(u16::MAX);
    let kind = if is_placeholder {
        RouteKind::Mx
    } else {
        RouteKind::A
    };
    let mut route = RouteItem {
        target,
        port,
        pref,
        kind,
    };
    for parameter in query.split('&').filter(|it| !it.is_empty()) {
        apply(&mut route, parameter)?;
    }
    let is_name = matches!(&route.target, RouteTarget::Host(Host::Name(_)));
    match route.kind {
        RouteKind::Mx if !is_placeholder && !is_name => {
            Err("is an address: it has no MX to look up".to_string())
        }
        RouteKind::A if is_placeholder => Err("is always looked up as MX".to_string()),
        _ => Ok(route),
    }
}

fn apply(route: &mut RouteItem, parameter: &str) -> Result<(), String> {
    let (key, text) = parameter.split_once('=').unwrap_or((parameter, ""));
    let bad = || format!("has a parameter {key} that cannot be \"{text}\"");
    match key.to_ascii_lowercase().as_str() {
        "pref" => route.pref = text.parse().map_err(|_| bad())?,
        "port" => route.port = Some(parse_port(text).ok_or_else(bad)?),
        "type" if text.eq_ignore_ascii_case("mx") => route.kind = RouteKind::Mx,
        "type" if text.eq_ignore_ascii_case("a") => route.kind = RouteKind::A,
        "type" => return Err(bad()),
        "ttl" => return Err("has a ttl, which is not supported: DNS decides it".to_string()),
        _ => return Err(format!("has an unknown parameter \"{key}\"")),
    }
    Ok(())
}

fn parse_port(text: &str) -> Option<u16> {
    text.parse::<u16>().ok().filter(|it| *it > 0)
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    let port_of = |it: &str| parse_port(it).ok_or_else(|| format!("has no port in \":{it}\""));
    if let Some(end) = text.find(']').filter(|_| text.starts_with('[')) {
        let (host, rest) = text.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port_of(port)?))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err("has something after its `]`".to_string()),
        };
    }
    match text.split_once(':') {
        // Two colons without brackets: an IPv6 address.
        Some((_, rest)) if rest.contains(':') => Ok((text, None)),
        Some((host, port)) => Ok((host, Some(port_of(port)?))),
        None => Ok((text, None)),
    }
}

/// The form of an item that [`parse_route`] reads back as the same item at any position.
pub fn route_text(route: &RouteItem) -> String {
    let host = match &route.target {
        RouteTarget::DomainMx => "__mx__".to_string(),
        RouteTarget::Host(host) => host.to_string(),
    };
    let port = route.port.map_or(String::new(), |it| format!("&port={it}"));
    let kind = match (&route.target, route.kind) {
        (RouteTarget::Host(_), RouteKind::Mx) => "&type=mx",
        _ => "",
    };
    format!("smtp://{host}?pref={}{port}{kind}", route.pref)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read_in_every_form_and_written_back() {
        let cases = [
            ("relay.example", "smtp://relay.example?pref=10"),
            ("Relay.Example.:26", "smtp://relay.example?pref=10&port=26"),
            ("192.0.2.1", "smtp://192.0.2.1?pref=10"),
            ("[2001:db8::1]:26", "smtp://[2001:db8::1]?pref=10&port=26"),
            ("2001:db8::1", "smtp://[2001:db8::1]?pref=10"),
            ("__mx__", "smtp://__mx__?pref=10"),
            (
                "smtp://h?pref=5&port=2525&type=mx",
                "smtp://h?pref=5&port=2525&type=mx",
            ),
            ("smtp://h:26/?type=a", "smtp://h?pref=10&port=26"),
        ];
        for (text, expected) in cases {
            let route = parse_route(text, 0).expect(text);
            assert_eq!(route_text(&route), expected, "{text}");
            assert_eq!(parse_route(expected, 7).expect(expected), route);
        }
        assert_eq!(parse_route("h", 2).expect("a route").pref, 30);
        assert_eq!(parse_route("h", 100_000).expect("a route").pref, u16::MAX);
    }

    #[test]
    fn what_is_no_route_says_why() {
        let cases = [
            ("", "names no host"),
            ("a b", "names no host"),
            ("http://x", "smtp://"),
            ("h?pref=1", "without smtp://"),
            ("h:0", "no port"),
            ("h:x", "no port"),
            ("a:b:c", "does not contain ':'"),
            ("[::1]x", "after its"),
            ("smtp://h?pref=70000", "cannot be \"70000\""),
            ("smtp://h?ttl=5", "not supported"),
            ("smtp://h?color=5", "unknown parameter"),
            ("smtp://192.0.2.1?type=mx", "no MX"),
            ("smtp://__mx__?type=a", "always"),
        ];
        for (text, expected) in cases {
            let why = parse_route(text, 0).expect_err(text);
            assert!(why.contains(expected), "{text}: {why}");
        }
    }

    #[test]
    fn a_target_is_an_address_or_a_name_with_a_port() {
        let cases = [
            ("127.0.0.1:2526", 2526),
            ("sink.example", 25),
            ("[::1]:99", 99),
        ];
        for (text, port) in cases {
            assert_eq!(parse_target(text).expect(text).port, port, "{text}");
        }
        for text in ["", ":25", "host:", "host:99999"] {
            assert!(parse_target(text).is_err(), "{text}");
        }
    }
}
