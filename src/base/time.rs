//! Time as a value. Timers use the monotonic half of [`Now`], records and replies the wall half.
//! Nothing here reads a clock.

use core::fmt;
use core::ops::{Add, Sub};
use core::time::Duration;

use crate::base::text::push_number;

/// Microseconds since some moment before the process began. Never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Mono(pub u64);

/// Microseconds since 1970-01-01 UTC. May jump.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Wall(pub u64);

/// One moment on both clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    pub mono: Mono,
    pub wall: Wall,
}

impl Now {
    /// The monotonic moment at which the wall clock will show `wall`, if neither clock jumps.
    /// A moment in the past is now.
    pub fn mono_of(self, wall: Wall) -> Mono {
        Mono(
            self.mono
                .0
                .saturating_add(wall.0.saturating_sub(self.wall.0)),
        )
    }

    /// The wall time at the monotonic moment `mono`.
    pub fn wall_of(self, mono: Mono) -> Wall {
        if mono >= self.mono {
            Wall(self.wall.0.saturating_add(mono.0 - self.mono.0))
        } else {
            Wall(self.wall.0.saturating_sub(self.mono.0 - mono.0))
        }
    }
}

impl Mono {
    pub const MAX: Mono = Mono(u64::MAX);

    /// Time from `earlier` to this moment; zero if it is the other way round.
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// So much earlier; the zero of the clock at the earliest.
    pub fn before(self, duration: Duration) -> Mono {
        Mono(self.0.saturating_sub(micros(duration)))
    }
}

impl Wall {
    pub const MAX: Wall = Wall(u64::MAX);

    pub fn since(self, earlier: Wall) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The beginning of a day in UTC, written as 2026-11-20.
    pub fn of_date(text: &str) -> Option<Wall> {
        let is_shaped = |(at, it): (usize, u8)| match at {
            4 | 7 => it == b'-',
            _ => it.is_ascii_digit(),
        };
        if text.len() != 10 || !text.bytes().enumerate().all(is_shaped) {
            return None;
        }
        let part = |from: usize, to: usize| text[from..to].parse::<i64>().ok();
        let (year, month, day) = (part(0, 4)?, part(5, 7)?, part(8, 10)?);
        // The inverse of `civil`.
        let of_march = year - i64::from(month <= 2);
        let (era, of_era) = (of_march.div_euclid(400), of_march.rem_euclid(400));
        let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
        let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
        let days = u64::try_from(era * 146_097 + day_of_era - 719_468).ok()?;
        let found = Wall::from_secs(days * 86_400);
        let c = civil(found);
        let same = (c.year, i64::from(c.month), i64::from(c.day)) == (year, month, day);
        same.then_some(found)
    }

    pub fn from_secs(secs: u64) -> Wall {
        Wall(secs.saturating_mul(1_000_000))
    }

    pub fn secs(self) -> u64 {
        self.0 / 1_000_000
    }

    /// RFC 3339 in UTC with milliseconds, for records and JSON.
    pub fn rfc3339(self) -> Rfc3339 {
        Rfc3339(self)
    }

