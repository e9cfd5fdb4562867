//! Any pattern compiles or is refused; what is read off it agrees with a search for groups.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metricsdb_model::regex::Regex;

fuzz_target!(|input: (&str, &str)| {
    let (pattern, text) = input;
    let Ok(regex) = Regex::new(pattern) else { return };
    let matched = regex.is_match(text);
    assert_eq!(regex.captures(text, "$0").as_deref(), matched.then_some(text), "{pattern:?} on {text:?}");
    if let Some(literals) = regex.literals() {
        assert!(literals.iter().all(|l| regex.captures(l, "").is_some()), "{pattern:?}");
    }
    if let (true, Some(prefixes)) = (matched && !text.is_empty(), regex.prefixes()) {
        assert!(prefixes.iter().any(|p| text.starts_with(p.as_str())), "{pattern:?} on {text:?}");
    }
});
