//! L6: what is slow, rare or needs a big library, on one thread of its own: DNS, the management
//! socket, the HTTP listener, the journal, reload, and what adaptive delivery has learnt. It sees
//! shards only through the bridge.

pub mod dns;
pub mod http;
pub mod journal;
pub mod learnt;
pub mod ledger;
pub mod management;
pub mod metrics;
pub mod orders;
pub mod reading;
pub mod startup;
pub mod supervisor;
pub mod switchboard;
pub mod throttles;
