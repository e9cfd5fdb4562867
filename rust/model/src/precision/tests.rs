//! The promises of docs/precision.md against their definitions, in integers: nothing here asks the
//! quantizer's own float comparisons. `cargo test --release -p metricsdb-model --lib precision` checks more
//! than 10^7 samples, a debug build 10^5.

#![allow(clippy::unwrap_used)]

use std::cmp::Ordering;

use proptest::prelude::*;

use super::{Policy, Precision, Quantizer};
use crate::sample::{STALE_NAN_BITS, ValueKind};

/// Samples of a case, and cases.
const COLUMN: usize = 4096;
const CASES: u32 = if cfg!(debug_assertions) { 25 } else { 2560 };

/// `n * 2^e`, exactly.
#[derive(Clone, Copy, Debug)]
struct Exact {
    n: u128,
    e: i32,
}

impl Exact {
    fn of(x: f64) -> Exact {
        let (exponent, fraction) = ((x.to_bits() >> 52 & 0x7ff) as i32, x.to_bits() & ((1 << 52) - 1));
        assert!(exponent < 0x7ff);
        match exponent {
            0 => Exact { n: fraction as u128, e: -1074 },
            _ => Exact { n: (fraction | 1 << 52) as u128, e: exponent - 1075 },
        }
    }

    fn times(self, other: Exact) -> Exact {
        Exact { n: self.n.checked_mul(other.n).unwrap(), e: self.e + other.e }
    }

    /// `lead * 10^power` for a power that is not negative.
    fn decimal(lead: u64, power: u32) -> Exact {
        Exact { n: lead as u128 * 5u128.pow(power), e: power as i32 }
    }

    fn cmp(self, other: Exact) -> Ordering {
        if self.n == 0 || other.n == 0 {
            return self.n.cmp(&other.n);
        }
        let top = |x: Exact| 128 - x.n.leading_zeros() as i32 + x.e;
        if top(self) != top(other) {
            return top(self).cmp(&top(other));
        }
        // Equal magnitudes: the one of the larger exponent has the shorter number, so the shift fits.
        let low = self.e.min(other.e);
        (self.n << (self.e - low)).cmp(&(other.n << (other.e - low)))
    }

    fn minus(self, other: Exact) -> Exact {
        match () {
            _ if self.n == 0 => other,
            _ if other.n == 0 => self,
            _ => {
                let low = self.e.min(other.e);
                let wide = |x: Exact| {
                    let shift = (x.e - low) as u32;
                    assert!(shift <= x.n.leading_zeros(), "far apart: {self:?} {other:?}");
                    x.n << shift
                };
                Exact { n: wide(self).abs_diff(wide(other)), e: low }
            }
        }
    }
}

fn distance(x: f64, y: f64) -> Exact {
    assert!(x == 0.0 || y == 0.0 || x.signum() == y.signum());
    Exact::of(x).minus(Exact::of(y))
}

/// `lead * 10^power`, from decimal text.
fn decimal(lead: u64, power: i32) -> f64 {
    format!("{lead}e{power}").parse().unwrap()
}

/// The decade of a double other than 0, from its text: `1e5` begins the decade 5.
fn decade(x: f64) -> i32 {
    format!("{:e}", x.abs()).split_once('e').unwrap().1.parse().unwrap()
}

/// The coarsest step of 1, 2 or 5 times a power of ten that is not above `size`.
fn coarsest(size: f64) -> Option<(u64, i32)> {
    let mut all = (-22..=21).flat_map(|power| [1, 2, 5].map(|lead| (lead, power)));
    all.rfind(|&(lead, power)| decimal(lead, power) <= size)
}

