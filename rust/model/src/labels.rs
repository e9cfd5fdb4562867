//! Label sets in canonical form: pairs sorted by name, each `name 0xFF value 0xFF`.
//!
//! 0xFF never occurs in UTF-8, so the bytes parse without lengths, and one allocation holds a whole
//! set. The identity of a series across processes is xxh3-64 of these bytes.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

pub const METRIC_NAME: &str = "__name__";
const SEP: u8 = 0xFF;

/// A borrowed label set in canonical form.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LabelsRef<'a>(&'a [u8]);

/// An owned label set: cheap to clone, ordered as Prometheus orders label sets.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Labels(Arc<[u8]>);

/// Why a set of pairs is not a label set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelError {
    EmptyName,
    DuplicateName(String),
    /// Name or value is not UTF-8; the offending bytes with replacement characters.
    NotUtf8(String),
    /// The bytes cannot be decoded by the batch's dialect.
    Malformed(String),
}

impl fmt::Display for LabelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LabelError::EmptyName => write!(f, "a label has an empty name"),
            LabelError::DuplicateName(n) => write!(f, "label {n:?} occurs twice"),
            LabelError::NotUtf8(s) => write!(f, "label text is not valid UTF-8: {s:?}"),
            LabelError::Malformed(s) => write!(f, "malformed labels: {s}"),
        }
    }
}

impl<'a> LabelsRef<'a> {
    /// Takes bytes that are already in canonical form, as `LabelsBuilder::canonical` makes them.
    pub fn from_canonical(bytes: &'a [u8]) -> LabelsRef<'a> {
        LabelsRef(bytes)
    }

    pub fn canonical(self) -> &'a [u8] {
        self.0
    }

    /// Pairs in name order.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.pairs().map(|(name, value)| (text(name), text(value)))
    }

    /// Pairs as bytes: nothing proves again that they are UTF-8.
    fn pairs(self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + Clone {
        let mut rest = self.0;
        std::iter::from_fn(move || Some((part(&mut rest)?, part(&mut rest)?)))
    }

    pub fn get(self, name: &str) -> Option<&'a str> {
        self.pairs().find(|(n, _)| *n == name.as_bytes()).map(|(_, v)| text(v))
    }

    /// The value of a label, or "" where it is absent: Prometheus treats both alike.
    pub fn value(self, name: &str) -> &'a str {
        self.get(name).unwrap_or("")
    }

    pub fn metric_name(self) -> &'a str {
        self.value(METRIC_NAME)
    }

    /// xxh3-64 of the canonical form: the identity of a series across processes.
    pub fn hash64(self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.0)
    }

    pub fn to_owned(self) -> Labels {
        Labels(Arc::from(self.0))
    }
}

impl Labels {
    pub fn empty() -> Labels {
        Labels::default()
    }

    /// Builds from pairs in any order; empty values are dropped, as Prometheus does.
    pub fn from_pairs<N: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Labels, LabelError> {
        let mut builder = LabelsBuilder::default();
        for (n, v) in pairs {
            builder.push(n.as_ref(), v.as_ref());
        }
        builder.finish()
    }

    pub fn as_ref(&self) -> LabelsRef<'_> {
        LabelsRef(&self.0)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.as_ref().iter()
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.as_ref().get(name)
    }

    pub fn value(&self, name: &str) -> &str {
        self.as_ref().value(name)
    }

    pub fn metric_name(&self) -> &str {
        self.as_ref().metric_name()
    }

    pub fn hash64(&self) -> u64 {
        self.as_ref().hash64()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of its one allocation, counters and rounding included.
    pub fn heap_bytes(&self) -> usize {
        (self.0.len() + 16 + 8).next_multiple_of(16)
    }

    /// How many canonical bytes both begin with.
    pub fn common(&self, other: &Labels) -> usize {
        const STRIDE: usize = 16;
        let (a, b) = (&self.0[..], &other.0[..]);
        // Arrays are compared in a register, slices by a call.
        let (strides, _) = a.as_chunks::<STRIDE>();
        let strides = strides.iter().zip(b.as_chunks::<STRIDE>().0);
        let same = strides.take_while(|(x, y)| x == y).count() * STRIDE;
        same + a[same..].iter().zip(&b[same..]).take_while(|(x, y)| x == y).count()
    }

    /// Sets that have as many canonical bytes in common are ordered as these numbers; where they are equal, `cmp` says
    /// more.
    pub fn order_key(&self, common: usize) -> u64 {
        let rest = self.0.get(common..).unwrap_or(&[]);
        (0..8).fold(0, |key, i| key << 8 | rest.get(i).map_or(0, |&byte| u64::from(rank(byte))))
    }

    /// The pairs for which `keep(name)` holds. Allocates nothing where that is all of them.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) -> Labels {
        let pairs = self.as_ref().pairs();
        if pairs.clone().all(|(n, _)| keep(text(n))) {
            return self.clone();
        }
        let mut bytes = Vec::with_capacity(self.0.len());
        pairs.filter(|(n, _)| keep(text(n))).for_each(|(n, v)| push_pair(&mut bytes, n, v));
        Labels(Arc::from(bytes))
    }

    pub fn without_name(&self) -> Labels {
        self.retain(|n| n != METRIC_NAME)
    }

    /// With `name` set to `value`; an empty value removes the label.
    pub fn with(&self, name: &str, value: &str) -> Labels {
        let mut bytes = Vec::with_capacity(self.0.len() + name.len() + value.len() + 2);
        let mut placed = value.is_empty();
        let (name, value) = (name.as_bytes(), value.as_bytes());
        for (n, v) in self.as_ref().pairs() {
            if !placed && name <= n {
                push_pair(&mut bytes, name, value);
                placed = true;
            }
            if n != name {
                push_pair(&mut bytes, n, v);
            }
        }
        if !placed {
            push_pair(&mut bytes, name, value);
        }
        Labels(Arc::from(bytes))
    }
}