    /// RFC 5322 date-time in UTC, for trace header fields.
    pub fn push_rfc5322(self, out: &mut Vec<u8>) {
        const DAYS: [&[u8]; 7] = [
            b"Sun, ", b"Mon, ", b"Tue, ", b"Wed, ", b"Thu, ", b"Fri, ", b"Sat, ",
        ];
        const MONTHS: [&[u8]; 12] = [
            b" Jan ", b" Feb ", b" Mar ", b" Apr ", b" May ", b" Jun ", b" Jul ", b" Aug ",
            b" Sep ", b" Oct ", b" Nov ", b" Dec ",
        ];
        let c = civil(self);
        out.extend_from_slice(DAYS[c.weekday as usize]);
        push_number(out, c.day.into());
        out.extend_from_slice(MONTHS[c.month as usize - 1]);
        push_number(out, c.year.cast_unsigned());
        let mut clock = *b" 00:00:00 +0000";
        for (place, value) in [(1, c.hour), (4, c.minute), (7, c.second)] {
            clock[place] += (value / 10) as u8;
            clock[place + 1] += (value % 10) as u8;
        }
        out.extend_from_slice(&clock);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Add<Duration> for Mono {
    type Output = Mono;
    fn add(self, duration: Duration) -> Mono {
        Mono(self.0.saturating_add(micros(duration)))
    }
}

impl Add<Duration> for Wall {
    type Output = Wall;
    fn add(self, duration: Duration) -> Wall {
        Wall(self.0.saturating_add(micros(duration)))
    }
}

impl Sub<Duration> for Wall {
    type Output = Wall;
    fn sub(self, duration: Duration) -> Wall {
        Wall(self.0.saturating_sub(micros(duration)))
    }
}

/// A calendar date and time of day in UTC.
struct Civil {
    year: i64,
    month: u32,
    day: u32,
    weekday: u32,
    hour: u64,
    minute: u64,
    second: u64,
}

/// Howard Hinnant's days-to-civil algorithm, public domain, for years from 1970.
fn civil(wall: Wall) -> Civil {
    let secs = wall.secs();
    let days = (secs / 86_400) as i64;
    let of_day = secs % 86_400;
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z - era * 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    Civil {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month: month as u32,
        day: (day_of_year - (153 * shifted + 2) / 5 + 1) as u32,
        weekday: ((days + 4) % 7) as u32,
        hour: of_day / 3_600,
        minute: of_day / 60 % 60,
        second: of_day % 60,
    }
}

pub struct Rfc3339(Wall);

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = civil(self.0);
        let milli = self.0.0 / 1_000 % 1_000;
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{milli:03}Z",
            c.year, c.month, c.day, c.hour, c.minute, c.second
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_and_days_that_are_none_are_not() {
        for date in ["1970-01-01", "2026-11-20", "2028-02-29", "2999-12-31"] {
            let read = Wall::of_date(date).expect(date);
            assert_eq!(read.rfc3339().to_string(), format!("{date}T00:00:00.000Z"));
        }
        let wrong = [
            "",
            "2026-02-29",
            "2026-13-01",
            "2026-1-1",
            "1969-12-31",
            "+026-01-01",
        ];
        for date in wrong {
            assert_eq!(Wall::of_date(date), None, "{date}");
        }
    }

    #[test]
    fn known_moments_are_written_right() {
        let cases = [
            (
                0,
                "1970-01-01T00:00:00.000Z",
                "Thu, 1 Jan 1970 00:00:00 +0000",
            ),
            (
                951_826_155,
                "2000-02-29T12:09:15.000Z",
                "Tue, 29 Feb 2000 12:09:15 +0000",
            ),
            (
                1_767_225_599,
                "2025-12-31T23:59:59.000Z",
                "Wed, 31 Dec 2025 23:59:59 +0000",
            ),
            (
                4_107_542_400,
                "2100-03-01T00:00:00.000Z",
                "Mon, 1 Mar 2100 00:00:00 +0000",
            ),
        ];
        for (secs, rfc3339, rfc5322) in cases {
            assert_eq!(Wall::from_secs(secs).rfc3339().to_string(), rfc3339);
            let mut out = Vec::new();
            Wall::from_secs(secs).push_rfc5322(&mut out);
            assert_eq!(String::from_utf8(out).unwrap(), rfc5322);
        }
    }

    #[test]
    fn the_two_clocks_translate() {
        let now = Now {
            mono: Mono(5_000_000),
            wall: Wall::from_secs(1_000),
        };
        assert_eq!(now.mono_of(Wall::from_secs(1_010)), Mono(15_000_000));
        assert_eq!(now.mono_of(Wall::from_secs(10)), now.mono);
        assert_eq!(now.wall_of(Mono(4_000_000)), Wall::from_secs(999));
    }
}
