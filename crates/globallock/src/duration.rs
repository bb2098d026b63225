//! Durations as people write and read them: `250ms`, `1.5s`, `1h30m`, `4 min`, `2 days`.

use std::fmt;
use std::time::Duration;

/// How a unit may be written, and how many seconds it has; the longest one first.
const UNITS: &[(&[&str], f64)] = &[
    (&["d", "day", "days"], 86400.0),
    (&["h", "hr", "hour", "hours"], 3600.0),
    (&["m", "min", "mins", "minute", "minutes"], 60.0),
    (&["s", "sec", "secs", "second", "seconds"], 1.0),
    (&["ms", "msec", "millisecond", "milliseconds"], 0.001),
];

/// Parses a duration. A number without a unit is in seconds. Of several numbers, each has a unit that is
/// shorter than the one before.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut shortest = None;
    let mut seconds = 0.0;
    loop {
        let (number, unit);
        (number, rest) = split(rest, |c| c.is_ascii_digit() || c == '.');
        (unit, rest) = split(rest.trim_start(), |c| c.is_ascii_alphabetic());
        rest = rest.trim_start();
        let is_alone = shortest.is_none() && rest.is_empty();
        let place = match unit {
            "" => UNITS.iter().position(|(_, seconds)| *seconds == 1.0).filter(|_| is_alone),
            unit => UNITS.iter().position(|(written, _)| written.contains(&unit)),
        }?;
        if shortest.is_some_and(|shortest| place <= shortest) {
            return None;
        }
        shortest = Some(place);
        seconds += number.parse::<f64>().ok()? * UNITS[place].1;
        if rest.is_empty() {
            return Duration::try_from_secs_f64(seconds).ok();
        }
    }
}

/// The longest beginning of such characters, and the rest.
fn split(text: &str, is_part: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()))
}

/// A duration for people to read: rounded down to what matters, in one unit or two.
#[derive(Clone, Copy, Debug)]
pub struct Shown(pub Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let mut two = |whole: u64, unit: &str, part: u64, smaller: &str| match part {
            0 => write!(f, "{whole} {unit}"),
            part => write!(f, "{whole} {unit} {part} {smaller}"),
        };
        match seconds {
            0 if self.0.is_zero() => f.write_str("0 s"),
            0 => match self.0.as_micros() {
                micros if micros < 10_000 => tenths(f, micros.div_ceil(100), "ms"),
                micros => write!(f, "{} ms", micros / 1000),
            },
            1..10 => tenths(f, self.0.as_millis() / 100, "s"),
            10..60 => write!(f, "{seconds} s"),
            60..600 => two(seconds / 60, "min", seconds % 60, "s"),
            600..3600 => write!(f, "{} min", seconds / 60),
            3600..86400 => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
            86400..864_000 => two(seconds / 86400, "d", seconds / 3600 % 24, "h"),
            _ => write!(f, "{} d", seconds / 86400),
        }
    }
}

fn tenths(f: &mut fmt::Formatter<'_>, tenths: u128, unit: &str) -> fmt::Result {
    match tenths % 10 {
        0 => write!(f, "{} {unit}", tenths / 10),
        part => write!(f, "{}.{part} {unit}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_parsed_with_their_units() {
        for (text, milliseconds) in [
            ("250ms", 250),
            ("2s", 2_000),
            ("2", 2_000),
            ("1.5m", 90_000),
            ("2m", 120_000),
            ("2min", 120_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            (".5s", 500),
            (" 3 ", 3_000),
            ("0", 0),
            ("1 s", 1_000),
            ("1h30m", 5_400_000),
            ("1 h 30 min", 5_400_000),
            ("2 days 1 hour 1 second 5 ms", 176_401_005),
            ("1.5h0.5s", 5_400_500),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_duration_is_refused() {
        for text in [
            "",
            "s",
            "-1",
            "+5",
            "1x",
            "1e9",
            "inf",
            "NaN",
            "1 2",
            "99999999999999999999999d",
            "1.2.3s",
            "1h30",
            "1m1h",
            "1s1s",
            "1h,1s",
            "h1",
            ".",
            "1 h-1s",
            "1h m",
            "1S",
            "1\u{a0}s x",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn durations_are_shown_as_people_say_them() {
        for (milliseconds, shown) in [
            (0.0, "0 s"),
            (0.25, "0.3 ms"),
            (1.0, "1 ms"),
            (1.5, "1.5 ms"),
            (500.821_911, "500 ms"),
            (999.9, "999 ms"),
            (1_000.0, "1 s"),
            (1_550.0, "1.5 s"),
            (16_900.0, "16 s"),
            (60_000.0, "1 min"),
            (252_000.0, "4 min 12 s"),
            (840_500.0, "14 min"),
            (3_600_000.0, "1 h"),
            (5_459_000.0, "1 h 30 min"),
            (90_000_000.0, "1 d 1 h"),
            (31_536_000_000.0, "365 d"),
        ] {
            let duration = Duration::from_secs_f64(milliseconds / 1000.0);
            assert_eq!(Shown(duration).to_string(), shown, "{milliseconds}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(
            text in any::<String>(),
            number in "[0-9.eE+-]{0,40}",
            unit in "ms|s|m|min|h|d|[a-z]?",
        ) {
            let _ = parse(&text);
            let _ = parse(&format!("{number}{unit}{number}{unit}"));
        }

        #[test]
        fn what_is_shown_is_parsed_and_not_longer(milliseconds in 0_u64..1 << 40) {
            let duration = Duration::from_millis(milliseconds);
            let parsed = parse(&Shown(duration).to_string()).unwrap();
            prop_assert!(parsed <= duration + Duration::from_micros(1), "{parsed:?}");
            prop_assert!(parsed >= duration.mul_f64(0.89), "{parsed:?}");
        }

        #[test]
        fn whole_numbers_are_parsed_exactly(milliseconds in 0_u64..1 << 50, seconds in 0_u64..1 << 50) {
            prop_assert_eq!(parse(&format!("{seconds}s")), Some(Duration::from_secs(seconds)));
            prop_assert_eq!(parse(&format!(" {seconds} ")), Some(Duration::from_secs(seconds)));
            let parsed = parse(&format!("{milliseconds}ms")).map(|parsed| parsed.as_secs_f64());
            let off = (parsed.unwrap() - milliseconds as f64 / 1000.0).abs();
            prop_assert!(off <= 1e-9 + milliseconds as f64 * 1e-15, "{}", off);
        }
    }
}