/// The step that a policy promises for a value, as lead and power; `None` where values stay.
fn promised_step(precision: Precision, x: f64) -> Option<(u64, i32)> {
    let of_decade = |lead, below: i32| {
        let power = decade(x) - below;
        (below <= 14 && (-22..=21).contains(&power)).then_some((lead, power))
    };
    let (lead, power) = match precision {
        Precision::Lossless | Precision::Bits(_) => return None,
        Precision::Digits(n) => of_decade(1, n as i32 - 1)?,
        Precision::Decimals(n) => (1, -n as i32),
        Precision::Absolute(e) => coarsest(2.0 * e)?,
        Precision::Relative(e) => coarsest(2.0 * e).and_then(|(lead, power)| of_decade(lead, -power))?,
    };
    (x.abs() < decimal(lead << 51, power)).then_some((lead, power))
}

/// Whether `|q - x|` keeps the promise, in integers.
fn within(precision: Precision, x: f64, q: f64) -> bool {
    if q == x {
        return true;
    }
    let error = distance(x, q);
    // Half a step: |q - x| * 2 * 10^-power against the lead.
    let half = |error: Exact, (lead, power): (u64, i32)| {
        let (left, right) = match power {
            ..0 => (error.times(Exact::decimal(2, -power as u32)), Exact::decimal(lead, 0)),
            _ => (error.times(Exact::decimal(2, 0)), Exact::decimal(lead, power as u32)),
        };
        left.cmp(right) != Ordering::Greater
    };
    match precision {
        Precision::Lossless => false,
        Precision::Bits(n) => {
            let share = Exact { n: 1, e: -(n as i32) - 1 };
            error.cmp(Exact::of(x).times(share)) != Ordering::Greater
        }
        // The double nearest to a decimal is at most half a unit in its last place from it.
        Precision::Digits(_) | Precision::Decimals(_) => {
            let slack = Exact { n: (q != 0.0) as u128, e: Exact::of(q).e - 1 };
            let beyond = |step| error.cmp(slack) == Ordering::Greater && !half(error.minus(slack), step);
            promised_step(precision, x).is_some_and(|step| !beyond(step))
        }
        Precision::Relative(e) => error.cmp(Exact::of(x).times(Exact::of(e))) != Ordering::Greater,
        Precision::Absolute(e) => error.cmp(Exact::of(e)) != Ordering::Greater,
    }
}

/// Whether `q` is the double nearest to a multiple of `lead * 10^power`, in integers.
fn on_grid(q: f64, (lead, power): (u64, i32)) -> bool {
    let tens = Exact::decimal(1, power.unsigned_abs());
    let (value, tens_of_step, unit) = match power {
        ..0 => (Exact::of(q).times(tens), Exact { n: 1, e: 0 }, tens),
        _ => (Exact::of(q), tens, Exact { n: 1, e: 0 }),
    };
    let half_ulp = Exact { n: unit.n, e: unit.e + Exact::of(q).e - 1 };
    // The quotient is a guess, one off at most; a wrong multiple fails the exact test.
    let guess = (q.abs() / decimal(lead, power)).round() as u64;
    (guess.saturating_sub(1)..=guess + 1).any(|m| {
        let multiple = tens_of_step.times(Exact { n: m as u128 * lead as u128, e: 0 });
        value.minus(multiple).cmp(half_ulp) != Ordering::Greater
    })
}

/// The multiples around `x`, correctly rounded by the parser of decimal text.
fn neighbours(x: f64, (lead, power): (u64, i32)) -> [f64; 4] {
    let m = (x.abs() / decimal(lead, power)) as u64;
    [m.saturating_sub(1), m, m + 1, m + 2].map(|m| decimal(m * lead, power).copysign(x))
}

