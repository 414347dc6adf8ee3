//! L0: what would be as useful without mail. Time as a value, seeded randomness, maps with a fixed
//! order, a slab with checked keys, the timer wheel, checksums, units, and the cells and throttles
//! that shards share. Nothing here knows of messages, sockets, files or clocks.

pub mod cells;
pub mod crc;
pub mod histogram;
pub mod id_map;
pub mod limit;
pub mod map;
pub mod marks;
pub mod peer_table;
pub mod prng;
pub mod short_text;
pub mod slab;
pub mod text;
pub mod throttle;
pub mod time;
pub mod timer_wheel;
pub mod units;
pub mod warmup;
