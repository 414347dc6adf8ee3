//! Names that Momentum knows and this version does not act on. They are refused as such: a name
//! that is silently accepted is a setting that its writer believes in.

use super::options;

/// Options of Momentum 4 that are not supported.
const OPTIONS: &[&str] = &[
    "_unsafe_spool",
    "adaptive_backoff_interval",
    "adaptive_backstore_failure_penalty",
    "adaptive_cache_size",
    "adaptive_cache_ttl",
    "adaptive_retry_fuzz",
    "adaptive_stats_period",
    "authloginparameters",
    "binding_domain_cache_size",
    "bounce_behavior",
    "bounce_domains",
    "bounce_pattern",
    "bounce_sweep_interval",
    "bounces_inline_original",
    "click_tracking_enabled",
    "click_tracking_scheme",
    "cluster_max_outbound_connections",
    "cluster_outbound_throttle_connections",
    "cluster_outbound_throttle_messages",
    "cluster_scope_max_outbound_connections",
    "cluster_server_max_outbound_connections",
    "context",
    "control_group",
    "cust_prefix",
    "custom_classes",
    "data_store_sync_interval",
    "delayed_binding_domain_fuzz",
    "delayed_queue_scan_interval",
    "delivery_method",
    "disk_queue_drain_rate",
    "dns_failures_to_purge",
    "ecstream_port",
    "enable_bounce_stats",
    "enable_fbl_stats",
    "enable_jlog",
    "enable_logging",
    "engagement_tracking_host",
    "event_loop",
    "exclude_vctx_conn",
    "exclude_vctx_mess",
    "expensive_batch_assessment",
    "fbl_stats_monitor",
    "force_max_binding_age",
    "fully_resolve_before_smtp",
    "gen_count",
    "gen_transactional_threads",
    "generate_bounces",
    "generate_delay_dsn",
    "growbuf_size",
    "hot_domains",
    "inline_transfail_processing",
    "keep_message_dicts_in_memory",
    "large_message_threshold",
    "legacy_message_threshold",
    "lmtp_port",
    "local_changes_file",
    "local_changes_only",
    "log_base",
    "mail_queue_check_vm_interval",
    "match_cache_life",
    "max_resident_transfails",
    "open_tracking_enabled",
    "open_tracking_scheme",
    "operational_log_level",
    "outbound_throttle_messages_monitor",
    "pathway",
    "read_cache_after_suspension",
    "reconfig_message",
    "reserve_maintenance_interval",
    "rfc2822_lone_lf_in_body",
    "rfc2822_lone_lf_in_headers",
    "rfc2822_max_line_length_policy",
    "rollup_mx",
    "rollup_mx_name",
    "scheduled_interval_delete",
    "smtp_extensions",
    "soft_bounce_drain_rate",
    "split_logs_by_binding",
    "start_time_max_schedule_interval",
    "starttls_injection_policy",
    "suppress_spool",
    "suspend_sweep_interval",
    "swap_out_meta_after_each_tempfail",
    "tls",
    "tls_ca",
    "tls_certificate",
    "tls_ciphers",
    "tls_client_ca",
    "tls_engine",
    "tls_ifavailable_fallback",
    "tls_key",
    "tls_key_passphrase",
    "tls_macs",
    "tls_protocols",
    "tls_verify",
    "tls_verify_mode",
    "tracking_domain",
    "tracking_link_expiry",
    "transfail_drain_rate",
    "unlink_on_spool_in_failure",
    "write_jlog",
];

/// Stanzas and modules of Momentum 4 that are not supported.
const STANZAS: &[&str] = &[
    "adaptive",
    "alerting",
    "bounce_classifier",
    "bounce_classifier_override",
    "bounce_logger",
    "brightmail",
    "chunk_logger",
    "clamav",
    "cluster",
    "csapi",
    "custom_logger",
    "debug_flags",
    "delay_dsn",
    "dkim",
    "dkim_sign",
    "dkim_validate",
    "domainkeys",
    "ds_core",
    "ecstream_listener",
    "event_hydrant",
    "eventloop",
    "fbl",
    "inbound_audit",
    "jlog",
    "lmtp_listener",
    "msg_gen",
    "opendkim",
    "openssl",
    "outbound_audit",
    "pathway",
    "pathway_group",
    "replicate",
    "scheduled_send",
    "script",
    "scriptlet",
    "security",
    "sieve",
    "sieve_plus",
    "smtpapi",
    "snmp",
    "spf",
    "threadpool",
    "timestampformat",
    "xclient",
    "xmpp_listener",
];

/// Families of option names that are known as a whole.
const PREFIXES: &[&str] = &[
    "adaptive_",
    "backing_store_",
    "cluster_",
    "dkim_",
    "opendkim_",
    "tls_",
];

/// True if Momentum has an option of this name and Pelton does not.
pub fn is_foreign_option(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let of_family = || PREFIXES.iter().any(|it| name.starts_with(it));
    OPTIONS.contains(&name.as_str()) || of_family() && options::find(&name).is_none()
}

/// True if Momentum has a stanza or module of this name and Pelton does not.
pub fn is_foreign_stanza(name: &str) -> bool {
    STANZAS.contains(&name.to_ascii_lowercase().as_str())
}

/// What to do instead, where there is something.
pub fn advice(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    if ["dkim", "opendkim"].iter().any(|it| name.starts_with(it)) {
        return Some("no such line: Pelton does not sign mail");
    }
    match name.as_str() {
        "adaptive" => Some("adaptive_enabled = true, in any scope"),
        "suppress_spool" | "_unsafe_spool" => Some("Spool_Sync = none if losing mail is fine"),
        "delivery_method" => Some("no such line: delivery is always by ESMTP"),
        "fully_resolve_before_smtp" => Some("no such line: hosts are always resolved first"),
        "generate_bounces" => Some("no such line: failures are events, no bounces are sent"),
        "match_cache_life" => Some("no such line: the cache lives as long as its configuration"),
        "rfc2822_max_line_length_policy" => Some("max_line_length"),
        "delayed_queue_scan_interval" => Some("no such line: queues wake when something is due"),
        "reserve_maintenance_interval" => Some("no such line: queues wake when a slot is free"),
        "tls" => Some("no such line: mail is sent and received without TLS"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted_and_lower_case() {
        for list in [OPTIONS, STANZAS] {
            assert!(list.is_sorted());
            assert!(list.iter().all(|it| it.to_ascii_lowercase() == **it));
        }
    }

    #[test]
    fn families_are_known_as_a_whole() {
        assert!(is_foreign_option("Adaptive_Anything") && is_foreign_option("TLS"));
        assert!(is_foreign_option("OpenDKIM_Sign") && is_foreign_option("Backing_Store_Timeout"));
        assert!(advice("OpenDKIM_Sign").is_some_and(|it| it.contains("does not sign")));
        assert!(!is_foreign_option("retry_interval") && is_foreign_stanza("ThreadPool"));
    }
}