fn check(precision: Precision, quantizer: &Quantizer, x: f64) {
    let apply = |counter, x: f64| f64::from_bits(quantizer.apply(ValueKind::Float, counter, x.to_bits()));
    let q = apply(false, x);
    if !x.is_finite() || x == 0.0 {
        assert_eq!(q.to_bits(), x.to_bits());
        return;
    }
    let say = || format!("{precision} of {x:e} ({:#x}) is {q:e}", x.to_bits());
    assert!(within(precision, x, q), "{}: out of bounds", say());
    assert_eq!(apply(false, q).to_bits(), q.to_bits(), "{}: no fixed point", say());
    assert_eq!(apply(false, -x), -q, "{}: not odd", say());
    assert!(q != 0.0 || q.is_sign_positive(), "{}: a zero of no decimal", say());
    match (precision, promised_step(precision, x)) {
        (Precision::Bits(n), _) => {
            let short = q.to_bits().trailing_zeros() >= 52 - n as u32;
            assert!(short || (q == x && !x.is_normal()) || x.abs() > 1e308, "{}: too long", say());
        }
        (_, None) => assert_eq!(q, x, "{}: has no step", say()),
        (_, Some(step)) if q != 0.0 && !on_grid(q, step) => {
            // A value may only stay where neither neighbour keeps the promise.
            assert_eq!(q, x, "{}: no decimal", say());
            assert!(neighbours(x, step).iter().all(|&n| !within(precision, x, n)), "{}: stays", say());
            let decimal = matches!(precision, Precision::Digits(_) | Precision::Decimals(_));
            assert!(!decimal, "{}: digits and decimals leave nothing", say());
        }
        _ => {}
    }
    let counter = apply(true, x);
    assert!(x.floor() <= counter && counter <= x.ceil(), "{}: a counter crosses to {counter}", say());
    assert!(x.fract() != 0.0 || counter == x, "{}: a counter's integer becomes {counter}", say());
    assert_eq!(apply(true, counter).to_bits(), counter.to_bits(), "{}: counter {counter}", say());
    assert_eq!(apply(true, -x), -counter, "{}: counter not odd", say());
    assert!(within_counter(x, q, counter), "{}: a counter is farther: {counter}", say());
}

/// A counter's value is between the sample and what any other sample would become.
fn within_counter(x: f64, q: f64, counter: f64) -> bool {
    if q <= x { q <= counter && counter <= x } else { x <= counter && counter <= q }
}

fn check_column(precision: Precision, mut column: Vec<f64>) {
    let quantizer = Quantizer::new(Policy::new(precision)).unwrap();
    column.iter().for_each(|&x| check(precision, &quantizer, x));
    column.retain(|x| !x.is_nan());
    column.sort_unstable_by(f64::total_cmp);
    for counter in [false, true] {
        let apply = |x: f64| f64::from_bits(quantizer.apply(ValueKind::Float, counter, x.to_bits()));
        for pair in column.windows(2) {
            let (a, b) = (apply(pair[0]), apply(pair[1]));
            assert!(a <= b, "{precision}: {:e} -> {a:e}, {:e} -> {b:e}, counter {counter}", pair[0], pair[1]);
        }
    }
}

fn precisions() -> impl Strategy<Value = Precision> {
    let short = |n: i32| (prop::sample::select(vec![1u64, 2, 5, 25, 3, 7, 49]), -n..n);
    prop_oneof![
        1 => Just(Precision::Lossless),
        4 => (1u8..=52).prop_map(Precision::Bits),
        6 => (1u8..=17).prop_map(Precision::Digits),
        6 => (-15i8..=15).prop_map(Precision::Decimals),
        5 => (prop::sample::select(vec![1u64, 2, 5, 25, 49]), -16i32..-2)
            .prop_map(|(lead, power)| Precision::Relative(decimal(lead, power))),
        1 => (1e-4..0.5).prop_map(Precision::Relative),
        5 => short(24).prop_map(|(lead, power)| Precision::Absolute(decimal(lead, power))),
        1 => any::<f64>().prop_filter_map("above 0", |e| {
            (e.is_finite() && e != 0.0).then_some(Precision::Absolute(e.abs()))
        }),
    ]
}

/// A double some units in the last place away.
fn nudge(x: f64, by: i64) -> f64 {
    f64::from_bits(x.to_bits().wrapping_add_signed(by))
}

