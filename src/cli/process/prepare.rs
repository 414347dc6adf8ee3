//! What a process needs before its first shard runs: one setup per shard, the addresses to listen
//! on, and what the machine is.

use core::time::Duration;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use crate::base::prng::Prng;
use crate::cli::process::Options;
use crate::config::{Config, ListenerKind, SpoolSync};
use crate::control::management::disk_space;
use crate::control::{http, metrics, startup};
use crate::engine::Setup;
use crate::engine::cells::Cells;
use crate::engine::settings::Identity;
use crate::hose::{self, Hose};
use crate::log::SyncMode;
use crate::shard::disk::io_uring_sentence;
use crate::shard::{clock::Clock, net};
use crate::spool::{self, Beginning, Spool, SpoolFile};
use crate::types::order::Absent;

/// The share of the disk that one shard's segments may take is the disk: free space decides.
const SEGMENTS_MAX: u32 = 1_000_000;

/// Entries of a ring that is only tried: the fewest there are.
const ENTRIES_PROBED: u32 = 1;

/// After a kill, the kernel may keep a listening socket for some milliseconds.
const ADDRESS_WAIT: Duration = Duration::from_secs(1);
const ADDRESS_RETRY: Duration = Duration::from_millis(20);

/// Whether every listen address can be had. One that another process holds is an error, which the
/// shards' own sockets, sharing addresses by SO_REUSEPORT, would not notice.
pub(super) fn claim_addresses(config: &Config, clock: &Clock) -> Result<(), String> {
    let until = clock.now().mono + ADDRESS_WAIT;
    for (address, place) in listen_addresses(config) {
        while let Err(error) = net::probe(address) {
            if error.kind() != std::io::ErrorKind::AddrInUse || clock.now().mono > until {
                return Err(listen_sentence(address, &place, &error));
            }
            std::thread::sleep(ADDRESS_RETRY);
        }
    }
    Ok(())
}

/// Whether there is an io_uring to be had, which containers often forbid.
pub(super) fn probe_ring() -> Result<(), String> {
    let probed = io_uring::IoUring::new(ENTRIES_PROBED);
    let refused = |error: std::io::Error| io_uring_sentence(&error.to_string());
    probed
        .map(drop)
        .map_err(|error| format!("E108 {}", refused(error)))
}

/// Source addresses that this machine does not have.
pub(super) fn absent_sources(config: &Config) -> Vec<Absent> {
    let sources = config.bindings().iter().flat_map(|binding| {
        let settings = config.binding_settings(binding.index);
        settings.bind_address.iter().map(|it| (&binding.name, *it))
    });
    sources
        .filter(|(_, address)| !net::is_here(*address))
        .map(|(name, address)| Absent {
            binding: name.clone(),
            address,
        })
        .collect()
}

/// One setup per shard. What the spool holds is in them, or comes later.
pub(super) fn setups(
    options: &Options,
    config: &Arc<Config>,
    spool_file: &SpoolFile,
    (beginnings, homes): (Vec<Beginning>, Option<Vec<spool::Home>>),
    seed: u64,
) -> Result<Vec<Setup>, String> {
    let global = config.global();
    let shards = beginnings.len();
    let mut cells = Cells::new(smtp_addresses(config).len());
    (cells.sessions_max, cells.outgoing_max) = connections_max(startup::descriptors());
    let cells = Arc::new(cells);
    sample(&cells, config, config);
    let identity = identity(options, config);
    let mut homes = homes.map(|homes| homes.into_iter().map(Box::new));
    let mut setups = Vec::new();
    for beginning in beginnings {
        let shard = beginning.shard;
        let mut log =
            crate::log::Config::new(spool_file.spool_id, shard, spool_file.starts, shards as u16);
        log.segment_bytes = global.spool_segment_size;
        log.sync = sync_mode(global.spool_sync);
        let spool_config = spool::Config {
            log,
            segments_max: SEGMENTS_MAX,
        };
        let existing = startup::event_files(Path::new(&global.event_log), shard, shards)?;
        let hose_settings = hose::Settings {
            max_file_bytes: global.event_log_max_size,
            max_total_bytes: global.event_log_max_total_size / shards as u64,
            retention: global.event_log_retention,
            ..hose::Settings::default()
        };
        setups.push(Setup {
            shard,
            shards,
            start: spool_file.starts,
            seed: Prng::new(seed ^ u64::from(shard.0)).next(),
            config: config.clone(),
            identity: identity.clone(),
            cells: cells.clone(),
            spool: Spool::new(spool_config, beginning),
            hose: Hose::new(hose_settings, shard, existing),
            orders: Arc::default(),
            recovered: homes.as_mut().and_then(Iterator::next),
            learnt: Vec::new(),
        });
    }
    Ok(setups)
}

