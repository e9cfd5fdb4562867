#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use metricsdb_model::histogram::Span;
use metricsdb_model::{Layout, ResetHint, ValueKind};

use super::testing::{growing_rows, rows};
use super::*;
use crate::chunk::Chunk;
use crate::codec::testing::timestamps;

const START: i64 = 1_700_000_000_000;

fn regular(n: usize) -> Vec<i64> {
    (0..n as i64).map(|i| START + i * 15_000).collect()
}

fn all(chunk: &HistogramChunk) -> (Vec<i64>, Vec<Histogram>) {
    let (mut times, mut rows) = (Vec::new(), Vec::new());
    chunk.decode_range(TimeRange::ALL, &mut times, &mut rows).unwrap();
    (times, rows)
}

fn integers(layout: &Arc<Layout>, sum: f64, buckets: &[u64]) -> Histogram {
    let mut tally = Tally { count: 0, zero: 0, buckets: buckets.to_vec() };
    tally.count = tally.total();
    Histogram { layout: layout.clone(), reset: ResetHint::Unknown, sum, counts: Counts::Int(tally) }
}

fn one_span(offset: i32, length: u32) -> Arc<Layout> {
    Arc::new(Layout { schema: 3, positive: vec![Span { offset, length }], ..Layout::default() })
}

/// A small multiplicative generator: the sets are the same in every run.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn poisson(&mut self, mean: f64) -> u64 {
        let (mut n, mut product, end) = (0, self.unit(), (-mean).exp());
        while product > end {
            n += 1;
            product *= self.unit();
        }
        n
    }
}

/// `n` scrapes of 40 buckets that fill up as a latency does: `total` observations a scrape.
fn latencies(n: usize, total: f64) -> Vec<Histogram> {
    let mut random = Random(7);
    let weights: Vec<f64> = (0..40).map(|i| (-(f64::from(i) - 18.0).powi(2) / 72.0).exp()).collect();
    let all: f64 = weights.iter().sum();
    let layout = one_span(-20, 40);
    let (mut buckets, mut sum) = ([0u64; 40], 0.0);
    (0..n)
        .map(|_| {
            for (i, (bucket, weight)) in buckets.iter_mut().zip(&weights).enumerate() {
                let add = random.poisson(total * weight / all);
                *bucket += add;
                sum += add as f64 * ((i as f64 - 20.0) / 8.0).exp2() * (0.95 + 0.1 * random.unit());
            }
            integers(&layout, sum, &buckets)
        })
        .collect()
}

/// Bytes of the same observations as a classic histogram: 40 cumulative buckets, count and sum.
fn classic_bytes(times: &[i64], rows: &[Histogram]) -> usize {
    let seal = |column: Vec<f64>| {
        let bits: Vec<u64> = column.iter().map(|v| v.to_bits()).collect();
        Chunk::seal(ValueKind::Float, times, &bits).unwrap().bytes()
    };
    let cumulative = |to: usize| {
        let value = |h: &Histogram| match &h.counts {
            Counts::Int(tally) => tally.buckets[..=to].iter().sum::<u64>() as f64,
            Counts::Float(_) => 0.0,
        };
        seal(rows.iter().map(value).collect())
    };
    let parts: usize = (0..40).map(cumulative).sum();
    parts + seal(rows.iter().map(Histogram::count).collect()) + seal(rows.iter().map(|h| h.sum).collect())
}

#[test]
fn a_histogram_costs_little_beside_its_parts_as_series() {
    let times = regular(512);
    for (total, percent) in [(0.4, 30), (4.0, 41), (40.0, 49), (400.0, 58)] {
        let rows = latencies(512, total);
        let chunk = HistogramChunk::seal(&times, &rows).unwrap();
        assert_eq!(all(&chunk), (times.clone(), rows.clone()));
        let (native, classic) = (chunk.bytes(), classic_bytes(&times, &rows));
        println!(
            "{total} observations a scrape: {:.2} bytes a histogram, {:.2} as classic series, {} %",
            native as f64 / 512.0,
            classic as f64 / 512.0,
            native * 100 / classic
        );
        assert!(native * 100 <= classic * percent, "{native} {classic}");
    }
}