/// Doubles of every kind, of which some lie at or near the ties of `precision`.
fn values(precision: Precision) -> impl Strategy<Value = f64> {
    let tie = move |m: u64, by: i64, like: f64| {
        let step = promised_step(precision, like).unwrap_or((1, -2));
        nudge((2 * m + 1) as f64 * decimal(step.0, step.1) / 2.0, by)
    };
    let decimals = (any::<i64>(), 0u32..62, -17i32..12)
        .prop_map(|(m, cut, power)| (m >> cut) as f64 * decimal(1, power.max(0)) / decimal(1, -power.min(0)));
    prop_oneof![
        4 => any::<u64>().prop_map(f64::from_bits),
        3 => (any::<u64>(), -80i32..130).prop_map(|(bits, e)| {
            f64::from_bits(bits & !(0x7ff << 52) | ((1023 + e) as u64) << 52)
        }),
        4 => decimals.clone(),
        2 => (decimals, -4i64..=4).prop_map(|(x, by)| nudge(x, by)),
        2 => (any::<i64>(), 0u32..63).prop_map(|(m, cut)| (m >> cut) as f64),
        2 => (-30i32..40, -6i64..=6).prop_map(|(power, by)| nudge(decimal(1, power), by)),
        3 => (any::<u64>(), 14u32..63, -4i64..=4, 1e-9..1e9)
            .prop_map(move |(m, cut, by, like)| tie(m >> cut, by, like)),
        3 => (0u64..2000, -2i64..=2, 1.0..9.0, any::<bool>()).prop_map(move |(m, by, like, minus)| {
            let x = tie(m, by, like);
            if minus { -x } else { x }
        }),
        1 => prop::sample::select(vec![
            0.0, -0.0, f64::MAX, f64::MIN, f64::MIN_POSITIVE, 5e-324, f64::INFINITY, f64::NEG_INFINITY,
            f64::from_bits(STALE_NAN_BITS), f64::from_bits(0xfff8_0000_dead_beef), f64::from_bits(0x7ff0_0000_0000_0001),
        ]),
    ]
}

