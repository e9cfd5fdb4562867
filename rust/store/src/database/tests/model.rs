//! The store beside a plain map, through the same calls.

use super::*;

/// The slow, obvious store: for each series a map from time to value.
struct Model {
    policy: DuplicatePolicy,
    series: BTreeMap<String, BTreeMap<i64, (u64, ValueKind)>>,
}

fn widened((bits, kind): (u64, ValueKind)) -> f64 {
    match kind {
        ValueKind::Int => bits as i64 as f64,
        ValueKind::Uint => bits as f64,
        ValueKind::Float => f64::from_bits(bits),
    }
}

fn is_stale_marker((bits, kind): (u64, ValueKind)) -> bool {
    kind == ValueKind::Float && bits == STALE_NAN_BITS
}

fn both(policy: DuplicatePolicy, old: (u64, ValueKind), new: (u64, ValueKind)) -> (u64, ValueKind) {
    let (a, b) = (widened(old), widened(new));
    let wide = |(bits, kind)| if kind == ValueKind::Int { i128::from(bits as i64) } else { i128::from(bits) };
    let ints = old.1 == new.1 && old.1 != ValueKind::Float;
    let less = if ints { wide(new) < wide(old) } else { b < a };
    let more = if ints { wide(new) > wide(old) } else { b > a };
    let better = |wins: bool| match () {
        () if is_stale_marker(old) && !is_stale_marker(new) => new,
        () if is_stale_marker(new) => old,
        () if a.is_nan() && !b.is_nan() => new,
        () if wins => new,
        () => old,
    };
    match policy {
        DuplicatePolicy::Last => new,
        DuplicatePolicy::First | DuplicatePolicy::Error => old,
        DuplicatePolicy::Min => better(less),
        DuplicatePolicy::Max => better(more),
        DuplicatePolicy::Sum if is_stale_marker(old) => new,
        DuplicatePolicy::Sum if is_stale_marker(new) => old,
        DuplicatePolicy::Sum => {
            let sum = wide(old) + wide(new);
            let fits =
                if old.1 == ValueKind::Int { i64::try_from(sum).is_ok() } else { u64::try_from(sum).is_ok() };
            if ints && fits { (sum as u64, old.1) } else { ((a + b).to_bits(), ValueKind::Float) }
        }
    }
}

impl Model {
    fn write(&mut self, key: &str, time: i64, new: (u64, ValueKind), report: &mut WriteReport) {
        let samples = self.series.entry(key.to_owned()).or_default();
        let older = samples.last_key_value().is_some_and(|(&newest, _)| time < newest);
        if let Some(&old) = samples.get(&time) {
            if self.policy == DuplicatePolicy::Error {
                report.reject(Reason::DuplicateSample, 1, String::new);
                return;
            }
            report.duplicates += 1;
            samples.insert(time, both(self.policy, old, new));
        } else {
            samples.insert(time, new);
        }
        report.accepted += 1;
        report.out_of_order += u64::from(older);
    }

    fn content(&self, range: TimeRange) -> Content {
        let cut = |m: &BTreeMap<i64, (u64, ValueKind)>| {
            m.range(range.start..=range.end).map(|(&t, &(b, k))| (t, b, k)).collect::<Vec<_>>()
        };
        let all = self.series.iter().map(|(k, m)| (k.clone(), cut(m)));
        all.filter(|(_, samples)| !samples.is_empty()).collect()
    }
}

/// One call: floats by raw labels, or floats or integers by id; (series, time, bits).
#[derive(Clone, Debug)]
enum Call {
    Write(Vec<(u8, i64, u64)>),
    Floats(Vec<(u8, i64, u64)>),
    Ints(Vec<(u8, i64, u64)>),
    Uints(Vec<(u8, i64, u64)>),
}

fn times() -> impl Strategy<Value = i64> {
    prop_oneof![
        8 => 0i64..60,
        4 => (0i64..200).prop_map(|i| 1_700_000_000_000 + i * 15_000),
        2 => any::<i64>(),
        1 => prop::sample::select(vec![i64::MIN, i64::MIN + 1, -1, 0, i64::MAX - 1, i64::MAX]),
    ]
}

fn value_bits() -> impl Strategy<Value = u64> {
    let special = vec![
        STALE_NAN_BITS,
        NORMAL_NAN_BITS,
        0xfff8_0000_0000_0007,
        f64::INFINITY.to_bits(),
        f64::NEG_INFINITY.to_bits(),
        (-0.0f64).to_bits(),
        0,
        i64::MAX as u64,
        i64::MIN as u64,
        f64::MIN_POSITIVE.to_bits(),
        1,
    ];
    prop_oneof![
        4 => (-50i64..50).prop_map(|i| (i as f64 / 4.0).to_bits()),
        3 => (-5i64..1000).prop_map(|i| i as u64),
        2 => any::<u64>(),
        2 => prop::sample::select(special),
    ]
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let samples = || prop::collection::vec((0u8..4, times(), value_bits()), 0..60);
    // Mostly rising times, as real senders write them.
    let rising = || {
        (0u8..4, 0i64..1000, prop::collection::vec((0u8..3, 0i64..4, value_bits()), 0..80)).prop_map(
            |(first, start, steps)| {
                let mut now = start;
                let mut row = |(s, step, bits)| {
                    now += step;
                    ((first + s) % 4, now, bits)
                };
                steps.into_iter().map(&mut row).collect::<Vec<_>>()
            },
        )
    };
    let any = move || prop_oneof![samples(), rising()];
    prop::collection::vec(
        prop_oneof![
            any().prop_map(Call::Write),
            any().prop_map(Call::Floats),
            any().prop_map(Call::Ints),
            any().prop_map(Call::Uints)
        ],
        1..8,
    )
}

