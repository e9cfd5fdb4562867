//! What label filters cost, beside a scan over all label sets in the same run: 12,000 services and
//! 125,000 services of 8 series each. And what index, label sets and symbols weigh, by part.
//!
//! `cold` is the first time a selector is seen: from the second on, a label remembers which values pass.
//!
//! `cargo bench -p metricsdb-store --bench index [-- SERVICES…]`
#![allow(clippy::unwrap_used)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use metricsdb_model::{Budget, Labels, MatchOp, Matcher, NumOp, Predicate};
use metricsdb_store::index::{Forward, Index};
use metricsdb_store::labelsets::{LabelSets, Shapes};
use metricsdb_store::symbols::Symbols;

/// A small generator: the same numbers on every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % n
    }
}

/// What the index of a store stands on: symbols, label sets, and ids that interleave 256 shards.
struct Store {
    symbols: Arc<Symbols>,
    shapes: Shapes,
    sets: LabelSets,
    /// Handle by id; `u32::MAX` where a shard has no such row.
    handles: Vec<u32>,
    rows: [u32; 256],
    index: Index,
    /// What the naive scan reads.
    labels: Vec<Labels>,
}

impl Store {
    fn new() -> Store {
        let symbols = Arc::new(Symbols::new());
        let index = Index::new(symbols.clone());
        let (shapes, sets) = (Shapes::default(), LabelSets::default());
        Store { symbols, shapes, sets, handles: Vec::new(), rows: [0; 256], index, labels: Vec::new() }
    }

    fn add(&mut self, labels: Labels) {
        let intern = |text| self.symbols.intern(text).unwrap();
        let pairs: Vec<(u32, u32)> = labels.iter().map(|(n, v)| (intern(n), intern(v))).collect();
        let shard = (labels.hash64() >> 56) as usize;
        let id = self.rows[shard] << 8 | shard as u32;
        self.rows[shard] += 1;
        let handle = self.sets.push(&self.shapes, &pairs).unwrap();
        self.index.add(id, &pairs).unwrap();
        self.handles.resize(self.handles.len().max(id as usize + 1), u32::MAX);
        self.handles[id as usize] = handle;
        self.labels.push(labels);
        if self.labels.len().is_multiple_of(2000) {
            self.index.settle();
        }
    }
}

impl Forward for Store {
    fn value(&self, id: u32, name: u32) -> Option<u32> {
        self.sets.value(&self.shapes, *self.handles.get(id as usize)?, name)
    }
}

const REGIONS: [&str; 9] = [
    "us-east-1",
    "us-west-1",
    "us-west-2",
    "eu-west-1",
    "eu-central-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ap-northeast-1",
    "sa-east-1",
];

/// Two pods of four codes for each service.
fn services(store: &mut Store, count: usize) {
    let kinds = ["checkout", "pay", "search", "cart", "auth", "feed", "media", "mail", "ledger", "geo"];
    let mut random = Random(7);
    for i in 0..count {
        let service = format!("{}-{:04}", kinds[i % 10], i / 10);
        let namespace = format!("team-{}", random.below(60));
        let region = REGIONS[random.below(9) as usize];
        let method = ["GET", "POST"][random.below(2) as usize];
        for _ in 0..2 {
            let pod = format!("{service}-{:010x}", random.below(1 << 40));
            for code in ["200", "404", "429", "500"] {
                let pairs = [
                    ("__name__", "http_requests_total"),
                    ("code", code),
                    ("method", method),
                    ("namespace", &namespace),
                    ("pod", &pod),
                    ("region", region),
                    ("service", &service),
                ];
                store.add(Labels::from_pairs(pairs).unwrap());
            }
        }
    }
}

/// Eleven labels, one of them with a value for every ten series.
fn hosts(store: &mut Store, count: usize) {
    let mut random = Random(7);
    for host in 0..count {
        let region = REGIONS[random.below(9) as usize];
        let mut pairs = vec![
            ("arch", ["x64", "x86"][random.below(2) as usize].to_owned()),
            ("datacenter", format!("{region}{}", ["a", "b", "c"][random.below(3) as usize])),
            ("hostname", format!("host_{host}")),
            ("os", ["Ubuntu16.10", "Ubuntu16.04LTS", "Ubuntu15.10"][random.below(3) as usize].to_owned()),
            ("rack", random.below(100).to_string()),
            ("region", region.to_owned()),
            ("service", random.below(20).to_string()),
            ("service_environment", ["production", "staging", "test"][random.below(3) as usize].to_owned()),
            ("service_version", random.below(2).to_string()),
            ("team", ["SF", "NYC", "LON", "CHI"][random.below(4) as usize].to_owned()),
            ("__name__", String::new()),
        ];
        for field in 0..10 {
            pairs[10].1 = format!("cpu_usage_{field}");
            store.add(Labels::from_pairs(pairs.iter().map(|p| (p.0, p.1.as_str()))).unwrap());
        }
    }
}

fn is(name: &str, op: MatchOp, value: &str) -> Predicate {
    Predicate::Match(Matcher::new(name, op, value).unwrap())
}

