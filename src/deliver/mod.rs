//! L3: sending a message on. The SMTP client machine, the routing plan of a domain, the cache of
//! DNS answers, what is remembered about hosts, how many connections a queue wants, and what a
//! reply means. Nothing here knows of sockets, of queues or of other shards: bytes, answers and
//! times come in as arguments, and what is to be done goes out as values.

pub mod cache;
pub mod classify;
pub mod dns_answer;
pub mod goal;
pub mod hosts;
pub mod route;
pub mod session;
