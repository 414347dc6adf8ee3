//! How many connections a queue wants. Pure arithmetic; limits and throttles are asked elsewhere.

/// `Connection_Allocation_Aggressiveness`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Aggressiveness {
    /// Grows with the square root of what waits: 1 message opens one connection, 100 open ten.
    #[default]
    Normal,
    /// One connection for each waiting message, up to the limit.
    High,
}

/// Connections a queue with `active` messages should have, at most `connections_max`.
pub fn connection_goal(how: Aggressiveness, active: usize, connections_max: u32) -> u32 {
    let wanted = match how {
        Aggressiveness::Normal => ceil_sqrt(active),
        Aggressiveness::High => active,
    };
    u32::try_from(wanted)
        .unwrap_or(u32::MAX)
        .min(connections_max)
}

/// How a queue stands with its connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connections {
    /// Open or being opened, busy or idle.
    pub existing: u32,
    /// Those of them that could start a message now or will be able to once they are open.
    pub free: u32,
}

/// Connections to open now. Never more than there are messages for which no connection is free.
pub fn connections_to_open(goal: u32, have: Connections, active: usize) -> u32 {
    let unserved = active.saturating_sub(have.free as usize);
    let room = goal.saturating_sub(have.existing);
    room.min(u32::try_from(unserved).unwrap_or(u32::MAX))
}

fn ceil_sqrt(number: usize) -> usize {
    let root = number.isqrt();
    if root * root == number {
        root
    } else {
        root + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_goal_grows_with_the_queue_up_to_the_limit() {
        let normal = [
            (0, 0),
            (1, 1),
            (2, 2),
            (4, 2),
            (5, 3),
            (100, 10),
            (101, 11),
            (5_000, 32),
        ];
        for (active, goal) in normal {
            assert_eq!(
                connection_goal(Aggressiveness::Normal, active, 32),
                goal,
                "{active}"
            );
        }
        for (active, goal) in [(0, 0), (1, 1), (31, 31), (33, 32), (usize::MAX, 32)] {
            assert_eq!(
                connection_goal(Aggressiveness::High, active, 32),
                goal,
                "{active}"
            );
        }
        assert_eq!(connection_goal(Aggressiveness::Normal, usize::MAX, 0), 0);
    }

    #[test]
    fn no_connection_is_opened_that_nobody_needs() {
        let cases = [
            // goal, existing, free, active, open
            (3, 0, 0, 5, 3),
            (3, 2, 0, 5, 1),
            (3, 3, 0, 5, 0),
            (3, 5, 0, 5, 0),
            (3, 1, 1, 1, 0),
            (3, 1, 1, 2, 1),
            (0, 0, 0, 9, 0),
        ];
        for (goal, existing, free, active, open) in cases {
            let have = Connections { existing, free };
            assert_eq!(
                connections_to_open(goal, have, active),
                open,
                "{goal} {have:?} {active}"
            );
        }
    }
}
