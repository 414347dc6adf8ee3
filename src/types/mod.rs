//! L1: the nouns that two stages share: ids, addresses, messages, replies, outcomes.
//! Data and its text forms only; what is done with them belongs to the stages.

pub mod address;
pub mod filter;
pub mod flow;
pub mod id;
pub mod message;
pub mod order;
pub mod outcome;
pub mod replies;
pub mod reply;
pub mod sender;
