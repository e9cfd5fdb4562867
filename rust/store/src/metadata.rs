//! What metric families say of themselves: type, help and unit, the newest word winning field by field.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use metricsdb_model::{Metadata, MetricType};
use parking_lot::RwLock;

use crate::heap;

/// What the samples of a counter, a histogram or a summary add to the name of their family.
pub const COUNTER_ENDINGS: [&str; 4] = ["_total", "_count", "_bucket", "_sum"];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Family {
    kind: Option<MetricType>,
    help: Option<Box<str>>,
    unit: Option<Box<str>>,
}

#[derive(Default)]
pub struct MetadataStore {
    families: RwLock<HashMap<Box<str>, Family>>,
    /// Bytes of all texts.
    text_bytes: AtomicUsize,
}

impl Family {
    /// Whether `new` says nothing that is not known.
    fn knows(&self, new: &Metadata) -> bool {
        let same =
            |old: &Option<Box<str>>, new: &Option<String>| new.is_none() || old.as_deref() == new.as_deref();
        (new.kind.is_none() || self.kind == new.kind)
            && same(&self.help, &new.help)
            && same(&self.unit, &new.unit)
    }

    fn text_bytes(&self) -> usize {
        let text = |t: &Option<Box<str>>| t.as_deref().map_or(0, |t| heap::allocated(t.len()));
        text(&self.help) + text(&self.unit)
    }

    fn learn(&mut self, new: &Metadata) {
        if new.kind.is_some() {
            self.kind = new.kind;
        }
        if let Some(help) = &new.help {
            self.help = Some(help.as_str().into());
        }
        if let Some(unit) = &new.unit {
            self.unit = Some(unit.as_str().into());
        }
    }
}

impl MetadataStore {
    /// What is not known yet.
    pub fn news<'a>(&self, all: &'a [Metadata]) -> Vec<&'a Metadata> {
        let families = self.families.read();
        let known = |m: &&Metadata| families.get(m.metric.as_str()).is_some_and(|f| f.knows(m));
        all.iter().filter(|m| !known(m)).collect()
    }

    /// Takes what senders repeat with every request: known words cost one look under a shared lock. Returns the
    /// families whose type is another than before.
    pub fn learn(&self, all: &[Metadata]) -> Vec<String> {
        let news = self.news(all);
        if news.is_empty() {
            return Vec::new();
        }
        let mut retyped = Vec::new();
        let mut families = self.families.write();
        for m in news {
            let entry = families.entry(m.metric.as_str().into());
            let name = if let Entry::Vacant(new) = &entry { heap::allocated(new.key().len()) } else { 0 };
            let family = entry.or_default();
            let before = family.text_bytes();
            if m.kind.is_some() && m.kind != family.kind {
                retyped.push(m.metric.clone());
            }
            family.learn(m);
            self.text_bytes.fetch_add(name + family.text_bytes(), Relaxed);
            self.text_bytes.fetch_sub(before, Relaxed);
        }
        retyped
    }

    /// The type that the family of a series declared: its metric's name, or that without the ending of a sample.
    pub fn kind_of(&self, name: &str) -> Option<MetricType> {
        let families = self.families.read();
        let declared = |name: &str| families.get(name)?.kind.filter(|&kind| kind != MetricType::Unknown);
        let bare = || COUNTER_ENDINGS.iter().find_map(|end| name.strip_suffix(end));
        declared(name).or_else(|| declared(bare()?))
    }

    /// One entry per family, or that of one metric; sorted by metric.
    pub fn get(&self, metric: Option<&str>) -> Vec<Metadata> {
        let families = self.families.read();
        let mut out: Vec<Metadata> = families
            .iter()
            .filter(|(name, _)| metric.is_none_or(|m| m == &***name))
            .map(|(name, f)| Metadata {
                metric: name.to_string(),
                kind: f.kind,
                help: f.help.as_deref().map(str::to_owned),
                unit: f.unit.as_deref().map(str::to_owned),
            })
            .collect();
        out.sort_unstable_by(|a, b| a.metric.cmp(&b.metric));
        out
    }

    /// Families and bytes.
    pub fn size(&self) -> (usize, usize) {
        let families = self.families.read();
        let texts = self.text_bytes.load(Relaxed);
        (families.len(), texts + heap::map::<Box<str>, Family>(families.capacity()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: Option<MetricType>, help: Option<&str>, unit: Option<&str>) -> Metadata {
        Metadata { metric: "up".into(), kind, help: help.map(str::to_owned), unit: unit.map(str::to_owned) }
    }

    #[test]
    fn fields_are_kept_until_another_word_replaces_them() {
        let store = MetadataStore::default();
        store.learn(&[said(Some(MetricType::Gauge), None, None)]);
        store.learn(&[said(None, Some("is it up"), Some("bool"))]);
        store.learn(&[said(None, Some("Is it up?"), None)]);
        let known = said(Some(MetricType::Gauge), Some("Is it up?"), Some("bool"));
        assert_eq!(store.get(Some("up")), vec![known]);
        assert!(store.get(Some("down")).is_empty());
        assert_eq!(store.size().0, 1);
    }
}
