//! Questions of operators: what is an option here, and where does that come from.

use core::fmt;
use core::net::IpAddr;

use super::checked::Config;
use super::checked::DEFAULT_BINDING;
use super::diagnostic::Place;
use super::diagnostic::near_miss;
use super::domains;
use super::fallback;
use super::options;
use super::options::OPTIONS;
use super::options::OptionId;
use super::settings::BindingIndex;
use super::spec::Kind;
use super::spec::OptionSpec;
use super::spec::Preset;
use super::spec::ScopeKind;
use super::spec::or_list;
use super::tree::GLOBAL;
use super::tree::ScopeId;
use super::value;

/// For whom or what an option is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Name of a binding; none: `default`.
    pub binding: Option<String>,
    pub domain: Option<String>,
    /// Name of a receiving host, or its address.
    pub host: Option<String>,
    /// A listen address of the configuration.
    pub listen: Option<String>,
    /// The address of a client.
    pub peer: Option<IpAddr>,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nothing sets it, and it has no preset.
    Unset,
    /// The preset of the table.
    Default,
    /// A preset that follows from other options or the machine.
    Computed,
    /// A stanza.
    Stanza { place: Place, path: String },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Unset => f.write_str("not set anywhere"),
            Origin::Default => f.write_str("built-in default"),
            Origin::Computed => f.write_str("built-in default, derived"),
            Origin::Stanza { place, path } => write!(f, "{}:{} ({path})", place.file, place.line),
        }
    }
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evaluated {
    /// The option's name in the table.
    pub option: String,
    /// The value as the language writes it; none when there is none.
    pub value: Option<String>,
    pub origin: Origin,
    /// Scopes that were asked before and do not set it, the most specific first.
    pub passed_over: Vec<String>,
}

impl Config {
    /// The value of an option with fallback, and where it comes from. The error is a sentence for
    /// the operator.
    pub fn eval(&self, option: &str, query: &Query) -> Result<Evaluated, String> {
        let id = option_id(option)?;
        let spec = options::spec(id);
        let chain = self.chain_for(spec, query)?;
        let path = |it: &ScopeId| self.tree().path(*it);
        let answer = |value, origin, passed_over| Evaluated {
            option: spec.name.to_string(),
            value,
            origin,
            passed_over,
        };
        if let Some((scope, setting)) = self.first_setting(&chain, id) {
            let passed = chain
                .iter()
                .take_while(|it| **it != scope)
                .map(path)
                .collect();
            let origin = Origin::Stanza {
                place: self.place(setting.span),
                path: self.tree().path(scope),
            };
            return Ok(answer(Some(setting.value.to_string()), origin, passed));
        }
        let passed = chain.iter().map(path).collect();
        if query.host.is_some() {
            // A host limit never falls back: nothing set is no limit, as the option writes it.
            let none = match spec.kind {
                Kind::Limit { .. } => Some("-1".to_string()),
                _ => self.default_text(id),
            };
            return Ok(answer(none, Origin::Default, passed));
        }
        let origin = match spec.preset {
            Preset::Unset => Origin::Unset,
            Preset::Text(_) => Origin::Default,
            Preset::Computed(_) => Origin::Computed,
        };
        Ok(answer(self.default_text(id), origin, passed))
    }

    /// What exactly the named scope sets, without any fallback; none when it sets nothing.
    pub fn get(&self, option: &str, query: &Query) -> Result<Option<Evaluated>, String> {
        let id = option_id(option)?;
        let spec = options::spec(id);
        let scopes = self.scopes_named(spec, query)?;
        let Some((scope, setting)) = self.first_setting(&scopes, id) else {
            return Ok(None);
        };
        Ok(Some(Evaluated {
            option: spec.name.to_string(),
            value: Some(setting.value.to_string()),
            origin: Origin::Stanza {
                place: self.place(setting.span),
                path: self.tree().path(scope),
            },
            passed_over: Vec::new(),
        }))
    }

    fn chain_for(&self, spec: &OptionSpec, query: &Query) -> Result<Vec<ScopeId>, String> {
        check_query(spec, query)?;
        if let Some(host) = &query.host {
            let address = host
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse()
                .ok();
            let scopes = self.binding_scopes(self.binding_of(query)?);
            return Ok(scopes.host_chain(self.tree(), host, address));
        }
        if spec.allows(ScopeKind::StaticRoutes) {
            return Ok(self
                .tree()
                .exact(GLOBAL, ScopeKind::StaticRoutes, "")
                .into_iter()
                .collect());
        }
        let asks_for_client = query.listen.is_some() || query.peer.is_some();
        let both_ways = spec.allows(ScopeKind::Domain) && spec.allows(ScopeKind::SmtpListen);
        if both_ways && asks_for_client {
            let listen = self.listen_of(spec, query)?;
            let chain = listen.map(|it| fallback::listener_chain(self.tree(), it, query.peer));
            // What global says is meant for mail that goes out.
            let chain = chain.into_iter().flatten();
            return Ok(chain.filter(|it| *it != GLOBAL).collect());
        }
        let listens = spec.allows(ScopeKind::SmtpListen) || spec.allows(ScopeKind::HttpListen);
        if listens && !both_ways {
            return match self.listen_of(spec, query)? {
                Some(listen) => Ok(fallback::listener_chain(self.tree(), listen, query.peer)),
                None => Ok(vec![GLOBAL]),
            };
        }
        if spec.allows(ScopeKind::Binding) || spec.allows(ScopeKind::Domain) {
            let scopes = self.binding_scopes(self.binding_of(query)?);
            return Ok(scopes.delivery_chain(self.tree(), query.domain.as_deref()));
        }
        Ok(vec![GLOBAL])
    }