#[test]
fn what_never_changes_costs_a_byte_or_two_a_bucket() {
    let times = regular(512);
    let empty = HistogramChunk::seal(&times, &vec![integers(&one_span(0, 40), 0.0, &[0; 40]); 512]).unwrap();
    let same = HistogramChunk::seal(&times, &vec![integers(&one_span(0, 40), 9.5, &[99; 40]); 512]).unwrap();
    assert!(empty.to_bytes().len() <= 51 + 41, "{}", empty.to_bytes().len());
    assert!(same.to_bytes().len() <= 54 + 81, "{}", same.to_bytes().len());
}

#[test]
fn a_layout_that_grows_costs_its_spans_and_no_more() {
    let times = regular(512);
    let fixed = latencies(512, 40.0);
    let narrow = one_span(-20, 38);
    let grown = fixed.iter().enumerate().map(|(i, h)| match &h.counts {
        Counts::Int(tally) if i < 100 => integers(&narrow, h.sum, &tally.buckets[..38]),
        _ => h.clone(),
    });
    let grown: Vec<Histogram> = grown.collect();
    let chunk = HistogramChunk::seal(&times, &grown).unwrap();
    assert_eq!(all(&chunk).1, grown);
    let whole = HistogramChunk::seal(&times, &fixed).unwrap();
    assert!(chunk.bytes() <= whole.bytes() + 40, "{} {}", chunk.bytes(), whole.bytes());
}

#[test]
fn quiet_scrapes_cost_next_to_nothing() {
    let quiet = |n: usize| {
        let rows = latencies(512, 40.0);
        let rows: Vec<Histogram> = (0..512).map(|i| rows[i / n].clone()).collect();
        let chunk = HistogramChunk::seal(&regular(512), &rows).unwrap();
        for from in [0, 1, n - 1, n / 2, 500] {
            let (mut times, mut back) = (Vec::new(), Vec::new());
            let range = TimeRange::new(regular(512)[from], i64::MAX);
            chunk.decode_range(range, &mut times, &mut back).unwrap();
            assert_eq!(back, rows[from..]);
        }
        chunk.bytes()
    };
    assert!(quiet(8) * 5 < quiet(1), "{} {}", quiet(8), quiet(1));
    assert!(quiet(512) < 200, "{}", quiet(512));
}

#[test]
fn decoded_histograms_share_their_layout() {
    let rows = latencies(10, 4.0);
    let back = all(&HistogramChunk::seal(&regular(10), &rows).unwrap()).1;
    assert!(back.iter().all(|h| Arc::ptr_eq(&h.layout, &back[0].layout)));
}

#[test]
fn wrong_columns_are_refused() {
    let h = integers(&one_span(0, 1), 1.0, &[3]);
    let pair = vec![h.clone(), h.clone()];
    assert!(HistogramChunk::seal(&[], &[]).is_err());
    assert!(HistogramChunk::seal(&[1], &pair).is_err());
    assert!(HistogramChunk::seal(&[2, 2], &pair).is_err());
    let mut wrong = h.clone();
    wrong.counts = Counts::Int(Tally { count: 4, zero: 0, buckets: vec![3] });
    assert!(HistogramChunk::seal(&[1], &[wrong]).is_err());
    let many = CHUNK_ROWS_MAX + 1;
    assert!(HistogramChunk::seal(&(0..many as i64).collect::<Vec<_>>(), &vec![h; many]).is_err());
}