fn columns() -> impl Strategy<Value = (Precision, Vec<f64>)> {
    precisions().prop_flat_map(|p| (Just(p), prop::collection::vec(values(p), COLUMN)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn every_policy_keeps_its_promise((precision, column) in columns()) {
        check_column(precision, column);
    }
}

/// The step of an integer, from the definition; 1 where integers stay.
fn whole_step(precision: Precision, x: i64) -> u128 {
    let size = x.unsigned_abs() as u128;
    let power = |lead: u64, power: i32| if power < 0 { 1 } else { lead as u128 * 10u128.pow(power as u32) };
    let decade = size.max(1).to_string().len() as i32 - 1;
    match precision {
        Precision::Lossless | Precision::Bits(52) | Precision::Digits(16..) => 1,
        Precision::Bits(n) => (0..64).map(|b| 1 << b).find(|step| size / step < 2 << n).unwrap(),
        Precision::Digits(n) => power(1, decade - n as i32 + 1),
        Precision::Decimals(n) => power(1, -n as i32),
        Precision::Absolute(e) => coarsest(2.0 * e).map_or(1, |(lead, p)| power(lead, p)),
        Precision::Relative(e) => match coarsest(2.0 * e) {
            Some((lead, below)) if below >= -14 => power(lead, decade + below),
            _ => 1,
        },
    }
}

fn check_integer(precision: Precision, quantizer: &Quantizer, x: i64) {
    let apply = |x: i64| quantizer.apply(ValueKind::Int, false, x as u64) as i64;
    let (q, step) = (apply(x), whole_step(precision, x));
    let error = Exact { n: (q as i128).abs_diff(x as i128), e: 0 };
    let size = Exact { n: x.unsigned_abs() as u128, e: 0 };
    let bound = match precision {
        Precision::Lossless => Exact { n: 0, e: 0 },
        Precision::Bits(n) => Exact { n: size.n, e: -(n as i32) - 1 },
        Precision::Digits(_) | Precision::Decimals(_) => Exact { n: if step == 1 { 0 } else { step }, e: -1 },
        Precision::Relative(e) => size.times(Exact::of(e)),
        Precision::Absolute(e) => Exact::of(e),
    };
    assert!(error.cmp(bound) != Ordering::Greater, "{precision} of {x} is {q}: out of bounds");
    let nearest = (size.n + step / 2) / step * step;
    let on_grid = (q.unsigned_abs() as u128).is_multiple_of(step);
    assert!(
        on_grid || (q == x && nearest > i64::MAX as u128),
        "{precision} of {x} is {q}: no multiple of {step}"
    );
    assert_eq!(apply(q), q, "{precision} of {x} is {q}: no fixed point");
    assert_eq!(quantizer.apply(ValueKind::Int, true, x as u64), x as u64, "a counter");
    if x != i64::MIN {
        assert_eq!(apply(-x), -q, "{precision} of {x} is {q}: not odd");
    }
}

fn integers() -> impl Strategy<Value = i64> {
    prop_oneof![
        3 => (any::<i64>(), 0u32..63).prop_map(|(x, cut)| x >> cut),
        // Near ties and powers of ten.
        2 => (1u64..2000, 0u32..16, -2i64..=2).prop_map(|(m, power, by)| (m * 10u64.pow(power) / 2) as i64 + by),
        1 => (0u32..63, -2i64..=2).prop_map(|(power, by)| (1i64 << power) + by),
        1 => (0i64..5).prop_map(|by| i64::MAX - by),
        1 => (0i64..5).prop_map(|by| i64::MIN + by),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, max_shrink_iters: 0, ..ProptestConfig::default() })]

    #[test]
    fn integers_keep_the_same_promises(
        (precision, mut column) in (precisions(), prop::collection::vec(integers(), COLUMN / 8))
    ) {
        let quantizer = Quantizer::new(Policy::new(precision)).unwrap();
        column.iter().for_each(|&x| check_integer(precision, &quantizer, x));
        column.sort_unstable();
        let became: Vec<i64> =
            column.iter().map(|&x| quantizer.apply(ValueKind::Int, false, x as u64) as i64).collect();
        prop_assert!(became.is_sorted());
    }

    #[test]
    fn what_a_precision_shows_reads_back(precision in precisions()) {
        prop_assert_eq!(Precision::parse(&precision.to_string()).unwrap(), precision);
    }
}

#[test]
fn values_become_the_short_decimals_that_one_expects() {
    let apply = |text, x: f64| {
        let quantizer = Quantizer::new(Policy::new(Precision::parse(text).unwrap())).unwrap();
        f64::from_bits(quantizer.apply(ValueKind::Float, false, x.to_bits()))
    };
    assert_eq!(apply("digits(4)", 51.846000000000004), 51.85);
    assert_eq!(apply("digits(4)", 99999.0), 100_000.0);
    assert_eq!(apply("digits(15)", 0.1 + 0.2), 0.3);
    assert_eq!(apply("digits(17)", 0.1 + 0.2), 0.1 + 0.2);
    assert_eq!(apply("decimals(2)", 2.0 / 3.0), 0.67);
    assert_eq!(apply("decimals(-3)", 12_501.0), 13_000.0);
    assert_eq!(apply("decimals(0)", 2.5), 2.0);
    assert_eq!(apply("decimals(1)", 0.15), 0.1);
    // The double 0.8 is a hair more than 0.05 away, the decimal is not.
    assert_eq!(["decimals(1)", "digits(1)", "absolute(0.05)"].map(|p| apply(p, 0.75)), [0.8, 0.8, 0.75]);
    assert_eq!(apply("relative(0.001)", 1.2345), 1.234);
    assert_eq!(apply("relative(0.001)", 9876.5), 9876.0);
    assert_eq!(apply("absolute(0.5)", 17.4), 17.0);
    assert_eq!(apply("absolute(1)", 17.4), 18.0);
    assert_eq!(apply("bits(1)", 5.5), 6.0);
    assert_eq!([5.0, 7.0].map(|tie| apply("bits(1)", tie)), [4.0, 8.0]);
    assert_eq!(apply("bits(52)", 0.1), 0.1);
}

