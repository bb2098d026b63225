//! Durations as people write them: `250ms`, `2s`, `1.5m`, `1h`, `2d`, or plain seconds.

use std::time::Duration;

/// Parses a duration. A number without a unit is in seconds.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    };
    let number = number.trim();
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let number = plain.then(|| number.parse::<f64>().ok()).flatten()?;
    Duration::try_from_secs_f64(number * seconds).ok()
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
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_duration_is_refused() {
        for text in
            ["", "s", "-1", "+5", "1x", "1e9", "inf", "NaN", "1 2", "99999999999999999999999d", "1.2.3s"]
        {
            assert_eq!(parse(text), None, "{text}");
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
            let _ = parse(&format!("{number}{unit}"));
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
