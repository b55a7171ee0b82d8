//! Numbers as text, their names, and text as HTML. Computes only.

use super::Unit;
use crate::printable::is_unprintable;

/// A number for a status: six significant digits, no exponent; `NaN`, `inf`, `-inf`.
pub fn decimal(value: f64) -> String {
    rounded(value, 6).to_string()
}

/// The name of a number in a status, in camel case: `win_rate` becomes `winRate`, `before.vader` becomes `beforeVader`.
pub fn status_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        if matches!(c, '_' | '.') {
            upper = true;
        } else {
            out.push(if upper { c.to_ascii_uppercase() } else { c });
            upper = false;
        }
    }
    out
}

/// A number for a report, in its unit.
pub fn shown(value: f64, unit: Unit) -> String {
    if !value.is_finite() {
        return "not computed".into();
    }
    match unit {
        Unit::Plain => plain(value),
        Unit::Percent => format!("{:.1}%", zero_without_sign(value * 100.0, 1)),
        Unit::Count => grouped(value.round()),
        Unit::Seconds => duration(value),
    }
}

/// Four significant digits, without trailing zeros; an exponent only if the digits would not fit.
pub(super) fn plain(value: f64) -> String {
    let value = rounded(value, 4);
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e6).contains(&size) {
        format!("{value:e}")
    } else if size >= 1e4 {
        grouped(value)
    } else {
        value.to_string()
    }
}

/// An integer with thousands separators.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::from(if value < 0.0 { "-" } else { "" });
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn duration(seconds: f64) -> String {
    if seconds.abs() < 60.0 {
        return format!("{} s", rounded(seconds, 3));
    }
    let whole = seconds.round() as i64;
    let (hours, minutes, rest) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours == 0 { format!("{minutes} min {rest} s") } else { format!("{} h {minutes} min", grouped(hours as f64)) }
}

/// Rounded to significant digits; zero has no sign.
fn rounded(value: f64, digits: usize) -> f64 {
    if !value.is_finite() {
        return value;
    }
    let text = format!("{value:.*e}", digits - 1);
    text.parse().unwrap_or(value) + 0.0
}

fn zero_without_sign(value: f64, decimals: i32) -> f64 {
    if value.abs() < 0.5 * 10f64.powi(-decimals) { 0.0 } else { value }
}

/// Escapes text for HTML content and quoted attributes. Control characters, which HTML does not allow, and overrides of
/// the text direction become U+FFFD.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            '\r' => {}
            c if is_unprintable(c) => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_has_six_digits_and_no_exponent() {
        assert_eq!(decimal(0.734_567_89), "0.734568");
        assert_eq!(decimal(1.0e-7), "0.0000001");
        assert_eq!(decimal(-0.0), "0");
        assert_eq!([decimal(f64::NAN), decimal(f64::NEG_INFINITY)], ["NaN", "-inf"]);
        assert!(decimal(1.0 / 3.0).parse::<f64>().is_ok());
    }

    #[test]
    fn a_status_has_camel_case_names() {
        for (name, expected) in
            [("accuracy", "accuracy"), ("win_rate_low", "winRateLow"), ("after.distinct_2", "afterDistinct2")]
        {
            assert_eq!(status_name(name), expected);
        }
    }

    #[test]
    fn numbers_are_formatted_for_reading() {
        for (value, text) in
            [(0.73456, "0.7346"), (12.0, "12"), (12345.6, "12,350"), (1.5e-5, "1.5e-5"), (2e9, "2e9"), (-0.25, "-0.25")]
        {
            assert_eq!(shown(value, Unit::Plain), text);
        }
        assert_eq!(shown(0.6129, Unit::Percent), "61.3%");
        assert_eq!(shown(-0.000_01, Unit::Percent), "0.0%");
        assert_eq!([shown(1_234_567.0, Unit::Count), shown(999.0, Unit::Count)], ["1,234,567", "999"]);
        assert_eq!(shown(0.3456, Unit::Seconds), "0.346 s");
        assert_eq!(shown(59.99, Unit::Seconds), "60 s");
        assert_eq!([shown(200.0, Unit::Seconds), shown(7500.0, Unit::Seconds)], ["3 min 20 s", "2 h 5 min"]);
        assert_eq!(shown(f64::NAN, Unit::Percent), "not computed");
    }
}