#[test]
fn ties_of_every_step_are_decided_within_the_bound() {
    for decimals in -15..=15 {
        let precision = Precision::Decimals(decimals);
        let half = decimal(5, -decimals as i32 - 1);
        let ties = (0..200).flat_map(|m| [-1, 0, 1].map(|by| nudge((2 * m + 1) as f64 * half, by)));
        check_column(precision, ties.collect());
    }
}

#[test]
fn ties_of_integers_go_to_the_even_multiple() {
    let tens = Quantizer::new(Policy::new(Precision::Decimals(-1))).unwrap();
    let became = [25i64, 35, -25, -35].map(|x| tens.apply(ValueKind::Int, false, x as u64) as i64);
    assert_eq!(became, [20, 40, -20, -40]);
}

#[test]
fn a_counter_keeps_its_integers_unless_told_otherwise() {
    let precision = Precision::Digits(3);
    let exact = Quantizer::new(Policy::new(precision)).unwrap();
    let rounded = Quantizer::new(Policy { precision, counters_exact: false }).unwrap();
    let float = |q: Quantizer, x: f64| f64::from_bits(q.apply(ValueKind::Float, true, x.to_bits()));
    assert_eq!([12_345.0, 12_345.6, 1.2345].map(|x| float(exact, x)), [12_345.0, 12_345.0, 1.23]);
    assert_eq!([12_345.0, 12_345.6, 1.2345].map(|x| float(rounded, x)), [12_300.0, 12_300.0, 1.23]);
    assert_eq!([exact, rounded].map(|q| q.apply(ValueKind::Int, true, 12_345)), [12_345, 12_300]);
}

#[test]
fn texts_are_read_as_users_write_them_and_errors_say_what_to_do() {
    for (text, precision) in [
        ("lossless", Precision::Lossless),
        ("bits(12)", Precision::Bits(12)),
        (" digits( 4 ) ", Precision::Digits(4)),
        ("decimals(-15)", Precision::Decimals(-15)),
        ("relative(0.001)", Precision::Relative(0.001)),
        ("absolute(1e3)", Precision::Absolute(1000.0)),
    ] {
        assert_eq!(Precision::parse(text).unwrap(), precision);
    }
    for text in [
        "",
        "exact",
        "digits",
        "digits()",
        "digits(4",
        "4)",
        "digits(four)",
        "digits(1.5)",
        "lossless(1)",
        "bits(0)",
        "bits(53)",
        "digits(0)",
        "digits(18)",
        "digits(260)",
        "decimals(16)",
        "decimals(-16)",
        "decimals(300)",
        "relative(0)",
        "relative(0.5)",
        "relative(-0.1)",
        "relative(NaN)",
        "absolute(0)",
        "absolute(inf)",
        "Bits(3)",
    ] {
        let message = Precision::parse(text).unwrap_err().to_string();
        assert!(message.contains(&format!("precision {text:?}")), "{message}");
        assert!(message.contains("write lossless, bits(1…52)"), "{message}");
    }
    let out_of_limits = Policy::new(Precision::Digits(18));
    assert!(Quantizer::new(out_of_limits).unwrap_err().to_string().contains("digits(18)"));
}

#[test]
fn lossless_is_said_of_policies_that_change_nothing() {
    let lossless = |text| Quantizer::new(Policy::new(Precision::parse(text).unwrap())).unwrap().is_lossless();
    assert!(
        ["lossless", "bits(52)", "digits(16)", "relative(1e-15)", "absolute(1e-23)"]
            .into_iter()
            .all(lossless)
    );
    assert!(!["bits(51)", "digits(15)", "decimals(15)", "relative(1e-14)"].into_iter().any(lossless));
}
