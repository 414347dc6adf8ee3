//! `curfew`: times of the week at which nothing is tried. `"22:00-06:00"`, `"sat,sun"`,
//! `"mon-fri 18:00-08:00 +01:00"`: days, hours and an offset from UTC, of which each may be left
//! out; all days, the whole day, UTC. Hours that end before they begin go on into the next day.

use core::time::Duration;

use crate::base::time::Wall;

const DAY_S: u32 = 86_400;
const WEEK_S: u32 = 7 * DAY_S;

/// 1970 began on a Thursday, three days after the beginning of its week.
const FIRST_DAY: u64 = 3;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// What is closed, and when that ends.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Curfew {
    /// From and to in seconds of the week of UTC, sorted, apart from each other, within a week.
    windows: Vec<(u32, u32)>,
    /// As they were written.
    items: Vec<String>,
}

impl Curfew {
    /// The error continues the text of the item.
    pub fn add(&mut self, item: &str) -> Result<(), String> {
        let mut words: Vec<&str> = item.split_whitespace().collect();
        let zone = words.pop_if(|word| is_zone(word));
        let offset_s = zone.map_or(Ok(0), zone_offset)?;
        let hours = words.pop_if(|word| word.contains(':'));
        let (from, to) = hours.map_or(Ok((0, DAY_S)), span)?;
        let days = match words[..] {
            [] if hours.is_none() => return Err("names neither days nor hours".to_owned()),
            [] => [true; 7],
            [days] => days_of(days)?,
            _ => return Err("has more than days, hours and an offset".to_owned()),
        };
        for (day, _) in days.iter().enumerate().filter(|(_, is_in)| **is_in) {
            let begin = day as i64 * i64::from(DAY_S) + i64::from(from) - offset_s;
            let begin = begin.rem_euclid(i64::from(WEEK_S)) as u32;
            let end = begin + (to - from);
            self.windows.push((begin, end.min(WEEK_S)));
            if end > WEEK_S {
                self.windows.push((0, end - WEEK_S));
            }
        }
        self.merge();
        self.items.push(item.to_owned());
        Ok(())
    }

    fn merge(&mut self) {
        self.windows.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (from, to) in self.windows.drain(..) {
            match merged.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => merged.push((from, to)),
            }
        }
        self.windows = merged;
    }

    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// It never opens.
    pub fn is_for_ever(&self) -> bool {
        self.windows == [(0, WEEK_S)]
    }

    /// As they were written.
    pub fn items(&self) -> &[String] {
        &self.items
    }

    /// When it opens, if it is closed at this moment.
    pub fn closed_until(&self, now: Wall) -> Option<Wall> {
        let second = (now.secs() + FIRST_DAY * u64::from(DAY_S)) % u64::from(WEEK_S);
        let second = second as u32;
        let (_, to) = self
            .windows
            .iter()
            .find(|(from, to)| (*from..*to).contains(&second))?;
        let mut left = to - second;
        // The end of the week is none if the next one begins closed.
        if let Some((0, first)) = self.windows.first().filter(|_| *to == WEEK_S) {
            left += first;
        }
        let whole = Wall::from_secs(now.secs());
        Some(whole + Duration::from_secs(left.into()))
    }
}

fn is_zone(word: &str) -> bool {
    word.eq_ignore_ascii_case("utc") || word.starts_with(['+', '-']) || word.contains('/')
}

/// Seconds ahead of UTC.
fn zone_offset(word: &str) -> Result<i64, String> {
    if word.eq_ignore_ascii_case("utc") {
        return Ok(0);
    }
    let refuse = || format!("has no offset from UTC in \"{word}\": +01:00 is one, UTC another");
    let rest = word.strip_prefix(['+', '-']).ok_or_else(refuse)?;
    let (second, _) = time(rest).ok_or_else(refuse)?;
    let second = i64::from(second);
    Ok(if word.starts_with('-') {
        -second
    } else {
        second
    })
}

/// `22:00-06:00` as seconds of the day, the end after the beginning.
fn span(text: &str) -> Result<(u32, u32), String> {
    let refuse = || format!("has no hours in \"{text}\": 22:00-06:00 are some");
    let (from, to) = text.split_once('-').ok_or_else(refuse)?;
    let (from, whole) = time(from).ok_or_else(refuse)?;
    let (to, _) = time(to).ok_or_else(refuse)?;
    if from == to || whole {
        return Err(format!("has hours that are none in \"{text}\""));
    }
    Ok((from, if to > from { to } else { to + DAY_S }))
}

