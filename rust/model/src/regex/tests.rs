#![allow(clippy::unwrap_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

fn matches(pattern: &str, text: &str) -> bool {
    Regex::new(pattern).unwrap().is_match(text)
}

#[test]
fn a_pattern_matches_whole_texts_only() {
    assert!(matches("a|bc", "a") && matches("a|bc", "bc"));
    assert!(!matches("a|bc", "ab") && !matches("a|bc", "xbc") && !matches("a", "a\n"));
    assert!(matches("^(foo|bar)$", "foo") && !matches("^foo", "foobar"));
    assert!(matches("", "") && !matches("", "x"));
}

#[test]
fn the_dot_takes_newlines_unless_told_otherwise() {
    assert!(matches("a.b", "a\nb") && matches("a.*", "a\n\n"));
    assert!(!matches("(?-s)a.b", "a\nb") && matches("(?-s)a.b", "axb"));
    assert!(matches("(?m)a$\n^b", "a\nb") && !matches("a$\n^b", "a\nb"));
}

#[test]
fn perl_classes_are_ascii_as_in_re2() {
    for (pattern, text, expected) in [
        (r"\d", "7", true),
        (r"\d", "٣", false),
        (r"\w+", "a_Z9", true),
        (r"\w", "é", false),
        (r"\W", "é", true),
        (r"\s", "\u{a0}", false),
        (r"\s", "\u{b}", false),
        (r"[[:space:]]", "\u{b}", true),
        (r"[\d\-x]+", "1-x", true),
        (r"[^\D]", "5", true),
        (r"[^\D]", "x", false),
        (r".*\bé", " é", false),
        (r"a\b.*", "aé", true),
        (r"[[:^alpha:]]", "1", true),
        (r"[[:word:]]", "_", true),
        (r"(?i)\w", "\u{17f}", true),
        (r"(?i)straSSe", "STRASSE", true),
        (r"(?i)k", "\u{212a}", true),
    ] {
        assert_eq!(matches(pattern, text), expected, "{pattern} {text:?}");
    }
}

#[test]
fn escapes_are_those_of_re2() {
    for (pattern, text) in [
        (r"\Qa.b*\E+", "a.b**"),
        (r"\Qa.b", "a.b"),
        (r"\x41\x{1F600}\101\060\0", "A😀A0\0"),
        (r"\a\f\t\n\r\v", "\x07\x0c\t\n\r\x0b"),
        (r"\pL\p{Greek}\p{^Greek}\PL", "xλx1"),
        (r"[\p{Lu}\x{e9}]+", "ÀÉé"),
        (r"a{,2}", "a{,2}"),
        (r"a{2}b{1,}c{0,2}", "aabbc"),
        (r"{a}x{", "{a}x{"),
        (r"[]a]+", "]a"),
        (r"[^]a]", "b"),
        (r"[a&&b[]+", "a&&["),
        (r"[a-c-e-]+", "abc-e"),
        (r"\_\-\ \&", "_- &"),
        (r"a(?i)B|c(?-i)D", "CD"),
        (r"(?P<1>x)(?<y>y)", "xy"),
        (r"a(?i)*", "aaa"),
        (r"\Aa\z", "a"),
        (r"(?U)a+?", "aaa"),
        (r"(?:)|x", ""),
    ] {
        assert!(matches(pattern, text), "{pattern} {text:?}");
    }
}