/// Takes the first part of canonical bytes, and its separator; none behind the last.
fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = rest.iter().position(|&b| b == SEP)?;
    let found = rest.get(..end)?;
    *rest = rest.get(end + 1..)?;
    Some(found)
}

fn push_pair(bytes: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    bytes.extend_from_slice(name);
    bytes.push(SEP);
    bytes.extend_from_slice(value);
    bytes.push(SEP);
}

fn text(part: &[u8]) -> &str {
    std::str::from_utf8(part).unwrap_or("")
}

/// By name, then value, label after label. The canonical bytes have that order, but that a part's end
/// comes before everything, not after.
impl Ord for Labels {
    fn cmp(&self, other: &Labels) -> Ordering {
        let same = self.common(other);
        match (self.0.get(same), other.0.get(same)) {
            (Some(a), Some(b)) => rank(*a).cmp(&rank(*b)),
            _ => self.0.len().cmp(&other.0.len()),
        }
    }
}

/// A separator comes before every byte of a text.
fn rank(byte: u8) -> u8 {
    byte.wrapping_add(1)
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Labels) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Prints as PromQL does: `name{a="b", c="d"}`.
impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.metric_name())?;
        f.write_str("{")?;
        let mut first = true;
        for (n, v) in self.iter().filter(|(n, _)| *n != METRIC_NAME) {
            if !first {
                f.write_str(", ")?;
            }
            first = false;
            write!(f, "{n}={v:?}")?;
        }
        f.write_str("}")
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for LabelsRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Collects pairs and brings them into canonical form, reusing its buffers from set to set.
#[derive(Default)]
pub struct LabelsBuilder {
    text: Vec<u8>,
    /// (name start, value start, value end) into `text`.
    spans: Vec<(u32, u32, u32)>,
    canonical: Vec<u8>,
}

impl LabelsBuilder {
    pub fn clear(&mut self) {
        self.text.clear();
        self.spans.clear();
    }

    pub fn push(&mut self, name: &str, value: &str) {
        let start = self.text.len() as u32;
        self.text.extend_from_slice(name.as_bytes());
        let mid = self.text.len() as u32;
        self.text.extend_from_slice(value.as_bytes());
        self.spans.push((start, mid, self.text.len() as u32));
    }

    /// As `push`, from bytes that still have to prove that they are UTF-8.
    pub fn push_bytes(&mut self, name: &[u8], value: &[u8]) -> Result<(), LabelError> {
        let check = |b: &[u8]| match std::str::from_utf8(b) {
            Ok(_) => Ok(()),
            Err(_) => Err(LabelError::NotUtf8(String::from_utf8_lossy(b).into_owned())),
        };
        check(name)?;
        check(value)?;
        let start = self.text.len() as u32;
        self.text.extend_from_slice(name);
        let mid = self.text.len() as u32;
        self.text.extend_from_slice(value);
        self.spans.push((start, mid, self.text.len() as u32));
        Ok(())
    }

    pub fn contains(&self, name: &str) -> bool {
        self.spans.iter().any(|&(a, b, _)| &self.text[a as usize..b as usize] == name.as_bytes())
    }