    fn binding_of(&self, query: &Query) -> Result<BindingIndex, String> {
        let name = query.binding.as_deref().unwrap_or(DEFAULT_BINDING);
        self.binding_by_name(name).ok_or_else(|| {
            let names = self.bindings().iter().map(|it| it.name.as_str());
            format!(
                "no binding \"{name}\" is defined{}",
                hint(near_miss(name, names))
            )
        })
    }

    /// The listen scope that a question means; the only one when it names none.
    fn listen_of(&self, spec: &OptionSpec, query: &Query) -> Result<Option<ScopeId>, String> {
        let mut listens: Vec<ScopeId> = Vec::new();
        if spec.allows(ScopeKind::SmtpListen) {
            listens.extend(self.smtp_listens());
        }
        if spec.allows(ScopeKind::HttpListen) && query.peer.is_none() {
            listens.extend(self.http_listens());
        }
        let name_of = |it: &ScopeId| self.tree().scope(*it).name.clone().unwrap_or_default();
        let names: Vec<String> = listens.iter().map(name_of).collect();
        let shown = names.iter().map(String::as_str).collect::<Vec<_>>();
        let Some(wanted) = &query.listen else {
            return match listens.as_slice() {
                [] => Ok(None),
                [only] => Ok(Some(*only)),
                _ => Err(format!(
                    "{} is set per listen address: say which with --listen {}",
                    spec.name,
                    or_list(&shown)
                )),
            };
        };
        let canonical = value::socket_address(wanted, None).map(|it| it.to_string());
        let found = names.iter().position(|it| Some(it) == canonical.as_ref());
        found
            .map(|it| Some(listens[it]))
            .ok_or_else(|| match shown.is_empty() {
                true => format!("nothing listens on {wanted}"),
                false => format!("nothing listens on {wanted}: expected {}", or_list(&shown)),
            })
    }

    /// The scopes that a question names without any fallback; two when a binding of this name
    /// stands inside a group and outside of it.
    fn scopes_named(&self, spec: &OptionSpec, query: &Query) -> Result<Vec<ScopeId>, String> {
        check_query(spec, query)?;
        if query.listen.is_some() || query.peer.is_some() {
            let chain = self.chain_for(spec, query)?;
            return Ok(chain.into_iter().take(1).collect());
        }
        let containers = match &query.binding {
            None => vec![GLOBAL],
            Some(_) => {
                let scopes = self.binding_scopes(self.binding_of(query)?);
                scopes.grouped.into_iter().chain(scopes.free).collect()
            }
        };
        let inner = match (&query.domain, &query.host) {
            (_, Some(host)) => Some((ScopeKind::Host, host)),
            (Some(domain), None) => Some((ScopeKind::Domain, domain)),
            (None, None) => None,
        };
        let Some((kind, name)) = inner else {
            return Ok(containers);
        };
        let name = match domains::pattern_of(name) {
            Some(_) => name.clone(),
            None => domains::normal(name),
        };
        let scopes = containers
            .into_iter()
            .filter_map(|it| self.tree().exact(it, kind, &name));
        Ok(scopes.collect())
    }
}

fn option_id(name: &str) -> Result<OptionId, String> {
    options::find(name).ok_or_else(|| {
        let near = near_miss(name, OPTIONS.iter().map(|it| it.name));
        format!("no option is called \"{name}\"{}", hint(near))
    })
}

/// A part of the question that cannot matter for this option is a misunderstanding: say so.
fn check_query(spec: &OptionSpec, query: &Query) -> Result<(), String> {
    let is_any = |kinds: &[ScopeKind]| kinds.iter().any(|it| spec.allows(*it));
    let delivery = is_any(&[ScopeKind::Binding, ScopeKind::Domain]);
    let parts = [
        (query.binding.is_some(), delivery, "a binding"),
        (
            query.domain.is_some(),
            is_any(&[ScopeKind::Domain]),
            "a domain",
        ),
        (query.host.is_some(), is_any(&[ScopeKind::Host]), "a host"),
        (
            query.listen.is_some(),
            is_any(&[ScopeKind::SmtpListen, ScopeKind::HttpListen]),
            "a listen address",
        ),
        (
            query.peer.is_some(),
            is_any(&[ScopeKind::SmtpPeer]),
            "a peer",
        ),
    ];
    for (is_given, is_possible, what) in parts {
        if is_given && !is_possible {
            let scopes: Vec<&str> = spec.scopes.iter().map(|it| it.words()).collect();
            return Err(format!(
                "{} does not depend on {what}: it is set in {}",
                spec.name,
                or_list(&scopes)
            ));
        }
    }
    match query.host.is_some() && query.domain.is_some() {
        true => Err("a host limit does not depend on a domain: give one of the two".to_string()),
        false => Ok(()),
    }
}

fn hint(near: Option<&str>) -> String {
    near.map_or(String::new(), |it| format!("; did you mean \"{it}\"?"))
}