fn selectors() -> Vec<(&'static str, Predicate)> {
    use MatchOp::{Equal, NotEqual, NotRegex, Regex};
    let metric = || is("__name__", Equal, "http_requests_total");
    let one_of = |name: &str, values: &[&str]| Predicate::OneOf {
        name: name.to_owned(),
        values: values.iter().map(|v| (*v).to_owned()).collect(),
    };
    let boolean = Predicate::All(vec![
        metric(),
        is("code", Equal, "500"),
        Predicate::Any(vec![is("service", Equal, "pay-0042"), is("namespace", Regex, "team-1.")]),
        Predicate::Not(Box::new(one_of("region", &["eu-west-1", "sa-east-1"]))),
    ]);
    let narrow = vec![metric(), is("service", Equal, "pay-0042"), is("pod", Regex, ".*[0-7]")];
    let negative = vec![metric(), is("code", NotEqual, "200"), is("region", NotRegex, "us-.*")];
    let number = Predicate::Num { name: "code".into(), op: NumOp::GreaterEqual, value: 500.0 };
    vec![
        ("service=\"pay-0042\"", Predicate::All(vec![metric(), is("service", Equal, "pay-0042")])),
        ("code=500 and (… or …) and not in", boolean),
        ("service=~\"checkout-00.*\"", Predicate::All(vec![metric(), is("service", Regex, "checkout-00.*")])),
        ("service=~\"(pay|cart)-.*\"", Predicate::All(vec![metric(), is("service", Regex, "(pay|cart)-.*")])),
        ("service=~\".*7\"", Predicate::All(vec![metric(), is("service", Regex, ".*7")])),
        ("pod=~\".*7f\"", Predicate::All(vec![metric(), is("pod", Regex, ".*7f")])),
        ("pod=~\".*-0042-.*\"", Predicate::All(vec![metric(), is("pod", Regex, ".*-0042-.*")])),
        ("pod=~\"pay-[0-9]+-[a-f]+.*\"", Predicate::All(vec![is("pod", Regex, "pay-[0-9]+-[a-f]+.*")])),
        ("service=~\"a|b|c\"", is("service", Regex, "auth-0001|mail-0002|geo-0003")),
        ("service=… and pod=~\".*[0-7]\"", Predicate::All(narrow)),
        ("code!=\"200\" and region!~\"us-.*\"", Predicate::All(negative)),
        ("service!~\".*7\"", Predicate::All(vec![metric(), is("service", NotRegex, ".*7")])),
        ("service!=\"\"", is("service", NotEqual, "")),
        ("num(code) >= 500", number),
    ]
}

/// Median and 99th percentile of many runs, in milliseconds.
fn times(mut run: impl FnMut()) -> (f64, f64) {
    run();
    let mut taken: Vec<f64> = (0..200)
        .map(|_| {
            let before = Instant::now();
            run();
            before.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    taken.sort_by(f64::total_cmp);
    (taken[100], taken[198])
}

fn filters(store: &Store) {
    let budget = Budget::unlimited();
    println!(
        "{:<38} {:>9} {:>9} {:>9} {:>9} {:>11}",
        "selector", "series", "cold ms", "p50 ms", "p99 ms", "scan ms"
    );
    for (name, predicate) in selectors() {
        let before = Instant::now();
        let expected = store.labels.iter().filter(|l| predicate.matches(l.as_ref())).count();
        let scan = before.elapsed().as_secs_f64() * 1e3;
        let before = Instant::now();
        let found = store.index.select(&predicate, store, &budget).unwrap().len();
        let cold = before.elapsed().as_secs_f64() * 1e3;
        assert_eq!(found, expected as u64, "{name}");
        let (p50, p99) = times(|| {
            black_box(store.index.select(&predicate, store, &budget).unwrap());
        });
        println!("{name:<38} {found:>9} {cold:>9.3} {p50:>9.3} {p99:>9.3} {scan:>11.1}");
    }
    let all = store.index.all();
    for (name, ids) in [("label_values(pod)", None), ("label_values(service, all)", Some(&*all))] {
        let label = if ids.is_some() { "service" } else { "pod" };
        let (p50, p99) = times(|| {
            black_box(store.index.label_values(label, ids, store, &Budget::unlimited()).unwrap());
        });
        println!("{name:<38} {:>19} {p50:>9.3} {p99:>9.3}", "");
    }
}

fn weights(store: &Store) {
    let series = store.labels.len() as f64;
    let mut parts = store.index.bytes();
    let index: usize = parts.iter().map(|p| p.1).sum();
    parts.extend([("= index", index), ("label sets", store.sets.bytes() + store.shapes.bytes())]);
    parts.push(("symbols", store.symbols.bytes()));
    for (part, bytes) in parts {
        println!("{part:<38} {:>9.1} bytes a series", bytes as f64 / series);
    }
}

fn main() {
    let asked: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    for count in if asked.is_empty() { vec![12_000, 125_000] } else { asked } {
        let mut store = Store::new();
        let before = Instant::now();
        services(&mut store, count);
        let taken = before.elapsed().as_secs_f64() * 1e6 / store.labels.len() as f64;
        println!("\n{count} services, {} series, built in {taken:.2} us a series", store.labels.len());
        filters(&store);
        weights(&store);
    }
    let mut store = Store::new();
    hosts(&mut store, 100_000);
    println!("\n100000 hosts of 10 series with 11 labels");
    weights(&store);
}