fn policies() -> impl Strategy<Value = DuplicatePolicy> {
    use DuplicatePolicy::*;
    prop::sample::select(vec![Last, First, Min, Max, Sum, Error])
}

const RAW: [&str; 4] = ["__name__=a", "__name__=b,x=1", "x=2", "__name__=b,x=2,y=3"];

fn key(i: u8) -> String {
    let mut builder = LabelsBuilder::default();
    decode(RAW[i as usize].as_bytes(), &mut builder).unwrap();
    builder.finish().unwrap().to_string()
}

/// Makes one call and holds its report against the model's.
fn make(
    db: &Database,
    model: &mut Model,
    call: &Call,
    ids: &[u64],
) -> std::result::Result<(), TestCaseError> {
    let (rows, kind) = match call {
        Call::Write(rows) | Call::Floats(rows) => (rows, ValueKind::Float),
        Call::Ints(rows) => (rows, ValueKind::Int),
        Call::Uints(rows) => (rows, ValueKind::Uint),
    };
    let ids: Vec<u64> = rows.iter().map(|r| ids[r.0 as usize]).collect();
    let times: Vec<i64> = rows.iter().map(|r| r.1).collect();
    let floats: Vec<f64> = rows.iter().map(|r| f64::from_bits(r.2)).collect();
    let ints: Vec<i64> = rows.iter().map(|r| r.2 as i64).collect();
    let uints: Vec<u64> = rows.iter().map(|r| r.2).collect();
    let columns = |values| Columns { ids: &ids, timestamps: &times, values };
    let mut report = match call {
        Call::Floats(_) => db.append_columns(columns(Values::Float(&floats))).unwrap(),
        Call::Uints(_) => db.append_columns(columns(Values::Uint(&uints))).unwrap(),
        Call::Ints(_) => db.append_columns(columns(Values::Int(&ints))).unwrap(),
        Call::Write(_) => {
            let samples: Vec<_> =
                rows.iter().map(|r| (RAW[r.0 as usize], [(r.1, f64::from_bits(r.2))])).collect();
            let series: Vec<_> = samples.iter().map(|(raw, s)| (*raw, &s[..])).collect();
            db.write(&batch(&series))
        }
    };
    let mut expected = WriteReport::default();
    for &(series, time, bits) in rows {
        model.write(&key(series), time, (bits, kind), &mut expected);
    }
    prop_assert_eq!(report.accepted + report.rejected_total(), rows.len() as u64);
    for r in report.rejected.iter_mut() {
        r.example = String::new();
    }
    prop_assert_eq!(report, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_store_reads_back_bit_for_bit_what_a_plain_map_holds(
        policy in policies(),
        samples_per_chunk in prop_oneof![1usize..12, 12usize..400],
        calls in calls(),
        ranges in prop::collection::vec((times(), times()), 1..4),
    ) {
        let db = Database::new(Options { duplicates: policy, samples_per_chunk, ..Options::default() });
        let sets: Vec<Labels> = RAW
            .iter()
            .map(|raw| {
                let mut builder = LabelsBuilder::default();
                decode(raw.as_bytes(), &mut builder).unwrap();
                builder.finish().unwrap()
            })
            .collect();
        let ids = db.register(&sets).unwrap().0;
        let mut model = Model { policy, series: BTreeMap::new() };
        for call in &calls {
            make(&db, &mut model, call, &ids)?;
            db.check().unwrap();
            prop_assert_eq!(content(&db, TimeRange::ALL), model.content(TimeRange::ALL));
        }
        let budget = Budget::unlimited();
        for (a, b) in ranges {
            let range = TimeRange::new(a.min(b), a.max(b));
            let expected = model.content(range);
            prop_assert_eq!(content(&db, range), expected.clone());
            let (_, sets) = db.series(&[], range, &budget).unwrap();
            let mut found: Vec<String> = sets.iter().map(|s| s.to_string()).collect();
            found.sort();
            prop_assert_eq!(found, expected.into_keys().collect::<Vec<_>>());
        }
        let stats = db.stats();
        prop_assert_eq!(stats.samples as usize, model.series.values().map(|m| m.len()).sum::<usize>());
        prop_assert_eq!(stats.oldest, model.series.values().filter_map(|m| m.keys().next().copied()).min());
        prop_assert_eq!(stats.newest, model.series.values().filter_map(|m| m.keys().last().copied()).max());
    }
}