    /// The set so far in canonical form: sorted, empty values dropped, duplicates refused.
    pub fn canonical(&mut self) -> Result<LabelsRef<'_>, LabelError> {
        let LabelsBuilder { text, spans, canonical } = self;
        let name = |s: &(u32, u32, u32)| &text[s.0 as usize..s.1 as usize];
        spans.sort_unstable_by(|a, b| name(a).cmp(name(b)));
        canonical.clear();
        for (i, s) in spans.iter().enumerate() {
            let n = name(s);
            if n.is_empty() {
                return Err(LabelError::EmptyName);
            }
            if i > 0 && name(&spans[i - 1]) == n {
                return Err(LabelError::DuplicateName(String::from_utf8_lossy(n).into_owned()));
            }
            if s.1 < s.2 {
                canonical.extend_from_slice(n);
                canonical.push(SEP);
                canonical.extend_from_slice(&text[s.1 as usize..s.2 as usize]);
                canonical.push(SEP);
            }
        }
        Ok(LabelsRef(canonical))
    }

    pub fn finish(&mut self) -> Result<Labels, LabelError> {
        let labels = self.canonical()?.to_owned();
        self.clear();
        Ok(labels)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn set(pairs: &[(&str, &str)]) -> Labels {
        Labels::from_pairs(pairs.iter().copied()).unwrap()
    }

    #[test]
    fn the_canonical_hash_never_changes() {
        // Sharding and files depend on these: a change breaks every store that exists.
        assert_eq!(Labels::empty().hash64(), 0x2d06_8005_38d3_94c2);
        let l = set(&[("job", "node"), ("__name__", "up")]);
        assert_eq!(l.as_ref().canonical(), b"__name__\xffup\xffjob\xffnode\xff");
        assert_eq!(l.hash64(), xxhash_rust::xxh3::xxh3_64(b"__name__\xffup\xffjob\xffnode\xff"));
    }

    #[test]
    fn empty_values_are_absent_and_order_does_not_matter() {
        assert_eq!(set(&[("b", "2"), ("a", "1"), ("c", "")]), set(&[("a", "1"), ("b", "2")]));
    }

    #[test]
    fn sets_order_by_name_then_value_then_length() {
        assert!(set(&[("a", "1")]) < set(&[("ab", "1")]));
        assert!(set(&[("a", "1")]) < set(&[("a", "1"), ("b", "1")]));
        assert!(set(&[("a", "1")]) < set(&[("a", "2")]));
    }

    #[test]
    fn the_order_of_sets_is_that_of_their_pairs() {
        let parts = ["", "a", "aa", "a\u{10ffff}", "b", "long enough for more than one stride", "é"];
        let mut sets = vec![Labels::empty()];
        for name in &parts[1..] {
            for value in parts {
                sets.push(set(&[(name, value)]));
                sets.push(set(&[("a", value), (&format!("{name}z"), "x")]));
            }
        }
        for a in &sets {
            for b in &sets {
                assert_eq!(a.cmp(b), a.iter().cmp(b.iter()), "{a} {b}");
                for common in 0..=a.common(b) {
                    let by_key = a.order_key(common).cmp(&b.order_key(common));
                    assert!(by_key.is_eq() || by_key == a.cmp(b), "{a} {b} {common}");
                }
            }
        }
    }

    #[test]
    fn retain_keeps_pairs_and_gives_the_same_set_where_all_are_kept() {
        let l = set(&[("__name__", "up"), ("a", "1"), ("b", "2")]);
        assert!(Arc::ptr_eq(&l.retain(|_| true).0, &l.0));
        assert_eq!(l.without_name(), set(&[("a", "1"), ("b", "2")]));
        assert_eq!(l.retain(|n| n == "b"), set(&[("b", "2")]));
        assert_eq!(l.retain(|_| false), Labels::empty());
    }

    #[test]
    fn with_replaces_inserts_and_removes() {
        let l = set(&[("a", "1"), ("c", "3")]);
        assert_eq!(l.with("b", "2"), set(&[("a", "1"), ("b", "2"), ("c", "3")]));
        assert_eq!(l.with("a", "9"), set(&[("a", "9"), ("c", "3")]));
        assert_eq!(l.with("d", "4"), set(&[("a", "1"), ("c", "3"), ("d", "4")]));
        assert_eq!(l.with("c", ""), set(&[("a", "1")]));
    }

    #[test]
    fn duplicates_and_empty_names_are_refused() {
        assert_eq!(Labels::from_pairs([("a", "1"), ("a", "1")]), Err(LabelError::DuplicateName("a".into())));
        assert_eq!(Labels::from_pairs([("", "1")]), Err(LabelError::EmptyName));
    }
}
