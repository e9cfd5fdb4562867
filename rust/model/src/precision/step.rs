//! Decimal steps: 1, 2 or 5 times a power of ten, as factors that are exact in a double.

/// The powers of ten of the steps. Beyond them the factors, or half a step, would not be exact.
pub const POWER_MIN: i32 = -22;
pub const POWER_MAX: i32 = 21;
const POWERS: usize = (POWER_MAX - POWER_MIN + 1) as usize;

/// Multiples of a step beyond this are not told apart by the sums that round them.
pub const MULTIPLE_MAX: f64 = (1u64 << 51) as f64;

/// Adding and subtracting it rounds to the nearest integer, ties to even; exact up to `MULTIPLE_MAX`.
const ROUND: f64 = 6_755_399_441_055_744.0;

/// A step is `by / times`; one of the two is 1 and the other an integer, so a multiple `m * by / times`
/// is rounded once and is the double nearest to the decimal.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    times: f64,
    by: f64,
    /// The largest double that is not above half a step.
    pub half: f64,
}

/// By lead (the index of 1, 2 or 5) and power.
static STEPS: [[Step; POWERS]; 3] = [row(1.0), row(2.0), row(5.0)];

/// Powers of ten that are exact in a double.
const POW10: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// How many powers of ten a step may lie below its decade, for its multiples to stay below `MULTIPLE_MAX`.
pub const BELOW_MAX: i32 = 14;
const _: () = assert!(POW10[BELOW_MAX as usize + 1] < MULTIPLE_MAX);

/// Where decades begin: the doubles nearest to the powers of ten from `POWER_MIN` on.
const STARTS: usize = POWERS + BELOW_MAX as usize + 1;
static DECADES: [f64; STARTS] = decades();

const fn row(lead: f64) -> [Step; POWERS] {
    let mut row = [Step { times: 1.0, by: 1.0, half: 0.5 }; POWERS];
    let mut i = 0;
    while i < POWERS {
        let power = POWER_MIN + i as i32;
        row[i] = if power >= 0 {
            let by = lead * POW10[power as usize];
            Step { times: 1.0, by, half: by * 0.5 }
        } else {
            let times = POW10[-power as usize] / lead;
            Step { times, by: 1.0, half: half_of(times) }
        };
        i += 1;
    }
    row
}

/// The largest double that is not above `1 / (2 * times)`; `times` is an integer.
const fn half_of(times: f64) -> f64 {
    let half = 0.5 / times;
    let mantissa = half.to_bits() & ((1 << 52) - 1) | 1 << 52;
    let point = 1075 - (half.to_bits() >> 52) as u32;
    // half * times > 1 / 2, in integers.
    if mantissa as u128 * times as u128 > 1 << (point - 1) { half.next_down() } else { half }
}

const fn decades() -> [f64; STARTS] {
    let mut starts = [0.0; STARTS];
    let mut i = 0;
    while i < STARTS {
        let power = POWER_MIN + i as i32;
        // One operation on exact powers, so each is the nearest double.
        starts[i] = match power {
            ..0 => 1.0 / POW10[-power as usize],
            0..=22 => POW10[power as usize],
            _ => POW10[22] * POW10[power as usize - 22],
        };
        i += 1;
    }
    starts
}

/// The step `[1, 2, 5][lead] * 10^power`; the power is within `POWER_MIN` and `POWER_MAX`.
#[inline(always)]
pub fn step(lead: usize, power: i32) -> &'static Step {
    &STEPS[lead][(power - POWER_MIN) as usize]
}

/// The first double of a decade.
#[inline(always)]
pub fn decade_start(power: i32) -> f64 {
    DECADES[(power - POWER_MIN) as usize]
}

/// The decade of a positive double within the decades above.
#[inline(always)]
pub fn decade(x: f64) -> i32 {
    // 2^b lies in the decade floor(b * log10(2)); x < 2^(b + 1) in the same or the next.
    let b = (x.to_bits() >> 52) as i32 - 1023;
    let power = (b * 315_653) >> 20;
    power + (x >= decade_start(power + 1)) as i32
}

/// The coarsest step that is not above `size`, as its lead and power; `None` if all of them are.
pub fn coarsest(size: f64) -> Option<(usize, i32)> {
    let all = (POWER_MIN..=POWER_MAX).flat_map(|power| (0..STEPS.len()).map(move |lead| (lead, power)));
    all.take_while(|&(lead, power)| step(lead, power).multiple(1.0) <= size).last()
}

impl Step {
    /// The double nearest to `m` steps.
    #[inline(always)]
    pub fn multiple(&self, m: f64) -> f64 {
        m * self.by / self.times
    }

    /// The step as an integer; 0 if it is none.
    pub fn whole(&self) -> u128 {
        if self.times == 1.0 { self.by as u128 } else { 0 }
    }

    /// The neighbouring multiple that is at most `bound` away from `x`, the nearer one first; `x` itself if
    /// there is none. `slack` 1 adds half a unit in the multiple's last place to the bound, which is how far the
    /// double may lie from its decimal; 0 adds nothing. `|x|` is below `multiple(MULTIPLE_MAX)`. The comparison is
    /// exact: a multiple that is not 0 and `x` are within a factor of two, so their difference is a double, and
    /// less the half unit it still is.
    #[inline(always)]
    pub fn nearest(&self, x: f64, bound: f64, slack: f64) -> f64 {
        let m = (x * self.times / self.by + ROUND) - ROUND;
        let near = self.multiple(m);
        let error = near - x;
        if error.abs() <= bound {
            return near;
        }
        let other = self.multiple(if error > 0.0 { m - 1.0 } else { m + 1.0 });
        let within = |q: f64| (q - x).abs() - slack * half_ulp(q) <= bound;
        match () {
            _ if within(near) => near,
            _ if within(other) => other,
            _ => x,
        }
    }
}

/// Half a unit in the last place of a multiple; 0 of 0, which is exact.
#[inline(always)]
fn half_ulp(q: f64) -> f64 {
    f64::from_bits((q.to_bits() & 0x7ff << 52).saturating_sub(53 << 52))
}