/// `HH:MM` or `HH:MM:SS`, and whether it is 24:00.
fn time(text: &str) -> Option<(u32, bool)> {
    let mut parts = text.split(':').map(|part| {
        let digits = part.len() == 2 && part.bytes().all(|it| it.is_ascii_digit());
        part.parse::<u32>().ok().filter(|_| digits)
    });
    let (hour, minute) = (parts.next()??, parts.next()??);
    let second = parts.next().map_or(Some(0), |it| it)?;
    let at = hour * 3_600 + minute * 60 + second;
    let fits = minute < 60 && second < 60 && at <= DAY_S && parts.next().is_none();
    fits.then_some((at, at == DAY_S))
}

/// `mon`, `sat,sun`, `mon-fri`, `fri-mon`.
fn days_of(text: &str) -> Result<[bool; 7], String> {
    let number = |name: &str| {
        let found = DAYS.iter().position(|it| it.eq_ignore_ascii_case(name));
        found.ok_or_else(|| format!("has no day \"{name}\": {}", DAYS.join(" ")))
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        let count = (last + 7 - first) % 7;
        for day in first..=first + count {
            days[day % 7] = true;
        }
    }
    Ok(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Monday, 2026-11-23, 00:00 UTC.
    const MONDAY: u64 = 1_795_392_000;

    fn curfew(items: &[&str]) -> Result<Curfew, String> {
        let mut curfew = Curfew::default();
        for item in items {
            curfew.add(item)?;
        }
        Ok(curfew)
    }

    /// Hours after the beginning of Monday at which it opens, if it is closed after so many.
    fn opens(items: &[&str], hours: u64) -> Option<u64> {
        let now = Wall::from_secs(MONDAY + hours * 3_600);
        let until = curfew(items).unwrap().closed_until(now)?;
        assert_eq!((until.secs() - MONDAY) % 3_600, 0);
        Some((until.secs() - MONDAY) / 3_600)
    }

    #[test]
    fn it_is_closed_when_it_says_and_opens_when_that_ends() {
        let night = ["22:00-06:00"];
        let weekend = ["sat,sun"];
        let both = ["22:00-06:00", "sat,sun"];
        let office = ["mon-fri 18:00-08:00 +01:00"];
        let cases: [(&[&str], u64, Option<u64>); 14] = [
            (&night, 21, None),
            (&night, 22, Some(30)),
            (&night, 29, Some(30)),
            (&night, 30, None),
            (&night, 0, Some(6)),
            // Sunday night goes on into Monday.
            (&night, 167, Some(174)),
            (&weekend, 119, None),
            (&weekend, 120, Some(168)),
            (&both, 118, Some(174)),
            (&office, 16, None),
            (&office, 17, Some(31)),
            (&office, 4 * 24 + 17, Some(5 * 24 + 7)),
            (&office, 5 * 24 + 17, None),
            (&["fri-mon"], 4, Some(24)),
        ];
        for (items, hours, expected) in cases {
            assert_eq!(opens(items, hours), expected, "{items:?} at {hours}");
        }
    }

    #[test]
    fn it_opens_to_the_second() {
        let curfew = curfew(&["00:00-00:00:03"]).unwrap();
        let at = |us: u64| curfew.closed_until(Wall(MONDAY * 1_000_000 + us));
        assert_eq!(at(2_999_999), Some(Wall::from_secs(MONDAY + 3)));
        assert_eq!(at(3_000_000), None);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for item in [
            "",
            "UTC",
            "22:00",
            "22-06",
            "22:00-22:00",
            "24:00-06:00",
            "25:00-06:00",
            "22:00-06:60",
            "caturday",
            "mon 22:00-06:00 Europe/Berlin",
            "mon tue 22:00-06:00",
            "mon 22:00-06:00 +1",
        ] {
            assert!(curfew(&[item]).is_err(), "{item:?}");
        }
        assert!(curfew(&["mon-sun"]).unwrap().is_for_ever());
        assert!(
            curfew(&["12:00-24:00", "00:00-12:00"])
                .unwrap()
                .is_for_ever()
        );
    }
}