#[test]
fn the_widest_histograms_fit_alone_and_are_refused_in_numbers() {
    let wide = integers(&one_span(0, 65_536), 1.0, &vec![1; 65_536]);
    let few = HistogramChunk::seal(&regular(8), &vec![wide.clone(); 8]).unwrap();
    assert_eq!(HistogramChunk::from_bytes(few.to_bytes()).unwrap().header().unwrap().count, 8);
    let many = HistogramChunk::seal(&regular(64), &vec![wide; 64]);
    assert!(matches!(many, Err(Error::Limit { .. })));
    // Scattered buckets don't share columns, so they fit.
    let scattered = (0..512).map(|i| integers(&one_span(i * 4, 4), 1.0, &[1, 2, 3, 4]));
    let scattered: Vec<Histogram> = scattered.collect();
    let chunk = HistogramChunk::seal(&regular(512), &scattered).unwrap();
    assert_eq!(all(&chunk).1, scattered);
}

/// 65,536 histograms of `buckets` empty buckets in a few bytes; with repeats, one of them is written.
fn bomb(repeats: bool, buckets: u64) -> Error {
    let mut bytes = vec![VERSION << 4 | REGULAR | if repeats { REPEATS } else { 0 }, 0xff, 0xff];
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0]);
    bytes.extend([0; 16]);
    if repeats {
        repeats::write(&[0], &mut bytes);
    }
    bytes.extend([2, 0, 0]);
    bytes.extend([1, 0, 0, 1, 1, 0]);
    put_varint(&mut bytes, buckets);
    bytes.push(0);
    bytes.extend([1, 0]);
    put_varint(&mut bytes, if repeats { 0 } else { 65_535 });
    bytes.extend([0; 1024]);
    HistogramChunk::from_bytes(&bytes).unwrap_err()
}

#[test]
fn a_few_bytes_that_claim_much_are_refused_before_they_are_decoded() {
    assert!(bomb(false, 1000).to_string().contains("layouts don't fit their histograms"));
    assert!(bomb(false, 1 << 30).to_string().contains("more buckets than a chunk may have"));
    assert!(bomb(true, 1000).to_string().contains("more buckets than a chunk may have"));
    assert!(bomb(true, 1 << 16).to_string().contains("more buckets than a chunk may have"));
}

#[test]
fn a_nan_observed_costs_no_column_of_counts() {
    let mut rows = latencies(200, 4.0);
    let before = HistogramChunk::seal(&regular(200), &rows).unwrap().bytes();
    for h in &mut rows[100..] {
        h.sum = f64::NAN;
        if let Counts::Int(tally) = &mut h.counts {
            tally.count += 1;
        }
    }
    let chunk = HistogramChunk::seal(&regular(200), &rows).unwrap();
    assert_eq!(all(&chunk).1, rows);
    assert!(chunk.bytes() <= before + 40, "{} {before}", chunk.bytes());
}