fn sync_mode(option: SpoolSync) -> SyncMode {
    match option {
        SpoolSync::Commit => SyncMode::Commit,
        SpoolSync::Interval(every) => SyncMode::Interval(every),
        SpoolSync::None => SyncMode::None,
    }
}

/// Connections in and out that so many descriptors allow: an eighth is for files and the operator,
/// half for connections out, the rest for clients.
fn connections_max(descriptors: u64) -> (u64, u64) {
    let out = descriptors / 2;
    (descriptors - descriptors / 8 - out, out)
}

/// Names and addresses under which mail would come back to this process.
fn identity(options: &Options, config: &Config) -> Identity {
    let mut own_names: Vec<Box<str>> = vec![options.hostname.to_lowercase().into()];
    let mut own_addresses = Vec::new();
    for binding in config.bindings() {
        let settings = config.binding_settings(binding.index);
        own_names.push(settings.ehlo_hostname.to_lowercase().into());
        own_addresses.extend(&settings.bind_address);
    }
    own_addresses.extend(smtp_addresses(config).iter().map(SocketAddr::ip));
    own_addresses.retain(|address| !address.is_unspecified());
    own_names.sort();
    own_names.dedup();
    own_addresses.sort();
    own_addresses.dedup();
    Identity {
        own_names,
        own_addresses,
    }
}

pub(super) fn sample(cells: &Cells, config: &Config, boot: &Config) {
    let global = config.global();
    let spool = Path::new(&boot.global().spoolbase);
    if let Some((free, _)) = disk_space(spool) {
        let taken = startup::still_to_take(spool, boot.global().spool_segment_size);
        cells.disk_free.set(free.saturating_sub(taken));
    }
    cells
        .memory_used
        .set(metrics::Process::read().resident_bytes);
    let limit = match global.memory_limit {
        0 => machine_memory(),
        limit => limit,
    };
    cells.memory_limit.set(limit);
}

/// RAM, or what the control group allows if that is less; 0 if nobody says.
fn machine_memory() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    let ram = kib.unwrap_or(0) * 1_024;
    let group = std::fs::read_to_string("/sys/fs/cgroup/memory.max").unwrap_or_default();
    match group.trim().parse::<u64>() {
        Ok(limit) if limit < ram => limit,
        _ => ram,
    }
}

pub(super) fn smtp_addresses(config: &Config) -> Vec<SocketAddr> {
    let smtp = config
        .listeners()
        .iter()
        .filter(|it| it.kind == ListenerKind::Smtp);
    let mut listens: Vec<_> = smtp.flat_map(|it| &it.listens).collect();
    listens.sort_by_key(|listen| listen.index);
    listens.into_iter().map(|listen| listen.address).collect()
}

pub(super) fn http_listeners(
    config: &Config,
) -> Result<Vec<(tokio::net::TcpListener, http::Settings)>, String> {
    let http = config
        .listeners()
        .iter()
        .filter(|it| it.kind == ListenerKind::Http);
    let mut bound = Vec::new();
    for listen in http.flat_map(|it| &it.listens) {
        let failed = |error: std::io::Error| listen_sentence(listen.address, &listen.place, &error);
        let socket = net::listen(listen.address).map_err(failed)?;
        let listener = tokio::net::TcpListener::from_std(socket.into()).map_err(failed)?;
        let settings = config.http_settings(listen.index);
        let connections_max = settings.listener_sessions as usize;
        let idle_time = settings.idle_time;
        bound.push((
            listener,
            http::Settings {
                connections_max,
                idle_time,
            },
        ));
    }
    Ok(bound)
}

fn listen_addresses(config: &Config) -> Vec<(SocketAddr, String)> {
    let listens = config
        .listeners()
        .iter()
        .flat_map(|listener| &listener.listens);
    listens
        .map(|listen| (listen.address, listen.place.clone()))
        .collect()
}

pub(super) fn listen_sentence(address: SocketAddr, place: &str, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => format!(
            "E109 {place}: {address} is in use by another program. Stop that one, or listen \
             elsewhere"
        ),
        std::io::ErrorKind::PermissionDenied => format!(
            "E109 {place}: not allowed to listen on {address}: a port below 1024 needs \
             CAP_NET_BIND_SERVICE"
        ),
        std::io::ErrorKind::AddrNotAvailable => {
            format!("E109 {place}: {address} is no address of this machine")
        }
        _ => format!("E109 {place}: cannot listen on {address}: {error}"),
    }
}

/// The cores to pin shards to; none if they stay unpinned.
pub(super) fn cores(config: &Config, shards: usize) -> Vec<usize> {
    if !config.global().pin_shards {
        return Vec::new();
    }
    let found = core_affinity::get_core_ids().unwrap_or_default();
    // More shards than cores share them unpinned: pinned they would only get in each other's way.
    if found.len() < shards {
        Vec::new()
    } else {
        found.iter().map(|core| core.id).collect()
    }
}

/// Not for secrets: a seed, and the random number of a new spool.
pub(super) fn random() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}
