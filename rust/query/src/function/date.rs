//! Parts of a date, UTC, of a number of seconds since 1970; the fraction of a second is cut off.
//!
//! A value that is no number of seconds (NaN, an infinity) gives NaN.

const DAY: i64 = 86_400;

/// Years that a count of seconds may mean here; far beyond what any clock shows, far from overflow.
const SECONDS_MAX: f64 = 1e15;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Date {
    year: i64,
    /// 1 to 12.
    month: i64,
    /// 1 to 31.
    day: i64,
}

/// Whole seconds, rounded towards zero as Go converts.
fn seconds(value: f64) -> Option<i64> {
    (value.abs() <= SECONDS_MAX).then_some(value as i64)
}

/// The proleptic Gregorian date of a day number (H. Hinnant, "chrono-compatible low-level date algorithms":
/// years begin in March, so the leap day is the last one).
fn date(seconds: i64) -> Date {
    let days = seconds.div_euclid(DAY) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Date { year, month, day }
}

/// Year, month (1 to 12) and day (1 to 31) of a time in seconds, for printing.
pub fn civil(seconds: i64) -> (i64, i64, i64) {
    let Date { year, month, day } = date(seconds);
    (year, month, day)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn month_length(d: Date) -> i64 {
    match d.month {
        2 if is_leap(d.year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn part(value: f64, of: fn(i64) -> i64) -> Option<f64> {
    Some(seconds(value).map_or(f64::NAN, |s| of(s) as f64))
}

pub fn minute(value: f64, _: &[f64]) -> Option<f64> {
    part(value, |s| s.rem_euclid(3600) / 60)
}

pub fn hour(value: f64, _: &[f64]) -> Option<f64> {
    part(value, |s| s.rem_euclid(DAY) / 3600)
}

/// 0 is Sunday; 1970 began on a Thursday.
pub fn day_of_week(value: f64, _: &[f64]) -> Option<f64> {
    part(value, |s| (s.div_euclid(DAY) + 4).rem_euclid(7))
}

pub fn day_of_month(value: f64, _: &[f64]) -> Option<f64> {
    part(value, |s| date(s).day)
}

/// 1 to 366.
pub fn day_of_year(value: f64, _: &[f64]) -> Option<f64> {
    part(value, |s| {
        let d = date(s);
        let before = (1..d.month).map(|month| month_length(Date { month, ..d })).sum::<i64>();
        before + d.day
    })
}

pub fn days_in_month(value: f64, _: &[f64]) -> Option<f64> {
    part(value, |s| month_length(date(s)))
}

pub fn month(value: f64, _: &[f64]) -> Option<f64> {
    part(value, |s| date(s).month)
}

pub fn year(value: f64, _: &[f64]) -> Option<f64> {
    part(value, |s| date(s).year)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Walks the calendar day by day: slow and obvious.
    #[test]
    fn eight_centuries_agree_with_a_walk() {
        let mut d = Date { year: 1600, month: 1, day: 1 };
        let mut day_of_the_year = 1;
        let mut weekday = 6;
        for n in -135_140..157_064i64 {
            let at = (n * DAY + 86_399) as f64;
            assert_eq!(date(n * DAY), d);
            assert_eq!(day_of_year(at, &[]), Some(f64::from(day_of_the_year)));
            assert_eq!(day_of_week(at, &[]), Some(f64::from(weekday)));
            weekday = (weekday + 1) % 7;
            day_of_the_year += 1;
            d.day += 1;
            let length = days_in_month(at, &[]).unwrap() as i64;
            if d.day > length {
                d = Date { day: 1, month: d.month + 1, ..d };
            }
            if d.month > 12 {
                d = Date { year: d.year + 1, month: 1, day: 1 };
                day_of_the_year = 1;
            }
        }
        assert_eq!(d.year, 2400);
    }

    #[test]
    fn parts_of_known_times() {
        // 2006-01-02T22:04:05Z
        let t = 1_136_239_445.9;
        assert_eq!(year(t, &[]), Some(2006.0));
        assert_eq!(month(t, &[]), Some(1.0));
        assert_eq!(day_of_month(t, &[]), Some(2.0));
        assert_eq!(day_of_week(t, &[]), Some(1.0));
        assert_eq!(hour(t, &[]), Some(22.0));
        assert_eq!(minute(t, &[]), Some(4.0));
        assert_eq!(days_in_month(1_456_790_399.0, &[]), Some(29.0));
        assert_eq!(hour(-1.0, &[]), Some(23.0));
        assert_eq!(year(-0.5, &[]), Some(1970.0));
    }

    #[test]
    fn what_is_no_time_gives_nan() {
        for v in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            assert!(year(v, &[]).unwrap().is_nan());
            assert!(minute(v, &[]).unwrap().is_nan());
        }
    }
}
