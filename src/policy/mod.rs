//! L3: what is decided about mail that comes in: the phases at which something may be decided, who
//! may have mail relayed where, which binding sends it, and in which flow it waits. Pure functions
//! of settings and envelope; nothing here knows of sessions, of the spool or of queues.

pub mod binding;
pub mod flow;
pub mod relay;

/// The phases of a message's way in, in the order in which they come (the hook points of Momentum:
/// one per step of the session, then one per message, whatever way it came in).
///
/// What may be decided where: a connection is refused at any of the first five; a recipient only at
/// `RcptTo`; the whole batch at `Data` or `DataSpool`; a recipient's own copy is changed at
/// `EachRcpt`; the binding is set only at `SetBinding`; and at `FinalValidation` the message may
/// still be refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Phase {
    Connect,
    Ehlo,
    MailFrom,
    RcptTo,
    Data,
    DataSpool,
    EachRcpt,
    SetBinding,
    FinalValidation,
}

impl Phase {
    /// In order.
    pub const ALL: [Phase; 9] = [
        Phase::Connect,
        Phase::Ehlo,
        Phase::MailFrom,
        Phase::RcptTo,
        Phase::Data,
        Phase::DataSpool,
        Phase::EachRcpt,
        Phase::SetBinding,
        Phase::FinalValidation,
    ];

    /// The name of the hook point.
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Connect => "connect",
            Phase::Ehlo => "ehlo",
            Phase::MailFrom => "mailfrom",
            Phase::RcptTo => "rcptto",
            Phase::Data => "data",
            Phase::DataSpool => "data_spool",
            Phase::EachRcpt => "each_rcpt",
            Phase::SetBinding => "set_binding",
            Phase::FinalValidation => "final_validation",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_listed_in_their_order_and_named_apart() {
        assert!(Phase::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        assert!(
            Phase::ALL
                .windows(2)
                .all(|pair| pair[0].as_str() != pair[1].as_str())
        );
    }
}