proptest! {
    #[test]
    fn every_histogram_comes_back_bit_for_bit(
        times in timestamps(60), rows in rows(60), from in 0usize..60, to in 0usize..60,
    ) {
        let n = times.len().min(rows.len());
        let (times, rows) = (&times[..n], &rows[..n]);
        let chunk = HistogramChunk::seal(times, rows).unwrap();
        prop_assert_eq!((chunk.count(), chunk.first(), chunk.last()), (n, times[0], times[n - 1]));
        for chunk in [chunk.clone(), HistogramChunk::from_bytes(chunk.to_bytes()).unwrap()] {
            let (t, h) = all(&chunk);
            prop_assert_eq!(&t[..], times);
            prop_assert_eq!(&h[..], rows);
        }
        let range = TimeRange::new(times[from % n], times[to % n]);
        let wanted: Vec<usize> = (0..n).filter(|&i| range.contains(times[i])).collect();
        let (mut t, mut h) = (vec![7], vec![Histogram::stale()]);
        chunk.decode_range(range, &mut t, &mut h).unwrap();
        prop_assert_eq!(&t[1..], wanted.iter().map(|&i| times[i]).collect::<Vec<_>>());
        prop_assert_eq!(&h[1..], wanted.iter().map(|&i| rows[i].clone()).collect::<Vec<_>>());
    }

    #[test]
    fn the_header_knows_what_a_plain_loop_finds(rows in rows(60)) {
        let header = HistogramChunk::seal(&regular(rows.len()), &rows).unwrap().header().unwrap();
        let (first, last) = (&rows[0], &rows[rows.len() - 1]);
        let known: Vec<&Histogram> = rows.iter().filter(|h| !h.is_stale()).collect();
        let resets = known.windows(2).filter(|w| w[1].resets_after(w[0])).count() as u64;
        prop_assert_eq!((header.count, header.resets), (rows.len(), resets));
        prop_assert!(same([header.first_count, header.last_count], [first.count(), last.count()]));
        prop_assert!(same([header.first_sum, header.last_sum], [first.sum, last.sum]));
        prop_assert_eq!(header.stale as usize, rows.len() - known.len());
    }

    #[test]
    fn broken_bytes_give_an_error_or_a_sound_chunk(
        rows in rows(30), at in 0usize..4000, flip in 1u8..=255, cut in 0usize..4000,
    ) {
        let mut bytes = HistogramChunk::seal(&regular(rows.len()), &rows).unwrap().to_bytes().to_vec();
        let n = bytes.len();
        bytes[at % n] ^= flip;
        for bytes in [&bytes[..], &bytes[..cut % n]] {
            let Ok(chunk) = HistogramChunk::from_bytes(bytes) else { continue };
            let (times, rows) = all(&chunk);
            prop_assert_eq!((times.len(), rows.len()), (chunk.count(), chunk.count()));
            HistogramChunk::seal(&times, &rows).unwrap();
        }
    }

    #[test]
    fn growth_of_a_layout_is_no_reset(rows in growing_rows(40)) {
        let falls = |w: &&[Histogram]| w[1].count() < w[0].count();
        let header = HistogramChunk::seal(&regular(rows.len()), &rows).unwrap().header().unwrap();
        prop_assert!(header.resets >= rows.windows(2).filter(falls).count() as u64);
        if rows.windows(2).all(|w| w[0].layout.bucket_counts() <= w[1].layout.bucket_counts()) {
            let any = rows.windows(2).any(|w| w[1].resets_after(&w[0]));
            prop_assert_eq!(header.resets > 0, any);
        }
    }
}

#[test]
fn every_flip_and_every_cut_of_small_chunks_is_survived() {
    let custom = Layout {
        schema: -53,
        positive: vec![Span { offset: 0, length: 3 }],
        custom_bounds: vec![0.1, 0.25],
        ..Layout::default()
    };
    let custom = Arc::new(custom);
    let floats = |i: u64| {
        let tally = Tally { count: i as f64 * 3.5, zero: 0.0, buckets: vec![i as f64, 2.5 * i as f64, 0.0] };
        Histogram { counts: Counts::Float(tally), ..integers(&custom, i as f64, &[0; 3]) }
    };
    let mut mixed = latencies(6, 40.0);
    mixed[3] = Histogram::stale();
    mixed.extend((0..6).map(floats));
    for rows in [latencies(5, 4.0), (0..40).map(floats).collect(), mixed] {
        let times: Vec<i64> = regular(rows.len()).iter().map(|t| t + t / 15_000 % 3).collect();
        let good = HistogramChunk::seal(&times, &rows).unwrap();
        for at in 0..good.to_bytes().len() {
            assert!(HistogramChunk::from_bytes(&good.to_bytes()[..at]).is_err());
            for bit in 0..8 {
                let mut bytes = good.to_bytes().to_vec();
                bytes[at] ^= 1 << bit;
                if let Ok(chunk) = HistogramChunk::from_bytes(&bytes) {
                    assert_eq!(all(&chunk).1.len(), chunk.count());
                }
            }
        }
    }
}
