//! Maps of one value. IEEE arithmetic; what Go's `math` says on special values is what Prometheus says.

use std::f64::consts::PI;

/// Wraps a function of one number as a kernel.
macro_rules! unary {
    ($($name:ident = $body:expr;)*) => { $(
        pub fn $name(value: f64, _: &[f64]) -> Option<f64> {
            let body: fn(f64) -> f64 = $body;
            Some(body(value))
        }
    )* };
}

unary! {
    abs = f64::abs;
    ceil = f64::ceil;
    floor = f64::floor;
    exp = f64::exp;
    ln = f64::ln;
    log2 = f64::log2;
    log10 = f64::log10;
    sqrt = f64::sqrt;
    sin = f64::sin;
    cos = f64::cos;
    tan = f64::tan;
    asin = f64::asin;
    acos = f64::acos;
    atan = f64::atan;
    sinh = f64::sinh;
    cosh = f64::cosh;
    tanh = f64::tanh;
    asinh = f64::asinh;
    acosh = f64::acosh;
    atanh = f64::atanh;
    deg = |v| v * 180.0 / PI;
    rad = |v| v * PI / 180.0;
    sgn = |v| if v < 0.0 { -1.0 } else if v > 0.0 { 1.0 } else { v };
}

/// To the nearest multiple of the argument (default 1), ties up. Multiplies with the inverse: that keeps
/// `round(x, 0.1)` free of the error of 0.1.
pub fn round(value: f64, args: &[f64]) -> Option<f64> {
    let inverse = 1.0 / args.first().copied().unwrap_or(1.0);
    Some((value * inverse + 0.5).floor() / inverse)
}

/// Go's `math.Max`: +Inf beats NaN, NaN beats the rest, and +0 is above -0.
fn max(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else if a == 0.0 && b == 0.0 {
        if a.is_sign_negative() { b } else { a }
    } else if a > b {
        a
    } else {
        b
    }
}

/// Go's `math.Min`.
fn min(a: f64, b: f64) -> f64 {
    -max(-a, -b)
}

/// Nothing where the bounds cross.
pub fn clamp(value: f64, args: &[f64]) -> Option<f64> {
    let &[lower, upper] = args else { return None };
    if lower > upper { None } else { Some(max(lower, min(upper, value))) }
}

pub fn clamp_min(value: f64, args: &[f64]) -> Option<f64> {
    args.first().map(|lower| max(*lower, value))
}

pub fn clamp_max(value: f64, args: &[f64]) -> Option<f64> {
    args.first().map(|upper| min(*upper, value))
}

pub fn max_of(value: f64, args: &[f64]) -> Option<f64> {
    args.first().map(|other| max(value, *other))
}

pub fn min_of(value: f64, args: &[f64]) -> Option<f64> {
    args.first().map(|other| min(value, *other))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const INF: f64 = f64::INFINITY;
    const NAN: f64 = f64::NAN;

    #[test]
    fn round_goes_to_the_nearest_multiple_with_ties_up() {
        assert_eq!(round(-2.5, &[]), Some(-2.0));
        assert_eq!(round(2.5, &[]), Some(3.0));
        assert_eq!(round(5.05, &[0.1]), Some(5.1));
        assert_eq!(round(5.2, &[5.0]), Some(5.0));
        assert_eq!(round(7.5, &[5.0]), Some(10.0));
        assert!(round(NAN, &[]).unwrap().is_nan());
    }

    #[test]
    fn clamp_bounds_and_refuses_crossed_bounds() {
        assert_eq!(clamp(5.0, &[0.0, 3.0]), Some(3.0));
        assert_eq!(clamp(-5.0, &[0.0, 3.0]), Some(0.0));
        assert_eq!(clamp(1.0, &[3.0, 0.0]), None);
        assert!(clamp(1.0, &[NAN, 3.0]).unwrap().is_nan());
        assert!(clamp(1.0, &[0.0, NAN]).unwrap().is_nan());
        assert!(clamp(NAN, &[0.0, 3.0]).unwrap().is_nan());
        assert_eq!(clamp_min(-INF, &[-2.0]), Some(-2.0));
        assert_eq!(clamp_max(INF, &[2.0]), Some(2.0));
    }

    #[test]
    fn extremes_of_two_follow_go() {
        assert_eq!(max_of(NAN, &[INF]), Some(INF));
        assert_eq!(min_of(NAN, &[-INF]), Some(-INF));
        assert!(max_of(NAN, &[1.0]).unwrap().is_nan());
        assert!(min_of(1.0, &[NAN]).unwrap().is_nan());
        assert!(max_of(-0.0, &[0.0]).unwrap().is_sign_positive());
        assert!(min_of(0.0, &[-0.0]).unwrap().is_sign_negative());
        assert_eq!((min_of(3.0, &[5.0]), max_of(3.0, &[5.0])), (Some(3.0), Some(5.0)));
    }

    #[test]
    fn signs_keep_zero_and_nan() {
        assert_eq!((sgn(-3.0, &[]), sgn(INF, &[])), (Some(-1.0), Some(1.0)));
        assert!(sgn(-0.0, &[]).unwrap().is_sign_negative());
        assert!(sgn(NAN, &[]).unwrap().is_nan());
    }
}
