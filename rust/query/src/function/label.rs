//! label_replace and label_join: label sets to label sets.

use metricsdb_model::regex::Regex;
use metricsdb_model::{Error, Labels, Result};

/// `name` if it may be a label's: any text but none.
fn label_name(name: &str, what: &str, function: &str) -> Result<String> {
    if name.is_empty() {
        return Err(Error::execution(format!("invalid {what} label name in {function}(): {name}")));
    }
    Ok(name.to_owned())
}

/// A compiled label_replace.
#[derive(Debug)]
pub struct LabelReplace {
    target: String,
    replacement: String,
    source: String,
    regex: Regex,
}

impl LabelReplace {
    /// `strings` are the four strings of the call: target, replacement, source, regex.
    pub fn new(strings: &[String]) -> Result<LabelReplace> {
        let [target, replacement, source, pattern] = strings else {
            return Err(Error::execution("label_replace() takes four strings"));
        };
        let regex = Regex::new(pattern).map_err(|_| {
            Error::execution(format!("invalid regular expression in label_replace(): {pattern}"))
        })?;
        let target = label_name(target, "destination", "label_replace")?;
        Ok(LabelReplace { target, replacement: replacement.clone(), source: source.clone(), regex })
    }

    pub fn target(&self) -> &str {
        &self.target
    }

    /// The set with its target replaced; as it was where the source's value does not match.
    pub fn apply(&self, labels: &Labels) -> Labels {
        match self.regex.captures(labels.value(&self.source), &self.replacement) {
            Some(value) => labels.with(&self.target, &value),
            None => labels.clone(),
        }
    }
}

/// A checked label_join.
#[derive(Debug)]
pub struct LabelJoin {
    target: String,
    separator: String,
    sources: Vec<String>,
}

impl LabelJoin {
    /// `strings` are the strings of the call: target, separator, any number of sources.
    pub fn new(strings: &[String]) -> Result<LabelJoin> {
        let [target, separator, sources @ ..] = strings else {
            return Err(Error::execution("label_join() takes at least two strings"));
        };
        let sources = sources.iter().map(|s| label_name(s, "source", "label_join")).collect::<Result<_>>()?;
        let target = label_name(target, "destination", "label_join")?;
        Ok(LabelJoin { target, separator: separator.clone(), sources })
    }

    pub fn target(&self) -> &str {
        &self.target
    }

    /// The set with the joined values of the sources at the target; absent labels join as "".
    pub fn apply(&self, labels: &Labels) -> Labels {
        let values: Vec<&str> = self.sources.iter().map(|s| labels.value(s)).collect();
        labels.with(&self.target, &values.join(&self.separator))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn replaced(labels: &Labels, call: [&str; 4]) -> Labels {
        LabelReplace::new(&strings(&call)).unwrap().apply(labels)
    }

    fn set(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn replace_expands_groups_of_a_whole_match() {
        let l = set(&[("src", "source-value-10"), ("dst", "old")]);
        let call = ["dst", "${1}-x$1", "src", "source-value-(.*)"];
        assert_eq!(replaced(&l, call), set(&[("src", "source-value-10"), ("dst", "10-x10")]));
        let call = ["dst", "${name}$$", "src", "source-(?P<name>[a-z]+)-.*"];
        assert_eq!(replaced(&l, call).value("dst"), "value$");
        // A part that matches is not enough.
        assert_eq!(replaced(&l, ["dst", "new", "src", "value"]), l);
        // A longer name than the group's is another group: empty, so the label goes.
        assert_eq!(replaced(&l, ["dst", "$1x", "src", "(.*)"]), set(&[("src", "source-value-10")]));
    }

    #[test]
    fn an_absent_source_is_an_empty_text() {
        let l = set(&[("a", "1")]);
        assert_eq!(replaced(&l, ["b", "none", "c", "(.*)"]), set(&[("a", "1"), ("b", "none")]));
        assert_eq!(replaced(&l, ["a", "", "c", ""]), Labels::empty());
    }

    #[test]
    fn dots_match_newlines() {
        let l = set(&[("a", "x\ny")]);
        assert_eq!(replaced(&l, ["b", "$1", "a", "x(.*)"]).value("b"), "\ny");
    }

    #[test]
    fn join_takes_labels_in_the_order_of_the_call() {
        let l = set(&[("a", "1"), ("b", "2")]);
        let join = |call: &[&str]| LabelJoin::new(&strings(call)).unwrap().apply(&l);
        assert_eq!(join(&["c", "-", "b", "none", "a"]).value("c"), "2--1");
        assert_eq!(join(&["a", "-"]), set(&[("b", "2")]));
    }

    #[test]
    fn what_cannot_be_is_refused_in_prometheus_words() {
        let fail = |call: &[&str]| LabelReplace::new(&strings(call)).unwrap_err().to_string();
        assert_eq!(fail(&["d", "", "s", "(.*"]), "invalid regular expression in label_replace(): (.*");
        assert_eq!(fail(&["", "", "s", ".*"]), "invalid destination label name in label_replace(): ");
        let fail = |call: &[&str]| LabelJoin::new(&strings(call)).unwrap_err().to_string();
        assert_eq!(fail(&["d", "-", ""]), "invalid source label name in label_join(): ");
        assert_eq!(fail(&["", "-", "a"]), "invalid destination label name in label_join(): ");
        assert!(LabelReplace::new(&strings(&["~any text", "", "s", ".*"])).is_ok());
    }
}
