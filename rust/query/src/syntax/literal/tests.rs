#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

#[test]
fn numbers_are_read_as_go_reads_them() {
    let cases = [
        ("42", 42.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("1e3", 1000.0),
        ("1E-3", 0.001),
        ("0x1F", 31.0),
        ("0XfF", 255.0),
        ("017", 15.0),
        ("08", 8.0),
        ("0.17", 0.17),
        ("0_1", 1.0),
        ("1_000_000", 1e6),
        ("1_23.5_0e+1_2", 123.5e12),
        ("0x_ff", 255.0),
        ("9223372036854775808", 9223372036854775808.0),
        ("1e-400", 0.0),
        ("iNf", f64::INFINITY),
    ];
    for (text, value) in cases {
        assert_eq!(number(text), Some(value), "{text}");
    }
    assert!(number("NAN").unwrap().is_nan());
    for text in ["1__0", "1_", "1_.5", "1e_5", "0x", "0x8000000000000000", "1e400", "1.2.3", "", "_1"] {
        assert_eq!(number(text), None, "{text}");
    }
}

#[test]
fn durations_need_falling_units_each_once() {
    assert_eq!(duration_ms("1y2w3d4h5m6s7ms"), Ok(33_019_506_007));
    assert_eq!(duration_ms("0s"), Ok(0));
    for text in ["", "5", "s", "1h1d", "5m5m", "1.5h", "5q", "5 m", "1s1m"] {
        assert_eq!(duration_ms(text), Err(format!("not a valid duration string: \"{text}\"")));
    }
    for text in ["300y", "99999999999999999999s", "292y1w1w"] {
        assert!(duration_ms(text).is_err(), "{text}");
    }
}

#[test]
fn durations_print_years_and_weeks_only_where_exact() {
    let day = 86_400_000;
    let cases = [
        (0, "0s"),
        (1, "1ms"),
        (61_000, "1m1s"),
        (365 * day, "1y"),
        (7 * day, "1w"),
        (90 * day, "90d"),
        (372 * day, "372d"),
        (-300_000, "-5m"),
        (366 * day + 3_723_004, "366d1h2m3s4ms"),
    ];
    for (ms, text) in cases {
        assert_eq!(format_duration(ms), text);
    }
}

#[test]
fn strings_know_the_escapes_of_go() {
    let cases = [
        (r#""a\n\t\\\"b""#, "a\n\t\\\"b"),
        (r"'it\'s'", "it's"),
        (r#"'say "x"'"#, "say \"x\""),
        (r"`raw \n`", "raw \\n"),
        (r#""\x41\101\u00e9\U0001F600""#, "AAé😀"),
        (r#""\xc3\xa9""#, "é"),
        (r#""""#, ""),
        (r#""\a\b\f\v""#, "\x07\x08\x0c\x0b"),
    ];
    for (literal, text) in cases {
        assert_eq!(unquote(literal).as_deref(), Ok(text), "{literal}");
    }
    let escape = |offset, message: &str| Err(StringError::Escape(offset, message.to_owned()));
    assert_eq!(unquote(r#""ab\q""#), escape(3, "unknown escape sequence U+0071 'q'"));
    assert_eq!(unquote(r#""\'""#), escape(1, "unknown escape sequence U+0027 '''"));
    assert_eq!(unquote(r#""\400""#), escape(1, "escape sequence is an invalid Unicode code point"));
    assert_eq!(unquote(r#""\ud800""#), escape(1, "escape sequence is an invalid Unicode code point"));
    assert_eq!(unquote(r#""\xg1""#), escape(1, "illegal character U+0067 'g' in escape sequence"));
    assert_eq!(unquote(r#""\xff""#), Err(StringError::NotUtf8));
}

#[test]
fn numbers_print_as_go_prints_them() {
    let cases = [
        (0.0, "0"),
        (1e5, "100000"),
        (1e6, "1e+06"),
        (1485907200.0, "1.4859072e+09"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (-2e-7, "-2e-07"),
        (123456.7, "123456.7"),
        (1e300, "1e+300"),
        (f64::INFINITY, "+Inf"),
    ];
    for (value, text) in cases {
        assert_eq!(format_number(value), text);
    }
}

#[test]
fn quoting_escapes_what_cannot_be_seen() {
    assert_eq!(quote("a\"\\\n\u{1}é\u{301}😀"), "\"a\\\"\\\\\\n\\x01é\u{301}😀\"");
    assert_eq!(quote("\u{a0}\u{200b}\u{e0001}'"), "\"\\u00a0\\u200b\\U000e0001'\"");
}

proptest! {
    #[test]
    fn what_is_printed_reads_back(text in any::<String>(), value in any::<f64>(), ms in 0..DURATION_MS_MAX) {
        prop_assert_eq!(unquote(&quote(&text)), Ok(text));
        if value.is_finite() {
            let printed = format_number(value.abs());
            prop_assert_eq!(number(&printed), Some(value.abs()), "{}", printed);
        }
        prop_assert_eq!(duration_ms(&format_duration(ms)), Ok(ms));
    }

    #[test]
    fn any_text_can_be_tried(text in any::<String>()) {
        let _ = (number(&text), duration_ms(&text), unquote(&text));
    }
}