#[test]
fn what_go_refuses_is_refused_in_its_words() {
    for (pattern, message) in [
        ("(", "missing closing ): `(`"),
        ("a(b", "missing closing ): `a(b`"),
        ("a)b", "unexpected ): `a)b`"),
        ("[a", "missing closing ]: `[a`"),
        ("[b-a]", "invalid character class range: `b-a`"),
        ("[[:nope:]]", "invalid character class range: `[:nope:]`"),
        (r"\p{Nope}", r"invalid character class range: `\p{Nope}`"),
        ("*", "missing argument to repetition operator: `*`"),
        ("a|*", "missing argument to repetition operator: `*`"),
        ("a**", "invalid nested repetition operator: `**`"),
        ("a{2}{3}", "invalid nested repetition operator: `{2}{3}`"),
        ("a+?+", "invalid nested repetition operator: `+?+`"),
        ("a{1001}", "invalid repeat count: `{1001}`"),
        ("a{2,1}", "invalid repeat count: `{2,1}`"),
        ("(a{100}){11}", "invalid repeat count: `{11}`"),
        (r"[a-\d]", r"invalid escape sequence: `\d`"),
        (r"\1", r"invalid escape sequence: `\1`"),
        (r"\8", r"invalid escape sequence: `\8`"),
        (r"\C", r"invalid escape sequence: `\C`"),
        (r"\Z", r"invalid escape sequence: `\Z`"),
        (r"a\", "trailing backslash at end of expression"),
        ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
        ("(?x)a", "invalid or unsupported Perl syntax: `(?x`"),
        ("(?i", "invalid or unsupported Perl syntax: `(?i`"),
        ("(?P<n>a)(?P<n>b)", "duplicate capture group name: `n`"),
        ("(?P<n-m>a)", "invalid named capture: `(?P<n-m>`"),
        ("(?P<n", "invalid named capture: `(?P<n`"),
    ] {
        let Err(Error::Input { message: got, .. }) = Regex::new(pattern) else {
            panic!("{pattern} is taken")
        };
        assert_eq!(got, format!("error parsing regexp: {message}"), "{pattern}");
    }
}

#[test]
fn hostile_patterns_end_in_an_error() {
    let deep = |n: usize| format!("{}a{}", "(".repeat(n), ")*".repeat(n));
    assert!(Regex::new(&deep(100)).unwrap().is_match("aa"));
    for pattern in [
        deep(100_000),
        "(".repeat(1_000_000),
        format!("a{}", "*(?i)".repeat(100_000)),
        r"(\pL{10}){100}".repeat(10),
        "((.{10}){10}){10}x".repeat(100),
    ] {
        assert!(matches!(Regex::new(&pattern), Err(Error::Input { .. })));
    }
    let catastrophic = Regex::new("(a*)*(a*)*b").unwrap();
    assert!(!catastrophic.is_match(&"a".repeat(10_000)));
}

#[test]
fn words_and_prefixes_are_read_off_the_pattern() {
    let literals = |p: &str| Regex::new(p).unwrap().literals().map(|l| l.join(","));
    assert_eq!(literals("foo"), Some("foo".into()));
    assert_eq!(literals("^(?:foo|ba[rz]|)$"), Some(",bar,baz,foo".into()));
    assert_eq!(literals("(a|b)-(c|d)?"), Some("a-,a-c,a-d,b-,b-c,b-d".into()));
    assert_eq!(literals("(?i)ab"), Some("AB,Ab,aB,ab".into()));
    assert_eq!(literals("x{3}"), Some("xxx".into()));
    assert_eq!(literals("a.*"), None);
    assert_eq!(literals("[a-z]"), None);
    assert_eq!(literals(r"a\b"), None);
    assert_eq!(literals("(?m)^a"), None);
    let prefixes = |p: &str| Regex::new(p).unwrap().prefixes().map(|l| l.join(","));
    assert_eq!(prefixes("(checkout|pay)-.*"), Some("checkout-,pay-".into()));
    assert_eq!(prefixes("foo[a-z]+|food.*|bar|"), Some("bar,foo".into()));
    assert_eq!(prefixes("5.."), Some("5".into()));
    assert_eq!(prefixes(".*x|y"), None);
    assert_eq!(prefixes("(foo)?.*"), None);
    let any = |p: &str| Regex::new(p).unwrap().takes_any();
    assert!(any(".*") && any(".+") && any("(.*)") && any("x|.*") && any("^.*$"));
    assert!(!any(".") && !any("(?-s).*") && !any(".+.+") && !any("a.*"));
}

#[test]
fn templates_expand_as_go_expands_them() {
    let regex = Regex::new("(?P<host>[^:]+):(?P<port>[0-9]+)(x)?").unwrap();
    let expand = |template| regex.captures("db1:9100", template).unwrap();
    assert_eq!(expand("$1-$2"), "db1-9100");
    assert_eq!(expand("${host}_${port}|$host|$0"), "db1_9100|db1|db1:9100");
    assert_eq!(expand("$1x"), "");
    assert_eq!(expand("${1}x"), "db1x");
    assert_eq!(expand("$$1 $ $- ${ ${1 $"), "$1 $ $- ${ ${1 $");
    assert_eq!(expand("[$3$9$nope$01]"), "[]");
    assert_eq!(regex.captures("db1", "$1"), None);
    assert_eq!(Regex::new("(?i)(A)|b").unwrap().captures("b", "<$1>"), Some("<>".into()));
}

/// Patterns with many gaps, alternatives and odd pieces over a small alphabet.
fn pattern() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => "[abé]{1,3}",
        3 => Just(".*".to_owned()),
        2 => Just(".+".to_owned()),
        1 => Just(".".to_owned()),
        1 => Just("[ab]".to_owned()),
        1 => Just("[^b]".to_owned()),
        1 => Just("a{2}".to_owned()),
        1 => Just("^".to_owned()),
        1 => Just("$".to_owned()),
        1 => Just(r"\b".to_owned()),
        1 => Just("(?-s:.*)".to_owned()),
        1 => Just("(?i:aB)".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 1..4).prop_map(|v| v.concat()),
            proptest::collection::vec(inner.clone(), 1..4).prop_map(|v| format!("({})", v.join("|"))),
            inner.clone().prop_map(|p| format!("(?:{p})?")),
            inner.clone().prop_map(|p| format!("(?:{p})*")),
            inner.prop_map(|p| format!("(?:{p}){{2}}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// What is read off a pattern never disagrees with the engine alone.
    #[test]
    fn shortcuts_agree_with_the_engine(pattern in pattern(), texts in proptest::collection::vec("[abéB\n]{0,6}", 20)) {
        let regex = Regex::new(&pattern).unwrap();
        let slow = regex_automata::meta::Regex::new(&format!("^(?s:{})$", pattern.replace(r"\b", r"(?-u:\b)"))).unwrap();
        for text in texts.iter().map(String::as_str).chain(["", "a", "b", "é"]) {
            let expected = slow.is_match(text);
            prop_assert_eq!(regex.is_match(text), expected, "{:?} on {:?}", &pattern, text);
            if let (true, Some(prefixes)) = (expected && !text.is_empty(), regex.prefixes()) {
                prop_assert!(prefixes.iter().any(|p| text.starts_with(p.as_str())));
            }
            if let Some(literals) = regex.literals() {
                prop_assert_eq!(literals.iter().any(|l| l == text), expected);
            }
            if regex.takes_any() && !text.is_empty() {
                prop_assert!(expected);
            }
        }
    }

    /// Any text at all is a pattern or an error.
    #[test]
    fn no_pattern_panics(pattern in r"[\\()\[\]{}?*+|^$.:<>PpQExzdbi0-9,a\-]{0,24}|\PC{0,20}") {
        if let Ok(regex) = Regex::new(&pattern) {
            regex.is_match(&pattern);
        }
    }
}
